//! Selection of positions along one axis: crops, strides, repetitions, shifts and borders that repeat the content.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;
use crate::shape::Axis;

/// Position i of the output along `axis` is position `indices[i]` of the input; positions may be left out and repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// The axis.
    pub axis: Axis,
    /// Positions of the input.
    pub indices: Vec<usize>,
}

impl Operation for Gather {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let extent = inputs[0].extent(self.axis);
        match self.indices.iter().find(|&&index| index >= extent) {
            Some(index) => Err(format!("position {index} of {extent} {}", self.axis)),
            None => Ok(inputs[0].with_extent(self.axis, self.indices.len())),
        }
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::Rearrangement
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        let (count, first) = (self.indices.len(), self.indices.first().copied().unwrap_or(0));
        if self.indices.iter().enumerate().all(|(at, &index)| index == first + at) {
            return format!("{} {first}..{}", self.axis, first + count);
        }
        format!("select {count} {}", self.axis)
    }
}
