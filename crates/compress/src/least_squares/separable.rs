//! A separable convolution by ridge regression: a depthwise kernel, then a 1x1 convolution, from the normal equations of the
//! dense convolution.
//!
//! With d the depthwise kernel `[taps, channels]` and p the 1x1 convolution `[channels, targets]`, the dense weight is
//! w[(t, c), f] = d[t, c] p[c, f]. The error w'Gw - 2 w'r + lambda w'w (G = Z'Z and r = Z'T, centred) is quadratic in d for a
//! fixed p and the reverse, so both are solved in turn (alternating least squares). Every solve lowers the error or keeps it.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use nettriage_net::init::separated;

use super::solve::{Affine, System};

/// Times that both parts are solved.
const ROUNDS: usize = 5;

/// The separable map of least error that is found from a dense one, whose weights are in the order (tap, channel).
pub fn separable(system: &System, dense: &Affine, right: &Mat<f64>, means: &[f64], ridge: f64, taps: usize) -> Affine {
    let (unknowns, filters) = (dense.weight.nrows(), dense.weight.ncols());
    let channels = unknowns / taps;
    let lambda = system.lambda(ridge);
    let mut kernel = first_kernel(dense, channels, taps);
    let mut filter = pointwise(system, &kernel, right, lambda, channels);
    for _ in 1..ROUNDS {
        let Some(next) = depthwise(system, &filter, right, lambda, channels) else { break };
        kernel = next;
        filter = pointwise(system, &kernel, right, lambda, channels);
    }
    let weight = match filter {
        Some(filter) => Mat::from_fn(unknowns, filters, |a, f| kernel[a] * filter[(a % channels, f)]),
        None => Mat::zeros(unknowns, filters),
    };
    system.with_bias(weight, means)
}

/// The depthwise kernel nearest to the dense weights, in the order (tap, channel).
fn first_kernel(dense: &Affine, channels: usize, taps: usize) -> Vec<f64> {
    let filters = dense.weight.ncols();
    let element = |at: usize| {
        let (filter, rest) = (at / (channels * taps), at % (channels * taps));
        dense.weight[(rest % taps * channels + rest / taps, filter)] as f32
    };
    let weight: Vec<f32> = (0..filters * channels * taps).map(element).collect();
    let (kernel, _) = separated(&weight, filters, channels, taps);
    (0..taps * channels).map(|a| f64::from(kernel[a % channels * taps + a / channels])).collect()
}

/// p for a fixed d; none where an input is not finite.
fn pointwise(system: &System, d: &[f64], right: &Mat<f64>, lambda: f64, channels: usize) -> Option<Mat<f64>> {
    let gram = system.gram();
    let mut products: Mat<f64> = Mat::zeros(channels, channels);
    for b in 0..d.len() {
        for a in 0..d.len() {
            products[(a % channels, b % channels)] += d[a] * gram[(a, b)] * d[b];
        }
        products[(b % channels, b % channels)] += lambda * d[b] * d[b];
    }
    let mut side: Mat<f64> = Mat::zeros(channels, right.ncols());
    for f in 0..right.ncols() {
        (0..d.len()).for_each(|a| side[(a % channels, f)] += d[a] * right[(a, f)]);
    }
    solved(products, &side)
}

/// d for a fixed p; none where there is no p, or an input is not finite.
fn depthwise(
    system: &System,
    p: &Option<Mat<f64>>,
    right: &Mat<f64>,
    lambda: f64,
    channels: usize,
) -> Option<Vec<f64>> {
    let p = p.as_ref()?;
    let (gram, unknowns) = (system.gram(), right.nrows());
    let squares = p * p.transpose();
    let products = Mat::from_fn(unknowns, unknowns, |a, b| {
        let ridge = if a == b { lambda } else { 0.0 };
        (gram[(a, b)] + ridge) * squares[(a % channels, b % channels)]
    });
    let side = Mat::from_fn(unknowns, 1, |a, _| (0..right.ncols()).map(|f| p[(a % channels, f)] * right[(a, f)]).sum());
    let solution = solved(products, &side)?;
    Some((0..unknowns).map(|a| solution[(a, 0)]).collect())
}

/// The solution of a system that is positive definite but for channels that nothing depends on: those get zero.
fn solved(mut products: Mat<f64>, side: &Mat<f64>) -> Option<Mat<f64>> {
    let n = products.nrows();
    let largest = (0..n).map(|a| products[(a, a)]).fold(0.0, f64::max);
    let least = if largest > 0.0 { 1e-12 * largest } else { 1.0 };
    (0..n).for_each(|a| products[(a, a)] += least);
    Some(products.llt(Side::Lower).ok()?.solve(side))
}
