//! Identity init.

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues};
use crate::Error;

/// W = 1 at the output's own position and channel, else 0.
pub(super) struct Identity;

impl InitMethod for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn describe(&self) -> &str {
        "W = 1 at the output's own position for channel o mod i, else 0, and b = 0"
    }

    fn is_random(&self) -> bool {
        false
    }

    fn is_calibrated(&self) -> bool {
        true
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
        let layer = &problem.layer;
        let filters_per_group = layer.filters / layer.groups;
        let centre = layer.centre();
        let weight = layer.weight(|filter, channel, row, column| {
            let within = (filter % filters_per_group) % layer.channels_per_group();
            let own = filter / filters_per_group * layer.channels_per_group() + within;
            if channel == own && [row, column] == centre { 1.0 } else { 0.0 }
        });
        Ok(InitialValues::Affine { weight, bias: vec![0.0; layer.filters] })
    }
}
