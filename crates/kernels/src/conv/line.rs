//! 3x3 convolution with stride 1 of pictures with few channels, such as a network's first: F(4, 3) along lines of pixels.
//!
//! Half the multiplications of a direct sum, and a smaller rounding error than F(4x4, 3x3), of which it is one dimension. The
//! gradient of the input has few filters, so it is not made this way.

use std::ops::Range;

use super::Geometry;
use super::pass::{Io, Pass, WeightPass};
use super::winograd;
use crate::memory::{Buffer, Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::line::{CHANNELS, Correlation, Gradients, INPUTS, OUTPUTS, PRODUCTS, Sums};

/// What the transformed lines of a task, and transformed gradients, may take: most of a first cache.
const BLOCK_BYTES: usize = 24 << 10;

/// Partial sums of weight gradients at most.
const PARTS: usize = 16;

/// Taps of a filter and a channel.
const TAPS: usize = 9;

/// Whether it covers `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    winograd::covers(g) && g.input[0] <= CHANNELS
}

/// How pictures are cut into lines.
#[derive(Clone, Copy)]
struct Lines {
    g: Geometry,
    lanes: usize,
    /// Quads of an output line.
    quads: usize,
    /// Vectors of quads of an output line.
    groups: usize,
}

impl Lines {
    fn new(g: &Geometry, kernels: &Kernels) -> Lines {
        let quads = g.output[2].div_ceil(OUTPUTS);
        Lines { g: *g, lanes: kernels.lanes, quads, groups: (quads * CHANNELS).div_ceil(kernels.lanes) }
    }

    /// Floats of a transformed line.
    fn line(&self) -> usize {
        self.groups * PRODUCTS * self.lanes
    }

    /// Floats of a line with its border, and what is read behind it.
    fn bordered(&self) -> usize {
        let pixels = self.groups * self.lanes / CHANNELS * OUTPUTS + INPUTS - OUTPUTS;
        lines(pixels.max(self.g.conv.padding.left + self.g.input[2]) * self.g.input[0] + CHANNELS)
    }

    /// Output lines of a block: what is transformed for them stays in the first cache, if that is not too few.
    fn block(&self) -> usize {
        (BLOCK_BYTES / size_of::<f32>() / self.line()).max(8).min(self.g.output[1].max(1))
    }

    /// Floats that [`Lines::transform`] writes for a block.
    fn transformed(&self) -> usize {
        lines(self.line() * (self.block() + 2))
    }

    /// Floats of a vector of transformed filters.
    fn filters(&self) -> usize {
        3 * self.g.input[0] * PRODUCTS * self.lanes
    }

    /// Floats of a vector of filters.
    fn taps(&self) -> usize {
        TAPS * self.g.input[0] * self.lanes
    }

    /// Vectors of filters.
    fn vectors(&self) -> usize {
        self.g.output[0].div_ceil(self.lanes)
    }

    /// Transforms the lines of `image` that the output lines `rows` need, through `bordered`.
    ///
    /// # Safety
    /// There is room for `rows.len() + 2` lines from `v` on, and of [`Lines::bordered`] from `bordered` on.
    unsafe fn transform(&self, kernels: &Kernels, image: &[f32], rows: Range<usize>, bordered: *mut f32, v: *mut f32) {
        let [c, h, w] = self.g.input;
        let p = self.g.conv.padding;
        unsafe {
            bordered.write_bytes(0, self.bordered());
            for (at, row) in (rows.start..rows.end + 2).enumerate() {
                let v = v.add(at * self.line());
                match row.checked_sub(p.top).filter(|&row| row < h) {
                    Some(row) => {
                        let line = &image[row * w * c..][..w * c];
                        bordered.add(p.left * c).copy_from_nonoverlapping(line.as_ptr(), w * c);
                        (kernels.line.input)(bordered, c, self.groups, v);
                    }
                    None => v.write_bytes(0, self.line()),
                }
            }
        }
    }
}

/// The forward pass for one geometry.
pub(super) struct Line {
    lines: Lines,
    kernels: &'static Kernels,
    /// The transformed filters, vector by vector.
    packed: Buffer,
    stale: bool,
    threads: usize,
}

impl Line {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> Line {
        let lines = Lines::new(g, kernels);
        Line { lines, kernels, packed: Buffer::new(lines.vectors() * lines.filters()), stale: true, threads }
    }

    /// Transforms the weights, through `taps`.
    fn pack(&mut self, w: &[f32], taps: &mut [f32]) {
        let (l, [ci, co]) = (self.lines, [self.lines.g.input[0], self.lines.g.output[0]]);
        for (vector, to) in self.packed.chunks_exact_mut(l.filters()).enumerate() {
            let first = vector * l.lanes;
            taps.fill(0.0);
            let filters = w[first * ci * TAPS..].chunks_exact(ci * TAPS).take(l.lanes.min(co - first));
            for (lane, filter) in filters.enumerate() {
                filter.iter().enumerate().for_each(|(i, &weight)| taps[i * l.lanes + lane] = weight);
            }
            // SAFETY: both have room for a vector of filters.
            unsafe { (self.kernels.line.filter)(taps.as_ptr(), ci, to.as_mut_ptr()) };
        }
        self.stale = false;
    }

    /// Floats of a thread's scratch.
    fn slot(&self) -> usize {
        self.lines.bordered() + self.lines.transformed()
    }
}

impl Pass for Line {
    fn run(&mut self, io: Io<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let taps = scratch.take(lines(self.lines.taps()) + self.slot() * self.threads);
        if self.stale {
            // SAFETY: there is room, and nobody else uses it.
            self.pack(io.w, unsafe { std::slice::from_raw_parts_mut(taps.at(0), self.lines.taps()) });
        }
        let (this, l) = (&*self, self.lines);
        let (g, il, ol) = (l.g, l.g.input_len(), l.g.output_len());
        let [co, ho, wo] = g.output;
        assert!(io.x.len() >= io.n * il && y.len() >= io.n * ol && pool.threads() <= this.threads);
        let finish = io.finish(co, y);
        let (slots, y) = (taps.skip(lines(l.taps())), Raw::of(y));
        let blocks = ho.div_ceil(l.block());
        pool.run(io.n * blocks, |task| {
            let (image, first) = (task / blocks, task % blocks * l.block());
            let rows = first..ho.min(first + l.block());
            let bordered = slots.at(pool.worker() * this.slot());
            let v = bordered.wrapping_add(l.bordered());
            // SAFETY: the slot is this thread's, the lines are this task's.
            unsafe {
                l.transform(this.kernels, &io.x[image * il..][..il], rows.clone(), bordered, v);
                for row in rows {
                    for vector in 0..l.vectors() {
                        let at = vector * l.lanes;
                        (this.kernels.line.output)(&Sums {
                            v: v.add((row - first) * l.line()),
                            line: l.line(),
                            channels: g.input[0],
                            u: this.packed[vector * l.filters()..].as_ptr(),
                            y: y.at(image * ol + row * wo * co + at),
                            step: co,
                            pixels: wo,
                            filters: l.lanes.min(co - at),
                            finish: finish.get().advance(at),
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
        (lines(self.lines.taps()) + self.slot() * self.threads) * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

/// The weight's gradient for one geometry.
pub(super) struct LineWeight {
    lines: Lines,
    kernels: &'static Kernels,
    threads: usize,
}

impl LineWeight {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> LineWeight {
        LineWeight { lines: Lines::new(g, kernels), kernels, threads }
    }

    /// Lines of gradients that are transformed at a time.
    fn rows(&self) -> usize {
        (BLOCK_BYTES / size_of::<f32>() / self.gradients().max(1)).clamp(1, self.lines.block())
    }

    /// Floats of a transformed line of gradients.
    fn gradients(&self) -> usize {
        self.lines.quads * PRODUCTS * self.lines.lanes
    }

    /// Floats of a thread's scratch, and of a partial sum.
    fn layout(&self) -> [usize; 2] {
        let l = self.lines;
        [l.bordered() + l.transformed() + lines(self.rows() * self.gradients()), lines(l.vectors() * l.filters())]
    }

    /// Adds an image's products to a partial sum.
    ///
    /// # Safety
    /// `slot` is a thread's scratch, `sum` a partial sum.
    unsafe fn add(&self, x: &[f32], gy: &[f32], slot: *mut f32, sum: *mut f32) {
        let (l, kernels) = (self.lines, &self.kernels.line);
        let [co, ho, wo] = l.g.output;
        let v = slot.wrapping_add(l.bordered());
        let z = v.wrapping_add(l.transformed());
        for first in (0..ho).step_by(l.block()) {
            let end = ho.min(first + l.block());
            unsafe {
                l.transform(self.kernels, x, first..end, slot, v);
                for start in (first..end).step_by(self.rows()) {
                    let rows = start..end.min(start + self.rows());
                    for vector in 0..l.vectors() {
                        let at = vector * l.lanes;
                        for row in rows.clone() {
                            (kernels.grad_output)(&Gradients {
                                gy: gy[row * wo * co + at..].as_ptr(),
                                step: co,
                                pixels: wo,
                                filters: l.lanes.min(co - at),
                                z: z.add((row - start) * self.gradients()),
                            });
                        }
                        (kernels.correlate)(&Correlation {
                            v: v.add((start - first) * l.line()),
                            line: l.line(),
                            channels: l.g.input[0],
                            z,
                            lines: rows.len(),
                            quads: l.quads,
                            sums: sum.add(vector * l.filters()),
                            next: gy.as_ptr().wrapping_add(rows.end * wo * co + at),
                            step: co,
                        });
                    }
                }
            }
        }
    }
}

impl WeightPass for LineWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (this, l, [own, sum_len]) = (&*self, self.lines, self.layout());
        let (il, ol) = (l.g.input_len(), l.g.output_len());
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == l.g.weight_len());
        assert!(pool.threads() <= this.threads);
        let taps = scratch.take(lines(l.taps()) + PARTS * sum_len + this.threads * own);
        let sums = taps.skip(lines(l.taps()));
        let slots = sums.skip(PARTS * sum_len);
        pool.run(PARTS, |part| {
            let slot = slots.at(pool.worker() * own);
            let sum = sums.at(part * sum_len);
            // SAFETY: the slot is this thread's, the partial sum this task's.
            unsafe {
                sum.write_bytes(0, sum_len);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    this.add(&x[image * il..][..il], &gy[image * ol..][..ol], slot, sum);
                }
            }
        });
        // SAFETY: the tasks are over, and each part of scratch is as large as said.
        let (sums, taps) = unsafe {
            let sums = std::slice::from_raw_parts_mut(sums.at(0), PARTS * sum_len);
            (sums, std::slice::from_raw_parts_mut(taps.at(0), l.taps()))
        };
        // Few numbers: joined pairwise here.
        let mut gap = 1;
        while gap < PARTS {
            for pair in sums.chunks_mut(2 * gap * sum_len) {
                let (to, from) = pair.split_at_mut(gap * sum_len);
                to[..sum_len].iter_mut().zip(&from[..sum_len]).for_each(|(to, from)| *to += from);
            }
            gap *= 2;
        }
        let (ci, co) = (l.g.input[0], l.g.output[0]);
        for (vector, sum) in sums[..l.vectors() * l.filters()].chunks_exact(l.filters()).enumerate() {
            let first = vector * l.lanes;
            // SAFETY: both have room for a vector of filters.
            unsafe { (this.kernels.line.grad_filter)(sum.as_ptr(), ci, taps.as_mut_ptr()) };
            let filters = gw[first * ci * TAPS..].chunks_exact_mut(ci * TAPS).take(l.lanes.min(co - first));
            for (lane, filter) in filters.enumerate() {
                filter.iter_mut().enumerate().for_each(|(i, weight)| *weight = taps[i * l.lanes + lane]);
            }
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [own, sum] = self.layout();
        (lines(self.lines.taps()) + PARTS * sum + self.threads * own) * size_of::<f32>()
    }
}
