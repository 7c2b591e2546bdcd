//! The weight's gradient of convolutions with few input channels, such as a network's first.
//!
//! Every weight of a filter (tap and input channel) is a row of one small product over all pixels: the row's elements are
//! the input pixels under the tap, the right-hand side is the output's gradient as it lies in memory.

use super::Geometry;
use super::direct::{even, pad};
use super::pass::WeightPass;
use crate::memory::{Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::tile::{Finish, MAX_ROWS, Rows};

/// Input channels up to which this is worth while.
const CHANNELS: usize = 4;

/// Partial sums at most.
const PARTS: usize = 16;

/// Output pixels of a block: their gradients stay in the first cache while all rows are worked through.
const BLOCK_PIXELS: usize = 96;

/// Whether this algorithm is meant for `g`.
pub(super) fn suits(g: &Geometry) -> bool {
    g.conv.groups == 1 && g.input[0] <= CHANNELS
}

/// The algorithm for one geometry.
pub(super) struct FewWeight {
    g: Geometry,
    kernels: &'static Kernels,
    before: [usize; 2],
    padded: [usize; 2],
    /// Floats from a pixel of the padded input to the one under each weight, (tap, channel) by (tap, channel).
    offsets: Vec<usize>,
    /// Where each row of output pixels starts in the padded input.
    rows: Vec<isize>,
    threads: usize,
}

impl FewWeight {
    pub fn new(g: &Geometry, threads: usize, kernels: &'static Kernels) -> FewWeight {
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
        FewWeight { g: *g, kernels, before, padded, offsets, rows, threads }
    }

    /// Columns of the right-hand side, and whether the gradient has to be copied to have them.
    fn columns(&self) -> (usize, bool) {
        let columns = self.kernels.padded(self.g.output[0]);
        (columns, columns != self.g.output[0])
    }

    /// Floats of a thread's padded input and copied gradient, and of a partial sum.
    fn layout(&self) -> [usize; 3] {
        let (columns, copies) = self.columns();
        let x = self.padded[0] * self.padded[1] * self.g.input[0];
        let gy = if copies { self.g.output[1] * self.g.output[2] * columns } else { 0 };
        [lines(x), lines(gy), lines(self.offsets.len() * columns)]
    }

    /// Adds one image's products to a partial sum.
    ///
    /// # Safety
    /// `x` is the padded input, `gy` the gradient with whole columns, `sum` the partial sum.
    unsafe fn multiply(&self, x: *const f32, gy: *const f32, sum: *mut f32) {
        let (columns, _) = self.columns();
        let (ho, wo) = (self.g.output[1], self.g.output[2]);
        let block = (BLOCK_PIXELS / wo).max(1);
        for row in (0..ho).step_by(block) {
            for at in (0..columns).step_by(self.kernels.panel()) {
                let width = self.kernels.width(at, columns);
                let tiles = self.kernels.rows(width);
                let mut t = Rows {
                    a: [std::ptr::null(); MAX_ROWS],
                    c: [std::ptr::null_mut(); MAX_ROWS],
                    segments: self.rows[row..].as_ptr(),
                    count: block.min(ho - row),
                    k: wo,
                    a_step: self.g.conv.stride[1] * self.g.input[0],
                    b: gy.wrapping_add(row * wo * columns + at),
                    b_step: columns,
                    add: true,
                    columns: width,
                    finish: Finish::NONE,
                };
                let mut first = 0;
                while first < self.offsets.len() {
                    let count = even(self.offsets.len() - first, tiles.len());
                    for m in 0..count {
                        t.a[m] = x.wrapping_add(self.offsets[first + m]);
                        t.c[m] = sum.wrapping_add((first + m) * columns + at);
                    }
                    // SAFETY: rows lie in the padded input, tiles in the partial sum.
                    unsafe { tiles[count - 1](&t) };
                    first += count;
                }
            }
        }
    }
}

impl WeightPass for FewWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let this = &*self;
        let (g, (columns, copies), [x_len, gy_len, sum_len]) = (this.g, this.columns(), this.layout());
        let (il, ol, filters) = (g.input_len(), g.output_len(), g.output[0]);
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == g.weight_len());
        assert!(pool.threads() <= this.threads);
        let sums = scratch.take(PARTS * sum_len + this.threads * (x_len + gy_len));
        let slots = sums.skip(PARTS * sum_len);
        pool.run(PARTS, |part| {
            let slot: Raw = slots.skip(pool.worker() * (x_len + gy_len));
            let sum = sums.at(part * sum_len);
            // SAFETY: the slot is this thread's, the partial sum this task's.
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
        // Few numbers: joined pairwise here.
        let mut gap = 1;
        while gap < PARTS {
            for part in (0..PARTS - gap).step_by(2 * gap) {
                for i in 0..sum_len {
                    // SAFETY: the tasks are over.
                    unsafe { *sums.at(part * sum_len + i) += *sums.at((part + gap) * sum_len + i) };
                }
            }
            gap *= 2;
        }
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
