//! Products of two tensors, as in attention.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Parameter, Rank, Role, saturating_product};
use crate::Shape;

/// One matrix product per row of two feature maps (Vaswani et al., arXiv:1706.03762, equation 1).
///
/// A tensor (C, H, W) is H matrices of W x C: positions by features. The first input is A, (K, H, M); the second is B, (N, H, K), or
/// its transpose (K, H, N). The output is A B, (N, H, M).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatMul {
    /// Whether the second input is transposed.
    pub transposed: bool,
}

impl Operation for MatMul {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let [a, b] = inputs else { return Err(format!("it has {} inputs and takes two", inputs.len())) };
        let (inner, columns) = if self.transposed { (b.channels, b.width) } else { (b.width, b.channels) };
        if a.channels != inner || a.height != b.height {
            return Err(format!("matrices of {a} and {b} cannot be multiplied"));
        }
        Ok(Shape::new(columns, a.height, a.width))
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, input: Shape, output: Shape) -> u64 {
        saturating_product(&[output.channels, output.height, output.width, input.channels])
    }

    fn footprint(&self) -> Option<Footprint> {
        None
    }

    fn role(&self) -> Role {
        Role::Merge
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        if self.transposed { "matrix product, transposed".into() } else { "matrix product".into() }
    }
}
