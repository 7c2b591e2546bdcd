//! A network with the images that it was trained for: what is scanned, compressed or evaluated.

use std::ops::Range;
use std::path::Path;

use nettriage_compress::scan::Images;
use nettriage_data::{Augmentation, Dataset, Images as DataImages, Normalization, fill_plain, first};
use nettriage_formats::info::ModelInfo;
use nettriage_formats::safetensors;
use nettriage_net::Network;
use nettriage_records::Run;
use nettriage_study::{RuntimeOptions, StudyContext, ValidationFrom, context_of};
use nettriage_train::{check_images, without_softmax};

use crate::Error;

/// A network, its data set, and which images are for what.
pub struct Subject {
    /// The network, up to its logits.
    pub network: Network,
    /// Its file or run; empty for a network in memory.
    pub source: String,
    /// The data set.
    pub data: Dataset,
    /// Normalisation of pixels.
    pub normalization: Normalization,
    /// Training images to fit and train with, indices into `data.train`.
    pub train: Vec<u32>,
    /// Images to judge by, likewise.
    pub judged: Vec<u32>,
    /// Where those come from, in words.
    pub judged_from: String,
    /// Augmentation of training images.
    pub augment: Augmentation,
    /// Whether labels may be used.
    pub labelled: bool,
}

/// Images that judge substitutes unless the caller chooses: at most this many, and at most a fifth of the training images.
const JUDGED: usize = 1000;

impl Subject {
    /// A trained network and its data set. `judged` of the training images judge substitutes (a number that suits the data
    /// if none is given); the others are there to fit to.
    ///
    /// # Errors
    /// Images of another shape than the network's input; a `judged` that leaves no training image.
    pub fn new(
        network: Network,
        data: Dataset,
        normalization: Normalization,
        judged: Option<usize>,
        labelled: bool,
    ) -> Result<Subject, Error> {
        check_images(&network.graph, &data)?;
        let count = data.train.len();
        let judged = judged.unwrap_or((count / 5).clamp(1, JUDGED));
        if judged >= count {
            return Err(Error::Request(format!(
                "{}: {judged} images to judge by leave none of the {count} training images to fit to; choose fewer",
                data.name
            )));
        }
        let (train, judged, judged_from) = if data.train.is_sorted_by_class() {
            let split = nettriage_data::split(&data.train, judged, 0);
            (split.train, split.validation, format!("{judged} of the training images, drawn by seed"))
        } else {
            let cut = (count - judged) as u32;
            ((0..cut).collect(), (cut..count as u32).collect(), format!("the last {judged} training images"))
        };
        Ok(Subject {
            network: without_softmax(network),
            source: String::new(),
            data,
            normalization,
            train,
            judged,
            judged_from,
            augment: Augmentation::default(),
            labelled,
        })
    }

    /// The parent of a run, of that seed (the first if none is given), judged by the run's validation images.
    ///
    /// # Errors
    /// A run without that parent, or whose parent is not trained yet; its data set cannot be read.
    pub fn of_run(
        run: &Run,
        seed: Option<u64>,
        data_dir: Option<&Path>,
        judged: Option<usize>,
        labelled: bool,
    ) -> Result<Subject, Error> {
        let (context, network) = parent_of(run, seed, data_dir)?;
        let count = judged.unwrap_or(JUDGED);
        let (train, judged, kind) = match context.study.data.validation_from {
            ValidationFrom::Train => {
                (context.train, first(&context.data.train, &context.validation, count), "validation images")
            }
            // Validation images of the test set are for the study alone, so training images are set apart.
            ValidationFrom::Test => {
                let count = count.min(context.train.len() / 5).max(1);
                let mut train = context.train;
                let judged = train.split_off(train.len().saturating_sub(count));
                (train, judged, "training images")
            }
        };
        Ok(Subject {
            network,
            source: run.folder().display().to_string(),
            train,
            judged_from: format!("{} {kind} of the run", judged.len()),
            judged,
            normalization: context.normalization,
            augment: context.study.data.augment,
            data: context.data,
            labelled,
        })
    }

    /// What is written beside an exported network, so that it can be evaluated without flags.
    pub fn info(&self) -> ModelInfo {
        ModelInfo {
            mean: self.normalization.mean.clone(),
            std: self.normalization.std.clone(),
            // Without labels the outputs need not be the data set's classes.
            classes: if self.labelled { self.data.classes.clone() } else { Vec::new() },
            input: Some([self.data.channels, self.data.height, self.data.width]),
        }
    }

    /// The first `count` training images, of every class.
    pub fn fitted(&self, count: usize) -> Images<'_> {
        self.images(&self.data.train, &first(&self.data.train, &self.train, count))
    }

    /// The images to judge by.
    pub fn judged(&self) -> Images<'_> {
        self.images(&self.data.train, &self.judged)
    }

    /// The test images of `range`, as far as there are any; the first ones are of every class.
    pub fn test(&self, range: Range<usize>) -> Images<'_> {
        let all: Vec<u32> = (0..self.data.test.len() as u32).collect();
        let chosen = first(&self.data.test, &all, range.end);
        self.images(&self.data.test, chosen.get(range.start..).unwrap_or_default())
    }

    fn images<'a>(&'a self, images: &'a DataImages, indices: &[u32]) -> Images<'a> {
        let labels = indices.iter().map(|&i| images.labels[i as usize]).collect();
        let indices = indices.to_vec();
        let shape = self.data.shape();
        Images {
            count: indices.len(),
            fill: Box::new(move |range, out| fill_plain(images, shape, &indices[range], &self.normalization, out)),
            labels: self.labelled.then_some(labels),
        }
    }
}

/// A run's study context, and its parent of that seed (the first if none is given).
///
/// # Errors
/// A run without that parent, or whose parent is not trained yet; its data set cannot be read.
pub fn parent_of(run: &Run, seed: Option<u64>, data_dir: Option<&Path>) -> Result<(StudyContext, Network), Error> {
    let parent = parent_weights(run, seed)?;
    Ok((context_of(run, data_dir, RuntimeOptions::default())?, parent))
}

/// A run's parent of that seed (the first if none is given).
pub(crate) fn parent_weights(run: &Run, seed: Option<u64>) -> Result<Network, Error> {
    let (folder, plan) = (run.folder().display(), run.plan());
    let spec = plan.parents.iter().find(|p| seed.is_none_or(|seed| p.seed == seed));
    let spec = spec.ok_or_else(|| {
        let known: Vec<String> = plan.parents.iter().map(|p| p.seed.to_string()).collect();
        Error::Request(format!("{folder}: no parent of seed {}; there are {}", seed.unwrap_or(0), known.join(", ")))
    })?;
    match run.parent_weights(&spec.id)? {
        Some(weights) => Ok(safetensors::from_bytes(&weights)?),
        None => {
            let problem = "its parent is not trained yet: finish `nettriage run` or `nettriage train` first";
            Err(Error::Request(format!("{folder}: {problem}")))
        }
    }
}
