//! Direct convolution of any shape, as GEMMs on the images themselves (implicit im2col).
//!
//! Every target pixel is a row of a GEMM whose left-hand side lies in the (zero-padded) source image: the channels under one
//! row of kernel taps are one contiguous segment. The input gradient is computed in the same way with the roles exchanged;
//! with strides, its target pixels fall into phases (stride rows x stride columns) that see different taps.

use super::pass::{Pass, PassArgs, balanced_rows, pad, source_and_target, weight_steps};
use super::{Direction, Epilogue, Geometry};
use crate::memory::{Buffer, Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::gemm::{IndirectGemm, MAX_ROWS, StridedGemm};
use crate::simd::{Kernels, ReluMask};

/// Least target pixels of a task (by whole images), so that packed weights are reused.
const TASK_PIXELS: usize = 96;

/// Target pixels of a block: all panels are multiplied with one block before the next.
const BLOCK_PIXELS: usize = 96;

/// Packed weights up to this size stay in L1, so that blocks are single register tiles.
const L1_WEIGHT_BYTES: usize = 16 << 10;

/// Most source channels for which a [`StridedGemm`] along image rows is faster than an [`IndirectGemm`].
const STRIDED_CHANNELS: usize = 4;

/// Source channels packed together, so that the packed block stays in L1.
const PACK_CHANNELS: usize = 32;

/// The target pixels that see the same taps.
struct Phase {
    /// The padded source pixel under tap offset 0, for each target pixel.
    sources: Vec<u32>,
    /// The target pixels.
    targets: Vec<u32>,
    /// Kernel taps (row-major index), in the order of packing.
    taps: Vec<usize>,
    /// Start of each contiguous segment of taps, in floats from the source pixel.
    segments: Vec<isize>,
    /// Taps of a segment.
    segment_taps: usize,
    /// Offset of the phase's weights in the packed weights of a group.
    packed: usize,
}

/// Along one axis, the targets that see the same taps: the first one, their stride, the stride of their sources, and the taps
/// as (kernel index, offset of the source).
type AxisPhase = (usize, usize, usize, Vec<(usize, isize)>);

/// The direct algorithm for one direction of one geometry.
pub(super) struct Direct {
    g: Geometry,
    direction: Direction,
    kernels: &'static Kernels,
    phases: Vec<Phase>,
    /// Rows and columns of padding before the image, and the extents of the padded image.
    before: [usize; 2],
    padded: [usize; 2],
    /// Channels of a group in source and target.
    channels: [usize; 2],
    packed: Buffer,
    /// Floats of one group's packed weights.
    group_len: usize,
    stale: bool,
    /// Images of a task.
    images: usize,
    threads: usize,
}

impl Direct {
    pub fn new(g: &Geometry, direction: Direction, threads: usize, kernels: &'static Kernels) -> Direct {
        let (source, target) = source_and_target(g, direction);
        let c = g.conv;
        let channels = [source[0] / c.groups, target[0] / c.groups];
        let pad = [c.padding.top, c.padding.left];
        let axis = |axis: usize| -> Vec<AxisPhase> {
            let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
            let tap = |k: usize| (k * dilation) as isize - pad[axis] as isize;
            match direction {
                Direction::Forward | Direction::GradWeight => {
                    vec![(0, 1, stride, (0..c.kernel[axis]).map(|k| (k, tap(k))).collect())]
                }
                Direction::GradInput => (0..stride)
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
        // The targets of a phase, and those of its taps that fall on a source pixel for any target.
        let prune = |axis: usize, (first, step, source_step, taps): &AxisPhase| {
            let targets: Vec<usize> = (*first..target[1 + axis]).step_by(*step).collect();
            let is_used = |offset: isize| {
                (0..targets.len()).any(|i| {
                    let at = (i * source_step) as isize + offset;
                    at >= 0 && at < source[1 + axis] as isize
                })
            };
            let taps: Vec<_> = taps.iter().copied().filter(|t| is_used(t.1)).collect();
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
                    segments: Vec::new(),
                    segment_taps: 1,
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
                phase.segment_taps = if whole_row { column_taps.len() } else { 1 };
                for (kh, h) in row_taps {
                    for (i, (kw, w)) in column_taps.iter().enumerate() {
                        phase.taps.push(kh * c.kernel[1] + kw);
                        if i % phase.segment_taps == 0 {
                            phase.segments.push((h * padded[1] as isize + w) * source[0] as isize);
                        }
                    }
                }
                group_len += whole_lines(phase.taps.len() * channels[0] * kernels.padded(channels[1]));
                if !phase.targets.is_empty() {
                    phases.push(phase);
                }
            }
        }
        let pixels = target[1] * target[2];
        debug_assert!(direction != Direction::Forward || phases.iter().all(|p| p.targets.len() == pixels));
        Direct {
            g: *g,
            direction,
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

    /// Whether the source is copied into a padded image.
    fn needs_padding(&self) -> bool {
        let (source, _) = source_and_target(&self.g, self.direction);
        self.padded != [source[1], source[2]]
    }

    /// Floats of a task's padded images.
    fn slot(&self) -> usize {
        let (source, _) = source_and_target(&self.g, self.direction);
        if self.needs_padding() { whole_lines(self.images * self.padded[0] * self.padded[1] * source[0]) } else { 0 }
    }

    /// Packs the weights: for each group, phase and panel, (taps x source channels) rows of one or two vectors.
    fn pack(&mut self, w: &[f32], pool: &Pool) {
        let (kernels, g, direction, [ci, co]) = (self.kernels, self.g, self.direction, self.channels);
        let (to, group_len, phases) = (self.packed.as_shared(), self.group_len, &self.phases);
        let panels = co.div_ceil(kernels.panel());
        pool.run(g.conv.groups * panels, |task| {
            let (group, at) = (task / panels, task % panels * kernels.panel());
            let width = kernels.width(at, co);
            let (start, from_step, to_step) = weight_steps(&g, direction, group);
            for phase in phases {
                let panel = to.skip(group * group_len + phase.packed + at * phase.taps.len() * ci);
                for block in (0..ci).step_by(PACK_CHANNELS) {
                    for lane in 0..width.min(co - at) {
                        for c in block..ci.min(block + PACK_CHANNELS) {
                            let pair = &w[start + c * from_step + (at + lane) * to_step..];
                            for (t, tap) in phase.taps.iter().enumerate() {
                                // SAFETY: inside the panel, which only this task writes.
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
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        if self.stale {
            self.pack(args.w, pool);
        }
        let this = &*self;
        let (source, target) = source_and_target(&this.g, this.direction);
        let (il, ol) = (source.iter().product::<usize>(), target.iter().product::<usize>());
        assert!(args.x.len() >= args.n * il && y.len() >= args.n * ol && pool.threads() <= this.threads);
        let (epilogue, mask) = args.epilogue_and_mask(target[0], y);
        let slot = this.slot();
        let slots = scratch.take(slot * this.threads);
        let y = SharedPtr::of(y);
        let image_tasks = args.n.div_ceil(this.images);
        // Small batches are also split along the target channels.
        let panels = this.channels[1].div_ceil(this.kernels.panel());
        let splits = if image_tasks >= 2 * pool.threads() {
            1
        } else {
            panels.min((2 * pool.threads()).div_ceil(image_tasks.max(1)))
        };
        pool.run(image_tasks * splits, |task| {
            let (image_task, split) = (task / splits, task % splits);
            let images = image_task * this.images..args.n.min((image_task + 1) * this.images);
            let panels = split * panels / splits..(split + 1) * panels / splits;
            let x = &args.x[images.start * il..images.end * il];
            // SAFETY: only this thread uses the slot, and only this task writes these panels of the target images.
            unsafe {
                let (from, image_len) = if this.needs_padding() {
                    let slot = slots.at(pool.thread_index() * slot);
                    let image_len = this.padded[0] * this.padded[1] * source[0];
                    for (i, image) in x.chunks_exact(il).enumerate() {
                        pad(image, source, this.before, this.padded, slot.add(i * image_len));
                    }
                    (slot.cast_const(), image_len)
                } else {
                    (x.as_ptr(), il)
                };
                let (first, to) = (images.start * this.pixels(), y.at(images.start * ol));
                // Applies the post-ops to target pixels of this task.
                let apply_post_ops = |pixels: std::ops::Range<usize>| {
                    let pixels = first + pixels.start..first + pixels.end;
                    let (panel, [_, co]) = (this.kernels.panel(), this.channels);
                    let own = panels.start * panel..co.min(panels.end * panel);
                    if splits == 1 {
                        args.post_ops.run_pixels(y, pixels, 0..target[0], target[0]);
                    } else {
                        for at in (0..target[0]).step_by(co) {
                            args.post_ops.run_pixels(y, pixels.clone(), at + own.start..at + own.end, target[0]);
                        }
                    }
                };
                match mask {
                    None if this.has_few_channels() => {
                        this.multiply_rows(images.len(), from, image_len, panels.clone(), epilogue, to, apply_post_ops);
                    }
                    _ => {
                        this.multiply(images.len(), from, image_len, panels.clone(), epilogue, mask, to, apply_post_ops)
                    }
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
        self.slot() * self.threads * size_of::<f32>()
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

impl Direct {
    /// Target pixels of an image.
    fn pixels(&self) -> usize {
        let (_, target) = source_and_target(&self.g, self.direction);
        target[1] * target[2]
    }

    /// Whether it multiplies neighbouring pixels of image rows, by [`StridedGemm`].
    fn has_few_channels(&self) -> bool {
        self.direction == Direction::Forward && self.g.conv.groups == 1 && self.channels[0] <= STRIDED_CHANNELS
    }

    /// Computes the given panels of some images, image row by image row, and calls `apply_post_ops` with the pixels of each.
    ///
    /// # Safety
    /// As [`Direct::multiply`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply_rows(
        &self,
        images: usize,
        from: *const f32,
        image_len: usize,
        panels: std::ops::Range<usize>,
        epilogue: Epilogue<'_>,
        y: *mut f32,
        apply_post_ops: impl Fn(std::ops::Range<usize>),
    ) {
        let [ci, co] = self.channels;
        let [_, rows, columns] = self.g.output;
        // The forward direction has one phase, or none if there are no pixels.
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
                    let count = balanced_rows(columns - first, self.kernels.strided_gemm(self.kernels.panel()).len());
                    for panel in panels.clone() {
                        let at = panel * self.kernels.panel();
                        let width = self.kernels.width(at, co);
                        let t = StridedGemm {
                            a: from.wrapping_add(first * self.g.conv.stride[1] * ci),
                            a_step: self.g.conv.stride[1] * ci,
                            c: y.wrapping_add(first * co + at),
                            c_step: co,
                            segments: phase.segments.as_ptr(),
                            count: phase.segments.len(),
                            k: phase.segment_taps * ci,
                            b: self.packed.as_ptr().wrapping_add(at * phase.taps.len() * ci),
                            columns: width.min(co - at),
                            epilogue: epilogue.skip(at),
                        };
                        // SAFETY: by the caller.
                        unsafe { self.kernels.strided_gemm(width)[count - 1](&t) };
                    }
                    first += count;
                }
                let first = (image * rows + row) * columns;
                apply_post_ops(first..first + columns);
            }
        }
    }

    /// Computes the given panels of some images, for all phases and groups, and calls `apply_post_ops` with all of their pixels.
    ///
    /// # Safety
    /// `from` points to padded images of `image_len` floats each, `y` to the target images.
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(
        &self,
        images: usize,
        from: *const f32,
        image_len: usize,
        panels: std::ops::Range<usize>,
        epilogue: Epilogue<'_>,
        mask: Option<ReluMask<'_>>,
        y: *mut f32,
        apply_post_ops: impl Fn(std::ops::Range<usize>),
    ) {
        let (source, target) = source_and_target(&self.g, self.direction);
        let [ci, co] = self.channels;
        // Post-ops run while a block is in cache; only where one block has all sums of its pixels.
        let by_block = self.direction == Direction::Forward && self.g.conv.groups == 1;
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
                let in_l1 = weights_len * size_of::<f32>() <= L1_WEIGHT_BYTES;
                let step = if in_l1 { self.kernels.indirect_gemm(panel).len() } else { BLOCK_PIXELS };
                for block in (0..total).step_by(step) {
                    let end = total.min(block + step);
                    for panel_index in panels.clone() {
                        let at = panel_index * panel;
                        let width = self.kernels.width(at, co);
                        let kernels = self.kernels.indirect_gemm(width);
                        let mut t = IndirectGemm {
                            a: [std::ptr::null(); MAX_ROWS],
                            c: [std::ptr::null_mut(); MAX_ROWS],
                            segments: phase.segments.as_ptr(),
                            count: phase.segments.len(),
                            k: phase.segment_taps * ci,
                            a_step: 1,
                            b_step: width,
                            b: weights.wrapping_add(at * phase.taps.len() * ci),
                            accumulate: false,
                            columns: width.min(co - at),
                            epilogue: epilogue.skip(group * co + at),
                            mask,
                        };
                        let mut first = block;
                        let (mut image, mut pixel) = (block / pixels, block % pixels);
                        while first < end {
                            let rows = balanced_rows(end - first, kernels.len());
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
                            // SAFETY: the rows lie in the images, the columns in this panel.
                            unsafe { kernels[rows - 1](&t) };
                            first += rows;
                        }
                    }
                    if by_block {
                        apply_post_ops(block..end);
                    }
                }
            }
        }
        if !by_block {
            apply_post_ops(0..images * self.pixels());
        }
    }
}
