//! Softmax over the channels, and its logarithm.

use crate::op::{Context, Inputs, Op, Reads};

/// Softmax of every position's `channels` elements.
pub(crate) struct Softmax {
    channels: usize,
    log: bool,
}

impl Softmax {
    /// On `channels` channels; `log` for its logarithm.
    pub fn new(channels: usize, log: bool) -> Softmax {
        Softmax { channels, log }
    }
}

impl Op for Softmax {
    fn reads(&self) -> Reads {
        Reads { inputs: false, output: true }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, size) = (x.get(0), self.channels * super::CHUNK.div_ceil(self.channels));
        cx.pool.chunks(y, size, |i, y| {
            for (y, x) in y.chunks_exact_mut(self.channels).zip(x[i * size..].chunks_exact(self.channels)) {
                let largest = x.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
                let sum: f64 = x.iter().map(|&v| f64::from(v - largest).exp()).sum();
                for (y, &v) in y.iter_mut().zip(x) {
                    let v = f64::from(v - largest);
                    *y = if self.log { v - sum.ln() } else { v.exp() / sum } as f32;
                }
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let size = self.channels * super::CHUNK.div_ceil(self.channels);
        cx.pool.chunks(gy, size, |i, g| {
            for (g, y) in g.chunks_exact_mut(self.channels).zip(y[i * size..].chunks_exact(self.channels)) {
                if self.log {
                    let sum: f32 = g.iter().sum();
                    g.iter_mut().zip(y).for_each(|(g, &y)| *g -= y.exp() * sum);
                } else {
                    let dot: f32 = g.iter().zip(y).map(|(&g, &y)| g * y).sum();
                    g.iter_mut().zip(y).for_each(|(g, &y)| *g = y * (*g - dot));
                }
            }
        });
    }
}
