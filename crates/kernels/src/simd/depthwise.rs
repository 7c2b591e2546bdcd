//! Depthwise convolution: every channel on its own, vectors along the channels.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::{Epilogue, ReluMask, Simd};

/// Vectors of channels that are accumulated at a time: enough independent chains to hide most of the latency of an addition.
const VECTORS: usize = 4;

/// One output pixel: `y[c] = sum over taps t of x[t][c] * w[t][c]`.
pub(crate) struct DepthwisePixel<'a> {
    /// First channel of the pixel under each tap.
    pub x: *const *const f32,
    /// First channel of each tap's weights.
    pub w: *const *const f32,
    /// How many taps.
    pub taps: usize,
    /// How many channels.
    pub channels: usize,
    /// First channel of the output pixel.
    pub y: *mut f32,
    /// Applied to the sums.
    pub epilogue: Epilogue<'a>,
    /// Applied to what is stored.
    pub mask: Option<ReluMask<'a>>,
}

impl DepthwisePixel<'_> {
    /// Computes `N` vectors of channels from `c` on; the first `count` channels of each exist.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(&self, c: usize, count: usize) {
        unsafe {
            let mut sums = [S::zero(); N];
            for tap in 0..self.taps {
                let (x, w) = ((*self.x.add(tap)).wrapping_add(c), (*self.w.add(tap)).wrapping_add(c));
                for v in 0..N {
                    let x = S::load_up_to(x.wrapping_add(v * S::LANES), count);
                    let w = S::load_up_to(w.wrapping_add(v * S::LANES), count);
                    sums[v] = S::fma(x, w, sums[v]);
                }
            }
            for v in 0..N {
                let at = c + v * S::LANES;
                let [sum] = self.epilogue.apply::<S, 1>([sums[v]], at, count);
                let to = self.y.wrapping_add(at);
                match &self.mask {
                    Some(mask) => mask.store::<S>(to, sum, count),
                    None => S::store_up_to(to, sum, count),
                }
            }
        }
    }
}

/// See [`DepthwisePixel`].
#[inline(always)]
pub(super) unsafe fn pixel<S: Simd>(t: &DepthwisePixel) {
    unsafe {
        let mut c = 0;
        while c + VECTORS * S::LANES <= t.channels {
            t.vectors::<S, VECTORS>(c, S::LANES);
            c += VECTORS * S::LANES;
        }
        while c < t.channels {
            t.vectors::<S, 1>(c, t.channels - c);
            c += S::LANES;
        }
    }
}

/// The weight gradient of one tap from a run of output pixels: `gw[c] += sum over pixels p of x[p][c] * gy[p][c]`.
pub(crate) struct DepthwiseGradient {
    /// First channel of the input pixel under the tap, for the run's first pixel.
    pub x: *const f32,
    /// Floats between the input pixels.
    pub x_step: usize,
    /// First channel of the output gradient's first pixel.
    pub gy: *const f32,
    /// Floats between the output pixels.
    pub gy_step: usize,
    /// Pixels of the run.
    pub pixels: usize,
    /// How many channels.
    pub channels: usize,
    /// The gradient of the tap's weights.
    pub gw: *mut f32,
}

impl DepthwiseGradient {
    /// Computes `N` vectors of channels from `c` on; the first `count` channels of each exist.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const N: usize>(&self, c: usize, count: usize) {
        unsafe {
            let mut sums = [S::zero(); N];
            let (mut x, mut gy) = (self.x.wrapping_add(c), self.gy.wrapping_add(c));
            for _ in 0..self.pixels {
                for v in 0..N {
                    let x = S::load_up_to(x.wrapping_add(v * S::LANES), count);
                    let gy = S::load_up_to(gy.wrapping_add(v * S::LANES), count);
                    sums[v] = S::fma(x, gy, sums[v]);
                }
                (x, gy) = (x.wrapping_add(self.x_step), gy.wrapping_add(self.gy_step));
            }
            for v in 0..N {
                let gw = self.gw.wrapping_add(c + v * S::LANES);
                S::store_up_to(gw, S::add(S::load_up_to(gw, count), sums[v]), count);
            }
        }
    }
}

/// See [`DepthwiseGradient`].
#[inline(always)]
pub(super) unsafe fn gradient<S: Simd>(t: &DepthwiseGradient) {
    unsafe {
        let mut c = 0;
        while c + VECTORS * S::LANES <= t.channels {
            t.vectors::<S, VECTORS>(c, S::LANES);
            c += VECTORS * S::LANES;
        }
        while c < t.channels {
            t.vectors::<S, 1>(c, t.channels - c);
            c += S::LANES;
        }
    }
}
