//! A tensor that does not depend on the image: a class token, position embeddings, a mask.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Initial, Operation, Parameter, Rank, Role};
use crate::Shape;

/// The parameter `weight` `[C, H, W]` for every image. Its input only says where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constant {
    /// Shape per image.
    pub shape: Shape,
    /// Whether it is learned, as a position embedding is; a mask is not.
    pub learned: bool,
}

impl Operation for Constant {
    fn output(&self, _: &[Shape]) -> Result<Shape, String> {
        Ok(self.shape)
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        let Shape { channels, height, width } = self.shape;
        let shape = vec![channels, height, width];
        vec![match self.learned {
            true => Parameter::trained("weight", shape, Initial::Normal { deviation: 0.02 }),
            false => Parameter::buffer("weight", shape, Initial::Constant(0.0)),
        }]
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
        format!("{} {}", if self.learned { "parameter" } else { "constant" }, self.shape)
    }
}
