//! Concatenation along the channels.

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The inputs' channels, one input after the other.
pub(super) fn build(layer: &LayerContext<'_, '_>) -> Concat {
    let output = layer.output();
    let mut first = 0;
    let parts = layer.inputs().iter().map(|input| {
        let part = (first, input.channels);
        first += input.channels;
        part
    });
    Concat { parts: parts.collect(), channels: output.channels, positions: output.height * output.width }
}

/// y = [x_0, x_1, ...] along the channels.
pub(super) struct Concat {
    /// Channels of the output.
    channels: usize,
    /// Positions per image.
    positions: usize,
    /// For each input, its first channel in the output and its number of channels.
    parts: Vec<(usize, usize)>,
}

impl Operation for Concat {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        cx.pool.chunks(y, self.channels * self.positions, |i, y| {
            for (k, &(first, channels)) in self.parts.iter().enumerate() {
                let x = &x.get(k)[i * channels * self.positions..];
                for (y, x) in y.chunks_exact_mut(self.channels).zip(x.chunks_exact(channels)) {
                    y[first..first + channels].copy_from_slice(x);
                }
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (first, channels) = self.parts[k];
        cx.pool.chunks(gx, channels * self.positions, |i, gx| {
            let gy = &gy[i * self.channels * self.positions..];
            for (gx, gy) in gx.chunks_exact_mut(channels).zip(gy.chunks_exact(self.channels)) {
                gx.copy_from_slice(&gy[first..first + channels]);
            }
        });
    }
}
