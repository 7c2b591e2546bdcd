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
use crate::memory::Raw;
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

    /// The tiles from `first` on, `count` of them, in runs of neighbours.
    fn runs(&self, first: usize, count: usize) -> impl Iterator<Item = Run> + use<> {
        let (tiling, mut done) = (*self, 0);
        std::iter::from_fn(move || {
            let at = tiling.places(first + done).next().filter(|_| done < count)?;
            let run = Run { at, before: done, tiles: (tiling.tiles[1] - at.column).min(count - done) };
            done += run.tiles;
            Some(run)
        })
    }

    /// Where the inputs of a run's tiles lie in the images from `x` on; `zeros` is a row of zeros.
    #[inline]
    fn inputs(&self, run: &Run, t: &Transforms, x: *const f32, zeros: *const f32) -> Source {
        let corner = [0, 1].map(|axis| run.at.corner(t)[axis] as isize - self.before[axis] as isize);
        // Of the tile below, this one has read the first rows and columns already.
        let behind = [0, 1].map(|axis| (t.inputs - t.outputs).saturating_sub(self.before[axis]));
        window(self.source, run, corner, behind, t, t.inputs, x, zeros)
    }

    /// Where the gradients of the outputs of a run's tiles lie in the images from `gy` on; `zeros` is a row of zeros.
    #[inline]
    fn gradients(&self, run: &Run, t: &Transforms, gy: *const f32, zeros: *const f32) -> Source {
        let corner = run.at.corner(t).map(|at| at as isize);
        window(self.target, run, corner, [0; 2], t, t.outputs, gy, zeros)
    }

    /// Pixels of a row of zeros that stands for what lies above or below any run.
    fn zeros(&self, t: &Transforms) -> usize {
        self.tiles[1] * t.outputs + t.inputs
    }

    /// Asks for the first `columns` channels of the outputs of the tile at `at` in the images from `y` on.
    #[inline]
    fn expect_outputs(&self, at: Place, t: &Transforms, y: *const f32, columns: usize) {
        let [c, h, w] = self.target;
        let first = y.wrapping_add(((at.image * h + at.row * t.outputs) * w + at.column * t.outputs) * c);
        for row in 0..t.outputs {
            for pixel in 0..t.outputs {
                for line in (0..columns).step_by(simd::LINE) {
                    simd::prefetch_near(first.wrapping_add((row * w + pixel) * c + line));
                }
            }
        }
    }

    /// The floats of pictures [C, H, W] that some tiles from `first` on cover, by whole rows of tiles: their start and their number.
    fn floats(&self, picture: [usize; 3], t: &Transforms, first: usize, count: usize) -> (usize, usize) {
        let [c, h, w] = picture;
        let row = |tile: usize| {
            let within = tile % self.count() / self.tiles[1] * t.outputs;
            tile / self.count() * h + within.min(h)
        };
        let (start, end) = (row(first), row(first + count + self.tiles[1] - 1));
        (start * w * c, (end - start) * w * c)
    }

    /// Where the outputs of a run's tiles go in the images from `y` on, of which every side is `pooled` times smaller than the outputs.
    #[inline]
    fn outputs(&self, run: &Run, t: &Transforms, y: Option<Raw>, pooled: usize) -> Target {
        let Some(y) = y else { return Target::NONE };
        let [c, h, w] = [self.target[0], self.target[1] / pooled, self.target[2] / pooled];
        let [top, left] = run.at.corner(t).map(|at| at / pooled);
        let side = t.outputs / pooled;
        Target {
            first: y.at(((run.at.image * h + top) * w + left) * c),
            steps: [w * c, c],
            extents: [h.saturating_sub(top).min(side), w.saturating_sub(left)],
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

impl Place {
    /// Row and column of its first output.
    fn corner(self, t: &Transforms) -> [usize; 2] {
        [self.row * t.outputs, self.column * t.outputs]
    }
}

/// Neighbouring tiles of a row of an image.
struct Run {
    /// The first.
    at: Place,
    /// Tiles that were before it.
    before: usize,
    /// How many.
    tiles: usize,
}

/// A run's tiles of `side` rows and columns, the first from `corner` on, of those images from `x` on, each `picture` = [C, H, W].
#[allow(clippy::too_many_arguments)]
#[inline]
fn window(
    picture: [usize; 3],
    run: &Run,
    corner: [isize; 2],
    behind: [usize; 2],
    t: &Transforms,
    side: usize,
    x: *const f32,
    zeros: *const f32,
) -> Source {
    let [c, h, w] = picture;
    let [top, left] = corner;
    let image = x.wrapping_add(run.at.image * h * w * c);
    let first = image.wrapping_offset((top * w as isize + left) * c as isize);
    let mut rows = [zeros; 6];
    for (i, row) in rows[..side].iter_mut().enumerate() {
        if ((top + i as isize) as usize) < h {
            *row = first.wrapping_add(i * w * c);
        }
    }
    // Images follow each other, so below the last row lies the first of the next image.
    let [row, column] = run.at.corner(t);
    let below = image.wrapping_add(((row + t.outputs + behind[0]) * w + column + behind[1]) * c);
    let columns = [0, w as isize].map(|edge| (edge - left).max(0) as usize);
    Source { rows, step: c, columns, tiles: run.tiles, below: (below, w * c) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{Conv, Padding};

    #[test]
    fn blocks_of_tiles_cover_all_rows_once() {
        let padding = Padding { top: 1, left: 1, bottom: 1, right: 1 };
        let conv = Conv { kernel: [3, 3], stride: [1, 1], padding, dilation: [1, 1], groups: 1, filters: 5 };
        for (height, width) in [(8, 8), (7, 9), (32, 4), (2, 30), (4, 4)] {
            let g = Geometry::of([3, height, width], conv);
            let t = simd::kernels().f4;
            let tiling = Tiling::new(&g, Way::Forward, &t);
            let images = 6;
            let total = images * tiling.count();
            for block in [1, 5, tiling.count(), 3 * tiling.count() + 1] {
                for picture in [tiling.source, tiling.target] {
                    let row = picture[0] * width;
                    let mut covered = vec![0; images * height];
                    for first in (0..total).step_by(block) {
                        let (start, floats) = tiling.floats(picture, &t, first, block.min(total - first));
                        assert!(start % row == 0 && floats % row == 0, "whole rows");
                        covered[start / row..][..floats / row].iter_mut().for_each(|times| *times += 1);
                    }
                    // A block that ends within a row of tiles shares it with the next.
                    assert!(covered.iter().all(|&times| times > 0), "{height}x{width}, {block} tiles: {covered:?}");
                    let whole = block % tiling.tiles[1] == 0;
                    assert!(
                        !whole || covered.iter().all(|&times| times == 1),
                        "{height}x{width}, {block}: {covered:?}"
                    );
                    assert_eq!(tiling.floats(picture, &t, total, 0).1, 0, "nothing behind the last");
                }
            }
        }
    }
}
