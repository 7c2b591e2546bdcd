//! The weight gradient of convolutions with few input channels, such as the first of a network.
//!
//! One small GEMM over all pixels: each weight of a filter (tap and input channel) is a row of its left-hand side, the input
//! values under that tap; the right-hand side is the output gradient, read in place.

use super::pass::{WeightPass, add_pairwise, balanced_rows, pad};
use super::{Epilogue, Geometry};
use crate::memory::{Scratch, whole_lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::gemm::{IndirectGemm, MAX_ROWS};

/// Most input channels for which this is faster than [`DirectWeight`](super::direct_weight::DirectWeight).
const MAX_CHANNELS: usize = 4;

/// Partial sums over images.
const PARTS: usize = 16;

/// Output pixels of a block, whose gradients stay in L1 while all rows are multiplied with them.
const BLOCK_PIXELS: usize = 96;

/// Whether this is the fastest direct algorithm for `g`.
pub(super) fn suits(g: &Geometry) -> bool {
    g.conv.groups == 1 && g.input[0] <= MAX_CHANNELS
}

/// The algorithm for one geometry.
pub(super) struct FewChannelsWeight {
    g: Geometry,
    kernels: &'static Kernels,
    /// Rows and columns of padding before the image, and the extents of the padded image.
    before: [usize; 2],
    padded: [usize; 2],
    /// Floats from a pixel of the padded input to the value under each weight, ordered by tap, then channel.
    offsets: Vec<usize>,
    /// Where the input of each row of output pixels starts in the padded image.
    rows: Vec<isize>,
    threads: usize,
}

impl FewChannelsWeight {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> FewChannelsWeight {
        let c = g.conv;
        let [ci, hi, wi] = g.input;
        let before = [c.padding.top, c.padding.left];
        let extent = |a: usize, input: usize, output: usize| {
            (before[a] + input).max((output - 1) * c.stride[a] + (c.kernel[a] - 1) * c.dilation[a] + 1)
        };
        let padded = [extent(0, hi, g.output[1]), extent(1, wi, g.output[2])];
        let mut offsets = Vec::new();
        for kh in 0..c.kernel[0] {
            for kw in 0..c.kernel[1] {
                let pixel = kh * c.dilation[0] * padded[1] + kw * c.dilation[1];
                offsets.extend((0..ci).map(|channel| pixel * ci + channel));
            }
        }
        let rows = (0..g.output[1]).map(|row| (row * c.stride[0] * padded[1] * ci) as isize).collect();
        FewChannelsWeight { g: *g, kernels, before, padded, offsets, rows, threads }
    }

    /// Columns of the right-hand side, and whether the gradient is copied to pad it to them.
    fn columns(&self) -> (usize, bool) {
        let columns = self.kernels.padded(self.g.output[0]);
        (columns, columns != self.g.output[0])
    }

    /// Floats of a thread's padded input, of its copied gradient, and of a partial sum.
    fn layout(&self) -> [usize; 3] {
        let (columns, copies) = self.columns();
        let x = self.padded[0] * self.padded[1] * self.g.input[0];
        let gy = if copies { self.g.output[1] * self.g.output[2] * columns } else { 0 };
        [whole_lines(x), whole_lines(gy), whole_lines(self.offsets.len() * columns)]
    }

    /// Adds one image's contribution to a partial sum.
    ///
    /// # Safety
    /// `x` points to the padded input, `gy` to the gradient with padded columns, `sum` to the partial sum.
    unsafe fn multiply(&self, x: *const f32, gy: *const f32, sum: *mut f32) {
        let (columns, _) = self.columns();
        let (ho, wo) = (self.g.output[1], self.g.output[2]);
        let block = (BLOCK_PIXELS / wo).max(1);
        for row in (0..ho).step_by(block) {
            for at in (0..columns).step_by(self.kernels.panel()) {
                let width = self.kernels.width(at, columns);
                let kernels = self.kernels.indirect_gemm(width);
                let mut t = IndirectGemm {
                    a: [std::ptr::null(); MAX_ROWS],
                    c: [std::ptr::null_mut(); MAX_ROWS],
                    segments: self.rows[row..].as_ptr(),
                    count: block.min(ho - row),
                    k: wo,
                    a_step: self.g.conv.stride[1] * self.g.input[0],
                    b: gy.wrapping_add(row * wo * columns + at),
                    b_step: columns,
                    accumulate: true,
                    columns: width,
                    epilogue: Epilogue::default(),
                    mask: None,
                };
                let mut first = 0;
                while first < self.offsets.len() {
                    let count = balanced_rows(self.offsets.len() - first, kernels.len());
                    for m in 0..count {
                        t.a[m] = x.wrapping_add(self.offsets[first + m]);
                        t.c[m] = sum.wrapping_add((first + m) * columns + at);
                    }
                    // SAFETY: the rows lie in the padded input, the tile in the partial sum.
                    unsafe { kernels[count - 1](&t) };
                    first += count;
                }
            }
        }
    }
}

impl WeightPass for FewChannelsWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let this = &*self;
        let (g, (columns, copies), [x_len, gy_len, sum_len]) = (this.g, this.columns(), this.layout());
        let (il, ol, filters) = (g.input_len(), g.output_len(), g.output[0]);
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == g.weight_len());
        assert!(pool.threads() <= this.threads);
        let sums = scratch.take(PARTS * sum_len + this.threads * (x_len + gy_len));
        let slots = sums.skip(PARTS * sum_len);
        pool.run(PARTS, |part| {
            let slot = slots.skip(pool.thread_index() * (x_len + gy_len));
            let sum = sums.at(part * sum_len);
            // SAFETY: only this thread uses the slot, and only this task writes the partial sum.
            unsafe {
                sum.write_bytes(0, sum_len);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    pad(&x[image * il..][..il], g.input, this.before, this.padded, slot.at(0));
                    let mut gy = gy[image * ol..][..ol].as_ptr();
                    if copies {
                        let copy = slot.at(x_len);
                        for pixel in 0..ol / filters {
                            let row = copy.add(pixel * columns);
                            row.copy_from_nonoverlapping(gy.add(pixel * filters), filters);
                            row.add(filters).write_bytes(0, columns - filters);
                        }
                        gy = copy;
                    }
                    this.multiply(slot.at(0), gy, sum);
                }
            }
        });
        // SAFETY: the tasks are over.
        unsafe { add_pairwise(sums, PARTS, sum_len, sum_len) };
        let (ci, taps) = (g.input[0], g.conv.kernel[0] * g.conv.kernel[1]);
        for (i, v) in gw.iter_mut().enumerate() {
            let (filter, channel, tap) = (i / (ci * taps), i / taps % ci, i % taps);
            // SAFETY: as above.
            *v = unsafe { *sums.at((tap * ci + channel) * columns + filter) };
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [x, gy, sum] = self.layout();
        (PARTS * sum + self.threads * (x + gy)) * size_of::<f32>()
    }
}
