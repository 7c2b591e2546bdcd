//! Measures the speed of every convolution algorithm on typical shapes, and writes the tables for the choice of algorithms.
//!
//!     cargo run --release -p nettriage-kernels --example conv_bench -- [--threads 2] [--rounds 5] [--set avx2]
//!         [--only f4,direct] [--shapes 32x64x64] [--images 8] [--table | --errors]
//!
//! GFLOP/s are those of a direct convolution over the full window, so algorithms with fewer multiplications show higher
//! numbers. They are measured in CPU time (with several threads, the speed per thread), the best of the rounds, in which
//! algorithms alternate. `--table` prints a file of `src/conv/choice` instead (or its rows of some shapes), for one thread;
//! `--errors` prints rounding errors against f64.

use nettriage_kernels::conv::{Algorithm, Conv, ConvOp, Epilogue, Geometry, Needs, TABLED, reference};
use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::{self, Kernels};

/// (image side, input channels, filters, batch) of 3x3 convolutions, stride 1.
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

/// (image side, input channels, filters, kernel, stride, groups, batch) of other convolutions.
const OTHERS: &[(usize, usize, usize, usize, usize, usize, usize)] = &[
    (32, 16, 32, 3, 2, 1, 128),
    (16, 64, 128, 3, 2, 1, 64),
    (8, 256, 512, 3, 2, 1, 64),
    (32, 64, 256, 1, 1, 1, 16),
    (16, 256, 64, 1, 1, 1, 64),
    (4, 192, 192, 1, 1, 1, 64),
    (4, 192, 576, 1, 1, 1, 64),
    (4, 192, 768, 1, 1, 1, 64),
    (4, 768, 192, 1, 1, 1, 64),
    (8, 256, 512, 1, 2, 1, 64),
    (1, 512, 10, 1, 1, 1, 64),
    (1, 512, 512, 1, 1, 1, 64),
    (64, 3, 64, 7, 2, 1, 16),
    (32, 64, 64, 3, 1, 64, 64),
    (16, 256, 256, 3, 2, 256, 64),
    (28, 240, 240, 5, 1, 240, 16),
    (14, 320, 320, 7, 1, 320, 16),
    (16, 128, 128, 3, 1, 32, 32),
    (16, 128, 128, 3, 1, 16, 32),
    (16, 128, 128, 3, 1, 4, 32),
];

struct Arguments {
    threads: usize,
    rounds: usize,
    set: Option<String>,
    only: Option<String>,
    shapes: Option<String>,
    images: Option<usize>,
    table: bool,
    errors: bool,
}

impl Arguments {
    /// Whether the shape of that name is selected.
    fn selects(&self, name: &str) -> bool {
        self.shapes.as_ref().is_none_or(|shapes| shapes.split(',').any(|shape| shape == name))
    }
}

/// Prints `message` and the flags, and ends the program.
fn usage(message: &str) -> ! {
    eprintln!(
        "{message}\nflags: --threads N --rounds N --set avx512|avx2|portable --only ALGORITHM,... --shapes SHAPE,... --images N, \
         and --table or --errors"
    );
    std::process::exit(2)
}

fn arguments() -> Arguments {
    let mut found = Arguments {
        threads: 1,
        rounds: 5,
        set: None,
        only: None,
        shapes: None,
        images: None,
        table: false,
        errors: false,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().unwrap_or_else(|| usage(&format!("{flag} needs a value")));
        let number = |text: String| text.parse().unwrap_or_else(|_| usage(&format!("{text:?} is not a number")));
        match flag.as_str() {
            "--table" => found.table = true,
            "--errors" => found.errors = true,
            "--threads" => found.threads = number(value()),
            "--rounds" => found.rounds = number(value()),
            "--set" => found.set = Some(value()),
            "--only" => found.only = Some(value()),
            "--shapes" => found.shapes = Some(value()),
            "--images" => found.images = Some(number(value())),
            "--help" => usage("measures convolutions"),
            other => usage(&format!("unknown flag {other}")),
        }
    }
    found
}

/// Seconds of CPU time of this process, which other load on the machine does not affect.
#[cfg(target_os = "linux")]
fn clock() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(target_os = "linux"))]
fn clock() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
}

/// GFLOP/s of each given algorithm in each direction on one shape, counted as a direct convolution.
fn measure(
    kernels: &'static Kernels,
    g: &Geometry,
    batch: usize,
    algorithms: &[Algorithm],
    rounds: usize,
    pool: &Pool,
    scratch: &mut Scratch,
) -> Vec<[f64; 3]> {
    let flops = 2.0 * (batch * g.output[1] * g.output[2] * g.weight_len()) as f64;
    // Aligned to cache lines, as a model's tensors are.
    let mut x = Buffer::new(batch * g.input_len());
    x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 1000) as f32 / 500.0 - 1.0);
    let w: Vec<f32> = (0..g.weight_len()).map(|i| (i * 6007 % 1000) as f32 / 5000.0 - 0.1).collect();
    let bias = vec![0.1; g.output[0]];
    let mut y = Buffer::new(batch * g.output_len());
    let mut gx = Buffer::new(x.len());
    let mut gw = vec![0.0; w.len()];
    let needs = Needs { grad_input: true, grad_weight: true };
    let threads = pool.threads();
    let mut ops: Vec<_> =
        algorithms.iter().map(|a| ConvOp::with_algorithms(kernels, |_| *a, g, batch, threads, needs)).collect();
    let mut seconds = vec![[f64::INFINITY; 3]; ops.len()];
    for round in 0..=rounds {
        for (op, seconds) in ops.iter_mut().zip(&mut seconds) {
            let epilogue = Epilogue { bias: Some(&bias), relu: true, ..Epilogue::default() };
            op.weights_changed();
            let mut marks = [clock(); 4];
            op.forward(batch, &w, &x, epilogue, &mut y, pool, scratch);
            marks[1] = clock();
            op.grad_input(batch, &w, &y, &mut gx, None, pool, scratch);
            marks[2] = clock();
            op.grad_weight(batch, &x, &y, &mut gw, pool, scratch);
            marks[3] = clock();
            // The first round is a warm-up.
            for i in (0..3).filter(|_| round > 0) {
                seconds[i] = seconds[i].min(marks[i + 1] - marks[i]);
            }
        }
    }
    seconds.iter().map(|s| s.map(|s| flops / s / 1e9)).collect()
}

/// The table of `src/conv/choice`, measured here.
fn write_table(kernels: &'static Kernels, arguments: &Arguments) {
    let rounds = arguments.rounds;
    println!(
        "# GFLOP/s (counted as direct convolution) of one thread by direction (forward, input gradient, weight gradient)"
    );
    println!(
        "# and algorithm (direct, f2, f4, toeplitz2, f4-rows); 0 where it does not apply. Columns: side, input channels, filters, 3 x 5 speeds."
    );
    println!(
        "# Written by `conv_bench --table --set {} --rounds {rounds}`: CPU time, the best of the rounds.",
        kernels.name
    );
    let pool = Pool::new(1);
    let mut scratch = Scratch::default();
    for side in [2, 4, 8, 16, 32] {
        for channels in [1, 3, 8, 16, 32, 64, 128, 256, 512] {
            for filters in if channels < 8 { [16, 64] } else { [channels, 2 * channels] } {
                if side * channels.max(filters) > 4096 || filters > 512 || (channels < 8 && side < 16) {
                    continue;
                }
                if !arguments.selects(&format!("{side}x{channels}x{filters}")) {
                    continue;
                }
                let g = Geometry::of([channels, side, side], Conv::same(filters, 3));
                let flops = 18 * side * side * channels * filters;
                let batch = (600_000_000 / flops).clamp(if side <= 8 { 48 } else { 4 }, 128);
                let covering: Vec<_> = TABLED.into_iter().filter(|a| a.covers(&g)).collect();
                let speeds = measure(kernels, &g, batch, &covering, rounds, &pool, &mut scratch);
                let mut line = format!("{side}\t{channels}\t{filters}");
                for (direction, a) in (0..3).flat_map(|direction| TABLED.map(|a| (direction, a))) {
                    let speed = covering.iter().position(|c| *c == a).map_or(0.0, |i| speeds[i][direction]);
                    line += &format!("\t{speed:.0}");
                }
                println!("{line}");
            }
        }
    }
}

/// Approximately standard normal numbers: sums of twelve uniform ones.
fn normal(count: usize, stream: u64) -> Vec<f32> {
    let mut state = stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect()
}

/// The largest and the root-mean-square difference, relative to the largest and the root-mean-square expected value.
fn error(found: &[f32], expected: &[f64]) -> [f64; 2] {
    let differences: Vec<f64> = found.iter().zip(expected).map(|(f, e)| (*f as f64 - e).abs()).collect();
    let largest = |v: &[f64]| v.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let square = |v: &[f64]| (v.iter().map(|v| v * v).sum::<f64>() / v.len() as f64).sqrt();
    [largest(&differences) / largest(expected), square(&differences) / square(expected)]
}

/// Rounding errors against f64 of every algorithm and direction, on normal numbers; inputs after a ReLU.
fn write_errors(kernels: &'static Kernels) {
    println!(
        "# {}: largest and root-mean-square error against f64, relative; forward, input gradient, weight gradient",
        kernels.name
    );
    let pool = Pool::new(1);
    let mut scratch = Scratch::default();
    for (side, channels, filters, n) in [
        (32, 3, 16, 8),
        (16, 16, 16, 8),
        (16, 32, 32, 8),
        (16, 64, 64, 4),
        (8, 128, 128, 4),
        (8, 256, 256, 2),
        (4, 512, 512, 4),
        (2, 512, 512, 4),
    ] {
        let g = Geometry::of([channels, side, side], Conv::same(filters, 3));
        let x: Vec<f32> = normal(n * g.input_len(), 1).iter().map(|v| v.max(0.0)).collect();
        let (w, gy) = (normal(g.weight_len(), 2), normal(n * g.output_len(), 3));
        let expected = [
            reference::forward(&g, n, &x, &w),
            reference::grad_input(&g, n, &gy, &w),
            reference::grad_weight(&g, n, &x, &gy),
        ];
        for a in TABLED.into_iter().filter(|a| a.covers(&g)) {
            let needs = Needs { grad_input: true, grad_weight: true };
            let mut op = ConvOp::with_algorithms(kernels, |_| a, &g, n, 1, needs);
            let mut found = expected.each_ref().map(|e| vec![0.0; e.len()]);
            op.forward(n, &w, &x, Epilogue::default(), &mut found[0], &pool, &mut scratch);
            op.grad_input(n, &w, &gy, &mut found[1], None, &pool, &mut scratch);
            op.grad_weight(n, &x, &gy, &mut found[2], &pool, &mut scratch);
            print!("{:16} {:9}", format!("{side}x{channels}x{filters}"), a.name());
            for (f, e) in found.iter().zip(&expected) {
                let [largest, square] = error(f, e);
                print!("  {largest:.1e} {square:.1e}");
            }
            println!();
        }
    }
}

fn main() {
    let arguments = arguments();
    let kernels = match &arguments.set {
        Some(name) => simd::all()
            .iter()
            .find(|k| k.name == name)
            .unwrap_or_else(|| usage(&format!("this processor has no instruction set {name:?}"))),
        None => simd::kernels(),
    };
    if arguments.table {
        return write_table(kernels, &arguments);
    }
    if arguments.errors {
        return write_errors(kernels);
    }
    println!(
        "# {} threads, {}, GFLOP/s per thread: forward, input gradient, weight gradient",
        arguments.threads, kernels.name
    );
    let pool = Pool::new(arguments.threads);
    let mut scratch = Scratch::default();
    let plain = SHAPES.iter().map(|(side, i, o, n)| (*side, *i, *o, 3, 1, 1, *n));
    for (side, channels, filters, kernel, stride, groups, batch) in plain.chain(OTHERS.iter().copied()) {
        let mut name = format!("{side}x{channels}x{filters}");
        if (kernel, stride, groups) != (3, 1, 1) {
            name += &format!("k{kernel}s{stride}g{groups}");
        }
        let batch = arguments.images.unwrap_or(batch);
        if !arguments.selects(&name) {
            continue;
        }
        let conv = Conv { stride: [stride; 2], groups, ..Conv::same(filters, kernel) };
        let g = Geometry::of([channels, side, side], conv);
        let wanted = |a: &Algorithm| arguments.only.as_ref().is_none_or(|o| o.split(',').any(|o| o == a.name()));
        let algorithms: Vec<_> = Algorithm::ALL.into_iter().filter(|a| a.covers(&g) && wanted(a)).collect();
        print!("{:24}", format!("{name} n{batch}"));
        for (a, [f, i, w]) in
            algorithms.iter().zip(measure(kernels, &g, batch, &algorithms, arguments.rounds, &pool, &mut scratch))
        {
            print!("  {:9} {f:5.0} {i:5.0} {w:5.0}", a.name());
        }
        println!();
    }
}
