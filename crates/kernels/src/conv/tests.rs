//! Every algorithm against f64, and bitwise reproducibility.

use std::io::Write;

use super::{Algorithm, Conv, ConvOp, Epilogue, Geometry, Needs, Padding, PostOps, reference};
use crate::activation::Activation;
use crate::memory::Scratch;
use crate::pool::Pool;
use crate::simd::{self, Kernels};

const ALL_GRADIENTS: Needs = Needs { grad_input: true, grad_weight: true };

/// Pseudo-random numbers in [-1, 1), a hash of their index.
pub(super) fn numbers(count: usize, stream: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mut z =
                (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

/// The largest difference, relative to the largest expected value.
pub(super) fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let difference = found.iter().zip(expected).fold(0.0f64, |a, (f, e)| {
        let d = (*f as f64 - e).abs();
        if d.is_nan() { f64::INFINITY } else { a.max(d) }
    });
    difference / size.max(1e-30)
}

fn conv(
    filters: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
) -> Conv {
    let padding = Padding { top: pad[0], bottom: pad[1], left: pad[2], right: pad[3] };
    Conv { filters, kernel, stride, padding, dilation, groups }
}

/// Shapes of every kind: dense, strided, dilated, grouped, depthwise, asymmetric, odd channel counts, 1x1 images.
pub(super) fn shapes() -> Vec<Geometry> {
    let mut all = Vec::new();
    let mut add = |input: [usize; 3], c: Conv| all.push(Geometry::of(input, c));
    let same = |f: usize| Conv::same(f, 3);
    for (input, f) in [
        ([16, 8, 8], 16),
        ([3, 9, 7], 10),
        ([1, 12, 12], 32),
        ([8, 4, 4], 24),
        ([32, 2, 2], 40),
        ([17, 2, 2], 9),
        ([24, 1, 1], 16),
        ([20, 5, 6], 33),
        ([5, 3, 3], 1),
        ([1, 1, 1], 1),
        ([48, 6, 13], 7),
        ([64, 4, 4], 64),
        ([33, 14, 14], 64),
        ([40, 2, 2], 72),
        ([32, 9, 10], 32),
        // Large enough that a block of the weight gradient is split into two sets of planes.
        ([100, 6, 5], 130),
        // Large enough that weights are transformed, and weight gradients accumulated, panel by panel.
        ([256, 4, 4], 168),
        ([136, 6, 5], 180),
        ([392, 2, 2], 392),
    ] {
        add(input, same(f));
    }
    let none = [0; 4];
    // Other kernels, strides, paddings.
    add([12, 8, 8], conv(20, [1, 1], [1, 1], none, [1, 1], 1));
    add([12, 9, 8], conv(20, [1, 1], [2, 2], none, [1, 1], 1));
    add([50, 1, 1], conv(30, [1, 1], [1, 1], none, [1, 1], 1));
    add([300, 1, 1], conv(10, [1, 1], [1, 1], none, [1, 1], 1));
    add([3, 16, 16], conv(16, [5, 5], [1, 1], [2; 4], [1, 1], 1));
    add([3, 32, 32], conv(24, [11, 11], [4, 4], [2; 4], [1, 1], 1));
    add([3, 20, 20], conv(16, [7, 7], [2, 2], [3; 4], [1, 1], 1));
    add([16, 9, 9], conv(32, [3, 3], [2, 2], [1; 4], [1, 1], 1));
    add([16, 8, 8], conv(32, [3, 3], [2, 2], [0, 1, 0, 1], [1, 1], 1));
    add([16, 8, 10], conv(24, [3, 3], [1, 1], none, [1, 1], 1));
    add([10, 8, 8], conv(12, [3, 3], [1, 1], [2; 4], [1, 1], 1));
    add([2, 5, 6], conv(7, [3, 3], [1, 1], [2, 0, 1, 2], [1, 1], 1));
    add([4, 10, 13], conv(33, [3, 3], [1, 1], [0, 2, 2, 0], [1, 1], 1));
    // More rows than are transformed at a time.
    add([3, 45, 40], conv(20, [3, 3], [1, 1], [1; 4], [1, 1], 1));
    add([10, 7, 8], conv(12, [3, 3], [1, 1], [0, 2, 1, 0], [1, 1], 1));
    add([8, 10, 10], conv(8, [3, 3], [1, 1], [2; 4], [2, 2], 1));
    add([6, 12, 11], conv(9, [3, 2], [2, 3], [3, 1, 0, 2], [2, 1], 1));
    add([8, 6, 6], conv(8, [2, 2], [2, 2], none, [1, 1], 1));
    add([4, 7, 7], conv(5, [2, 2], [3, 3], none, [1, 1], 1));
    add([7, 9, 9], conv(8, [1, 7], [1, 1], [0, 0, 3, 3], [1, 1], 1));
    add([7, 9, 9], conv(8, [7, 1], [1, 2], [3, 3, 0, 0], [1, 1], 1));
    add([16, 5, 5], conv(12, [5, 5], [1, 1], none, [1, 1], 1));
    add([4, 3, 3], conv(6, [3, 3], [1, 1], [3; 4], [1, 1], 1));
    add([2, 11, 15], conv(40, [3, 3], [2, 1], [2; 4], [1, 2], 1));
    add([4, 5, 1], conv(72, [3, 1], [1, 1], [1, 1, 0, 0], [1, 1], 1));
    // Groups.
    add([16, 6, 6], conv(32, [3, 3], [1, 1], [1; 4], [1, 1], 2));
    add([12, 6, 6], conv(24, [3, 3], [2, 2], [1; 4], [1, 1], 3));
    add([12, 7, 7], conv(12, [1, 1], [1, 1], none, [1, 1], 4));
    add([40, 5, 5], conv(40, [3, 3], [1, 1], [1; 4], [1, 1], 10));
    add([24, 7, 15], conv(24, [3, 3], [1, 1], [1; 4], [1, 1], 12));
    add([32, 8, 9], conv(32, [3, 3], [1, 1], [1; 4], [1, 1], 8));
    add([36, 9, 13], conv(36, [3, 3], [2, 2], [1; 4], [1, 1], 9));
    add([24, 5, 9], conv(24, [5, 3], [1, 1], [2, 2, 1, 1], [1, 1], 3));
    add([32, 2, 2], conv(32, [3, 3], [1, 1], [1; 4], [1, 1], 2));
    // Depthwise, also with a channel multiplier.
    add([19, 8, 8], conv(19, [3, 3], [1, 1], [1; 4], [1, 1], 19));
    add([32, 9, 9], conv(32, [3, 3], [2, 2], [1; 4], [1, 1], 32));
    add([16, 8, 8], conv(16, [5, 5], [1, 1], [4; 4], [2, 2], 16));
    add([6, 5, 5], conv(18, [3, 3], [1, 1], [1; 4], [1, 1], 6));
    add([40, 7, 15], conv(40, [3, 3], [1, 1], [1; 4], [1, 1], 40));
    add([36, 15, 14], conv(36, [5, 5], [2, 2], [2; 4], [1, 1], 36));
    add([16, 11, 13], conv(16, [5, 5], [1, 1], [2; 4], [1, 1], 16));
    add([33, 9, 13], conv(33, [7, 7], [1, 1], [3; 4], [1, 1], 33));
    add([16, 13, 29], conv(16, [7, 7], [2, 2], [0, 3, 1, 3], [1, 1], 16));
    add([20, 2, 2], conv(20, [3, 3], [1, 1], [1; 4], [1, 1], 20));
    add([8, 5, 6], conv(8, [3, 3], [1, 1], [4, 3, 3, 4], [1, 1], 8));
    add([8, 9, 70], conv(8, [1, 9], [1, 3], [0, 0, 2, 4], [1, 1], 8));
    add([8, 9, 9], conv(8, [3, 3], [1, 1], [2; 4], [1, 2], 8));
    // More pixels than a block of a pointwise convolution, and more channels than its panels.
    add([70, 13, 11], conv(100, [1, 1], [1, 1], none, [1, 1], 1));
    // Several partial sums of a pointwise weight gradient, each with several blocks of pixels and of panels, both ways round.
    add([24, 33, 21], conv(300, [1, 1], [1, 1], none, [1, 1], 1));
    add([300, 33, 21], conv(24, [1, 1], [1, 1], none, [1, 1], 1));
    all
}

struct Case {
    g: Geometry,
    x: Vec<f32>,
    w: Vec<f32>,
    gy: Vec<f32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    shift: Vec<f32>,
}

impl Case {
    fn new(g: Geometry, n: usize) -> Case {
        let f = g.conv.filters;
        Case {
            g,
            x: numbers(n * g.input_len(), 1),
            w: numbers(g.weight_len(), 2),
            gy: numbers(n * g.output_len(), 3),
            scale: numbers(f, 4).iter().map(|v| v + 2.0).collect(),
            bias: numbers(f, 5),
            shift: numbers(f, 6),
        }
    }

    fn op(&self, algorithm: Algorithm, batch: usize, threads: usize) -> ConvOp {
        ConvOp::with_algorithms(simd::kernels(), |_| algorithm, &self.g, batch, threads, ALL_GRADIENTS)
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { bias: Some(&self.bias), scale: Some(&self.scale), shift: Some(&self.shift), relu: true }
    }
}

/// All pairs of a shape and an algorithm that covers it.
fn cases() -> Vec<(Geometry, Algorithm)> {
    shapes()
        .into_iter()
        .flat_map(|g| Algorithm::ALL.into_iter().filter(move |a| a.covers(&g)).map(move |a| (g, a)))
        .collect()
}

/// Every algorithm on every shape, in all directions, with and without epilogue, against f64.
fn agrees_with_f64(kernels: &'static Kernels) {
    let n = 3;
    let pool = Pool::new(2);
    let mut scratch = Scratch::default();
    for g in shapes() {
        let case = Case::new(g, n);
        let forward = reference::forward(&g, n, &case.x, &case.w);
        let grad_input = reference::grad_input(&g, n, &case.gy, &case.w);
        let grad_weight = reference::grad_weight(&g, n, &case.x, &case.gy);
        let f = g.conv.filters;
        let finished: Vec<f64> = forward
            .iter()
            .enumerate()
            .map(|(i, v)| {
                ((v + case.bias[i % f] as f64) * case.scale[i % f] as f64 + case.shift[i % f] as f64).max(0.0)
            })
            .collect();
        for algorithm in Algorithm::ALL.into_iter().filter(|a| a.covers(&g)) {
            let bound = if algorithm == Algorithm::F4 { 6e-6 } else { 2e-6 };
            let what = format!("{g:?}, {algorithm:?}, {}", kernels.name);
            let mut op = ConvOp::with_algorithms(kernels, |_| algorithm, &g, n, 2, ALL_GRADIENTS);
            let mut y = vec![f32::NAN; n * g.output_len()];
            op.forward(n, &case.w, &case.x, Epilogue::default(), &mut y, &pool, &mut scratch);
            assert!(error(&y, &forward) < bound, "forward: {} for {what}", error(&y, &forward));
            op.forward(n, &case.w, &case.x, case.epilogue(), &mut y, &pool, &mut scratch);
            assert!(error(&y, &finished) < bound, "epilogue: {} for {what}", error(&y, &finished));
            let mut gx = vec![f32::NAN; n * g.input_len()];
            op.grad_input(n, &case.w, &case.gy, &mut gx, None, &pool, &mut scratch);
            assert!(error(&gx, &grad_input) < bound, "grad_input: {} for {what}", error(&gx, &grad_input));
            // With a mask: the same bits, or 0 where the input is not positive.
            let mut masked = vec![f32::NAN; n * g.input_len()];
            op.grad_input(n, &case.w, &case.gy, &mut masked, Some(&case.x), &pool, &mut scratch);
            let same = masked.iter().zip(&gx).zip(&case.x).all(|((m, g), x)| *m == if *x > 0.0 { *g } else { 0.0 });
            assert!(same, "mask for {what}");
            let mut gw = vec![f32::NAN; g.weight_len()];
            op.grad_weight(n, &case.x, &case.gy, &mut gw, &pool, &mut scratch);
            assert!(error(&gw, &grad_weight) < bound, "grad_weight: {} for {what}", error(&gw, &grad_weight));
        }
    }
}

/// The kernels called `name`; a line on standard error if the processor does not have the instruction set.
fn kernels_named(name: &str) -> Option<&'static Kernels> {
    let found = simd::all().iter().copied().find(|k| k.name == name);
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this processor has no {name}, its kernels are not tested here");
    }
    found
}

#[test]
fn avx512_agrees_with_f64() {
    if let Some(kernels) = kernels_named("avx512") {
        agrees_with_f64(kernels);
    }
}

#[test]
fn avx2_agrees_with_f64() {
    if let Some(kernels) = kernels_named("avx2") {
        agrees_with_f64(kernels);
    }
}

#[test]
fn portable_agrees_with_f64() {
    agrees_with_f64(kernels_named("portable").expect("every processor has them"));
}

/// After `weights_changed`, the next call uses the new weights.
#[test]
fn changed_weights_are_packed_again() {
    let pool = Pool::new(1);
    let mut scratch = Scratch::default();
    for (g, algorithm) in cases() {
        let case = Case::new(g, 1);
        let mut op = case.op(algorithm, 1, 1);
        let (mut y, mut gx) = (vec![0.0; g.output_len()], vec![0.0; g.input_len()]);
        op.forward(1, &case.w, &case.x, Epilogue::default(), &mut y, &pool, &mut scratch);
        op.grad_input(1, &case.w, &case.gy, &mut gx, None, &pool, &mut scratch);
        let twice: Vec<f32> = case.w.iter().map(|w| 2.0 * w).collect();
        op.weights_changed();
        let (mut y2, mut gx2) = (y.clone(), gx.clone());
        op.forward(1, &twice, &case.x, Epilogue::default(), &mut y2, &pool, &mut scratch);
        op.grad_input(1, &twice, &case.gy, &mut gx2, None, &pool, &mut scratch);
        // Doubling is exact.
        assert!(y.iter().zip(&y2).all(|(a, b)| 2.0 * a == *b), "{g:?} {algorithm:?}");
        assert!(gx.iter().zip(&gx2).all(|(a, b)| 2.0 * a == *b), "{g:?} {algorithm:?}");
    }
}

/// The bits of an image's output and input gradient depend neither on the batch nor on the number of threads; those of a weight
/// gradient depend neither on the number of threads nor on the largest batch planned for.
#[test]
fn results_do_not_depend_on_batch_or_threads() {
    let batch = 7;
    let pools = [Pool::new(1), Pool::new(3)];
    for (g, algorithm) in cases() {
        let case = Case::new(g, batch);
        let (il, ol) = (g.input_len(), g.output_len());
        let mut scratch = Scratch::default();
        let mut whole = case.op(algorithm, batch, 1);
        let (mut y, mut gx) = (vec![0.0; batch * ol], vec![0.0; batch * il]);
        whole.forward(batch, &case.w, &case.x, case.epilogue(), &mut y, &pools[0], &mut scratch);
        whole.grad_input(batch, &case.w, &case.gy, &mut gx, None, &pools[0], &mut scratch);
        for (threads, pool) in [(1, &pools[0]), (3, &pools[1])] {
            for planned in [batch, 64] {
                let mut op = case.op(algorithm, planned, threads);
                for (start, n) in [(0, batch), (0, 1), (6, 1), (2, 3), (1, 6)] {
                    let (mut part, mut gpart) = (vec![0.0; n * ol], vec![0.0; n * il]);
                    op.forward(n, &case.w, &case.x[start * il..], case.epilogue(), &mut part, pool, &mut scratch);
                    assert_eq!(
                        part,
                        y[start * ol..][..n * ol],
                        "forward {g:?} {algorithm:?} {threads} threads, {n} from {start}"
                    );
                    op.grad_input(n, &case.w, &case.gy[start * ol..], &mut gpart, None, pool, &mut scratch);
                    assert_eq!(
                        gpart,
                        gx[start * il..][..n * il],
                        "grad_input {g:?} {algorithm:?} {threads} threads, {n} from {start}"
                    );
                }
            }
        }
        for n in [1, 2, batch] {
            let mut first = vec![0.0; g.weight_len()];
            whole.grad_weight(n, &case.x, &case.gy, &mut first, &pools[0], &mut scratch);
            for (planned, threads, pool) in [(batch, 3, &pools[1]), (64, 1, &pools[0]), (64, 3, &pools[1])] {
                let mut gw = vec![f32::NAN; g.weight_len()];
                case.op(algorithm, planned, threads).grad_weight(n, &case.x, &case.gy, &mut gw, pool, &mut scratch);
                assert_eq!(
                    gw, first,
                    "grad_weight {g:?} {algorithm:?} n {n}, {threads} threads, planned for {planned}"
                );
            }
        }
    }
}

/// Batches of more images than a chunk holds.
#[test]
fn batches_larger_than_a_chunk() {
    let n = 600;
    let pools = [Pool::new(1), Pool::new(2)];
    let g = Geometry::of([256, 4, 4], Conv::same(168, 3));
    let case = Case::new(g, n);
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for algorithm in [Algorithm::Direct, Algorithm::F2, Algorithm::F4] {
        let mut results = Vec::new();
        for (threads, pool) in [(1, &pools[0]), (2, &pools[1])] {
            let mut op = case.op(algorithm, n, threads);
            let (mut y, mut gx) = (vec![0.0; n * g.output_len()], vec![0.0; n * g.input_len()]);
            let mut gw = vec![0.0; g.weight_len()];
            op.forward(n, &case.w, &case.x, Epilogue::default(), &mut y, pool, &mut scratch);
            op.grad_input(n, &case.w, &case.gy, &mut gx, None, pool, &mut scratch);
            op.grad_weight(n, &case.x, &case.gy, &mut gw, pool, &mut scratch);
            results.push([y, gx, gw]);
        }
        assert!(results[0] == results[1], "{algorithm:?}: results depend on the number of threads");
        // The last image, computed alone.
        let (il, ol) = (g.input_len(), g.output_len());
        let mut op = case.op(algorithm, 1, 1);
        let mut y = vec![0.0; ol];
        op.forward(1, &case.w, &case.x[(n - 1) * il..], Epilogue::default(), &mut y, &pools[0], &mut scratch);
        assert_eq!(y, results[0][0][(n - 1) * ol..], "{algorithm:?}");
        found.push(results.swap_remove(0));
    }
    for other in &found[1..] {
        for (a, b) in found[0].iter().zip(other) {
            let b: Vec<f64> = b.iter().map(|b| *b as f64).collect();
            assert!(error(a, &b) < 1e-5, "{}", error(a, &b));
        }
    }
}

/// A residual sum and an activation after a convolution give the bits of passes of their own, whoever computes them.
#[test]
fn post_ops_agree_with_passes_of_their_own() {
    let n = 3;
    let pools = [Pool::new(1), Pool::new(3)];
    let mut scratch = Scratch::default();
    for (g, algorithm) in cases() {
        let case = Case::new(g, n);
        let len = n * g.output_len();
        let add = numbers(len, 7);
        let epilogue = Epilogue { relu: false, ..case.epilogue() };
        for (threads, pool) in [1, 3].into_iter().zip(&pools) {
            let mut op = case.op(algorithm, n, threads);
            for (added, activation) in [(true, None), (true, Some(Activation::Relu)), (false, Some(Activation::Silu))] {
                let post_ops = PostOps { add: added.then_some(&add[..]), activation };
                let (mut found, mut want) = (vec![f32::NAN; len], vec![0.0; len]);
                op.forward_with_post_ops(n, &case.w, &case.x, epilogue, post_ops, &mut found, pool, &mut scratch);
                op.forward(n, &case.w, &case.x, epilogue, &mut want, pool, &mut scratch);
                if added {
                    want.iter_mut().zip(&add).for_each(|(y, add)| *y += add);
                }
                if let Some(activation) = activation {
                    activation.apply(&mut want);
                }
                assert_eq!(found, want, "{g:?} {algorithm:?} {activation:?} {threads} threads");
            }
        }
    }
}

/// 2x2 max pooling of images with `channels` channels and `width` columns: the first of equal values, the last NaN.
fn max_pooled(x: &[f32], channels: usize, width: usize) -> Vec<f32> {
    let row = width * channels;
    let pooled = |pair: &[f32], i: usize| {
        let first = i / channels * 2 * channels + i % channels;
        let window = [first, first + channels, first + row, first + row + channels].map(|at| pair[at]);
        window.into_iter().reduce(|a, b| if b > a || b.is_nan() { b } else { a }).expect("four values")
    };
    x.chunks_exact(2 * row).flat_map(|pair| (0..row / 2).map(move |i| pooled(pair, i))).collect()
}

/// Pooling fused into a convolution gives the same bits as pooling its output.
#[test]
fn fused_pooling_agrees_with_pooling_afterwards() {
    let pool = Pool::new(3);
    let mut scratch = Scratch::default();
    for kernels in simd::all() {
        for ([ci, h, w], f) in [
            ([5, 6, 10], 9),
            ([16, 8, 8], 16),
            ([3, 2, 2], 17),
            ([20, 14, 4], 33),
            ([392, 2, 2], 392),
            ([264, 6, 6], 168),
        ] {
            let n = 5;
            let case = Case::new(Geometry::of([ci, h, w], Conv::same(f, 3)), n);
            for algorithm in Algorithm::ALL
                .into_iter()
                .filter(|a| a.covers(&case.g) && !matches!(a, Algorithm::Direct | Algorithm::F4Rows))
            {
                let mut op = ConvOp::with_algorithms(kernels, |_| algorithm, &case.g, n, 3, Needs::default());
                assert!(op.supports_pooling());
                // Infinities and NaN among the inputs; outputs include negative values and zeros.
                let mut x = case.x.clone();
                (x[0], x[ci * h * w]) = (f32::NAN, f32::INFINITY);
                for relu in [false, true] {
                    let epilogue = Epilogue { relu, ..case.epilogue() };
                    let mut whole = vec![0.0; n * case.g.output_len()];
                    op.forward(n, &case.w, &x, epilogue, &mut whole, &pool, &mut scratch);
                    let expected = max_pooled(&whole, f, w);
                    for store_y in [false, true] {
                        let mut y = vec![7.0; if store_y { whole.len() } else { 0 }];
                        let mut pooled = vec![7.0; expected.len()];
                        op.forward_pooled(n, &case.w, &x, epilogue, &mut y, &mut pooled, &pool, &mut scratch);
                        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                        let what = format!("{kernels:?} {algorithm:?} {ci}x{h}x{w}, relu {relu}, y stored {store_y}");
                        assert_eq!(bits(&pooled), bits(&expected), "{what}");
                        assert!(!store_y || bits(&y) == bits(&whole), "{what}");
                    }
                }
            }
        }
    }
}
