//! Times training steps on a device: `bench/torch_engine.py` compares them with plain PyTorch. Prints a JSON line a workload.
//!
//!     cargo run --release -p nettriage-train --example device_step -- --device torch:cpu --threads 2 --steps 9 --only vgg16,resnet18
//!
//! `cpu_seconds` are seconds of all processors a step, over all timed steps; `losses` those of the first steps. Networks, weights and
//! images of the VGGs are those of PyTorch's `torch_step.py`.

#[path = "../../engine/tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::peers::{images, labels, vgg};
use nettriage_engine::{Optimizer, Options};
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Network, Shape};
use nettriage_train::{Arithmetic, Batch, Device, DeviceName, Target, seed};

const VGG16: &[usize] = &[64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0];
const QUARTER: &[usize] = &[16, 16, 0, 32, 32, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128, 0];

/// The network of a workload, and images in a step.
fn workload(name: &str) -> Result<(Network, usize), String> {
    Ok(match name {
        "vgg16" => (vgg(VGG16, 3, 32, false), 64),
        "vgg16_bn" => (vgg(VGG16, 3, 32, true), 64),
        "vgg16_quarter" => (vgg(QUARTER, 3, 32, true), 128),
        "resnet18" => {
            let graph =
                arch::build(&ArchSpec::named("resnet18"), Shape::new(3, 32, 32), 10).expect("a known architecture");
            (Network::initialised(graph, &mut seed::rng("benchmark", &[])).expect("a sound graph"), 64)
        }
        _ => return Err(format!("no workload {name:?}: there are vgg16, vgg16_bn, vgg16_quarter, resnet18")),
    })
}

/// Seconds that all threads of this process have computed, in hundredths; `None` on other systems than Linux.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

/// Steps before the clock starts.
const WARM_UP: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut device, mut precision) = (DeviceName::default(), Arithmetic::F32);
    let (mut threads, mut steps, mut only) = (1, 9, "vgg16,vgg16_bn,vgg16_quarter,resnet18".to_owned());
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let value = given.next().ok_or(format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--device" => device = value.parse()?,
            "--precision" => precision = value.parse()?,
            "--threads" => threads = value.parse()?,
            "--steps" => steps = value.parse::<usize>()?.max(1),
            "--only" => only = value,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    let device = Device::open(device, precision, None)?;
    for name in only.split(',') {
        let (network, batch) = workload(name)?;
        let rule = Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
        let mut model = device.model(&network, &Options { threads, ..Options::training(batch, rule) })?;
        let (images, labels) = (images(batch, network.graph.input), labels(batch));
        let (mut losses, mut seconds, mut before) = (Vec::new(), Vec::new(), None);
        for number in 0..WARM_UP + steps {
            if number == WARM_UP {
                before = processor_seconds();
            }
            let start = Instant::now();
            let target = Target::Labels { labels: &labels, smoothing: 0.0, mixed: None };
            losses.push(model.differentiate(Batch::Host(&images), 0, target, &[], None)?);
            model.step(0.01, None)?;
            if number >= WARM_UP {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let cpu = processor_seconds().zip(before).map_or(f64::NAN, |(after, before)| (after - before) / steps as f64);
        seconds.sort_by(f64::total_cmp);
        let losses: Vec<String> = losses.iter().map(|loss| format!("{loss:.5}")).collect();
        println!(
            "{{\"workload\": \"{name}\", \"device\": \"{device:?}\", \"threads\": {threads}, \"seconds\": {:.5}, \"cpu_seconds\": \
             {cpu:.5}, \"losses\": [{}]}}",
            seconds[seconds.len() / 2],
            losses.join(", ")
        );
    }
    Ok(())
}
