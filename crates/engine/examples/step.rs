//! Times one training step and one forward pass. Prints JSON lines with the keys of PyTorch's `torch_step.py`.
//!
//!     cargo run --release -p nettriage-engine --example step -- --threads 2 --steps 9 --only vgg16,small
//!
//! Networks, weights and images are those of that script, so losses can be compared digit by digit. `--exact` excludes
//! convolution algorithms with a larger rounding error than a direct sum. Additional keys: `memory_mib` (everything that the model
//! holds, in MiB) and `faults` (page faults during the timed steps).

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::peers::{images, labels, vgg};
use nettriage_engine::{Model, Optimizer, Options, loss};
use serde_json::json;

struct Workload {
    name: &'static str,
    plan: &'static [usize],
    channels: usize,
    size: usize,
    batch: usize,
    batch_norm: bool,
}

const VGG16: &[usize] = &[64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0];
const QUARTER: &[usize] = &[16, 16, 0, 32, 32, 0, 64, 64, 64, 0, 128, 128, 128, 0, 128, 128, 128, 0];
const WORKLOADS: [Workload; 4] = [
    Workload { name: "vgg16", plan: VGG16, channels: 3, size: 32, batch: 64, batch_norm: false },
    Workload { name: "vgg16_bn", plan: VGG16, channels: 3, size: 32, batch: 64, batch_norm: true },
    Workload { name: "vgg16_quarter", plan: QUARTER, channels: 3, size: 32, batch: 128, batch_norm: true },
    Workload { name: "small", plan: &[32, 32, 0, 64, 64, 0], channels: 1, size: 28, batch: 128, batch_norm: false },
];

impl Workload {
    /// Multiply-accumulate operations of one image, as the script counts them.
    fn macs(&self) -> usize {
        let (mut size, mut channels, mut macs) = (self.size, self.channels, 0);
        for &width in self.plan {
            if width == 0 {
                size /= 2;
            } else {
                macs += size * size * 9 * channels * width;
                channels = width;
            }
        }
        macs + 10 * channels * size * size
    }
}

struct Arguments {
    threads: usize,
    steps: usize,
    exact: bool,
    only: Vec<&'static Workload>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { threads: 2, steps: 9, exact: false, only: WORKLOADS.iter().collect() };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is not a number"));
        match flag.as_str() {
            "--threads" => parsed.threads = number(value()?)?,
            "--steps" => parsed.steps = number(value()?)?,
            "--exact" => parsed.exact = true,
            "--only" => {
                let find = |name: &str| {
                    let known = WORKLOADS.map(|w| w.name).join(", ");
                    WORKLOADS.iter().find(|w| w.name == name).ok_or(format!("no workload {name:?}: there are {known}"))
                };
                parsed.only = value()?.split(',').map(find).collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("unknown flag {flag}: there are --threads, --steps, --exact, --only")),
        }
    }
    if parsed.steps == 0 {
        return Err("--steps must be at least 1".into());
    }
    Ok(parsed)
}

/// Page faults of this process so far, minor and major, from `/proc/self/stat`; `None` on other systems.
fn faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(7)?.parse::<u64>().ok()? + fields.get(9)?.parse::<u64>().ok()?)
}

/// The measurements of one workload.
struct Measurements {
    seconds: Vec<f64>,
    losses: Vec<f64>,
    memory: usize,
    faults: Option<u64>,
}

/// The seconds of each of `steps` calls after `warm_up` calls, and the page faults during them.
fn measure(warm_up: usize, steps: usize, mut call: impl FnMut()) -> (Vec<f64>, Option<u64>) {
    (0..warm_up).for_each(|_| call());
    let before = faults();
    let seconds = (0..steps)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    (seconds, faults().zip(before).map(|(after, before)| after - before))
}

fn run(workload: &Workload, arguments: &Arguments, train: bool) -> Result<Measurements, nettriage_engine::Error> {
    let network = vgg(workload.plan, workload.channels, workload.size, workload.batch_norm);
    let (images, labels) = (images(workload.batch, network.graph.input), labels(workload.batch));
    let base = if train {
        Options::training(workload.batch, Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 })
    } else {
        Options::inference(workload.batch)
    };
    let mut model = Model::new(&network, &Options { threads: arguments.threads, exact: arguments.exact, ..base })?;
    let mut gradient = vec![0.0; workload.batch * 10];
    let mut losses = Vec::with_capacity(3 + arguments.steps);
    let (seconds, faults) = if train {
        measure(3, arguments.steps, || {
            losses.push(loss::cross_entropy(model.forward_train(&images, 0), &labels, 10, &mut gradient));
            model.backward(&images, &gradient);
            model.step(0.01, None);
        })
    } else {
        measure(2, arguments.steps, || {
            std::hint::black_box(model.forward(&images).iter().sum::<f32>());
        })
    };
    Ok(Measurements { seconds, losses, memory: model.memory_bytes(), faults })
}

fn main() {
    let arguments = arguments().unwrap_or_else(|message| {
        eprintln!("{message}");
        std::process::exit(2);
    });
    let round = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
    for workload in &arguments.only {
        for (kind, train) in [("train", true), ("infer", false)] {
            let measured = run(workload, &arguments, train).unwrap_or_else(|error| {
                eprintln!("{error}");
                std::process::exit(2);
            });
            let mut sorted = measured.seconds;
            sorted.sort_by(f64::total_cmp);
            let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
            let operations = (if train { 6 } else { 2 } * workload.macs() * workload.batch) as f64;
            let line = json!({
                "peer": "nettriage", "workload": workload.name, "kind": kind, "layout": "channels_last",
                "device": "cpu", "precision": "f32", "exact": arguments.exact,
                "seconds": round(median, 5), "min": round(sorted[0], 5), "max": round(sorted[sorted.len() - 1], 5),
                "gflops": round(operations / median / 1e9, 1),
                "losses": measured.losses.iter().map(|&l| round(l, 5)).collect::<Vec<_>>(),
                "memory_mib": round(measured.memory as f64 / f64::from(1 << 20), 1), "faults": measured.faults,
            });
            println!("{line}");
        }
    }
}
