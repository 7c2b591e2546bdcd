//! 3x3 convolution with stride 1 by Winograd's minimal filtering algorithms (Lavin and Gray, arXiv:1509.09308) and other
//! bilinear ones.
//!
//! The output is divided into square tiles. The inputs of each tile are transformed into the Winograd domain and multiplied
//! there by the transformed weights, coefficient by coefficient, summed over channels: for each coefficient a GEMM M = V U of
//! (tiles x channels) and (channels x filters). The inverse transform of M gives the output.

mod forward;
mod weight;

pub(super) use forward::Winograd;
pub(super) use weight::WinogradWeight;

use super::pass::source_and_target;
use super::{Direction, Geometry};
use crate::memory::SharedPtr;
use crate::simd::transform::{TileSource, TileTarget, Transforms};
use crate::simd::{self, ReluMask};

/// Floats of padding behind each plane, so that planes do not map to the same cache sets.
const CACHE_SET_PADDING: usize = 16;

/// Whether F(4x4, 3x3) and F(2x2, 3x3) cover `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    let (c, p) = (g.conv, g.conv.padding);
    c.kernel == [3, 3]
        && c.stride == [1, 1]
        && c.dilation == [1, 1]
        && c.groups == 1
        && [p.top, p.bottom, p.left, p.right].iter().all(|p| *p <= 2)
}

/// Whether the Toeplitz algorithm for 2x2 images covers `g`.
pub(super) fn covers_toeplitz2(g: &Geometry) -> bool {
    let p = g.conv.padding;
    covers(g) && [p.top, p.bottom, p.left, p.right] == [1; 4] && g.input[1..] == [2, 2]
}

/// How the images of one direction are divided into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    /// The source, [C, H, W].
    source: [usize; 3],
    /// The target, [C, H, W].
    target: [usize; 3],
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// Rows and columns of padding above and to the left of the source.
    padding: [usize; 2],
}

impl Tiling {
    fn new(g: &Geometry, direction: Direction, t: &Transforms) -> Tiling {
        let (source, target) = source_and_target(g, direction);
        let tiles = [target[1].div_ceil(t.outputs), target[2].div_ceil(t.outputs)];
        let p = g.conv.padding;
        let padding = match direction {
            // The Toeplitz algorithm implies the padding.
            _ if t.inputs < 3 => [0, 0],
            Direction::Forward | Direction::GradWeight => [p.top, p.left],
            Direction::GradInput => [2 - p.top, 2 - p.left],
        };
        Tiling { source, target, tiles, padding }
    }

    /// Tiles of an image.
    fn tiles_per_image(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// The positions of the tiles from `first` on, numbered row by row through all images.
    fn positions(&self, first: usize) -> impl Iterator<Item = TilePosition> + use<> {
        let (tiles, in_image) = (self.tiles, first % self.tiles_per_image());
        let first = TilePosition {
            image: first / self.tiles_per_image(),
            row: in_image / tiles[1],
            column: in_image % tiles[1],
        };
        std::iter::successors(Some(first), move |&TilePosition { image, row, column }| {
            Some(if column + 1 < tiles[1] {
                TilePosition { image, row, column: column + 1 }
            } else if row + 1 < tiles[0] {
                TilePosition { image, row: row + 1, column: 0 }
            } else {
                TilePosition { image: image + 1, row: 0, column: 0 }
            })
        })
    }

    /// The `count` tiles from `first` on, grouped by row of tiles.
    fn runs(&self, first: usize, count: usize) -> impl Iterator<Item = TileRun> + use<> {
        let (tiling, mut done) = (*self, 0);
        std::iter::from_fn(move || {
            let at = tiling.positions(first + done).next().filter(|_| done < count)?;
            let run = TileRun { first: at, index: done, tiles: (tiling.tiles[1] - at.column).min(count - done) };
            done += run.tiles;
            Some(run)
        })
    }

    /// The inputs of a run of tiles in the images from `x` on; `zeros` points to a row of zeros.
    #[inline]
    fn inputs(&self, run: &TileRun, t: &Transforms, x: *const f32, zeros: *const f32) -> TileSource {
        let corner = [0, 1].map(|axis| run.first.corner(t)[axis] as isize - self.padding[axis] as isize);
        // The first rows and columns of the tile below have been read by this one and its neighbours.
        let overlap = [0, 1].map(|axis| (t.inputs - t.outputs).saturating_sub(self.padding[axis]));
        tile_source(self.source, run, corner, overlap, t, t.inputs, x, zeros)
    }

    /// The output gradients of a run of tiles in the images from `gy` on; `zeros` points to a row of zeros.
    #[inline]
    fn output_gradients(&self, run: &TileRun, t: &Transforms, gy: *const f32, zeros: *const f32) -> TileSource {
        let corner = run.first.corner(t).map(|at| at as isize);
        tile_source(self.target, run, corner, [0; 2], t, t.outputs, gy, zeros)
    }

    /// Pixels of a row of zeros that replaces the rows of padding of any run.
    fn zero_row_pixels(&self, t: &Transforms) -> usize {
        self.tiles[1] * t.outputs + t.inputs
    }

    /// Prefetches the first `channels` channels of the outputs of the tile at `at` in the images from `y` on.
    #[inline]
    fn prefetch_outputs(&self, at: TilePosition, t: &Transforms, y: *const f32, channels: usize) {
        let [c, h, w] = self.target;
        let first = y.wrapping_add(((at.image * h + at.row * t.outputs) * w + at.column * t.outputs) * c);
        for row in 0..t.outputs {
            for pixel in 0..t.outputs {
                for channel in (0..channels).step_by(simd::CACHE_LINE) {
                    simd::prefetch_l2(first.wrapping_add((row * w + pixel) * c + channel));
                }
            }
        }
    }

    /// The range of floats that the `count` tiles from `first` on cover in images [C, H, W], by whole rows of tiles: its start
    /// and its length.
    fn covered_floats(&self, image: [usize; 3], t: &Transforms, first: usize, count: usize) -> (usize, usize) {
        let [c, h, w] = image;
        let row = |tile: usize| {
            let in_image = tile % self.tiles_per_image() / self.tiles[1] * t.outputs;
            tile / self.tiles_per_image() * h + in_image.min(h)
        };
        let (start, end) = (row(first), row(first + count + self.tiles[1] - 1));
        (start * w * c, (end - start) * w * c)
    }

    /// The target of a run of tiles in the images from `y` on, whose height and width are those of the outputs divided by
    /// `scale`.
    #[inline]
    fn outputs<'a>(
        &self,
        run: &TileRun,
        t: &Transforms,
        y: Option<SharedPtr>,
        scale: usize,
        mask: Option<ReluMask<'a>>,
    ) -> TileTarget<'a> {
        let Some(y) = y else { return TileTarget::NONE };
        let [c, h, w] = [self.target[0], self.target[1] / scale, self.target[2] / scale];
        let [top, left] = run.first.corner(t).map(|at| at / scale);
        let side = t.outputs / scale;
        TileTarget {
            first: y.at(((run.first.image * h + top) * w + left) * c),
            steps: [w * c, c],
            extents: [h.saturating_sub(top).min(side), w.saturating_sub(left)],
            mask,
        }
    }
}

/// The position of a tile.
#[derive(Clone, Copy)]
struct TilePosition {
    image: usize,
    row: usize,
    column: usize,
}

impl TilePosition {
    /// Row and column of its first output pixel.
    fn corner(self, t: &Transforms) -> [usize; 2] {
        [self.row * t.outputs, self.column * t.outputs]
    }
}

/// Horizontally adjacent tiles of an image.
struct TileRun {
    /// The first one.
    first: TilePosition,
    /// Its index among the tiles that are iterated over.
    index: usize,
    /// How many.
    tiles: usize,
}

/// A run of tiles with `side` rows and columns, the first one at `corner`, of the images [C, H, W] from `x` on. `overlap` rows
/// and columns of the tile below have been read before.
#[allow(clippy::too_many_arguments)]
#[inline]
fn tile_source(
    shape: [usize; 3],
    run: &TileRun,
    corner: [isize; 2],
    overlap: [usize; 2],
    t: &Transforms,
    side: usize,
    x: *const f32,
    zeros: *const f32,
) -> TileSource {
    let [c, h, w] = shape;
    let [top, left] = corner;
    let image = x.wrapping_add(run.first.image * h * w * c);
    let first = image.wrapping_offset((top * w as isize + left) * c as isize);
    let mut rows = [zeros; 6];
    for (i, row) in rows[..side].iter_mut().enumerate() {
        if ((top + i as isize) as usize) < h {
            *row = first.wrapping_add(i * w * c);
        }
    }
    // Images are contiguous: after the last row of an image comes the first row of the next one.
    let [row, column] = run.first.corner(t);
    let below = image.wrapping_add(((row + t.outputs + overlap[0]) * w + column + overlap[1]) * c);
    let columns = [0, w as isize].map(|edge| (edge - left).max(0) as usize);
    TileSource { rows, step: c, columns, tiles: run.tiles, below: (below, w * c) }
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
            let tiling = Tiling::new(&g, Direction::Forward, &t);
            let images = 6;
            let total = images * tiling.tiles_per_image();
            for block in [1, 5, tiling.tiles_per_image(), 3 * tiling.tiles_per_image() + 1] {
                for image in [tiling.source, tiling.target] {
                    let row = image[0] * width;
                    let mut covered = vec![0; images * height];
                    for first in (0..total).step_by(block) {
                        let (start, floats) = tiling.covered_floats(image, &t, first, block.min(total - first));
                        assert!(start % row == 0 && floats % row == 0, "whole rows");
                        covered[start / row..][..floats / row].iter_mut().for_each(|times| *times += 1);
                    }
                    // A block that ends within a row of tiles shares this row with the next block.
                    assert!(covered.iter().all(|&times| times > 0), "{height}x{width}, {block} tiles: {covered:?}");
                    let whole_rows = block % tiling.tiles[1] == 0;
                    assert!(
                        !whole_rows || covered.iter().all(|&times| times == 1),
                        "{height}x{width}, {block}: {covered:?}"
                    );
                    assert_eq!(tiling.covered_floats(image, &t, total, 0).1, 0, "no tiles, no floats");
                }
            }
        }
    }
}
