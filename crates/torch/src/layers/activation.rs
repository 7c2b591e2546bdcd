//! Elementwise activation functions, and PReLU.

use nettriage_net::Activation;

use super::{Backward, CHECKED, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::abi::Argument::{Some as Given, Tensor as T, Text};
use crate::abi::Tensor;
use crate::parameters::ParameterId;
use crate::{Result, Torch};

/// y = f(x), element by element.
pub(super) struct Elementwise {
    pub function: Activation,
}

/// The string that selects GELU's form.
fn form(tanh: bool) -> &'static str {
    if tanh { "tanh" } else { "none" }
}

/// min(max(x, `low`), `high`).
fn clamp(torch: &Torch, x: &Tensor, low: f32, high: f32) -> Result<Tensor> {
    let [low, high] = [torch.scalar(low.into())?, torch.scalar(high.into())?];
    x.overload(c"aten::clamp", c"Tensor", &[T(x), Given(&T(&low)), Given(&T(&high))])
}

/// `gradient` where `low` < x < `high`, 0 elsewhere.
fn between(torch: &Torch, gradient: &Tensor, x: &Tensor, low: f32, high: f32) -> Result<Tensor> {
    let above = x.with(c"aten::gt", &torch.scalar(low.into())?)?;
    let below = x.with(c"aten::lt", &torch.scalar(high.into())?)?;
    let inside = above.one(c"aten::logical_and", &[T(&above), T(&below)])?;
    gradient.where_or(&inside, &torch.scalar(0.0)?)
}

/// x > 0.
fn positive(torch: &Torch, x: &Tensor) -> Result<Tensor> {
    x.with(c"aten::gt", &torch.scalar(0.0)?)
}

/// `factor` x.
fn times(torch: &Torch, x: &Tensor, factor: f32) -> Result<Tensor> {
    x.mul(&torch.scalar(factor.into())?)
}

/// `alpha` x + `beta`.
fn line(torch: &Torch, x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
    times(torch, x, alpha)?.add(&torch.scalar(beta.into())?)
}

/// The constants of SELU (Klambauer et al., arXiv:1706.02515, equation 2).
const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_SCALE: f32 = 1.050_701;

/// x to the power `exponent`.
fn power(torch: &Torch, x: &Tensor, exponent: f32) -> Result<Tensor> {
    x.overload(c"aten::pow", c"Tensor_Tensor", &[T(x), T(&torch.scalar(exponent.into())?)])
}

impl Operation for Elementwise {
    fn traits(&self) -> Traits {
        let from_output = matches!(self.function, Activation::Relu | Activation::Sigmoid | Activation::Tanh);
        Traits { inputs: !from_output, output: from_output, overwritable: !from_output }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let (x, torch) = (inputs[0], pass.torch);
        let value = match self.function {
            Activation::Relu => x.map(c"aten::relu"),
            Activation::LeakyRelu { slope } => x.where_or(&positive(torch, x)?, &times(torch, x, slope)?),
            Activation::Prelu => unreachable!("it is an operation of its own"),
            Activation::Clip { min, max } => clamp(torch, x, min, max),
            Activation::Sigmoid => x.map(c"aten::sigmoid"),
            Activation::HardSigmoid { alpha, beta } => clamp(torch, &line(torch, x, alpha, beta)?, 0.0, 1.0),
            Activation::HardSwish => x.map(c"aten::hardswish"),
            Activation::Silu => x.map(c"aten::silu"),
            Activation::Gelu { tanh } => x.one(c"aten::gelu", &[T(x), Text(form(tanh))]),
            Activation::Mish => x.map(c"aten::mish"),
            Activation::Tanh => x.map(c"aten::tanh"),
            Activation::Elu { alpha } => {
                x.where_or(&positive(torch, x)?, &times(torch, &x.map(c"aten::expm1")?, alpha)?)
            }
            Activation::Selu => x.map(c"aten::selu"),
            Activation::Celu { alpha } => {
                let bent = times(torch, x, 1.0 / alpha)?.map(c"aten::expm1")?;
                x.where_or(&positive(torch, x)?, &times(torch, &bent, alpha)?)
            }
            // max(x, 0) + ln(1 + exp(-|x|)), without overflow.
            Activation::Softplus => {
                let small = times(torch, &x.map(c"aten::abs")?, -1.0)?.map(c"aten::exp")?.map(c"aten::log1p")?;
                x.map(c"aten::relu")?.add(&small)
            }
            Activation::Abs => x.map(c"aten::abs"),
            Activation::Atan => x.map(c"aten::atan"),
            Activation::Erf => x.map(c"aten::erf"),
            Activation::Exp => x.map(c"aten::exp"),
            Activation::Log => x.map(c"aten::log"),
            Activation::Power { exponent } => power(torch, x, exponent),
        };
        Ok(value?.into())
    }

    fn forward_in_place(&self, input: &Tensor) -> Option<Result<Output>> {
        (self.function == Activation::Relu).then(|| Ok(input.map(c"aten::relu_")?.into()))
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (torch, g) = (pass.torch, &state.gradient.value);
        if self.function == Activation::Relu {
            return relu_backward(&state);
        }
        let x = state.inputs.first();
        let x = || x.expect("the operation reads its input");
        let of = |name, tensor: &Tensor| g.one(name, &[T(g), T(tensor)]);
        let gradient = match self.function {
            Activation::Relu | Activation::Prelu => unreachable!("operations of their own"),
            Activation::LeakyRelu { slope } => g.where_or(&positive(torch, x())?, &times(torch, g, slope)?),
            Activation::Clip { min, max } => between(torch, g, x(), min, max),
            Activation::Sigmoid => of(c"aten::sigmoid_backward", state.output()),
            Activation::HardSigmoid { alpha, beta } => {
                between(torch, &times(torch, g, alpha)?, &line(torch, x(), alpha, beta)?, 0.0, 1.0)
            }
            Activation::HardSwish => of(c"aten::hardswish_backward", x()),
            Activation::Silu => of(c"aten::silu_backward", x()),
            Activation::Gelu { tanh } => g.one(c"aten::gelu_backward", &[T(g), T(x()), Text(form(tanh))]),
            Activation::Mish => of(c"aten::mish_backward", x()),
            Activation::Tanh => of(c"aten::tanh_backward", state.output()),
            Activation::Elu { alpha } => {
                let slope = times(torch, &x().map(c"aten::exp")?, alpha)?;
                g.where_or(&positive(torch, x())?, &g.mul(&slope)?)
            }
            Activation::Selu => {
                let slope = times(torch, &x().map(c"aten::exp")?, SELU_SCALE * SELU_ALPHA)?;
                times(torch, g, SELU_SCALE)?.where_or(&positive(torch, x())?, &g.mul(&slope)?)
            }
            Activation::Celu { alpha } => {
                let slope = times(torch, x(), 1.0 / alpha)?.map(c"aten::exp")?;
                g.where_or(&positive(torch, x())?, &g.mul(&slope)?)
            }
            Activation::Softplus => g.mul(&x().map(c"aten::sigmoid")?),
            Activation::Abs => g.mul(&x().map(c"aten::sign")?),
            Activation::Atan => g.div(&line(torch, &x().mul(x())?, 1.0, 1.0)?),
            Activation::Erf => {
                let slope = times(torch, &x().mul(x())?, -1.0)?.map(c"aten::exp")?;
                g.mul(&times(torch, &slope, std::f32::consts::FRAC_2_SQRT_PI)?)
            }
            Activation::Exp => g.mul(&x().map(c"aten::exp")?),
            Activation::Log => g.div(x()),
            Activation::Power { exponent } => g.mul(&times(torch, &power(torch, x(), exponent - 1.0)?, exponent)?),
        };
        Ok(Gradients::own(gradient?))
    }
}

/// The gradient times the sign of the output, which is 0 or 1. PyTorch's own operator takes a scalar, which the ABI does not pass; with
/// the output's memory for the sign and the gradient's for the product, this takes half its time.
fn relu_backward(state: &Backward<'_>) -> Result<Gradients> {
    let (gradient, output) = (&state.gradient, state.output());
    let sign = output.map(if state.consumable { c"aten::sign_" } else { c"aten::sign" })?;
    if gradient.shared {
        return Ok(Gradients::own(gradient.value.mul(&sign)?));
    }
    gradient.value.mul_in_place(&sign)?;
    Ok(Gradients::own(gradient.value.clone()))
}

/// PReLU.
pub(super) fn build_prelu(cx: &mut Context<'_>) -> Prelu {
    Prelu { weight: cx.weight("weight").expect(CHECKED), trains: cx.trains, channels: cx.output.channels as i64 }
}

/// y = x where x > 0, slope x elsewhere, one slope per channel.
pub(super) struct Prelu {
    weight: ParameterId,
    trains: bool,
    channels: i64,
}

impl Prelu {
    /// The slopes, in the type of `x`.
    fn slopes(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let slopes = pass.parameters.value(self.weight).reshape(&[1, self.channels, 1, 1])?;
        slopes.to_type(x.element_type().unwrap_or(crate::abi::Type::Float32))
    }
}

impl Operation for Prelu {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let x = inputs[0];
        Ok(x.one(c"aten::_prelu_kernel", &[T(x), T(&self.slopes(pass, x)?)])?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (x, gradient) = (&state.inputs[0], &state.gradient.value);
        let arguments = [T(gradient), T(x), T(&self.slopes(pass, x)?)];
        let [input, slopes] = x.library().call(c"aten::_prelu_kernel_backward", c"", &arguments)?;
        let weights =
            if self.trains { vec![(self.weight, slopes.float()?.sum(&[0, 2, 3], false)?)] } else { Vec::new() };
        Ok(Gradients { inputs: vec![Some(Gradient::own(input))], weights })
    }
}
