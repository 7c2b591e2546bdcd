//! Elementwise activation functions. PReLU, which has weights, is in [`super::prelu`].

use nettriage_net::Activation;

use super::{for_each_element, relu_backward};
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
        let f = self.function;
        for_each_element(y, x.get(0), cx.pool, |y, x| *y = value(f, x));
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.applies_relu_backward() {
            relu_backward(gy, y, cx.pool);
        } else if self.function != Activation::Relu {
            let f = self.function;
            for_each_element(gy, x.get(0), cx.pool, |g, x| *g *= derivative(f, x));
        }
    }
}

/// The cumulative distribution function of the normal distribution.
fn phi(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The argument of tanh in GELU's approximation (Hendrycks and Gimpel, arXiv:1606.08415, section 2), and its derivative.
fn gelu_inner(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    (ROOT * (x + 0.044715 * x * x * x), ROOT * (1.0 + 3.0 * 0.044715 * x * x))
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
            // Comparisons, so that NaN stays NaN.
            let x = if x < min { min } else { x };
            if x > max { max } else { x }
        }
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => value(Activation::Clip { min: 0.0, max: 1.0 }, alpha * x + beta),
        Activation::HardSwish => x * value(Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu { tanh: false } => x * phi(x),
        Activation::Gelu { tanh: true } => 0.5 * x * (1.0 + gelu_inner(x).0.tanh()),
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

/// f'(x), with PyTorch's choice where f is not differentiable.
fn derivative(f: Activation, x: f32) -> f32 {
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
            let (inner, inner_derivative) = gelu_inner(x);
            let t = inner.tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_derivative
        }
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
