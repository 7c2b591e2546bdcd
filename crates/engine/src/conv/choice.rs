//! Which algorithm runs which shape.

use super::{Geometry, channelwise, winograd};
use crate::simd::Kernels;
use crate::simd::transform::Transforms;

/// A way to compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Products straight on the pictures; covers every shape.
    Direct,
    /// Channel by channel; covers depthwise convolutions.
    Depthwise,
    /// F(2x2, 3x3); covers 3x3 kernels with stride 1.
    F2,
    /// F(4x4, 3x3); the same, with a larger rounding error.
    F4,
    /// The Toeplitz product for 2x2 pictures.
    Two,
}

/// One of the three products of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The convolution itself.
    Forward,
    /// The gradient of its input.
    GradInput,
    /// The gradient of its weight.
    GradWeight,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 5] =
        [Algorithm::Direct, Algorithm::Depthwise, Algorithm::F2, Algorithm::F4, Algorithm::Two];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Direct => "direct",
            Algorithm::Depthwise => "depthwise",
            Algorithm::F2 => "f2",
            Algorithm::F4 => "f4",
            Algorithm::Two => "two",
        }
    }

    /// Whether it can run `g` at all.
    pub fn covers(self, g: &Geometry) -> bool {
        match self {
            Algorithm::Direct => true,
            Algorithm::Depthwise => channelwise::covers(g),
            Algorithm::F2 | Algorithm::F4 => winograd::covers(g),
            Algorithm::Two => winograd::covers_two(g),
        }
    }

    /// Its tile transforms, if it has any.
    pub(super) fn transforms(self, kernels: &Kernels) -> Option<Transforms> {
        match self {
            Algorithm::Direct | Algorithm::Depthwise => None,
            Algorithm::F2 => Some(kernels.f2),
            Algorithm::F4 => Some(kernels.f4),
            Algorithm::Two => Some(kernels.k3),
        }
    }
}

/// The algorithm for one direction of `g` on the instruction set called `set`.
pub(super) fn choose(set: &str, g: &Geometry, direction: Direction, exact: bool) -> Algorithm {
    let _ = (set, direction);
    if Algorithm::Depthwise.covers(g) {
        Algorithm::Depthwise
    } else if Algorithm::Two.covers(g) {
        Algorithm::Two
    } else if !Algorithm::F4.covers(g) || g.input[0] < 8 || g.output[1] * g.output[2] < 9 {
        Algorithm::Direct
    } else if exact {
        Algorithm::F2
    } else {
        Algorithm::F4
    }
}
