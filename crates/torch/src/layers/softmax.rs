//! Softmax over the channels, or its logarithm.

use super::{Backward, Gradients, Operation, Output, Pass, Traits};
use crate::Result;
use crate::abi::Tensor;

/// Softmax, computed in f32.
pub(super) struct Softmax {
    pub log: bool,
}

impl Operation for Softmax {
    fn traits(&self) -> Traits {
        Traits { inputs: false, output: true, overwritable: false }
    }

    fn forward(&self, _: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output> {
        Ok(inputs[0].float()?.softmax(self.log)?.into())
    }

    fn backward(&self, _: &Pass<'_>, state: Backward<'_>) -> Result<Gradients> {
        let gradient = state.gradient.value.float()?;
        Ok(Gradients::own(state.output().softmax_backward(&gradient, self.log)?))
    }
}
