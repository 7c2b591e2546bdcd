//! A prescription, as plain data: what was to be met, what was chosen, what came of it.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;

/// A smaller network: how it was chosen, and predicted beside actual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prescription {
    /// The network's name.
    pub network: String,
    /// Its file or run.
    pub source: String,
    /// The data set's name.
    pub data: String,
    /// What was asked for, in words.
    pub budget: String,
    /// What takes the place of what, in the network's order.
    pub replaced: Vec<Replaced>,
    /// How the network was trained after the surgery, in words; `none` where it was not.
    pub training: String,
    /// Where the judged images come from.
    pub judged_from: String,
    /// The network before.
    pub before: Figures,
    /// What the scan predicted for the network after surgery, its parts added up.
    pub predicted: Figures,
    /// The network as built, before training, on the judged images.
    pub built: Figures,
    /// The network at the end, on the judged images.
    pub judged: Figures,
    /// The network before and at the end on the test set, looked at once; none without labels.
    pub test: Option<[Figures; 2]>,
    /// Whether the promise holds on the test set (a drop), or as measured (a cost).
    pub kept: bool,
    /// The plans that none beats in both, from the scan's figures.
    pub front: Vec<FrontPoint>,
    /// Images in a pass whose milliseconds were measured, on one thread.
    pub batch: usize,
}

/// A range and the layer in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Name of the range, which the new layers' names begin with.
    pub range: String,
    /// First and last layer.
    pub layers: [String; 2],
    /// The single layer.
    pub substitute: String,
}

/// Figures of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Share of right images.
    pub accuracy: Option<f64>,
    /// Percentage points below the network before, with the 95% interval over images where it was measured.
    pub drop: Option<[f64; 3]>,
    /// Share of images whose first choice is that of the network before.
    pub agreement: Option<f64>,
    /// Cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass.
    pub milliseconds: f64,
}

/// One plan of the front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Predicted drop in percentage points: the sum over its ranges.
    pub drop: f64,
    /// Predicted cost.
    pub cost: Cost,
    /// Predicted milliseconds.
    pub milliseconds: f64,
    /// Its ranges and their substitutes.
    pub replaced: Vec<Replaced>,
    /// Percentage points of drop on the judged images once built (and trained), where it was tried.
    pub tried: Option<f64>,
}
