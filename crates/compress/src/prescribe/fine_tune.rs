//! Fine-tuning of a network after surgery, by the one training loop.

use std::collections::BTreeSet;

use nettriage_data::{Augmentation, Dataset, Normalization, Stream};
use nettriage_engine::{Optimizer, Options as EngineOptions, Schedule, Trainable};
use nettriage_net::Network;
use nettriage_records::scan::Measure;
use nettriage_train::scheme::{Loss, Stage, Train};
use nettriage_train::{
    ActivationSource, Device, HyperParameters, ImageSequence, Objective, Precision, PrefixOptions, Recipe, StageInput,
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

/// Fine-tunes `network`; `substitute_layers` are the layers of its substitutes. If the loss diverges, the reason in a sentence.
///
/// `progress` receives the steps taken and the steps in all.
///
/// # Errors
/// Those of the engine.
#[expect(clippy::too_many_arguments, reason = "a network, its teacher, what it trains on, and how")]
pub fn fine_tune(
    device: &Device,
    network: &Network,
    substitute_layers: &BTreeSet<String>,
    parent: &Network,
    set: &TrainingSet<'_>,
    tuning: &FineTuning,
    threads: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Result<Network, String>, Error> {
    let trainable = match tuning.stage.train {
        Train::All => Trainable::All,
        Train::Substitute => Trainable::Layers(substitute_layers.clone()),
    };
    let training = EngineOptions::training(tuning.batch, tuning.optimizer);
    let mut model = device.model(network, &EngineOptions { threads, trainable, ..training })?;
    let seed = seed::seed("fine-tuning", &[&tuning.seed.to_string()]);
    let sequence = ImageSequence {
        images: &set.data.train,
        shape: set.data.shape(),
        normalization: set.normalization,
        augmentation: tuning.augment,
        examples: Stream::new(set.train, tuning.images, &tuning.augment, seed).examples,
    };
    let labelled = tuning.measure == Measure::Accuracy;
    let teacher = || {
        let options = PrefixOptions { device: device.clone(), threads, exact: false, precision: Precision::F32 };
        ActivationSource::computed(sequence.clone(), parent.clone(), None, tuning.batch, options)
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
        recipe: Recipe::default(),
        clip: tuning.clip,
        dropout_seed: 0,
    };
    let all = sequence.clone();
    let mut inputs = ActivationSource::images(sequence, tuning.batch);
    let input = StageInput { source: &mut inputs, labels: &labels, images, taken: 0, average: None };
    let (outcome, weights) = run_stage(&mut model, input, &mut objective, &hyper, |_, step| {
        progress(step.seen.div_ceil(tuning.batch), steps);
        Ok::<_, Error>(())
    })?;
    let mut trained = network.clone();
    trained.weights.extend(weights);
    if outcome == StageOutcome::Diverged {
        let reason = nettriage_train::first_non_finite(&trained, &all, 0..tuning.batch.min(all.len()))?;
        return Ok(Err(reason.unwrap_or_else(|| "its loss is infinite or NaN".to_owned())));
    }
    Ok(Ok(trained))
}
