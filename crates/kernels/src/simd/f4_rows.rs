//! Images with few channels: one-dimensional Winograd F(4, 3) along image rows, six multiplications for four output pixels per
//! row of taps.
//!
//! Other Winograd transforms use vectors of channels, but here there are too few. Instead, adjacent *quads* of four output pixels
//! share a vector in the input transform, [`CHANNELS`] floats each; coefficients of filters and outputs are vectors of filters.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::bilinear::{Bilinear, F4};
use super::{Epilogue, Simd, prefetch_l2};

/// Most channels of a pixel.
pub(crate) const CHANNELS: usize = 4;
/// Input pixels of a quad.
pub(crate) const INPUTS: usize = 6;
/// Winograd-domain coefficients of a quad, per channel and row of taps.
pub(crate) const COEFFICIENTS: usize = 6;
/// Output pixels of a quad.
pub(crate) const OUTPUTS: usize = 4;

/// Prefetch distance of the outputs, in floats.
const PREFETCH_DISTANCE: usize = 4096;

/// Quads of the widest vector.
const MAX_QUADS: usize = 16 / CHANNELS;

/// Quads of a vector.
const fn group<S: Simd>() -> usize {
    S::LANES / CHANNELS
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct F4RowKernels {
    /// `(pixels, channels, groups, v)`: B^T x of a padded row of pixels, `groups` vectors of quads, to
    /// `[group][coefficient][quad][channel]`. Reads up to three floats after the last pixel.
    pub input: unsafe fn(*const f32, usize, usize, *mut f32),
    /// `(taps, channels, u)`: G w of a vector of filters, `[channel][row of taps][tap][lane]` to
    /// `[row of taps][channel][coefficient][lane]`.
    pub filter: unsafe fn(*const f32, usize, *mut f32),
    /// See [`RowOutputs`].
    pub output: unsafe fn(&RowOutputs),
    /// See [`RowGradients`].
    pub grad_output: unsafe fn(&RowGradients),
    /// See [`RowCorrelation`].
    pub correlate: unsafe fn(&RowCorrelation),
    /// `(sums, channels, taps)`: G^T m, the transpose of `filter`.
    pub grad_filter: unsafe fn(*const f32, usize, *mut f32),
}

/// See [`F4RowKernels::input`].
#[inline(always)]
pub(super) unsafe fn input<S: Simd>(pixels: *const f32, channels: usize, groups: usize, v: *mut f32) {
    unsafe {
        // Gathers the pixels where the coefficients will be; of all quads first, to avoid store-forwarding stalls.
        for group in 0..groups {
            let to = v.add(group * COEFFICIENTS * S::LANES);
            for quad in 0..self::group::<S>() {
                let from = pixels.add((group * self::group::<S>() + quad) * OUTPUTS * channels);
                for j in 0..INPUTS {
                    // Channels beyond the last belong to the next pixel; their coefficients are never read.
                    let pixel = from.add(j * channels).cast::<[f32; CHANNELS]>().read_unaligned();
                    to.add(j * S::LANES + quad * CHANNELS).cast::<[f32; CHANNELS]>().write_unaligned(pixel);
                }
            }
        }
        for group in 0..groups {
            let to = v.add(group * COEFFICIENTS * S::LANES);
            let mut taps = [S::zero(); INPUTS];
            for j in 0..INPUTS {
                taps[j] = S::load(to.add(j * S::LANES));
            }
            let coefficients = F4::input::<S>(taps);
            for j in 0..COEFFICIENTS {
                S::store(to.add(j * S::LANES), coefficients[j]);
            }
        }
    }
}

/// See [`F4RowKernels::filter`].
#[inline(always)]
pub(super) unsafe fn filter<S: Simd>(taps: *const f32, channels: usize, u: *mut f32) {
    unsafe {
        for row in 0..3 {
            for c in 0..channels {
                let from = taps.add((c * 3 + row) * 3 * S::LANES);
                let to = u.add((row * channels + c) * COEFFICIENTS * S::LANES);
                let coefficients =
                    F4::filter::<S>([S::load(from), S::load(from.add(S::LANES)), S::load(from.add(2 * S::LANES))]);
                for j in 0..COEFFICIENTS {
                    S::store(to.add(j * S::LANES), coefficients[j]);
                }
            }
        }
    }
}

/// See [`F4RowKernels::grad_filter`].
#[inline(always)]
pub(super) unsafe fn grad_filter<S: Simd>(sums: *const f32, channels: usize, taps: *mut f32) {
    unsafe {
        for row in 0..3 {
            for c in 0..channels {
                let from = sums.add((row * channels + c) * COEFFICIENTS * S::LANES);
                let to = taps.add((c * 3 + row) * 3 * S::LANES);
                let mut coefficients = [S::zero(); COEFFICIENTS];
                for j in 0..COEFFICIENTS {
                    coefficients[j] = S::load(from.add(j * S::LANES));
                }
                let gradient = F4::grad_filter::<S>(coefficients);
                for j in 0..3 {
                    S::store(to.add(j * S::LANES), gradient[j]);
                }
            }
        }
    }
}

/// One row of output pixels for one vector of filters.
pub(crate) struct RowOutputs<'a> {
    /// The transformed input row under the first row of taps.
    pub v: *const f32,
    /// Floats between transformed rows.
    pub row_step: usize,
    /// Channels of the input.
    pub channels: usize,
    /// The transformed filters.
    pub u: *const f32,
    /// The first output pixel.
    pub y: *mut f32,
    /// Floats between output pixels.
    pub step: usize,
    /// How many pixels.
    pub pixels: usize,
    /// Filters that exist, at most a vector.
    pub filters: usize,
    /// Applied to the sums, with channel 0 at the first filter.
    pub epilogue: Epilogue<'a>,
}

impl RowOutputs<'_> {
    /// Stores the outputs of the quad that starts at pixel `first`.
    #[inline(always)]
    unsafe fn store_quad<S: Simd>(&self, first: usize, sums: [S::V; COEFFICIENTS]) {
        unsafe {
            let outputs = self.epilogue.apply::<S, OUTPUTS>(F4::output::<S>(sums), 0, self.filters);
            let to = self.y.wrapping_add(first * self.step);
            for j in 0..OUTPUTS {
                if first + j < self.pixels {
                    prefetch_l2(to.wrapping_add(j * self.step + PREFETCH_DISTANCE));
                    S::store_up_to(to.wrapping_add(j * self.step), outputs[j], self.filters);
                }
            }
        }
    }
}

/// See [`RowOutputs`].
#[inline(always)]
pub(super) unsafe fn output<S: Simd>(t: &RowOutputs) {
    unsafe {
        let mut first = t.v;
        for start in (0..t.pixels).step_by(group::<S>() * OUTPUTS) {
            let mut sums = [[S::zero(); COEFFICIENTS]; MAX_QUADS];
            let (mut v, mut u) = (first, t.u);
            for _ in 0..3 {
                for c in 0..t.channels {
                    let v = v.add(c);
                    for j in 0..COEFFICIENTS {
                        let weight = S::load(u.add(j * S::LANES));
                        for quad in 0..group::<S>() {
                            let coefficient = S::splat(*v.add(j * S::LANES + quad * CHANNELS));
                            sums[quad][j] = S::fma(coefficient, weight, sums[quad][j]);
                        }
                    }
                    u = u.add(COEFFICIENTS * S::LANES);
                }
                v = v.wrapping_add(t.row_step);
            }
            // Unrolled: indexing by a loop variable would keep the accumulators on the stack.
            t.store_quad::<S>(start, sums[0]);
            if group::<S>() > 1 {
                t.store_quad::<S>(start + OUTPUTS, sums[1]);
            }
            if group::<S>() > 2 {
                t.store_quad::<S>(start + 2 * OUTPUTS, sums[2]);
                t.store_quad::<S>(start + 3 * OUTPUTS, sums[3]);
            }
            first = first.wrapping_add(COEFFICIENTS * S::LANES);
        }
    }
}

/// Z = A gy of one row of the output gradient, for one vector of filters.
pub(crate) struct RowGradients {
    /// The first pixel.
    pub gy: *const f32,
    /// Floats between pixels.
    pub step: usize,
    /// How many pixels.
    pub pixels: usize,
    /// Filters that exist, at most a vector.
    pub filters: usize,
    /// The result, `[quad][coefficient][lane]`.
    pub z: *mut f32,
}

/// See [`RowGradients`].
#[inline(always)]
pub(super) unsafe fn grad_output<S: Simd>(t: &RowGradients) {
    unsafe {
        let mut z = t.z;
        for start in (0..t.pixels).step_by(OUTPUTS) {
            let mut pixels = [S::zero(); OUTPUTS];
            for j in 0..OUTPUTS {
                if start + j < t.pixels {
                    pixels[j] = S::load_up_to(t.gy.add((start + j) * t.step), t.filters);
                }
            }
            let coefficients = F4::grad_output::<S>(pixels);
            for j in 0..COEFFICIENTS {
                S::store(z.add(j * S::LANES), coefficients[j]);
            }
            z = z.wrapping_add(COEFFICIENTS * S::LANES);
        }
    }
}

/// The contribution of some rows of the output gradient to the weight gradient of one vector of filters: the element-wise
/// products V ⊙ Z, summed over pixels.
pub(crate) struct RowCorrelation {
    /// The transformed input row under the first row of taps, for the first row of the gradient.
    pub v: *const f32,
    /// Floats between transformed rows.
    pub row_step: usize,
    /// Channels of the input.
    pub channels: usize,
    /// The transformed gradients, row after row.
    pub z: *const f32,
    /// How many rows of the gradient.
    pub rows: usize,
    /// Quads of a row.
    pub quads: usize,
    /// The accumulated sums, `[row of taps][channel][coefficient][lane]`.
    pub sums: *mut f32,
    /// The output gradients to prefetch meanwhile, as many as are read now.
    pub next: *const f32,
    /// Floats between the pixels of `next`.
    pub step: usize,
}

/// See [`RowCorrelation`].
#[inline(always)]
pub(super) unsafe fn correlate<S: Simd>(t: &RowCorrelation) {
    unsafe {
        match t.channels {
            1 => correlate_channels::<S, 1>(t),
            2 => correlate_channels::<S, 2>(t),
            3 => correlate_channels::<S, 3>(t),
            _ => correlate_channels::<S, CHANNELS>(t),
        }
    }
}

#[inline(always)]
unsafe fn correlate_channels<S: Simd, const C: usize>(t: &RowCorrelation) {
    unsafe {
        for row in 0..3 {
            // As many accumulators as fit into registers.
            if S::LANES == 16 {
                correlate_row::<S, C, COEFFICIENTS>(t, row, 0);
            } else {
                correlate_row::<S, C, { COEFFICIENTS / 2 }>(t, row, 0);
                correlate_row::<S, C, { COEFFICIENTS / 2 }>(t, row, COEFFICIENTS / 2);
            }
        }
    }
}

/// [`RowCorrelation`] for one row of taps and the `N` coefficients from `first` on.
#[inline(always)]
unsafe fn correlate_row<S: Simd, const C: usize, const N: usize>(t: &RowCorrelation, row: usize, first: usize) {
    unsafe {
        let sum = |c: usize, j: usize| t.sums.add(((row * C + c) * COEFFICIENTS + first + j) * S::LANES);
        let mut sums = [[S::zero(); N]; C];
        for c in 0..C {
            for j in 0..N {
                sums[c][j] = S::load(sum(c, j));
            }
        }
        let (mut z, mut next) = (t.z.add(first * S::LANES), t.next.wrapping_add(2 * row * t.step));
        for r in 0..t.rows {
            let mut v = t.v.add((r + row) * t.row_step + first * S::LANES);
            let mut quad = 0;
            for _ in 0..t.quads {
                for j in 0..N {
                    let gradient = S::load(z.add(j * S::LANES));
                    for c in 0..C {
                        sums[c][j] = S::fma(S::splat(*v.add(j * S::LANES + c)), gradient, sums[c][j]);
                    }
                }
                // Four pixels of a quad: two with each of the first two rows of taps.
                if row < 2 && first == 0 {
                    prefetch_l2(next);
                    prefetch_l2(next.wrapping_add(t.step));
                    next = next.wrapping_add(OUTPUTS * t.step);
                }
                z = z.wrapping_add(COEFFICIENTS * S::LANES);
                v = v.wrapping_add(CHANNELS);
                quad += 1;
                if quad == group::<S>() {
                    v = v.wrapping_add((COEFFICIENTS - 1) * S::LANES);
                    quad = 0;
                }
            }
        }
        for c in 0..C {
            for j in 0..N {
                S::store(sum(c, j), sums[c][j]);
            }
        }
    }
}
