//! The weight's gradient: the transpose of the forward algorithm,
//! dw = G^T [sum over tiles of (B^T x B) . (A gy A^T)] G.

use super::{GAP, Tiling};
use crate::conv::Geometry;
use crate::conv::direct::even;
use crate::conv::pass::{Way, WeightPass};
use crate::memory::{Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::tile::{Cols, Soon};
use crate::simd::transform::{Filters, PanelRow, Part, Transforms};

/// Transformed gradients up to this size are summed block by block; larger ones panel by panel.
const WHOLE_BYTES: usize = 3 << 20;

/// What all partial sums together may take.
const PARTS_BYTES: usize = 8 << 20;

/// Partial sums at most.
const PARTS: usize = 16;

/// Blocks that a partial sum is worth at least: it is as large as many tiles, and has to be joined with the others.
const PASSES: usize = 4;

/// What a thread's transformed tiles may take when sums are whole.
const BLOCK_BYTES: usize = 300 << 10;

/// Above this size a block's tiles are transformed and multiplied in two parts, so that one stays in a second-level cache.
const PART_BYTES: usize = 1 << 20;

/// Transformed tiles held at a time when sums go panel by panel.
const CHUNK_BYTES: usize = 24 << 20;

/// Input channels of a task when sums go panel by panel.
const ROWS: usize = 64;

/// Panels of a task when sums go panel by panel: its sums, 36 x 64 x 2 panels, stay in a second-level cache.
const GROUP: usize = 2;

/// Tiles of one call of a kernel: their panel stays in the first cache.
const DEPTH: usize = 256;

/// A bilinear algorithm for the weight's gradient of one geometry.
pub(in super::super) struct WinogradWeight {
    g: Geometry,
    kernels: &'static Kernels,
    t: Transforms,
    tiling: Tiling,
    /// Whether a thread sums a whole gradient over some tiles, or a panel of it over all.
    whole: bool,
    /// Tiles of a block (whole sums), or images of a chunk: fixed by the shape.
    block: usize,
    /// What is transformed of them and multiplied, one after the other.
    split: &'static [Part],
    /// The most images of a chunk that will come.
    held: usize,
    threads: usize,
}

impl WinogradWeight {
    pub fn new(g: &Geometry, batch: usize, threads: usize, kernels: &'static Kernels, t: Transforms) -> WinogradWeight {
        let tiling = Tiling::new(g, Way::Forward, &t);
        let numbers = t.products * t.products;
        let (ci, co) = (kernels.padded(g.input[0]), kernels.padded(g.output[0]));
        let whole = numbers * ci * co * size_of::<f32>() <= WHOLE_BYTES;
        let tile = numbers * (ci + co) * size_of::<f32>();
        let (block, held) = if whole {
            // Enough to be worth passing over the sum, which wide vectors do faster.
            ((BLOCK_BYTES / tile).clamp(4 * kernels.lanes, 128), 0)
        } else {
            let chunk = (CHUNK_BYTES / (tile * tiling.count())).max(1);
            (chunk, chunk.min(batch.max(1)))
        };
        let split: &[Part] = match whole && block * tile > PART_BYTES && Part::First.planes(t.products).end < numbers {
            true => &[Part::First, Part::Second],
            false => &[Part::Whole],
        };
        WinogradWeight { g: *g, kernels, t, tiling, whole, block, split, held, threads }
    }

    fn numbers(&self) -> usize {
        self.t.products * self.t.products
    }

    fn depth(&self) -> usize {
        self.kernels.padded(self.g.input[0])
    }

    fn columns(&self) -> usize {
        self.kernels.padded(self.g.output[0])
    }

    /// Floats of a whole transformed gradient.
    fn sum(&self) -> usize {
        self.numbers() * (self.g.input[0] * self.columns() + GAP)
    }

    /// Partial sums at most: fixed by the shape.
    fn parts(&self) -> usize {
        (PARTS_BYTES / (self.sum() * size_of::<f32>())).clamp(2, PARTS)
    }

    /// Floats between planes of `tiles` rows of `row` floats.
    fn plane(tiles: usize, row: usize) -> usize {
        lines(tiles * row) + GAP
    }

    /// Floats of V and Z of `tiles` tiles.
    fn tiles(&self, tiles: usize) -> [usize; 2] {
        let planes = self.split.iter().map(|part| part.planes(self.t.products).len()).max().unwrap_or(0);
        [Self::plane(tiles, self.depth()), Self::plane(tiles, self.columns())].map(|plane| planes * plane)
    }

    /// Floats of scratch: shared by all threads, and for each.
    fn layout(&self) -> [usize; 2] {
        let zeros = self.zeros();
        if self.whole {
            let [v, z] = self.tiles(self.block);
            [zeros + self.parts() * lines(self.sum()), v + z]
        } else {
            let [v, z] = self.tiles(self.held * self.tiling.count());
            let sum = self.numbers() * (ROWS * GROUP * self.kernels.panel() + GAP);
            [zeros + v + z, lines(sum)]
        }
    }

    /// Floats of a row of zeros.
    fn zeros(&self) -> usize {
        lines(self.tiling.zeros(&self.t) * self.g.input[0].max(self.g.output[0]))
    }

    /// Transforms inputs and output gradients of `count` tiles from `first` on to the rows from `row` on of V and Z of
    /// `tiles` rows, which hold the planes of the part.
    ///
    /// # Safety
    /// The rows of V and Z are the caller's.
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
        v: Raw,
        z: Raw,
        part: Part,
    ) {
        let depth = self.depth();
        let planes = [depth, self.columns()].map(|row| Self::plane(tiles, row));
        // Where the first of all planes would be.
        let before = part.planes(self.t.products).start;
        let (v, z) = (v.at(0).wrapping_sub(before * planes[0]), z.at(0).wrapping_sub(before * planes[1]));
        for run in self.tiling.runs(first, count) {
            let row = row + run.before;
            let to = PanelRow { z, row, rows: tiles, plane: planes[1] };
            let inputs = self.tiling.inputs(&run, &self.t, x, zeros);
            let gradients = self.tiling.gradients(&run, &self.t, gy, zeros);
            unsafe {
                (self.t.input)(&inputs, self.g.input[0], v.wrapping_add(row * depth), depth, planes[0], part);
                (self.t.grad_output)(&gradients, self.g.output[0], &to, part);
            }
        }
    }

    /// `sum[m][..] += sum over tiles of v[tile][m] z[tile][..]` for `rows` of m and one panel.
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(
        &self,
        tiles: usize,
        rows: usize,
        width: usize,
        v: *const f32,
        z: *const f32,
        sum: *mut f32,
        add: bool,
        soon: *mut Soon,
    ) {
        let kernels = self.kernels.cols(width);
        for first in (0..tiles).step_by(DEPTH) {
            let mut m = 0;
            while m < rows {
                let count = even(rows - m, kernels.len());
                let t = Cols {
                    a: v.wrapping_add(first * self.depth() + m),
                    a_step: self.depth(),
                    segments: &0,
                    count: 1,
                    k: DEPTH.min(tiles - first),
                    b: z.wrapping_add(first * width),
                    c: sum.wrapping_add(m * width),
                    c_step: width,
                    add: add || first > 0,
                    soon,
                };
                unsafe { kernels[count - 1](&t) };
                m += count;
            }
        }
    }

    /// Transforms `rows` x one panel of sums back and writes (or adds) them as OIHW.
    ///
    /// # Safety
    /// The filters from `at` on and input channels from `first` on are the caller's.
    #[allow(clippy::too_many_arguments)]
    unsafe fn write(&self, sum: *const f32, plane: usize, first: usize, rows: usize, at: usize, gw: Raw, add: bool) {
        let (ci, co) = (self.g.input[0], self.g.output[0]);
        let width = self.kernels.width(at, co);
        let filters = Filters {
            first: gw.at((at * ci + first) * 9),
            steps: [9, ci * 9],
            rows,
            width,
            columns: width.min(co - at),
            turned: false,
        };
        unsafe { (self.t.grad_filter)(sum, plane, &filters, add) }
    }

    fn run_whole(&self, n: usize, x: &[f32], gy: &[f32], gw: Raw, pool: &Pool, scratch: &mut Scratch) {
        let (ci, co, panel) = (self.g.input[0], self.g.output[0], self.kernels.panel());
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let zero_len = self.zeros();
        let (sums, slots) = (zeros.skip(zero_len), zeros.skip(shared));
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let total = n * self.tiling.count();
        let (parts, sum_len) = (self.parts().min((total / (PASSES * self.block)).max(2)).min(total), lines(self.sum()));
        let sum_plane = ci * self.columns() + GAP;
        let [v_len, _] = self.tiles(self.block);
        // One thread need not keep sums apart that are one block each: added up as they are made they are the same.
        let joined = pool.threads() == 1 && parts == 2 && total.div_ceil(parts) <= self.block;
        pool.run(parts, |part| {
            let slot = slots.skip(pool.worker() * own);
            let (v, z) = (slot, slot.skip(v_len));
            let sum = if joined { sums } else { sums.skip(part * sum_len) };
            let end = (part + 1) * total / parts;
            let start = part * total / parts;
            // Blocks as even as can be: each passes over the whole sum, whatever it adds.
            let size = (end - start).div_ceil((end - start).div_ceil(self.block).max(1)).max(1);
            for first in (start..end).step_by(size) {
                let tiles = size.min(end - first);
                // SAFETY: the slot is this thread's, the partial sum this task's.
                unsafe {
                    let next = first + tiles;
                    let mut soon = Soon::new();
                    for (picture, from) in [(self.tiling.source, x), (self.tiling.target, gy)] {
                        let (start, floats) = self.tiling.floats(picture, &self.t, next, size.min(end - next));
                        soon.add(from.as_ptr().wrapping_add(start), floats);
                    }
                    let rows = ci.div_ceil(self.kernels.cols(self.kernels.width(0, co)).len());
                    soon.within(self.numbers() * co.div_ceil(panel) * rows * tiles.div_ceil(DEPTH));
                    let add = first > start || joined && part > 0;
                    for &half in self.split {
                        self.transform(first, tiles, 0, tiles, x.as_ptr(), gy.as_ptr(), zeros.at(0), v, z, half);
                        for (i, number) in half.planes(self.t.products).enumerate() {
                            let v = v.at(i * Self::plane(tiles, self.depth()));
                            for at in (0..co).step_by(panel) {
                                let z = z.at(i * Self::plane(tiles, self.columns()) + at * tiles);
                                let sum = sum.at(number * sum_plane + at * ci);
                                self.multiply(tiles, ci, self.kernels.width(at, co), v, z, sum, add, &mut soon);
                            }
                        }
                    }
                }
            }
        });
        let apart = if joined { 1 } else { parts };
        // Joins the partial sums pairwise and transforms them back, one task a panel.
        pool.run(co.div_ceil(panel), |task| {
            let at = task * panel;
            let width = self.kernels.width(at, co);
            // SAFETY: the panel of every partial sum and its filters are this task's.
            unsafe {
                for number in 0..self.numbers() {
                    let base = sums.skip(number * sum_plane + at * ci);
                    let mut gap = 1;
                    while gap < apart {
                        for part in (0..apart - gap).step_by(2 * gap) {
                            let to = std::slice::from_raw_parts_mut(base.at(part * sum_len), ci * width);
                            let from = std::slice::from_raw_parts(base.at((part + gap) * sum_len), ci * width);
                            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
                        }
                        gap *= 2;
                    }
                }
                self.write(sums.at(at * ci), sum_plane, 0, ci, at, gw, false);
            }
        });
    }

    fn run_panels(&self, n: usize, x: &[f32], gy: &[f32], gw: Raw, pool: &Pool, scratch: &mut Scratch) {
        let (ci, co, panel) = (self.g.input[0], self.g.output[0], self.kernels.panel());
        let [shared, own] = self.layout();
        let zeros = scratch.take(shared + own * self.threads);
        let zero_len = self.zeros();
        let slots = zeros.skip(shared);
        // SAFETY: no task runs.
        unsafe { zeros.at(0).write_bytes(0, zero_len) };
        let sum_plane = ROWS * GROUP * panel + GAP;
        for start in (0..n).step_by(self.block) {
            let images = self.block.min(n - start);
            assert!(images <= self.held, "planned for a batch of {}", self.held);
            let tiles = images * self.tiling.count();
            let (x, gy) = (&x[start * self.g.input_len()..], &gy[start * self.g.output_len()..]);
            let [v_len, _] = self.tiles(tiles);
            let (v, z) = (zeros.skip(zero_len), zeros.skip(zero_len + v_len));
            const SOME: usize = 4;
            pool.run(tiles.div_ceil(SOME), |task| {
                let first = task * SOME;
                let count = SOME.min(tiles - first);
                // SAFETY: the tiles' rows of V and Z are this task's.
                unsafe {
                    self.transform(first, count, first, tiles, x.as_ptr(), gy.as_ptr(), zeros.at(0), v, z, Part::Whole)
                };
            });
            let (blocks, columns) = (ci.div_ceil(ROWS), GROUP * panel);
            pool.run(co.div_ceil(columns) * blocks, |task| {
                let (start_column, first) = (task / blocks * columns, task % blocks * ROWS);
                let end_column = co.min(start_column + columns);
                let rows = ROWS.min(ci - first);
                let sum = slots.skip(pool.worker() * own);
                // SAFETY: the slot is this thread's, the filters' channels are this task's.
                unsafe {
                    for number in 0..self.numbers() {
                        let v = v.at(number * Self::plane(tiles, self.depth()) + first);
                        for at in (start_column..end_column).step_by(panel) {
                            let z = z.at(number * Self::plane(tiles, self.columns()) + at * tiles);
                            let sum = sum.at(number * sum_plane + (at - start_column) * rows);
                            self.multiply(
                                tiles,
                                rows,
                                self.kernels.width(at, co),
                                v,
                                z,
                                sum,
                                false,
                                std::ptr::null_mut(),
                            );
                        }
                    }
                    for at in (start_column..end_column).step_by(panel) {
                        let sum = sum.at((at - start_column) * rows);
                        self.write(sum, sum_plane, first, rows, at, gw, start > 0);
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
            self.run_whole(n, x, gy, Raw::of(gw), pool, scratch);
        } else {
            self.run_panels(n, x, gy, Raw::of(gw), pool, scratch);
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [shared, own] = self.layout();
        (shared + own * self.threads) * size_of::<f32>()
    }
}
