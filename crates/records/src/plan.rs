//! The plan: all trials of a study.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metric::Metric;

/// The version of the file format. Files of other versions are refused.
pub const VERSION: u32 = 2;

/// All trials and controls of a study, with summaries of the data set, the network and the schemes.
///
/// A pure function of the study file, the network and the data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`] of the program that wrote it.
    pub version: u32,
    /// The study's name.
    pub name: String,
    /// The text of the study file.
    pub study: String,
    /// The engine and its precision, such as `torch f32`; none for nettriage's own, in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The data set.
    pub data: DataSummary,
    /// The budgets of children, the smallest first.
    pub budgets: Vec<BudgetSummary>,
    /// The parent's layers, in order.
    pub layers: Vec<LayerSummary>,
    /// The blocks of the study, in network order.
    pub blocks: Vec<BlockSummary>,
    /// The schemes with a description of their stages, in the order of the study file.
    pub schemes: Vec<SchemeSummary>,
    /// The parents, one per parent seed.
    pub parents: Vec<ParentSpec>,
    /// The range tests that find learning rates; empty where the study gives them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub range_tests: Vec<RangeTestSpec>,
    /// All trials and controls.
    pub trials: Vec<TrialSpec>,
    /// A child counts as recovered if its accuracy is at most this far below its parent's, as a fraction of images.
    pub margin: f64,
    /// What the user's own program measures, in a study whose trials it trains; none where nettriage trains them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

impl Plan {
    /// The recovery margin in percentage points.
    pub fn margin_pp(&self) -> f64 {
        100.0 * self.margin
    }
}

/// The data set of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Name, such as `cifar10`.
    pub name: String,
    /// Checksum of the decoded content.
    pub checksum: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Shape of an image, [C, H, W].
    pub shape: [usize; 3],
    /// Normalisation: mean of every channel, of pixels scaled to 0..1.
    pub mean: Vec<f32>,
    /// Normalisation: standard deviation of every channel.
    pub std: Vec<f32>,
    /// Number of images that parents train on.
    pub train: usize,
    /// Number of validation images, on which every choice is based; taken out of the training set.
    pub validation: usize,
    /// Number of test images, evaluated once per trial, at its end.
    pub test: usize,
}

/// How long children train: a study may have several budgets, whose trainings are separate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSummary {
    /// As the study gives it, such as `1 epoch`.
    pub name: String,
    /// Number of training images, over all stages.
    pub images: usize,
}

impl Plan {
    /// The largest budget, under which the study is judged first.
    pub fn largest_budget(&self) -> Option<&BudgetSummary> {
        self.budgets.last()
    }
}

/// One layer of the parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// Name.
    pub name: String,
    /// Kind and settings, such as `conv 3x3, 64`.
    pub kind: String,
    /// Shape of its output, [C, H, W].
    pub shape: [usize; 3],
    /// Number of parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// The block that contains it.
    pub block: Option<String>,
}

/// One block and its substitutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Name, such as `block3`.
    pub name: String,
    /// Names of its layers.
    pub layers: Vec<String>,
    /// Shape of its input, [C, H, W].
    pub input: [usize; 3],
    /// Shape of its output, [C, H, W].
    pub output: [usize; 3],
    /// Number of parameters of the block.
    pub parameters: u64,
    /// Multiply-accumulates per image of the block.
    pub macs: u64,
    /// Cost of each substitute, by its name, such as `conv3x3`.
    pub substitutes: BTreeMap<String, Cost>,
}

/// Cost of a network or a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Number of parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
}

/// A training scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchemeSummary {
    /// Name, such as `hint-then-distill`.
    pub name: String,
    /// Its stages, such as `hint, substitute, 50% of the budget`.
    pub stages: Vec<String>,
    /// Whether all layers train in its last stage (as in `global`), or only the substitute.
    pub global: bool,
    /// Whether any stage uses soft targets from the parent.
    pub distills: bool,
    /// The scheme with the same stages but no soft targets, if the study has it.
    pub undistilled: Option<String>,
}

/// A parent: the network before surgery, trained or read from a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentSpec {
    /// Content id.
    pub id: String,
    /// Seed of its weights and its order of examples; 0 for a network from a file.
    pub seed: u64,
}

/// A learning-rate range test of the study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeTestSpec {
    /// Content id.
    pub id: String,
    /// The trainings whose largest rate it finds.
    pub of: Trainings,
}

/// The trainings of a study that share one largest learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trainings {
    /// Those of parents.
    Parents,
    /// Those of children and controls.
    Children,
}

impl std::fmt::Display for Trainings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trainings::Parents => "parents",
            Trainings::Children => "children",
        })
    }
}

/// The role of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The network with the block replaced by the substitute.
    Child,
    /// Control: the parent without further training.
    Parent,
    /// Control: the fine-tuned parent, under the same scheme and budget.
    ParentContinued,
    /// Control: a child with no layer replaced, trained under the same scheme and budget. It must be equivalent to the
    /// fine-tuned parent; if it is not, differences between children and controls have causes other than the replacement.
    Placebo,
    /// Control: the re-initialised block (its layers kept, its weights random), then trained.
    Reinit,
    /// Control: the block removed, where shapes permit.
    Drop,
}

/// One trial or control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialSpec {
    /// Content id: a hash of everything that determines the result.
    pub id: String,
    /// Its role.
    pub role: Role,
    /// Id of the parent.
    pub parent: String,
    /// The block that is replaced, re-initialised or dropped; `None` for controls of the parent.
    pub block: Option<String>,
    /// Name of the substitute, such as `conv3x3`; only for children.
    pub substitute: Option<String>,
    /// Name of the init; only for children.
    pub init: Option<String>,
    /// Name of the scheme; `none` for no training.
    pub scheme: String,
    /// Number of training images; none for a trial without training, which is the same under every budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// Seed. Trials of one seed train on the same images in the same order with the same augmentation.
    pub seed: u64,
}
