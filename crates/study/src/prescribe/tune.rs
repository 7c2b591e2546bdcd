//! Fine-tuning a network after surgery.

use std::collections::BTreeSet;

use nettriage_data::{Augmentation, Dataset, Normalization, Stream, fill};
use nettriage_engine::{Model, Optimizer, Options as Run, Schedule, Trainable, loss};
use nettriage_net::Network;

use crate::scheme::{Loss, Stage, Train};
use crate::{Error, seed};

/// How a network is trained after surgery.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Loss and trained layers; a scheme's only stage.
    pub stage: Stage,
    /// Images seen in all.
    pub images: usize,
    /// Images in a step.
    pub batch: usize,
    /// Largest learning rate, of a one-cycle schedule.
    pub rate: f32,
    /// Variation of training images.
    pub augment: Augmentation,
    /// Whether labels may be used; without them the parent's answers alone are learned from.
    pub labelled: bool,
    /// Seed of the order of images.
    pub seed: u64,
}

/// The data that a network is trained on.
pub struct Lessons<'a> {
    /// The data set.
    pub data: &'a Dataset,
    /// Normalisation of pixels.
    pub normalization: &'a Normalization,
    /// Training images, indices into `data.train`.
    pub train: &'a [u32],
}

/// Trains `network`; `operated` are the substitutes' layers. None where the loss stops being a number.
pub fn tune(
    network: &Network,
    operated: &BTreeSet<String>,
    parent: &Network,
    lessons: &Lessons<'_>,
    tuning: &Tuning,
    threads: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Option<Network>, Error> {
    let trainable = match tuning.stage.train {
        Train::All => Trainable::All,
        Train::Substitute => Trainable::Layers(operated.clone()),
    };
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let mut model = Model::new(network, &Run { threads, trainable, ..Run::training(tuning.batch, optimizer) })?;
    let distilled = tuning.stage.loss == Loss::Distillation || !tuning.labelled;
    let mut teacher = match distilled {
        true => Some(Model::new(parent, &Run { threads, ..Run::inference(tuning.batch) })?),
        false => None,
    };
    let alpha = if tuning.labelled { tuning.stage.alpha } else { 1.0 };
    let stream = Stream::new(
        lessons.train,
        tuning.images,
        &tuning.augment,
        seed::seed("fine-tuning", &[&tuning.seed.to_string()]),
    );
    let (images, shape) = (&lessons.data.train, lessons.data.shape());
    let classes = network.graph.output_shape()?.elements();
    let steps = stream.examples.len().div_ceil(tuning.batch);
    let (mut input, mut grad) = (Vec::new(), Vec::new());
    for (step, examples) in stream.examples.chunks(tuning.batch).enumerate() {
        input.resize(examples.len() * network.graph.input.elements(), 0.0);
        fill(images, shape, examples, lessons.normalization, &mut input);
        let labels: Vec<u16> = match tuning.labelled {
            true => examples.iter().map(|e| images.labels[e.image as usize]).collect(),
            false => vec![0; examples.len()],
        };
        let output = model.forward_train(&input, step as u64);
        grad.resize(output.len(), 0.0);
        let loss = match &mut teacher {
            Some(teacher) => {
                let wanted = teacher.forward(&input);
                loss::distillation(output, wanted, &labels, classes, tuning.stage.temperature, alpha, &mut grad)
            }
            None => loss::cross_entropy(output, &labels, classes, &mut grad),
        };
        if !loss.is_finite() {
            return Ok(None);
        }
        model.backward(&input, &grad);
        model.step(Schedule::OneCycle.rate(tuning.rate, step, steps), Some(5.0));
        progress(step + 1, steps);
    }
    let mut trained = network.clone();
    trained.weights.extend(model.weights());
    Ok(Some(trained))
}
