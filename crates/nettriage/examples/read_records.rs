//! Reads the records of a run: mean test accuracy per block, init and scheme.
//!
//!     cargo run --release -p nettriage --example read_records -- RUN
//!
//! Without an argument it makes a small run first.

use std::collections::BTreeMap;

use nettriage::records::plan::Role;
use nettriage::{Network, Run, Shape, Triage, arch, data, seeded};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = match std::env::args().nth(1) {
        Some(path) => path.into(),
        None => {
            let data = data::open("digits", None)?;
            let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
            let network = Network::initialised(arch::build(&spec, Shape::new(1, 8, 8), 10)?, &mut seeded(0))?;
            let path = folder.path().join("run");
            Triage::new(network, data).schemes(["global"]).seeds(2).images(320).run(&path)?;
            path
        }
    };
    let run = Run::open(&path)?;
    let mut cells: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for record in run.records()?.into_iter().filter(|record| record.spec.role == Role::Child) {
        let Some(readings) = record.readings else { continue };
        cells.entry((record.spec.block, record.spec.init, record.spec.scheme)).or_default().push(readings.test.top1);
    }
    for ((block, init, scheme), accuracies) in cells {
        let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        let (block, init) = (block.unwrap_or_default(), init.unwrap_or_default());
        println!("{block:10} {init:14} {scheme:16} {:6.2}% (n = {})", 100.0 * mean, accuracies.len());
    }
    Ok(())
}
