//! 3x3 convolution with stride 1 of images with few channels, such as the first of a network: one-dimensional Winograd F(4, 3)
//! along image rows.
//!
//! It needs half the multiplications of a direct convolution and has a smaller rounding error than F(4x4, 3x3), which applies
//! F(4, 3) along both axes. The input gradient has few output channels, so it does not fill vectors of them and is computed
//! directly.

use std::ops::Range;

use super::pass::{Pass, PassArgs, WeightPass, add_pairwise};
use super::{Geometry, winograd};
use crate::memory::{Buffer, Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::f4_rows::{CHANNELS, COEFFICIENTS, INPUTS, OUTPUTS, RowCorrelation, RowGradients, RowOutputs};

/// Most bytes of the transformed rows of a block, and of transformed gradients: most of L1.
const BLOCK_BYTES: usize = 24 << 10;

/// Partial sums of the weight gradient over images.
const PARTS: usize = 16;

/// Taps of a filter, per channel.
const TAPS: usize = 9;

/// Whether this algorithm covers `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    winograd::covers(g) && g.input[0] <= CHANNELS
}

/// How images are divided into rows of quads.
#[derive(Clone, Copy)]
struct RowTiling {
    g: Geometry,
    lanes: usize,
    /// Quads of an output row.
    quads: usize,
    /// Vectors of quads of an output row.
    groups: usize,
}

impl RowTiling {
    fn new(g: &Geometry, kernels: &Kernels) -> RowTiling {
        let quads = g.output[2].div_ceil(OUTPUTS);
        RowTiling { g: *g, lanes: kernels.lanes, quads, groups: (quads * CHANNELS).div_ceil(kernels.lanes) }
    }

    /// Floats of a transformed row.
    fn row(&self) -> usize {
        self.groups * COEFFICIENTS * self.lanes
    }

    /// Floats of a padded row of pixels, including what the kernels read beyond it.
    fn padded_row(&self) -> usize {
        let pixels = self.groups * self.lanes / CHANNELS * OUTPUTS + INPUTS - OUTPUTS;
        whole_lines(pixels.max(self.g.conv.padding.left + self.g.input[2]) * self.g.input[0] + CHANNELS)
    }

    /// Output rows of a block, whose transformed inputs stay in L1 if it holds at least eight.
    fn block(&self) -> usize {
        (BLOCK_BYTES / size_of::<f32>() / self.row()).max(8).min(self.g.output[1].max(1))
    }

    /// Floats that [`RowTiling::transform`] writes for a block.
    fn transformed(&self) -> usize {
        whole_lines(self.row() * (self.block() + 2))
    }

    /// Floats of a vector of transformed filters.
    fn filters(&self) -> usize {
        3 * self.g.input[0] * COEFFICIENTS * self.lanes
    }

    /// Floats of a vector of filters.
    fn taps(&self) -> usize {
        TAPS * self.g.input[0] * self.lanes
    }

    /// Vectors of filters.
    fn vectors(&self) -> usize {
        self.g.output[0].div_ceil(self.lanes)
    }

    /// Transforms the rows of `image` that the output rows `rows` need; `padded` is a buffer for one padded row.
    ///
    /// # Safety
    /// `v` is valid for `rows.len() + 2` transformed rows, `padded` for [`RowTiling::padded_row`] floats.
    unsafe fn transform(&self, kernels: &Kernels, image: &[f32], rows: Range<usize>, padded: *mut f32, v: *mut f32) {
        let [c, h, w] = self.g.input;
        let p = self.g.conv.padding;
        unsafe {
            padded.write_bytes(0, self.padded_row());
            for (at, row) in (rows.start..rows.end + 2).enumerate() {
                let v = v.add(at * self.row());
                match row.checked_sub(p.top).filter(|&row| row < h) {
                    Some(row) => {
                        let pixels = &image[row * w * c..][..w * c];
                        padded.add(p.left * c).copy_from_nonoverlapping(pixels.as_ptr(), w * c);
                        (kernels.f4_rows.input)(padded, c, self.groups, v);
                    }
                    None => v.write_bytes(0, self.row()),
                }
            }
        }
    }
}

/// The forward pass of one geometry.
pub(super) struct F4Rows {
    tiling: RowTiling,
    kernels: &'static Kernels,
    /// The transformed filters, vector by vector.
    packed: Buffer,
    stale: bool,
    threads: usize,
}

impl F4Rows {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> F4Rows {
        let tiling = RowTiling::new(g, kernels);
        F4Rows { tiling, kernels, packed: Buffer::new(tiling.vectors() * tiling.filters()), stale: true, threads }
    }

    /// Transforms the weights; `taps` is a buffer for one vector of filters.
    fn pack(&mut self, w: &[f32], taps: &mut [f32]) {
        let (t, [ci, co]) = (self.tiling, [self.tiling.g.input[0], self.tiling.g.output[0]]);
        for (vector, to) in self.packed.chunks_exact_mut(t.filters()).enumerate() {
            let first = vector * t.lanes;
            taps.fill(0.0);
            let filters = w[first * ci * TAPS..].chunks_exact(ci * TAPS).take(t.lanes.min(co - first));
            for (lane, filter) in filters.enumerate() {
                filter.iter().enumerate().for_each(|(i, &weight)| taps[i * t.lanes + lane] = weight);
            }
            // SAFETY: both hold one vector of filters.
            unsafe { (self.kernels.f4_rows.filter)(taps.as_ptr(), ci, to.as_mut_ptr()) };
        }
        self.stale = false;
    }

    /// Floats of a thread's scratch.
    fn slot(&self) -> usize {
        self.tiling.padded_row() + self.tiling.transformed()
    }
}

impl Pass for F4Rows {
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let taps = scratch.take(whole_lines(self.tiling.taps()) + self.slot() * self.threads);
        if self.stale {
            // SAFETY: inside the scratch, and no task runs.
            self.pack(args.w, unsafe { std::slice::from_raw_parts_mut(taps.at(0), self.tiling.taps()) });
        }
        let (this, t) = (&*self, self.tiling);
        let (g, il, ol) = (t.g, t.g.input_len(), t.g.output_len());
        let [co, ho, wo] = g.output;
        assert!(args.x.len() >= args.n * il && y.len() >= args.n * ol && pool.threads() <= this.threads);
        let (epilogue, mask) = args.epilogue_and_mask(co, y);
        assert!(mask.is_none(), "a forward pass has no mask");
        let (slots, y) = (taps.skip(whole_lines(t.taps())), SharedPtr::of(y));
        let blocks = ho.div_ceil(t.block());
        pool.run(args.n * blocks, |task| {
            let (image, first) = (task / blocks, task % blocks * t.block());
            let rows = first..ho.min(first + t.block());
            let padded = slots.at(pool.thread_index() * this.slot());
            let v = padded.wrapping_add(t.padded_row());
            // SAFETY: only this thread uses the slot, and only this task writes the rows.
            unsafe {
                t.transform(this.kernels, &args.x[image * il..][..il], rows.clone(), padded, v);
                for row in rows {
                    for vector in 0..t.vectors() {
                        let at = vector * t.lanes;
                        (this.kernels.f4_rows.output)(&RowOutputs {
                            v: v.add((row - first) * t.row()),
                            row_step: t.row(),
                            channels: g.input[0],
                            u: this.packed[vector * t.filters()..].as_ptr(),
                            y: y.at(image * ol + row * wo * co + at),
                            step: co,
                            pixels: wo,
                            filters: t.lanes.min(co - at),
                            epilogue: epilogue.skip(at),
                        });
                    }
                }
            }
        });
    }

    fn weights_changed(&mut self) {
        self.stale = true;
    }

    fn scratch_bytes(&self) -> usize {
        (whole_lines(self.tiling.taps()) + self.slot() * self.threads) * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

/// The weight gradient of one geometry.
pub(super) struct F4RowsWeight {
    tiling: RowTiling,
    kernels: &'static Kernels,
    threads: usize,
}

impl F4RowsWeight {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> F4RowsWeight {
        F4RowsWeight { tiling: RowTiling::new(g, kernels), kernels, threads }
    }

    /// Gradient rows that are transformed at a time.
    fn gradient_rows(&self) -> usize {
        (BLOCK_BYTES / size_of::<f32>() / self.gradient_row().max(1)).clamp(1, self.tiling.block())
    }

    /// Floats of a transformed gradient row.
    fn gradient_row(&self) -> usize {
        self.tiling.quads * COEFFICIENTS * self.tiling.lanes
    }

    /// Floats of a thread's scratch, and of a partial sum.
    fn layout(&self) -> [usize; 2] {
        let t = self.tiling;
        [
            t.padded_row() + t.transformed() + whole_lines(self.gradient_rows() * self.gradient_row()),
            whole_lines(t.vectors() * t.filters()),
        ]
    }

    /// Adds one image's contribution to a partial sum.
    ///
    /// # Safety
    /// `slot` points to a thread's scratch, `sum` to a partial sum.
    unsafe fn add(&self, x: &[f32], gy: &[f32], slot: *mut f32, sum: *mut f32) {
        let (t, kernels) = (self.tiling, &self.kernels.f4_rows);
        let [co, ho, wo] = t.g.output;
        let v = slot.wrapping_add(t.padded_row());
        let z = v.wrapping_add(t.transformed());
        for first in (0..ho).step_by(t.block()) {
            let end = ho.min(first + t.block());
            unsafe {
                t.transform(self.kernels, x, first..end, slot, v);
                for start in (first..end).step_by(self.gradient_rows()) {
                    let rows = start..end.min(start + self.gradient_rows());
                    for vector in 0..t.vectors() {
                        let at = vector * t.lanes;
                        for row in rows.clone() {
                            (kernels.grad_output)(&RowGradients {
                                gy: gy[row * wo * co + at..].as_ptr(),
                                step: co,
                                pixels: wo,
                                filters: t.lanes.min(co - at),
                                z: z.add((row - start) * self.gradient_row()),
                            });
                        }
                        (kernels.correlate)(&RowCorrelation {
                            v: v.add((start - first) * t.row()),
                            row_step: t.row(),
                            channels: t.g.input[0],
                            z,
                            rows: rows.len(),
                            quads: t.quads,
                            sums: sum.add(vector * t.filters()),
                            next: gy.as_ptr().wrapping_add(rows.end * wo * co + at),
                            step: co,
                        });
                    }
                }
            }
        }
    }
}

impl WeightPass for F4RowsWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (this, t, [own, sum_len]) = (&*self, self.tiling, self.layout());
        let (il, ol) = (t.g.input_len(), t.g.output_len());
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == t.g.weight_len());
        assert!(pool.threads() <= this.threads);
        let taps = scratch.take(whole_lines(t.taps()) + PARTS * sum_len + this.threads * own);
        let sums = taps.skip(whole_lines(t.taps()));
        let slots = sums.skip(PARTS * sum_len);
        pool.run(PARTS, |part| {
            let slot = slots.at(pool.thread_index() * own);
            let sum = sums.at(part * sum_len);
            // SAFETY: only this thread uses the slot, and only this task writes the partial sum.
            unsafe {
                sum.write_bytes(0, sum_len);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    this.add(&x[image * il..][..il], &gy[image * ol..][..ol], slot, sum);
                }
            }
        });
        // SAFETY: the tasks are over; sums and taps are disjoint parts of the scratch.
        let (sum, taps) = unsafe {
            add_pairwise(sums, PARTS, sum_len, sum_len);
            let sum = std::slice::from_raw_parts(sums.at(0), t.vectors() * t.filters());
            (sum, std::slice::from_raw_parts_mut(taps.at(0), t.taps()))
        };
        let (ci, co) = (t.g.input[0], t.g.output[0]);
        for (vector, sum) in sum.chunks_exact(t.filters()).enumerate() {
            let first = vector * t.lanes;
            // SAFETY: both hold one vector of filters.
            unsafe { (this.kernels.f4_rows.grad_filter)(sum.as_ptr(), ci, taps.as_mut_ptr()) };
            let filters = gw[first * ci * TAPS..].chunks_exact_mut(ci * TAPS).take(t.lanes.min(co - first));
            for (lane, filter) in filters.enumerate() {
                filter.iter_mut().enumerate().for_each(|(i, weight)| *weight = taps[i * t.lanes + lane]);
            }
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [own, sum] = self.layout();
        (whole_lines(self.tiling.taps()) + PARTS * sum + self.threads * own) * size_of::<f32>()
    }
}
