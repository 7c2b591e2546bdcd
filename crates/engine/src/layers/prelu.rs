//! PReLU: leaky ReLU with one learned slope per channel (He et al., arXiv:1502.01852, equation 1).

use nettriage_kernels::simd::Simd;

use super::channel_reduction::{ChannelReduction, ChannelSpan, Summand};
use super::for_each_row;
use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};
use crate::parameters::ParameterId;

/// PReLU on the channels of the input.
pub(super) fn build(layer: &mut LayerContext<'_, '_>) -> Result<Prelu, Error> {
    let (channels, trains) = (layer.input().channels, layer.trains());
    let reduction = ChannelReduction::new(if trains { channels } else { 0 });
    Ok(Prelu { weight: layer.weight("weight")?, channels, trains, reduction })
}

/// y = x where x > 0, slope x elsewhere.
pub(super) struct Prelu {
    weight: ParameterId,
    channels: usize,
    trains: bool,
    reduction: ChannelReduction<1>,
}

impl Operation for Prelu {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let slopes = cx.parameters.value(self.weight);
        for_each_row(y, x.get(0), self.channels, cx.pool, |y, x| {
            for ((y, &x), &slope) in y.iter_mut().zip(x).zip(slopes) {
                *y = if x > 0.0 { x } else { slope * x };
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let (x, channels) = (x.get(0), self.channels);
        if self.trains {
            let terms = SlopeGradient { g: gy, x, channels };
            let sums = self.reduction.sum(cx.pool, gy.len() / channels, &mut [], &terms);
            cx.parameters.write_gradient(self.weight, sums);
        }
        let slopes = cx.parameters.value(self.weight);
        for_each_row(gy, x, channels, cx.pool, |g, x| {
            for ((g, &x), &slope) in g.iter_mut().zip(x).zip(slopes) {
                *g = if x > 0.0 { *g } else { slope * *g };
            }
        });
    }

    fn bytes(&self) -> usize {
        self.reduction.bytes()
    }
}

/// Sums of g x where x is not positive: the gradient of the slopes.
struct SlopeGradient<'a> {
    g: &'a [f32],
    x: &'a [f32],
    channels: usize,
}

impl Summand<1> for SlopeGradient<'_> {
    fn check(&self, rows: usize, channels: usize) {
        let elements = rows * channels;
        assert!(channels == self.channels && self.g.len() >= elements && self.x.len() >= elements);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [sum]: &mut [S::V; 1]) {
        let start = row * self.channels;
        unsafe {
            let x = span.load::<S>(self.x, start);
            let term = S::mul(span.load::<S>(self.g, start), x);
            *sum = S::add(*sum, S::sub(term, S::where_positive(x, term)));
        }
    }
}
