//! Batch normalisation and per-channel affine maps, alone or behind a convolution, with the ReLU that may follow.

use crate::layers::CHUNK;
use crate::layers::columns::Columns;
use crate::op::{Context, Inputs, Op, Reads};
use crate::params::{ParamId, Params};
use crate::pool::Pool;

/// The statistics of a batch norm.
pub(crate) struct Statistics {
    /// Running mean.
    pub mean: ParamId,
    /// Running variance.
    pub variance: ParamId,
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch in the running statistics.
    pub momentum: f32,
}

/// y = relu(x * scale + shift) per channel, where scale and shift come from running or batch statistics, or from an affine layer.
pub(crate) struct Norm {
    weight: ParamId,
    bias: ParamId,
    statistics: Option<Statistics>,
    relu: bool,
    channels: usize,
    trains: bool,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// Versions of the weights that `scale` and `shift` were made from; `None` after a step on batch statistics.
    folded: Option<[u64; 4]>,
    mean: Vec<f32>,
    inverse: Vec<f32>,
    columns: Columns<2>,
}

impl Norm {
    /// A batch norm, or without `statistics` an affine layer. `trains` is its layer's.
    pub fn new(
        weight: ParamId,
        bias: ParamId,
        statistics: Option<Statistics>,
        relu: bool,
        channels: usize,
        trains: bool,
    ) -> Norm {
        let zeros = || vec![0.0; channels];
        Norm {
            weight,
            bias,
            statistics,
            relu,
            channels,
            trains,
            scale: zeros(),
            shift: zeros(),
            folded: None,
            mean: zeros(),
            inverse: zeros(),
            columns: Columns::new(if trains { channels } else { 0 }),
        }
    }

    /// Whether it trains.
    pub fn trains(&self) -> bool {
        self.trains
    }

    /// Whether a ReLU follows.
    pub fn relu(&self) -> bool {
        self.relu
    }

    /// Scale and shift of the evaluation mode.
    pub fn fold(&mut self, params: &Params) -> (&[f32], &[f32]) {
        let statistics = self.statistics.as_ref();
        let versions = [
            params.get(self.weight).version,
            params.get(self.bias).version,
            statistics.map_or(0, |s| params.get(s.mean).version),
            statistics.map_or(0, |s| params.get(s.variance).version),
        ];
        if self.folded != Some(versions) {
            self.folded = Some(versions);
            let (weight, bias) = (params.value(self.weight), params.value(self.bias));
            match statistics {
                Some(s) => {
                    let (mean, variance) = (params.value(s.mean), params.value(s.variance));
                    for c in 0..self.channels {
                        let inverse = 1.0 / (f64::from(variance[c]) + f64::from(s.eps)).sqrt();
                        let scale = f64::from(weight[c]) * inverse;
                        (self.mean[c], self.inverse[c]) = (mean[c], inverse as f32);
                        self.scale[c] = scale as f32;
                        self.shift[c] = (f64::from(bias[c]) - f64::from(mean[c]) * scale) as f32;
                    }
                }
                None => {
                    self.scale.copy_from_slice(weight);
                    self.shift.copy_from_slice(bias);
                }
            }
        }
        (&self.scale, &self.shift)
    }

    /// Scale and shift from the batch `x` (rows x channels), whose statistics also move the running ones.
    fn fold_batch(&mut self, x: &[f32], params: &mut Params, pool: &Pool) {
        let Some(s) = &self.statistics else {
            self.fold(params);
            return;
        };
        let (channels, rows) = (self.channels, x.len() / self.channels);
        // Sums of the distance to each channel's first element: no cancellation where the mean is large.
        let origin = &x[..channels];
        let sums = self.columns.sum(pool, rows, &mut [], |range, _, sums| {
            let (sum, square) = sums.split_at_mut(channels);
            for row in x[range.start * channels..range.end * channels].chunks_exact(channels) {
                for (((sum, square), &v), &o) in sum.iter_mut().zip(&mut *square).zip(row).zip(origin) {
                    let d = f64::from(v - o);
                    *sum += d;
                    *square += d * d;
                }
            }
        });
        let count = rows as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        let share = f64::from(s.momentum);
        for c in 0..channels {
            let offset = sums[c] / count;
            let mean = f64::from(origin[c]) + offset;
            let variance = (sums[channels + c] / count - offset * offset).max(0.0);
            let inverse = 1.0 / (variance + f64::from(s.eps)).sqrt();
            let scale = f64::from(params.value(self.weight)[c]) * inverse;
            (self.mean[c], self.inverse[c]) = (mean as f32, inverse as f32);
            self.scale[c] = scale as f32;
            self.shift[c] = (f64::from(params.value(self.bias)[c]) - mean * scale) as f32;
            let blend = |running: &mut f32, new: f64| *running = ((1.0 - share) * f64::from(*running) + share * new) as f32;
            blend(&mut params.get_mut(s.mean).value[c], mean);
            blend(&mut params.get_mut(s.variance).value[c], variance * unbiased);
        }
        params.get_mut(s.mean).version += 1;
        params.get_mut(s.variance).version += 1;
        self.folded = None;
    }

    /// y from x (rows x channels): on batch statistics where the layer trains and `train` says so.
    pub fn forward(&mut self, train: bool, x: &[f32], y: &mut [f32], params: &mut Params, pool: &Pool) {
        if train && self.trains {
            self.fold_batch(x, params, pool);
        } else {
            self.fold(params);
        }
        let (scale, shift, relu, channels) = (&self.scale[..], &self.shift[..], self.relu, self.channels);
        let size = CHUNK.div_ceil(channels) * channels;
        pool.chunks(y, size, |i, y| {
            let x = &x[i * size..i * size + y.len()];
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for (((y, &x), &a), &b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                    let v = x * a + b;
                    *y = if relu && v < 0.0 { 0.0 } else { v };
                }
            }
        });
    }

    /// Turns `g`, the gradient of y, into that of x, and writes the weights' gradients if they train.
    ///
    /// x is only read where the layer trains; otherwise ReLU's mask comes from `y`.
    pub fn backward(&mut self, x: &[f32], y: &[f32], g: &mut [f32], params: &mut Params, pool: &Pool) {
        let channels = self.channels;
        if !self.trains {
            return scale_masked(g, y, &self.scale, self.relu, pool);
        }
        let (scale, shift, mean, relu) = (&self.scale[..], &self.shift[..], &self.mean[..], self.relu);
        let rows = g.len() / channels;
        let batch = self.statistics.is_some();
        // dBias = sum of g; dWeight = sum of g (x - mean) / deviation. The mask is where x * scale + shift, as computed before, is above 0.
        let sums = self.columns.sum(pool, rows, g, |range, g, sums| {
            let (bias, weight) = sums.split_at_mut(channels);
            let x = &x[range.start * channels..range.end * channels];
            for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    if relu && !(x[c] * scale[c] + shift[c] > 0.0) {
                        g[c] = 0.0;
                    }
                    bias[c] += f64::from(g[c]);
                    weight[c] += f64::from(g[c] * (x[c] - mean[c]));
                }
            }
        });
        let count = rows as f64;
        let (of_bias, of_weight) = sums.split_at(channels);
        for (gradient, &sum) in params.get_mut(self.bias).gradient.iter_mut().zip(of_bias) {
            *gradient = sum as f32;
        }
        for c in 0..channels {
            let unit = if batch { f64::from(self.inverse[c]) } else { 1.0 };
            params.get_mut(self.weight).gradient[c] = (of_weight[c] * unit) as f32;
        }
        // dX = scale (g - dBias / n - (x - mean) / deviation * dWeight / n), for an affine layer scale g: both a g + b x + c.
        // `mean` and `inverse` are free from here on: they hold b and c.
        for c in 0..channels {
            let (a, inverse, mean) = (f64::from(self.scale[c]), f64::from(self.inverse[c]), f64::from(self.mean[c]));
            let slope = if batch { -a * inverse * inverse * of_weight[c] / count } else { 0.0 };
            let constant = if batch { -a * of_bias[c] / count - slope * mean } else { 0.0 };
            (self.inverse[c], self.mean[c]) = (slope as f32, constant as f32);
        }
        let (slope, constant) = (&self.inverse[..], &self.mean[..]);
        let size = CHUNK.div_ceil(channels) * channels;
        pool.chunks(g, size, |i, g| {
            let x = &x[i * size..i * size + g.len()];
            for (g, x) in g.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in 0..channels {
                    g[c] = g[c] * scale[c] + x[c] * slope[c] + constant[c];
                }
            }
        });
        self.folded = None;
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        16 * self.channels + self.columns.bytes()
    }
}

/// g := g * scale where y > 0 (everywhere without `relu`), else 0.
fn scale_masked(g: &mut [f32], y: &[f32], scale: &[f32], relu: bool, pool: &Pool) {
    let channels = scale.len();
    let size = CHUNK.div_ceil(channels) * channels;
    pool.chunks(g, size, |i, g| {
        if relu {
            let y = &y[i * size..i * size + g.len()];
            for (g, y) in g.chunks_exact_mut(channels).zip(y.chunks_exact(channels)) {
                for ((g, &y), &s) in g.iter_mut().zip(y).zip(scale) {
                    *g = if y > 0.0 { *g * s } else { 0.0 };
                }
            }
        } else {
            for g in g.chunks_exact_mut(channels) {
                for (g, &s) in g.iter_mut().zip(scale) {
                    *g *= s;
                }
            }
        }
    });
}

impl Op for Norm {
    fn reads(&self) -> Reads {
        Reads { inputs: self.trains, output: !self.trains && self.relu }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        Norm::forward(self, cx.train, x.get(0), y, cx.params, cx.pool);
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &[f32], gy: &mut [f32]) {
        let x = if self.trains { x.get(0) } else { &[] };
        Norm::backward(self, x, y, gy, cx.params, cx.pool);
    }

    fn bytes(&self) -> usize {
        Norm::bytes(self)
    }
}
