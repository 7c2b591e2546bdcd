//! Depthwise convolution: as many groups as channels, one filter per channel; and convolution with groups of two, four or eight
//! channels. Vectors run along the channels.
//!
//! Input pixels are reached through pointers, and those outside the image are a row of zeros, so that all output pixels of a row see
//! the same taps.

use super::pass::{Pass, PassArgs, WeightPass, add_pairwise, source_and_target};
use super::{Direction, Epilogue, Geometry};
use crate::memory::{Buffer, Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::depthwise::{DepthwiseGradient, DepthwisePixel, DepthwiseTile, TILE, tile_pixels};
use crate::simd::{Kernels, ReluMask};

/// Partial sums of the weight gradient over images.
const PARTS: usize = 16;

/// Most taps of a kernel: the pointers of a tile are kept on the stack.
const MAX_TAPS: usize = 64;

/// Most pointers to the input pixels of a tile.
const MAX_POINTERS: usize = 256;

/// Output rows of a task.
const TASK_ROWS: usize = 4;

/// Whether this algorithm covers `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    let c = g.conv;
    c.groups == g.input[0] && c.filters == c.groups && c.groups > 1 && c.kernel[0] * c.kernel[1] <= MAX_TAPS
}

/// Whether [`Depthwise`] computes one direction of `g`, whose groups have several channels.
pub(super) fn covers_groups(g: &Geometry, direction: Direction, kernels: &Kernels) -> bool {
    let group = g.conv.filters / g.conv.groups;
    g.conv.groups > 1
        && g.input[0] == g.conv.filters
        && [2, 4, 8].contains(&group)
        && group <= kernels.lanes
        && g.conv.kernel[0] * g.conv.kernel[1] <= MAX_TAPS
        && has_tiles(g, direction)
}

/// Whether pixels are computed in tiles: the columns have no dilation, and an input gradient no stride.
fn has_tiles(g: &Geometry, direction: Direction) -> bool {
    let (c, step) = (g.conv, g.conv.stride[1]);
    let pointers = c.kernel[0] * ((TILE - 1) * step + c.kernel[1]);
    c.dilation[1] == 1 && pointers <= MAX_POINTERS && (step == 1 || direction != Direction::GradInput)
}

/// Along one axis, the taps of target `at` as (kernel index, source index).
fn taps(g: &Geometry, direction: Direction, axis: usize, at: usize) -> impl Iterator<Item = (usize, usize)> {
    let c = g.conv;
    let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
    let before = [c.padding.top, c.padding.left][axis];
    let source = source_and_target(g, direction).0[1 + axis];
    (0..c.kernel[axis]).filter_map(move |k| {
        let from = match direction {
            Direction::Forward | Direction::GradWeight => (at * stride + k * dilation).checked_sub(before)?,
            Direction::GradInput => {
                let from = (at + before).checked_sub(k * dilation)?;
                (from % stride == 0).then_some(from / stride)?
            }
        };
        (from < source).then_some((k, from))
    })
}

/// The depthwise algorithm for one direction of one geometry.
pub(super) struct Depthwise {
    g: Geometry,
    direction: Direction,
    kernels: &'static Kernels,
    /// The weights as [`DepthwiseTile`] reads them, for the tiles of an input gradient with the taps of a row reversed, and then a
    /// pixel of zeros.
    packed: Buffer,
    stale: bool,
    /// Whether it is computed in tiles.
    tiles: bool,
    /// Channels of a group.
    group: usize,
    /// Where the zeros begin.
    zeros: usize,
}

impl Depthwise {
    pub fn new(g: &Geometry, direction: Direction, kernels: &'static Kernels) -> Depthwise {
        let c = g.conv;
        let group = c.filters / c.groups;
        let channels = if group > 1 { kernels.padded(c.filters) } else { c.filters };
        let zeros = whole_lines(channels * group * c.kernel[0] * c.kernel[1]);
        let packed = Buffer::new(zeros + c.filters);
        Depthwise { g: *g, direction, kernels, packed, stale: true, tiles: has_tiles(g, direction), group, zeros }
    }

    /// Floats of a kernel row's packed weights.
    fn packed_row(&self) -> usize {
        let channels = if self.group > 1 { self.kernels.padded(self.g.conv.filters) } else { self.g.conv.filters };
        self.g.conv.kernel[1] * channels * self.group
    }

    fn pack(&mut self, w: &[f32]) {
        let (c, lanes, group) = (self.g.conv, self.kernels.lanes, self.group);
        let [rows, columns] = c.kernel;
        let row_len = self.packed_row();
        let reversed = self.tiles && self.direction == Direction::GradInput;
        for target in 0..c.filters {
            for j in 0..group {
                let source = target / group * group + j;
                let (filter, channel) = match self.direction {
                    Direction::GradInput => (source, target % group),
                    Direction::Forward | Direction::GradWeight => (target, j),
                };
                let taps = &w[(filter * group + channel) * rows * columns..][..rows * columns];
                for (i, &value) in taps.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let column = if reversed { columns - 1 - column } else { column };
                    let at = match group {
                        1 => column * c.filters + target,
                        _ => (((target / lanes) * columns + column) * group + j) * lanes + target % lanes,
                    };
                    self.packed[row * row_len + at] = value;
                }
            }
        }
        self.stale = false;
    }

    /// Computes the target row `row` from the source image `x`.
    ///
    /// # Safety
    /// `x` points to a source image, `y` to the row, which only the caller accesses.
    unsafe fn tiled_row(
        &self,
        row: usize,
        x: *const f32,
        y: SharedPtr,
        epilogue: Epilogue<'_>,
        mask: Option<ReluMask<'_>>,
    ) {
        let (source, target) = source_and_target(&self.g, self.direction);
        let (c, channels) = (self.g.conv, self.g.conv.filters);
        let (taps_of_row, step) = (c.kernel[1], if self.direction == Direction::GradInput { 1 } else { c.stride[1] });
        // The source column under tap 0 of target 0, counted from the left.
        let before = match self.direction {
            Direction::GradInput => c.kernel[1] - 1 - c.padding.left.min(c.kernel[1] - 1),
            Direction::Forward | Direction::GradWeight => c.padding.left,
        };
        let shift = match self.direction {
            Direction::GradInput => c.padding.left.saturating_sub(c.kernel[1] - 1),
            Direction::Forward | Direction::GradWeight => 0,
        };
        let zeros = self.packed[self.zeros..].as_ptr();
        let (mut sources, mut weights, mut rows) = ([0usize; MAX_TAPS], [std::ptr::null(); MAX_TAPS], 0);
        for (kernel_row, from) in taps(&self.g, self.direction, 0, row) {
            sources[rows] = from;
            weights[rows] = self.packed[kernel_row * self.packed_row()..].as_ptr();
            rows += 1;
        }
        let mut pointers = [std::ptr::null::<f32>(); MAX_POINTERS];
        let mut first = 0;
        while first < target[2] {
            let pixels = tile_pixels(target[2] - first);
            let x_row = (pixels - 1) * step + taps_of_row;
            for (row, &from) in sources[..rows].iter().enumerate() {
                for i in 0..x_row {
                    let column = first * step + i + shift;
                    let inside = column >= before && column - before < source[2];
                    pointers[row * x_row + i] = match inside {
                        true => x.wrapping_add((from * source[2] + column - before) * channels),
                        false => zeros,
                    };
                }
            }
            let tile = DepthwiseTile {
                x: pointers.as_ptr(),
                x_row,
                step,
                w: weights.as_ptr(),
                group: self.group,
                rows,
                taps: taps_of_row,
                pixels,
                channels,
                y: y.at(first * channels),
                epilogue,
                mask,
            };
            // SAFETY: the pointers lie in the image, the weights and the zeros; by the caller.
            unsafe {
                match self.group {
                    1 => (self.kernels.depthwise_tile)(&tile),
                    _ => (self.kernels.grouped_tile)(&tile),
                }
            }
            first += pixels;
        }
    }

    /// As [`Depthwise::tiled_row`], pixel by pixel, for an input gradient with strides or a dilated kernel.
    ///
    /// # Safety
    /// As [`Depthwise::tiled_row`].
    unsafe fn row(&self, row: usize, x: *const f32, y: SharedPtr, epilogue: Epilogue<'_>, mask: Option<ReluMask<'_>>) {
        let (source, target) = source_and_target(&self.g, self.direction);
        let channels = self.g.conv.filters;
        let mut xs = [std::ptr::null(); MAX_TAPS];
        let mut ws = [std::ptr::null(); MAX_TAPS];
        for column in 0..target[2] {
            let mut count = 0;
            for (kh, h) in taps(&self.g, self.direction, 0, row) {
                for (kw, w) in taps(&self.g, self.direction, 1, column) {
                    xs[count] = x.wrapping_add((h * source[2] + w) * channels);
                    ws[count] = self.packed[(kh * self.g.conv.kernel[1] + kw) * channels..].as_ptr();
                    count += 1;
                }
            }
            // SAFETY: the pointers lie in the image and the weights; by the caller.
            unsafe {
                (self.kernels.depthwise_pixel)(&DepthwisePixel {
                    x: xs.as_ptr(),
                    w: ws.as_ptr(),
                    taps: count,
                    channels,
                    y: y.at(column * channels),
                    epilogue,
                    mask,
                });
            }
        }
    }
}

impl Pass for Depthwise {
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, _: &mut Scratch) {
        if self.stale {
            self.pack(args.w);
        }
        let (source, target) = source_and_target(&self.g, self.direction);
        let (il, ol) = (source.iter().product::<usize>(), target.iter().product::<usize>());
        assert!(args.x.len() >= args.n * il && y.len() >= args.n * ol);
        let (epilogue, mask) = args.epilogue_and_mask(target[0], y);
        let (this, y) = (&*self, SharedPtr::of(y));
        let tasks = target[1].div_ceil(TASK_ROWS);
        pool.run(args.n * tasks, |task| {
            let (image, first) = (task / tasks, task % tasks * TASK_ROWS);
            let x = args.x[image * il..][..il].as_ptr();
            for row in first..target[1].min(first + TASK_ROWS) {
                let pixel = (image * target[1] + row) * target[2];
                let to = y.skip(pixel * target[0]);
                // SAFETY: only this task writes the row.
                unsafe {
                    match this.tiles {
                        true => this.tiled_row(row, x, to, epilogue, mask),
                        false => this.row(row, x, to, epilogue, mask),
                    }
                    args.post_ops.run_pixels(y, pixel..pixel + target[2], 0..target[0], target[0]);
                }
            }
        });
    }

    fn applies_post_ops(&self) -> bool {
        true
    }

    fn weights_changed(&mut self) {
        self.stale = true;
    }

    fn scratch_bytes(&self) -> usize {
        0
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

/// The depthwise weight gradient of one geometry.
pub(super) struct DepthwiseWeight {
    g: Geometry,
    kernels: &'static Kernels,
    /// For every column of a padded image from the first that a tap sees to the last, the column of the image.
    columns: Vec<Option<usize>>,
    /// Taps that the kernel sums at once: those of a row, or one if they are dilated.
    taps: usize,
}

impl DepthwiseWeight {
    pub fn new(g: &Geometry, kernels: &'static Kernels) -> DepthwiseWeight {
        let c = g.conv;
        let count = (g.output[2] - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
        let column = |at: usize| at.checked_sub(c.padding.left).filter(|&column| column < g.input[2]);
        let taps = if c.dilation[1] == 1 { c.kernel[1] } else { 1 };
        DepthwiseWeight { g: *g, kernels, columns: (0..count).map(column).collect(), taps }
    }

    /// Floats of a partial sum, a pixel of zeros, and the pointers to the input pixels of an output row.
    fn layout(&self) -> [usize; 3] {
        let pointers = self.columns.len() * self.g.conv.kernel[0] * (size_of::<*const f32>() / size_of::<f32>());
        [whole_lines(self.g.weight_len()), whole_lines(self.g.conv.filters), whole_lines(pointers)]
    }

    /// Adds the products of one row of output pixels to `sum`. `pointers` is memory for those of the input pixels.
    ///
    /// # Safety
    /// `x` and `gy` point to an image, `zeros` to a pixel of zeros; only the caller accesses `sum` and `pointers`.
    unsafe fn add_row(
        &self,
        row: usize,
        x: *const f32,
        gy: *const f32,
        zeros: *const f32,
        pointers: *mut *const f32,
        sum: *mut f32,
    ) {
        let (g, c) = (&self.g, self.g.conv);
        let (channels, width) = (c.filters, self.columns.len());
        let (mut first, mut rows) = (None, 0);
        for (kernel_row, h) in taps(g, Direction::GradWeight, 0, row) {
            first.get_or_insert(kernel_row);
            for (i, column) in self.columns.iter().enumerate() {
                let pixel = column.map_or(zeros, |column| x.wrapping_add((h * g.input[2] + column) * channels));
                // SAFETY: memory for the columns of all kernel rows.
                unsafe { *pointers.add(rows * width + i) = pixel };
            }
            rows += 1;
        }
        let Some(first) = first else { return };
        let step = DepthwiseGradient {
            x: pointers,
            x_row: width,
            step: c.stride[1],
            gy: gy.wrapping_add(row * g.output[2] * channels),
            pixels: g.output[2],
            rows,
            taps: c.kernel[1],
            channels,
            gw: sum.wrapping_add(first * c.kernel[1] * channels),
        };
        // SAFETY: by the caller.
        unsafe {
            if self.taps == c.kernel[1] {
                return (self.kernels.depthwise_gradient)(&step);
            }
            for row in 0..rows {
                for tap in 0..c.kernel[1] {
                    (self.kernels.depthwise_gradient)(&DepthwiseGradient {
                        x: step.x.add(row * width + tap * c.dilation[1]),
                        rows: 1,
                        taps: 1,
                        gw: step.gw.wrapping_add((row * c.kernel[1] + tap) * channels),
                        ..step
                    });
                }
            }
        }
    }
}

impl WeightPass for DepthwiseWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (this, g, c) = (&*self, self.g, self.g.conv);
        let (il, ol, channels) = (g.input_len(), g.output_len(), c.filters);
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == g.weight_len());
        let count = c.kernel[0] * c.kernel[1];
        let layout @ [partial, zeros_len, pointers_len] = this.layout();
        let sums = scratch.take(partial * PARTS + zeros_len + pointers_len * PARTS);
        let (zeros, pointers) = (sums.skip(partial * PARTS), sums.skip(partial * PARTS + zeros_len));
        debug_assert!(layout.iter().all(|floats| floats.is_multiple_of(2)), "pointers are aligned");
        // SAFETY: no task runs yet.
        unsafe { zeros.at(0).write_bytes(0, zeros_len) };
        pool.run(PARTS, |part| {
            let (sum, pointers) = (sums.at(part * partial), pointers.at(part * pointers_len).cast());
            // SAFETY: only this task writes the partial sum and the pointers.
            unsafe {
                sum.write_bytes(0, count * channels);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    let (x, gy) = (x[image * il..][..il].as_ptr(), gy[image * ol..][..ol].as_ptr());
                    for row in 0..g.output[1] {
                        this.add_row(row, x, gy, zeros.at(0), pointers, sum);
                    }
                }
            }
        });
        // SAFETY: the tasks are over.
        unsafe { add_pairwise(sums, PARTS, partial, count * channels) };
        for (i, v) in gw.iter_mut().enumerate() {
            // SAFETY: as above.
            *v = unsafe { *sums.at(i % count * channels + i / count) };
        }
    }

    fn scratch_bytes(&self) -> usize {
        let [partial, zeros, pointers] = self.layout();
        (partial * PARTS + zeros + pointers * PARTS) * size_of::<f32>()
    }
}
