//! Pictures with few channels: F(4, 3) along lines of pixels, six products for four pixels under each row of taps.
//!
//! Transforms work on vectors of channels elsewhere, of which there are too few here. Along a line, neighbouring *quads* of
//! four output pixels fill a vector together, [`CHANNELS`] floats each; products and outputs are vectors of filters.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::bilinear::{Bilinear, F4};
use super::tile::Finish;
use super::{Simd, prefetch_near};

/// Room for a pixel's channels.
pub(crate) const CHANNELS: usize = 4;
/// Pixels that a quad reads.
pub(crate) const INPUTS: usize = 6;
/// Products of a quad, a channel and a row of taps.
pub(crate) const PRODUCTS: usize = 6;
/// Pixels of a quad.
pub(crate) const OUTPUTS: usize = 4;

/// Floats between outputs that are written and those that are asked for.
const AHEAD: usize = 4096;

/// Quads of the widest vector.
const MOST: usize = 16 / CHANNELS;

/// Quads that fill a vector.
const fn group<S: Simd>() -> usize {
    S::LANES / CHANNELS
}

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct LineKernels {
    /// `(pixels, channels, groups, v)`: a line of pixels with its border to the numbers of `groups` vectors of quads:
    /// `[group][product][quad][channel]`. Three floats behind the last pixel are read too.
    pub input: unsafe fn(*const f32, usize, usize, *mut f32),
    /// A vector of filters: `[channel][row of taps][tap][lane]` to `[row of taps][channel][product][lane]`.
    pub filter: unsafe fn(*const f32, usize, *mut f32),
    /// See [`Sums`].
    pub output: unsafe fn(&Sums),
    /// See [`Gradients`].
    pub grad_output: unsafe fn(&Gradients),
    /// See [`Correlation`].
    pub correlate: unsafe fn(&Correlation),
    /// The transpose of `filter`.
    pub grad_filter: unsafe fn(*const f32, usize, *mut f32),
}

#[inline(always)]
pub(super) unsafe fn input<S: Simd>(pixels: *const f32, channels: usize, groups: usize, v: *mut f32) {
    unsafe {
        // Where the products come to lie, the pixels are gathered first: of all quads before any is read back.
        for group in 0..groups {
            let to = v.add(group * PRODUCTS * S::LANES);
            for quad in 0..self::group::<S>() {
                let from = pixels.add((group * self::group::<S>() + quad) * OUTPUTS * channels);
                for j in 0..INPUTS {
                    // Channels behind the last are another pixel's; nothing reads what becomes of them.
                    let pixel = from.add(j * channels).cast::<[f32; CHANNELS]>().read_unaligned();
                    to.add(j * S::LANES + quad * CHANNELS).cast::<[f32; CHANNELS]>().write_unaligned(pixel);
                }
            }
        }
        for group in 0..groups {
            let to = v.add(group * PRODUCTS * S::LANES);
            let mut taps = [S::zero(); INPUTS];
            for j in 0..INPUTS {
                taps[j] = S::load(to.add(j * S::LANES));
            }
            let numbers = F4::input::<S>(taps);
            for j in 0..PRODUCTS {
                S::store(to.add(j * S::LANES), numbers[j]);
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn filter<S: Simd>(taps: *const f32, channels: usize, u: *mut f32) {
    unsafe {
        for row in 0..3 {
            for c in 0..channels {
                let from = taps.add((c * 3 + row) * 3 * S::LANES);
                let to = u.add((row * channels + c) * PRODUCTS * S::LANES);
                let numbers =
                    F4::filter::<S>([S::load(from), S::load(from.add(S::LANES)), S::load(from.add(2 * S::LANES))]);
                for j in 0..PRODUCTS {
                    S::store(to.add(j * S::LANES), numbers[j]);
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn grad_filter<S: Simd>(sums: *const f32, channels: usize, taps: *mut f32) {
    unsafe {
        for row in 0..3 {
            for c in 0..channels {
                let from = sums.add((row * channels + c) * PRODUCTS * S::LANES);
                let to = taps.add((c * 3 + row) * 3 * S::LANES);
                let mut numbers = [S::zero(); PRODUCTS];
                for j in 0..PRODUCTS {
                    numbers[j] = S::load(from.add(j * S::LANES));
                }
                let back = F4::grad_filter::<S>(numbers);
                for j in 0..3 {
                    S::store(to.add(j * S::LANES), back[j]);
                }
            }
        }
    }
}

/// A line of output pixels and a vector of filters.
pub(crate) struct Sums {
    /// The transformed line under the first row of taps.
    pub v: *const f32,
    /// Floats from it to the next one.
    pub line: usize,
    /// Channels of the input.
    pub channels: usize,
    /// The transformed filters.
    pub u: *const f32,
    /// The first output pixel.
    pub y: *mut f32,
    /// Floats between output pixels.
    pub step: usize,
    /// How many there are.
    pub pixels: usize,
    /// Filters that exist, at most a vector.
    pub filters: usize,
    /// What is done to the sums; no mask.
    pub finish: Finish,
}

impl Sums {
    /// Writes the outputs of the quad that starts at pixel `first`.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, first: usize, sums: [S::V; PRODUCTS]) {
        unsafe {
            let done = self.finish.apply::<S, OUTPUTS>(F4::output::<S>(sums), 0, self.filters);
            let to = self.y.wrapping_add(first * self.step);
            for j in 0..OUTPUTS {
                if first + j < self.pixels {
                    prefetch_near(to.wrapping_add(j * self.step + AHEAD));
                    S::store_up_to(to.wrapping_add(j * self.step), done[j], self.filters);
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn output<S: Simd>(t: &Sums) {
    unsafe {
        let mut first = t.v;
        for start in (0..t.pixels).step_by(group::<S>() * OUTPUTS) {
            let mut sums = [[S::zero(); PRODUCTS]; MOST];
            let (mut v, mut u) = (first, t.u);
            for _ in 0..3 {
                for c in 0..t.channels {
                    let v = v.add(c);
                    for j in 0..PRODUCTS {
                        let weight = S::load(u.add(j * S::LANES));
                        for quad in 0..group::<S>() {
                            let number = S::splat(*v.add(j * S::LANES + quad * CHANNELS));
                            sums[quad][j] = S::fma(number, weight, sums[quad][j]);
                        }
                    }
                    u = u.add(PRODUCTS * S::LANES);
                }
                v = v.wrapping_add(t.line);
            }
            // One by one: sums that a loop picks by its index would be kept in memory throughout.
            t.write::<S>(start, sums[0]);
            if group::<S>() > 1 {
                t.write::<S>(start + OUTPUTS, sums[1]);
            }
            if group::<S>() > 2 {
                t.write::<S>(start + 2 * OUTPUTS, sums[2]);
                t.write::<S>(start + 3 * OUTPUTS, sums[3]);
            }
            first = first.wrapping_add(PRODUCTS * S::LANES);
        }
    }
}

/// A line of the output's gradient and a vector of filters.
pub(crate) struct Gradients {
    /// The first pixel.
    pub gy: *const f32,
    /// Floats between pixels.
    pub step: usize,
    /// How many there are.
    pub pixels: usize,
    /// Filters that exist, at most a vector.
    pub filters: usize,
    /// Room for `[quad][product][lane]`.
    pub z: *mut f32,
}

#[inline(always)]
pub(super) unsafe fn grad_output<S: Simd>(t: &Gradients) {
    unsafe {
        let mut z = t.z;
        for start in (0..t.pixels).step_by(OUTPUTS) {
            let mut pixels = [S::zero(); OUTPUTS];
            for j in 0..OUTPUTS {
                if start + j < t.pixels {
                    pixels[j] = S::load_up_to(t.gy.add((start + j) * t.step), t.filters);
                }
            }
            let numbers = F4::grad_output::<S>(pixels);
            for j in 0..PRODUCTS {
                S::store(z.add(j * S::LANES), numbers[j]);
            }
            z = z.wrapping_add(PRODUCTS * S::LANES);
        }
    }
}

/// Some lines of the output's gradient and a vector of filters: what their products with the input add to the sums.
pub(crate) struct Correlation {
    /// The transformed line of the input under the first row of taps of the first line.
    pub v: *const f32,
    /// Floats from it to the next one.
    pub line: usize,
    /// Channels of the input.
    pub channels: usize,
    /// The transformed gradients, without gaps between lines.
    pub z: *const f32,
    /// How many lines.
    pub lines: usize,
    /// Quads of a line.
    pub quads: usize,
    /// `[row of taps][channel][product][lane]`, added to.
    pub sums: *mut f32,
    /// The gradients that come next, as many, and floats between their pixels: they are asked for meanwhile.
    pub next: *const f32,
    /// See `next`.
    pub step: usize,
}

#[inline(always)]
pub(super) unsafe fn correlate<S: Simd>(t: &Correlation) {
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
unsafe fn correlate_channels<S: Simd, const C: usize>(t: &Correlation) {
    unsafe {
        for row in 0..3 {
            // As many sums as there are registers for.
            if S::LANES == 16 {
                correlate_row::<S, C, PRODUCTS>(t, row, 0);
            } else {
                correlate_row::<S, C, { PRODUCTS / 2 }>(t, row, 0);
                correlate_row::<S, C, { PRODUCTS / 2 }>(t, row, PRODUCTS / 2);
            }
        }
    }
}

/// The products from `first` on under one row of taps.
#[inline(always)]
unsafe fn correlate_row<S: Simd, const C: usize, const N: usize>(t: &Correlation, row: usize, first: usize) {
    unsafe {
        let sum = |c: usize, j: usize| t.sums.add(((row * C + c) * PRODUCTS + first + j) * S::LANES);
        let mut sums = [[S::zero(); N]; C];
        for c in 0..C {
            for j in 0..N {
                sums[c][j] = S::load(sum(c, j));
            }
        }
        let (mut z, mut next) = (t.z.add(first * S::LANES), t.next.wrapping_add(2 * row * t.step));
        for line in 0..t.lines {
            let mut v = t.v.add((line + row) * t.line + first * S::LANES);
            let mut within = 0;
            for _ in 0..t.quads {
                for j in 0..N {
                    let gradient = S::load(z.add(j * S::LANES));
                    for c in 0..C {
                        sums[c][j] = S::fma(S::splat(*v.add(j * S::LANES + c)), gradient, sums[c][j]);
                    }
                }
                // Two pixels of a quad under each of two rows of taps.
                if row < 2 && first == 0 {
                    prefetch_near(next);
                    prefetch_near(next.wrapping_add(t.step));
                    next = next.wrapping_add(OUTPUTS * t.step);
                }
                z = z.wrapping_add(PRODUCTS * S::LANES);
                v = v.wrapping_add(CHANNELS);
                within += 1;
                if within == group::<S>() {
                    v = v.wrapping_add((PRODUCTS - 1) * S::LANES);
                    within = 0;
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
