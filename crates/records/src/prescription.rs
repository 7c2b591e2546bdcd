//! A prescription as plain data: the constraint, the chosen replacements and the measured result.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A smaller network: how it was chosen, and predicted and measured figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prescription {
    /// The network's name.
    pub network: String,
    /// Its file, or the run whose parent it is.
    pub source: String,
    /// The data set's name.
    pub data: String,
    /// The constraint in words, such as `a drop of at most 0.50 points`.
    pub budget: String,
    /// The replaced ranges, in network order.
    pub replaced: Vec<Replaced>,
    /// The training after surgery in words; `none` if there was none.
    pub training: String,
    /// Source of the images that the network was evaluated on.
    pub judged_from: String,
    /// The original network.
    pub before: Figures,
    /// Predicted from the scan for the network after surgery: the sum over its ranges.
    pub predicted: Figures,
    /// The network after surgery and before training, on the evaluation images.
    pub built: Figures,
    /// The final network on the evaluation images.
    pub judged: Figures,
    /// The original and the final network on the test set, which is evaluated once; `None` without labels.
    pub test: Option<[Figures; 2]>,
    /// Whether the constraint is met: a drop on the test set, a cost as measured.
    pub kept: bool,
    /// The Pareto front of drop and cost, from the scan's figures.
    pub front: Vec<FrontPoint>,
    /// Batch size of the measured forward passes, on one thread.
    pub batch: usize,
}

/// A range and its substitute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Name of the range; the names of the new layers begin with it.
    pub range: String,
    /// Names of its first and last layer.
    pub layers: [String; 2],
    /// Name of the substitute, such as `conv3x3`.
    pub substitute: String,
}

/// Figures of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Fraction of images classified correctly.
    pub accuracy: Option<f64>,
    /// Percentage points below the original network, with the 95% interval over images if it was measured.
    pub drop: Option<[f64; 3]>,
    /// Fraction of images whose top-1 class is that of the original network.
    pub agreement: Option<f64>,
    /// Cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass.
    pub milliseconds: f64,
}

/// One point of the Pareto front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Predicted drop in percentage points: the sum over its ranges.
    pub drop: f64,
    /// Predicted cost.
    pub cost: Cost,
    /// Predicted milliseconds.
    pub milliseconds: f64,
    /// Its replaced ranges.
    pub replaced: Vec<Replaced>,
    /// Measured drop in percentage points on the evaluation images after surgery (and training), if it was built.
    pub tried: Option<f64>,
}
