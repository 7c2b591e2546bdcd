//! Convolutions with a 1x1 kernel and stride 1, and fully connected layers: one GEMM whose rows are the pixels of all images.

use super::pass::{Pass, PassArgs, balanced_rows, source_and_target, transpose, weight_steps};
use super::{Direction, Geometry};
use crate::activation::relu_backward;
use crate::memory::{Buffer, Scratch, SharedPtr};
use crate::pool::Pool;
use crate::simd::gemm::StridedGemm;
use crate::simd::{Kernels, ReluMask};

/// Most pixels of a task: all panels of weights are multiplied with them while they are in L2.
const BLOCK_PIXELS: usize = 96;

/// Most bytes of a task's source pixels.
const BLOCK_BYTES: usize = 384 << 10;

/// Packed weights up to this size stay in L1, so that all panels are multiplied with one register tile of pixels before the next.
const L1_WEIGHT_BYTES: usize = 16 << 10;

/// Whether this algorithm computes `g`; not with groups.
pub(super) fn covers(g: &Geometry) -> bool {
    let c = g.conv;
    c.kernel == [1; 2] && c.stride == [1; 2] && c.groups == 1 && g.input[1..] == g.output[1..]
}

/// The algorithm for one direction of one geometry.
pub(super) struct Pointwise {
    g: Geometry,
    direction: Direction,
    kernels: &'static Kernels,
    /// Channels of source and target.
    channels: [usize; 2],
    packed: Buffer,
    stale: bool,
}

impl Pointwise {
    pub fn new(g: &Geometry, direction: Direction, kernels: &'static Kernels) -> Pointwise {
        let (source, target) = source_and_target(g, direction);
        let channels = [source[0], target[0]];
        let packed = Buffer::new(channels[0] * kernels.padded(channels[1]));
        Pointwise { g: *g, direction, kernels, channels, packed, stale: true }
    }

    fn panels(&self) -> usize {
        self.channels[1].div_ceil(self.kernels.panel())
    }

    /// Packs the weights: for each panel, a row of one or two vectors for each source channel.
    fn pack(&mut self, w: &[f32], pool: &Pool) {
        let (kernels, [ci, co]) = (self.kernels, self.channels);
        let (start, from_step, to_step) = weight_steps(&self.g, self.direction, 0);
        let to = self.packed.as_shared();
        pool.run(self.panels(), |panel| {
            let at = panel * kernels.panel();
            let width = kernels.width(at, co);
            let columns = width.min(co - at);
            let from = w[start + at * to_step..].as_ptr();
            let panel = to.at(at * ci);
            // SAFETY: the weights of the panel, which only this task writes.
            unsafe {
                if to_step == 1 {
                    for c in 0..ci {
                        panel.add(c * width).copy_from_nonoverlapping(from.add(c * from_step), columns);
                    }
                } else {
                    debug_assert_eq!(from_step, 1);
                    transpose(from, to_step, [columns, ci], panel, width);
                }
            }
        });
        self.stale = false;
    }
}

impl Pass for Pointwise {
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, _: &mut Scratch) {
        if self.stale {
            self.pack(args.w, pool);
        }
        let this = &*self;
        let (kernels, [ci, co]) = (this.kernels, this.channels);
        let pixels = args.n * this.g.input[1] * this.g.input[2];
        assert!(args.x.len() >= pixels * ci && y.len() >= pixels * co);
        let (epilogue, mask) = args.epilogue_and_mask(co, y);
        let y = SharedPtr::of(y);
        let block = (BLOCK_BYTES / size_of::<f32>() / ci.max(1)).clamp(24, BLOCK_PIXELS);
        let blocks = pixels.div_ceil(block);
        // A few pixels are also split along the target channels.
        let panels = this.panels();
        let splits =
            if blocks >= 2 * pool.threads() { 1 } else { panels.min((2 * pool.threads()).div_ceil(blocks.max(1))) };
        let in_l1 = ci * kernels.padded(co) * size_of::<f32>() <= L1_WEIGHT_BYTES;
        pool.run(blocks * splits, |task| {
            let (first, split) = (task / splits * block, task % splits);
            let (end, panels) = (pixels.min(first + block), split * panels / splits..(split + 1) * panels / splits);
            let step = if in_l1 { kernels.strided_gemm(kernels.panel()).len() } else { block };
            for first in (first..end).step_by(step) {
                let end = end.min(first + step);
                for panel in panels.clone() {
                    let at = panel * kernels.panel();
                    let width = kernels.width(at, co);
                    let columns = width.min(co - at);
                    let tiles = kernels.strided_gemm(width);
                    let mut row = first;
                    while row < end {
                        let rows = balanced_rows(end - row, tiles.len());
                        let t = StridedGemm {
                            a: args.x[row * ci..].as_ptr(),
                            a_step: ci,
                            c: y.at(row * co + at),
                            c_step: co,
                            segments: [0isize].as_ptr(),
                            count: 1,
                            k: ci,
                            b: this.packed[at * ci..].as_ptr(),
                            columns,
                            epilogue: epilogue.skip(at),
                        };
                        // SAFETY: the rows lie in the images, and only this task writes these columns of them.
                        unsafe { tiles[rows - 1](&t) };
                        row += rows;
                    }
                }
                let channels = panels.start * kernels.panel()..co.min(panels.end * kernels.panel());
                // SAFETY: only this task accesses these channels of these pixels.
                unsafe {
                    args.post_ops.run_pixels(y, first..end, channels.clone(), co);
                    if let Some(mask) = &mask {
                        apply_mask(mask, y, first..end, channels, co);
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
        0
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }
}

/// Sets elements of `y` to 0 where the mask is not positive.
///
/// # Safety
/// No other thread accesses these channels of these pixels, which exist.
unsafe fn apply_mask(
    mask: &ReluMask<'_>,
    y: SharedPtr,
    pixels: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
    width: usize,
) {
    for pixel in pixels {
        let first = y.at(pixel * width + channels.start);
        // SAFETY: by the caller; the mask has an element for each of the target.
        let (y, mask) = unsafe {
            let mask = std::slice::from_raw_parts(mask.at(first), channels.len());
            (std::slice::from_raw_parts_mut(first, channels.len()), mask)
        };
        relu_backward(mask, y);
    }
}
