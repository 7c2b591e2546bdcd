//! The optimiser's step: gradients to weights, by PyTorch's formulas.

use nettriage_kernels::pool::{Chunks, Parts, Pool};
use nettriage_kernels::simd::vectorised;

use crate::Optimizer;
use crate::params::{Param, Params};

/// Elements a task works on; fixed, because the gradient's norm is summed by these chunks.
const CHUNK: usize = 1 << 15;

/// The rule, with what it counts from step to step.
pub(crate) struct Update {
    rule: Optimizer,
    steps: i32,
    squares: Vec<f64>,
}

impl Update {
    /// Gives every trainable weight the state that the rule needs.
    pub fn new(rule: Optimizer, params: &mut Params) -> Update {
        let (first, second) = match rule {
            Optimizer::Sgd { momentum, .. } => (momentum != 0.0, false),
            Optimizer::AdamW { .. } => (true, true),
        };
        params.make_room(first, second);
        let largest = params.trainable().map(|param| param.value.len()).max().unwrap_or(0);
        Update { rule, steps: 0, squares: vec![0.0; largest.div_ceil(CHUNK)] }
    }

    /// One step with the given rate. Gradients are scaled down to the norm `clip` where they exceed it, as
    /// `torch.nn.utils.clip_grad_norm_` does. Returns the norm before that, if it was wanted.
    pub fn step(&mut self, params: &mut Params, rate: f32, clip: Option<f32>, pool: &Pool) -> Option<f32> {
        let norm = clip.map(|_| {
            let squares: f64 = params.trainable().map(|param| self.square(&param.gradient, pool)).sum();
            squares.sqrt() as f32
        });
        // PyTorch: max_norm / (norm + 1e-6), at most 1. A norm that is not finite must not turn into a step that looks sound.
        let scale = clip.zip(norm).map_or(1.0, |(clip, norm)| clip / (norm + 1e-6));
        let scale = if scale >= 1.0 { 1.0 } else { scale };
        self.steps = self.steps.saturating_add(1);
        for param in params.trainable() {
            self.apply(param, rate, scale, pool);
            param.version += 1;
        }
        norm
    }

    fn square(&mut self, gradient: &[f32], pool: &Pool) -> f64 {
        let chunks = gradient.len().div_ceil(CHUNK);
        let squares = &mut self.squares[..chunks];
        pool.each(chunks, Chunks::new(squares, 1), |i, square| {
            let start = i * CHUNK;
            square[0] = sum_of_squares(&gradient[start..(start + CHUNK).min(gradient.len())]);
        });
        squares.iter().sum()
    }

    /// Applies the rule to one weight.
    fn apply(&self, param: &mut Param, rate: f32, scale: f32, pool: &Pool) {
        let Param { value, gradient, first, second, .. } = param;
        let gradient = &gradient[..];
        let tasks = value.len().div_ceil(CHUNK);
        let part = |i: usize| &gradient[i * CHUNK..((i + 1) * CHUNK).min(gradient.len())];
        match self.rule {
            Optimizer::Sgd { momentum: 0.0, weight_decay, .. } => {
                each(
                    pool,
                    tasks,
                    Chunks::new(value, CHUNK),
                    #[inline(always)]
                    |i, w| {
                        for (w, &g) in w.iter_mut().zip(part(i)) {
                            *w -= rate * (g * scale + weight_decay * *w);
                        }
                    },
                );
            }
            Optimizer::Sgd { momentum, nesterov, weight_decay } => {
                let parts = (Chunks::new(value, CHUNK), Chunks::new(first, CHUNK));
                each(
                    pool,
                    tasks,
                    parts,
                    #[inline(always)]
                    |i, (w, v)| {
                        for ((w, v), &g) in w.iter_mut().zip(v).zip(part(i)) {
                            let g = g * scale + weight_decay * *w;
                            *v = momentum * *v + g;
                            *w -= rate * if nesterov { g + momentum * *v } else { *v };
                        }
                    },
                );
            }
            Optimizer::AdamW { betas: (b1, b2), eps, weight_decay } => {
                let correct = |beta: f32| 1.0 - f64::from(beta).powi(self.steps);
                let size = (f64::from(rate) / correct(b1)) as f32;
                let root = correct(b2).sqrt() as f32;
                let keep = 1.0 - rate * weight_decay;
                let parts = (Chunks::new(value, CHUNK), Chunks::new(first, CHUNK), Chunks::new(second, CHUNK));
                each(
                    pool,
                    tasks,
                    parts,
                    #[inline(always)]
                    |i, (w, m, v)| {
                        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(part(i)) {
                            let g = g * scale;
                            *m += (1.0 - b1) * (g - *m);
                            *v = b2 * *v + (1.0 - b2) * g * g;
                            *w = *w * keep - size * (*m / (v.sqrt() / root + eps));
                        }
                    },
                );
            }
        }
    }

    /// Bytes held beside the weights' own state.
    pub fn bytes(&self) -> usize {
        8 * self.squares.len()
    }
}

/// [`Pool::each`], compiled for the processor at hand.
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
    let (eights, rest) = data.as_chunks::<8>();
    for eight in eights {
        for (lane, &v) in lanes.iter_mut().zip(eight) {
            *lane += f64::from(v) * f64::from(v);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
}
