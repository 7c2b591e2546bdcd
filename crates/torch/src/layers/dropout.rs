//! Dropout, by the masks of the first engine.

use nettriage_engine::random::key;
use nettriage_net::Shape;

use super::{Backward, Context, Gradient, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Tensor;
use crate::random::dropout_factors;

/// Dropout with probability `p`, which is the identity where the layer is frozen or drops nothing.
pub(super) fn build(cx: &Context<'_>, p: f32) -> Dropout {
    Dropout { layer: cx.layer.name.clone(), p: if cx.trains { p } else { 0.0 }, shape: cx.output }
}

/// In training, multiplies each element by 0 with probability `p` and by 1 / (1 - p) otherwise.
pub(super) struct Dropout {
    layer: String,
    p: f32,
    shape: Shape,
}

impl Operation for Dropout {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: false, overwritable: false }
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        let x = inputs[0];
        let Some(seed) = pass.training.filter(|_| self.p > 0.0) else { return Ok(x.clone().into()) };
        let Shape { channels, height, width } = self.shape;
        let sizes = [pass.n, channels, height, width];
        let factors = dropout_factors(pass.torch, key(seed, &self.layer), sizes, self.p)?;
        // Not 0 times x, which is NaN for an infinite x.
        let kept = factors.with(c"aten::gt", &pass.torch.scalar(0.0)?)?;
        let value = x.mul(&factors)?.where_or(&kept, &pass.torch.scalar(0.0)?)?;
        Ok(Output { value, saved: vec![factors] })
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        Ok(match state.saved {
            [factors] => Gradients::of(Gradient::own(state.gradient.value.mul(factors)?)),
            _ => Gradients::of(state.gradient),
        })
    }
}
