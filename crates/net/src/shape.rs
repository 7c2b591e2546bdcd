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
