//! Xavier (Glorot) init.

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues};
use crate::{Error, Tensor, random};

/// W uniform in ±sqrt(6 / (fan-in + fan-out)).
pub(super) struct Xavier;

impl InitMethod for Xavier {
    fn name(&self) -> &str {
        "xavier"
    }

    fn describe(&self) -> &str {
        "W uniform in ±sqrt(6 / (i k² + o k²)), b = 0 (Glorot and Bengio 2010, eq. 16)"
    }

    fn is_random(&self) -> bool {
        true
    }

    fn is_calibrated(&self) -> bool {
        false
    }

    fn values(&self, problem: &InitProblem<'_>, rng: &mut dyn Rng) -> Result<InitialValues, Error> {
        let layer = &problem.layer;
        let bound = (6.0 / (layer.fan_in() + layer.fan_out())).sqrt();
        let data = random::uniform(layer.elements(), bound, rng);
        Ok(InitialValues::FromScratch { weight: Tensor { shape: layer.shape.clone(), data } })
    }
}
