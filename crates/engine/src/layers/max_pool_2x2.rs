//! 2x2 max pooling with stride 2 and no remainder: alone, or as the last part of a convolution's operation. There, its
//! backward pass writes the gradient over the tensor that was pooled.

use nettriage_kernels::pool::{Chunks, Pool};
use nettriage_kernels::simd::{Simd, Task, dispatch};
use nettriage_net::{Shape, Window};

use super::CHUNK;
use super::channel_reduction::{ChannelSpan, Summand, channel_spans};
use super::norm_loops::Coefficients;

/// The shape of the output. The height does not matter: the rows of all images form one tall image.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxPool2x2 {
    channels: usize,
    /// Columns of the output.
    width: usize,
}

impl MaxPool2x2 {
    /// Max pooling of up to `batch` images of shape `input` over `window`, if that divides the input into 2x2 windows.
    pub fn matching(input: Shape, window: Window, batch: usize) -> Option<MaxPool2x2> {
        let divides = input.height.is_multiple_of(2) && input.width.is_multiple_of(2);
        // `window_start` divides 32-bit numbers.
        let positions = (input.height / 2 * (input.width / 2)).checked_mul(batch);
        let indexable = positions.is_some_and(|positions| u32::try_from(positions).is_ok());
        (window == Window::square(2) && divides && indexable)
            .then_some(MaxPool2x2 { channels: input.channels, width: input.width / 2 })
    }

    /// Elements of an output row.
    fn output_row(&self) -> usize {
        self.width * self.channels
    }

    /// Elements of the two input rows of an output row.
    fn input_rows(&self) -> usize {
        4 * self.output_row()
    }

    /// Offset of the first of the four input pixels of the output pixel `position`, counted over all images.
    #[inline(always)]
    fn window_start(&self, position: usize) -> usize {
        // Division of 32-bit numbers takes half the time; `matching` checks that they suffice.
        let (position, width) = (position as u32, self.width as u32);
        (position / width) as usize * self.input_rows() + 2 * (position % width) as usize * self.channels
    }

    /// Offsets of the four input pixels from the first, in row-major order.
    #[inline(always)]
    fn window_offsets(&self) -> [usize; 4] {
        let row = 2 * self.output_row();
        [0, self.channels, row, row + self.channels]
    }

    /// Panics unless `z`, the input, holds the windows of `positions` output pixels.
    fn check_positions(&self, positions: usize, channels: usize, z: &[f32]) {
        let whole_rows = positions.next_multiple_of(self.width);
        assert!(u32::try_from(whole_rows).is_ok(), "see `window_start`");
        assert!(channels == self.channels && z.len() >= 4 * whole_rows * channels);
    }

    /// Calls `f(first output row, output rows, input rows)` for all rows of all images, several at a time. One of `output` and
    /// `input` may be empty.
    fn for_each_rows(
        &self,
        pool: &Pool,
        output: &mut [f32],
        input: &mut [f32],
        f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let (output_row, input_rows) = (self.output_row(), self.input_rows());
        let rows = (CHUNK / input_rows).max(1);
        let total = if output.is_empty() { input.len() / input_rows } else { output.len() / output_row };
        let parts = (Chunks::new(output, rows * output_row), Chunks::new(input, rows * input_rows));
        pool.each(total.div_ceil(rows), parts, |task, (output, input)| f(task * rows, output, input));
    }

    /// y = the largest element of each window of x, or with `norm` = (scale, shift, relu) of relu(x scale + shift).
    pub fn forward(&self, x: &[f32], norm: Option<(&[f32], &[f32], bool)>, y: &mut [f32], pool: &Pool) {
        let input_rows = self.input_rows();
        self.for_each_rows(pool, y, &mut [], |first, y, _| {
            let x = &x[first * input_rows..];
            match norm {
                None => dispatch(Forward::<false> { shape: *self, x, scale: &[], shift: &[], relu: false, y }),
                Some((scale, shift, relu)) => dispatch(Forward::<true> { shape: *self, x, scale, shift, relu, y }),
            }
        });
    }

    /// Turns the pooled tensor `z` into its gradient: `gy` (times `scale`) at the first maximum of each window, 0 elsewhere.
    /// `y` is the output; with `relu`, the gradient is 0 where y is not positive.
    pub fn backward(&self, y: &[f32], gy: &[f32], scale: Option<&[f32]>, relu: bool, z: &mut [f32], pool: &Pool) {
        let row = self.output_row();
        self.for_each_rows(pool, &mut [], z, |first, _, z| {
            let (y, gy) = (&y[first * row..], &gy[first * row..]);
            dispatch(Backward { shape: *self, y, gy, scale, relu, z });
        });
    }

    /// As [`MaxPool2x2::backward`] through a norm on batch statistics between `z` and the pooling: turns `z` into
    /// g scale + z slope + constant, where g is `gy` at the first maximum of each window and 0 elsewhere.
    pub fn backward_norm<const RELU: bool>(&self, k: &Coefficients<'_>, gy: &[f32], z: &mut [f32], pool: &Pool) {
        let row = self.output_row();
        self.for_each_rows(pool, &mut [], z, |first, _, z| {
            dispatch(BackwardNorm::<RELU> { shape: *self, k, gy: &gy[first * row..], z })
        });
    }
}

/// The largest of four; the first of them if several are equal.
#[inline(always)]
unsafe fn max4<S: Simd>(v: [S::V; 4]) -> S::V {
    unsafe { S::max(S::max(S::max(v[0], v[1]), v[2]), v[3]) }
}

/// [`MaxPool2x2::forward`] for whole rows.
struct Forward<'a, const NORM: bool> {
    shape: MaxPool2x2,
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    relu: bool,
    y: &'a mut [f32],
}

impl<const NORM: bool> Task for Forward<'_, NORM> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Forward { shape, x, scale, shift, relu, y } = self;
        let (channels, offsets) = (shape.channels, shape.window_offsets());
        assert!(!NORM || [scale, shift].iter().all(|k| k.len() == channels));
        assert!(y.len().is_multiple_of(shape.output_row()) && x.len() >= 4 * y.len());
        for position in 0..y.len() / channels {
            let start = shape.window_start(position);
            for span in channel_spans::<S>(channels) {
                // SAFETY: by the caller, and checked above.
                unsafe {
                    let mut v = [S::zero(); 4];
                    for t in 0..4 {
                        v[t] = span.load_sequential::<S>(x, start + offsets[t]);
                        if NORM {
                            v[t] = S::add(S::mul(v[t], span.load::<S>(scale, 0)), span.load::<S>(shift, 0));
                        }
                    }
                    let largest = max4::<S>(v);
                    let largest = if relu { S::relu(largest) } else { largest };
                    S::store_up_to(y.as_mut_ptr().add(position * channels + span.first), largest, span.count);
                }
            }
        }
    }
}

/// [`MaxPool2x2::backward`] for whole rows.
struct Backward<'a> {
    shape: MaxPool2x2,
    y: &'a [f32],
    gy: &'a [f32],
    scale: Option<&'a [f32]>,
    relu: bool,
    z: &'a mut [f32],
}

impl Task for Backward<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Backward { shape, y, gy, scale, relu, z } = self;
        let (channels, offsets) = (shape.channels, shape.window_offsets());
        assert!(scale.is_none_or(|scale| scale.len() == channels));
        assert!(z.len().is_multiple_of(shape.input_rows()) && 4 * y.len() >= z.len() && 4 * gy.len() >= z.len());
        for position in 0..z.len() / 4 / channels {
            let start = shape.window_start(position);
            for span in channel_spans::<S>(channels) {
                // SAFETY: by the caller, and checked above.
                unsafe {
                    let largest = span.load_sequential::<S>(y, position * channels);
                    let mut remaining = span.load_sequential::<S>(gy, position * channels);
                    if relu {
                        remaining = S::where_positive(largest, remaining);
                    }
                    if let Some(scale) = scale {
                        remaining = S::mul(remaining, span.load::<S>(scale, 0));
                    }
                    for offset in offsets {
                        let z_here = span.load_sequential::<S>(z, start + offset);
                        let g = S::where_equal(z_here, largest, remaining);
                        S::store_up_to(z.as_mut_ptr().add(start + offset + span.first), g, span.count);
                        // Nothing remains for the other maxima of the window.
                        remaining = S::sub(remaining, g);
                    }
                }
            }
        }
    }
}

/// [`MaxPool2x2::backward_norm`] for whole rows.
struct BackwardNorm<'a, const RELU: bool> {
    shape: MaxPool2x2,
    k: &'a Coefficients<'a>,
    gy: &'a [f32],
    z: &'a mut [f32],
}

impl<const RELU: bool> Task for BackwardNorm<'_, RELU> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BackwardNorm { shape, k, gy, z } = self;
        let (channels, offsets) = (shape.channels, shape.window_offsets());
        assert!([k.scale, k.shift, k.slope, k.constant].iter().all(|k| k.len() == channels));
        assert!(z.len().is_multiple_of(shape.input_rows()) && 4 * gy.len() >= z.len());
        for position in 0..z.len() / 4 / channels {
            let start = shape.window_start(position);
            for span in channel_spans::<S>(channels) {
                // SAFETY: by the caller, and checked above.
                unsafe {
                    let (scale, shift) = (span.load::<S>(k.scale, 0), span.load::<S>(k.shift, 0));
                    let (slope, constant) = (span.load::<S>(k.slope, 0), span.load::<S>(k.constant, 0));
                    // Loops: closures are not compiled for the instruction set.
                    let (mut from, mut v) = ([S::zero(); 4], [S::zero(); 4]);
                    for t in 0..4 {
                        from[t] = span.load_sequential::<S>(z, start + offsets[t]);
                        v[t] = S::add(S::mul(from[t], scale), shift);
                    }
                    let largest = max4::<S>(v);
                    let mut remaining = S::mul(span.load_sequential::<S>(gy, position * channels), scale);
                    if RELU {
                        remaining = S::where_positive(largest, remaining);
                    }
                    for t in 0..4 {
                        let g = S::where_equal(v[t], largest, remaining);
                        let gz = S::add(g, S::add(S::mul(from[t], slope), constant));
                        S::store_up_to(z.as_mut_ptr().add(start + offsets[t] + span.first), gz, span.count);
                        // Nothing remains for the other maxima of the window.
                        remaining = S::sub(remaining, g);
                    }
                }
            }
        }
    }
}

/// For a norm on batch statistics between `z` and the pooling: sums of z - origin and of its square over all pixels. Also writes
/// to the data, of the output's size, the element of each window that the norm makes the largest, whatever the size of its
/// scale: the norm of that element is the pooled output.
pub(super) struct MomentsAndMax<'a> {
    pub shape: MaxPool2x2,
    pub z: &'a [f32],
    pub origin: &'a [f32],
    /// 1, or -1 where the norm's scale is negative.
    pub sign: &'a [f32],
}

impl Summand<2> for MomentsAndMax<'_> {
    fn check(&self, positions: usize, channels: usize) {
        self.shape.check_positions(positions, channels, self.z);
        assert!([self.origin, self.sign].iter().all(|k| k.len() == channels));
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, data: *mut f32, [sum, square]: &mut [S::V; 2]) {
        let start = self.shape.window_start(row);
        unsafe {
            let (origin, sign) = (span.load::<S>(self.origin, 0), span.load::<S>(self.sign, 0));
            let (offsets, mut v) = (self.shape.window_offsets(), [S::zero(); 4]);
            for t in 0..4 {
                let z = span.load_sequential::<S>(self.z, start + offsets[t]);
                let d = S::sub(z, origin);
                *sum = S::add(*sum, d);
                *square = S::add(*square, S::mul(d, d));
                v[t] = S::mul(z, sign);
            }
            S::store_up_to(data, S::mul(max4::<S>(v), sign), span.count);
        }
    }
}

/// For a norm (and `RELU`) between `z` and the pooling: sums over all output pixels of g and of g (z - mean), z the first maximum
/// of the window.
pub(super) struct MaxGradientMoments<'a, const RELU: bool> {
    pub shape: MaxPool2x2,
    pub z: &'a [f32],
    pub gy: &'a [f32],
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
}

impl<const RELU: bool> Summand<2> for MaxGradientMoments<'_, RELU> {
    fn check(&self, positions: usize, channels: usize) {
        self.shape.check_positions(positions, channels, self.z);
        assert!([self.mean, self.scale, self.shift].iter().all(|k| k.len() == channels));
        assert!(self.gy.len() >= positions * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = self.shape.window_start(row);
        unsafe {
            let (scale, shift) = (span.load::<S>(self.scale, 0), span.load::<S>(self.shift, 0));
            let (offsets, mut z, mut v) = (self.shape.window_offsets(), [S::zero(); 4], [S::zero(); 4]);
            for t in 0..4 {
                z[t] = span.load_sequential::<S>(self.z, start + offsets[t]);
                v[t] = S::add(S::mul(z[t], scale), shift);
            }
            // The first maximum, and the z that it comes from.
            let (mut largest, mut from) = (v[0], z[0]);
            for t in 1..4 {
                from = S::select(largest, v[t], from, z[t]);
                largest = S::max(largest, v[t]);
            }
            let mut g = span.load_sequential::<S>(self.gy, row * self.shape.channels);
            if RELU {
                g = S::where_positive(largest, g);
            }
            *sum = S::add(*sum, g);
            *product = S::add(*product, S::mul(g, S::sub(from, span.load::<S>(self.mean, 0))));
        }
    }
}

/// As [`MaxGradientMoments`], from the pooled output `y` where the norm can be inverted: z - mean = (y - bias) / scale.
pub(super) struct OutputGradientMoments<'a, const RELU: bool> {
    pub y: &'a [f32],
    pub gy: &'a [f32],
    /// The norm's bias.
    pub bias: &'a [f32],
    /// 1 / scale.
    pub inverse_scale: &'a [f32],
}

impl<const RELU: bool> Summand<2> for OutputGradientMoments<'_, RELU> {
    fn check(&self, positions: usize, channels: usize) {
        assert!([self.bias, self.inverse_scale].iter().all(|k| k.len() == channels));
        assert!(self.y.len() >= positions * channels && self.gy.len() >= positions * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum, product]: &mut [S::V; 2]) {
        let start = row * self.bias.len();
        unsafe {
            let (y, mut g) = (span.load_sequential::<S>(self.y, start), span.load_sequential::<S>(self.gy, start));
            if RELU {
                g = S::where_positive(y, g);
            }
            *sum = S::add(*sum, g);
            let centred = S::mul(S::sub(y, span.load::<S>(self.bias, 0)), span.load::<S>(self.inverse_scale, 0));
            *product = S::add(*product, S::mul(g, centred));
        }
    }
}

/// The gradient of a bias before the pooling: sums over all output pixels of `gy`, with `relu` only where y > 0.
pub(super) struct BiasGradient<'a> {
    pub y: &'a [f32],
    pub gy: &'a [f32],
    pub channels: usize,
    pub relu: bool,
}

impl Summand<1> for BiasGradient<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.gy.len() >= rows * channels);
        assert!(!self.relu || self.y.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe {
            let mut g = span.load_sequential::<S>(self.gy, row * self.channels);
            if self.relu {
                g = S::where_positive(span.load::<S>(self.y, row * self.channels), g);
            }
            *sum = S::add(*sum, g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_with_too_many_positions_for_32_bits_are_left_to_the_general_pooling() {
        let (input, window) = (Shape::new(1, 224, 224), Window::square(2));
        assert!(MaxPool2x2::matching(input, window, 300_000).is_some());
        assert!(MaxPool2x2::matching(input, window, 400_000).is_none());
        assert!(MaxPool2x2::matching(input, window, usize::MAX).is_none());
    }
}
