//! A range of channels.

use nettriage_net::layer;

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Channels `slice.start..slice.end` of the input.
pub(super) fn build(layer: &LayerContext<'_, '_>, slice: layer::Slice) -> Slice {
    let (input, layer::Slice { start, end }) = (layer.input(), slice);
    Slice { input_channels: input.channels, range: start..end, positions: input.height * input.width }
}

/// y_c = x_(start + c).
pub(super) struct Slice {
    input_channels: usize,
    /// The channels of the output.
    range: std::ops::Range<usize>,
    /// Positions per image.
    positions: usize,
}

impl Operation for Slice {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.range.len());
        cx.pool.chunks(y, channels * self.positions, |i, y| {
            let x = x[i * self.input_channels * self.positions..].chunks_exact(self.input_channels);
            for (y, x) in y.chunks_exact_mut(channels).zip(x) {
                y.copy_from_slice(&x[self.range.clone()]);
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let channels = self.range.len();
        cx.pool.chunks(gx, self.input_channels * self.positions, |i, gx| {
            gx.fill(0.0);
            let gy = gy[i * channels * self.positions..].chunks_exact(channels);
            for (gx, gy) in gx.chunks_exact_mut(self.input_channels).zip(gy) {
                gx[self.range.clone()].copy_from_slice(gy);
            }
        });
    }
}
