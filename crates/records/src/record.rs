//! The record: what one trial measured.

use serde::{Deserialize, Serialize};

use crate::plan::{Cost, TrialSpec};

/// What one trial measured. Apart from [`Clock`], the same on every run of the same plan on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the file format.
    pub version: u32,
    /// The trial.
    pub spec: TrialSpec,
    /// How it ended.
    pub outcome: Outcome,
    /// Readings; absent where it failed.
    pub readings: Option<Readings>,
    /// Clock readings: the only part that differs from run to run.
    pub clock: Clock,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// Trained (or not, for `none`) and measured.
    Done,
    /// The loss ceased to be a finite number.
    Diverged {
        /// Images seen until then.
        examples: u64,
    },
    /// It could not be run.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// The readings of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// On the validation set before any training: the damage.
    pub before: Evaluation,
    /// On the validation set after the last step.
    pub validation: Evaluation,
    /// On the test set after the last step.
    pub test: Evaluation,
    /// The best point of the curve by validation accuracy (the first of equals).
    pub best: Best,
    /// Learning curve on the validation set, from 0 examples to the budget.
    pub curve: Vec<CurvePoint>,
    /// Examples seen at the first point of the curve within the plan's margin of the parent's validation accuracy.
    pub recovered_at: Option<u64>,
    /// Cost of the whole network.
    pub cost: Cost,
    /// The substitute's filters; children with a convolution only.
    pub filters: Option<Filters>,
    /// Which test images were right, one bit an image, most significant bit first, base64.
    pub test_correct: String,
    /// How alike the network and its parent are through the depth; absent for the parent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// The precision to which the parent's activations were rounded before children read them, such as `f16`; absent
    /// where nothing was rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<String>,
}

/// Linear CKA of a network and its parent, tensor by tensor: the minibatch estimator of Nguyen et al. (arXiv:2010.15327, eq. 2)
/// on the unbiased HSIC of Song et al. (JMLR 13, 2012, eq. 5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Validation images looked at.
    pub images: usize,
    /// Images in a batch; the estimator's terms are means over batches.
    pub batch: usize,
    /// Tensors that both networks have, in the parent's order.
    pub layers: Vec<LayerSimilarity>,
}

/// Linear CKA at one tensor. 1 is alike up to rotation and scale; an estimate may lie a little outside 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSimilarity {
    /// The parent's layer whose output it is; at a block's output, the substitute's stands against it.
    pub layer: String,
    /// Before training; absent where a tensor varies too little over the images to be compared.
    pub before: Option<f64>,
    /// At the end.
    pub after: Option<f64>,
}

/// The best point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Examples seen.
    pub examples: u64,
    /// On the validation set.
    pub validation_top1: f64,
    /// On the test set.
    pub test: Evaluation,
}

/// A network on a set of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of images.
    pub images: u64,
    /// Images whose class is the network's first choice.
    pub correct: u64,
    /// Share of images right, 0 to 1.
    pub top1: f64,
    /// Share of images whose class is among the first five choices.
    pub top5: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Expected calibration error, 15 bins of equal width (Guo et al., arXiv:1706.04599, eq. 3), 0 to 1.
    pub calibration_error: f64,
    /// Share of images on which the first choice is the parent's.
    pub agreement: f64,
    /// Share right, class by class; 0 where the set holds no image of a class.
    pub per_class: Vec<f64>,
}

/// One point of a learning curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Images trained on so far, over all stages.
    pub examples: u64,
    /// The stage, counted from 0.
    pub stage: usize,
    /// Mean training loss of the stage's objective since the last point; absent at 0 examples.
    pub train_loss: Option<f64>,
    /// Validation accuracy, 0 to 1.
    pub validation_top1: f64,
    /// Validation cross-entropy in nats.
    pub validation_loss: f64,
}

/// A substitute's filters, summed up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filters {
    /// [filters, channels per group, rows, columns].
    pub shape: [usize; 4],
    /// Euclidean norm of every filter before training.
    pub norms_before: Vec<f32>,
    /// Euclidean norm of every filter at the end.
    pub norms: Vec<f32>,
    /// Filters whose output after the closing activation is zero on every validation image looked at.
    pub dead: u64,
    /// Effective rank of the filter matrix: exp of the entropy of its normalised singular values
    /// (Roy and Vetterli, 2007).
    pub effective_rank: f64,
    /// The first filters as pictures, before and after training.
    pub pictures: FilterPictures,
    /// For each of those filters, where validation images excite it most, strongest first; none for a dead filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Vec<Patch>>,
}

/// A stretch of a validation image: the receptive field of one place of a filter's output, as far as the image goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// The image's place in the validation set, as in [`crate::Pictures::validation`].
    pub image: usize,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The filter's output there, after the closing activation.
    pub value: f32,
}

/// The first filters of a substitute as pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterPictures {
    /// Number of filters shown.
    pub filters: usize,
    /// Channels shown of each filter: all three of a colour image, else the strongest few.
    pub channels: usize,
    /// Rows and columns of a kernel.
    pub kernel: [usize; 2],
    /// `filters * channels * rows * columns` bytes, base64: 128 is zero, 1 and 255 the largest magnitude in the layer.
    pub before: String,
    /// The same after training.
    pub after: String,
}

/// Clock readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Wall seconds in training steps.
    pub train_seconds: f64,
    /// Wall seconds of the whole trial.
    pub seconds: f64,
    /// Inference seconds per image, network of the trial and parent in alternation.
    pub inference: Option<InferenceTime>,
    /// When it ended, seconds since 1970.
    pub finished: f64,
    /// Where it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// What ran a trial. It decides no result but the last digits, and clock readings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Cores that the program may use.
    pub cores: usize,
    /// The instruction set that its kernels use.
    pub instructions: String,
    /// The operating system.
    pub system: String,
    /// Program and version.
    pub program: String,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { processor, cores, instructions, system, program } = self;
        write!(f, "{processor}, {cores} cores, {instructions}, {system}, {program}")
    }
}

/// Inference seconds per image, measured in alternation with the parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InferenceTime {
    /// Images in a batch.
    pub batch: usize,
    /// Repetitions.
    pub repetitions: usize,
    /// Median, smallest and largest of the trial's network.
    pub network: [f64; 3],
    /// Median, smallest and largest of the parent.
    pub parent: [f64; 3],
}

/// What was measured of a parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParentRecord {
    /// Version of the file format.
    pub version: u32,
    /// Content id.
    pub id: String,
    /// Seed.
    pub seed: u64,
    /// On the validation set.
    pub validation: Evaluation,
    /// On the whole test set.
    pub test: Evaluation,
    /// Which test images were right, as in [`Readings::test_correct`].
    pub test_correct: String,
    /// Learning curve; empty for a parent from a file.
    pub curve: Vec<CurvePoint>,
    /// Cost of the whole network.
    pub cost: Cost,
    /// Clock readings.
    pub clock: Clock,
}
