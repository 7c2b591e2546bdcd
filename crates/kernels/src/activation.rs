//! Elementwise activation functions as loops that compile to vectors of every instruction set.
//!
//! All functions consist of additions, multiplications, divisions and comparisons, so they give the same bits on every processor and
//! wherever they are computed: in a layer of their own or after a convolution.

use std::hint::select_unpredictable;

use crate::simd::{Simd, Task, dispatch, vectorised};

/// An activation function with a simple formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x where x > 0, `slope` x elsewhere.
    LeakyRelu {
        /// Slope below zero.
        slope: f32,
    },
    /// min(max(x, `min`), `max`); ReLU6 is 0 to 6.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// min(max(`alpha` x + `beta`, 0), 1).
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// x min(max(x / 6 + 1/2, 0), 1).
    HardSwish,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), with the error function.
    Gelu,
    /// x Phi(x) by the approximation with tanh.
    GeluTanh,
}

/// Calls `$loop` with the closures of a function's value and derivative.
macro_rules! each {
    ($activation:expr, $loop:ident!($($argument:tt)*)) => {
        match $activation {
            Activation::Relu => $loop!(relu, |x: f32| step(x > 0.0), $($argument)*),
            Activation::LeakyRelu { slope } => {
                $loop!(move |x| x * leaky_slope(x, slope), move |x| leaky_slope(x, slope), $($argument)*)
            }
            Activation::Clip { min, max } => $loop!(|x| clip(x, min, max), |x| step((x > min) & (x < max)), $($argument)*),
            Activation::HardSigmoid { alpha, beta } => {
                $loop!(|x| clip(alpha * x + beta, 0.0, 1.0), |x| hard_sigmoid_derivative(x, alpha, beta), $($argument)*)
            }
            Activation::HardSwish => {
                $loop!(|x: f32| x * clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0), hard_swish_derivative, $($argument)*)
            }
            Activation::Sigmoid => $loop!(sigmoid, sigmoid_derivative, $($argument)*),
            Activation::Silu => $loop!(|x| x * sigmoid(x), silu_derivative, $($argument)*),
            Activation::Gelu => $loop!(|x| x * phi(x), |x| phi(x) + x * density(x), $($argument)*),
            Activation::GeluTanh => $loop!(|x| x * phi_tanh(x).0, |x| gelu_tanh_derivative(x), $($argument)*),
        }
    };
}

impl Activation {
    /// y = f(y), element by element.
    pub fn apply(self, y: &mut [f32]) {
        if self == Activation::Relu {
            return dispatch(ReluInPlace { y });
        }
        macro_rules! run {
            ($value:expr, $derivative:expr, $y:ident) => {
                vectorised(
                    #[inline(always)]
                    || in_place($y, $value),
                )
            };
        }
        each!(self, run!(y));
    }

    /// y = f(x), element by element; as many as both have.
    pub fn map(self, x: &[f32], y: &mut [f32]) {
        macro_rules! run {
            ($value:expr, $derivative:expr, $x:ident, $y:ident) => {
                vectorised(
                    #[inline(always)]
                    || pairs($x, $y, |x, _| ($value)(x)),
                )
            };
        }
        each!(self, run!(x, y));
    }

    /// g = g f'(x), element by element, with PyTorch's choice where f is not differentiable; as many as both have.
    pub fn backward(self, x: &[f32], g: &mut [f32]) {
        macro_rules! run {
            ($value:expr, $derivative:expr, $x:ident, $g:ident) => {
                vectorised(
                    #[inline(always)]
                    || pairs($x, $g, |x, g| g * ($derivative)(x)),
                )
            };
        }
        each!(self, run!(x, g));
    }
}

/// The backward pass of a ReLU with output `y`: g = 0 where y is not positive; as many elements as both have.
pub fn relu_backward(y: &[f32], g: &mut [f32]) {
    let count = y.len().min(g.len());
    dispatch(ReluBackward { y: &y[..count], g: &mut g[..count] });
}

/// [`relu_backward`] for slices of one length. Explicit vectors as in [`ReluInPlace`].
struct ReluBackward<'a> {
    y: &'a [f32],
    g: &'a mut [f32],
}

impl Task for ReluBackward<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (g, y) in self.g.chunks_mut(S::LANES).zip(self.y.chunks(S::LANES)) {
            // SAFETY: the elements of chunks of one length.
            unsafe {
                let (mask, gradient) = (S::load_up_to(y.as_ptr(), g.len()), S::load_up_to(g.as_ptr(), g.len()));
                S::store_up_to(g.as_mut_ptr(), S::where_positive(mask, gradient), g.len());
            }
        }
    }
}

/// y = max(y, 0). In a loop over scalars the store of a positive element, which changes nothing, becomes a branch around it, and a loop
/// with branches does not compile to vectors.
struct ReluInPlace<'a> {
    y: &'a mut [f32],
}

impl Task for ReluInPlace<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for y in self.y.chunks_mut(S::LANES) {
            // SAFETY: the elements of the chunk.
            unsafe { S::store_up_to(y.as_mut_ptr(), S::relu(S::load_up_to(y.as_ptr(), y.len())), y.len()) };
        }
    }
}

#[inline(always)]
fn in_place(y: &mut [f32], f: impl Fn(f32) -> f32) {
    y.iter_mut().for_each(|y| *y = f(*y));
}

#[inline(always)]
fn pairs(x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x, *y));
}

#[inline(always)]
fn step(inside: bool) -> f32 {
    if inside { 1.0 } else { 0.0 }
}

/// A comparison, so that NaN stays NaN.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// 1 or the slope of a leaky ReLU; never a branch, see [`ReluInPlace`].
#[inline(always)]
fn leaky_slope(x: f32, slope: f32) -> f32 {
    select_unpredictable(x > 0.0, 1.0, slope)
}

#[inline(always)]
fn clip(x: f32, min: f32, max: f32) -> f32 {
    let x = if x < min { min } else { x };
    if x > max { max } else { x }
}

#[inline(always)]
fn hard_sigmoid_derivative(x: f32, alpha: f32, beta: f32) -> f32 {
    let inner = alpha * x + beta;
    alpha * step((inner > 0.0) & (inner < 1.0))
}

#[inline(always)]
fn hard_swish_derivative(x: f32) -> f32 {
    let inner = if x >= 3.0 { 1.0 } else { x / 3.0 + 0.5 };
    if x <= -3.0 { 0.0 } else { inner }
}

/// exp(x) with a relative error below 2e-7, for x between -87 and 88; the values at these bounds outside.
///
/// x = n ln 2 + r with |r| <= ln(2) / 2; the Taylor series of exp(r) to the seventh power has an error below 6e-9.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which is then in the last bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    // ln 2 in two parts; the first has few digits, so that its product with n is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = clip(x, -87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2[0]) - n * LN2[1];
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Softmax of one row: y = exp(x - largest x), divided by the sum of these. Both slices have one length. Relative error below
/// 1e-6; 0 where x is more than 87 below the largest.
pub fn softmax(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    vectorised(
        #[inline(always)]
        || {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for x in x.chunks(LANES) {
                lanes.iter_mut().zip(x).for_each(|(most, &x)| *most = if x > *most { x } else { *most });
            }
            let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let sum = lane_sum(x, y, |x, y| {
                let below = x - largest;
                *y = select_unpredictable(below < -87.0, 0.0, exp(below));
                *y
            });
            let scale = 1.0 / sum;
            y.iter_mut().for_each(|y| *y *= scale);
        },
    );
}

/// The backward pass of a [`softmax`] with output `y`: g = y (g - the sum of y g), for one row. Both slices have one
/// length.
pub fn softmax_backward(y: &[f32], g: &mut [f32]) {
    assert_eq!(y.len(), g.len());
    vectorised(
        #[inline(always)]
        || {
            let sum = lane_sum(y, g, |y, g| y * *g);
            pairs(y, g, |y, g| y * (g - sum));
        },
    );
}

/// Partial sums of a row.
const LANES: usize = 16;

/// The sum of f(x, y) over a row, as partial sums of every sixteenth element, so that the loop compiles to vectors, and in f64 from
/// block to block, so that long rows keep their digits.
#[inline(always)]
fn lane_sum(x: &[f32], y: &mut [f32], f: impl Fn(f32, &mut f32) -> f32) -> f32 {
    const BLOCK: usize = 16 * LANES;
    let mut total = 0.0;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
        let mut sums = [0.0; LANES];
        let (whole, rest) = (x.chunks_exact(LANES), x.chunks_exact(LANES).remainder());
        let mut parts = y.chunks_exact_mut(LANES);
        for (x, y) in whole.zip(&mut parts) {
            for lane in 0..LANES {
                sums[lane] += f(x[lane], &mut y[lane]);
            }
        }
        for ((x, y), sum) in rest.iter().zip(parts.into_remainder()).zip(&mut sums) {
            *sum += f(*x, y);
        }
        total += sums.into_iter().map(f64::from).sum::<f64>();
    }
    total as f32
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn sigmoid_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 - s)
}

#[inline(always)]
fn silu_derivative(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// The density of the normal distribution.
#[inline(always)]
fn density(x: f32) -> f32 {
    const AT_ZERO: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    AT_ZERO * exp(-0.5 * x * x)
}

/// The cumulative distribution function of the normal distribution, with an absolute error below 2e-7: the error function by
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
#[inline(always)]
fn phi(x: f32) -> f32 {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + P * x.abs());
    let mut series = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        series = series * t + coefficient;
    }
    let tail = 0.5 * t * series * exp(-0.5 * x * x);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Phi by tanh(u) = 2 sigmoid(2 u) - 1 (Hendrycks and Gimpel, arXiv:1606.08415, section 2), and its derivative.
#[inline(always)]
fn phi_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    let phi = sigmoid(2.0 * ROOT * (x + 0.044_715 * x * x * x));
    (phi, phi * (1.0 - phi) * 2.0 * ROOT * (1.0 + 3.0 * 0.044_715 * x * x))
}

#[inline(always)]
fn gelu_tanh_derivative(x: f32) -> f32 {
    let (phi, slope) = phi_tanh(x);
    phi + x * slope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<f32> {
        let mut x: Vec<f32> = (-4000..=4000).map(|i| i as f32 / 200.0).collect();
        x.extend([-1e30, -300.0, -90.0, 90.0, 300.0, 1e30, f32::INFINITY, f32::NEG_INFINITY]);
        x
    }

    #[test]
    fn the_exponential_is_that_of_f64() {
        for x in inputs().into_iter().filter(|x| (-87.0..=88.0).contains(x)) {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_and_its_gradient_are_those_of_f64() {
        for length in [1, 2, 15, 16, 17, 64, 197, 1000, 5000] {
            // A fixed sequence without a pattern that lines up with the lanes.
            let row = |scale: f32, offset: f32| -> Vec<f32> {
                (0..length).map(|i| scale * ((i * i * 7 + 3 * i) % 101) as f32 / 101.0 + offset).collect()
            };
            let x = row(30.0, -400.0);
            let mut y = vec![0.0; length];
            softmax(&x, &mut y);
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials: Vec<f64> = x.iter().map(|&x| f64::from(x - largest).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            for (y, e) in y.iter().zip(&exponentials) {
                let want = e / sum;
                assert!((f64::from(*y) - want).abs() < 1e-6 * want, "{length}: {y}, not {want}");
            }
            let mut g = row(2.0, -1.0);
            let before: Vec<f64> = g.iter().map(|&g| f64::from(g)).collect();
            softmax_backward(&y, &mut g);
            let dot: f64 = y.iter().zip(&before).map(|(&y, g)| f64::from(y) * g).sum();
            for ((&y, before), g) in y.iter().zip(&before).zip(g) {
                let want = f64::from(y) * (before - dot);
                assert!((f64::from(g) - want).abs() < 1e-6 * f64::from(y), "{length}: {g}, not {want}");
            }
        }
    }

    #[test]
    fn a_mask_gives_zeros_and_nan_stays() {
        let mut y = [1.0; 20];
        let mut x = [f32::NEG_INFINITY; 20];
        (x[3], x[17]) = (0.0, -100.0);
        softmax(&x, &mut y);
        assert!(y.iter().enumerate().all(|(i, &y)| y == if i == 3 { 1.0 } else { 0.0 }), "{y:?}");
        x[5] = f32::NAN;
        softmax(&x, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
    }

    /// The error function in f64, by its series and its continued fraction.
    fn erf(x: f64) -> f64 {
        let a = x.abs();
        let value = if a < 3.0 {
            let mut term = a;
            let mut sum = a;
            for n in 1..100 {
                term *= -a * a / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let mut fraction = 0.0;
            for n in (1..60).rev() {
                fraction = f64::from(n) / 2.0 / (a + fraction);
            }
            1.0 - (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt())
        };
        value.copysign(x)
    }

    fn reference(f: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match f {
            Activation::Relu => x.max(0.0),
            Activation::LeakyRelu { slope } => x.max(0.0) + f64::from(slope) * x.min(0.0),
            Activation::Clip { min, max } => x.clamp(min.into(), max.into()),
            Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Sigmoid => sigmoid(x),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
        }
    }

    const ALL: [Activation; 9] = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Clip { min: 0.0, max: 6.0 },
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::HardSwish,
        Activation::Sigmoid,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
    ];

    #[test]
    fn values_and_derivatives_are_those_of_f64() {
        let x: Vec<f32> = inputs().into_iter().filter(|x| x.abs() <= 20.0).collect();
        for f in ALL {
            let (mut y, mut in_place, mut g) = (vec![0.0; x.len()], x.clone(), vec![1.0; x.len()]);
            f.map(&x, &mut y);
            f.apply(&mut in_place);
            f.backward(&x, &mut g);
            assert_eq!(y, in_place, "{f:?}");
            for ((&x, y), g) in x.iter().zip(y).zip(g) {
                let at = f64::from(x);
                let want = reference(f, at);
                // Absolute, where the result is a difference of larger numbers.
                assert!((f64::from(y) - want).abs() < 4e-7 * (1.0 + want.abs()), "{f:?}({x}) = {y}, not {want}");
                let h = 1e-5;
                let (left, right) = ((want - reference(f, at - h)) / h, (reference(f, at + h) - want) / h);
                // Not where it has a kink.
                if (left - right).abs() < 1e-3 {
                    let slope = (left + right) / 2.0;
                    assert!((f64::from(g) - slope).abs() < 2e-6 * (1.0 + at.abs()), "{f:?}'({x}) = {g}, not {slope}");
                }
            }
        }
    }

    #[test]
    fn extreme_inputs_have_finite_or_expected_outputs_and_nan_stays() {
        for f in ALL {
            let mut y = inputs();
            f.apply(&mut y);
            assert!(y.iter().zip(inputs()).all(|(y, x)| !y.is_nan() || x.is_infinite()), "{f:?}");
            let mut nan = [f32::NAN; 17];
            f.apply(&mut nan);
            assert!(nan.iter().all(|y| y.is_nan()), "{f:?}");
        }
    }
}
