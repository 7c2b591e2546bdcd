//! Elementwise activation functions.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Initial, Operation, Parameter, Rank, Role, check_finite};
use crate::Shape;

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x where x > 0, `slope` x elsewhere.
    LeakyRelu {
        /// Slope below zero.
        slope: f32,
    },
    /// Leaky ReLU with one learned slope a channel: parameter `weight` `[C]` (He et al., arXiv:1502.01852).
    Prelu,
    /// min(max(x, `min`), `max`); ReLU6 is 0 to 6.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// min(max(`alpha` x + `beta`, 0), 1).
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// x * min(max(x / 6 + 1/2, 0), 1) (Howard et al., arXiv:1905.02244).
    HardSwish,
    /// x * sigmoid(x).
    Silu,
    /// x * Phi(x), with Phi exact (erf) or by its tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415).
    Gelu {
        /// Whether the tanh approximation is meant.
        tanh: bool,
    },
    /// x * tanh(ln(1 + exp(x))) (Misra, arXiv:1908.08681).
    Mish,
    /// Hyperbolic tangent.
    Tanh,
    /// x where x > 0, `alpha` (exp(x) - 1) elsewhere (Clevert et al., arXiv:1511.07289).
    Elu {
        /// Scale below zero.
        alpha: f32,
    },
    /// 1.0507 x where x > 0, 1.0507 * 1.67326 (exp(x) - 1) elsewhere (Klambauer et al., arXiv:1706.02515).
    Selu,
    /// x where x > 0, `alpha` (exp(x / `alpha`) - 1) elsewhere (Barron, arXiv:1704.07483).
    Celu {
        /// Scale below zero.
        alpha: f32,
    },
    /// ln(1 + exp(x)).
    Softplus,
    /// The absolute value.
    Abs,
    /// Arc tangent.
    Atan,
    /// The error function.
    Erf,
    /// exp(x).
    Exp,
    /// The natural logarithm.
    Log,
    /// x to the power `exponent`: squares, square roots, reciprocals.
    Power {
        /// Exponent.
        exponent: f32,
    },
}

impl Activation {
    /// Whether the function is non-decreasing, so that it commutes with max-pooling.
    pub fn is_monotone(&self) -> bool {
        match self {
            Activation::Relu
            | Activation::Clip { .. }
            | Activation::Sigmoid
            | Activation::Tanh
            | Activation::Selu
            | Activation::Softplus
            | Activation::Atan
            | Activation::Erf
            | Activation::Exp
            | Activation::Log => true,
            Activation::Celu { alpha } => *alpha > 0.0,
            Activation::LeakyRelu { slope } => *slope >= 0.0,
            Activation::HardSigmoid { alpha, .. } | Activation::Elu { alpha } => *alpha >= 0.0,
            // The slopes of a PReLU are learned and may become negative.
            Activation::Prelu
            | Activation::HardSwish
            | Activation::Silu
            | Activation::Gelu { .. }
            | Activation::Mish
            | Activation::Abs
            | Activation::Power { .. } => false,
        }
    }
}

impl Operation for Activation {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        match *self {
            Activation::LeakyRelu { slope } => check_finite(&[slope])?,
            Activation::Clip { min, max } => check_finite(&[min, max])?,
            Activation::HardSigmoid { alpha, beta } => check_finite(&[alpha, beta])?,
            Activation::Elu { alpha } => check_finite(&[alpha])?,
            Activation::Power { exponent } => check_finite(&[exponent])?,
            Activation::Celu { alpha } => {
                check_finite(&[alpha])?;
                if alpha == 0.0 {
                    return Err("celu with alpha 0".into());
                }
            }
            Activation::Relu
            | Activation::Prelu
            | Activation::Sigmoid
            | Activation::HardSwish
            | Activation::Silu
            | Activation::Gelu { .. }
            | Activation::Mish
            | Activation::Tanh
            | Activation::Selu
            | Activation::Softplus
            | Activation::Abs
            | Activation::Atan
            | Activation::Erf
            | Activation::Exp
            | Activation::Log => {}
        }
        Ok(inputs[0])
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        match self {
            Activation::Prelu => vec![Parameter::trained("weight", vec![input.channels], Initial::Constant(0.25))],
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Clip { .. }
            | Activation::Sigmoid
            | Activation::HardSigmoid { .. }
            | Activation::HardSwish
            | Activation::Silu
            | Activation::Gelu { .. }
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
            | Activation::Power { .. } => Vec::new(),
        }
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Activation
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        match self {
            Activation::Relu => "relu".into(),
            Activation::LeakyRelu { slope } => format!("leaky relu {slope}"),
            Activation::Prelu => "prelu".into(),
            Activation::Clip { min: 0.0, max: 6.0 } => "relu6".into(),
            Activation::Clip { min, max } => format!("clip {min} to {max}"),
            Activation::Sigmoid => "sigmoid".into(),
            Activation::HardSigmoid { .. } => "hard sigmoid".into(),
            Activation::HardSwish => "hard swish".into(),
            Activation::Silu => "silu".into(),
            Activation::Gelu { .. } => "gelu".into(),
            Activation::Mish => "mish".into(),
            Activation::Tanh => "tanh".into(),
            Activation::Elu { alpha } => format!("elu {alpha}"),
            Activation::Selu => "selu".into(),
            Activation::Celu { alpha } => format!("celu {alpha}"),
            Activation::Softplus => "softplus".into(),
            Activation::Abs => "absolute value".into(),
            Activation::Atan => "arc tangent".into(),
            Activation::Erf => "erf".into(),
            Activation::Exp => "exp".into(),
            Activation::Log => "logarithm".into(),
            Activation::Power { exponent: 2.0 } => "square".into(),
            Activation::Power { exponent: 0.5 } => "square root".into(),
            Activation::Power { exponent: -1.0 } => "reciprocal".into(),
            Activation::Power { exponent } => format!("power {exponent}"),
        }
    }
}
