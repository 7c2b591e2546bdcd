//! Affine maps per channel: batch norm, and a norm that was folded into two constants a channel.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Initial, Operation, Parameter, Rank, Role};
use crate::Shape;

/// Batch normalisation per channel (Ioffe and Szegedy, arXiv:1502.03167).
///
/// Parameters `weight` and `bias`, buffers `running_mean` and `running_var`, each `[C]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the batch's statistics in the update of the running ones, as in PyTorch.
    pub momentum: f32,
}

impl Operation for BatchNorm {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let BatchNorm { eps, momentum } = self;
        if !(*eps >= 0.0 && eps.is_finite() && (0.0..=1.0).contains(momentum)) {
            return Err(format!("batch norm with eps {eps} and momentum {momentum}"));
        }
        Ok(inputs[0])
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        let mut list = Affine.parameters(input);
        list.push(Parameter::buffer("running_mean", vec![input.channels], Initial::Constant(0.0)));
        list.push(Parameter::buffer("running_var", vec![input.channels], Initial::Constant(1.0)));
        list
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Norm
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        "batch norm".into()
    }
}

/// y = x * `weight` + `bias`, each `[C]`.
pub(super) struct Affine;

impl Operation for Affine {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(inputs[0])
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        vec![
            Parameter::trained("weight", vec![input.channels], Initial::Constant(1.0)),
            Parameter::trained("bias", vec![input.channels], Initial::Constant(0.0)),
        ]
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Norm
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        "affine".into()
    }
}
