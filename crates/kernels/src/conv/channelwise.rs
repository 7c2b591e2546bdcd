//! Depthwise convolution: as many groups as channels, one filter a channel. Vectors run along the channels.

use super::Geometry;
use super::pass::{Io, Pass, Way, WeightPass, sides};
use crate::memory::{Buffer, Raw, Scratch, lines};
use crate::pool::Pool;
use crate::simd::Kernels;
use crate::simd::depthwise::{Correlate, Gather};

/// Images are split over this many partial sums of the weight's gradient at most.
const PARTS: usize = 16;

/// Taps of the largest kernel that is gathered without touching the heap.
const MOST_TAPS: usize = 64;

/// Whether this algorithm covers `g`.
pub(super) fn covers(g: &Geometry) -> bool {
    let c = g.conv;
    c.groups == g.input[0] && c.filters == c.groups && c.groups > 1 && c.kernel[0] * c.kernel[1] <= MOST_TAPS
}

/// Along one axis: the (kernel index, source index) pairs that make up target `at`.
fn taps(g: &Geometry, way: Way, axis: usize, at: usize) -> impl Iterator<Item = (usize, usize)> {
    let c = g.conv;
    let (stride, dilation) = (c.stride[axis], c.dilation[axis]);
    let before = [c.padding.top, c.padding.left][axis];
    let source = sides(g, way).0[1 + axis];
    (0..c.kernel[axis]).filter_map(move |k| {
        let from = match way {
            Way::Forward => (at * stride + k * dilation).checked_sub(before)?,
            Way::GradInput => {
                let from = (at + before).checked_sub(k * dilation)?;
                (from % stride == 0).then_some(from / stride)?
            }
        };
        (from < source).then_some((k, from))
    })
}

/// The depthwise algorithm for one way of one geometry.
pub(super) struct Channelwise {
    g: Geometry,
    way: Way,
    kernels: &'static Kernels,
    /// `[tap][channel]`.
    packed: Buffer,
    stale: bool,
}

impl Channelwise {
    pub fn new(g: &Geometry, way: Way, kernels: &'static Kernels) -> Channelwise {
        Channelwise { g: *g, way, kernels, packed: Buffer::new(g.weight_len()), stale: true }
    }
}

impl Pass for Channelwise {
    fn run(&mut self, io: Io<'_>, y: &mut [f32], pool: &Pool, _: &mut Scratch) {
        let (g, way, channels) = (self.g, self.way, self.g.conv.filters);
        let kernel = g.conv.kernel;
        if self.stale {
            let packed = self.packed.raw();
            let count = kernel[0] * kernel[1];
            for (i, w) in io.w[..g.weight_len()].iter().enumerate() {
                // SAFETY: inside the packed weights.
                unsafe { *packed.at(i % count * channels + i / count) = *w };
            }
            self.stale = false;
        }
        let (source, target) = sides(&g, way);
        let (il, ol) = (source.iter().product::<usize>(), target.iter().product::<usize>());
        assert!(io.x.len() >= io.n * il && y.len() >= io.n * ol);
        let finish = io.finish(target[0], y);
        let (this, y) = (&*self, Raw::of(y));
        pool.run(io.n * target[1], |task| {
            let (image, row) = (task / target[1], task % target[1]);
            let x = io.x[image * il..][..il].as_ptr();
            let y = y.skip(image * ol + row * target[2] * channels);
            let mut xs = [std::ptr::null(); MOST_TAPS];
            let mut ws = [std::ptr::null(); MOST_TAPS];
            for column in 0..target[2] {
                let mut count = 0;
                for (kh, h) in taps(&g, way, 0, row) {
                    for (kw, w) in taps(&g, way, 1, column) {
                        xs[count] = x.wrapping_add((h * source[2] + w) * channels);
                        ws[count] = this.packed.as_ptr().wrapping_add((kh * kernel[1] + kw) * channels);
                        count += 1;
                    }
                }
                // SAFETY: the pointers lie in the picture and the weights; the row is this task's.
                unsafe {
                    (this.kernels.gather)(&Gather {
                        x: xs.as_ptr(),
                        w: ws.as_ptr(),
                        taps: count,
                        channels,
                        y: y.at(column * channels),
                        finish: finish.get(),
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

/// The depthwise algorithm for the weight's gradient.
pub(super) struct ChannelwiseWeight {
    g: Geometry,
    kernels: &'static Kernels,
}

impl ChannelwiseWeight {
    pub fn new(g: &Geometry, kernels: &'static Kernels) -> ChannelwiseWeight {
        ChannelwiseWeight { g: *g, kernels }
    }

    /// Output columns for which kernel column `k` lies inside the picture.
    fn columns(&self, k: usize) -> std::ops::Range<usize> {
        let c = self.g.conv;
        let shift = k * c.dilation[1];
        let first = c.padding.left.saturating_sub(shift).div_ceil(c.stride[1]);
        let last = (self.g.input[2] + c.padding.left).saturating_sub(shift).div_ceil(c.stride[1]);
        first..last.min(self.g.output[2])
    }
}

impl WeightPass for ChannelwiseWeight {
    fn run(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (this, g, c) = (&*self, self.g, self.g.conv);
        let (il, ol, channels) = (g.input_len(), g.output_len(), c.filters);
        assert!(x.len() >= n * il && gy.len() >= n * ol && gw.len() == g.weight_len());
        let count = c.kernel[0] * c.kernel[1];
        let partial = lines(count * channels);
        let sums = scratch.take(partial * PARTS);
        pool.run(PARTS, |part| {
            let sum = sums.skip(part * partial);
            // SAFETY: the partial sum is this task's; the runs lie in the pictures.
            unsafe {
                sum.at(0).write_bytes(0, count * channels);
                for image in part * n / PARTS..(part + 1) * n / PARTS {
                    let (x, gy) = (x[image * il..][..il].as_ptr(), gy[image * ol..][..ol].as_ptr());
                    for row in 0..g.output[1] {
                        for (kh, h) in taps(&g, Way::Forward, 0, row) {
                            for kw in 0..c.kernel[1] {
                                let run = this.columns(kw);
                                if run.is_empty() {
                                    continue;
                                }
                                let w = run.start * c.stride[1] + kw * c.dilation[1] - c.padding.left;
                                (this.kernels.correlate)(&Correlate {
                                    x: x.wrapping_add((h * g.input[2] + w) * channels),
                                    x_step: c.stride[1] * channels,
                                    g: gy.wrapping_add((row * g.output[2] + run.start) * channels),
                                    g_step: channels,
                                    run: run.len(),
                                    channels,
                                    w: sum.at((kh * c.kernel[1] + kw) * channels),
                                });
                            }
                        }
                    }
                }
            }
        });
        // Few numbers: joined pairwise here.
        let mut gap = 1;
        while gap < PARTS {
            for part in (0..PARTS - gap).step_by(2 * gap) {
                for i in 0..count * channels {
                    // SAFETY: the tasks are over.
                    unsafe { *sums.at(part * partial + i) += *sums.at((part + gap) * partial + i) };
                }
            }
            gap *= 2;
        }
        for (i, v) in gw.iter_mut().enumerate() {
            // SAFETY: as above.
            *v = unsafe { *sums.at(i % count * channels + i / count) };
        }
    }

    fn scratch_bytes(&self) -> usize {
        lines(self.g.weight_len()) * PARTS * size_of::<f32>()
    }
}
