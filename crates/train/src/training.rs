//! The training loop: one stage, batch after batch.

use std::ops::Range;

use nettriage_engine::{Model, Schedule, loss};

use crate::Error;
use crate::source::ActivationSource;

/// Hyper-parameters of a stage.
#[derive(Clone, Copy, Debug)]
pub struct HyperParameters {
    /// Images in a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f32,
    /// Learning-rate schedule, run once through.
    pub schedule: Schedule,
    /// Largest norm of the gradient; longer gradients are scaled down to it.
    pub clip: Option<f32>,
    /// Seed of the dropout masks; step k of the stage uses this plus k.
    pub dropout_seed: u64,
}

/// What a stage minimises, with the tensors that it needs.
pub enum Objective<'a> {
    /// Cross-entropy against the labels.
    CrossEntropy,
    /// Distillation against the parent's logits and the labels.
    Distillation {
        /// The parent's logits.
        teacher: ActivationSource<'a>,
        /// Temperature T.
        temperature: f32,
        /// Weight of the soft targets.
        alpha: f32,
    },
    /// Mean squared error against the parent's block output.
    Hint {
        /// The parent's block output.
        target: ActivationSource<'a>,
        /// The layers behind the block: they run, their output unused, if the optimisation that skips them is disabled.
        rest: Option<Box<Model>>,
    },
}

impl Objective<'_> {
    /// Mean loss over the images of `range`; writes its gradient with respect to `output` to `grad`.
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
}

/// Trains `model` on a stage's images; calls `after` after every step.
///
/// # Errors
/// Those of the sources and of `after`.
pub fn run_stage<E: From<Error>>(
    model: &mut Model,
    input: StageInput<'_, '_>,
    objective: &mut Objective<'_>,
    hyper: &HyperParameters,
    mut after: impl FnMut(&Model, StageStep) -> Result<(), E>,
) -> Result<StageOutcome, E> {
    let StageInput { source, labels, images, taken } = input;
    let steps = images.len().div_ceil(hyper.batch);
    let mut grad = Vec::new();
    for step in taken..steps {
        let start = images.start + step * hyper.batch;
        let range = start..images.end.min(start + hyper.batch);
        let batch = source.batch(range.clone())?;
        let output = model.forward_train(batch, hyper.dropout_seed.wrapping_add(step as u64));
        grad.resize(output.len(), 0.0);
        let loss = objective.evaluate(output, labels, range.clone(), &mut grad)?;
        if !loss.is_finite() {
            return Ok(StageOutcome::Diverged);
        }
        model.backward(batch, &grad);
        model.step(hyper.schedule.rate(hyper.rate, step, steps), hyper.clip);
        after(model, StageStep { seen: range.end - images.start, loss, images: range.len(), taken: step + 1 })?;
    }
    Ok(StageOutcome::Completed)
}
