//! The exponential moving average of the weights over the steps of a training.

use nettriage_net::Weights;

/// The exponential moving average of the trainable weights, as `torch.optim.swa_utils.AveragedModel` with
/// `get_ema_multi_avg_fn(decay)`: after the first step the weights themselves, then `decay` average + (1 - `decay`) weights.
/// Running statistics are not averaged.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightAverage {
    decay: f32,
    weights: Weights,
}

impl WeightAverage {
    /// Before the first step.
    pub fn new(decay: f32) -> WeightAverage {
        WeightAverage { decay, weights: Weights::new() }
    }

    /// Continues from the averaged weights of an interrupted training.
    pub fn resumed(decay: f32, weights: Weights) -> WeightAverage {
        WeightAverage { decay, weights }
    }

    /// Adds the weights after a step; `trains` says which of them train.
    pub fn update(&mut self, weights: &Weights, trains: impl Fn(&str) -> bool) {
        if self.weights.is_empty() {
            self.weights =
                weights.iter().filter(|(name, _)| trains(name)).map(|(n, t)| (n.clone(), t.clone())).collect();
            return;
        }
        for (name, average) in &mut self.weights {
            let Some(current) = weights.get(name) else { continue };
            for (average, &value) in average.data.iter_mut().zip(&current.data) {
                *average = self.decay * *average + (1.0 - self.decay) * value;
            }
        }
    }

    /// The averaged weights; empty before the first step.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}
