//! The inner loops of norms: per-channel maps and sums, on rows x channels.

use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::{Simd, Task, dispatch, prefetch_l2, vectorised};

use crate::layers::CHUNK;
use crate::layers::columns::{AHEAD, Span, Terms, spans};

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
    assert!(scale.len() == shift.len() && x.len() == y.len() && y.len().is_multiple_of(scale.len()), "whole rows");
    let size = CHUNK.div_ceil(scale.len()) * scale.len();
    pool.chunks(y, size, |i, y| {
        let x = Some(&x[i * size..][..y.len()]);
        if relu {
            dispatch(Apply::<true> { x, scale, shift, y })
        } else {
            dispatch(Apply::<false> { x, scale, shift, y })
        }
    });
}

/// y := y * scale + shift, with `relu` then not below 0.
pub(crate) fn apply_in_place(scale: &[f32], shift: &[f32], relu: bool, y: &mut [f32], pool: &Pool) {
    assert!(scale.len() == shift.len() && y.len().is_multiple_of(scale.len()), "whole rows");
    pool.chunks(y, CHUNK.div_ceil(scale.len()) * scale.len(), |_, y| {
        if relu {
            dispatch(Apply::<true> { x: None, scale, shift, y })
        } else {
            dispatch(Apply::<false> { x: None, scale, shift, y })
        }
    });
}

/// [`apply`] to whole rows, or [`apply_in_place`].
struct Apply<'a, const RELU: bool> {
    x: Option<&'a [f32]>,
    scale: &'a [f32],
    shift: &'a [f32],
    y: &'a mut [f32],
}

impl<const RELU: bool> Task for Apply<'_, RELU> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Apply { x, scale, shift, y } = self;
        for start in (0..y.len()).step_by(scale.len()) {
            for at in spans::<S>(scale.len()) {
                // SAFETY: by the caller; x and y are as large as each other, scale and shift as the channels.
                unsafe {
                    let v = S::mul(at.stream::<S>(x.unwrap_or(y), start), at.load::<S>(scale, 0));
                    let v = S::add(v, at.load::<S>(shift, 0));
                    let to = y.as_mut_ptr().wrapping_add(start + at.first);
                    prefetch_l2(to.wrapping_add(AHEAD));
                    S::store_up_to(to, if RELU { S::relu(v) } else { v }, at.count);
                }
            }
        }
    }
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
    assert!([k.shift, k.slope, k.constant].iter().all(|c| c.len() == k.scale.len()));
    assert!(x.len() == g.len() && g.len().is_multiple_of(k.scale.len()), "whole rows");
    let size = CHUNK.div_ceil(k.scale.len()) * k.scale.len();
    pool.chunks(g, size, |i, g| dispatch(Backward::<RELU> { x: &x[i * size..][..g.len()], k, g }));
}

/// [`backward`] of whole rows.
struct Backward<'a, const RELU: bool> {
    x: &'a [f32],
    k: &'a Coefficients<'a>,
    g: &'a mut [f32],
}

impl<const RELU: bool> Task for Backward<'_, RELU> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Backward { x, k, g } = self;
        for start in (0..g.len()).step_by(k.scale.len()) {
            for at in spans::<S>(k.scale.len()) {
                // SAFETY: by the caller; x and g are as large as each other, coefficients as the channels.
                unsafe {
                    let (x, scale) = (at.stream::<S>(x, start), at.load::<S>(k.scale, 0));
                    let mut open = at.stream::<S>(g, start);
                    if RELU {
                        let y = S::add(S::mul(x, scale), at.load::<S>(k.shift, 0));
                        open = S::where_positive(y, open);
                    }
                    let rest = S::add(S::mul(x, at.load::<S>(k.slope, 0)), at.load::<S>(k.constant, 0));
                    let to = g.as_mut_ptr().wrapping_add(start + at.first);
                    S::store_up_to(to, S::add(S::mul(open, scale), rest), at.count);
                }
            }
        }
    }
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
            let d = S::sub(at.stream::<S>(self.x, row * self.origin.len()), at.load::<S>(self.origin, 0));
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
            let (mut g, x) = (at.stream::<S>(self.g, start), at.stream::<S>(self.x, start));
            if RELU {
                let y = S::add(S::mul(x, at.load::<S>(self.scale, 0)), at.load::<S>(self.shift, 0));
                g = S::where_positive(y, g);
            }
            *sum = S::add(*sum, g);
            *product = S::add(*product, S::mul(g, S::sub(x, at.load::<S>(self.mean, 0))));
        }
    }
}
