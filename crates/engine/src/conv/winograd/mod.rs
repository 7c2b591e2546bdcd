//! 3x3 convolution with stride 1 by bilinear algorithms: fewer products between transforms.
//!
//! A picture falls into square tiles of outputs. Each tile's inputs are transformed to a few numbers a side, which
//! are multiplied by the transformed weights, number by number, and summed over channels: one plain product of
//! (tiles x channels) and (channels x filters) for each of them. The sums are transformed back.

mod forward;
mod weight;

pub(super) use forward::Winograd;
pub(super) use weight::WinogradWeight;

use super::Geometry;
use super::pass::{Way, sides};
use crate::conv::memory::Raw;
use crate::simd;
use crate::simd::transform::{Targets, Transforms};

/// Numbers of a transformed tile at most: 6 x 6.
const MOST: usize = 36;

/// Floats between planes beyond their content, so that planes do not share the sets of a cache.
const GAP: usize = 16;

/// How many tiles ahead inputs are asked for.
const AHEAD: usize = 2;

/// Whether F(4x4, 3x3) and F(2x2, 3x3) cover `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    let (c, p) = (g.conv, g.conv.padding);
    c.kernel == [3, 3]
        && c.stride == [1, 1]
        && c.dilation == [1, 1]
        && c.groups == 1
        && [p.top, p.bottom, p.left, p.right].iter().all(|p| *p <= 2)
}

/// Whether the algorithm for 2x2 pictures covers `g`.
pub(super) fn covers_two(g: &Geometry) -> bool {
    let p = g.conv.padding;
    covers(g) && [p.top, p.bottom, p.left, p.right] == [1; 4] && g.input[1..] == [2, 2]
}

/// How the pictures of one way are cut into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    /// [C, H, W] of what is read.
    source: [usize; 3],
    /// [C, H, W] of what is written.
    target: [usize; 3],
    /// Tiles, [rows, columns].
    tiles: [usize; 2],
    /// Zeros above and to the left of the source in the first tile.
    before: [usize; 2],
}

impl Tiling {
    fn new(g: &Geometry, way: Way, t: &Transforms) -> Tiling {
        let (source, target) = sides(g, way);
        let tiles = [target[1].div_ceil(t.outputs), target[2].div_ceil(t.outputs)];
        let p = g.conv.padding;
        let before = match way {
            // The algorithm for 2x2 pictures has the border built in.
            _ if t.inputs < 3 => [0, 0],
            Way::Forward => [p.top, p.left],
            Way::GradInput => [2 - p.top, 2 - p.left],
        };
        Tiling { source, target, tiles, before }
    }

    /// Tiles of an image.
    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// Where the pixels of a tile's inputs start, row by row; `zero` for those outside.
    ///
    /// `tile` counts through the images from the first of `x` on.
    #[inline]
    fn sources(&self, tile: usize, t: &Transforms, x: *const f32, zero: *const f32, to: &mut [*const f32; MOST]) {
        let (image, within) = (tile / self.count(), tile % self.count());
        let [c, h, w] = self.source;
        let top = (within / self.tiles[1] * t.outputs) as isize - self.before[0] as isize;
        let left = (within % self.tiles[1] * t.outputs) as isize - self.before[1] as isize;
        let x = x.wrapping_add(image * c * h * w);
        for i in 0..t.inputs {
            let row = top + i as isize;
            let row_inside = (row as usize) < h;
            for j in 0..t.inputs {
                let column = left + j as isize;
                let inside = row_inside && (column as usize) < w;
                let at = x.wrapping_offset((row * w as isize + column) * c as isize);
                to[i * t.inputs + j] = if inside { at } else { zero };
            }
        }
    }

    /// Asks for the inputs of a tile that are not also those of the tile before it.
    ///
    /// Tiles read short runs of many rows, which no processor foresees.
    #[inline]
    fn prefetch(&self, tile: usize, t: &Transforms, x: *const f32) {
        let (image, within) = (tile / self.count(), tile % self.count());
        let [c, h, w] = self.source;
        let (row, column) = (within / self.tiles[1], within % self.tiles[1]);
        let top = (row * t.outputs) as isize - self.before[0] as isize;
        let known = if column > 0 { t.inputs - t.outputs } else { 0 };
        let left = (column * t.outputs + known).saturating_sub(self.before[1]).min(w);
        let right = (column * t.outputs + t.inputs).saturating_sub(self.before[1]).min(w);
        for i in 0..t.inputs {
            let row = top + i as isize;
            if (row as usize) < h {
                let start = x.wrapping_add(((image * h + row as usize) * w + left) * c);
                for line in (0..(right - left) * c).step_by(16) {
                    simd::prefetch(start.wrapping_add(line));
                }
            }
        }
    }

    /// Where a tile's outputs go: to the pictures from `y` on, if any, and pooled to those from `pooled` on, if any.
    #[inline]
    fn outputs(&self, tile: usize, t: &Transforms, y: Option<Raw>, pooled: Option<Raw>) -> Targets {
        let null = std::ptr::null_mut;
        let mut to = Targets { y: [null(); 16], pooled: [null(); 4], pools: pooled.is_some() };
        let (image, within) = (tile / self.count(), tile % self.count());
        let [c, h, w] = self.target;
        let (top, left) = (within / self.tiles[1] * t.outputs, within % self.tiles[1] * t.outputs);
        if let Some(y) = y {
            place(&mut to.y, t.outputs, [top, left], [h, w], c, y.skip(image * c * h * w));
        }
        if let Some(pooled) = pooled {
            let (h, w) = (h / 2, w / 2);
            place(&mut to.pooled, t.outputs / 2, [top / 2, left / 2], [h, w], c, pooled.skip(image * c * h * w));
        }
        to
    }

    /// Where the pixels of a tile's outputs start, row by row, `outside` for those outside.
    #[inline]
    fn targets(&self, tile: usize, t: &Transforms, y: *mut f32, outside: *mut f32, to: &mut [*mut f32; MOST]) {
        let (image, within) = (tile / self.count(), tile % self.count());
        let [c, h, w] = self.target;
        let (top, left) = (within / self.tiles[1] * t.outputs, within % self.tiles[1] * t.outputs);
        let y = y.wrapping_add(image * c * h * w);
        for i in 0..t.outputs {
            for j in 0..t.outputs {
                let inside = top + i < h && left + j < w;
                let at = y.wrapping_add(((top + i) * w + left + j) * c);
                to[i * t.outputs + j] = if inside { at } else { outside };
            }
        }
    }
}

/// The pixels of `side` rows and columns from `at` = [row, column] on, in a picture of `extents` that starts at `first`.
#[inline]
fn place(to: &mut [*mut f32], side: usize, at: [usize; 2], extents: [usize; 2], channels: usize, first: Raw) {
    for i in 0..side {
        for j in 0..side {
            let (row, column) = (at[0] + i, at[1] + j);
            if row < extents[0] && column < extents[1] {
                to[i * side + j] = first.at((row * extents[1] + column) * channels);
            }
        }
    }
}
