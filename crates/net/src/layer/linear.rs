//! Fully connected layers.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Initial, Operation, Parameter, Rank, Role, saturating_product};
use crate::{Shape, random};

/// A fully connected layer on an input of shape (F, 1, 1).
///
/// Parameters: `weight` `[features, F]` and, with a bias, `bias` `[features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Output features.
    pub features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Operation for Linear {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let input = inputs[0];
        if !input.is_vector() {
            return Err(format!("a linear layer takes a vector, not {input}; put a flatten before it"));
        }
        Ok(Shape::new(self.features, 1, 1))
    }

    /// Both uniform in ±1/sqrt(F), PyTorch's default.
    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        let weight = vec![self.features, input.channels];
        let initial = Initial::Uniform { bound: random::fan_in(&weight).sqrt().recip() };
        let mut list = vec![Parameter::trained("weight", weight, initial)];
        if self.bias {
            list.push(Parameter::trained("bias", vec![self.features], initial));
        }
        list
    }

    fn macs(&self, input: Shape, _: Shape) -> u64 {
        saturating_product(&[input.channels, self.features])
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::Linear
    }

    fn rank(&self) -> Rank {
        Rank::Vector
    }

    fn describe(&self) -> String {
        format!("linear {}", self.features)
    }
}
