//! What every kind of layer must say of itself, and the geometry that several kinds share.

use serde::{Deserialize, Serialize};

use crate::Shape;
use crate::shape::positions;

/// The properties of a kind of layer. No method has a default, so that a new kind must define all.
pub(super) trait Operation {
    /// The output shape for one input or more, or what is wrong in words.
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String>;
    /// Parameters and buffers for a first input of this shape.
    fn parameters(&self, input: Shape) -> Vec<Parameter>;
    /// Multiply-accumulates per image.
    fn macs(&self, input: Shape, output: Shape) -> u64;
    /// The window of input positions behind an output position, if there is a fixed one.
    fn footprint(&self) -> Option<Footprint>;
    /// What it is to the structure of a network.
    fn role(&self) -> Role;
    /// Vector or feature map.
    fn rank(&self) -> Rank;
    /// The kind with its settings in words.
    fn describe(&self) -> String;
}

/// What a layer is to the structure of a network: how blocks are found, named, drawn and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A convolution: what blocks are made of.
    Convolution,
    /// A transposed convolution: has weights, belongs to no block.
    TransposedConvolution,
    /// A linear layer.
    Linear,
    /// An affine map per channel (batch norm, affine): follows a convolution and can be folded into it.
    Norm,
    /// A normalisation across channels.
    CrossChannelNorm,
    /// An elementwise activation.
    Activation,
    /// Softmax, which ends a classifier.
    Softmax,
    /// Pooling by a sliding window.
    Pooling,
    /// Pooling to a fixed grid, such as global average pooling.
    AdaptivePooling,
    /// A layer of several inputs: sum, product, concatenation.
    Merge,
    /// Moves channels or adds a border inside a block.
    Rearrangement,
    /// Changes the shape or selects a part; belongs to no block.
    Reshape,
    /// Enlarges the feature map.
    Upsampling,
    /// The identity in evaluation mode.
    NoOp,
}

/// Whether a layer's output is a vector or a feature map, where other programs tell (N, F) from (N, C, 1, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// (N, F).
    Vector,
    /// As its inputs: a vector if all of them are.
    AsInputs,
    /// (N, C, H, W).
    FeatureMap,
}

/// The input positions behind one output position: `kernel` taps, `dilation` apart, from `position * stride - before`
/// on. All are [rows, columns].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Taps.
    pub kernel: [usize; 2],
    /// Step between neighbouring output positions.
    pub stride: [usize; 2],
    /// Step between neighbouring taps.
    pub dilation: [usize; 2],
    /// Padding above and to the left.
    pub before: [usize; 2],
}

impl Footprint {
    /// An output position depends on the same input position alone.
    pub const POINTWISE: Footprint = Footprint { kernel: [1; 2], stride: [1; 2], dilation: [1; 2], before: [0; 2] };
}

/// A tensor of a layer's weights: its name, shape and initial values.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// `weight`, `bias`, `running_mean` or `running_var`.
    pub name: &'static str,
    /// Extent of every axis, outermost first.
    pub shape: Vec<usize>,
    /// Whether an optimiser trains it; running statistics are buffers.
    pub trained: bool,
    /// Its values before training from scratch.
    pub initial: Initial,
}

impl Parameter {
    pub(super) fn trained(name: &'static str, shape: Vec<usize>, initial: Initial) -> Parameter {
        Parameter { name, shape, trained: true, initial }
    }

    pub(super) fn buffer(name: &'static str, shape: Vec<usize>, initial: Initial) -> Parameter {
        Parameter { name, shape, trained: false, initial }
    }

    /// Elements, at most `u64::MAX`.
    pub fn elements(&self) -> u64 {
        saturating_product(&self.shape)
    }
}

/// Values of a parameter before training from scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Every element the same.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Uniform in [-`bound`, `bound`).
    Uniform {
        /// Largest absolute value.
        bound: f64,
    },
}

/// Rows and columns around a feature map, per side: zeros, or for max-pooling positions that are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub fn all(amount: usize) -> Padding {
        Padding { top: amount, bottom: amount, left: amount, right: amount }
    }

    /// Rows above and columns to the left.
    pub fn before(&self) -> [usize; 2] {
        [self.top, self.left]
    }

    /// One number where all sides agree, else top, bottom, left and right.
    pub(super) fn describe(&self) -> String {
        let Padding { top, bottom, left, right } = self;
        if top == bottom && top == left && top == right {
            top.to_string()
        } else {
            format!("{top},{bottom},{left},{right}")
        }
    }
}

/// Output rows and columns of a window that moves over a padded input.
pub(super) fn windows(
    input: Shape,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: &Padding,
) -> Result<(usize, usize), String> {
    let rows = padded(input.height, padding.top, padding.bottom)?;
    let columns = padded(input.width, padding.left, padding.right)?;
    let along = |extent, axis: usize| positions(extent, kernel[axis], stride[axis], dilation[axis]);
    Ok((along(rows, 0)?, along(columns, 1)?))
}

pub(super) fn padded(extent: usize, before: usize, after: usize) -> Result<usize, String> {
    extent.checked_add(before).and_then(|n| n.checked_add(after)).ok_or_else(|| "padding overflows".to_string())
}

pub(super) fn check_divides(part: usize, whole: usize, parts: &str, wholes: &str) -> Result<(), String> {
    if part == 0 || !whole.is_multiple_of(part) {
        return Err(format!("{part} {parts} do not divide {whole} {wholes}"));
    }
    Ok(())
}

pub(super) fn check_finite(values: &[f32]) -> Result<(), String> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("a constant of it is {value}")),
        None => Ok(()),
    }
}

/// Two extents as one number where they agree.
pub(super) fn describe_pair(values: [usize; 2]) -> String {
    if values[0] == values[1] { values[0].to_string() } else { format!("{}x{}", values[0], values[1]) }
}

/// The product of extents, at most `u64::MAX`.
pub(super) fn saturating_product(extents: &[usize]) -> u64 {
    extents.iter().fold(1u64, |product, &extent| product.saturating_mul(extent as u64))
}
