//! Norms by the statistics of one image: layer norm, root-mean-square norm, group norm and instance norm.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Initial, Operation, Parameter, Rank, Role, check_divides};
use crate::Shape;

/// Layer normalisation over the channels of each position (Ba et al., arXiv:1607.06450), or its variant without a mean, RMSNorm
/// (Zhang and Sennrich, arXiv:1910.07467): y = (x - mean) / sqrt(variance + `eps`) `weight` + `bias`, with one weight and one
/// bias per channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance, or to the mean of squares.
    pub eps: f32,
    /// Whether the mean is subtracted. Without it there is no bias either.
    pub centred: bool,
}

/// Group normalisation (Wu and He, arXiv:1803.08494): statistics over groups of channels and all positions of an image. A group per
/// channel is instance normalisation (Ulyanov et al., arXiv:1607.08022). Parameters `weight` and `bias`, each `[C]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

fn check_eps(eps: f32) -> Result<(), String> {
    if eps >= 0.0 && eps.is_finite() { Ok(()) } else { Err(format!("a norm with eps {eps}")) }
}

fn scale_and_shift(input: Shape) -> Vec<Parameter> {
    vec![
        Parameter::trained("weight", vec![input.channels], Initial::Constant(1.0)),
        Parameter::trained("bias", vec![input.channels], Initial::Constant(0.0)),
    ]
}

impl Operation for LayerNorm {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_eps(self.eps)?;
        Ok(inputs[0])
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        let mut list = scale_and_shift(input);
        list.truncate(if self.centred { 2 } else { 1 });
        list
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::CrossChannelNorm
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        if self.centred { "layer norm".into() } else { "rms norm".into() }
    }
}

impl Operation for GroupNorm {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_eps(self.eps)?;
        check_divides(self.groups, inputs[0].channels, "groups", "channels")?;
        Ok(inputs[0])
    }

    fn parameters(&self, input: Shape) -> Vec<Parameter> {
        scale_and_shift(input)
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::CrossChannelNorm
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("group norm, {} groups", self.groups)
    }
}
