//! The result of a scan as plain data.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A scan of one network: every range of layers that could be replaced by one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// The network's name.
    pub network: String,
    /// Hexadecimal SHA-256 of its structure and weights.
    pub digest: String,
    /// How its outputs are compared with those of the networks with substitutes.
    pub measure: Measure,
    /// Its file, or the run whose parent it is.
    pub source: String,
    /// The images used.
    pub images: Images,
    /// The original network.
    pub parent: Parent,
    /// Its units, in order.
    pub units: Vec<Unit>,
    /// The ranges that could be replaced.
    pub ranges: Vec<Range>,
    /// Number of candidates that were skipped because their least-squares problem exceeds the limit on unknowns.
    pub left_out: usize,
    /// Time and memory used.
    pub took: Took,
    /// Rank agreement of such scans with training, if studies were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<Trust>,
}

/// The images used by a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// The data set's name.
    pub data: String,
    /// Number of images that substitutes were fitted on; their labels are not used.
    pub fitted: usize,
    /// Number of images that they were evaluated on.
    pub judged: usize,
    /// Source of those images, such as `the last 2000 training images`.
    pub judged_from: String,
}

/// What the outputs of a network are, and so how far another network's outputs are from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Classes of labelled images: the drop in accuracy.
    Accuracy,
    /// Classes: the share of images whose top-1 class changes.
    Classes,
    /// A class at every position: the share of positions whose top-1 class changes.
    DenseClasses,
    /// Numbers: 1 - R² of the output with the lowest R².
    Values,
}

impl Measure {
    /// What is lost, in percent of it: the quantity that a bound on the drop limits.
    pub fn loss(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy drop",
            Measure::Classes => "predictions changed",
            Measure::DenseClasses => "positions changed",
            Measure::Values => "variance unexplained",
        }
    }

    /// The unit of the loss.
    pub fn unit(self) -> &'static str {
        match self {
            Measure::Accuracy => "pp",
            Measure::Classes | Measure::DenseClasses | Measure::Values => "%",
        }
    }

    /// The measure in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy on labelled images; the drop is in percentage points",
            Measure::Classes => {
                "no labels: the outputs are taken for classes, and the loss is the percentage of images whose top-1 class \
                 changes"
            }
            Measure::DenseClasses => {
                "no labels: the outputs are taken for classes at every position, and the loss is the percentage of positions \
                 whose top-1 class changes"
            }
            Measure::Values => {
                "no labels: the outputs are taken for numbers, and the loss is 100 (1 - R²), in percent, of the output with \
                 the lowest R²"
            }
        }
    }
}

/// How closely the outputs of a network follow those of the original network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fidelity {
    /// Of classes.
    Classes {
        /// Share of images (of positions, where every position has a class) whose top-1 class is unchanged.
        agreement: f64,
        /// Mean Kullback-Leibler divergence of the class probabilities from the original's, in nats.
        divergence: f64,
        /// The same at temperature T = 4, times T², as in distillation (Hinton et al., arXiv:1503.02531, section 2); none in older files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        softened: Option<f64>,
    },
    /// Of numbers, over outputs that are not constant.
    Values {
        /// The lowest R² of an output: 1 - (sum of squared differences) / (sum of squared deviations from the mean).
        r2: f64,
        /// Index of that output.
        worst: usize,
        /// The mean R² of all outputs.
        mean_r2: f64,
        /// Euclidean norm of all differences divided by that of the original outputs.
        relative_error: f64,
    },
}

impl Fidelity {
    /// The share kept: of unchanged classes, or the lowest R².
    pub fn kept(&self) -> f64 {
        match *self {
            Fidelity::Classes { agreement, .. } => agreement,
            Fidelity::Values { r2, .. } => r2,
        }
    }

    /// In a few words.
    pub fn describe(&self) -> String {
        match *self {
            Fidelity::Classes { agreement, .. } => format!("{:.2}% of predictions unchanged", 100.0 * agreement),
            Fidelity::Values { r2, relative_error, .. } => {
                format!("lowest R² {r2:.4}, relative error {:.2}%", 100.0 * relative_error)
            }
        }
    }
}

/// The original network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// Accuracy on the evaluation images, 0 to 1; `None` without labels.
    pub accuracy: Option<f64>,
    /// Its cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass: the sum over the units.
    pub milliseconds: f64,
}

/// A unit: ranges begin and end at units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Name, made from the names of its layers.
    pub name: String,
    /// Names of its first and last layer.
    pub layers: [String; 2],
    /// Shape of its output, [C, H, W].
    pub output: [usize; 3],
    /// Number of convolutions and linear layers.
    pub products: usize,
    /// Its cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass.
    pub milliseconds: f64,
}

/// A contiguous range of units that could be replaced by one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Its name.
    pub name: String,
    /// Indices of its first and last unit.
    pub units: [usize; 2],
    /// Names of its first and last layer.
    pub layers: [String; 2],
    /// Name of the default block with the same layers, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Its cost before replacement.
    pub cost: Cost,
    /// Milliseconds of a forward pass: the sum over its units.
    pub milliseconds: f64,
    /// The candidates: one for every substitute and fitting method.
    pub candidates: Vec<Candidate>,
}

/// A single layer in place of a range, and its effect on the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The substitute, such as `conv3x3`.
    pub substitute: String,
    /// The fitting method, such as `relu`.
    pub method: String,
    /// The ridge parameter, relative to the mean diagonal element of the matrix of second moments of the patches.
    pub ridge: f64,
    /// Squared error of the plain affine solution on held-out images, relative to the variance of the target; of at most 128 of its
    /// channels, evenly spaced.
    pub error: f64,
    /// Accuracy of the network with the substitute on the evaluation images, 0 to 1; `None` without labels.
    pub accuracy: Option<f64>,
    /// Drop in accuracy in percentage points, with its 95% interval over images; negative if accuracy rises.
    pub drop: Option<[f64; 3]>,
    /// How closely the outputs follow those of the original network.
    #[serde(flatten)]
    pub fidelity: Fidelity,
    /// Cost of the substitute.
    pub cost: Cost,
    /// Milliseconds of a forward pass of the substitute.
    pub milliseconds: f64,
}

/// Time and memory of a scan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// Total seconds.
    pub seconds: f64,
    /// Of these, for fitting weights.
    pub fitting: f64,
    /// Of these, for evaluating networks.
    pub judging: f64,
    /// Of these, for measuring latencies.
    pub timing: f64,
    /// Planned peak of the memory for sums, tensors and models, in bytes.
    pub bytes: usize,
    /// Number of threads.
    pub threads: usize,
    /// Batch size of the measured forward passes, on one thread.
    pub batch: usize,
    /// Where PyTorch computed: its version, device, precision and driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Rank agreement of scans with training, over studies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Kendall's tau-b between the scan's drop and the criticality after training, averaged over parents.
    pub tau: f64,
    /// Its 95% interval, by bootstrap over parents; `None` with a single parent.
    pub interval: Option<[f64; 2]>,
    /// Number of parents.
    pub parents: usize,
    /// Number of blocks, over all parents.
    pub blocks: usize,
    /// The training scheme of the children.
    pub scheme: String,
    /// The init of the children.
    pub init: String,
    /// Tau of each parent.
    pub each: Vec<f64>,
}

impl Candidate {
    /// The loss in the scan's [`Measure`], in its unit.
    pub fn loss(&self) -> f64 {
        loss(self.drop, &self.fidelity)
    }

    /// The share kept: accuracy, or without labels [`Fidelity::kept`].
    pub fn kept(&self) -> f64 {
        self.accuracy.unwrap_or(self.fidelity.kept())
    }
}

/// The loss: the drop in accuracy in percentage points, or without labels the percentage that is not kept.
pub fn loss(drop: Option<[f64; 3]>, fidelity: &Fidelity) -> f64 {
    drop.map_or(100.0 * (1.0 - fidelity.kept()), |[drop, ..]| drop)
}

impl Range {
    /// The candidate that keeps most; if equal, the one with fewer MACs.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.iter().reduce(|a, b| {
            let better = b.kept() > a.kept() || b.kept() == a.kept() && b.cost.macs < a.cost.macs;
            if better { b } else { a }
        })
    }
}
