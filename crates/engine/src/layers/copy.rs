//! A copy of the input.

use crate::operation::{Context, Inputs, Operation, SavedForBackward};

/// y = x.
pub(crate) struct Copy;

impl Operation for Copy {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, _: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        y.copy_from_slice(x.get(0));
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }
}
