//! Times the batches of a network in a file, for `bench/networks.py`, which runs it and other programs alternately.
//!
//!     time_network NETWORK infer|train BATCH THREADS
//!
//! Random images, and labels for training. Prints a JSON object once the model is built and the first batch is done: `build`, `first`
//! (seconds), `memory_mib` (what the model holds) and `base_mib` (the process before). For every line with a number that is read from
//! standard input, runs this number of batches and prints their `seconds`. At the end of the input prints `peak_mib`, the largest
//! memory of the process.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use nettriage_engine::{Model, Optimizer, Options, loss};
use nettriage_formats::load::{LoadOptions, load};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(problem) = run(&arguments) {
        eprintln!("{problem}");
        std::process::exit(2);
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let [file, kind, batch, threads] = arguments else { return Err("NETWORK infer|train BATCH THREADS".into()) };
    let (batch, threads) = (batch.parse::<usize>()?, threads.parse::<usize>()?);
    let train = match kind.as_str() {
        "infer" => false,
        "train" => true,
        _ => return Err(format!("{kind:?} is not infer or train").into()),
    };
    let network = load(Path::new(file), &LoadOptions::default())?.network;
    let image = network.graph.input.elements();
    let classes = network.graph.output_shape()?.elements();
    // A uniform distribution with a standard deviation of 1, from a linear congruential generator.
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 3f32.sqrt()
    };
    let images: Vec<f32> = (0..batch * image).map(|_| uniform()).collect();
    let labels: Vec<u16> = (0..batch).map(|i| (i * 7 % classes) as u16).collect();
    let mut gradient = vec![0.0; if train { batch * classes } else { 0 }];

    let base = memory("VmRSS");
    let start = Instant::now();
    let base_options = if train {
        Options::training(batch, Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 })
    } else {
        Options::inference(batch)
    };
    let mut model = Model::new(&network, &Options { threads, ..base_options })?;
    drop(network);
    let build = start.elapsed().as_secs_f64();
    let mut seed = 0;
    let mut step = || {
        let start = Instant::now();
        if train {
            seed += 1;
            loss::cross_entropy(model.forward_train(&images, seed), &labels, classes, &mut gradient);
            model.backward(&images, &gradient);
            model.step(0.001, None);
        } else {
            std::hint::black_box(model.forward(&images).iter().sum::<f32>());
        }
        start.elapsed().as_secs_f64()
    };
    let first = step();
    print(&json!({"build": build, "first": first, "base_mib": base}))?;
    for line in std::io::stdin().lock().lines() {
        let seconds: Vec<f64> = (0..line?.trim().parse::<usize>()?).map(|_| step()).collect();
        print(&json!({ "seconds": seconds }))?;
    }
    print(&json!({"peak_mib": memory("VmHWM"), "memory_mib": model.memory_bytes() as f64 / f64::from(1 << 20)}))
}

fn print(line: &serde_json::Value) -> Result<(), Failure> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

/// A value of `/proc/self/status` in MiB; `None` on other systems.
fn memory(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}
