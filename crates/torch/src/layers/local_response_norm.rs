//! Local response normalisation across channels.

use nettriage_net::layer;

use super::{Backward, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Argument::Tensor as T;
use crate::abi::Tensor;

/// y = x / (bias + alpha / size x sum of x² over the window)^beta.
pub(super) struct LocalResponseNorm {
    pub norm: layer::LocalResponseNorm,
    pub channels: usize,
}

/// The sum over `size` neighbouring channels, `before` of them before the own one.
fn window_sum(x: &Tensor, size: usize, before: usize, channels: usize) -> Result<Tensor> {
    let padded = x.pad(&[0, 0, 0, 0, before as i64, (size - 1 - before) as i64], 0.0)?;
    let first = padded.narrow(1, 0, channels)?;
    (1..size).try_fold(first, |sum, start| sum.add(&padded.narrow(1, start, channels)?))
}

impl LocalResponseNorm {
    /// base^exponent.
    fn power(pass: &Pass<'_>, base: &Tensor, exponent: f64) -> Result<Tensor> {
        let exponent = pass.torch.scalar(exponent)?;
        base.overload(c"aten::pow", c"Tensor_Tensor", &[T(base), T(&exponent)])
    }
}

impl Operation for LocalResponseNorm {
    fn traits(&self) -> Traits {
        Traits { inputs: true, output: false, overwritable: true }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let layer::LocalResponseNorm { size, alpha, beta, bias } = self.norm;
        let x = inputs[0].float()?;
        let squares = window_sum(&x.mul(&x)?, size, (size - 1) / 2, self.channels)?;
        let scaled = squares.mul(&pass.torch.scalar(f64::from(alpha) / size as f64)?)?;
        let base = scaled.add(&pass.torch.scalar(f64::from(bias))?)?;
        let value = x.mul(&LocalResponseNorm::power(pass, &base, -f64::from(beta))?)?;
        Ok(Output { value, saved: vec![base] })
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let layer::LocalResponseNorm { size, alpha, beta, .. } = self.norm;
        let (x, gradient, base) = (state.inputs[0].float()?, state.gradient.value.float()?, &state.saved[0]);
        let direct = gradient.mul(&LocalResponseNorm::power(pass, base, -f64::from(beta))?)?;
        // Channel j is in the windows of as many channels after it as its own window has before it.
        let terms = gradient.mul(&x)?.mul(&LocalResponseNorm::power(pass, base, -f64::from(beta) - 1.0)?)?;
        let sums = window_sum(&terms, size, size / 2, self.channels)?;
        let factor = 2.0 * f64::from(alpha) * f64::from(beta) / size as f64;
        Ok(Gradients::own(direct.subtract(&x.mul(&sums)?, factor)?))
    }
}
