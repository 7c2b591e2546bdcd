//! Max pooling.

use nettriage_kernels::simd::vectorised;
use nettriage_net::{Shape, Window};

use super::max_pool_2x2::MaxPool2x2;
use super::window_range;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Max pooling that no convolution fuses.
pub(super) fn build(layer: &LayerContext<'_, '_>, window: Window) -> MaxPool {
    let (input, output) = (layer.input(), layer.output());
    MaxPool { input, output, window, fast: MaxPool2x2::matching(input, window, layer.options().batch) }
}

/// y = the largest element of each window. Padding is never the largest.
///
/// The gradient goes to the first maximum of the window in row-major order, as in PyTorch. The backward pass finds it again by
/// comparison.
pub(super) struct MaxPool {
    input: Shape,
    output: Shape,
    window: Window,
    /// The forward pass for 2x2 windows without remainder.
    fast: Option<MaxPool2x2>,
}

/// Channels that the inner loop of the backward pass works on at once.
const LANES: usize = 16;

impl MaxPool {
    /// The input rows and columns in the window of an output position.
    fn window(&self, oh: usize, ow: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let Window { kernel, stride, padding } = self.window;
        let rows = window_range(oh, stride[0], kernel[0], padding.top, self.input.height);
        (rows, window_range(ow, stride[1], kernel[1], padding.left, self.input.width))
    }
}

impl Operation for MaxPool {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: true }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels, row) = (x.get(0), self.input.channels, self.output.width * self.output.channels);
        if let Some(pool) = self.fast {
            return pool.forward(x, None, y, cx.pool);
        }
        cx.pool.chunks(y, row, |task, y| {
            let (i, oh) = (task / self.output.height, task % self.output.height);
            let x = &x[i * self.input.elements()..][..self.input.elements()];
            vectorised(
                #[inline(always)]
                || {
                    for (ow, y) in y.chunks_exact_mut(channels).enumerate() {
                        y.fill(f32::NEG_INFINITY);
                        let (rows, columns) = self.window(oh, ow);
                        for h in rows {
                            for w in columns.clone() {
                                let x = &x[(h * self.input.width + w) * channels..][..channels];
                                for (y, &x) in y.iter_mut().zip(x) {
                                    *y = if x > *y || x.is_nan() { x } else { *y };
                                }
                            }
                        }
                    }
                },
            );
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        BackwardState { y, gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (x, channels) = (x.get(0), self.input.channels);
        let (input, output) = (self.input.elements(), self.output.elements());
        cx.pool.chunks(gx, input, |i, gx| {
            let (x, y, gy) = (&x[i * input..][..input], &y[i * output..][..output], &gy[i * output..][..output]);
            gx.fill(0.0);
            for position in 0..self.output.height * self.output.width {
                let (rows, columns) = self.window(position / self.output.width, position % self.output.width);
                for first in (0..channels).step_by(LANES) {
                    let lanes = LANES.min(channels - first);
                    let at = position * channels + first;
                    let (y, gy) = (&y[at..at + lanes], &gy[at..at + lanes]);
                    let mut found = [false; LANES];
                    for h in rows.clone() {
                        for w in columns.clone() {
                            let at = (h * self.input.width + w) * channels + first;
                            let (x, gx) = (&x[at..at + lanes], &mut gx[at..at + lanes]);
                            for c in 0..lanes {
                                let is_first = x[c] == y[c] && !found[c];
                                found[c] |= is_first;
                                gx[c] += if is_first { gy[c] } else { 0.0 };
                            }
                        }
                    }
                }
            }
        });
    }
}
