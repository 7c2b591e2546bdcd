//! Batch normalisation and per-channel affine maps, alone or behind a convolution, with the ReLU that may follow.

use nettriage_kernels::pool::Pool;

use crate::layers::channelwise::{Coefficients, Moments, Products, apply, apply_in_place, backward, scale_masked};
use crate::layers::columns::Columns;
use crate::layers::tiles::{Known, Largest, Peaks, Tiles};
use crate::op::{Context, Inputs, Op, Reads};
use crate::params::{ParamId, Params};

/// How much larger than its weight what a norm adds may be for z to be told from y: six bits are lost at most.
const TOLD: f32 = 64.0;

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
    /// Whether the gradient comes with ReLU's mask on.
    masked: bool,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// Versions of the weights that `scale` and `shift` were made from; `None` where they come from a batch.
    folded: Option<[u64; 4]>,
    mean: Vec<f32>,
    inverse: Vec<f32>,
    slope: Vec<f32>,
    constant: Vec<f32>,
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
            masked: false,
            scale: zeros(),
            shift: zeros(),
            folded: None,
            mean: zeros(),
            inverse: zeros(),
            slope: zeros(),
            constant: zeros(),
            columns: Columns::new(if trains { channels } else { 0 }),
        }
    }

    /// Whether it is computed from the batch in training: then adding a constant to a channel of its input changes nothing.
    pub fn centres(&self) -> bool {
        self.trains && self.statistics.is_some()
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

    /// Scale and shift from the batch `x` (rows x channels), whose statistics also move the running ones. The pixels that
    /// will be the largest of each tile are put into `pooled`, if there is one.
    fn fold_batch(&mut self, x: &[f32], pooled: Option<(Tiles, &mut [f32])>, params: &mut Params, pool: &Pool) {
        let Some(s) = &self.statistics else { unreachable!("asked for only with statistics") };
        let (channels, rows) = (self.channels, x.len() / self.channels);
        // Sums of the distance to each channel's first element: no cancellation where the mean is large.
        let origin = &x[..channels];
        let sums = match pooled {
            None => self.columns.sum(pool, rows, &mut [], &Moments { x, origin }),
            Some((tiles, y)) => {
                // Not in use until the gradient's turn.
                let sign = &mut self.slope;
                for (sign, &weight) in sign.iter_mut().zip(params.value(self.weight)) {
                    *sign = if weight < 0.0 { -1.0 } else { 1.0 };
                }
                self.columns.sum(pool, y.len() / channels, y, &Peaks { tiles, z: x, origin, sign })
            }
        };
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
            let blend =
                |running: &mut f32, new: f64| *running = ((1.0 - share) * f64::from(*running) + share * new) as f32;
            blend(&mut params.get_mut(s.mean).value[c], mean);
            blend(&mut params.get_mut(s.variance).value[c], variance * unbiased);
        }
        params.get_mut(s.mean).version += 1;
        params.get_mut(s.variance).version += 1;
        self.folded = None;
    }

    /// y from x (rows x channels): on batch statistics where the layer trains and `train` says so. With `tiles` y is pooled.
    pub fn forward(
        &mut self,
        train: bool,
        x: &[f32],
        y: &mut [f32],
        tiles: Option<Tiles>,
        params: &mut Params,
        pool: &Pool,
    ) {
        if train && self.centres() {
            match tiles {
                None => self.fold_batch(x, None, params, pool),
                Some(tiles) => {
                    self.fold_batch(x, Some((tiles, &mut *y)), params, pool);
                    return apply_in_place(&self.scale, &self.shift, self.relu, y, pool);
                }
            }
        } else {
            self.fold(params);
        }
        match tiles {
            Some(tiles) => tiles.forward(x, Some((&self.scale, &self.shift, self.relu)), y, pool),
            None => apply(x, &self.scale, &self.shift, self.relu, y, pool),
        }
    }

    /// Turns `g`, the gradient of y, into that of x, and writes the weights' gradients if they train.
    ///
    /// x is only read where the layer trains; otherwise ReLU's mask comes from `y`, unless it is on already (`None`).
    pub fn backward(&mut self, x: &[f32], y: Option<&[f32]>, g: &mut [f32], params: &mut Params, pool: &Pool) {
        if !self.trains {
            return scale_masked(g, y.filter(|_| self.relu), &self.scale, pool);
        }
        let rows = g.len() / self.channels;
        let (scale, shift, mean) = (&self.scale[..], &self.shift[..], &self.mean[..]);
        if self.relu {
            self.columns.sum(pool, rows, &mut [], &Products::<true> { g, x, mean, scale, shift });
        } else {
            self.columns.sum(pool, rows, &mut [], &Products::<false> { g, x, mean, scale, shift });
        }
        let relu = self.relu;
        let k = self.settle(rows, params);
        if relu { backward::<true>(x, &k, g, pool) } else { backward::<false>(x, &k, g, pool) }
    }

    /// As [`Norm::backward`] for a layer that trains and is pooled: from `y` and `gy` of the pooled pixels to the gradient of x,
    /// in place of x.
    pub fn backward_pooled(
        &mut self,
        tiles: Tiles,
        x: &mut [f32],
        y: &[f32],
        gy: &[f32],
        params: &mut Params,
        pool: &Pool,
    ) {
        let places = gy.len() / self.channels;
        let bias = params.value(self.bias);
        let invertible = |c: usize| {
            let terms = bias[c].abs() + self.shift[c].abs();
            self.scale[c] != 0.0 && terms <= TOLD * (params.value(self.weight)[c]).abs()
        };
        let known = (0..self.channels).all(invertible);
        if known {
            self.slope.iter_mut().zip(&self.scale).for_each(|(inverse, scale)| *inverse = 1.0 / scale);
        }
        let (z, scale, shift, mean) = (&*x, &self.scale[..], &self.shift[..], &self.mean[..]);
        let inverse = &self.slope[..];
        if known && self.relu {
            self.columns.sum(pool, places, &mut [], &Known::<true> { y, gy, bias, inverse });
        } else if known {
            self.columns.sum(pool, places, &mut [], &Known::<false> { y, gy, bias, inverse });
        } else if self.relu {
            let terms = Largest::<true> { tiles, z, gy, mean, scale, shift };
            self.columns.sum(pool, places, &mut [], &terms);
        } else {
            let terms = Largest::<false> { tiles, z, gy, mean, scale, shift };
            self.columns.sum(pool, places, &mut [], &terms);
        }
        let relu = self.relu;
        let k = self.settle(x.len() / self.channels, params);
        if relu {
            tiles.backward_norm::<true>(&k, gy, x, pool);
        } else {
            tiles.backward_norm::<false>(&k, gy, x, pool);
        }
    }

    /// From the sums of g and of g (x - mean) over `rows` rows, just made: the weights' gradients, and how x gets its own.
    ///
    /// dBias = sum of g; dWeight = sum of g (x - mean) / deviation;
    /// dX = scale (g - dBias / n - (x - mean) / deviation * dWeight / n), for an affine layer scale g.
    fn settle(&mut self, rows: usize, params: &mut Params) -> Coefficients<'_> {
        let count = rows as f64;
        let batch = self.statistics.is_some();
        let (of_bias, of_weight) = self.columns.last().split_at(self.channels);
        for (gradient, &sum) in params.get_mut(self.bias).gradient.iter_mut().zip(of_bias) {
            *gradient = sum as f32;
        }
        let gradient = &mut params.get_mut(self.weight).gradient;
        for c in 0..self.channels {
            if batch {
                let (a, mean) = (f64::from(self.scale[c]), f64::from(self.mean[c]));
                let inverse = f64::from(self.inverse[c]);
                let slope = -a * inverse * inverse * of_weight[c] / count;
                gradient[c] = (of_weight[c] * inverse) as f32;
                self.slope[c] = slope as f32;
                self.constant[c] = (-a * of_bias[c] / count - slope * mean) as f32;
            } else {
                gradient[c] = of_weight[c] as f32;
                (self.slope[c], self.constant[c]) = (0.0, 0.0);
            }
        }
        Coefficients { scale: &self.scale, shift: &self.shift, slope: &self.slope, constant: &self.constant }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        24 * self.channels + self.columns.bytes()
    }
}

impl Op for Norm {
    fn reads(&self) -> Reads {
        Reads { inputs: self.trains, output: self.masks() }
    }

    fn masks(&self) -> bool {
        !self.trains && self.relu && !self.masked
    }

    fn comes_masked(&mut self) {
        self.masked = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        Norm::forward(self, cx.train, x.get(0), y, None, cx.params, cx.pool);
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let x = if self.trains { x.get(0) } else { &[] };
        Norm::backward(self, x, (!self.masked).then_some(y), gy, cx.params, cx.pool);
    }

    fn bytes(&self) -> usize {
        Norm::bytes(self)
    }
}
