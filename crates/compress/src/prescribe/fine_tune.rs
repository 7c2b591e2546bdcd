//! Fine-tuning of a network after surgery, by the one training loop.

use nettriage_data::{Augmentation, Dataset, Normalization, Stream};
use nettriage_engine::{Optimizer, Options as EngineOptions, Schedule, Trainable};
use nettriage_net::Network;
use nettriage_records::checkpoint::{Checkpoint, Tensors, TrainingState};
use nettriage_records::scan::Measure;
use nettriage_train::scheme::{Loss, Stage, Train};
use nettriage_train::{
    AVERAGE, ActivationSource, Checkpoints, Device, HyperParameters, ImageSequence, NETWORK, Objective, Precision,
    PrefixOptions, Recipe, StageInput, StageOutcome, StageStep, Teacher, Trained, add_optimizer, add_tensors,
    restore_optimizer, run_stage, seed, tensors_of,
};
use serde::Serialize;

use super::Built;
use crate::Error;
use crate::scan::Options;

/// How a network is fine-tuned after surgery.
#[derive(Clone, Debug, Serialize)]
pub struct FineTuning {
    /// Loss and trained layers.
    pub stage: Stage,
    /// Images seen in all.
    pub images: usize,
    /// Images in a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f32,
    /// Optimiser.
    pub optimizer: Optimizer,
    /// Learning-rate schedule, run once through.
    pub schedule: Schedule,
    /// What else decides how it trains.
    #[serde(skip_serializing_if = "Recipe::is_default")]
    pub recipe: Recipe,
    /// Largest norm of the gradient; longer gradients are scaled down to it.
    pub clip: Option<f32>,
    /// Augmentation of training images.
    pub augment: Augmentation,
    /// What the outputs are. Labels are used for [`Measure::Accuracy`] alone; other networks learn from the parent's outputs: one
    /// vector of classes by distillation, any other output by the mean squared difference.
    pub measure: Measure,
    /// Seed of the order of images.
    pub seed: u64,
}

/// The images that a network is fine-tuned on.
#[derive(Clone, Copy)]
pub struct TrainingSet<'a> {
    /// The data set.
    pub data: &'a Dataset,
    /// Normalisation of pixels.
    pub normalization: &'a Normalization,
    /// Training images, indices into `data.train`.
    pub train: &'a [u32],
}

/// Fine-tunes a network after surgery. If the loss diverges, the reason in a sentence.
///
/// `progress` receives the steps taken and the steps in all. With `saved`, checkpoints and the training's id, it continues from its
/// last checkpoint, if there is one.
///
/// # Errors
/// Those of the engine and of checkpoints.
pub fn fine_tune(
    Built { network, substitute_layers, ends }: &Built,
    parent: &Network,
    (set, tuning): &(TrainingSet<'_>, FineTuning),
    options: &Options,
    saved: Option<(&Checkpoints, &str)>,
    progress: &dyn Fn(usize, usize),
) -> Result<Result<Network, String>, Error> {
    let (device, threads) = (&options.device, options.threads);
    let trainable = match tuning.stage.train {
        Train::All => Trainable::All,
        Train::Substitute => Trainable::Layers(substitute_layers.clone()),
    };
    let decay_all = tuning.recipe.decay_all;
    let training = EngineOptions { decay_all, ..EngineOptions::training(tuning.batch, tuning.optimizer) };
    let found = match saved {
        Some((checkpoints, id)) => checkpoints.find(id, &network.weights)?,
        None => None,
    };
    let mut start = network.clone();
    let (mut taken, mut average) = (0, None);
    if let Some(found) = &found {
        start.weights = tensors_of(&found.tensors, NETWORK);
        taken = found.state.step;
        average = Some(tensors_of(&found.tensors, AVERAGE));
    }
    let ends = if tuning.stage.beta == 0.0 { &[] } else { &ends[..] };
    let compared = ends.iter().map(|end| end.child.clone()).collect();
    let mut model = device.model(&start, &EngineOptions { threads, trainable, compared, ..training })?;
    if let Some(found) = &found {
        restore_optimizer(&mut model, &found.tensors, found.state.optimizer_steps)?;
    }
    let seed = seed::seed("fine-tuning", &[&tuning.seed.to_string()]);
    let sequence = ImageSequence {
        images: &set.data.train,
        shape: set.data.shape(),
        normalization: set.normalization,
        augmentation: tuning.augment,
        examples: Stream::new(set.train, tuning.images, &tuning.augment, seed).examples,
    };
    let labelled = tuning.measure == Measure::Accuracy;
    let teacher = || -> Result<Teacher<'_>, Error> {
        let options = PrefixOptions { device: device.clone(), threads, exact: false, precision: Precision::F32 };
        if ends.is_empty() {
            let output = ActivationSource::computed(sequence.clone(), parent.clone(), None, tuning.batch, options)?;
            return Ok(output.into());
        }
        let images = ActivationSource::images(device, sequence.clone(), tuning.batch);
        Ok(Teacher::of_network(images, parent, ends, tuning.stage.beta, &options)?)
    };
    let mut objective = match tuning.measure {
        Measure::Accuracy if tuning.stage.loss != Loss::Distillation => Objective::CrossEntropy,
        Measure::Accuracy | Measure::Classes => {
            let alpha = if labelled { tuning.stage.alpha } else { 1.0 };
            Objective::Distillation { teacher: teacher()?, temperature: tuning.stage.temperature, alpha }
        }
        Measure::DenseClasses | Measure::Values => Objective::Hint { target: teacher()?, rest: None },
    };
    let labels = if labelled { sequence.labels() } else { vec![0; sequence.len()] };
    let images = 0..sequence.len();
    let steps = images.len().div_ceil(tuning.batch);
    let hyper = HyperParameters {
        batch: tuning.batch,
        rate: tuning.rate,
        schedule: tuning.schedule,
        recipe: tuning.recipe,
        clip: tuning.clip,
        dropout_seed: 0,
    };
    let all = sequence.clone();
    let mut inputs = ActivationSource::images(device, sequence, tuning.batch);
    let input = StageInput { source: &mut inputs, labels: &labels, images, taken, average };
    let mut writer = saved.map(|(checkpoints, id)| checkpoints.of(id));
    let after = |trained: Trained<'_>, step: StageStep| -> Result<(), Error> {
        progress(step.taken, steps);
        if let Some(writer) = writer.as_mut().filter(|writer| writer.is_due()) {
            writer.write(&checkpoint(device, &start, trained, step.taken)?)?;
        }
        Ok(())
    };
    let (outcome, weights) = run_stage(&mut model, input, &mut objective, &hyper, after)?;
    let mut trained = network.clone();
    trained.weights.extend(weights);
    if outcome == StageOutcome::Diverged {
        let reason = nettriage_train::first_non_finite(&trained, &all, 0..tuning.batch.min(all.len()))?;
        return Ok(Err(reason.unwrap_or_else(|| "its loss is infinite or NaN".to_owned())));
    }
    Ok(Ok(trained))
}

/// The state of the training that began with `network`, after `taken` steps.
fn checkpoint(device: &Device, network: &Network, trained: Trained<'_>, taken: usize) -> Result<Checkpoint, Error> {
    let mut weights = network.weights.clone();
    weights.extend(trained.model.weights()?);
    let mut tensors = Tensors::new();
    add_tensors(&mut tensors, NETWORK, &weights);
    add_tensors(&mut tensors, AVERAGE, &trained.averaged());
    let optimizer_steps = add_optimizer(&mut tensors, trained.model)?;
    let state = TrainingState { step: taken, optimizer_steps, ..TrainingState::default() };
    Ok(Checkpoint { instructions: device.arithmetic(), state, tensors })
}
