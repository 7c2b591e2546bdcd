//! The plan: everything that a study will do, before it does any of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the files that this program writes; others are refused by name.
pub const VERSION: u32 = 1;

/// All trials and controls of a study, with what a reader needs to understand them.
///
/// A pure function of the study file, the network and the data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`] of the program that made it.
    pub version: u32,
    /// The study's name.
    pub name: String,
    /// The study file's text, as it was read.
    pub study: String,
    /// The data set.
    pub data: DataSummary,
    /// The parent's layers, in order.
    pub layers: Vec<LayerSummary>,
    /// The blocks under examination, in the network's order.
    pub blocks: Vec<BlockSummary>,
    /// The schemes by name, with what they do in words, in the study's order.
    pub schemes: Vec<SchemeSummary>,
    /// The parents, one for every parent seed.
    pub parents: Vec<ParentSpec>,
    /// Every trial and control, in the order of the plan.
    pub trials: Vec<TrialSpec>,
    /// How far below its parent (as a share of images) a child counts as recovered.
    pub margin: f64,
}

/// The data set as the study sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Name, such as `cifar10`.
    pub name: String,
    /// Checksum of what was read.
    pub checksum: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// (C, H, W) of an image.
    pub shape: [usize; 3],
    /// Normalisation: mean per channel, of pixels in 0 to 1.
    pub mean: Vec<f32>,
    /// Normalisation: standard deviation per channel.
    pub std: Vec<f32>,
    /// Images that parents train on.
    pub train: usize,
    /// Images that every choice is made on, carved from the training set.
    pub validation: usize,
    /// Images read once per trial, at its end.
    pub test: usize,
    /// Images a child's stages see in all.
    pub budget: usize,
}

/// One layer of the parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// Name.
    pub name: String,
    /// Kind with its settings, such as `conv 3x3, 64`.
    pub kind: String,
    /// (C, H, W) of its output.
    pub shape: [usize; 3],
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// The block that it belongs to.
    pub block: Option<String>,
}

/// One block and its substitutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Name, such as `block3`.
    pub name: String,
    /// Its layers' names.
    pub layers: Vec<String>,
    /// (C, H, W) of its input.
    pub input: [usize; 3],
    /// (C, H, W) of its output.
    pub output: [usize; 3],
    /// Parameters of the block.
    pub parameters: u64,
    /// Multiply-accumulates per image of the block.
    pub macs: u64,
    /// Cost of each substitute, by its name, such as `conv3x3`.
    pub substitutes: BTreeMap<String, Cost>,
}

/// Cost of a network or a part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
}

/// A scheme in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchemeSummary {
    /// Name, such as `hint-then-distill`.
    pub name: String,
    /// Its stages, such as `hint, substitute, 50% of the budget`.
    pub stages: Vec<String>,
    /// Whether every layer trains in its last stage (as in `global`), or the substitute alone.
    pub global: bool,
    /// Whether any stage has soft targets from the parent.
    pub distills: bool,
    /// The scheme that has the same stages without soft targets, if the study holds it.
    pub undistilled: Option<String>,
}

/// A parent: the network before surgery, trained or read from a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentSpec {
    /// Content id.
    pub id: String,
    /// Seed of its weights and data order; 0 for a network from a file.
    pub seed: u64,
}

/// What a trial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The block replaced by its substitute.
    Child,
    /// Control: the parent as it is, untrained any further.
    Parent,
    /// Control: the parent trained on under the same scheme and budget.
    ParentContinued,
    /// Control: a child with zero layers replaced, trained under the same scheme and budget. It must come out equivalent to the
    /// parent trained on; if it does not, differences between children and controls are not the replacement's alone.
    Placebo,
    /// Control: the block kept, its weights drawn anew, then trained.
    Reinit,
    /// Control: the block removed, where shapes permit.
    Drop,
}

/// One trial or control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialSpec {
    /// Content id: a hash of everything that determines the result.
    pub id: String,
    /// What it is for.
    pub role: Role,
    /// Id of the parent.
    pub parent: String,
    /// The block replaced, re-initialised or dropped; absent for the parent's own controls.
    pub block: Option<String>,
    /// Name of the substitute, such as `conv3x3`; children only.
    pub substitute: Option<String>,
    /// Name of the init; children only.
    pub init: Option<String>,
    /// Name of the scheme; `none` for no training.
    pub scheme: String,
    /// Seed: trials of one seed see the same images in the same order under the same augmentation.
    pub seed: u64,
}
