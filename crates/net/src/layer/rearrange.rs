//! Layers that move or select elements: flatten, reshape, channel shuffle, slice.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role, check_divides};
use crate::Shape;
use crate::shape::check_extent;

/// (C, H, W) to (C H W, 1, 1).
pub(super) struct Flatten;

impl Operation for Flatten {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::new(inputs[0].elements(), 1, 1))
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
        Role::Reshape
    }

    fn rank(&self) -> Rank {
        Rank::Vector
    }

    fn describe(&self) -> String {
        "flatten".into()
    }
}

/// The same elements, in (C, H, W) order, under another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// The new shape.
    pub shape: Shape,
}

impl Operation for Reshape {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (input, shape) = (inputs[0], self.shape);
        check_extent(shape)?;
        if shape.elements() != input.elements() {
            return Err(format!("{input} cannot be reshaped to {shape}: other number of elements"));
        }
        Ok(shape)
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
        Role::Reshape
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("reshape to {}", self.shape)
    }
}

/// Channel shuffle (Zhang et al., arXiv:1707.01083): channels as a matrix (groups, C / groups), transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelShuffle {
    /// Number of groups; divides C.
    pub groups: usize,
}

impl Operation for ChannelShuffle {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_divides(self.groups, inputs[0].channels, "groups", "channels")?;
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
        Role::Rearrangement
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("channel shuffle, {} groups", self.groups)
    }
}

/// Channels `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// First channel.
    pub start: usize,
    /// One past the last channel.
    pub end: usize,
}

impl Operation for Slice {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (Slice { start, end }, input) = (*self, inputs[0]);
        if start >= end || end > input.channels {
            return Err(format!("channels {start}..{end} of {}", input.channels));
        }
        Ok(Shape::new(end - start, input.height, input.width))
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
        Role::Reshape
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        format!("channels {}..{}", self.start, self.end)
    }
}
