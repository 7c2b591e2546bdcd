//! Layer normalisation over the channels of each position, and its variant without a mean.

use nettriage_kernels::simd::{Simd, vectorised};
use nettriage_net::layer;

use super::channel_reduction::{ChannelReduction, ChannelSpan, Summand};
use super::row_chunk;
use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};
use crate::parameters::ParameterId;

/// The layer norm of the current layer.
pub(super) fn build(layer: &mut LayerContext<'_, '_>, norm: layer::LayerNorm) -> Result<LayerNorm, Error> {
    let (shape, trains) = (layer.output(), layer.trains());
    Ok(LayerNorm {
        weight: layer.weight("weight")?,
        bias: if norm.centred { Some(layer.weight("bias")?) } else { None },
        eps: norm.eps,
        channels: shape.channels,
        positions: shape.height * shape.width,
        trains,
        reduction: ChannelReduction::new(if trains { shape.channels } else { 0 }),
    })
}

/// y = (x - mean) / sqrt(variance + eps) weight + bias in each row of channels. `saved` holds mean and 1 / sqrt(...) of each row.
pub(super) struct LayerNorm {
    weight: ParameterId,
    /// None for a root-mean-square norm, which subtracts no mean.
    bias: Option<ParameterId>,
    eps: f32,
    channels: usize,
    /// Rows per image.
    positions: usize,
    trains: bool,
    reduction: ChannelReduction<2>,
}

/// The sum of f(x), in sixteen partial sums that are added in f64.
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f(x));
    }
    let last: f64 = rest.iter().map(|&x| f64::from(f(x))).sum();
    lanes.iter().map(|&sum| f64::from(sum)).sum::<f64>() + last
}

impl LayerNorm {
    fn statistics(&self, x: &[f32]) -> (f32, f32) {
        let count = x.len() as f64;
        let mean = if self.bias.is_some() { (sum_of(x, |x| x) / count) as f32 } else { 0.0 };
        let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
        (mean, (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32)
    }
}

impl Operation for LayerNorm {
    fn saved_elements(&self) -> usize {
        2 * self.positions
    }

    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]) {
        let (x, channels) = (x.get(0), self.channels);
        let weight = cx.parameters.value(self.weight);
        let bias = self.bias.map(|bias| cx.parameters.value(bias));
        let size = row_chunk(channels);
        let rows = size / channels;
        // Statistics are kept only where a backward pass may follow.
        let keeps = !saved.is_empty();
        let statistics = nettriage_kernels::pool::Chunks::new(saved, if keeps { 2 * rows } else { 0 });
        let tasks = y.len().div_ceil(size);
        cx.pool.each(tasks, (nettriage_kernels::pool::Chunks::new(y, size), statistics), |task, (y, saved)| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(channels).enumerate() {
                        let x = &x[task * size + row * channels..][..channels];
                        let (mean, scale) = self.statistics(x);
                        if keeps {
                            (saved[2 * row], saved[2 * row + 1]) = (mean, scale);
                        }
                        for ((y, &x), &weight) in y.iter_mut().zip(x).zip(weight) {
                            *y = (x - mean) * scale * weight;
                        }
                        if let Some(bias) = bias {
                            y.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias);
                        }
                    }
                },
            );
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    /// With z = (x - mean) s and h = g weight: dx = s (h - mean(h) - z mean(h z)); without a mean, mean(h) is left out.
    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        let (x, channels) = (x.get(0), self.channels);
        if self.trains {
            let terms = NormGradient { g: gy, x, saved, channels };
            let sums = self.reduction.sum(cx.pool, gy.len() / channels, &mut [], &terms);
            let (weight, bias) = sums.split_at(channels);
            cx.parameters.write_gradient(self.weight, weight);
            if let Some(id) = self.bias {
                cx.parameters.write_gradient(id, bias);
            }
        }
        let weight = cx.parameters.value(self.weight);
        let size = row_chunk(channels);
        let (centred, saved) = (self.bias.is_some(), &*saved);
        cx.pool.chunks(gy, size, |task, g| {
            for (row, g) in g.chunks_exact_mut(channels).enumerate() {
                let row = task * (size / channels) + row;
                let (x, mean, scale) = (&x[row * channels..][..channels], saved[2 * row], saved[2 * row + 1]);
                let (mut sum, mut dot) = (0f64, 0f64);
                for ((g, &x), &weight) in g.iter_mut().zip(x).zip(weight) {
                    *g *= weight;
                    sum += f64::from(*g);
                    dot += f64::from(*g * ((x - mean) * scale));
                }
                let (sum, dot) = ((sum / channels as f64) as f32, (dot / channels as f64) as f32);
                let sum = if centred { sum } else { 0.0 };
                for (g, &x) in g.iter_mut().zip(x) {
                    *g = scale * (*g - sum - (x - mean) * scale * dot);
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        self.reduction.bytes()
    }
}

/// Sums of g z and of g: the gradients of weight and bias.
struct NormGradient<'a> {
    g: &'a [f32],
    x: &'a [f32],
    /// Mean and scale of each row.
    saved: &'a [f32],
    channels: usize,
}

impl Summand<2> for NormGradient<'_> {
    fn check(&self, rows: usize, channels: usize) {
        let elements = rows * channels;
        assert!(channels == self.channels && self.g.len() >= elements && self.x.len() >= elements);
        assert!(self.saved.len() >= 2 * rows);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, _: *mut f32, [weight, bias]: &mut [S::V; 2]) {
        let start = row * self.channels;
        unsafe {
            let centred = S::sub(span.load::<S>(self.x, start), S::splat(self.saved[2 * row]));
            let g = span.load::<S>(self.g, start);
            *weight = S::add(*weight, S::mul(g, S::mul(centred, S::splat(self.saved[2 * row + 1]))));
            *bias = S::add(*bias, g);
        }
    }
}
