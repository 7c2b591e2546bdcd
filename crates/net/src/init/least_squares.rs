//! Least-squares init: its name and description only, because it needs images. `nettriage-study` accumulates and solves its
//! normal equations with `nettriage-compress`.

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues};
use crate::Error;

/// Ridge regression from the block's input to its output before the closing activation.
pub(super) struct LeastSquares;

impl InitMethod for LeastSquares {
    fn name(&self) -> &str {
        "least-squares"
    }

    fn describe(&self) -> &str {
        "W and b by ridge regression from the block's input to its output before the activation (Hoerl and Kennard 1970)"
    }

    fn is_random(&self) -> bool {
        false
    }

    fn needs_images(&self) -> bool {
        true
    }

    fn is_calibrated(&self) -> bool {
        true
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
        Err(problem.error("the least-squares init needs images; it cannot be computed from the weights alone"))
    }
}
