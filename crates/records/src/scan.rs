//! The result of a scan as plain data.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A scan of one network: every range of layers that could be replaced by one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// The network's name.
    pub network: String,
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
    /// Whether they are labelled.
    pub labelled: bool,
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
    /// Squared error of the plain affine solution on held-out images, relative to the variance of the target.
    pub error: f64,
    /// Accuracy of the network with the substitute on the evaluation images, 0 to 1; `None` without labels.
    pub accuracy: Option<f64>,
    /// Drop in accuracy in percentage points, with its 95% interval over images; negative if accuracy rises.
    pub drop: Option<[f64; 3]>,
    /// Fraction of the evaluation images whose top-1 class is unchanged.
    pub agreement: f64,
    /// Mean Kullback-Leibler divergence of the class probabilities from the parent's, in nats.
    pub divergence: f64,
    /// Cost of the substitute.
    pub cost: Cost,
    /// Milliseconds of a forward pass of the substitute.
    pub milliseconds: f64,
}

/// Time and memory of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

impl Range {
    /// The best candidate by accuracy, or by agreement without labels; if equal, the one with fewer MACs.
    pub fn best(&self) -> Option<&Candidate> {
        let quality = |c: &Candidate| c.accuracy.unwrap_or(c.agreement);
        self.candidates.iter().reduce(|a, b| {
            let better = quality(b) > quality(a) || quality(b) == quality(a) && b.cost.macs < a.cost.macs;
            if better { b } else { a }
        })
    }
}
