//! Direct convolution for any shape: one product per run of taps, straight on the pictures, without im2col.
//!
//! Every target pixel is a row of a product whose left side lies in the (zero-padded) source picture: the
//! channels under one row of kernel taps are one contiguous run. The gradient of the input is the same with the roles
//! exchanged; under a stride it falls into stride^2 phases of target pixels that see different taps.

use super::Geometry;
use super::pass::{Io, Pass, Way, sides, weight_steps};
use crate::memory::{Buffer, Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::tile::{Finish, MAX_ROWS, Rows, Strip};

/// Target pixels that a task aims to hold at least, so that packed weights are reused.
const TASK_PIXELS: usize = 96;

/// Target pixels for which all panels are worked through before the next pixels are.
const BLOCK_PIXELS: usize = 96;

/// Packed weights up to this size stay in the first cache, and all panels follow each other for every tile of pixels.
const SMALL_BYTES: usize = 16 << 10;

/// Channels up to which pixels are worked through in strips, each within a row: more have sums enough for lists of pointers.
const STRIP_CHANNELS: usize = 4;

/// Source channels packed together, so that the packing stays in the first cache.
const PACK_CHANNELS: usize = 32;

/// The target pixels that see the same taps.
struct Phase {
    /// Padded source pixel under tap offset 0, for every target pixel.
    sources: Vec<u32>,
    /// The target pixels.
    targets: Vec<u32>,
    /// Kernel taps (row-major index), in the order of packing.
    taps: Vec<usize>,
    /// Start of every contiguous run of taps, in floats from the source pixel.
    runs: Vec<isize>,
    /// Taps of a run.
    run: usize,
    /// Where the phase's weights start within a group's.
    packed: usize,
}

/// Along one axis, the targets that see the same taps: the first, their distance, the distance of their sources, and
/// the taps as (kernel index, offset of the source).
type AxisPhase = (usize, usize, usize, Vec<(usize, isize)>);

/// The direct algorithm for one way of one geometry.
pub(super) struct Direct {
    g: Geometry,
    way: Way,
    kernels: &'static Kernels,
    phases: Vec<Phase>,
    /// Rows and columns of zeros before the picture, and the padded picture's extents.
    before: [usize; 2],
    padded: [usize; 2],
    /// Channels of a group in source and target.
    channels: [usize; 2],
    packed: Buffer,
    /// Floats of one group's packed weights.
    group_len: usize,
    stale: bool,
    images: usize,
    threads: usize,
}

impl Direct {
    pub fn new(g: &Geometry, way: Way, threads: usize, kernels: &'static Kernels) -> Direct {
        let (source, target) = sides(g, way);
        let c = g.conv;
        let channels = [source[0] / c.groups, target[0] / c.groups];
        let pad = [c.padding.top, c.padding.left];
        let axis = |axis: usize| -> Vec<AxisPhase> {
            let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
            let tap = |k: usize| (k * dilation) as isize - pad[axis] as isize;
            match way {
                Way::Forward => vec![(0, 1, stride, (0..c.kernel[axis]).map(|k| (k, tap(k))).collect())],
                Way::GradInput => (0..stride)
                    .map(|first| {
                        let taps = (0..c.kernel[axis]).filter_map(|k| {
                            let from = first as isize - tap(k);
                            (from.rem_euclid(stride as isize) == 0).then(|| (k, from.div_euclid(stride as isize)))
                        });
                        let mut taps: Vec<_> = taps.collect();
                        taps.sort_by_key(|t| t.1);
                        (first, stride, 1, taps)
                    })
                    .collect(),
            }
        };
        // Target indices of a phase, and the taps of it that ever meet a source pixel.
        let prune = |axis: usize, (first, step, source_step, taps): &AxisPhase| {
            let targets: Vec<usize> = (*first..target[1 + axis]).step_by(*step).collect();
            let meets = |offset: isize| {
                (0..targets.len()).any(|i| {
                    let at = (i * source_step) as isize + offset;
                    at >= 0 && at < source[1 + axis] as isize
                })
            };
            let taps: Vec<_> = taps.iter().copied().filter(|t| meets(t.1)).collect();
            (targets, *source_step, taps)
        };
        let axes: Vec<Vec<_>> = (0..2).map(|a| axis(a).iter().map(|p| prune(a, p)).collect()).collect();
        let mut before = [0usize; 2];
        let mut padded = [source[1], source[2]];
        for a in 0..2 {
            for (targets, step, taps) in &axes[a] {
                let (Some(first), Some(last)) = (taps.first(), taps.last()) else { continue };
                if targets.is_empty() {
                    continue;
                }
                before[a] = before[a].max((-first.1).max(0) as usize);
                let end = ((targets.len() - 1) * step) as isize + last.1 + 1;
                padded[a] = padded[a].max(end.max(0) as usize);
            }
        }
        padded = [padded[0] + before[0], padded[1] + before[1]];
        let mut phases = Vec::new();
        let mut group_len = 0;
        for (rows, row_step, row_taps) in &axes[0] {
            for (columns, column_step, column_taps) in &axes[1] {
                let mut phase = Phase {
                    sources: Vec::new(),
                    targets: Vec::new(),
                    taps: Vec::new(),
                    runs: Vec::new(),
                    run: 1,
                    packed: group_len,
                };
                for (i, h) in rows.iter().enumerate() {
                    for (j, w) in columns.iter().enumerate() {
                        let from = (before[0] + i * row_step) * padded[1] + before[1] + j * column_step;
                        phase.sources.push(from as u32);
                        phase.targets.push((h * target[2] + w) as u32);
                    }
                }
                let neighbours = column_taps.windows(2).all(|t| t[1].1 == t[0].1 + 1);
                let whole_row = c.groups == 1 && neighbours && !column_taps.is_empty();
                phase.run = if whole_row { column_taps.len() } else { 1 };
                for (kh, h) in row_taps {
                    for (i, (kw, w)) in column_taps.iter().enumerate() {
                        phase.taps.push(kh * c.kernel[1] + kw);
                        if i % phase.run == 0 {
                            phase.runs.push((h * padded[1] as isize + w) * source[0] as isize);
                        }
                    }
                }
                group_len += lines(phase.taps.len() * channels[0] * kernels.padded(channels[1]));
                if !phase.targets.is_empty() {
                    phases.push(phase);
                }
            }
        }
        let pixels = target[1] * target[2];
        Direct {
            g: *g,
            way,
            kernels,
            phases,
            before,
            padded,
            channels,
            packed: Buffer::new(group_len * c.groups),
            group_len,
            stale: true,
            images: TASK_PIXELS.div_ceil(pixels.max(1)),
            threads,
        }
    }

    /// Whether the source needs a border of zeros.
    fn copies(&self) -> bool {
        let (source, _) = sides(&self.g, self.way);
        self.padded != [source[1], source[2]]
    }

    /// Floats of a task's padded pictures.
    fn slot(&self) -> usize {
        let (source, _) = sides(&self.g, self.way);
        if self.copies() { lines(self.images * self.padded[0] * self.padded[1] * source[0]) } else { 0 }
    }

    /// Packs the weights: for every group, phase and panel, `taps x source channels` rows of one or two vectors.
    fn pack(&mut self, w: &[f32], pool: &Pool) {
        let (kernels, g, way, [ci, co]) = (self.kernels, self.g, self.way, self.channels);
        let (to, group_len, phases) = (self.packed.raw(), self.group_len, &self.phases);
        let panels = co.div_ceil(kernels.panel());
        pool.run(g.conv.groups * panels, |task| {
            let (group, at) = (task / panels, task % panels * kernels.panel());
            let width = kernels.width(at, co);
            let (start, from_step, to_step) = weight_steps(&g, way, group);
            for phase in phases {
                let panel = to.skip(group * group_len + phase.packed + at * phase.taps.len() * ci);
                for block in (0..ci).step_by(PACK_CHANNELS) {
                    for lane in 0..width.min(co - at) {
                        for c in block..ci.min(block + PACK_CHANNELS) {
                            let pair = &w[start + c * from_step + (at + lane) * to_step..];
                            for (t, tap) in phase.taps.iter().enumerate() {
                                // SAFETY: inside the panel of this task alone.
                                unsafe { *panel.at((t * ci + c) * width + lane) = pair[*tap] };
                            }
                        }
                    }
                }
            }
        });
        self.stale = false;
    }
}

impl Pass for Direct {
    fn run(&mut self, io: Io<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        if self.stale {
            self.pack(io.w, pool);
        }
        let this = &*self;
        let (source, target) = sides(&this.g, this.way);
        let (il, ol) = (source.iter().product::<usize>(), target.iter().product::<usize>());
        assert!(io.x.len() >= io.n * il && y.len() >= io.n * ol && pool.threads() <= this.threads);
        let finish = io.finish(target[0], y);
        let slot = this.slot();
        let slots = scratch.take(slot * this.threads);
        let y = Raw::of(y);
        let items = io.n.div_ceil(this.images);
        // Few images are also split along the target channels.
        let panels = this.channels[1].div_ceil(this.kernels.panel());
        let splits =
            if items >= 2 * pool.threads() { 1 } else { panels.min((2 * pool.threads()).div_ceil(items.max(1))) };
        pool.run(items * splits, |task| {
            let (item, split) = (task / splits, task % splits);
            let images = item * this.images..io.n.min((item + 1) * this.images);
            let panels = split * panels / splits..(split + 1) * panels / splits;
            let x = &io.x[images.start * il..images.end * il];
            // SAFETY: the slot is this thread's; the target images and panels are this task's.
            unsafe {
                let (from, image_len) = if this.copies() {
                    let slot = slots.at(pool.worker() * slot);
                    let image_len = this.padded[0] * this.padded[1] * source[0];
                    for (i, image) in x.chunks_exact(il).enumerate() {
                        pad(image, source, this.before, this.padded, slot.add(i * image_len));
                    }
                    (slot.cast_const(), image_len)
                } else {
                    (x.as_ptr(), il)
                };
                let y = y.at(images.start * ol);
                match this.strips() {
                    true => this.multiply_strips(images.len(), from, image_len, panels, finish.get(), y),
                    false => this.multiply(images.len(), from, image_len, panels, finish.get(), y),
                }
            }
        });
    }

    fn weights_changed(&mut self) {
        self.stale = true;
    }

    fn scratch_bytes(&self) -> usize {
        self.slot() * self.threads * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

impl Direct {
    /// Whether it works in strips of pixels.
    fn strips(&self) -> bool {
        self.way == Way::Forward && self.g.conv.groups == 1 && self.channels[0] <= STRIP_CHANNELS
    }

    /// The given panels of some images, strip by strip.
    ///
    /// # Safety
    /// As [`Direct::multiply`].
    unsafe fn multiply_strips(
        &self,
        images: usize,
        from: *const f32,
        image_len: usize,
        panels: std::ops::Range<usize>,
        finish: Finish,
        y: *mut f32,
    ) {
        let [ci, co] = self.channels;
        let [_, rows, columns] = self.g.output;
        // Forwards there is one phase, and none where there is no pixel.
        let Some(phase) = self.phases.first() else { return };
        for image in 0..images {
            for row in 0..rows {
                let source = phase.sources[row * columns] as usize * ci;
                let (from, y) = (
                    from.wrapping_add(image * image_len + source),
                    y.wrapping_add((image * rows + row) * columns * co),
                );
                let mut first = 0;
                while first < columns {
                    let count = even(columns - first, self.kernels.strip(self.kernels.panel()).len());
                    for panel in panels.clone() {
                        let at = panel * self.kernels.panel();
                        let width = self.kernels.width(at, co);
                        let t = Strip {
                            a: from.wrapping_add(first * self.g.conv.stride[1] * ci),
                            a_step: self.g.conv.stride[1] * ci,
                            c: y.wrapping_add(first * co + at),
                            c_step: co,
                            runs: phase.runs.as_ptr(),
                            count: phase.runs.len(),
                            k: phase.run * ci,
                            b: self.packed.as_ptr().wrapping_add(at * phase.taps.len() * ci),
                            columns: width.min(co - at),
                            finish: finish.advance(at),
                        };
                        // SAFETY: by the caller.
                        unsafe { self.kernels.strip(width)[count - 1](&t) };
                    }
                    first += count;
                }
            }
        }
    }

    /// All phases, groups and the given panels of some images.
    ///
    /// # Safety
    /// `from` holds padded images of `image_len` floats, `y` the whole target images.
    unsafe fn multiply(
        &self,
        images: usize,
        from: *const f32,
        image_len: usize,
        panels: std::ops::Range<usize>,
        finish: Finish,
        y: *mut f32,
    ) {
        let (source, target) = sides(&self.g, self.way);
        let [ci, co] = self.channels;
        let panel = self.kernels.panel();
        let target_len = target.iter().product::<usize>();
        for phase in &self.phases {
            let pixels = phase.targets.len();
            let total = pixels * images;
            for group in 0..self.g.conv.groups {
                let from = from.wrapping_add(group * ci);
                let y = y.wrapping_add(group * co);
                let weights = self.packed.as_ptr().wrapping_add(group * self.group_len + phase.packed);
                let weights_len = phase.taps.len() * ci * co;
                let small = weights_len * size_of::<f32>() <= SMALL_BYTES;
                let step = if small { self.kernels.rows(panel).len() } else { BLOCK_PIXELS };
                for block in (0..total).step_by(step) {
                    let end = total.min(block + step);
                    for panel_index in panels.clone() {
                        let at = panel_index * panel;
                        let width = self.kernels.width(at, co);
                        let tiles = self.kernels.rows(width);
                        let mut t = Rows {
                            a: [std::ptr::null(); MAX_ROWS],
                            c: [std::ptr::null_mut(); MAX_ROWS],
                            segments: phase.runs.as_ptr(),
                            count: phase.runs.len(),
                            k: phase.run * ci,
                            a_step: 1,
                            b_step: width,
                            b: weights.wrapping_add(at * phase.taps.len() * ci),
                            add: false,
                            columns: width.min(co - at),
                            finish: finish.advance(group * co + at),
                        };
                        let mut first = block;
                        let (mut image, mut pixel) = (block / pixels, block % pixels);
                        while first < end {
                            let rows = even(end - first, tiles.len());
                            for m in 0..rows {
                                let source_at = image * image_len + phase.sources[pixel] as usize * source[0];
                                let target_at = image * target_len + phase.targets[pixel] as usize * target[0] + at;
                                t.a[m] = from.wrapping_add(source_at);
                                t.c[m] = y.wrapping_add(target_at);
                                pixel += 1;
                                if pixel == pixels {
                                    (image, pixel) = (image + 1, 0);
                                }
                            }
                            // SAFETY: rows lie in the pictures, columns in this panel.
                            unsafe { tiles[rows - 1](&t) };
                            first += rows;
                        }
                    }
                }
            }
        }
    }
}

/// How many of `left` rows the next tile of at most `most` takes, so that no tile is left much smaller than the others.
pub(super) fn even(left: usize, most: usize) -> usize {
    if left <= most {
        left
    } else if left < 2 * most {
        left.div_ceil(2)
    } else {
        most
    }
}

/// Copies one picture [C, H, W] (H x W x C) into the middle of a larger one of zeros.
///
/// # Safety
/// `to` has room for `padded[0] * padded[1] * C` floats.
pub(super) unsafe fn pad(image: &[f32], source: [usize; 3], before: [usize; 2], padded: [usize; 2], to: *mut f32) {
    let [c, h, w] = source;
    let row = padded[1] * c;
    unsafe {
        let (left, right) = (before[1] * c, row - (before[1] + w) * c);
        to.write_bytes(0, before[0] * row);
        for i in 0..h {
            let line = to.add((before[0] + i) * row);
            line.write_bytes(0, left);
            line.add(left).copy_from_nonoverlapping(image[i * w * c..].as_ptr(), w * c);
            line.add(row - right).write_bytes(0, right);
        }
        to.add((before[0] + h) * row).write_bytes(0, (padded[0] - before[0] - h) * row);
    }
}
