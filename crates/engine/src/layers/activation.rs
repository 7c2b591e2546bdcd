//! Elementwise activation functions.

use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::{Simd, vectorised};
use nettriage_net::Activation;

use crate::layers::CHUNK;
use crate::layers::columns::{Columns, Span, Terms};
use crate::op::{Context, Inputs, Op, Reads};
use crate::params::ParamId;

/// g := 0 where y, the output of a ReLU, is not above 0.
pub(crate) fn mask_all(g: &mut [f32], y: &[f32], pool: &Pool) {
    pool.chunks(g, CHUNK, |i, g| {
        let y = &y[i * CHUNK..];
        vectorised(
            #[inline(always)]
            || g.iter_mut().zip(y).for_each(|(g, &y)| *g = if y > 0.0 { *g } else { 0.0 }),
        );
    });
}

/// An activation that stands alone. PReLU is [`Prelu`].
pub(crate) struct ActivationLayer {
    function: Activation,
    /// Whether the gradient comes with ReLU's mask on.
    masked: bool,
}

impl ActivationLayer {
    /// That function.
    pub fn new(function: Activation) -> ActivationLayer {
        ActivationLayer { function, masked: false }
    }
}

/// The normal distribution's cumulative function, by the error function.
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The argument of the hyperbolic tangent in GELU's approximation (Hendrycks and Gimpel, arXiv:1606.08415), and its slope.
fn gelu_inner(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    (ROOT * (x + 0.044715 * x * x * x), ROOT * (1.0 + 3.0 * 0.044715 * x * x))
}

/// f(x).
fn value(f: Activation, x: f32) -> f32 {
    match f {
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                slope * x
            }
        }
        Activation::Prelu => x,
        Activation::Clip { min, max } => {
            // As max then min, so that a NaN stays one.
            let x = if x < min { min } else { x };
            if x > max { max } else { x }
        }
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => value(Activation::Clip { min: 0.0, max: 1.0 }, alpha * x + beta),
        Activation::HardSwish => x * value(Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu { tanh: false } => x * phi(x),
        Activation::Gelu { tanh: true } => 0.5 * x * (1.0 + gelu_inner(x).0.tanh()),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                alpha * x.exp_m1()
            }
        }
    }
}

/// f'(x), with PyTorch's choice at the corners.
fn slope(f: Activation, x: f32) -> f32 {
    let step = |inside: bool| if inside { 1.0 } else { 0.0 };
    match f {
        Activation::Relu => step(x > 0.0),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                1.0
            } else {
                slope
            }
        }
        Activation::Prelu => 1.0,
        Activation::Clip { min, max } => step(x > min && x < max),
        Activation::Sigmoid => {
            let s = sigmoid(x);
            s * (1.0 - s)
        }
        Activation::HardSigmoid { alpha, beta } => {
            let inner = alpha * x + beta;
            alpha * step(inner > 0.0 && inner < 1.0)
        }
        Activation::HardSwish => {
            if x <= -3.0 {
                0.0
            } else if x >= 3.0 {
                1.0
            } else {
                x / 3.0 + 0.5
            }
        }
        Activation::Silu => {
            let s = sigmoid(x);
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Gelu { tanh: false } => {
            const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
            phi(x) + x * DENSITY * (-0.5 * x * x).exp()
        }
        Activation::Gelu { tanh: true } => {
            let (inner, inner_slope) = gelu_inner(x);
            let t = inner.tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope
        }
        Activation::Tanh => {
            let t = x.tanh();
            1.0 - t * t
        }
        Activation::Elu { alpha } => {
            if x > 0.0 {
                1.0
            } else {
                alpha * x.exp()
            }
        }
    }
}

impl Op for ActivationLayer {
    fn reads(&self) -> Reads {
        match self.function {
            Activation::Relu => Reads { inputs: false, output: !self.masked },
            _ => Reads { inputs: true, output: false },
        }
    }

    fn masks(&self) -> bool {
        self.function == Activation::Relu && !self.masked
    }

    fn comes_masked(&mut self) {
        self.masked = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (f, x) = (self.function, x.get(0));
        cx.pool.chunks(y, CHUNK, |i, y| {
            for (y, &x) in y.iter_mut().zip(&x[i * CHUNK..]) {
                *y = value(f, x);
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.function == Activation::Relu {
            if !self.masked {
                mask_all(gy, y, cx.pool);
            }
            return;
        }
        let (f, x) = (self.function, x.get(0));
        cx.pool.chunks(gy, CHUNK, |i, g| {
            for (g, &x) in g.iter_mut().zip(&x[i * CHUNK..]) {
                *g *= slope(f, x);
            }
        });
    }
}

/// Leaky ReLU with one slope a channel, which may train.
pub(crate) struct Prelu {
    weight: ParamId,
    trains: bool,
    columns: Columns<1>,
}

impl Prelu {
    /// On `channels` channels.
    pub fn new(weight: ParamId, channels: usize, trains: bool) -> Prelu {
        Prelu { weight, trains, columns: Columns::new(if trains { channels } else { 0 }) }
    }
}

/// Sums of g x where x is not above 0.
struct Slopes<'a> {
    g: &'a [f32],
    x: &'a [f32],
    channels: usize,
}

impl Terms<1> for Slopes<'_> {
    fn check(&self, rows: usize, channels: usize) {
        let elements = rows * channels;
        assert!(channels == self.channels && self.g.len() >= elements && self.x.len() >= elements);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum]: &mut [S::V; 1]) {
        let start = row * self.channels;
        unsafe {
            let x = at.load::<S>(self.x, start);
            let term = S::mul(at.load::<S>(self.g, start), x);
            *sum = S::add(*sum, S::sub(term, S::where_positive(x, term)));
        }
    }
}

impl Op for Prelu {
    fn reads(&self) -> Reads {
        Reads { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (slopes, x) = (cx.params.value(self.weight), x.get(0));
        let size = CHUNK.div_ceil(slopes.len()) * slopes.len();
        cx.pool.chunks(y, size, |i, y| {
            let x = &x[i * size..];
            for (y, x) in y.chunks_exact_mut(slopes.len()).zip(x.chunks_exact(slopes.len())) {
                for ((y, &x), &slope) in y.iter_mut().zip(x).zip(slopes) {
                    *y = if x > 0.0 { x } else { slope * x };
                }
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let x = x.get(0);
        let param = cx.params.get_mut(self.weight);
        let channels = param.value.len();
        if self.trains {
            let sums = self.columns.sum(cx.pool, gy.len() / channels, &mut [], &Slopes { g: gy, x, channels });
            for (gradient, &sum) in param.gradient.iter_mut().zip(sums) {
                *gradient = sum as f32;
            }
        }
        let slopes = &param.value[..];
        let size = CHUNK.div_ceil(channels) * channels;
        cx.pool.chunks(gy, size, |i, g| {
            let x = &x[i * size..];
            for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for ((g, &x), &slope) in g.iter_mut().zip(x).zip(slopes) {
                    *g = if x > 0.0 { *g } else { slope * *g };
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        self.columns.bytes()
    }
}
