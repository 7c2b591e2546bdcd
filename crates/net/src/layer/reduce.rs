//! Mean or maximum over whole axes.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;
use crate::shape::Axis;

/// What a [`Reduce`] takes of the elements along its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Their mean.
    Mean,
    /// The largest.
    Max,
}

/// Mean or maximum over whole axes, which keep an extent of 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is taken.
    pub function: Reduction,
    /// The axes, each once.
    pub axes: Vec<Axis>,
}

impl Operation for Reduce {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let repeats = (1..self.axes.len()).any(|at| self.axes[..at].contains(&self.axes[at]));
        if repeats || self.axes.is_empty() {
            return Err("it names no axis, or one twice".into());
        }
        Ok(self.axes.iter().fold(inputs[0], |shape, &axis| shape.with_extent(axis, 1)))
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
        Role::AdaptivePooling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        let function = match self.function {
            Reduction::Mean => "mean",
            Reduction::Max => "maximum",
        };
        let axes: Vec<String> = self.axes.iter().map(Axis::to_string).collect();
        format!("{function} over {}", axes.join(" and "))
    }
}
