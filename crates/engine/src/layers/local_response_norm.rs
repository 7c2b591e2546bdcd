//! Local response normalisation across channels (Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep
//! Convolutional Neural Networks", NIPS 2012, section 3.3), as ONNX and PyTorch define it.

use nettriage_net::layer;

use super::{for_each_row, row_chunk};
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Local response normalisation over windows of `norm.size` channels.
pub(super) fn build(layer: &LayerContext<'_, '_>, norm: layer::LocalResponseNorm) -> LocalResponseNorm {
    let layer::LocalResponseNorm { size, alpha, beta, bias } = norm;
    LocalResponseNorm { channels: layer.input().channels, size: size.max(1), alpha, beta, bias }
}

/// y_c = x_c / d_c^beta with d_c = bias + alpha / size * (sum of x^2 over the window of c).
///
/// The window of c is c - floor((size - 1) / 2) to c + floor(size / 2), cut at the ends: ONNX's definition for even sizes.
pub(super) struct LocalResponseNorm {
    channels: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
}

impl LocalResponseNorm {
    fn window(&self, c: usize) -> std::ops::Range<usize> {
        c.saturating_sub((self.size - 1) / 2)..(c + self.size / 2 + 1).min(self.channels)
    }

    /// The channels whose windows contain `c`.
    fn windows_containing(&self, c: usize) -> std::ops::Range<usize> {
        c.saturating_sub(self.size / 2)..(c + (self.size - 1) / 2 + 1).min(self.channels)
    }

    fn denominator(&self, x: &[f32], c: usize) -> f32 {
        let squares: f32 = x[self.window(c)].iter().map(|&x| x * x).sum();
        self.bias + self.alpha / self.size as f32 * squares
    }
}

impl Operation for LocalResponseNorm {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        for_each_row(y, x.get(0), self.channels, cx.pool, |y, x| {
            for (c, y) in y.iter_mut().enumerate() {
                *y = x[c] * self.denominator(x, c).powf(-self.beta);
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    /// dx_j = g_j d_j^-beta - 2 alpha beta / size * x_j * (sum of g_c x_c d_c^(-beta - 1) over all c whose window contains j).
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (x, channels) = (x.get(0), self.channels);
        let size = row_chunk(channels);
        let factor = 2.0 * self.alpha * self.beta / self.size as f32;
        cx.pool.chunks(gx, size, |i, gx| {
            let rows = x[i * size..].chunks_exact(channels).zip(gy[i * size..].chunks_exact(channels));
            for (gx, (x, g)) in gx.chunks_exact_mut(channels).zip(rows) {
                for (j, gx) in gx.iter_mut().enumerate() {
                    let term = |c: usize| g[c] * x[c] * self.denominator(x, c).powf(-self.beta - 1.0);
                    let sum: f32 = self.windows_containing(j).map(term).sum();
                    *gx = g[j] * self.denominator(x, j).powf(-self.beta) - factor * x[j] * sum;
                }
            }
        });
    }
}
