//! Batch normalisation and affine layers.

use nettriage_net::layer;

use super::{Backward, CHECKED, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::{self, Bool, Bools, Float, None, Some as Given, Tensor as T};
use crate::abi::Tensor;
use crate::parameters::ParameterId;

/// A batch norm.
pub(super) fn build(cx: &mut Context<'_>, norm: layer::BatchNorm) -> BatchNorm {
    BatchNorm {
        weight: cx.weight("weight").expect(CHECKED),
        bias: cx.weight("bias").expect(CHECKED),
        mean: cx.statistic("running_mean").expect(CHECKED),
        variance: cx.statistic("running_var").expect(CHECKED),
        eps: f64::from(norm.eps),
        momentum: f64::from(norm.momentum),
        trains: cx.trains,
        positions: cx.output.height * cx.output.width,
    }
}

/// An affine layer.
pub(super) fn build_affine(cx: &mut Context<'_>) -> Affine {
    Affine {
        weight: cx.weight("weight").expect(CHECKED),
        bias: cx.weight("bias").expect(CHECKED),
        trains: cx.trains,
        channels: cx.output.channels as i64,
    }
}

/// Batch normalisation: by the statistics of the batch where it trains, in training; else by the running ones.
pub(super) struct BatchNorm {
    weight: ParameterId,
    bias: ParameterId,
    mean: ParameterId,
    variance: ParameterId,
    eps: f64,
    momentum: f64,
    trains: bool,
    positions: usize,
}

impl BatchNorm {
    /// Whether the pass normalises by the batch's statistics. A single value per channel has no variance.
    fn on_batch(&self, pass: &Pass<'_>) -> bool {
        self.trains && pass.training.is_some() && pass.n * self.positions > 1
    }
}

impl Operation for BatchNorm {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let x = inputs[0];
        let [weight, bias, mean, variance] =
            [self.weight, self.bias, self.mean, self.variance].map(|id| T(pass.parameters.value(id)));
        let (weight, bias) = (Given(&weight), Given(&bias));
        if self.on_batch(pass) {
            // The operator that chooses the device's best kernel.
            let arguments = [T(x), weight, bias, mean, variance, Float(self.momentum), Float(self.eps)];
            let [value, saved @ ..]: [Tensor; 4] =
                x.library().call(c"aten::_batch_norm_with_update", c"", &arguments)?;
            return Ok(Output { value, saved: saved.into() });
        }
        let statistics = [Given(&mean), Given(&variance)];
        let arguments =
            [T(x), weight, bias, statistics[0], statistics[1], Bool(false), Float(self.momentum), Float(self.eps)];
        let [value, _, _] = x.library().call(c"aten::native_batch_norm", c"", &arguments)?;
        Ok(value.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let (x, gradient) = (&state.inputs[0], &state.gradient.value);
        let [weight, mean, variance] = [self.weight, self.mean, self.variance].map(|id| T(pass.parameters.value(id)));
        let (mean, variance) = (Given(&mean), Given(&variance));
        let (needed, eps) = (state.needed[0], Float(self.eps));
        let mask = [needed, self.trains, self.trains];
        let mask = Bools(&mask);
        let [input, weight, bias]: [Tensor; 3] = match state.saved {
            [batch_mean, batch_deviation, reserve] => {
                let [batch_mean, batch_deviation] = [T(batch_mean), T(batch_deviation)];
                let (batch_mean, batch_deviation) = (Given(&batch_mean), Given(&batch_deviation));
                let arguments: [Argument<'_>; 11] = [
                    T(gradient),
                    T(x),
                    weight,
                    mean,
                    variance,
                    batch_mean,
                    batch_deviation,
                    Bool(true),
                    eps,
                    mask,
                    T(reserve),
                ];
                x.library().call(c"aten::batch_norm_backward", c"", &arguments)?
            }
            _ => {
                let arguments = [T(gradient), T(x), Given(&weight), mean, variance, None, None, Bool(false), eps, mask];
                x.library().call(c"aten::native_batch_norm_backward", c"", &arguments)?
            }
        };
        let weights = if self.trains { vec![(self.weight, weight), (self.bias, bias)] } else { Vec::new() };
        Ok(Gradients { inputs: vec![needed.then(|| Gradient::own(input))], weights })
    }
}

/// y = x w + b per channel.
pub(super) struct Affine {
    weight: ParameterId,
    bias: ParameterId,
    trains: bool,
    channels: i64,
}

impl Affine {
    fn per_channel(&self, pass: &Pass<'_>, id: ParameterId) -> Result<Tensor> {
        pass.parameters.value(id).reshape(&[1, self.channels, 1, 1])
    }
}

impl Operation for Affine {
    fn traits(&self) -> Traits {
        Traits { inputs: self.trains, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let scaled = inputs[0].mul(&self.per_channel(pass, self.weight)?)?;
        Ok(scaled.add(&self.per_channel(pass, self.bias)?)?.into())
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = &state.gradient.value;
        let mut gradients = Gradients::own(gradient.mul(&self.per_channel(pass, self.weight)?)?);
        if self.trains {
            let sum = |tensor: &Tensor| tensor.float()?.sum(&[0, 2, 3], false);
            gradients.weights.push((self.weight, sum(&gradient.mul(&state.inputs[0])?)?));
            gradients.weights.push((self.bias, sum(gradient)?));
        }
        Ok(gradients)
    }
}
