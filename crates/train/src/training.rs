//! The training loop: one stage, batch after batch.

use std::ops::Range;

use nettriage_engine::{Schedule, WeightAverage};
use nettriage_net::{Network, Weights};
use serde::{Deserialize, Serialize};

use crate::evaluate::EVALUATION_BATCH;
use crate::model::{InnerTarget, MixedLabels, Model, Target};
use crate::source::{ActivationSource, ImageSequence, before};
use crate::teacher::Teacher;
use crate::{Device, Error};

/// Settings of a training that most do without. Their defaults change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Share of the steps, at the beginning, over which the learning rate rises in a straight line to its largest value; the
    /// schedule runs over the others.
    #[serde(skip_serializing_if = "is_zero")]
    pub warmup: f64,
    /// Share of the labels' weight that is spread over all classes, in stages that minimise cross-entropy alone.
    #[serde(skip_serializing_if = "is_none")]
    pub label_smoothing: f32,
    /// Whether weight decay applies to biases and to the scales and shifts of norms, as to kernels.
    #[serde(skip_serializing_if = "is_true")]
    pub decay_all: bool,
    /// Decay of the exponential moving average of the weights, which then takes the place of the weights in every evaluation and
    /// at the end of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f32>,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe { warmup: 0.0, label_smoothing: 0.0, decay_all: true, average: None }
    }
}

impl Recipe {
    /// Whether it changes nothing.
    pub fn is_default(&self) -> bool {
        *self == Recipe::default()
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_none(value: &f32) -> bool {
    *value == 0.0
}

fn is_true(value: &bool) -> bool {
    *value
}

/// Hyper-parameters of a stage.
#[derive(Clone, Copy, Debug)]
pub struct HyperParameters {
    /// Images in a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f32,
    /// Learning-rate schedule, run once through.
    pub schedule: Schedule,
    /// What else decides how the stage trains.
    pub recipe: Recipe,
    /// Largest norm of the gradient; longer gradients are scaled down to it.
    pub clip: Option<f32>,
    /// Seed of the dropout masks; step k of the stage uses this plus k.
    pub dropout_seed: u64,
}

impl HyperParameters {
    /// The learning rate of step `step`, counted from 0, of `steps`.
    pub fn rate_at(&self, step: usize, steps: usize) -> f32 {
        let warmup = (self.recipe.warmup * steps as f64).round() as usize;
        if step < warmup {
            return (f64::from(self.rate) * (step + 1) as f64 / (warmup + 1) as f64) as f32;
        }
        self.schedule.rate(self.rate, step - warmup, steps - warmup)
    }
}

/// What a stage minimises, with the tensors that it needs.
pub enum Objective<'a> {
    /// Cross-entropy against the labels, softened by [`Recipe::label_smoothing`].
    CrossEntropy,
    /// Distillation against the parent's logits and the labels.
    Distillation {
        /// The parent's logits, and the ends of its blocks if these are compared.
        teacher: Teacher<'a>,
        /// Temperature T.
        temperature: f32,
        /// Weight of the soft targets.
        alpha: f32,
    },
    /// Mean squared error against a tensor of the parent.
    Hint {
        /// The parent's tensor, and the ends of its blocks if these are compared.
        target: Teacher<'a>,
        /// The layers behind the block: they run, their output unused, if the optimisation that skips them is disabled.
        rest: Option<Box<Model>>,
    },
}

/// What the tensors of a step are compared with.
struct Targets<'t> {
    output: Target<'t>,
    inner: Vec<InnerTarget<'t>>,
    /// The network that runs behind the output.
    behind: Option<&'t mut Model>,
}

impl Objective<'_> {
    /// Prepares a stage on `images`.
    fn begin(&mut self, images: Range<usize>) -> Result<(), Error> {
        match self {
            Objective::CrossEntropy => Ok(()),
            Objective::Distillation { teacher, .. } | Objective::Hint { target: teacher, .. } => teacher.weigh(images),
        }
    }

    /// What the outputs for the images of `range` are compared with.
    fn targets<'t>(
        &'t mut self,
        labels: &'t [u16],
        range: Range<usize>,
        smoothing: f32,
        mixed: Option<MixedLabels<'t>>,
    ) -> Result<Targets<'t>, Error> {
        Ok(match self {
            Objective::CrossEntropy => {
                let output = Target::Labels { labels: &labels[range], smoothing, mixed };
                Targets { output, inner: Vec::new(), behind: None }
            }
            Objective::Distillation { teacher, temperature, alpha } => {
                let (temperature, alpha) = (*temperature, *alpha);
                let (logits, inner) = teacher.batch(range.clone())?;
                let output = Target::Teacher { labels: &labels[range], logits, temperature, alpha, mixed };
                Targets { output, inner, behind: None }
            }
            Objective::Hint { target, rest } => {
                let (values, inner) = target.batch(range)?;
                Targets { output: Target::Values(values), inner, behind: rest.as_deref_mut() }
            }
        })
    }
}

/// What is mixed into the examples of a step.
pub(crate) struct Mixture {
    others: Vec<u16>,
    own: Vec<f32>,
}

impl Mixture {
    /// That of the examples `range` of a source, whose images have the classes `labels`; none without mixup.
    pub fn of(source: &ActivationSource<'_>, labels: &[u16], range: Range<usize>) -> Option<Mixture> {
        let own = source.own_shares(range.clone())?;
        Some(Mixture { others: range.map(|place| labels[before(place)]).collect(), own })
    }

    /// As a target takes it.
    pub fn labels(&self) -> MixedLabels<'_> {
        MixedLabels { others: &self.others, own: &self.own }
    }
}

/// What the caller of [`run_stage`] learns after every step.
#[derive(Clone, Copy, Debug)]
pub struct StageStep {
    /// Images of the stage seen so far.
    pub seen: usize,
    /// Mean loss over the step's images.
    pub loss: f64,
    /// Images in the step.
    pub images: usize,
    /// Steps of the stage taken so far.
    pub taken: usize,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageOutcome {
    /// All steps were taken.
    Completed,
    /// The loss became infinite or NaN.
    Diverged,
}

/// The first layer of `network` whose output is not finite for the images `range` of a sequence, in a sentence; none if all outputs
/// are finite in evaluation mode. For the message after a loss that is not finite.
///
/// # Errors
/// Those of the source and of the engine.
pub fn first_non_finite(
    network: &Network,
    images: &ImageSequence<'_>,
    range: Range<usize>,
) -> Result<Option<String>, Error> {
    let mut source = ActivationSource::images(&Device::Cpu, images.clone(), EVALUATION_BATCH.min(range.len().max(1)));
    for start in range.clone().step_by(EVALUATION_BATCH) {
        let batch = source.values(start..range.end.min(start + EVALUATION_BATCH))?;
        if let Some(found) = nettriage_engine::first_non_finite(network, batch)? {
            return Ok(Some(found.to_string()));
        }
    }
    Ok(None)
}

/// What a stage trains on.
pub struct StageInput<'s, 'a> {
    /// What the model reads.
    pub source: &'s mut ActivationSource<'a>,
    /// One class per image of the source.
    pub labels: &'s [u16],
    /// The stage's images in the source.
    pub images: Range<usize>,
    /// Steps that the model has taken before, in a process that was interrupted. Those that are left give the same bits as in a
    /// stage that was not.
    pub taken: usize,
    /// The average of the weights over these steps, by [`Recipe::average`].
    pub average: Option<Weights>,
}

/// A model in training.
#[derive(Clone, Copy)]
pub struct Trained<'m> {
    /// The model.
    pub model: &'m Model,
    average: Option<&'m WeightAverage>,
}

impl Trained<'_> {
    /// The weights to evaluate and to keep: the averaged ones, if the recipe has an average, and the model's statistics.
    ///
    /// # Errors
    /// The model's device fails.
    pub fn weights(&self) -> Result<Weights, Error> {
        let mut weights = self.model.weights()?;
        weights.extend(self.averaged());
        Ok(weights)
    }

    /// The averaged weights; empty without an average.
    pub fn averaged(&self) -> Weights {
        self.average.map_or_else(Weights::new, |average| average.weights().clone())
    }
}

/// Trains `model` on a stage's images; calls `after` after every step. Returns how it ended, with the weights to keep.
///
/// # Errors
/// Those of the sources, of the model and of `after`.
pub fn run_stage<E: From<Error>>(
    model: &mut Model,
    input: StageInput<'_, '_>,
    objective: &mut Objective<'_>,
    hyper: &HyperParameters,
    mut after: impl FnMut(Trained<'_>, StageStep) -> Result<(), E>,
) -> Result<(StageOutcome, Weights), E> {
    let StageInput { source, labels, images, taken, average } = input;
    let mut average = hyper.recipe.average.map(|decay| WeightAverage::resumed(decay, average.unwrap_or_default()));
    let steps = images.len().div_ceil(hyper.batch);
    objective.begin(images.clone())?;
    for step in taken..steps {
        let start = images.start + step * hyper.batch;
        let range = start..images.end.min(start + hyper.batch);
        let mixture = Mixture::of(source, labels, range.clone());
        let batch = source.batch(range.clone())?;
        let mixed = mixture.as_ref().map(Mixture::labels);
        let Targets { output, inner, behind } =
            objective.targets(labels, range.clone(), hyper.recipe.label_smoothing, mixed)?;
        let seed = hyper.dropout_seed.wrapping_add(step as u64);
        let loss = model.differentiate(batch, seed, output, &inner, behind)?;
        if !loss.is_finite() {
            return Ok((StageOutcome::Diverged, model.weights()?));
        }
        model.step(hyper.rate_at(step, steps), hyper.clip)?;
        if let Some(average) = &mut average {
            average.update(&model.weights()?, |name| model.trains(name));
        }
        let trained = Trained { model, average: average.as_ref() };
        after(trained, StageStep { seen: range.end - images.start, loss, images: range.len(), taken: step + 1 })?;
    }
    let weights = Trained { model, average: average.as_ref() }.weights()?;
    Ok((StageOutcome::Completed, weights))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_and_then_follows_the_schedule() {
        let recipe = Recipe { warmup: 0.1, ..Recipe::default() };
        let plain = HyperParameters {
            batch: 1,
            rate: 0.4,
            schedule: Schedule::Cosine,
            recipe: Recipe::default(),
            clip: None,
            dropout_seed: 0,
        };
        let warm = HyperParameters { recipe, ..plain };
        let rates: Vec<f32> = (0..40).map(|step| warm.rate_at(step, 40)).collect();
        for (rate, expected) in rates[..4].iter().zip([0.08, 0.16, 0.24, 0.32]) {
            assert!((rate - expected).abs() < 1e-7, "{rate}, not {expected}");
        }
        assert!((4..40).all(|step| rates[step] == Schedule::Cosine.rate(0.4, step - 4, 36)));
        assert!((0..40).all(|step| plain.rate_at(step, 40) == Schedule::Cosine.rate(0.4, step, 40)));
    }
}
