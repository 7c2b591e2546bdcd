//! Depthwise convolution: as many groups as channels, one filter per channel. Vectors run along the channels.

use super::pass::{Pass, PassArgs, WeightPass, add_pairwise, source_and_target};
use super::{Direction, Geometry};
use crate::memory::{Buffer, Scratch, SharedPtr, whole_lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::depthwise::{DepthwiseGradient, DepthwisePixel};

/// Partial sums of the weight gradient over images.
const PARTS: usize = 16;

/// Most taps of a kernel: the pointers of one pixel are kept on the stack.
const MAX_TAPS: usize = 64;

/// Whether this algorithm covers `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    let c = g.conv;
    c.groups == g.input[0] && c.filters == c.groups && c.groups > 1 && c.kernel[0] * c.kernel[1] <= MAX_TAPS
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
    /// `[tap][channel]`.
    packed: Buffer,
    stale: bool,
}

impl Depthwise {
    pub fn new(g: &Geometry, direction: Direction, kernels: &'static Kernels) -> Depthwise {
        Depthwise { g: *g, direction, kernels, packed: Buffer::new(g.weight_len()), stale: true }
    }
}

impl Pass for Depthwise {
    fn run(&mut self, args: PassArgs<'_>, y: &mut [f32], pool: &Pool, _: &mut Scratch) {
        let (g, direction, channels) = (self.g, self.direction, self.g.conv.filters);
        let kernel = g.conv.kernel;
        if self.stale {
            let packed = self.packed.as_shared();
            let count = kernel[0] * kernel[1];
            for (i, w) in args.w[..g.weight_len()].iter().enumerate() {
                // SAFETY: inside the packed weights.
                unsafe { *packed.at(i % count * channels + i / count) = *w };
            }
            self.stale = false;
        }
        let (source, target) = source_and_target(&g, direction);
        let (il, ol) = (source.iter().product::<usize>(), target.iter().product::<usize>());
        assert!(args.x.len() >= args.n * il && y.len() >= args.n * ol);
        let (epilogue, mask) = args.epilogue_and_mask(target[0], y);
        let (this, y) = (&*self, SharedPtr::of(y));
        pool.run(args.n * target[1], |task| {
            let (image, row) = (task / target[1], task % target[1]);
            let x = args.x[image * il..][..il].as_ptr();
            let y = y.skip(image * ol + row * target[2] * channels);
            let mut xs = [std::ptr::null(); MAX_TAPS];
            let mut ws = [std::ptr::null(); MAX_TAPS];
            for column in 0..target[2] {
                let mut count = 0;
                for (kh, h) in taps(&g, direction, 0, row) {
                    for (kw, w) in taps(&g, direction, 1, column) {
                        xs[count] = x.wrapping_add((h * source[2] + w) * channels);
                        ws[count] = this.packed.as_ptr().wrapping_add((kh * kernel[1] + kw) * channels);
                        count += 1;
                    }
                }
                // SAFETY: the pointers lie in the image and the weights; only this task writes the row.
                unsafe {
                    (this.kernels.depthwise_pixel)(&DepthwisePixel {
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
        });
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
}

impl DepthwiseWeight {
    pub fn new(g: &Geometry, kernels: &'static Kernels) -> DepthwiseWeight {
        DepthwiseWeight { g: *g, kernels }
    }

    /// The output columns for which kernel column `k` lies inside the input.
    fn columns(&self, k: usize) -> std::ops::Range<usize> {
        let c = self.g.conv;
        let shift = k * c.dilation[1];
        let first = c.padding.left.saturating_sub(shift).div_ceil(c.stride[1]);
        let last = (self.g.input[2] + c.padding.left).saturating_sub(shift).div_ceil(c.stride[1]);
        first..last.min(self.g.output[2])
    }
}

impl WeightPass for DepthwiseWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (this, g, c) = (&*self, self.g, self.g.conv);
        let (il, ol, channels) = (g.input_len(), g.output_len(), c.filters);
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == g.weight_len());
        let count = c.kernel[0] * c.kernel[1];
        let partial = whole_lines(count * channels);
        let sums = scratch.take(partial * PARTS);
        pool.run(PARTS, |part| {
            let sum = sums.skip(part * partial);
            // SAFETY: only this task writes the partial sum; the runs of pixels lie in the images.
            unsafe {
                sum.at(0).write_bytes(0, count * channels);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    let (x, gy) = (x[image * il..][..il].as_ptr(), gy[image * ol..][..ol].as_ptr());
                    for row in 0..g.output[1] {
                        for (kh, h) in taps(&g, Direction::GradWeight, 0, row) {
                            for kw in 0..c.kernel[1] {
                                let run = this.columns(kw);
                                if run.is_empty() {
                                    continue;
                                }
                                let w = run.start * c.stride[1] + kw * c.dilation[1] - c.padding.left;
                                (this.kernels.depthwise_gradient)(&DepthwiseGradient {
                                    x: x.wrapping_add((h * g.input[2] + w) * channels),
                                    x_step: c.stride[1] * channels,
                                    gy: gy.wrapping_add((row * g.output[2] + run.start) * channels),
                                    gy_step: channels,
                                    pixels: run.len(),
                                    channels,
                                    gw: sum.at((kh * c.kernel[1] + kw) * channels),
                                });
                            }
                        }
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
        whole_lines(self.g.weight_len()) * PARTS * size_of::<f32>()
    }
}
