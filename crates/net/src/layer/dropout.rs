//! Layers that are the identity in evaluation mode.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;

/// Zeroes each element with probability `p` in training and scales the rest by 1 / (1 - p).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability, in [0, 1).
    pub p: f32,
}

impl Operation for Dropout {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let p = self.p;
        if (0.0..1.0).contains(&p) { Ok(inputs[0]) } else { Err(format!("dropout probability {p} is not in [0, 1)")) }
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
        Role::NoOp
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        format!("dropout {}", self.p)
    }
}

/// The input unchanged.
pub(super) struct Identity;

impl Operation for Identity {
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
        Role::NoOp
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        "identity".into()
    }
}
