//! Optimisers: PyTorch's update rules, and the step that applies them.

use nettriage_kernels::pool::{Chunks, Parts, Pool};
use nettriage_kernels::simd::vectorised;
use nettriage_net::Weights;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::parameters::{Parameter, Parameters};

/// The rule that updates the weights from their gradients. Weight decay applies to every trainable weight, as in PyTorch, unless
/// [`Options::decay_all`](crate::Options::decay_all) is off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent as `torch.optim.SGD` defines it (dampening 0):
    /// g += decay w; v = momentum v + g; w -= rate (nesterov ? g + momentum v : v).
    Sgd {
        /// Momentum coefficient; 0 for none.
        momentum: f32,
        /// Whether to use Nesterov momentum.
        nesterov: bool,
        /// L2 penalty: `weight_decay` times the weight is added to its gradient.
        weight_decay: f32,
    },
    /// AdamW (Loshchilov and Hutter, arXiv:1711.05101, algorithm 2) as `torch.optim.AdamW` defines it.
    AdamW {
        /// Decay rates of the first and the second moment.
        betas: (f32, f32),
        /// Added to the square root of the second moment.
        eps: f32,
        /// Decoupled weight decay: each step multiplies the weights by 1 - rate `weight_decay`.
        weight_decay: f32,
    },
}

impl Optimizer {
    /// SGD with momentum 0.9 and no weight decay.
    pub fn sgd() -> Optimizer {
        Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
    }

    /// Which state tensors each trainable weight has: the first (velocity or first moment) and the second (second moment).
    pub(crate) fn state(self) -> OptimizerState {
        match self {
            Optimizer::Sgd { momentum, .. } => OptimizerState { first: momentum != 0.0, second: false },
            Optimizer::AdamW { .. } => OptimizerState { first: true, second: true },
        }
    }
}

/// Everything that an optimiser remembers between steps. With the weights it continues a training to the bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerMemory {
    /// Steps taken.
    pub steps: u64,
    /// Velocity or first moment of each trainable weight; empty if the rule has none.
    pub first: Weights,
    /// Second moment of each trainable weight; empty if the rule has none.
    pub second: Weights,
}

/// The state tensors that an optimiser keeps for each trainable weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptimizerState {
    /// Velocity or first moment.
    pub first: bool,
    /// Second moment.
    pub second: bool,
}

/// Elements per task; fixed, because the gradient's norm is summed chunk by chunk.
const CHUNK: usize = 1 << 15;

/// Applies an [`Optimizer`] and counts its steps.
pub(crate) struct Updater {
    rule: Optimizer,
    /// Whether weights of one axis decay.
    decay_all: bool,
    steps: i32,
    /// Sums of squares of one gradient's chunks.
    partial: Vec<f64>,
}

impl Updater {
    /// For the trainable weights of `parameters`.
    pub fn new(rule: Optimizer, decay_all: bool, parameters: &Parameters) -> Updater {
        let largest = parameters.trainable().map(|parameter| parameter.len).max().unwrap_or(0);
        Updater { rule, decay_all, steps: 0, partial: vec![0.0; largest.div_ceil(CHUNK)] }
    }

    /// One step with the given learning rate. Where the gradient's global norm exceeds `clip`, the gradient is scaled down to
    /// that norm, as by `torch.nn.utils.clip_grad_norm_`. Returns the norm before clipping, or `None` without `clip`.
    pub fn step(&mut self, parameters: &mut Parameters, rate: f32, clip: Option<f32>, pool: &Pool) -> Option<f32> {
        let norm = clip.map(|_| {
            let squares: f64 =
                parameters.trainable().map(|parameter| self.sum_of_squares(&parameter.gradient, pool)).sum();
            squares.sqrt() as f32
        });
        // PyTorch: max_norm / (norm + 1e-6), at most 1. A NaN norm makes the scale NaN too, so that divergence stays visible.
        let scale = clip.zip(norm).map_or(1.0, |(clip, norm)| clip / (norm + 1e-6));
        let scale = if scale >= 1.0 { 1.0 } else { scale };
        self.steps = self.steps.saturating_add(1);
        for parameter in parameters.trainable_mut() {
            self.update(parameter, rate, scale, pool);
            parameter.version += 1;
        }
        norm
    }

    /// What is remembered between steps.
    pub fn memory(&self, parameters: &Parameters) -> OptimizerMemory {
        OptimizerMemory {
            steps: u64::from(self.steps.unsigned_abs()),
            first: parameters.export_state(|parameter| &parameter.first),
            second: parameters.export_state(|parameter| &parameter.second),
        }
    }

    /// Continues from what [`Updater::memory`] returned; on an error nothing changes.
    pub fn restore(&mut self, parameters: &mut Parameters, memory: &OptimizerMemory) -> Result<(), Error> {
        parameters.check_state(&memory.first, |parameter| &parameter.first)?;
        parameters.check_state(&memory.second, |parameter| &parameter.second)?;
        parameters.import_state(&memory.first, |parameter| &mut parameter.first);
        parameters.import_state(&memory.second, |parameter| &mut parameter.second);
        self.steps = i32::try_from(memory.steps).unwrap_or(i32::MAX);
        Ok(())
    }

    fn sum_of_squares(&mut self, gradient: &[f32], pool: &Pool) -> f64 {
        let chunks = gradient.len().div_ceil(CHUNK);
        let partial = &mut self.partial[..chunks];
        pool.each(chunks, Chunks::new(partial, 1), |i, sum| sum[0] = sum_of_squares(chunk(gradient, i)));
        partial.iter().sum()
    }

    /// Updates one weight from its gradient times `scale`.
    fn update(&self, parameter: &mut Parameter, rate: f32, scale: f32, pool: &Pool) {
        let decays = self.decay_all || parameter.shape.len() > 1;
        let decay = |weight_decay: f32| if decays { weight_decay } else { 0.0 };
        let Parameter { value, gradient, first, second, .. } = parameter;
        let gradient = &gradient[..];
        let tasks = value.len().div_ceil(CHUNK);
        match self.rule {
            Optimizer::Sgd { momentum: 0.0, weight_decay, .. } => {
                let weight_decay = decay(weight_decay);
                each(
                    pool,
                    tasks,
                    Chunks::new(value, CHUNK),
                    #[inline(always)]
                    |i, w| {
                        for (w, &g) in w.iter_mut().zip(chunk(gradient, i)) {
                            *w -= rate * (g * scale + weight_decay * *w);
                        }
                    },
                );
            }
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                let weight_decay = decay(weight_decay);
                each(
                    pool,
                    tasks,
                    (Chunks::new(value, CHUNK), Chunks::new(first, CHUNK)),
                    #[inline(always)]
                    |i, (w, v)| {
                        for ((w, v), &g) in w.iter_mut().zip(v).zip(chunk(gradient, i)) {
                            let g = g * scale + weight_decay * *w;
                            *v = momentum * *v + g;
                            *w -= rate * if nesterov { g + momentum * *v } else { *v };
                        }
                    },
                );
            }
            Optimizer::AdamW { betas: (b1, b2), eps, weight_decay } => {
                let bias_correction = |beta: f32| 1.0 - f64::from(beta).powi(self.steps);
                let step_size = (f64::from(rate) / bias_correction(b1)) as f32;
                let root_correction = bias_correction(b2).sqrt() as f32;
                let decay = 1.0 - rate * decay(weight_decay);
                each(
                    pool,
                    tasks,
                    (Chunks::new(value, CHUNK), Chunks::new(first, CHUNK), Chunks::new(second, CHUNK)),
                    #[inline(always)]
                    |i, (w, m, v)| {
                        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(chunk(gradient, i)) {
                            let g = g * scale;
                            *m += (1.0 - b1) * (g - *m);
                            *v = b2 * *v + (1.0 - b2) * g * g;
                            *w = *w * decay - step_size * (*m / (v.sqrt() / root_correction + eps));
                        }
                    },
                );
            }
        }
    }

    /// Bytes held beside the weights' own state.
    pub fn bytes(&self) -> usize {
        size_of::<f64>() * self.partial.len()
    }
}

/// The part of `gradient` that task `i` works on.
#[inline(always)]
fn chunk(gradient: &[f32], i: usize) -> &[f32] {
    &gradient[i * CHUNK..((i + 1) * CHUNK).min(gradient.len())]
}

/// [`Pool::each`] with `f` compiled for the chosen instruction set.
fn each<P: Parts>(pool: &Pool, tasks: usize, parts: P, f: impl Fn(usize, P::Item) + Sync) {
    pool.each(tasks, parts, |i, part| {
        vectorised(
            #[inline(always)]
            || f(i, part),
        );
    });
}

#[inline(always)]
fn sum_of_squares(data: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let (blocks, rest) = data.as_chunks::<8>();
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane += f64::from(v) * f64::from(v);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
}
