//! Fine-tuning of a network after surgery, by the one training loop.

use std::collections::BTreeSet;

use nettriage_data::{Augmentation, Dataset, Normalization, Stream};
use nettriage_engine::{Model, Optimizer, Options as EngineOptions, Schedule, Trainable};
use nettriage_net::Network;
use nettriage_train::scheme::{Loss, Stage, Train};
use nettriage_train::{
    ActivationSource, HyperParameters, ImageSequence, Objective, Precision, PrefixOptions, Recipe, StageInput,
    StageOutcome, run_stage, seed,
};

use crate::Error;

/// How a network is fine-tuned after surgery.
#[derive(Clone, Debug)]
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
    /// Largest norm of the gradient; longer gradients are scaled down to it.
    pub clip: Option<f32>,
    /// Augmentation of training images.
    pub augment: Augmentation,
    /// Whether labels may be used; without them the network learns from the parent's logits alone.
    pub labelled: bool,
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

/// Fine-tunes `network`; `substitute_layers` are the layers of its substitutes. None if the loss diverged.
///
/// `progress` receives the steps taken and the steps in all.
///
/// # Errors
/// Those of the engine.
pub fn fine_tune(
    network: &Network,
    substitute_layers: &BTreeSet<String>,
    parent: &Network,
    set: &TrainingSet<'_>,
    tuning: &FineTuning,
    threads: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Option<Network>, Error> {
    let trainable = match tuning.stage.train {
        Train::All => Trainable::All,
        Train::Substitute => Trainable::Layers(substitute_layers.clone()),
    };
    let training = EngineOptions::training(tuning.batch, tuning.optimizer);
    let mut model = Model::new(network, &EngineOptions { threads, trainable, ..training })?;
    let seed = seed::seed("fine-tuning", &[&tuning.seed.to_string()]);
    let sequence = ImageSequence {
        images: &set.data.train,
        shape: set.data.shape(),
        normalization: set.normalization,
        augmentation: tuning.augment,
        examples: Stream::new(set.train, tuning.images, &tuning.augment, seed).examples,
    };
    let mut objective = match tuning.stage.loss == Loss::Distillation || !tuning.labelled {
        true => {
            let options = PrefixOptions { threads, exact: false, precision: Precision::F32 };
            let teacher = ActivationSource::computed(sequence.clone(), parent.clone(), None, tuning.batch, options)?;
            let alpha = if tuning.labelled { tuning.stage.alpha } else { 1.0 };
            Objective::Distillation { teacher, temperature: tuning.stage.temperature, alpha }
        }
        false => Objective::CrossEntropy,
    };
    let labels = if tuning.labelled { sequence.labels() } else { vec![0; sequence.len()] };
    let images = 0..sequence.len();
    let steps = images.len().div_ceil(tuning.batch);
    let hyper = HyperParameters {
        batch: tuning.batch,
        rate: tuning.rate,
        schedule: tuning.schedule,
        recipe: Recipe::default(),
        clip: tuning.clip,
        dropout_seed: 0,
    };
    let mut inputs = ActivationSource::images(sequence, tuning.batch);
    let input = StageInput { source: &mut inputs, labels: &labels, images, taken: 0, average: None };
    let (outcome, weights) = run_stage(&mut model, input, &mut objective, &hyper, |_, step| {
        progress(step.seen.div_ceil(tuning.batch), steps);
        Ok::<_, Error>(())
    })?;
    if outcome == StageOutcome::Diverged {
        return Ok(None);
    }
    let mut trained = network.clone();
    trained.weights.extend(weights);
    Ok(Some(trained))
}
