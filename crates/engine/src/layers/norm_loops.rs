//! The inner loops of norms, on rows x channels.

use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::{Simd, Task, dispatch, prefetch_l2, vectorised};

use super::channel_reduction::{ChannelSpan, PREFETCH_DISTANCE, Summand, channel_spans};
use super::row_chunk;

/// The activation that follows a norm in the same loop: its value, and its backward pass from its own input.
pub(super) trait NormActivation: Copy + Sync {
    /// The activation of `v`.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V;

    /// The gradient of the input `v`, from the gradient `g` of the output.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn backward<S: Simd>(self, v: S::V, g: S::V) -> S::V;
}

/// No activation.
#[derive(Clone, Copy)]
pub(super) struct Identity;

impl NormActivation for Identity {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        v
    }

    #[inline(always)]
    unsafe fn backward<S: Simd>(self, _: S::V, g: S::V) -> S::V {
        g
    }
}

/// max(v, 0).
#[derive(Clone, Copy)]
pub(super) struct Relu;

impl NormActivation for Relu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        unsafe { S::relu(v) }
    }

    #[inline(always)]
    unsafe fn backward<S: Simd>(self, v: S::V, g: S::V) -> S::V {
        unsafe { S::where_positive(v, g) }
    }
}

/// min(max(v, `min`), `max`), such as ReLU6. The gradient at the bounds is 0.
#[derive(Clone, Copy)]
pub(super) struct Clip {
    pub min: f32,
    pub max: f32,
}

impl NormActivation for Clip {
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, v: S::V) -> S::V {
        unsafe { S::min(S::max(v, S::splat(self.min)), S::splat(self.max)) }
    }

    #[inline(always)]
    unsafe fn backward<S: Simd>(self, v: S::V, g: S::V) -> S::V {
        unsafe {
            let below = S::where_positive(S::sub(S::splat(self.max), v), g);
            S::where_positive(S::sub(v, S::splat(self.min)), below)
        }
    }
}

/// y = `activation`(x scale + shift), per channel; in place without `x`.
pub(super) fn scale_and_shift(
    x: Option<&[f32]>,
    scale: &[f32],
    shift: &[f32],
    activation: impl NormActivation,
    y: &mut [f32],
    pool: &Pool,
) {
    assert!(x.is_none_or(|x| x.len() == y.len()));
    assert!(scale.len() == shift.len() && y.len().is_multiple_of(scale.len()), "whole rows");
    let size = row_chunk(scale.len());
    pool.chunks(y, size, |i, y| {
        let x = x.map(|x| &x[i * size..][..y.len()]);
        dispatch(ScaleAndShift { x, scale, shift, activation, y });
    });
}

/// [`scale_and_shift`] for whole rows.
struct ScaleAndShift<'a, A> {
    x: Option<&'a [f32]>,
    scale: &'a [f32],
    shift: &'a [f32],
    activation: A,
    y: &'a mut [f32],
}

impl<A: NormActivation> Task for ScaleAndShift<'_, A> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ScaleAndShift { x, scale, shift, activation, y } = self;
        for start in (0..y.len()).step_by(scale.len()) {
            for span in channel_spans::<S>(scale.len()) {
                // SAFETY: by the caller; x and y have the same length, scale and shift one element per channel.
                unsafe {
                    let v = S::mul(span.load_sequential::<S>(x.unwrap_or(y), start), span.load::<S>(scale, 0));
                    let v = S::add(v, span.load::<S>(shift, 0));
                    let to = y.as_mut_ptr().wrapping_add(start + span.first);
                    prefetch_l2(to.wrapping_add(PREFETCH_DISTANCE));
                    S::store_up_to(to, activation.apply::<S>(v), span.count);
                }
            }
        }
    }
}

/// The coefficients of a norm and of its backward pass, one per channel.
#[derive(Clone, Copy)]
pub(super) struct Coefficients<'a> {
    /// y = x `scale` + `shift`.
    pub scale: &'a [f32],
    /// See `scale`.
    pub shift: &'a [f32],
    /// The gradient of x is g `scale` + x `slope` + `constant`, where g is the gradient of y.
    pub slope: &'a [f32],
    /// See `slope`.
    pub constant: &'a [f32],
}

/// Turns `g`, the gradient of y = `activation`(x scale + shift), into that of x. The activation's input is recomputed from x.
pub(super) fn norm_backward(
    x: &[f32],
    k: &Coefficients<'_>,
    activation: impl NormActivation,
    g: &mut [f32],
    pool: &Pool,
) {
    assert!([k.shift, k.slope, k.constant].iter().all(|c| c.len() == k.scale.len()));
    assert!(x.len() == g.len() && g.len().is_multiple_of(k.scale.len()), "whole rows");
    let size = row_chunk(k.scale.len());
    pool.chunks(g, size, |i, g| dispatch(NormBackward { x: &x[i * size..][..g.len()], k, activation, g }));
}

/// [`norm_backward`] for whole rows.
struct NormBackward<'a, A> {
    x: &'a [f32],
    k: &'a Coefficients<'a>,
    activation: A,
    g: &'a mut [f32],
}

impl<A: NormActivation> Task for NormBackward<'_, A> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let NormBackward { x, k, activation, g } = self;
        for start in (0..g.len()).step_by(k.scale.len()) {
            for span in channel_spans::<S>(k.scale.len()) {
                // SAFETY: by the caller; x and g have the same length, the coefficients one element per channel.
                unsafe {
                    let (x, scale) = (span.load_sequential::<S>(x, start), span.load::<S>(k.scale, 0));
                    let v = S::add(S::mul(x, scale), span.load::<S>(k.shift, 0));
                    let gv = activation.backward::<S>(v, span.load_sequential::<S>(g, start));
                    let rest = S::add(S::mul(x, span.load::<S>(k.slope, 0)), span.load::<S>(k.constant, 0));
                    let to = g.as_mut_ptr().wrapping_add(start + span.first);
                    S::store_up_to(to, S::add(S::mul(gv, scale), rest), span.count);
                }
            }
        }
    }
}

/// g = g scale per channel; with `y`, the output of a ReLU, 0 where y is not positive.
pub(super) fn scale_gradient(g: &mut [f32], y: Option<&[f32]>, scale: &[f32], pool: &Pool) {
    let channels = scale.len();
    let size = row_chunk(channels);
    pool.chunks(g, size, |i, g| {
        vectorised(
            #[inline(always)]
            || match y {
                Some(y) => {
                    let y = &y[i * size..][..g.len()];
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
    });
}

/// Sums of x - origin and of its square: the moments of a batch. `origin` avoids cancellation where the mean is large.
pub(super) struct Moments<'a> {
    pub x: &'a [f32],
    pub origin: &'a [f32],
}

impl Summand<2> for Moments<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(self.origin.len() == channels && self.x.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum, square]: &mut [S::V; 2]) {
        unsafe {
            let x = span.load_sequential::<S>(self.x, row * self.origin.len());
            let d = S::sub(x, span.load::<S>(self.origin, 0));
            *sum = S::add(*sum, d);
            *square = S::add(*square, S::mul(d, d));
        }
    }
}

/// Sums of g and of g (x - mean), the gradients of a norm's bias and weight, where g is the gradient of x scale + shift: that of the
/// output, `g`, after the backward pass of `activation`.
pub(super) struct GradientMoments<'a, A> {
    pub g: &'a [f32],
    pub x: &'a [f32],
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub activation: A,
}

impl<A: NormActivation> Summand<2> for GradientMoments<'_, A> {
    fn check(&self, rows: usize, channels: usize) {
        assert!([self.mean, self.scale, self.shift].iter().all(|k| k.len() == channels));
        assert!(self.g.len() >= rows * channels && self.x.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = row * self.mean.len();
        unsafe {
            let (g, x) = (span.load_sequential::<S>(self.g, start), span.load_sequential::<S>(self.x, start));
            let v = S::add(S::mul(x, span.load::<S>(self.scale, 0)), span.load::<S>(self.shift, 0));
            let g = self.activation.backward::<S>(v, g);
            *sum = S::add(*sum, g);
            *product = S::add(*product, S::mul(g, S::sub(x, span.load::<S>(self.mean, 0))));
        }
    }
}
