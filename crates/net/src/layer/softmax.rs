//! Softmax.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;

/// Softmax over the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Softmax {
    /// Whether its logarithm is meant.
    pub log: bool,
}

impl Operation for Softmax {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Softmax
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        if self.log { "log softmax".into() } else { "softmax".into() }
    }
}
