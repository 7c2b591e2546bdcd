//! The weight gradient of convolutions with a 1x1 kernel and stride 1, and of fully connected layers: one GEMM over the pixels of
//! all images, whose operands are packed block by block.

use super::Geometry;
use super::pass::{WeightPass, add_pairwise, balanced_rows, transpose};
use crate::memory::{Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::gemm::TransposedGemm;
use crate::simd::{Kernels, Simd, Task, dispatch};

/// Most pixels of a block: a packed panel and a register tile's rows of the other operand stay in L1.
const BLOCK_PIXELS: usize = 128;

/// Most bytes of a block's packed rows, which stay in L2 while all panels of a task are multiplied with them.
const BLOCK_BYTES: usize = 512 << 10;

/// Panels of a task. Each task packs the rows again, so fewer panels would make packing a larger share.
const TASK_PANELS: usize = 8;

/// The number of independent tasks to aim for.
const TASKS: usize = 16;

/// Fewest pixels of a partial sum, which is written once and read once.
const PART_PIXELS: usize = 512;

/// The weight gradient of one geometry.
pub(super) struct PointwiseWeight {
    kernels: &'static Kernels,
    threads: usize,
    /// Pixels of an image.
    pixels: usize,
    /// Channels of input and output.
    channels: [usize; 2],
    /// Whether the rows of the product are the input's channels and its columns the filters; else the other way round.
    filters_are_columns: bool,
    /// First row and number of rows of each register tile.
    tiles: Vec<(usize, usize)>,
    /// First column and width of each panel.
    panels: Vec<(usize, usize)>,
    /// Most partial sums that the planned batch is split into.
    max_parts: usize,
}

impl PointwiseWeight {
    pub fn new(g: &Geometry, batch: usize, threads: usize, kernels: &'static Kernels) -> PointwiseWeight {
        let channels = [g.input[0], g.output[0]];
        // Columns are padded to whole vectors. Where both ways compute as much, the operand with more channels has the columns:
        // panels are packed by whole vectors.
        let [as_rows, as_columns] =
            [channels[0] * kernels.padded(channels[1]), channels[1] * kernels.padded(channels[0])];
        let filters_are_columns = as_rows < as_columns || (as_rows == as_columns && channels[1] >= channels[0]);
        let mut pass = PointwiseWeight {
            kernels,
            threads,
            pixels: g.input[1] * g.input[2],
            channels,
            filters_are_columns,
            tiles: Vec::new(),
            panels: Vec::new(),
            max_parts: 0,
        };
        let most = kernels.transposed_gemm(kernels.panel()).len();
        let mut row = 0;
        while row < pass.rows() {
            let rows = balanced_rows(pass.rows() - row, most);
            pass.tiles.push((row, rows));
            row += rows;
        }
        let columns = pass.columns();
        pass.panels = (0..columns).step_by(kernels.panel()).map(|at| (at, kernels.width(at, columns))).collect();
        pass.max_parts = pass.parts(batch);
        pass
    }

    fn rows(&self) -> usize {
        self.channels[!self.filters_are_columns as usize]
    }

    fn columns(&self) -> usize {
        self.channels[self.filters_are_columns as usize]
    }

    /// Tasks that share the panels of a partial sum.
    fn groups(&self) -> usize {
        self.panels.len().div_ceil(TASK_PANELS)
    }

    /// Partial sums over the pixels of `n` images, which the shape and `n` determine.
    fn parts(&self, n: usize) -> usize {
        TASKS.div_ceil(self.groups()).min(n * self.pixels / PART_PIXELS).max(1)
    }

    fn block(&self) -> usize {
        (BLOCK_BYTES / size_of::<f32>() / self.rows()).clamp(BLOCK_PIXELS / 4, BLOCK_PIXELS)
    }

    /// Floats of a partial sum, and of a thread's packed rows and packed panels.
    fn layout(&self) -> [usize; 3] {
        let (rows, block, columns) = (self.rows(), self.block(), self.kernels.padded(self.columns()));
        [rows * columns, block * rows, block * columns.min(TASK_PANELS * self.kernels.panel())].map(whole_lines)
    }

    /// Writes the product of some pixels to some panels of a partial sum, `[panel][row][column]`.
    ///
    /// # Safety
    /// `a` and `b` point to the pixels' rows and columns, `sum` to the partial sum, whose panels only the caller accesses;
    /// `packed_a` and `packed_b` are the caller's and as large as the layout says.
    unsafe fn multiply(
        &self,
        [a, b]: [&[f32]; 2],
        panels: &[(usize, usize)],
        sum: SharedPtr,
        [packed_a, packed_b]: [*mut f32; 2],
    ) {
        let (kernels, rows, columns) = (self.kernels, self.rows(), self.columns());
        let pixels = a.len() / rows;
        let blocks = pixels.div_ceil(self.block());
        for block in 0..blocks {
            let (first, end) = (block * pixels / blocks, (block + 1) * pixels / blocks);
            let count = end - first;
            // SAFETY: by the caller.
            unsafe {
                pack(&a[first * rows..end * rows], rows, &self.tiles, packed_a);
                pack(&b[first * columns..end * columns], columns, panels, packed_b);
            }
            for &(at, width) in panels {
                let tiles = kernels.transposed_gemm(width);
                for &(row, height) in &self.tiles {
                    let tile = TransposedGemm {
                        a: packed_a.wrapping_add(row * count),
                        a_step: height,
                        segments: [0isize].as_ptr(),
                        count: 1,
                        k: count,
                        b: packed_b.wrapping_add((at - panels[0].0) * count),
                        c: sum.at(at * rows + row * width),
                        c_step: width,
                        accumulate: first > 0,
                        prefetch: std::ptr::null_mut(),
                    };
                    // SAFETY: the packed operands are complete, and only the caller accesses the panel.
                    unsafe { tiles[height - 1](&tile) };
                }
            }
        }
    }
}

impl WeightPass for PointwiseWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let this = &*self;
        let ([ci, co], pixels) = (this.channels, n * this.pixels);
        assert!(x.len() >= pixels * ci && gy.len() >= pixels * co && gw.len() == ci * co);
        let (parts, groups, panels) = (this.parts(n), this.groups(), this.panels.len());
        assert!(parts <= this.max_parts && pool.threads() <= this.threads);
        let [sum_len, a_len, b_len] = this.layout();
        let sums = scratch.take(parts * sum_len + this.threads * (a_len + b_len));
        let slots = sums.skip(parts * sum_len);
        let (rows, columns) = (this.rows(), this.columns());
        let [a, b] = if this.filters_are_columns { [x, gy] } else { [gy, x] };
        pool.run(parts * groups, |task| {
            let (part, group) = (task / groups, task % groups);
            let pixels = part * pixels / parts..(part + 1) * pixels / parts;
            let operands =
                [&a[pixels.start * rows..pixels.end * rows], &b[pixels.start * columns..pixels.end * columns]];
            let slot = slots.skip(pool.thread_index() * (a_len + b_len));
            let panels = &this.panels[group * panels / groups..(group + 1) * panels / groups];
            // SAFETY: only this thread uses the slot, and only this task writes these panels of the partial sum.
            unsafe { this.multiply(operands, panels, sums.skip(part * sum_len), [slot.at(0), slot.at(a_len)]) };
        });
        // Adds up the partial sums and stores them in the layout of the weight, one task per panel.
        let gw = SharedPtr::of(gw);
        pool.run(panels, |panel| {
            let (at, width) = this.panels[panel];
            let valid = width.min(columns - at);
            let sum = sums.skip(at * rows);
            // SAFETY: only this task accesses the panel of each partial sum and its weights.
            unsafe {
                add_pairwise(sum, parts, sum_len, rows * width);
                if this.filters_are_columns {
                    transpose(sum.at(0), width, [rows, valid], gw.at(at * rows), rows);
                } else {
                    for row in 0..rows {
                        gw.at(row * columns + at).copy_from_nonoverlapping(sum.at(row * width), valid);
                    }
                }
            }
        });
    }

    fn scratch_bytes(&self) -> usize {
        let [sum, a, b] = self.layout();
        (self.max_parts * sum + self.threads * (a + b)) * size_of::<f32>()
    }
}

/// Pixels that [`pack`] reads at a time.
const PACKED_PIXELS: usize = 8;

/// Packs strips of the channels of some pixels as `[strip][pixel][channel of the strip]`, with zeros where there are fewer channels.
/// A strip is its first channel and its width.
///
/// # Safety
/// `to` is valid for as many floats, and only the caller accesses it.
unsafe fn pack(from: &[f32], channels: usize, strips: &[(usize, usize)], to: *mut f32) {
    struct Strips<'a> {
        from: &'a [f32],
        channels: usize,
        strips: &'a [(usize, usize)],
        to: *mut f32,
    }
    impl Task for Strips<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let (pixels, start) = (self.from.len() / self.channels, self.strips[0].0);
            // A few pixels at a time, which reads memory almost in order.
            for first in (0..pixels).step_by(PACKED_PIXELS) {
                for &(at, width) in self.strips {
                    let valid = width.min(self.channels - at);
                    let strip = self.to.wrapping_add((at - start) * pixels);
                    for v in (0..width).step_by(S::LANES) {
                        for pixel in first..pixels.min(first + PACKED_PIXELS) {
                            let from = self.from.as_ptr().wrapping_add(pixel * self.channels + at + v);
                            // SAFETY: the strip's channels of this pixel; the last vector has at least one of them.
                            unsafe {
                                let channels = S::load_up_to(from, valid - v);
                                S::store_up_to(strip.add(pixel * width + v), channels, width - v);
                            }
                        }
                    }
                }
            }
        }
    }
    dispatch(Strips { from, channels, strips, to });
}
