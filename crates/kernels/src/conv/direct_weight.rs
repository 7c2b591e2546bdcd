//! The weight's gradient straight on the pictures: for every row of taps the product of the (zero-padded) input,
//! transposed, and the output's gradient, summed over pixels.

use super::Geometry;
use super::direct::{even, pad};
use super::pass::WeightPass;
use crate::memory::{Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::tile::Cols;

/// Bytes of padded pictures and packed gradients that are held at a time.
const CHUNK_BYTES: usize = 8 << 20;

/// Images of a chunk at most.
const CHUNK_IMAGES: usize = 256;

/// Independent tasks to aim for.
const TASKS: usize = 16;

/// Pixels of one call of a kernel: their panel of gradients stays in the first cache.
const BLOCK_PIXELS: usize = 256;

/// The direct algorithm for the weight's gradient of one geometry.
pub(super) struct DirectWeight {
    g: Geometry,
    kernels: &'static Kernels,
    before: [usize; 2],
    padded: [usize; 2],
    /// Whether pictures are copied into a border of zeros.
    copies: bool,
    /// Channels of a group in input and output.
    channels: [usize; 2],
    /// Taps that lie side by side, and where each run of them starts: (first tap, floats from the pixel).
    run: usize,
    runs: Vec<(usize, usize)>,
    /// Where each row of output pixels starts in the padded inputs of a chunk; one if all pixels follow each other.
    rows: Vec<isize>,
    /// Output pixels of a row.
    row: usize,
    /// Images of a chunk: fixed by the shape.
    chunk: usize,
    /// The most images of a chunk that will come.
    held: usize,
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
        let copies = padded != [hi, wi];
        let channels = [ci / c.groups, c.filters / c.groups];
        let run = if c.groups == 1 && c.dilation[1] == 1 { c.kernel[1] } else { 1 };
        let mut runs = Vec::new();
        for kh in 0..c.kernel[0] {
            for kw in (0..c.kernel[1]).step_by(run) {
                runs.push((kh * c.kernel[1] + kw, (kh * c.dilation[0] * padded[1] + kw * c.dilation[1]) * ci));
            }
        }
        let image_len = padded[0] * padded[1] * ci;
        let bytes = 4 * (image_len * copies as usize + ho * wo * c.groups * kernels.padded(channels[1]));
        let chunk = (CHUNK_BYTES / bytes.max(1)).clamp(1, CHUNK_IMAGES);
        let held = chunk.min(batch);
        // Pixels follow each other evenly where rows and images join without a gap.
        let even_rows = padded[1] * c.stride[0] == wo * c.stride[1] && padded[0] * padded[1] == ho * wo * c.stride[1];
        let (rows, row) = if even_rows && c.stride[0] == 1 {
            (vec![0], usize::MAX)
        } else {
            let at = |i: usize| (i / ho * image_len + i % ho * c.stride[0] * padded[1] * ci) as isize;
            ((0..held * ho).map(at).collect(), wo)
        };
        DirectWeight { g: *g, kernels, before, padded, copies, channels, run, runs, rows, row, chunk, held }
    }

    fn panels(&self) -> usize {
        self.channels[1].div_ceil(self.kernels.panel())
    }

    /// Into how many partial sums the images are split: fixed by the shape.
    fn partitions(&self) -> usize {
        TASKS.div_ceil(self.panels() * self.g.conv.groups).min(self.chunk)
    }

    /// Floats of padded pictures, packed gradients and partial sums.
    fn layout(&self) -> [usize; 3] {
        let [ho, wo] = [self.g.output[1], self.g.output[2]];
        let co = self.kernels.padded(self.channels[1]) * self.g.conv.groups;
        let x = if self.copies { self.held * self.padded[0] * self.padded[1] * self.g.input[0] } else { 0 };
        [lines(x), lines(self.held * ho * wo * co), lines(self.partial()) * self.partitions()]
    }

    /// Floats of one partial sum.
    fn partial(&self) -> usize {
        let taps = self.g.conv.kernel[0] * self.g.conv.kernel[1];
        taps * self.channels[0] * self.kernels.padded(self.channels[1]) * self.g.conv.groups
    }

    /// Copies an image's input and packs its output gradient.
    ///
    /// The gradients of a chunk lie as `[group][panel][image][pixel][width]`.
    fn stage(&self, image: usize, images: usize, x: &[f32], gy: &[f32], xs: Raw, gys: Raw) {
        let pixels = self.g.output[1] * self.g.output[2];
        let (filters, co) = (self.g.conv.filters, self.channels[1]);
        // SAFETY: everything written belongs to this image.
        unsafe {
            if self.copies {
                let len = self.padded[0] * self.padded[1] * self.g.input[0];
                pad(x, self.g.input, self.before, self.padded, xs.at(image * len));
            }
            for group in 0..self.g.conv.groups {
                let base = gys.skip(group * self.kernels.padded(co) * images * pixels);
                for at in (0..co).step_by(self.kernels.panel()) {
                    let width = self.kernels.width(at, co);
                    let live = width.min(co - at);
                    let to = base.skip(at * images * pixels + image * pixels * width);
                    for pixel in 0..pixels {
                        let from = &gy[pixel * filters + group * co + at..][..live];
                        let row = to.at(pixel * width);
                        row.copy_from_nonoverlapping(from.as_ptr(), live);
                        row.add(live).write_bytes(0, width - live);
                    }
                }
            }
        }
    }

    /// Adds the products of some images of a chunk of `chunk` to one panel's partial sum.
    ///
    /// # Safety
    /// `x` holds the chunk's padded inputs, `gy` the panel's packed gradients, `sum` the panel's partial sum.
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
        let tiles = self.kernels.cols(width);
        let even_rows = self.row == usize::MAX;
        let depth = self.run * self.channels[0];
        let rows_of_block = (BLOCK_PIXELS / self.row).max(1);
        let mut at = first;
        while at < last {
            // Whole rows of pixels, or any number where they follow each other.
            let (segments, count, k, start) = if even_rows {
                (self.rows.as_ptr(), 1, BLOCK_PIXELS.min(last - at), at * step)
            } else {
                let row = at / self.row;
                (self.rows[row..].as_ptr(), rows_of_block.min(last / self.row - row), self.row, 0)
            };
            for (tap, offset) in &self.runs {
                let mut m = 0;
                while m < depth {
                    let rows = even(depth - m, tiles.len());
                    // SAFETY: the rows lie in the padded inputs, the tile in the partial sum.
                    unsafe {
                        tiles[rows - 1](&Cols {
                            a: x.wrapping_add(start + offset + m),
                            a_step: step,
                            segments,
                            count,
                            k,
                            b: gy.wrapping_add(at * width),
                            c: sum.wrapping_add((tap * self.channels[0] + m) * width),
                            c_step: width,
                            add: true,
                            soon: std::ptr::null_mut(),
                        });
                    }
                    m += rows;
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
        let partial = lines(this.partial());
        // SAFETY: nobody else holds the scratch yet.
        unsafe { sums.at(0).write_bytes(0, sum_len) };
        let mut done = 0;
        while done < n {
            let images = this.chunk.min(n - done);
            assert!(images <= this.held, "planned for a batch of {}", this.held);
            let (x, gy) = (&x[done * il..], &gy[done * ol..]);
            pool.run(images, |i| this.stage(i, images, &x[i * il..][..il], &gy[i * ol..][..ol], xs, gys));
            pool.run(parts * groups * panels, |task| {
                let (part, group, at) =
                    (task / (groups * panels), task / panels % groups, task % panels * kernels.panel());
                let width = kernels.width(at, co);
                let range = part * images / parts..(part + 1) * images / parts;
                let x = if this.copies { xs.at(0).cast_const() } else { x.as_ptr() };
                let gy = gys.at((group * kernels.padded(co) + at) * images * pixels);
                let sum = sums.at(part * partial + (group * kernels.padded(co) + at) * taps * ci);
                // SAFETY: a partial sum's panel is this task's.
                unsafe { this.multiply(range, width, x.wrapping_add(group * ci), gy, sum) };
            });
            done += images;
        }
        // Joins the partial sums pairwise and writes OIHW, one task a panel.
        let gw = Raw::of(gw);
        pool.run(groups * panels, |task| {
            let (group, at) = (task / panels, task % panels * kernels.panel());
            let width = kernels.width(at, co);
            let base = sums.skip((group * kernels.padded(co) + at) * taps * ci);
            let len = taps * ci * width;
            // SAFETY: the panel of every partial sum and the filters of the panel are this task's.
            unsafe {
                let mut gap = 1;
                while gap < parts {
                    for part in (0..parts - gap).step_by(2 * gap) {
                        let to = std::slice::from_raw_parts_mut(base.at(part * partial), len);
                        let from = std::slice::from_raw_parts(base.at((part + gap) * partial), len);
                        to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
                    }
                    gap *= 2;
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
