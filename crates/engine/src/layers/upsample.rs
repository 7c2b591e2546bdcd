//! Nearest-neighbour upsampling by whole factors.

use nettriage_net::Shape;

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Each element repeated over `factor` = [rows, columns].
pub(super) fn build(layer: &LayerContext<'_, '_>, factor: [usize; 2]) -> Upsample {
    Upsample { input: layer.input(), output: layer.output(), factor }
}

/// y(h, w) = x(floor(h / rows), floor(w / columns)).
pub(super) struct Upsample {
    input: Shape,
    output: Shape,
    factor: [usize; 2],
}

impl Upsample {
    /// Calls `f(offset in the output image, offset in the input image)` for the first channel of every output position.
    fn for_each_position(&self, mut f: impl FnMut(usize, usize)) {
        let Shape { channels, height, width } = self.output;
        let [rows, columns] = self.factor;
        for h in 0..height {
            for w in 0..width {
                f((h * width + w) * channels, (h / rows * self.input.width + w / columns) * channels);
            }
        }
    }
}

impl Operation for Upsample {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, self.output.elements(), |i, y| {
            let x = &x[i * self.input.elements()..];
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
            gx.fill(0.0);
            self.for_each_position(|from, to| {
                gx[to..to + channels].iter_mut().zip(&gy[from..from + channels]).for_each(|(gx, &g)| *gx += g);
            });
        });
    }
}
