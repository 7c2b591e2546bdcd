//! Depthwise products: every channel on its own, vectors along the channels.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::Simd;
use super::tile::Finish;

/// Vectors of channels worked on at a time: as many chains of sums as hide most of their latency.
const BLOCK: usize = 4;

/// `y[..] = sum over t of x[t][..] * w[t][..]` for one pixel, all channels.
pub(crate) struct Gather {
    /// First channel of the pixel under each tap.
    pub x: *const *const f32,
    /// First channel of each tap's weights.
    pub w: *const *const f32,
    /// How many taps.
    pub taps: usize,
    /// How many channels.
    pub channels: usize,
    /// First channel of the pixel that is written.
    pub y: *mut f32,
    /// What is done to the sums.
    pub finish: Finish,
}

/// See [`Gather`].
#[inline(always)]
pub(super) unsafe fn gather<S: Simd>(t: &Gather) {
    unsafe {
        let mut c = 0;
        while c + BLOCK * S::LANES <= t.channels {
            let mut sums = [S::zero(); BLOCK];
            for tap in 0..t.taps {
                let (x, w) = ((*t.x.add(tap)).wrapping_add(c), (*t.w.add(tap)).wrapping_add(c));
                for v in 0..BLOCK {
                    sums[v] =
                        S::fma(S::load(x.wrapping_add(v * S::LANES)), S::load(w.wrapping_add(v * S::LANES)), sums[v]);
                }
            }
            for v in 0..BLOCK {
                let at = c + v * S::LANES;
                let [sum] = t.finish.apply::<S, 1>([sums[v]], at, S::LANES);
                t.finish.store::<S>(t.y.wrapping_add(at), sum, S::LANES);
            }
            c += BLOCK * S::LANES;
        }
        while c < t.channels {
            let left = t.channels - c;
            let mut sum = S::zero();
            for tap in 0..t.taps {
                let x = S::load_up_to((*t.x.add(tap)).wrapping_add(c), left);
                let w = S::load_up_to((*t.w.add(tap)).wrapping_add(c), left);
                sum = S::fma(x, w, sum);
            }
            let [sum] = t.finish.apply::<S, 1>([sum], c, left);
            t.finish.store::<S>(t.y.wrapping_add(c), sum, left);
            c += S::LANES;
        }
    }
}

/// `w[t][..] += sum over p of x[p + offset of t][..] * g[p][..]` for a run of pixels.
pub(crate) struct Correlate {
    /// First channel of the run's first pixel of X, under tap 0.
    pub x: *const f32,
    /// Distance between the pixels of X.
    pub x_step: usize,
    /// First channel of the run's first pixel of G.
    pub g: *const f32,
    /// Distance between the pixels of G.
    pub g_step: usize,
    /// Pixels of the run.
    pub run: usize,
    /// How many channels.
    pub channels: usize,
    /// The tap's sums.
    pub w: *mut f32,
}

/// See [`Correlate`].
#[inline(always)]
pub(super) unsafe fn correlate<S: Simd>(t: &Correlate) {
    unsafe {
        let mut c = 0;
        while c + BLOCK * S::LANES <= t.channels {
            let mut sums = [S::zero(); BLOCK];
            let (mut x, mut g) = (t.x.wrapping_add(c), t.g.wrapping_add(c));
            for _ in 0..t.run {
                for v in 0..BLOCK {
                    sums[v] =
                        S::fma(S::load(x.wrapping_add(v * S::LANES)), S::load(g.wrapping_add(v * S::LANES)), sums[v]);
                }
                (x, g) = (x.wrapping_add(t.x_step), g.wrapping_add(t.g_step));
            }
            for v in 0..BLOCK {
                let w = t.w.wrapping_add(c + v * S::LANES);
                S::store(w, S::add(S::load(w), sums[v]));
            }
            c += BLOCK * S::LANES;
        }
        while c < t.channels {
            let left = t.channels - c;
            let mut sum = S::zero();
            for p in 0..t.run {
                let x = S::load_up_to(t.x.wrapping_add(p * t.x_step + c), left);
                let g = S::load_up_to(t.g.wrapping_add(p * t.g_step + c), left);
                sum = S::fma(x, g, sum);
            }
            let w = t.w.wrapping_add(c);
            S::store_up_to(w, S::add(S::load_up_to(w, left), sum), left);
            c += S::LANES;
        }
    }
}
