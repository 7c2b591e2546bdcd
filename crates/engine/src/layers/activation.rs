//! Elementwise activation functions. PReLU, which has weights, is in [`super::prelu`].

use nettriage_kernels::activation;
use nettriage_net::Activation;

use super::{CHUNK, for_each_element, relu_backward};
use crate::operation::{Context, Inputs, Operation, SavedForBackward};

/// An activation that no other operation fuses.
pub(super) fn build(function: Activation) -> ActivationLayer {
    ActivationLayer { function, fused_relu_backward: false }
}

/// y = f(x), element by element.
pub(super) struct ActivationLayer {
    function: Activation,
    /// Whether the consumer applies the backward pass of this ReLU.
    fused_relu_backward: bool,
}

impl Operation for ActivationLayer {
    fn saved_for_backward(&self) -> SavedForBackward {
        match self.function {
            Activation::Relu => SavedForBackward { inputs: false, output: !self.fused_relu_backward },
            _ => SavedForBackward { inputs: true, output: false },
        }
    }

    fn applies_relu_backward(&self) -> bool {
        self.function == Activation::Relu && !self.fused_relu_backward
    }

    fn set_fused_relu_backward(&mut self) {
        self.fused_relu_backward = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (f, x) = (self.function, x.get(0));
        match vectorised(f) {
            Some(f) => cx.pool.chunks(y, CHUNK, |i, y| f.map(&x[i * CHUNK..], y)),
            None => for_each_element(y, x, cx.pool, |y, x| *y = value(f, x)),
        }
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.applies_relu_backward() {
            relu_backward(gy, y, cx.pool);
        } else if self.function != Activation::Relu {
            let (f, x) = (self.function, x.get(0));
            match vectorised(f) {
                Some(f) => cx.pool.chunks(gy, CHUNK, |i, g| f.backward(&x[i * CHUNK..], g)),
                None => for_each_element(gy, x, cx.pool, |g, x| *g *= derivative(f, x)),
            }
        }
    }
}

/// The function as a loop that compiles to vectors, if there is one; convolutions fuse these.
pub(super) fn vectorised(f: Activation) -> Option<activation::Activation> {
    match f {
        Activation::Relu => Some(activation::Activation::Relu),
        Activation::LeakyRelu { slope } => Some(activation::Activation::LeakyRelu { slope }),
        Activation::Clip { min, max } => Some(activation::Activation::Clip { min, max }),
        Activation::Sigmoid => Some(activation::Activation::Sigmoid),
        Activation::HardSigmoid { alpha, beta } => Some(activation::Activation::HardSigmoid { alpha, beta }),
        Activation::HardSwish => Some(activation::Activation::HardSwish),
        Activation::Silu => Some(activation::Activation::Silu),
        Activation::Gelu { tanh: false } => Some(activation::Activation::Gelu),
        Activation::Gelu { tanh: true } => Some(activation::Activation::GeluTanh),
        Activation::Prelu
        | Activation::Mish
        | Activation::Tanh
        | Activation::Elu { .. }
        | Activation::Selu
        | Activation::Celu { .. }
        | Activation::Softplus
        | Activation::Abs
        | Activation::Atan
        | Activation::Erf
        | Activation::Exp
        | Activation::Log
        | Activation::Power { .. } => None,
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// tanh(ln(1 + exp(x))) = n / (n + 2) with n = exp(x) (exp(x) + 2): no overflow, and exact for large negative x.
fn tanh_softplus(x: f32) -> f32 {
    // From here on the result rounds to 1.
    if x > 20.0 {
        return 1.0;
    }
    let n = x.exp() * (x.exp() + 2.0);
    n / (n + 2.0)
}

/// The constants of SELU (Klambauer et al., arXiv:1706.02515, equation 2).
const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_SCALE: f32 = 1.050_701;

/// x to this power; the usual ones without `powf`.
fn power(x: f32, exponent: f32) -> f32 {
    match exponent {
        0.0 => 1.0,
        1.0 => x,
        2.0 => x * x,
        3.0 => x * x * x,
        0.5 => x.sqrt(),
        -0.5 => 1.0 / x.sqrt(),
        -1.0 => 1.0 / x,
        -2.0 => 1.0 / (x * x),
        _ => x.powf(exponent),
    }
}

/// f(x) for the functions without a vectorised loop.
fn value(f: Activation, x: f32) -> f32 {
    match f {
        Activation::Relu
        | Activation::LeakyRelu { .. }
        | Activation::Clip { .. }
        | Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::HardSwish
        | Activation::Silu
        | Activation::Gelu { .. } => unreachable!("{f:?} has a vectorised loop"),
        Activation::Prelu => x,
        Activation::Mish => x * tanh_softplus(x),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                alpha * x.exp_m1()
            }
        }
        Activation::Selu => SELU_SCALE * value(Activation::Elu { alpha: SELU_ALPHA }, x),
        Activation::Celu { alpha } => {
            if x > 0.0 {
                x
            } else {
                alpha * (x / alpha).exp_m1()
            }
        }
        // ln(1 + exp(x)), without overflow for large x.
        Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Activation::Abs => x.abs(),
        Activation::Atan => x.atan(),
        Activation::Erf => libm::erff(x),
        Activation::Exp => x.exp(),
        Activation::Log => x.ln(),
        Activation::Power { exponent } => power(x, exponent),
    }
}

/// f'(x) for the functions without a vectorised loop, with PyTorch's choice where f is not differentiable.
fn derivative(f: Activation, x: f32) -> f32 {
    match f {
        Activation::Relu
        | Activation::LeakyRelu { .. }
        | Activation::Clip { .. }
        | Activation::Sigmoid
        | Activation::HardSigmoid { .. }
        | Activation::HardSwish
        | Activation::Silu
        | Activation::Gelu { .. } => unreachable!("{f:?} has a vectorised loop"),
        Activation::Prelu => 1.0,
        Activation::Mish => {
            let t = tanh_softplus(x);
            t + x * (1.0 - t * t) * sigmoid(x)
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
        Activation::Selu => SELU_SCALE * derivative(Activation::Elu { alpha: SELU_ALPHA }, x),
        Activation::Celu { alpha } => {
            if x > 0.0 {
                1.0
            } else {
                (x / alpha).exp()
            }
        }
        Activation::Softplus => sigmoid(x),
        Activation::Abs => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Activation::Atan => 1.0 / (1.0 + x * x),
        Activation::Erf => std::f32::consts::FRAC_2_SQRT_PI * (-x * x).exp(),
        Activation::Exp => x.exp(),
        Activation::Log => 1.0 / x,
        Activation::Power { exponent } => exponent * power(x, exponent - 1.0),
    }
}
