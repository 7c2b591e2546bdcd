//! The input as it is, in a tensor of the model's own.

use crate::op::{Context, Inputs, Op, Reads};

/// y = x.
pub(crate) struct Copy;

impl Op for Copy {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, _: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        y.copy_from_slice(x.get(0));
    }

    fn passes(&self, _: usize) -> bool {
        true
    }
}
