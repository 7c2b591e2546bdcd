//! A study with a user-defined init: every filter of the substitute averages its inputs.
//!
//!     cargo run --release -p nettriage --example custom_init

use nettriage::init::{self, Init, InitMethod, InitProblem, InitialValues};
use nettriage::records::plan::Role;
use nettriage::{Network, Shape, Triage, arch, data, seeded};

/// W = 1 / fan-in, b = 0.
struct BoxFilter;

impl InitMethod for BoxFilter {
    fn name(&self) -> &str {
        "box"
    }

    fn describe(&self) -> &str {
        "W = 1 / (i k²), b = 0"
    }

    fn is_random(&self) -> bool {
        false
    }

    fn is_calibrated(&self) -> bool {
        true
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn rand::Rng) -> Result<InitialValues, nettriage::NetError> {
        let value = (1.0 / problem.layer.fan_in()) as f32;
        let weight = problem.layer.weight(|_filter, _channel, _row, _column| value);
        Ok(InitialValues::Affine { weight, bias: vec![0.0; problem.layer.filters] })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = init::register(BoxFilter)?;
    let data = data::open("digits", None)?;
    let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
    let network = Network::initialised(arch::build(&spec, Shape::new(1, 8, 8), 10)?, &mut seeded(0))?;
    let folder = tempfile::tempdir()?;
    let report = Triage::new(network, data)
        .inits([own, Init::He])
        .schemes(["global"])
        .seeds(1)
        .images(640)
        .batch(32)
        .run(folder.path().join("run"))?;
    for record in report.run.records()?.iter().filter(|record| record.spec.role == Role::Child) {
        let accuracy = record.readings.as_ref().map_or(0.0, |readings| 100.0 * readings.test.top1);
        let spec = &record.spec;
        println!("{:?} {:?} {}: {accuracy:.1}%", spec.block, spec.init, spec.scheme);
    }
    Ok(())
}
