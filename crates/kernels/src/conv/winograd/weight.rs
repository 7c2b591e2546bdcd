//! The weight gradient, the transpose of the forward algorithm: gw = G^T [sum over tiles of (B^T x B) ⊙ (A gy A^T)] G. With
//! V = B^T x B and Z = A gy A^T, for each coefficient a GEMM M = V^T Z of (channels x tiles) and (tiles x filters).

use super::{CACHE_SET_PADDING, Tiling};
use crate::conv::pass::{WeightPass, add_pairwise, balanced_rows};
use crate::conv::{Direction, Geometry};
use crate::memory::{Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::gemm::{PrefetchQueue, TransposedGemm};
use crate::simd::transform::{FilterPanel, PackedRows, PlaneSet, Transforms};

/// M up to this size is accumulated as a whole, block by block of tiles; larger ones panel by panel.
const WHOLE_BYTES: usize = 3 << 20;

/// Most bytes of all partial sums.
const PARTS_BYTES: usize = 8 << 20;

/// Most partial sums.
const PARTS: usize = 16;

/// Least blocks of a partial sum: it is as large as many tiles, and has to be added to the others.
const MIN_BLOCKS: usize = 4;

/// Most bytes of a block of transformed tiles, one block per thread.
const BLOCK_BYTES: usize = 300 << 10;

/// Larger blocks are transformed and multiplied in two sets of planes, so that each stays in L2.
const SPLIT_BYTES: usize = 1 << 20;

/// Most bytes of transformed tiles at a time if M is accumulated panel by panel.
const CHUNK_BYTES: usize = 24 << 20;

/// Input channels of a task if M is accumulated panel by panel.
const ROWS: usize = 64;

/// Panels of a task if M is accumulated panel by panel: 36 planes x 64 rows x 2 panels stay in L2.
const GROUP: usize = 2;

/// Tiles of one micro-kernel call (its k), whose panel stays in L1.
const DEPTH: usize = 256;

/// A bilinear algorithm for the weight gradient of one geometry.
pub(in super::super) struct WinogradWeight {
    g: Geometry,
    kernels: &'static Kernels,
    t: Transforms,
    tiling: Tiling,
    /// Whether a task accumulates all of M over some tiles, or a panel of M over all tiles.
    whole: bool,
    /// Tiles of a block (`whole`) or images of a chunk, determined by the shape.
    block: usize,
    /// The sets of planes that are transformed and multiplied one after the other.
    plane_sets: &'static [PlaneSet],
    /// Images of the largest chunk of the planned batch.
    max_images: usize,
    threads: usize,
}

impl WinogradWeight {
    pub fn new(g: &Geometry, batch: usize, threads: usize, kernels: &'static Kernels, t: Transforms) -> WinogradWeight {
        let tiling = Tiling::new(g, Direction::GradWeight, &t);
        let planes = t.coefficients * t.coefficients;
        let (ci, co) = (kernels.padded(g.input[0]), kernels.padded(g.output[0]));
        let whole = planes * ci * co * size_of::<f32>() <= WHOLE_BYTES;
        let tile_bytes = planes * (ci + co) * size_of::<f32>();
        let (block, max_images) = if whole {
            // Each block reads and writes all of M; wide vectors multiply faster, so they need more tiles per block.
            ((BLOCK_BYTES / tile_bytes).clamp(4 * kernels.lanes, 128), 0)
        } else {
            let chunk = (CHUNK_BYTES / (tile_bytes * tiling.tiles_per_image())).max(1);
            (chunk, chunk.min(batch.max(1)))
        };
        let can_split = PlaneSet::First.planes(t.coefficients).end < planes;
        let plane_sets: &[PlaneSet] = match whole && can_split && block * tile_bytes > SPLIT_BYTES {
            true => &[PlaneSet::First, PlaneSet::Second],
            false => &[PlaneSet::All],
        };
        WinogradWeight { g: *g, kernels, t, tiling, whole, block, plane_sets, max_images, threads }
    }

    /// Coefficients of a tile.
    fn planes(&self) -> usize {
        self.t.coefficients * self.t.coefficients
    }

    /// Floats of a tile in a plane of V.
    fn depth(&self) -> usize {
        self.kernels.padded(self.g.input[0])
    }

    /// Floats of a tile in a plane of Z.
    fn columns(&self) -> usize {
        self.kernels.padded(self.g.output[0])
    }

    /// Floats of M.
    fn sum(&self) -> usize {
        self.planes() * (self.g.input[0] * self.columns() + CACHE_SET_PADDING)
    }

    /// Most partial sums, determined by the shape.
    fn max_parts(&self) -> usize {
        (PARTS_BYTES / (self.sum() * size_of::<f32>())).clamp(2, PARTS)
    }

    /// Floats between planes of `tiles` rows of `row` floats.
    fn plane(tiles: usize, row: usize) -> usize {
        whole_lines(tiles * row) + CACHE_SET_PADDING
    }

    /// Floats of V and of Z for `tiles` tiles.
    fn tile_floats(&self, tiles: usize) -> [usize; 2] {
        let planes = self.plane_sets.iter().map(|set| set.planes(self.t.coefficients).len()).max().unwrap_or(0);
        [Self::plane(tiles, self.depth()), Self::plane(tiles, self.columns())].map(|plane| planes * plane)
    }

    /// Floats of scratch: shared by all threads, and per thread.
    fn layout(&self) -> [usize; 2] {
        let zeros = self.zeros();
        if self.whole {
            let [v, z] = self.tile_floats(self.block);
            [zeros + self.max_parts() * whole_lines(self.sum()), v + z]
        } else {
            let [v, z] = self.tile_floats(self.max_images * self.tiling.tiles_per_image());
            let sum = self.planes() * (ROWS * GROUP * self.kernels.panel() + CACHE_SET_PADDING);
            [zeros + v + z, whole_lines(sum)]
        }
    }

    /// Floats of a row of zeros.
    fn zeros(&self) -> usize {
        whole_lines(self.tiling.zero_row_pixels(&self.t) * self.g.input[0].max(self.g.output[0]))
    }

    /// Transforms the inputs and output gradients of the `count` tiles from `first` on, to the rows from `row` on of V and Z,
    /// which have `tiles` rows and the planes of the set.
    ///
    /// # Safety
    /// V and Z are valid, and no other task accesses these rows.
    #[allow(clippy::too_many_arguments)]
    unsafe fn transform(
        &self,
        first: usize,
        count: usize,
        row: usize,
        tiles: usize,
        x: *const f32,
        gy: *const f32,
        zeros: *const f32,
        v: SharedPtr,
        z: SharedPtr,
        set: PlaneSet,
    ) {
        let depth = self.depth();
        let planes = [depth, self.columns()].map(|row| Self::plane(tiles, row));
        // The kernels expect the address of plane 0, even if the set starts with a later plane.
        let before = set.planes(self.t.coefficients).start;
        let (v, z) = (v.at(0).wrapping_sub(before * planes[0]), z.at(0).wrapping_sub(before * planes[1]));
        for run in self.tiling.runs(first, count) {
            let row = row + run.index;
            let to = PackedRows { z, row, rows: tiles, plane_step: planes[1] };
            let inputs = self.tiling.inputs(&run, &self.t, x, zeros);
            let gradients = self.tiling.output_gradients(&run, &self.t, gy, zeros);
            unsafe {
                (self.t.input)(&inputs, self.g.input[0], v.wrapping_add(row * depth), depth, planes[0], set);
                (self.t.grad_output)(&gradients, self.g.output[0], &to, set);
            }
        }
    }

    /// `sum[m][..] (+)= sum over tiles of v[tile][m] z[tile][..]` for `rows` of m and one panel.
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(
        &self,
        tiles: usize,
        rows: usize,
        width: usize,
        v: *const f32,
        z: *const f32,
        sum: *mut f32,
        accumulate: bool,
        prefetch: *mut PrefetchQueue,
    ) {
        let kernels = self.kernels.transposed_gemm(width);
        for first in (0..tiles).step_by(DEPTH) {
            let mut m = 0;
            while m < rows {
                let count = balanced_rows(rows - m, kernels.len());
                let t = TransposedGemm {
                    a: v.wrapping_add(first * self.depth() + m),
                    a_step: self.depth(),
                    segments: &0,
                    count: 1,
                    k: DEPTH.min(tiles - first),
                    b: z.wrapping_add(first * width),
                    c: sum.wrapping_add(m * width),
                    c_step: width,
                    accumulate: accumulate || first > 0,
                    prefetch,
                };
                unsafe { kernels[count - 1](&t) };
                m += count;
            }
        }
    }

    /// Transforms `rows` rows of one panel of M back; stores them in, or adds them to, the weight gradient.
    ///
    /// # Safety
    /// No other task accesses the gradients of the filters from `at` on and the input channels from `first` on.
    #[allow(clippy::too_many_arguments)]
    unsafe fn transform_back(
        &self,
        sum: *const f32,
        plane_step: usize,
        first: usize,
        rows: usize,
        at: usize,
        gw: SharedPtr,
        accumulate: bool,
    ) {
        let (ci, co) = (self.g.input[0], self.g.output[0]);
        let width = self.kernels.width(at, co);
        let filters = FilterPanel {
            first: gw.at((at * ci + first) * 9),
            steps: [9, ci * 9],
            rows,
            width,
            columns: width.min(co - at),
            rotated180: false,
        };
        unsafe { (self.t.grad_filter)(sum, plane_step, &filters, accumulate) }
    }

    /// Accumulates all of M in partial sums over blocks of tiles.
    fn run_whole(&self, n: usize, x: &[f32], gy: &[f32], gw: SharedPtr, pool: &Pool, scratch: &mut Scratch) {
        let (ci, co, panel) = (self.g.input[0], self.g.output[0], self.kernels.panel());
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let zero_len = self.zeros();
        let (sums, slots) = (zeros.skip(zero_len), zeros.skip(shared));
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let total = n * self.tiling.tiles_per_image();
        let (parts, sum_len) =
            (self.max_parts().min((total / (MIN_BLOCKS * self.block)).max(2)).min(total), whole_lines(self.sum()));
        let sum_plane = ci * self.columns() + CACHE_SET_PADDING;
        let [v_len, _] = self.tile_floats(self.block);
        // A single thread accumulates two sums of one block each in place, which gives the same bits as adding them up later.
        let in_place = pool.threads() == 1 && parts == 2 && total.div_ceil(parts) <= self.block;
        pool.run(parts, |part| {
            let slot = slots.skip(pool.thread_index() * own);
            let (v, z) = (slot, slot.skip(v_len));
            let sum = if in_place { sums } else { sums.skip(part * sum_len) };
            let end = (part + 1) * total / parts;
            let start = part * total / parts;
            // As even as possible, because each block reads and writes all of M.
            let size = (end - start).div_ceil((end - start).div_ceil(self.block).max(1)).max(1);
            for first in (start..end).step_by(size) {
                let tiles = size.min(end - first);
                // SAFETY: only this thread uses the slot, and only this task writes the partial sum.
                unsafe {
                    let next = first + tiles;
                    let mut queue = PrefetchQueue::new();
                    for (image, from) in [(self.tiling.source, x), (self.tiling.target, gy)] {
                        let (start, floats) = self.tiling.covered_floats(image, &self.t, next, size.min(end - next));
                        queue.push(from.as_ptr().wrapping_add(start), floats);
                    }
                    let rows = ci.div_ceil(self.kernels.transposed_gemm(self.kernels.width(0, co)).len());
                    queue.spread_over(self.planes() * co.div_ceil(panel) * rows * tiles.div_ceil(DEPTH));
                    let accumulate = first > start || in_place && part > 0;
                    for &set in self.plane_sets {
                        self.transform(first, tiles, 0, tiles, x.as_ptr(), gy.as_ptr(), zeros.at(0), v, z, set);
                        for (i, plane) in set.planes(self.t.coefficients).enumerate() {
                            let v = v.at(i * Self::plane(tiles, self.depth()));
                            for at in (0..co).step_by(panel) {
                                let z = z.at(i * Self::plane(tiles, self.columns()) + at * tiles);
                                let sum = sum.at(plane * sum_plane + at * ci);
                                let width = self.kernels.width(at, co);
                                self.multiply(tiles, ci, width, v, z, sum, accumulate, &mut queue);
                            }
                        }
                    }
                }
            }
        });
        let sums_left = if in_place { 1 } else { parts };
        // Adds up the partial sums and transforms them back, one task per panel.
        pool.run(co.div_ceil(panel), |task| {
            let at = task * panel;
            let width = self.kernels.width(at, co);
            // SAFETY: only this task accesses the panel of each partial sum and its filters.
            unsafe {
                for plane in 0..self.planes() {
                    add_pairwise(sums.skip(plane * sum_plane + at * ci), sums_left, sum_len, ci * width);
                }
                self.transform_back(sums.at(at * ci), sum_plane, 0, ci, at, gw, false);
            }
        });
    }

    /// Accumulates M panel by panel over all tiles of a chunk of images.
    fn run_panels(&self, n: usize, x: &[f32], gy: &[f32], gw: SharedPtr, pool: &Pool, scratch: &mut Scratch) {
        let (ci, co, panel) = (self.g.input[0], self.g.output[0], self.kernels.panel());
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let zero_len = self.zeros();
        let slots = zeros.skip(shared);
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let sum_plane = ROWS * GROUP * panel + CACHE_SET_PADDING;
        for start in (0..n).step_by(self.block) {
            let images = self.block.min(n - start);
            assert!(images <= self.max_images, "planned for a batch of {}", self.max_images);
            let tiles = images * self.tiling.tiles_per_image();
            let (x, gy) = (&x[start * self.g.input_len()..], &gy[start * self.g.output_len()..]);
            let [v_len, _] = self.tile_floats(tiles);
            let (v, z) = (zeros.skip(zero_len), zeros.skip(zero_len + v_len));
            const TASK_TILES: usize = 4;
            pool.run(tiles.div_ceil(TASK_TILES), |task| {
                let first = task * TASK_TILES;
                let count = TASK_TILES.min(tiles - first);
                // SAFETY: only this task writes these rows of V and Z.
                unsafe {
                    self.transform(
                        first,
                        count,
                        first,
                        tiles,
                        x.as_ptr(),
                        gy.as_ptr(),
                        zeros.at(0),
                        v,
                        z,
                        PlaneSet::All,
                    )
                };
            });
            let (blocks, columns) = (ci.div_ceil(ROWS), GROUP * panel);
            pool.run(co.div_ceil(columns) * blocks, |task| {
                let (start_column, first) = (task / blocks * columns, task % blocks * ROWS);
                let end_column = co.min(start_column + columns);
                let rows = ROWS.min(ci - first);
                let sum = slots.skip(pool.thread_index() * own);
                // SAFETY: only this thread uses the slot, and only this task writes these channels of the filters.
                unsafe {
                    for plane in 0..self.planes() {
                        let v = v.at(plane * Self::plane(tiles, self.depth()) + first);
                        for at in (start_column..end_column).step_by(panel) {
                            let z = z.at(plane * Self::plane(tiles, self.columns()) + at * tiles);
                            let sum = sum.at(plane * sum_plane + (at - start_column) * rows);
                            let width = self.kernels.width(at, co);
                            self.multiply(tiles, rows, width, v, z, sum, false, std::ptr::null_mut());
                        }
                    }
                    for at in (start_column..end_column).step_by(panel) {
                        let sum = sum.at((at - start_column) * rows);
                        self.transform_back(sum, sum_plane, first, rows, at, gw, start > 0);
                    }
                }
            });
        }
    }
}

impl WeightPass for WinogradWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        assert!(x.len() >= n * self.g.input_len() && gy.len() >= n * self.g.output_len());
        assert!(gw.len() == self.g.weight_len() && pool.threads() <= self.threads);
        if n == 0 {
            return gw.fill(0.0);
        }
        if self.whole {
            self.run_whole(n, x, gy, SharedPtr::of(gw), pool, scratch);
        } else {
            self.run_panels(n, x, gy, SharedPtr::of(gw), pool, scratch);
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [shared, own] = self.layout();
        (shared + own * self.threads) * size_of::<f32>()
    }
}
