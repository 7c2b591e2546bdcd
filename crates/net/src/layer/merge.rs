//! Layers of several inputs: sum, product, concatenation.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;
use crate::shape::Axis;

/// Inputs joined along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis: the channels, unless stated.
    #[serde(default, skip_serializing_if = "Axis::is_channels")]
    pub axis: Axis,
}

fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ")
}

/// How the inputs become one tensor. An axis of extent 1 is broadcast.
pub(super) enum Merge {
    Add,
    Mul,
}

impl Operation for Merge {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let whole = inputs.iter().fold(inputs[0], |all, s| {
            Shape::new(all.channels.max(s.channels), all.height.max(s.height), all.width.max(s.width))
        });
        let broadcasts = |s: &Shape| Axis::ALL.iter().all(|&axis| [1, whole.extent(axis)].contains(&s.extent(axis)));
        if !inputs.iter().all(broadcasts) {
            return Err(format!("its inputs differ in shape: {}", list(inputs)));
        }
        Ok(whole)
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
        Role::Merge
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        match self {
            Merge::Add => "add".into(),
            Merge::Mul => "multiply".into(),
        }
    }
}

impl Operation for Concat {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let first = inputs[0];
        let same = |s: &Shape| s.with_extent(self.axis, 1) == first.with_extent(self.axis, 1);
        if !inputs.iter().all(same) {
            let others = match self.axis {
                Axis::Channels => "height or width",
                Axis::Rows => "channels or width",
                Axis::Columns => "channels or height",
            };
            return Err(format!("its inputs differ in {others}: {}", list(inputs)));
        }
        let extent = inputs.iter().try_fold(0usize, |sum, s| sum.checked_add(s.extent(self.axis)));
        Ok(first.with_extent(self.axis, extent.ok_or_else(|| format!("too many {}", self.axis))?))
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        (self.axis == Axis::Channels).then_some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Merge
    }

    fn rank(&self) -> Rank {
        if self.axis == Axis::Channels { Rank::AsInputs } else { Rank::FeatureMap }
    }

    fn describe(&self) -> String {
        if self.axis == Axis::Channels { "concat".into() } else { format!("concat along the {}", self.axis) }
    }
}
