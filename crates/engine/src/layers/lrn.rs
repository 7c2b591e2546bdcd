//! Local response normalisation across channels (Krizhevsky, Sutskever and Hinton, 2012).

use crate::op::{Context, Inputs, Op, Prepared, Reads};

/// y_c = x_c / d_c^beta, d_c = bias + alpha / size * (sum of x^2 over the window of c), as ONNX and PyTorch define it.
///
/// The window of c is c - (size - 1) / 2 to c + size / 2 (rounded down), cut at the ends: ONNX's for even sizes.
pub(crate) struct Lrn {
    channels: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
}

impl Lrn {
    /// On `channels` channels.
    pub fn new(channels: usize, size: usize, alpha: f32, beta: f32, bias: f32) -> Lrn {
        Lrn { channels, size: size.max(1), alpha, beta, bias }
    }

    fn window(&self, c: usize) -> std::ops::Range<usize> {
        c.saturating_sub((self.size - 1) / 2)..(c + self.size / 2 + 1).min(self.channels)
    }

    /// The channels whose windows hold `c`.
    fn holders(&self, c: usize) -> std::ops::Range<usize> {
        c.saturating_sub(self.size / 2)..(c + (self.size - 1) / 2 + 1).min(self.channels)
    }

    fn denominator(&self, x: &[f32], c: usize) -> f32 {
        let squares: f32 = x[self.window(c)].iter().map(|&x| x * x).sum();
        self.bias + self.alpha / self.size as f32 * squares
    }
}

impl Op for Lrn {
    fn reads(&self) -> Reads {
        Reads { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, size) = (x.get(0), self.channels * super::CHUNK.div_ceil(self.channels));
        cx.pool.chunks(y, size, |i, y| {
            for (y, x) in y.chunks_exact_mut(self.channels).zip(x[i * size..].chunks_exact(self.channels)) {
                for (c, y) in y.iter_mut().enumerate() {
                    *y = x[c] * self.denominator(x, c).powf(-self.beta);
                }
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let (x, channels) = (x.get(0), self.channels);
        let size = channels * super::CHUNK.div_ceil(channels);
        let factor = 2.0 * self.alpha * self.beta / self.size as f32;
        // dX_j = g_j d_j^-beta - 2 alpha beta / size x_j * sum over c with j in its window of g_c x_c d_c^(-beta - 1).
        cx.pool.chunks(gx, size, |i, gx| {
            let rows = x[i * size..].chunks_exact(channels).zip(gy[i * size..].chunks_exact(channels));
            for (gx, (x, g)) in gx.chunks_exact_mut(channels).zip(rows) {
                for (j, gx) in gx.iter_mut().enumerate() {
                    let others: f32 =
                        self.holders(j).map(|c| g[c] * x[c] * self.denominator(x, c).powf(-self.beta - 1.0)).sum();
                    *gx = g[j] * self.denominator(x, j).powf(-self.beta) - factor * x[j] * others;
                }
            }
        });
    }
}
