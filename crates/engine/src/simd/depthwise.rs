//! Depthwise products: every channel on its own, vectors along the channels.

use super::Simd;
use super::tile::Finish;

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
        while c < t.channels {
            let left = t.channels - c;
            // Two chains, joined at the end, hide half of the latency.
            let mut sums = [S::zero(); 2];
            for tap in 0..t.taps {
                let x = S::load_up_to((*t.x.add(tap)).wrapping_add(c), left);
                let w = S::load_up_to((*t.w.add(tap)).wrapping_add(c), left);
                sums[tap % 2] = S::fma(x, w, sums[tap % 2]);
            }
            let [sum] = t.finish.apply::<S, 1>([S::add(sums[0], sums[1])], c, left);
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
        while c < t.channels {
            let left = t.channels - c;
            let mut sums = [S::zero(); 4];
            for p in 0..t.run {
                let x = S::load_up_to(t.x.wrapping_add(p * t.x_step + c), left);
                let g = S::load_up_to(t.g.wrapping_add(p * t.g_step + c), left);
                sums[p % 4] = S::fma(x, g, sums[p % 4]);
            }
            let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
            let w = t.w.wrapping_add(c);
            S::store_up_to(w, S::add(S::load_up_to(w, left), sum), left);
            c += S::LANES;
        }
    }
}
