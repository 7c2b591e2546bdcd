//! Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167) and per-channel affine layers, alone or fused into a convolution,
//! with the ReLU or ReLU6 that may follow.

use nettriage_kernels::activation::Activation;
use nettriage_kernels::pool::Pool;
use nettriage_net::{Kind, layer};

use super::Fusion;
use super::channel_reduction::ChannelReduction;
use super::max_pool_2x2::{MaxGradientMoments, MaxPool2x2, MomentsAndMax, OutputGradientMoments};
use super::norm_loops::{
    Clip, Coefficients, GradientMoments, Identity, Moments, NormActivation, Relu, norm_backward, scale_and_shift,
    scale_gradient,
};
use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};
use crate::parameters::{ParameterId, Parameters};

/// The norm of the current layer, which is a batch norm or an affine layer; fuses a ReLU, and another clip (ReLU6) if it trains.
pub(super) fn build(layer: &mut LayerContext<'_, '_>) -> Result<Norm, Error> {
    let weight = layer.weight("weight")?;
    let bias = layer.weight("bias")?;
    let statistics = match *layer.kind() {
        Kind::BatchNorm(layer::BatchNorm { eps, momentum }) => Some(RunningStatistics {
            mean: layer.statistic("running_mean")?,
            variance: layer.statistic("running_var")?,
            eps,
            momentum,
        }),
        _ => None,
    };
    let (channels, trains) = (layer.output().channels, layer.trains());
    let zeros = || vec![0.0; channels];
    Ok(Norm {
        weight,
        bias,
        statistics,
        activation: fuse_activation(layer, trains),
        channels,
        trains,
        fused_relu_backward: false,
        scale: zeros(),
        shift: zeros(),
        folded_versions: None,
        on_batch: false,
        mean: zeros(),
        inverse_deviation: vec![1.0; channels],
        slope: zeros(),
        constant: zeros(),
        reduction: ChannelReduction::new(if trains { channels } else { 0 }),
    })
}

/// What follows a norm in the same loop.
#[derive(Clone, Copy, PartialEq)]
enum Fused {
    Nothing,
    Relu,
    Clip { min: f32, max: f32 },
}

/// Fuses the activation that follows a norm, if it can be.
fn fuse_activation(layer: &mut LayerContext<'_, '_>, trains: bool) -> Fused {
    let fused = match layer.next_fusion() {
        Some(Fusion::Relu) => Fused::Relu,
        // A norm that doesn't train has no loop of its own, and convolutions without a backward pass fuse all activations.
        Some(Fusion::Activation(Activation::Clip { min, max })) if trains => Fused::Clip { min, max },
        _ => return Fused::Nothing,
    };
    layer.fuse_next();
    fused
}

/// Calls `$call` with `$activation` bound to the loop's activation.
macro_rules! with_activation {
    ($fused:expr, |$activation:ident| $call:expr) => {
        match $fused {
            Fused::Nothing => {
                let $activation = Identity;
                $call
            }
            Fused::Relu => {
                let $activation = Relu;
                $call
            }
            Fused::Clip { min, max } => {
                let $activation = Clip { min, max };
                $call
            }
        }
    };
}

/// The running statistics of a batch norm.
struct RunningStatistics {
    mean: ParameterId,
    variance: ParameterId,
    /// Added to the variance.
    eps: f32,
    /// Weight of the batch's statistics in the running ones.
    momentum: f32,
}

/// y = activation(x scale + shift) per channel. Scale and shift follow from the statistics of the batch (a batch norm that trains, in
/// training), from running statistics (any other batch norm), or are the weights themselves (an affine layer).
pub(super) struct Norm {
    weight: ParameterId,
    bias: ParameterId,
    statistics: Option<RunningStatistics>,
    activation: Fused,
    channels: usize,
    trains: bool,
    /// Whether the consumer applies the backward pass of the ReLU.
    fused_relu_backward: bool,
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// Versions of the weights and statistics that `scale` and `shift` were folded from; `None` if they are those of a batch.
    folded_versions: Option<[u64; 4]>,
    /// Whether `scale` and `shift` are those of a batch.
    on_batch: bool,
    /// Mean and 1 / standard deviation that `scale` and `shift` were folded from; 0 and 1 for an affine layer.
    mean: Vec<f32>,
    inverse_deviation: Vec<f32>,
    /// See [`Coefficients`].
    slope: Vec<f32>,
    constant: Vec<f32>,
    reduction: ChannelReduction<2>,
}

/// The largest ratio of the norm's offsets to its weight at which (y - bias) / scale may stand for z - mean in the gradient of
/// the weight: cancellation then costs at most six bits.
const MAX_CANCELLATION: f32 = 64.0;

impl Norm {
    /// Whether the last forward pass normalised by batch statistics: then a constant added to a channel of its input has no effect.
    pub fn on_batch(&self) -> bool {
        self.on_batch
    }

    /// Whether its weights train.
    pub fn trains(&self) -> bool {
        self.trains
    }

    /// Whether a ReLU follows.
    pub fn relu(&self) -> bool {
        self.activation == Fused::Relu
    }

    /// The activation that follows, if it isn't a ReLU.
    pub fn clip(&self) -> Option<Activation> {
        match self.activation {
            Fused::Clip { min, max } => Some(Activation::Clip { min, max }),
            Fused::Nothing | Fused::Relu => None,
        }
    }

    /// Scale and shift in evaluation mode, updated if the weights have changed.
    pub fn fold(&mut self, parameters: &Parameters) -> (&[f32], &[f32]) {
        let statistics = self.statistics.as_ref();
        let version = |id: ParameterId| parameters.get(id).version;
        let versions = [
            version(self.weight),
            version(self.bias),
            statistics.map_or(0, |s| version(s.mean)),
            statistics.map_or(0, |s| version(s.variance)),
        ];
        if self.folded_versions != Some(versions) {
            self.folded_versions = Some(versions);
            self.on_batch = false;
            let (weight, bias) = (parameters.value(self.weight), parameters.value(self.bias));
            match statistics {
                Some(s) => {
                    let (mean, variance) = (parameters.value(s.mean), parameters.value(s.variance));
                    for c in 0..self.channels {
                        let inverse_deviation = 1.0 / (f64::from(variance[c]) + f64::from(s.eps)).sqrt();
                        let scale = f64::from(weight[c]) * inverse_deviation;
                        (self.mean[c], self.inverse_deviation[c]) = (mean[c], inverse_deviation as f32);
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

    /// Scale and shift from the batch `x` (rows x channels), whose statistics also update the running ones. With `pooled`, writes
    /// there the element of each 2x2 window that the norm makes the largest.
    fn fold_batch(
        &mut self,
        x: &[f32],
        pooled: Option<(MaxPool2x2, &mut [f32])>,
        parameters: &mut Parameters,
        pool: &Pool,
    ) {
        let Some(s) = &self.statistics else { unreachable!("only called for batch norms") };
        let (channels, rows) = (self.channels, x.len() / self.channels);
        // Sums of the distance to the channel's first element: no cancellation where the mean is large.
        let origin = &x[..channels];
        let sums = match pooled {
            None => self.reduction.sum(pool, rows, &mut [], &Moments { x, origin }),
            Some((shape, y)) => {
                // `slope` is free until the backward pass.
                let sign = &mut self.slope;
                for (sign, &weight) in sign.iter_mut().zip(parameters.value(self.weight)) {
                    *sign = if weight < 0.0 { -1.0 } else { 1.0 };
                }
                self.reduction.sum(pool, y.len() / channels, y, &MomentsAndMax { shape, z: x, origin, sign })
            }
        };
        let count = rows as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        let momentum = f64::from(s.momentum);
        for c in 0..channels {
            let offset = sums[c] / count;
            let mean = f64::from(origin[c]) + offset;
            let variance = (sums[channels + c] / count - offset * offset).max(0.0);
            let inverse_deviation = 1.0 / (variance + f64::from(s.eps)).sqrt();
            let scale = f64::from(parameters.value(self.weight)[c]) * inverse_deviation;
            (self.mean[c], self.inverse_deviation[c]) = (mean as f32, inverse_deviation as f32);
            self.scale[c] = scale as f32;
            self.shift[c] = (f64::from(parameters.value(self.bias)[c]) - mean * scale) as f32;
            let update = |running: &mut f32, new: f64| {
                *running = ((1.0 - momentum) * f64::from(*running) + momentum * new) as f32;
            };
            update(&mut parameters.get_mut(s.mean).value[c], mean);
            update(&mut parameters.get_mut(s.variance).value[c], variance * unbiased);
        }
        parameters.get_mut(s.mean).version += 1;
        parameters.get_mut(s.variance).version += 1;
        self.folded_versions = None;
        self.on_batch = true;
    }

    /// y from x (rows x channels); in `training`, a batch norm that trains uses batch statistics. With `max_pool`, y is pooled.
    ///
    /// A single row has no variance: normalised alone, every input would give the same output. Such a batch (one image at one
    /// position) is normalised by the running statistics, which it does not update. (PyTorch refuses it.)
    pub fn forward(
        &mut self,
        training: bool,
        x: &[f32],
        y: &mut [f32],
        max_pool: Option<MaxPool2x2>,
        parameters: &mut Parameters,
        pool: &Pool,
    ) {
        if training && self.trains && self.statistics.is_some() && x.len() > self.channels {
            match max_pool {
                None => self.fold_batch(x, None, parameters, pool),
                Some(shape) => {
                    self.fold_batch(x, Some((shape, &mut *y)), parameters, pool);
                    let (scale, shift) = (&self.scale[..], &self.shift[..]);
                    return with_activation!(self.activation, |a| scale_and_shift(None, scale, shift, a, y, pool));
                }
            }
        } else {
            self.fold(parameters);
        }
        let (scale, shift) = (&self.scale[..], &self.shift[..]);
        match max_pool {
            Some(shape) => shape.forward(x, Some((scale, shift, self.relu())), y, pool),
            None => with_activation!(self.activation, |a| scale_and_shift(Some(x), scale, shift, a, y, pool)),
        }
    }

    /// Turns `g`, the gradient of y, into that of x, and writes the gradients of the weights if they train.
    ///
    /// x is only read if the layer trains; otherwise `y` gives the ReLU's mask, unless the consumer has applied it (`None`).
    pub fn backward(&mut self, x: &[f32], y: Option<&[f32]>, g: &mut [f32], parameters: &mut Parameters, pool: &Pool) {
        if !self.trains {
            return scale_gradient(g, y.filter(|_| self.relu()), &self.scale, pool);
        }
        with_activation!(self.activation, |a| self.backward_trained(x, g, a, parameters, pool));
    }

    fn backward_trained(
        &mut self,
        x: &[f32],
        g: &mut [f32],
        activation: impl NormActivation,
        parameters: &mut Parameters,
        pool: &Pool,
    ) {
        let rows = g.len() / self.channels;
        let (scale, shift, mean) = (&self.scale[..], &self.shift[..], &self.mean[..]);
        self.reduction.sum(pool, rows, &mut [], &GradientMoments { g, x, mean, scale, shift, activation });
        norm_backward(x, &self.write_gradients(rows, parameters), activation, g, pool);
    }

    /// As [`Norm::backward`] for a layer that trains and whose output is pooled: turns x into its gradient, from the pooled output
    /// `y` and its gradient `gy`.
    pub fn backward_pooled(
        &mut self,
        shape: MaxPool2x2,
        x: &mut [f32],
        y: &[f32],
        gy: &[f32],
        parameters: &mut Parameters,
        pool: &Pool,
    ) {
        match self.relu() {
            true => self.backward_pooled_relu::<true>(shape, x, y, gy, parameters, pool),
            false => self.backward_pooled_relu::<false>(shape, x, y, gy, parameters, pool),
        }
    }

    fn backward_pooled_relu<const RELU: bool>(
        &mut self,
        shape: MaxPool2x2,
        x: &mut [f32],
        y: &[f32],
        gy: &[f32],
        parameters: &mut Parameters,
        pool: &Pool,
    ) {
        let positions = gy.len() / self.channels;
        let (weight, bias) = (parameters.value(self.weight), parameters.value(self.bias));
        let invertible = |c: usize| {
            let offsets = bias[c].abs() + self.shift[c].abs();
            self.scale[c] != 0.0 && offsets <= MAX_CANCELLATION * weight[c].abs()
        };
        if (0..self.channels).all(invertible) {
            let inverse_scale = &mut self.slope;
            inverse_scale.iter_mut().zip(&self.scale).for_each(|(inverse, scale)| *inverse = 1.0 / scale);
            let summand = OutputGradientMoments::<RELU> { y, gy, bias, inverse_scale };
            self.reduction.sum(pool, positions, &mut [], &summand);
        } else {
            let (scale, shift, mean) = (&self.scale[..], &self.shift[..], &self.mean[..]);
            let summand = MaxGradientMoments::<RELU> { shape, z: x, gy, mean, scale, shift };
            self.reduction.sum(pool, positions, &mut [], &summand);
        }
        let rows = x.len() / self.channels;
        shape.backward_norm::<RELU>(&self.write_gradients(rows, parameters), gy, x, pool);
    }

    /// Writes the gradients of the weights, from the sums of g and of g (x - mean) just computed over `rows` rows, and returns the
    /// coefficients of the gradient of x.
    ///
    /// With deviation d: dBias = sum of g; dWeight = sum of g (x - mean) / d; dx = scale (g - dBias / n - (x - mean) / d * dWeight / n)
    /// for batch statistics (Ioffe and Szegedy, section 3), scale g otherwise.
    fn write_gradients(&mut self, rows: usize, parameters: &mut Parameters) -> Coefficients<'_> {
        let count = rows as f64;
        let (bias_sums, weight_sums) = self.reduction.last().split_at(self.channels);
        parameters.write_gradient(self.bias, bias_sums);
        let gradient = &mut parameters.get_mut(self.weight).gradient;
        for c in 0..self.channels {
            let inverse_deviation = f64::from(self.inverse_deviation[c]);
            gradient[c] = (weight_sums[c] * inverse_deviation) as f32;
            if self.on_batch {
                let (scale, mean) = (f64::from(self.scale[c]), f64::from(self.mean[c]));
                let slope = -scale * inverse_deviation * inverse_deviation * weight_sums[c] / count;
                self.slope[c] = slope as f32;
                self.constant[c] = (-scale * bias_sums[c] / count - slope * mean) as f32;
            } else {
                (self.slope[c], self.constant[c]) = (0.0, 0.0);
            }
        }
        Coefficients { scale: &self.scale, shift: &self.shift, slope: &self.slope, constant: &self.constant }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        6 * size_of::<f32>() * self.channels + self.reduction.bytes()
    }
}

impl Operation for Norm {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: self.trains, output: self.applies_relu_backward() }
    }

    fn applies_relu_backward(&self) -> bool {
        !self.trains && self.relu() && !self.fused_relu_backward
    }

    fn set_fused_relu_backward(&mut self) {
        self.fused_relu_backward = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        Norm::forward(self, cx.training, x.get(0), y, None, cx.parameters, cx.pool);
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let x = if self.trains { x.get(0) } else { &[] };
        let y = (!self.fused_relu_backward).then_some(y);
        Norm::backward(self, x, y, gy, cx.parameters, cx.pool);
    }

    fn bytes(&self) -> usize {
        Norm::bytes(self)
    }
}
