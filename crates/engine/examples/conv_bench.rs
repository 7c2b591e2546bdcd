//! GFLOP/s of every algorithm on every shape that matters, and the table of choices that follows from it.
//!
//!     cargo run --release -p nettriage-engine --example conv_bench -- [--threads 2] [--rounds 5] [--set avx2]
//!         [--only f4,direct] [--shapes 32x64x64] [--table FILE]
//!
//! Counted as the direct sum over the whole window, so algorithms with fewer products show more. The best of the rounds, in
//! which the algorithms alternate. `--table` writes the choices in the form of `src/conv/choice/*.tsv`.

#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../src/conv/mod.rs"]
mod conv;
#[path = "../src/pool.rs"]
mod pool;
#[path = "../src/simd/mod.rs"]
mod simd;

use conv::{Algorithm, ConvOp, Direction, Epilogue, Geometry, Needs, Scratch};
use nettriage_net::{Conv, Padding};
use pool::Pool;

/// (picture side, input channels, filters, batch) of 3x3 convolutions, stride 1.
const SHAPES: &[(usize, usize, usize, usize)] = &[
    // VGG16 at 32x32.
    (32, 3, 64, 64),
    (32, 64, 64, 64),
    (16, 64, 128, 64),
    (16, 128, 128, 64),
    (8, 128, 256, 64),
    (8, 256, 256, 64),
    (4, 256, 512, 64),
    (4, 512, 512, 64),
    (2, 512, 512, 64),
    // A quarter of its width.
    (32, 3, 16, 128),
    (32, 16, 16, 128),
    (16, 16, 32, 128),
    (16, 32, 32, 128),
    (8, 32, 64, 128),
    (8, 64, 64, 128),
    (4, 64, 128, 128),
    (4, 128, 128, 128),
    (2, 128, 128, 128),
    // Four convolutions at 28x28.
    (28, 1, 32, 128),
    (28, 32, 32, 128),
    (14, 32, 64, 128),
    (14, 64, 64, 128),
];

struct Arguments {
    threads: usize,
    rounds: usize,
    set: Option<String>,
    only: Option<String>,
    shapes: Option<String>,
}

fn arguments() -> Arguments {
    let mut found = Arguments { threads: 1, rounds: 5, set: None, only: None, shapes: None };
    let mut rest = std::env::args().skip(1);
    while let Some(flag) = rest.next() {
        let value = rest.next().unwrap_or_default();
        match flag.as_str() {
            "--threads" => found.threads = value.parse().expect("a number"),
            "--rounds" => found.rounds = value.parse().expect("a number"),
            "--set" => found.set = Some(value),
            "--only" => found.only = Some(value),
            "--shapes" => found.shapes = Some(value),
            other => panic!("unknown flag {other}"),
        }
    }
    found
}

/// Seconds of processor time that this process has used: blind to other work that takes the processor away.
#[cfg(target_os = "linux")]
fn clock() -> f64 {
    #[repr(C)]
    struct Time {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Time) -> i32;
    }
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    // SAFETY: the C library's own signature on 64-bit Linux; clock 2 is the process's.
    unsafe { clock_gettime(2, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(target_os = "linux"))]
fn clock() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// Seconds of one call: the best of the rounds, which other work on the machine disturbs least.
fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn main() {
    let arguments = arguments();
    let kernels = match &arguments.set {
        Some(name) => simd::all().iter().find(|k| k.name == name).expect("an instruction set of this processor"),
        None => simd::kernels(),
    };
    println!("# {} threads, {}", arguments.threads, kernels.name);
    let pool = Pool::new(arguments.threads);
    let mut scratch = Scratch::default();
    for (side, channels, filters, batch) in SHAPES.iter().copied() {
        if arguments.shapes.as_ref().is_some_and(|s| !s.split(',').any(|s| s == format!("{side}x{channels}x{filters}"))) {
            continue;
        }
        let g = Geometry::of([channels, side, side], Conv::same(filters, 3));
        let flops = 2.0 * (batch * side * side * channels * filters * 9) as f64;
        let x: Vec<f32> = (0..batch * g.input_len()).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let w: Vec<f32> = (0..g.weight_len()).map(|i| (i * 6007 % 1000) as f32 / 5000.0 - 0.1).collect();
        let bias = vec![0.1; filters];
        let mut y = vec![0.0; batch * g.output_len()];
        let mut gx = vec![0.0; x.len()];
        let mut gw = vec![0.0; w.len()];
        let mut ops: Vec<_> = Algorithm::ALL
            .into_iter()
            .filter(|a| a.covers(&g) && arguments.only.as_ref().is_none_or(|o| o.split(',').any(|o| o == a.name())))
            .filter(|a| *a == Algorithm::Direct || channels >= 8)
            .map(|a| {
                let needs = Needs { grad_input: true, grad_weight: true };
                (a, ConvOp::with(kernels, |_| a, &g, batch, arguments.threads, needs), [vec![], vec![], vec![]])
            })
            .collect();
        for round in 0..=arguments.rounds {
            for (_, op, seconds) in &mut ops {
                let epilogue = Epilogue { bias: Some(&bias), relu: true, ..Epilogue::default() };
                op.weights_changed();
                let start = clock();
                op.forward(batch, &w, &x, epilogue, &mut y, &pool, &mut scratch);
                let forward = clock() - start;
                let start = clock();
                op.grad_input(batch, &w, &y, &mut gx, &pool, &mut scratch);
                let grad_input = clock() - start;
                let start = clock();
                op.grad_weight(batch, &x, &y, &mut gw, &pool, &mut scratch);
                let grad_weight = clock() - start;
                if round > 0 {
                    seconds[0].push(forward);
                    seconds[1].push(grad_input);
                    seconds[2].push(grad_weight);
                }
            }
        }
        print!("{:18}", format!("{side}x{channels}x{filters} n{batch}"));
        for (a, op, seconds) in ops {
            let [f, i, w] = seconds.map(|s| flops / best(&s) / 1e9);
            print!("  {:6} {f:5.0} {i:5.0} {w:5.0}", a.name());
            let _ = op.scratch_bytes();
        }
        println!();
    }
}
