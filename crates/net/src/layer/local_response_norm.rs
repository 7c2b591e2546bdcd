//! Local response normalisation.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role, check_finite};
use crate::Shape;

/// Local response normalisation across channels (Krizhevsky et al., 2012, section 3.3), scaled as in PyTorch:
/// y = x / (`bias` + `alpha` / `size` * sum of x² over the window)^`beta`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalResponseNorm {
    /// Channels in the window.
    pub size: usize,
    /// Scale.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// Additive constant k.
    pub bias: f32,
}

impl Operation for LocalResponseNorm {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        check_finite(&[self.alpha, self.beta, self.bias])?;
        if self.size == 0 { Err("a window of no channels".into()) } else { Ok(inputs[0]) }
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
        Role::CrossChannelNorm
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("local response norm, {}", self.size)
    }
}
