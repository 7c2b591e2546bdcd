//! Group normalisation.

use nettriage_net::{Shape, layer};

use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};
use crate::parameters::ParameterId;
use nettriage_kernels::pool::Chunks;

/// The group norm of the current layer.
pub(super) fn build(layer: &mut LayerContext<'_, '_>, norm: layer::GroupNorm) -> Result<GroupNorm, Error> {
    let (weight, bias) = (layer.weight("weight")?, layer.weight("bias")?);
    Ok(GroupNorm { weight, bias, norm, shape: layer.output(), trains: layer.trains() })
}

/// y = (x - mean) / sqrt(variance + eps) weight + bias with the statistics of each group of channels. `saved` holds, for each
/// image, the mean and 1 / sqrt(...) of each group, and the sums of g z and of g per channel.
pub(super) struct GroupNorm {
    weight: ParameterId,
    bias: ParameterId,
    norm: layer::GroupNorm,
    shape: Shape,
    trains: bool,
}

impl GroupNorm {
    fn width(&self) -> usize {
        self.shape.channels / self.norm.groups
    }

    /// Mean and 1 / standard deviation of each group of an image, one after the other.
    fn statistics(&self, x: &[f32], to: &mut [f32]) {
        let (channels, width) = (self.shape.channels, self.width());
        let count = (x.len() / self.norm.groups) as f64;
        let mut sums = vec![0f64; channels];
        let mut per_group = |f: &dyn Fn(usize, f32) -> f64| -> Vec<f64> {
            sums.fill(0.0);
            for row in x.chunks_exact(channels) {
                row.iter().enumerate().for_each(|(c, &x)| sums[c] += f(c, x));
            }
            sums.chunks_exact(width).map(|sums| sums.iter().sum::<f64>() / count).collect()
        };
        let means = per_group(&|_, x| f64::from(x));
        let variances = per_group(&|c, x| (f64::from(x) - means[c / width]).powi(2));
        for (group, to) in to.chunks_exact_mut(2).enumerate() {
            to[0] = means[group] as f32;
            to[1] = (1.0 / (variances[group] + f64::from(self.norm.eps)).sqrt()) as f32;
        }
    }
}

impl Operation for GroupNorm {
    fn saved_elements(&self) -> usize {
        2 * self.norm.groups + 2 * self.shape.channels
    }

    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]) {
        let (x, image, channels, width) = (x.get(0), self.shape.elements(), self.shape.channels, self.width());
        let (weight, bias) = (cx.parameters.value(self.weight), cx.parameters.value(self.bias));
        let keeps = !saved.is_empty();
        let saved = Chunks::new(saved, if keeps { self.saved_elements() } else { 0 });
        cx.pool.each(y.len() / image, (Chunks::new(y, image), saved), |i, (y, saved)| {
            let x = &x[i * image..][..image];
            let mut statistics = vec![0.0; 2 * self.norm.groups];
            self.statistics(x, &mut statistics);
            let scale: Vec<f32> = (0..channels).map(|c| statistics[c / width * 2 + 1] * weight[c]).collect();
            let mean: Vec<f32> = (0..channels).map(|c| statistics[c / width * 2]).collect();
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    y[c] = (x[c] - mean[c]) * scale[c] + bias[c];
                }
            }
            if keeps {
                saved[..statistics.len()].copy_from_slice(&statistics);
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    /// With z = (x - mean) s and h = g weight: dx = s (h - mean(h) - z mean(h z)), means over the group.
    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        let (x, image, channels, width) = (x.get(0), self.shape.elements(), self.shape.channels, self.width());
        let (groups, size) = (self.norm.groups, self.saved_elements());
        let weight = cx.parameters.value(self.weight);
        let images = gy.len() / image;
        let count = (image / groups) as f64;
        cx.pool.each(images, (Chunks::new(gy, image), Chunks::new(saved, size)), |i, (g, saved)| {
            let x = &x[i * image..][..image];
            let (statistics, sums) = saved.split_at_mut(2 * groups);
            let (mean, scale) = (|c: usize| statistics[c / width * 2], |c: usize| statistics[c / width * 2 + 1]);
            let mut dots = vec![0f64; channels];
            let mut totals = vec![0f64; channels];
            for (g, x) in g.chunks_exact(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    dots[c] += f64::from(g[c] * ((x[c] - mean(c)) * scale(c)));
                    totals[c] += f64::from(g[c]);
                }
            }
            let mean_of = |values: &[f64], c: usize| {
                let group = c / width * width..(c / width + 1) * width;
                (group.map(|c| values[c] * f64::from(weight[c])).sum::<f64>() / count) as f32
            };
            let dot: Vec<f32> = (0..channels).map(|c| mean_of(&dots, c / width * width)).collect();
            let sum: Vec<f32> = (0..channels).map(|c| mean_of(&totals, c / width * width)).collect();
            for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    g[c] = scale(c) * (g[c] * weight[c] - sum[c] - (x[c] - mean(c)) * scale(c) * dot[c]);
                }
            }
            for c in 0..channels {
                (sums[c], sums[channels + c]) = (dots[c] as f32, totals[c] as f32);
            }
        });
        if self.trains {
            let sum = |first: usize| -> Vec<f64> {
                let of = |c: usize| saved.chunks_exact(size).map(|saved| f64::from(saved[first + c])).sum();
                (0..channels).map(of).collect()
            };
            let (weight, bias) = (sum(2 * groups), sum(2 * groups + channels));
            cx.parameters.write_gradient(self.weight, &weight);
            cx.parameters.write_gradient(self.bias, &bias);
        }
    }
}
