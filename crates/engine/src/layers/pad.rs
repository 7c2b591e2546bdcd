//! A constant border around rows, columns and channels.

use nettriage_net::{Padding, Shape, layer};

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The input with channels before and after its own and padding around its positions, all of one value.
pub(super) fn build(layer: &LayerContext<'_, '_>, pad: layer::Pad) -> Pad {
    let layer::Pad { channels, padding, value } = pad;
    Pad { input: layer.input(), output: layer.output(), first_channel: channels[0], padding, value }
}

/// y = x inside the border, a constant on it.
pub(super) struct Pad {
    input: Shape,
    output: Shape,
    /// The input's first channel in the output.
    first_channel: usize,
    padding: Padding,
    value: f32,
}

impl Pad {
    /// Calls `f(offset in the output image, offset in the input image)` for the first channel of every input position.
    fn for_each_position(&self, mut f: impl FnMut(usize, usize)) {
        for h in 0..self.input.height {
            for w in 0..self.input.width {
                let to = ((h + self.padding.top) * self.output.width + w + self.padding.left) * self.output.channels;
                f(to + self.first_channel, (h * self.input.width + w) * self.input.channels);
            }
        }
    }
}

impl Operation for Pad {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, self.output.elements(), |i, y| {
            let x = &x[i * self.input.elements()..];
            y.fill(self.value);
            self.for_each_position(|to, from| y[to..to + channels].copy_from_slice(&x[from..from + channels]));
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
        let channels = self.input.channels;
        cx.pool.chunks(gx, self.input.elements(), |i, gx| {
            let gy = &gy[i * self.output.elements()..];
            self.for_each_position(|from, to| gx[to..to + channels].copy_from_slice(&gy[from..from + channels]));
        });
    }
}
