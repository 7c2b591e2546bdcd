//! Layers that change the resolution: constant border, nearest-neighbour upsampling, linear interpolation.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Padding, Parameter, Rank, Role, check_finite, padded};
use crate::Shape;

/// A constant border. Channels too, as the parameter-free shortcuts of CIFAR ResNets need (He et al., option A).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// Channels before and after.
    pub channels: [usize; 2],
    /// Rows and columns.
    pub padding: Padding,
    /// The value of all that is added.
    pub value: f32,
}

impl Operation for Pad {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (Pad { channels, padding, value }, input) = (self, inputs[0]);
        check_finite(&[*value])?;
        let deep = input.channels.checked_add(channels[0]).and_then(|n| n.checked_add(channels[1]));
        let rows = padded(input.height, padding.top, padding.bottom)?;
        let columns = padded(input.width, padding.left, padding.right)?;
        Ok(Shape::new(deep.ok_or("too many channels")?, rows, columns))
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint { before: self.padding.before(), ..Footprint::POINTWISE })
    }

    fn role(&self) -> Role {
        Role::Rearrangement
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        let mut text = String::from("pad");
        if self.channels != [0, 0] {
            text += &format!(" channels {}+{}", self.channels[0], self.channels[1]);
        }
        if self.padding != Padding::default() {
            text += &format!(" {}", self.padding.describe());
        }
        if self.value != 0.0 {
            text += &format!(" with {}", self.value);
        }
        text
    }
}

/// Nearest-neighbour enlargement by whole factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upsample {
    /// Factors, [rows, columns].
    pub factor: [usize; 2],
}

impl Operation for Upsample {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let (factor, input) = (self.factor, inputs[0]);
        let rows = input.height.checked_mul(factor[0]).ok_or("too many rows")?;
        let columns = input.width.checked_mul(factor[1]).ok_or("too many columns")?;
        Ok(Shape::new(input.channels, rows, columns))
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
        Role::Upsampling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("upsample {}x{}", self.factor[0], self.factor[1])
    }
}

/// Which input position an output position takes its value from, by ONNX's names of PyTorch's conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coordinates {
    /// (o + 1/2) / factor - 1/2: PyTorch's default.
    HalfPixel,
    /// The same, and 0 where the output has an extent of 1.
    PytorchHalfPixel,
    /// o (input - 1) / (output - 1): corners stay corners.
    AlignCorners,
    /// o / factor.
    Asymmetric,
}

/// Bilinear interpolation to another resolution, without a filter against aliasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Output rows.
    pub height: usize,
    /// Output columns.
    pub width: usize,
    /// Where output positions lie in the input.
    pub coordinates: Coordinates,
}

impl Resize {
    /// For each output position along an axis of `from` positions that becomes one of `to`: the two input positions between which
    /// it lies, and the weight of the second.
    pub fn taps(&self, from: usize, to: usize) -> Vec<(usize, usize, f32)> {
        let factor = to as f64 / from as f64;
        let tap = |at: usize| {
            let at = at as f64;
            let position = match self.coordinates {
                Coordinates::PytorchHalfPixel if to == 1 => 0.0,
                Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (at + 0.5) / factor - 0.5,
                Coordinates::AlignCorners if to == 1 => 0.0,
                Coordinates::AlignCorners => at * (from as f64 - 1.0) / (to as f64 - 1.0),
                Coordinates::Asymmetric => at / factor,
            };
            let position = position.clamp(0.0, from as f64 - 1.0);
            let first = position.floor() as usize;
            (first, (first + 1).min(from - 1), (position - position.floor()) as f32)
        };
        (0..to).map(tap).collect()
    }
}

impl Operation for Resize {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape::new(inputs[0].channels, self.height, self.width))
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
        Role::Upsampling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        format!("bilinear resize to {}x{}", self.height, self.width)
    }
}
