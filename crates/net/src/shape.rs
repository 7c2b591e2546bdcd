//! The shape of one image's tensor, and the extent that a sliding window leaves.

use serde::{Deserialize, Serialize};

/// The largest tensor per image that is accepted, in elements: 2^31 of them are 8 GiB of `f32`.
pub(crate) const MAX_ELEMENTS: usize = 1 << 31;

/// The shape of one image's tensor: (C, H, W). A vector of F features is (F, 1, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Channels, C.
    pub channels: usize,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
}

impl Shape {
    /// The shape (C, H, W).
    pub fn new(channels: usize, height: usize, width: usize) -> Shape {
        Shape { channels, height, width }
    }

    /// Elements per image: C H W.
    pub fn elements(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether H = W = 1: a vector, or a feature map of one position.
    pub fn is_vector(self) -> bool {
        (self.height, self.width) == (1, 1)
    }
}

/// An axis of one image's tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// C.
    #[default]
    Channels,
    /// H.
    Rows,
    /// W.
    Columns,
}

impl Axis {
    /// All of them, in the order of [`Shape`].
    pub const ALL: [Axis; 3] = [Axis::Channels, Axis::Rows, Axis::Columns];

    /// Whether it is the channels.
    pub fn is_channels(&self) -> bool {
        *self == Axis::Channels
    }
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Axis::Channels => "channels",
            Axis::Rows => "rows",
            Axis::Columns => "columns",
        })
    }
}

impl Shape {
    /// The extent of an axis.
    pub fn extent(self, axis: Axis) -> usize {
        match axis {
            Axis::Channels => self.channels,
            Axis::Rows => self.height,
            Axis::Columns => self.width,
        }
    }

    /// The shape with another extent of an axis.
    pub fn with_extent(self, axis: Axis, extent: usize) -> Shape {
        let mut shape = self;
        match axis {
            Axis::Channels => shape.channels = extent,
            Axis::Rows => shape.height = extent,
            Axis::Columns => shape.width = extent,
        }
        shape
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Refuses a tensor with an empty axis, and one of more than 2^31 elements, whose extents could overflow in products.
///
/// # Errors
/// What is wrong with the shape, in words.
pub fn check_extent(shape: Shape) -> Result<(), String> {
    let elements = shape.channels.checked_mul(shape.height).and_then(|n| n.checked_mul(shape.width));
    match elements {
        Some(0) => Err(format!("a tensor of {shape} has no elements")),
        Some(count) if count <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("a tensor of {shape} is too large")),
    }
}

/// Number of positions of a window of `kernel` taps, `dilation` apart, that moves by `stride` over `extent`: the floor
/// formula of Dumoulin and Visin, arXiv:1603.07285, relationship 14.
///
/// # Errors
/// A kernel, stride or dilation of 0; a window larger than the extent; an overflow.
pub fn positions(extent: usize, kernel: usize, stride: usize, dilation: usize) -> Result<usize, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err("kernel, stride and dilation are at least 1".into());
    }
    let span = (kernel - 1).checked_mul(dilation).and_then(|n| n.checked_add(1)).ok_or("kernel overflows")?;
    match extent.checked_sub(span) {
        Some(rest) => Ok(rest / stride + 1),
        None => Err(format!("a window of {span} does not fit into {extent}; pad more or enlarge the input")),
    }
}
