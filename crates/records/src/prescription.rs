//! A prescription as plain data: the constraint, the chosen replacements and the measured result.

use serde::{Deserialize, Serialize};

use crate::plan::Cost;
use crate::scan::{Fidelity, Measure, loss};

/// A smaller network: how it was chosen, and predicted and measured figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prescription {
    /// The network's name.
    pub network: String,
    /// Its file, or the run whose parent it is.
    pub source: String,
    /// The data set's name.
    pub data: String,
    /// The constraint as flags of the command line, such as `--max-drop 0.5pp`.
    pub budget: String,
    /// Its number among the networks of a [`Front`], and how many they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<[usize; 2]>,
    /// How the outputs are compared with the original's.
    pub measure: Measure,
    /// The replaced ranges, in network order.
    pub replaced: Vec<Replaced>,
    /// The training after surgery in words; `none` if there was none.
    pub training: String,
    /// Where PyTorch computed: its version, device, precision and driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Source of the images that the network was evaluated on.
    pub judged_from: String,
    /// The original network.
    pub before: Figures,
    /// Predicted from the scan for the network after surgery: the sum over its ranges.
    pub predicted: Figures,
    /// Predicted for the final network before it was built, from the scan and the networks that were built before it; none if it was the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Figures>,
    /// The network after surgery and before training, on the evaluation images.
    pub built: Figures,
    /// The final network on the evaluation images.
    pub judged: Figures,
    /// The original and the final network on the test set, which is evaluated once; `None` without labels.
    pub test: Option<[Figures; 2]>,
    /// Whether the constraint is met: a drop on the test set, a cost as measured.
    pub kept: bool,
    /// The Pareto front of drop and cost, from the scan's figures, and the plans that were built, by ascending drop.
    pub front: Vec<FrontPoint>,
    /// Batch size of the measured forward passes, on one thread.
    pub batch: usize,
    /// What measured them: `nettriage` or `onnxruntime` and its version.
    pub timed_by: String,
    /// The file of the user's table, if no pass was measured: all milliseconds are then sums over the network's parts of the times in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_table: Option<String>,
    /// Measured time of the final network divided by the original's: the median over paired passes, with its 95% interval.
    pub time_ratio: [f64; 3],
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
    /// How closely the outputs follow those of the original network; `None` if it is predicted.
    #[serde(flatten)]
    pub fidelity: Option<Fidelity>,
    /// Cost.
    pub cost: Cost,
    /// Milliseconds of a forward pass.
    pub milliseconds: f64,
}

impl Figures {
    /// The loss in the prescription's [`Measure`], in its unit; `None` of a prediction without labels.
    pub fn loss(&self) -> Option<f64> {
        match self.fidelity {
            Some(fidelity) => Some(loss(self.drop, &fidelity)),
            None => self.drop.map(|[drop, ..]| drop),
        }
    }

    /// Standard error of the drop over images, in percentage points; 0 if the drop was not measured.
    pub fn standard_error(&self) -> f64 {
        self.drop.map_or(0.0, |[_, low, high]| (high - low) / (2.0 * 1.96))
    }
}

/// One point of the Pareto front, or a plan that was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Predicted loss in the unit of the measure: the sum over its ranges, from the scan.
    pub drop: f64,
    /// Predicted loss at the end, from the scan and the networks that were built before this one, or before the end of the search; none
    /// before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<f64>,
    /// Predicted cost.
    pub cost: Cost,
    /// Predicted milliseconds.
    pub milliseconds: f64,
    /// Its replaced ranges.
    pub replaced: Vec<Replaced>,
    /// Measured loss on the evaluation images after surgery (and training), if it was built.
    pub tried: Option<f64>,
}

/// Networks of several sizes, from the largest to the smallest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Front {
    /// The networks that were built.
    pub networks: Vec<FrontNetwork>,
    /// The Pareto front of drop and cost, from the scan's figures.
    pub plans: Vec<FrontPoint>,
}

/// A network of a [`Front`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontNetwork {
    /// The file that holds it, beside the front's own; none before it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How it was made and measured, without the front of plans.
    pub prescription: Prescription,
}

impl Front {
    /// Whether another network is at least as good in both loss and measured time, and better in one.
    pub fn is_dominated(&self, network: usize) -> bool {
        let figures = |network: &FrontNetwork| {
            let prescription = &network.prescription;
            (prescription.final_figures().loss().unwrap_or(f64::INFINITY), prescription.time_ratio[0])
        };
        let (loss, time) = figures(&self.networks[network]);
        self.networks.iter().map(figures).any(|other| other.0 <= loss && other.1 <= time && other != (loss, time))
    }
}

impl Prescription {
    /// The figures of the final network: on the test set, or without labels on the evaluation images.
    pub fn final_figures(&self) -> &Figures {
        self.test.as_ref().map_or(&self.judged, |[_, after]| after)
    }
}
