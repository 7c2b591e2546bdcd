//! He init.

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues};
use crate::{Error, Tensor, random};

/// W normal with variance 2 / fan-in.
pub(super) struct He;

impl InitMethod for He {
    /// `random`, as the paper on deep net triage (arXiv:1801.04651v2) calls it.
    fn name(&self) -> &str {
        "random"
    }

    fn aliases(&self) -> &[&str] {
        &["he"]
    }

    fn describe(&self) -> &str {
        "W normal with mean 0 and variance 2 / (i k²), b = 0 (He et al. 2015, eq. 10)"
    }

    fn is_random(&self) -> bool {
        true
    }

    fn is_calibrated(&self) -> bool {
        false
    }

    fn values(&self, problem: &InitProblem<'_>, rng: &mut dyn Rng) -> Result<InitialValues, Error> {
        let layer = &problem.layer;
        let data = random::normal(layer.elements(), (2.0 / layer.fan_in()).sqrt(), rng);
        Ok(InitialValues::FromScratch { weight: Tensor { shape: layer.shape.clone(), data } })
    }
}
