//! Pooling: maximum, mean, and mean over a fixed grid.

use serde::{Deserialize, Serialize};

use super::operation::{Footprint, Operation, Padding, Parameter, Rank, Role, describe_pair, windows};
use crate::Shape;

/// The window of a pooling layer. [`Kind::MaxPool`](super::Kind::MaxPool) has no other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Extent, [rows, columns].
    pub kernel: [usize; 2],
    /// Stride, [rows, columns].
    pub stride: [usize; 2],
    /// Padding; never counted by max-pooling.
    pub padding: Padding,
}

impl Window {
    /// A `size` x `size` window that moves by its own size, without padding.
    pub fn square(size: usize) -> Window {
        Window { kernel: [size; 2], stride: [size; 2], padding: Padding::default() }
    }

    fn in_words(&self, name: &str) -> String {
        let mut text = format!("{name} {}x{}", self.kernel[0], self.kernel[1]);
        if self.stride != self.kernel {
            text += &format!(", stride {}", describe_pair(self.stride));
        }
        if self.padding != Padding::default() {
            text += &format!(", padding {}", self.padding.describe());
        }
        text
    }
}

/// Max-pooling.
impl Operation for Window {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let p = &self.padding;
        // A window wholly in the padding would have no largest element and no mean.
        if p.top.max(p.bottom) >= self.kernel[0].max(1) || p.left.max(p.right) >= self.kernel[1].max(1) {
            return Err("its padding is as large as its window".into());
        }
        let (rows, columns) = windows(inputs[0], self.kernel, self.stride, [1, 1], p)?;
        Ok(Shape::new(inputs[0].channels, rows, columns))
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        let Window { kernel, stride, padding } = *self;
        Some(Footprint { kernel, stride, dilation: [1; 2], before: padding.before() })
    }

    fn role(&self) -> Role {
        Role::Pooling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        self.in_words("max pool")
    }
}

/// Mean of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvgPool {
    /// The window.
    pub window: Window,
    /// Whether padding counts as zeros in the mean.
    pub count_padding: bool,
}

impl Operation for AvgPool {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        self.window.output(inputs)
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        self.window.footprint()
    }

    fn role(&self) -> Role {
        Role::Pooling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        self.window.in_words("average pool")
    }
}

/// Mean over a grid of regions, as PyTorch's `AdaptiveAvgPool2d`; 1x1 is global average pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptiveAvgPool {
    /// Output rows.
    pub height: usize,
    /// Output columns.
    pub width: usize,
}

impl Operation for AdaptiveAvgPool {
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
        Role::AdaptivePooling
    }

    fn rank(&self) -> Rank {
        Rank::FeatureMap
    }

    fn describe(&self) -> String {
        match self {
            AdaptiveAvgPool { height: 1, width: 1 } => "global average pool".into(),
            AdaptiveAvgPool { height, width } => format!("adaptive average pool to {height}x{width}"),
        }
    }
}
