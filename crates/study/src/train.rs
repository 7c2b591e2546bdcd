//! The training loop: one stage, batch after batch.

use std::ops::Range;

use nettriage_engine::{Model, Schedule, loss};

use crate::Error;
use crate::feed::Feed;

/// How a stage steps.
pub struct Pace {
    /// Images in a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f32,
    /// Learning-rate schedule, run once through.
    pub schedule: Schedule,
    /// Largest norm of the gradient.
    pub clip: Option<f32>,
    /// Seed of dropout.
    pub noise: u64,
}

/// What a stage minimises, with what it needs for it.
pub enum Objective<'a> {
    /// Against labels.
    CrossEntropy,
    /// Against the parent's logits and the labels.
    Distillation {
        /// The parent's logits.
        teacher: Feed<'a>,
        /// Temperature T.
        temperature: f32,
        /// Weight of the soft targets.
        alpha: f32,
    },
    /// Against the parent's block output.
    Hint {
        /// The parent's block output.
        target: Feed<'a>,
        /// The layers behind it, run for nothing where the study is told not to save them.
        rest: Option<Box<Model>>,
    },
}

impl Objective<'_> {
    /// Mean loss over the images of `range`, its gradient in `grad`.
    fn evaluate(
        &mut self,
        output: &[f32],
        labels: &[u16],
        range: Range<usize>,
        grad: &mut [f32],
    ) -> Result<f64, Error> {
        let classes = output.len() / range.len();
        Ok(match self {
            Objective::CrossEntropy => loss::cross_entropy(output, &labels[range], classes, grad),
            Objective::Distillation { teacher, temperature, alpha } => {
                let teacher = teacher.batch(range.clone())?;
                loss::distillation(output, teacher, &labels[range], classes, *temperature, *alpha, grad)
            }
            Objective::Hint { target, rest } => {
                if let Some(rest) = rest {
                    std::hint::black_box(rest.forward(output));
                }
                loss::mean_squared(output, target.batch(range)?, grad)
            }
        })
    }
}

/// What the caller of [`stage`] learns after every step.
pub struct Step {
    /// Images of the stage seen so far.
    pub seen: usize,
    /// Mean loss over the step's images.
    pub loss: f64,
    /// Images in the step.
    pub images: usize,
}

/// Whether a stage goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next step.
    Continue,
    /// The loss is no finite number.
    Diverged,
}

/// Trains `model` on the images `images` of `feed`, calling `after` at every step.
pub fn stage(
    model: &mut Model,
    feed: &mut Feed<'_>,
    labels: &[u16],
    images: Range<usize>,
    objective: &mut Objective<'_>,
    pace: &Pace,
    mut after: impl FnMut(&Model, Step) -> Result<(), Error>,
) -> Result<Flow, Error> {
    let steps = images.len().div_ceil(pace.batch);
    let mut grad = Vec::new();
    for step in 0..steps {
        let start = images.start + step * pace.batch;
        let range = start..images.end.min(start + pace.batch);
        let inputs = feed.batch(range.clone())?;
        let output = model.forward_train(inputs, pace.noise.wrapping_add(step as u64));
        grad.resize(output.len(), 0.0);
        let loss = objective.evaluate(output, labels, range.clone(), &mut grad)?;
        if !loss.is_finite() {
            return Ok(Flow::Diverged);
        }
        model.backward(inputs, &grad);
        model.step(pace.schedule.rate(pace.rate, step, steps), pace.clip);
        after(model, Step { seen: range.end - images.start, loss, images: range.len() })?;
    }
    Ok(Flow::Continue)
}
