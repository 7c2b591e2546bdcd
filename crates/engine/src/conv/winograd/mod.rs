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
use crate::simd::transform::{Source, Target, Transforms};

/// Floats between planes beyond their content, so that planes do not share the sets of a cache.
const GAP: usize = 16;

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

    /// The tiles from `first` on, counted row by row through the images.
    fn places(&self, first: usize) -> impl Iterator<Item = Place> + use<> {
        let (tiles, within) = (self.tiles, first % self.count());
        let first = Place { image: first / self.count(), row: within / tiles[1], column: within % tiles[1] };
        std::iter::successors(Some(first), move |&Place { image, row, column }| {
            Some(if column + 1 < tiles[1] {
                Place { image, row, column: column + 1 }
            } else if row + 1 < tiles[0] {
                Place { image, row: row + 1, column: 0 }
            } else {
                Place { image: image + 1, row: 0, column: 0 }
            })
        })
    }

    /// Where a tile's inputs lie in the images from `x` on; `zeros` is a row of a tile.
    #[inline]
    fn inputs(&self, at: Place, t: &Transforms, x: *const f32, zeros: *const f32) -> Source {
        let corner = [0, 1].map(|axis| ([at.row, at.column][axis] * t.outputs) as isize - self.before[axis] as isize);
        window(self.source, at.image, corner, t.inputs, x, zeros)
    }

    /// Where the gradient of a tile's outputs lies in the images from `gy` on; `zeros` is a row of a tile.
    #[inline]
    fn gradients(&self, at: Place, t: &Transforms, gy: *const f32, zeros: *const f32) -> Source {
        let corner = [at.row, at.column].map(|tile| (tile * t.outputs) as isize);
        window(self.target, at.image, corner, t.outputs, gy, zeros)
    }

    /// Asks for what the tile below the one at `at` reads of the images from `x` on and no tile above it does.
    ///
    /// Tiles touch short runs of many rows, which no processor foresees. Images follow each other, so below the last row
    /// lies the first of the next image.
    #[inline]
    fn expect_inputs(&self, at: Place, t: &Transforms, x: *const f32) {
        let behind = [0, 1].map(|axis| (t.inputs - t.outputs).saturating_sub(self.before[axis]));
        let corner = [(at.row + 1) * t.outputs + behind[0], at.column * t.outputs + behind[1]];
        expect(self.source, at.image, corner, t.outputs, x);
    }

    /// Asks for the gradients of the outputs of the tile below the one at `at`, likewise.
    #[inline]
    fn expect_gradients(&self, at: Place, t: &Transforms, gy: *const f32) {
        expect(self.target, at.image, [(at.row + 1) * t.outputs, at.column * t.outputs], t.outputs, gy);
    }

    /// Asks for the first `columns` channels of the outputs of the tile at `at` in the images from `y` on.
    #[inline]
    fn expect_outputs(&self, at: Place, t: &Transforms, y: *const f32, columns: usize) {
        let [c, h, w] = self.target;
        let first = y.wrapping_add(((at.image * h + at.row * t.outputs) * w + at.column * t.outputs) * c);
        for row in 0..t.outputs {
            for pixel in 0..t.outputs {
                for line in (0..columns).step_by(16) {
                    simd::prefetch(first.wrapping_add((row * w + pixel) * c + line));
                }
            }
        }
    }

    /// Where a tile's outputs go in the images from `y` on, of which every side is `pooled` times smaller than the outputs.
    #[inline]
    fn outputs(&self, at: Place, t: &Transforms, y: Option<Raw>, pooled: usize) -> Target {
        let Some(y) = y else { return Target::NONE };
        let [c, h, w] = [self.target[0], self.target[1] / pooled, self.target[2] / pooled];
        let side = t.outputs / pooled;
        let (top, left) = (at.row * side, at.column * side);
        Target {
            first: y.at(((at.image * h + top) * w + left) * c),
            steps: [w * c, c],
            extents: [h.saturating_sub(top).min(side), w.saturating_sub(left).min(side)],
        }
    }
}

/// A tile of an image.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    row: usize,
    column: usize,
}

/// `side` rows and columns from `corner` on of image `image` of those from `x` on, each `picture` = [C, H, W].
#[inline]
fn window(
    picture: [usize; 3],
    image: usize,
    corner: [isize; 2],
    side: usize,
    x: *const f32,
    zeros: *const f32,
) -> Source {
    let [c, h, w] = picture;
    let [top, left] = corner;
    let first = x.wrapping_add(image * h * w * c).wrapping_offset((top * w as isize + left) * c as isize);
    let mut rows = [zeros; 6];
    for (i, row) in rows[..side].iter_mut().enumerate() {
        if ((top + i as isize) as usize) < h {
            *row = first.wrapping_add(i * w * c);
        }
    }
    let inside = |edge: isize| (edge - left).clamp(0, side as isize) as usize;
    Source { rows, step: c, columns: [inside(0), inside(w as isize)] }
}

/// Asks for `side` rows and columns from `corner` on of image `image` of those from `x` on, each `picture` = [C, H, W].
#[inline]
fn expect(picture: [usize; 3], image: usize, corner: [usize; 2], side: usize, x: *const f32) {
    let [c, h, w] = picture;
    let first = x.wrapping_add(((image * h + corner[0]) * w + corner[1]) * c);
    for row in 0..side {
        for line in (0..side * c).step_by(16) {
            simd::prefetch(first.wrapping_add(row * w * c + line));
        }
    }
}
