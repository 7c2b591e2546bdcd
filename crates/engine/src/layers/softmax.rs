//! Softmax over the channels, and log softmax.

use nettriage_kernels::activation::{softmax, softmax_backward};

use super::for_each_row;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};

/// Softmax over the channels of each position; with `log`, its logarithm.
pub(super) fn build(layer: &LayerContext<'_, '_>, log: bool) -> Softmax {
    Softmax { channels: layer.input().channels, log }
}

/// y_c = exp(x_c) / sum over k of exp(x_k), or its logarithm.
pub(super) struct Softmax {
    channels: usize,
    log: bool,
}

impl Operation for Softmax {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: false, output: true }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        if !self.log {
            return for_each_row(y, x.get(0), self.channels, cx.pool, |y, x| softmax(x, y));
        }
        for_each_row(y, x.get(0), self.channels, cx.pool, |y, x| {
            let largest = x.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
            let sum: f64 = x.iter().map(|&v| f64::from(v - largest).exp()).sum();
            y.iter_mut().zip(x).for_each(|(y, &v)| *y = (f64::from(v - largest) - sum.ln()) as f32);
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    /// Softmax: dx_c = y_c (g_c - sum over k of g_k y_k). Log softmax: dx_c = g_c - exp(y_c) * (sum over k of g_k).
    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        for_each_row(gy, y, self.channels, cx.pool, |g, y| {
            if self.log {
                let sum: f32 = g.iter().sum();
                g.iter_mut().zip(y).for_each(|(g, &y)| *g -= y.exp() * sum);
            } else {
                softmax_backward(y, g);
            }
        });
    }
}
