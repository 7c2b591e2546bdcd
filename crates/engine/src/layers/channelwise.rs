//! The inner loops of norms: per-channel maps and sums, on rows x channels.

use crate::layers::CHUNK;
use crate::layers::columns::{Span, Terms};
use crate::pool::Pool;
use crate::simd::{Simd, prefetch, vectorised};

/// Calls `f(offset, chunk)` for chunks of whole rows, compiled for the processor at hand.
fn chunks(data: &mut [f32], channels: usize, pool: &Pool, f: impl Fn(usize, &mut [f32]) + Sync) {
    let size = CHUNK.div_ceil(channels) * channels;
    pool.chunks(data, size, |i, data| {
        vectorised(
            #[inline(always)]
            || f(i * size, data),
        );
    });
}

/// y := x * scale + shift, with `relu` then not below 0.
pub(crate) fn apply(x: &[f32], scale: &[f32], shift: &[f32], relu: bool, y: &mut [f32], pool: &Pool) {
    #[inline(always)]
    fn along(x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
        for (y, x) in y.chunks_exact_mut(scale.len()).zip(x.chunks_exact(scale.len())) {
            for (((y, &x), &a), &b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = f(x * a + b);
            }
        }
    }
    chunks(
        y,
        scale.len(),
        pool,
        #[inline(always)]
        |at, y| {
            let x = &x[at..at + y.len()];
            if relu {
                along(x, scale, shift, y, |v| if v < 0.0 { 0.0 } else { v });
            } else {
                along(x, scale, shift, y, |v| v);
            }
        },
    );
}

/// The coefficients of a norm and of its gradient, per channel.
#[derive(Clone, Copy)]
pub(crate) struct Coefficients<'a> {
    /// y = x * scale + shift.
    pub scale: &'a [f32],
    /// See `scale`.
    pub shift: &'a [f32],
    /// The gradient of x is that of y * scale + x * slope + constant.
    pub slope: &'a [f32],
    /// See `slope`.
    pub constant: &'a [f32],
}

/// g, the gradient of y, becomes that of x, where `RELU` masked by y, computed again as it was.
pub(crate) fn backward<const RELU: bool>(x: &[f32], k: &Coefficients<'_>, g: &mut [f32], pool: &Pool) {
    let channels = k.scale.len();
    chunks(
        g,
        channels,
        pool,
        #[inline(always)]
        |at, g| {
            let x = &x[at..at + g.len()];
            for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                let maps = k.scale.iter().zip(k.shift).zip(k.slope.iter().zip(k.constant));
                for ((g, &x), ((&a, &t), (&b, &c))) in g.iter_mut().zip(x).zip(maps) {
                    let open = if !RELU || x * a + t > 0.0 { *g } else { 0.0 };
                    *g = open * a + (x * b + c);
                }
            }
        },
    );
}

/// g := g * scale, where there is a `y` only where that is above 0, else 0.
pub(crate) fn scale_masked(g: &mut [f32], y: Option<&[f32]>, scale: &[f32], pool: &Pool) {
    let channels = scale.len();
    chunks(
        g,
        channels,
        pool,
        #[inline(always)]
        |at, g| match y {
            Some(y) => {
                let y = &y[at..at + g.len()];
                for (g, y) in g.chunks_exact_mut(channels).zip(y.chunks_exact(channels)) {
                    for ((g, &y), &s) in g.iter_mut().zip(y).zip(scale) {
                        *g = if y > 0.0 { *g * s } else { 0.0 };
                    }
                }
            }
            None => {
                for g in g.chunks_exact_mut(channels) {
                    for (g, &s) in g.iter_mut().zip(scale) {
                        *g *= s;
                    }
                }
            }
        },
    );
}

/// Sums of x - origin and of its square.
pub(crate) struct Moments<'a> {
    pub x: &'a [f32],
    pub origin: &'a [f32],
}

impl Terms<2> for Moments<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(self.origin.len() == channels && self.x.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum, square]: &mut [S::V; 2]) {
        unsafe {
            let d = S::sub(at.load::<S>(self.x, row * self.origin.len()), at.load::<S>(self.origin, 0));
            *sum = S::add(*sum, d);
            *square = S::add(*square, S::mul(d, d));
        }
    }
}

/// Sums of g and of g (x - mean), with `RELU` where x * scale + shift is above 0.
pub(crate) struct Products<'a, const RELU: bool> {
    pub g: &'a [f32],
    pub x: &'a [f32],
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
}

impl<const RELU: bool> Terms<2> for Products<'_, RELU> {
    fn check(&self, rows: usize, channels: usize) {
        assert!([self.mean, self.scale, self.shift].iter().all(|k| k.len() == channels));
        assert!(self.g.len() >= rows * channels && self.x.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = row * self.mean.len();
        unsafe {
            let (mut g, x) = (at.load::<S>(self.g, start), at.load::<S>(self.x, start));
            prefetch(self.g.as_ptr().wrapping_add(start + at.first + 512));
            prefetch(self.x.as_ptr().wrapping_add(start + at.first + 512));
            if RELU {
                let y = S::add(S::mul(x, at.load::<S>(self.scale, 0)), at.load::<S>(self.shift, 0));
                g = S::where_positive(y, g);
            }
            *sum = S::add(*sum, g);
            *product = S::add(*product, S::mul(g, S::sub(x, at.load::<S>(self.mean, 0))));
        }
    }
}
