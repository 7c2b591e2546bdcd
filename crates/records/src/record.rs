//! The record: the result of one trial.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::metric::Measured;
use crate::plan::{Cost, Trainings, TrialSpec};

/// The result of one trial. Apart from [`Clock`], it is the same in every run of a plan on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the file format.
    pub version: u32,
    /// The trial.
    pub spec: TrialSpec,
    /// How it ended.
    pub outcome: Outcome,
    /// Readings; `None` if the trial failed, or if the user's own program trained it.
    pub readings: Option<Readings>,
    /// What the user's own program measured; `None` for a trial that nettriage trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Timings: the only part that differs from run to run.
    pub clock: Clock,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// Trained (unless its scheme is `none`) and measured.
    Done,
    /// The loss became non-finite.
    Diverged {
        /// Training examples until then.
        examples: u64,
        /// The first layer whose output is not finite, in a sentence, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// It could not be completed.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// The readings of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// On the validation set before training.
    pub before: Evaluation,
    /// On the validation set after training.
    pub validation: Evaluation,
    /// On the test set after training.
    pub test: Evaluation,
    /// The point of the curve with the highest validation accuracy (the first, if equal).
    pub best: Best,
    /// Learning curve on the validation set, from 0 examples to the budget.
    pub curve: Vec<CurvePoint>,
    /// Training examples at the first point of the curve within the plan's margin of the parent's validation accuracy.
    pub recovered_at: Option<u64>,
    /// Cost of the whole network.
    pub cost: Cost,
    /// Filters of the substitute; only for children with a convolution.
    pub filters: Option<Filters>,
    /// Which test images were classified correctly: one bit per image, most significant bit first, base64.
    pub test_correct: String,
    /// CKA similarity of the network and its parent, layer by layer; `None` for the parent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// The precision in which cached activations of the parent were stored, such as `f16`; `None` if they were not
    /// rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
}

/// Linear CKA between a network and its parent, tensor by tensor: the minibatch estimator of Nguyen et al. (arXiv:2010.15327, eq. 2)
/// on the unbiased HSIC of Song et al. (JMLR 13, 2012, eq. 5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Number of validation images.
    pub images: usize,
    /// Batch size; the terms of the estimator are means over batches.
    pub batch: usize,
    /// The tensors that both networks have, in the order of the parent.
    pub layers: Vec<LayerSimilarity>,
}

/// Linear CKA of one tensor. 1 means equal up to rotation and scale; an estimate may lie slightly outside 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSimilarity {
    /// The parent's layer whose output is compared; at the output of a block, with the output of the substitute.
    pub layer: String,
    /// Before training; `None` if the tensor varies too little over the images.
    pub before: Option<f64>,
    /// After training.
    pub after: Option<f64>,
}

/// The best point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Training examples so far.
    pub examples: u64,
    /// Validation accuracy, 0 to 1.
    pub validation_top1: f64,
    /// Evaluation on the test set.
    pub test: Evaluation,
}

/// Evaluation of a network on a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of images.
    pub images: u64,
    /// Number of images whose label is the top-1 class.
    pub correct: u64,
    /// Top-1 accuracy, 0 to 1.
    pub top1: f64,
    /// Top-5 accuracy, 0 to 1.
    pub top5: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Expected calibration error, 15 bins of equal width (Guo et al., arXiv:1706.04599, eq. 3), 0 to 1.
    pub calibration_error: f64,
    /// Fraction of images whose top-1 class is that of the parent.
    pub agreement: f64,
    /// Accuracy of every class; 0 if the set has no image of a class.
    pub per_class: Vec<f64>,
}

/// One point of a learning curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Training examples so far, over all stages.
    pub examples: u64,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// Mean training loss since the last point, of the stage's objective; `None` at 0 examples.
    pub train_loss: Option<f64>,
    /// Validation accuracy, 0 to 1.
    pub validation_top1: f64,
    /// Validation cross-entropy in nats.
    pub validation_loss: f64,
}

/// Statistics of the filters of a substitute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filters {
    /// [filters, channels per group, rows, columns].
    pub shape: [usize; 4],
    /// Euclidean norm of every filter before training.
    pub norms_before: Vec<f32>,
    /// Euclidean norm of every filter after training.
    pub norms: Vec<f32>,
    /// Number of filters whose output after the closing activation is zero on all validation images used.
    pub dead: u64,
    /// Effective rank of the filter matrix: exp of the entropy of its normalised singular values (Roy and Vetterli, 2007).
    pub effective_rank: f64,
    /// The first filters as images, before and after training.
    #[serde(rename = "pictures")]
    pub images: FilterImages,
    /// For each of those filters, the patches of validation images with the highest activations, in descending order; empty for a
    /// dead filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Vec<Patch>>,
}

/// A patch of a validation image: the receptive field of one output position of a filter, clipped to the image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// Index of the image in the validation set, as in [`crate::SampleImages::validation`].
    pub image: usize,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
    /// Output of the filter at that position, after the closing activation.
    pub value: f32,
}

/// The first filters of a substitute as images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterImages {
    /// Number of filters.
    pub filters: usize,
    /// Number of channels of each filter: all three on an RGB input, else the few with the largest norm.
    pub channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// `filters * channels * rows * columns` bytes, base64: 128 is zero; 1 and 255 are the largest magnitude of the layer.
    pub before: String,
    /// The same after training.
    pub after: String,
}

/// Timings of a trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Wall-clock seconds of the training steps.
    pub train_seconds: f64,
    /// Wall-clock seconds of the whole trial.
    pub seconds: f64,
    /// Inference time of the network and its parent.
    pub inference: Option<InferenceTime>,
    /// Time of its end, as [`unix_time`].
    pub finished: f64,
    /// The machine that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// The machine and program that ran a trial. They affect timings, and results only by rounding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Number of cores available to the program.
    pub cores: usize,
    /// The instruction set of the kernels, such as `avx2`.
    pub instructions: String,
    /// The operating system.
    pub system: String,
    /// Where PyTorch computed: its version, device, precision and driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Name and version of the program.
    pub program: String,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { processor, cores, instructions, system, device, program } = self;
        write!(f, "{processor}, {cores} cores, {instructions}, {system}, {program}")?;
        device.iter().try_for_each(|device| write!(f, ", {device}"))
    }
}

/// Inference seconds per image of a network and its parent, measured alternately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceTime {
    /// Batch size.
    pub batch: usize,
    /// Number of repetitions.
    pub repetitions: usize,
    /// Time of the network divided by the parent's, repetition by repetition: the median and its distribution-free 95%
    /// interval. Absent in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<[f64; 3]>,
    /// Median, minimum and maximum for the network of the trial.
    pub network: [f64; 3],
    /// Median, minimum and maximum for the parent.
    pub parent: [f64; 3],
}

/// The result of a parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParentRecord {
    /// Version of the file format.
    pub version: u32,
    /// Content id.
    pub id: String,
    /// Seed.
    pub seed: u64,
    /// Evaluation on the validation set.
    pub validation: Evaluation,
    /// Evaluation on the whole test set.
    pub test: Evaluation,
    /// Which test images were classified correctly, as [`Readings::test_correct`].
    pub test_correct: String,
    /// Learning curve; empty for a network from a file.
    pub curve: Vec<CurvePoint>,
    /// Of a network from a file, whether it may have been trained on the validation images. Absent for a network that was trained
    /// here, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_seen: Option<bool>,
    /// Cost of the whole network.
    pub cost: Cost,
    /// Timings of a trial.
    pub clock: Clock,
}

impl ParentRecord {
    /// Whether the network was read from a file: only trained parents have a learning curve.
    pub fn from_file(&self) -> bool {
        self.validation_seen.is_some() || self.curve.is_empty()
    }

    /// Whether the network may have been trained on the validation images.
    pub fn may_have_seen_validation(&self) -> bool {
        self.validation_seen.unwrap_or(self.curve.is_empty())
    }
}

/// The result of a learning-rate range test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeTest {
    /// Version of the file format.
    pub version: u32,
    /// Content id.
    pub id: String,
    /// The trainings that it is for.
    pub of: Trainings,
    /// The largest rate of these trainings.
    pub rate: f64,
    /// How `rate` follows from the curve, in words.
    pub rule: String,
    /// The learning rate of every step.
    pub rates: Vec<f64>,
    /// The loss before every step.
    pub losses: Vec<f64>,
    /// The smoothed losses, from which `rate` is chosen.
    pub smoothed: Vec<f64>,
    /// The step with the largest rate at which the smoothed loss has not risen.
    pub edge: usize,
    /// The loss of the best constant prediction.
    pub chance: f64,
    /// Timings.
    pub clock: Clock,
}

/// The current time in seconds since 1970-01-01 00:00 UTC.
pub fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
