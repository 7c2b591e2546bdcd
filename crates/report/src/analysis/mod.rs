//! What the records say, as plain data: every number of every report comes from here.
//!
//! All differences of accuracy are in percentage points of the test set. Trials pair by parent and seed: the same
//! images in the same order under the same augmentation, judged on the same test images.
//!
//! **Criticality** of a block under a substitute, an init and a scheme is the mean of (control - child): what replacing
//! it costs. The control is the parent trained on under the same scheme and seed (`parent-continued`); for the scheme
//! `none`, and where the study has no such control, the parent itself, and then the number of pairs in which it stands
//! in is given beside. Diverged and failed trials have no accuracy: they are counted beside, never averaged in.

mod cells;
mod cheap;
mod cost;
mod curves;
mod f1;
mod f2;
mod f3;
mod flips;
mod headline;
pub(crate) mod index;
pub(crate) mod series;
mod similarity;

use serde::{Deserialize, Serialize};

pub use cells::{BlockAnswer, Cell, Control, OnTrialImages, ParentSummary};
pub use cheap::Cheap;
pub use cost::{ClassChange, Front, ParetoPoint};
pub use curves::{BandPoint, Curve, Survival};
pub use f1::{F1, F1Verdict, Pair};
pub use f2::{F2, F2Block, F2Verdict};
pub use f3::{Ceiling, F3, F3Pair, Pace};
pub use flips::Flips;
pub use headline::Headline;
pub use series::{Basis, Estimate, Unit};
pub use similarity::{SimilarLayer, Similarity};

use crate::data::{About, RunData};
use crate::stats::bootstrap::Draws;
use index::Index;

/// The version of the exported analysis; see `schema.json` beside the crate.
pub const SCHEMA: u32 = 1;

/// Choices that the records do not make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Options {
    /// Differences below this many percentage points count as none (equivalence, non-inferiority).
    pub margin: f64,
    /// Whether to compute bootstrap intervals too.
    pub bootstrap: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { margin: 1.0, bootstrap: true }
    }
}

/// What the records of a run say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Analysis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The study's name.
    pub name: String,
    /// Where the run came from.
    pub about: About,
    /// The choices made.
    pub options: Options,
    /// What the independent repetitions are.
    pub unit: Unit,
    /// Repetitions: seeds, or parents.
    pub units: usize,
    /// Trials in the plan, with controls.
    pub planned: usize,
    /// Trials recorded.
    pub recorded: usize,
    /// Trials that diverged.
    pub diverged: usize,
    /// Trials that failed.
    pub failed: usize,
    /// The parents, averaged.
    pub parent: Option<ParentSummary>,
    /// Under which substitute, init and scheme blocks are compared first.
    pub headline: Option<Headline>,
    /// The blocks in the network's order, each with its answer under the headline.
    pub blocks: Vec<BlockAnswer>,
    /// Every (block, substitute, init, scheme), in the plan's order.
    pub cells: Vec<Cell>,
    /// The controls: parent-continued, placebo, reinit, drop.
    pub controls: Vec<Control>,
    /// Finding F1 under the headline.
    pub f1: Option<F1>,
    /// Finding F2.
    pub f2: Option<F2>,
    /// Finding F3.
    pub f3: Option<F3>,
    /// How well cheaper answers agree with the headline's.
    pub cheap: Vec<Cheap>,
    /// Accuracy against cost.
    pub pareto: Vec<ParetoPoint>,
    /// Changes class by class under the headline.
    pub classes: Vec<ClassChange>,
    /// Which test images change sides under the headline, block by block.
    pub flips: Vec<Flips>,
    /// How alike parent and child are through the depth under the headline, block by block.
    pub similarity: Vec<Similarity>,
    /// Learning curves on the validation set, averaged over trials.
    pub curves: Vec<Curve>,
    /// Recovery: the share not yet within the margin of the parent.
    pub survival: Vec<Survival>,
}

/// Computes everything.
pub fn analyse(data: &RunData, options: &Options) -> Analysis {
    let index = Index::new(data);
    let images = index.parent.values().find_map(|point| point.bits.as_ref()).map_or(0, |bits| bits.len());
    let draws = options.bootstrap.then(|| Draws::new(images)).flatten();
    let cells = cells::cells(&index, draws.as_ref());
    let headline = headline::choose(&index, |_| true);
    let blocks = cells::blocks(&index, headline.as_ref(), &cells);
    let outcomes = |state: fn(&nettriage_records::record::Outcome) -> bool| {
        data.records.iter().filter(|record| state(&record.outcome)).count()
    };
    use nettriage_records::record::Outcome;
    let mut units: Vec<_> =
        index.parent.keys().map(|key| (key.0, if index.unit == Unit::Seeds { key.1 } else { 0 })).collect();
    units.dedup();
    Analysis {
        schema: SCHEMA,
        name: data.plan.name.clone(),
        about: data.about.clone(),
        options: options.clone(),
        unit: index.unit,
        units: units.len(),
        planned: data.plan.trials.len(),
        recorded: data.records.len(),
        diverged: outcomes(|outcome| matches!(outcome, Outcome::Diverged { .. })),
        failed: outcomes(|outcome| matches!(outcome, Outcome::Failed { .. })),
        parent: cells::parent(&index),
        blocks,
        controls: cells::controls(&index, draws.as_ref(), options.margin),
        f1: headline.as_ref().and_then(|headline| f1::judge(&index, headline, options.margin)),
        f2: f2::judge(&index, options.margin),
        f3: f3::judge(&index, options.margin),
        cheap: headline.as_ref().map(|headline| cheap::compare(&index, headline)).unwrap_or_default(),
        pareto: cost::pareto(&index, &cells),
        classes: headline.as_ref().map(|headline| cost::classes(&index, headline)).unwrap_or_default(),
        flips: headline.as_ref().map(|headline| flips::flips(&index, headline)).unwrap_or_default(),
        similarity: headline.as_ref().map(|headline| similarity::similarities(&index, headline)).unwrap_or_default(),
        curves: curves::curves(&index),
        survival: curves::survival(&index),
        cells,
        headline,
    }
}
