//! Depthwise convolution, and convolution with a few channels in a group: vectors along the channels.

#![allow(clippy::needless_range_loop)] // Indices over small constants unroll; iterators over vectors do not always inline.

use super::{Epilogue, ReluMask, Simd};

/// Output pixels of a tile: with the input pixels of one kernel row they fit into the registers.
pub(crate) const TILE: usize = 6;

/// Neighbouring output pixels of a row: `y[t][c] = sum over taps k of x[t step + k][c] * w[k][c]`.
pub(crate) struct DepthwiseTile<'a> {
    /// The first channel of each input pixel, for one kernel row after the other.
    pub x: *const *const f32,
    /// Pointers of a kernel row.
    pub x_row: usize,
    /// Pointers between the input pixels of neighbouring outputs.
    pub step: usize,
    /// The weights of each kernel row: all channels of one tap after the other, or, with groups of several channels, for each vector
    /// of target channels and each tap a vector for each channel of the group.
    pub w: *const *const f32,
    /// Channels of a group: 1, 2, 4 or 8, and not more than a vector has.
    pub group: usize,
    /// How many kernel rows.
    pub rows: usize,
    /// Taps of a row.
    pub taps: usize,
    /// Output pixels, at most [`TILE`].
    pub pixels: usize,
    /// How many channels.
    pub channels: usize,
    /// First channel of the first output pixel.
    pub y: *mut f32,
    /// Applied to the sums.
    pub epilogue: Epilogue<'a>,
    /// Applied to what is stored.
    pub mask: Option<ReluMask<'a>>,
}

impl DepthwiseTile<'_> {
    /// Computes `T` pixels with `K` taps a row and step `STEP` (any, if 0).
    #[inline(always)]
    unsafe fn run<S: Simd, const T: usize, const K: usize, const STEP: usize>(&self) {
        unsafe {
            let (taps, step) = (if K > 0 { K } else { self.taps }, if STEP > 0 { STEP } else { self.step });
            let mut c = 0;
            while c < self.channels {
                let count = self.channels - c;
                let mut sums = [S::zero(); T];
                for row in 0..self.rows {
                    let x = self.x.add(row * self.x_row);
                    let w = (*self.w.add(row)).wrapping_add(c);
                    for k in 0..taps {
                        let w = S::load_up_to(w.wrapping_add(k * self.channels), count);
                        for t in 0..T {
                            let x = (*x.add(t * step + k)).wrapping_add(c);
                            sums[t] = S::fma(S::load_up_to(x, count), w, sums[t]);
                        }
                    }
                }
                let sums = self.epilogue.apply::<S, T>(sums, c, count);
                for t in 0..T {
                    let to = self.y.wrapping_add(t * self.channels + c);
                    match &self.mask {
                        Some(mask) => mask.store::<S>(to, sums[t], count),
                        None => S::store_up_to(to, sums[t], count),
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// See [`DepthwiseTile`].
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(t: &DepthwiseTile) {
    unsafe {
        match (t.pixels, t.taps, t.step) {
            (TILE, 3, 1) => t.run::<S, TILE, 3, 1>(),
            (TILE, 3, 2) => t.run::<S, TILE, 3, 2>(),
            (TILE, 5, 1) => t.run::<S, TILE, 5, 1>(),
            (TILE, 5, 2) => t.run::<S, TILE, 5, 2>(),
            (TILE, 7, 1) => t.run::<S, TILE, 7, 1>(),
            (TILE, ..) => t.run::<S, TILE, 0, 0>(),
            (4, ..) => t.run::<S, 4, 0, 0>(),
            (2, ..) => t.run::<S, 2, 0, 0>(),
            _ => t.run::<S, 1, 0, 0>(),
        }
    }
}

/// For each channel of a group of `G`, the lanes that the lanes of a vector read it from.
const fn lanes_of_group<const G: usize>() -> [[i32; 16]; G] {
    let mut lanes = [[0; 16]; G];
    let mut channel = 0;
    while channel < G {
        let mut lane = 0;
        while lane < 16 {
            lanes[channel][lane] = (lane / G * G + channel) as i32;
            lane += 1;
        }
        channel += 1;
    }
    lanes
}

static LANES_OF_2: [[i32; 16]; 2] = lanes_of_group();
static LANES_OF_4: [[i32; 16]; 4] = lanes_of_group();
static LANES_OF_8: [[i32; 16]; 8] = lanes_of_group();

impl DepthwiseTile<'_> {
    /// Computes `T` pixels of groups of `G` channels.
    #[inline(always)]
    unsafe fn run_groups<S: Simd, const T: usize, const G: usize>(&self, lanes: &[[i32; 16]; G]) {
        unsafe {
            let mut c = 0;
            while c < self.channels {
                let count = self.channels - c;
                let mut sums = [S::zero(); T];
                for row in 0..self.rows {
                    let x = self.x.add(row * self.x_row);
                    let mut w = (*self.w.add(row)).wrapping_add(c * self.taps * G);
                    for k in 0..self.taps {
                        let mut weights = [S::zero(); G];
                        for j in 0..G {
                            weights[j] = S::load(w.wrapping_add(j * S::LANES));
                        }
                        w = w.wrapping_add(G * S::LANES);
                        for t in 0..T {
                            let x = S::load_up_to((*x.add(t * self.step + k)).wrapping_add(c), count);
                            for j in 0..G {
                                sums[t] = S::fma(S::permute(x, lanes[j].as_ptr()), weights[j], sums[t]);
                            }
                        }
                    }
                }
                let sums = self.epilogue.apply::<S, T>(sums, c, count);
                for t in 0..T {
                    let to = self.y.wrapping_add(t * self.channels + c);
                    match &self.mask {
                        Some(mask) => mask.store::<S>(to, sums[t], count),
                        None => S::store_up_to(to, sums[t], count),
                    }
                }
                c += S::LANES;
            }
        }
    }

    /// Computes as many pixels as there are.
    #[inline(always)]
    unsafe fn run_all_groups<S: Simd, const G: usize>(&self, lanes: &[[i32; 16]; G]) {
        unsafe {
            match self.pixels {
                TILE => self.run_groups::<S, TILE, G>(lanes),
                4 => self.run_groups::<S, 4, G>(lanes),
                2 => self.run_groups::<S, 2, G>(lanes),
                _ => self.run_groups::<S, 1, G>(lanes),
            }
        }
    }
}

/// See [`DepthwiseTile`]; groups of several channels.
#[inline(always)]
pub(super) unsafe fn grouped_tile<S: Simd>(t: &DepthwiseTile) {
    unsafe {
        match t.group {
            2 => t.run_all_groups::<S, 2>(&LANES_OF_2),
            4 => t.run_all_groups::<S, 4>(&LANES_OF_4),
            _ => t.run_all_groups::<S, 8>(&LANES_OF_8),
        }
    }
}

/// How many of `left` pixels the next tile takes; a tile has one of a few sizes.
pub(crate) fn tile_pixels(left: usize) -> usize {
    match left {
        TILE.. => TILE,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

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

/// Vectors of channels that are accumulated at a time: enough independent chains to hide most of the latency of an addition.
const VECTORS: usize = 4;

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

/// The weight gradient of some kernel rows from a row of output pixels:
/// `gw[row][k][c] += sum over pixels p of x[row][p step + k][c] * gy[p][c]`.
pub(crate) struct DepthwiseGradient {
    /// The first channel of each input pixel, for one kernel row after the other.
    pub x: *const *const f32,
    /// Pointers of a kernel row.
    pub x_row: usize,
    /// Pointers between the input pixels of neighbouring outputs.
    pub step: usize,
    /// First channel of the output gradient's first pixel.
    pub gy: *const f32,
    /// Pixels of the row.
    pub pixels: usize,
    /// How many kernel rows.
    pub rows: usize,
    /// Taps of a kernel row.
    pub taps: usize,
    /// How many channels.
    pub channels: usize,
    /// The gradient of the first kernel row's weights; the others follow.
    pub gw: *mut f32,
}

impl DepthwiseGradient {
    /// Computes `R` kernel rows from `row` on, and of each the `K` taps from `first` on.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const K: usize>(&self, row: usize, first: usize) {
        unsafe {
            let mut c = 0;
            while c < self.channels {
                let count = self.channels - c;
                let mut sums = [[S::zero(); K]; R];
                let (mut x, mut gy) = (self.x.add(row * self.x_row + first), self.gy.wrapping_add(c));
                for _ in 0..self.pixels {
                    let g = S::load_up_to(gy, count);
                    for r in 0..R {
                        for k in 0..K {
                            let x = (*x.add(r * self.x_row + k)).wrapping_add(c);
                            sums[r][k] = S::fma(S::load_up_to(x, count), g, sums[r][k]);
                        }
                    }
                    (x, gy) = (x.wrapping_add(self.step), gy.wrapping_add(self.channels));
                }
                for r in 0..R {
                    for k in 0..K {
                        let gw = self.gw.wrapping_add(((row + r) * self.taps + first + k) * self.channels + c);
                        S::store_up_to(gw, S::add(S::load_up_to(gw, count), sums[r][k]), count);
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// See [`DepthwiseGradient`].
#[inline(always)]
pub(super) unsafe fn gradient<S: Simd>(t: &DepthwiseGradient) {
    unsafe {
        if t.rows == 3 && t.taps == 3 {
            // Three rows at a time hide the latency of an addition.
            return t.run::<S, 3, 3>(0, 0);
        }
        for row in 0..t.rows {
            let mut first = 0;
            while first < t.taps {
                match t.taps - first {
                    7.. => t.run::<S, 1, 7>(row, first),
                    5.. => t.run::<S, 1, 5>(row, first),
                    3.. => t.run::<S, 1, 3>(row, first),
                    _ => t.run::<S, 1, 1>(row, first),
                }
                first += match t.taps - first {
                    7.. => 7,
                    5.. => 5,
                    3.. => 3,
                    _ => 1,
                };
            }
        }
    }
}
