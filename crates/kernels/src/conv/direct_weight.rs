//! The direct weight gradient of any shape: for each segment of taps a GEMM of the transposed (zero-padded) input and the output
//! gradient, summed over pixels.

use super::Geometry;
use super::pass::{WeightPass, add_pairwise, balanced_rows, pad, transpose};
use crate::memory::{Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::gemm::TransposedGemm;

/// Most bytes of padded images and packed gradients at a time: a chunk of images.
const CHUNK_BYTES: usize = 8 << 20;

/// Most images of a chunk.
const CHUNK_IMAGES: usize = 256;

/// The number of independent tasks to aim for.
const TASKS: usize = 16;

/// Pixels of one micro-kernel call, whose panel of gradients stays in L1.
const BLOCK_PIXELS: usize = 256;

/// The direct weight gradient of one geometry.
pub(super) struct DirectWeight {
    g: Geometry,
    kernels: &'static Kernels,
    /// Rows and columns of padding before the image, and the extents of the padded image.
    before: [usize; 2],
    padded: [usize; 2],
    /// Whether inputs are copied into padded images.
    needs_padding: bool,
    /// Channels of a group in input and output.
    channels: [usize; 2],
    /// Taps of a contiguous segment, and each segment's (first tap, floats from the pixel).
    segment_taps: usize,
    segments: Vec<(usize, usize)>,
    /// Where the input of each row of output pixels starts in the padded images of a chunk; a single row if the inputs of all
    /// pixels have a constant stride.
    rows: Vec<isize>,
    /// Output pixels of a row.
    row: usize,
    /// Images of a chunk, determined by the shape.
    chunk: usize,
    /// Images of the largest chunk of the planned batch.
    max_images: usize,
}

impl DirectWeight {
    pub fn new(g: &Geometry, batch: usize, kernels: &'static Kernels) -> DirectWeight {
        let c = g.conv;
        let [ci, hi, wi] = g.input;
        let [_, ho, wo] = g.output;
        let before = [c.padding.top, c.padding.left];
        let extent = |a: usize, input: usize, output: usize| {
            (before[a] + input).max((output - 1) * c.stride[a] + (c.kernel[a] - 1) * c.dilation[a] + 1)
        };
        let padded = [extent(0, hi, ho), extent(1, wi, wo)];
        let needs_padding = padded != [hi, wi];
        let channels = [ci / c.groups, c.filters / c.groups];
        let segment_taps = if c.groups == 1 && c.dilation[1] == 1 { c.kernel[1] } else { 1 };
        let mut segments = Vec::new();
        for kh in 0..c.kernel[0] {
            for kw in (0..c.kernel[1]).step_by(segment_taps) {
                segments.push((kh * c.kernel[1] + kw, (kh * c.dilation[0] * padded[1] + kw * c.dilation[1]) * ci));
            }
        }
        let image_len = padded[0] * padded[1] * ci;
        let bytes = 4 * (image_len * needs_padding as usize + ho * wo * c.groups * kernels.padded(channels[1]));
        let chunk = (CHUNK_BYTES / bytes.max(1)).clamp(1, CHUNK_IMAGES);
        let max_images = chunk.min(batch);
        // The inputs of all pixels have a constant stride if rows and images join without a gap.
        let constant_stride =
            padded[1] * c.stride[0] == wo * c.stride[1] && padded[0] * padded[1] == ho * wo * c.stride[1];
        let (rows, row) = if constant_stride && c.stride[0] == 1 {
            (vec![0], usize::MAX)
        } else {
            let at = |i: usize| (i / ho * image_len + i % ho * c.stride[0] * padded[1] * ci) as isize;
            ((0..max_images * ho).map(at).collect(), wo)
        };
        DirectWeight {
            g: *g,
            kernels,
            before,
            padded,
            needs_padding,
            channels,
            segment_taps,
            segments,
            rows,
            row,
            chunk,
            max_images,
        }
    }

    fn panels(&self) -> usize {
        self.channels[1].div_ceil(self.kernels.panel())
    }

    /// How many partial sums the images of a chunk are split into, determined by the shape.
    fn partitions(&self) -> usize {
        TASKS.div_ceil(self.panels() * self.g.conv.groups).min(self.chunk)
    }

    /// Floats of padded images, of packed gradients, and of all partial sums.
    fn layout(&self) -> [usize; 3] {
        let [ho, wo] = [self.g.output[1], self.g.output[2]];
        let co = self.kernels.padded(self.channels[1]) * self.g.conv.groups;
        let x =
            if self.needs_padding { self.max_images * self.padded[0] * self.padded[1] * self.g.input[0] } else { 0 };
        [whole_lines(x), whole_lines(self.max_images * ho * wo * co), whole_lines(self.partial()) * self.partitions()]
    }

    /// Floats of one partial sum.
    fn partial(&self) -> usize {
        let taps = self.g.conv.kernel[0] * self.g.conv.kernel[1];
        taps * self.channels[0] * self.kernels.padded(self.channels[1]) * self.g.conv.groups
    }

    /// Pads an image's input and packs its output gradient, as `[group][panel][image][pixel][width]` over a chunk.
    fn prepare(&self, image: usize, images: usize, x: &[f32], gy: &[f32], xs: SharedPtr, gys: SharedPtr) {
        let pixels = self.g.output[1] * self.g.output[2];
        let (filters, co) = (self.g.conv.filters, self.channels[1]);
        // SAFETY: each image writes its own part.
        unsafe {
            if self.needs_padding {
                let len = self.padded[0] * self.padded[1] * self.g.input[0];
                pad(x, self.g.input, self.before, self.padded, xs.at(image * len));
            }
            for group in 0..self.g.conv.groups {
                let base = gys.skip(group * self.kernels.padded(co) * images * pixels);
                for at in (0..co).step_by(self.kernels.panel()) {
                    let width = self.kernels.width(at, co);
                    let columns = width.min(co - at);
                    let to = base.skip(at * images * pixels + image * pixels * width);
                    for pixel in 0..pixels {
                        let from = &gy[pixel * filters + group * co + at..][..columns];
                        let row = to.at(pixel * width);
                        row.copy_from_nonoverlapping(from.as_ptr(), columns);
                        row.add(columns).write_bytes(0, width - columns);
                    }
                }
            }
        }
    }

    /// Adds the contribution of some images of a chunk to one panel of a partial sum.
    ///
    /// # Safety
    /// `x` points to the chunk's padded inputs, `gy` to the panel's packed gradients, `sum` to the panel's partial sum.
    unsafe fn multiply(
        &self,
        images: std::ops::Range<usize>,
        width: usize,
        x: *const f32,
        gy: *const f32,
        sum: *mut f32,
    ) {
        let pixels = self.g.output[1] * self.g.output[2];
        let ci = self.g.input[0];
        let step = self.g.conv.stride[1] * ci;
        let (first, last) = (images.start * pixels, images.end * pixels);
        let kernels = self.kernels.transposed_gemm(width);
        let constant_stride = self.row == usize::MAX;
        let depth = self.segment_taps * self.channels[0];
        let block_rows = (BLOCK_PIXELS / self.row).max(1);
        let mut at = first;
        while at < last {
            // Whole rows of pixels, or any number if their stride is constant.
            let (rows, count, k, start) = if constant_stride {
                (self.rows.as_ptr(), 1, BLOCK_PIXELS.min(last - at), at * step)
            } else {
                let row = at / self.row;
                (self.rows[row..].as_ptr(), block_rows.min(last / self.row - row), self.row, 0)
            };
            for (tap, offset) in &self.segments {
                let mut m = 0;
                while m < depth {
                    let tile_rows = balanced_rows(depth - m, kernels.len());
                    // SAFETY: the rows lie in the padded images, the tile in the partial sum.
                    unsafe {
                        kernels[tile_rows - 1](&TransposedGemm {
                            a: x.wrapping_add(start + offset + m),
                            a_step: step,
                            segments: rows,
                            count,
                            k,
                            b: gy.wrapping_add(at * width),
                            c: sum.wrapping_add((tap * self.channels[0] + m) * width),
                            c_step: width,
                            accumulate: true,
                            prefetch: std::ptr::null_mut(),
                        });
                    }
                    m += tile_rows;
                }
            }
            at += count * k;
        }
    }
}

impl WeightPass for DirectWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let this = &*self;
        let (kernels, [ci, co], groups) = (this.kernels, this.channels, this.g.conv.groups);
        let (il, ol) = (this.g.input_len(), this.g.output_len());
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == this.g.weight_len());
        let taps = this.g.conv.kernel[0] * this.g.conv.kernel[1];
        let (panels, parts, pixels) = (this.panels(), this.partitions(), this.g.output[1] * this.g.output[2]);
        let [x_len, gy_len, sum_len] = this.layout();
        let xs = scratch.take(x_len + gy_len + sum_len);
        let (gys, sums) = (xs.skip(x_len), xs.skip(x_len + gy_len));
        let partial = whole_lines(this.partial());
        // SAFETY: no task runs yet.
        unsafe { sums.at(0).write_bytes(0, sum_len) };
        let mut done = 0;
        while done < n {
            let images = this.chunk.min(n - done);
            assert!(images <= this.max_images, "planned for a batch of {}", this.max_images);
            let (x, gy) = (&x[done * il..], &gy[done * ol..]);
            pool.run(images, |i| this.prepare(i, images, &x[i * il..][..il], &gy[i * ol..][..ol], xs, gys));
            pool.run(parts * groups * panels, |task| {
                let (part, group, at) =
                    (task / (groups * panels), task / panels % groups, task % panels * kernels.panel());
                let width = kernels.width(at, co);
                let range = part * images / parts..(part + 1) * images / parts;
                let x = if this.needs_padding { xs.at(0).cast_const() } else { x.as_ptr() };
                let gy = gys.at((group * kernels.padded(co) + at) * images * pixels);
                let sum = sums.at(part * partial + (group * kernels.padded(co) + at) * taps * ci);
                // SAFETY: only this task writes this panel of this partial sum.
                unsafe { this.multiply(range, width, x.wrapping_add(group * ci), gy, sum) };
            });
            done += images;
        }
        // Adds up the partial sums and stores them in the layout of the weight, one task per panel.
        let gw = SharedPtr::of(gw);
        pool.run(groups * panels, |task| {
            let (group, at) = (task / panels, task % panels * kernels.panel());
            let width = kernels.width(at, co);
            let base = sums.skip((group * kernels.padded(co) + at) * taps * ci);
            let len = taps * ci * width;
            // SAFETY: only this task accesses the panel of each partial sum and its filters.
            unsafe {
                add_pairwise(base, parts, partial, len);
                if taps == 1 {
                    let filters = gw.at((group * co + at) * ci);
                    return transpose(base.at(0), width, [ci, width.min(co - at)], filters, ci);
                }
                for lane in 0..width.min(co - at) {
                    let filter = gw.at((group * co + at + lane) * ci * taps);
                    for c in 0..ci {
                        for tap in 0..taps {
                            *filter.add(c * taps + tap) = *base.at((tap * ci + c) * width + lane);
                        }
                    }
                }
            }
        });
    }

    fn scratch_bytes(&self) -> usize {
        self.layout().iter().sum::<usize>() * size_of::<f32>()
    }
}
