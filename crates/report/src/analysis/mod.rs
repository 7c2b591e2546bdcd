//! The analysis of a run as plain data. Every number of every report, page and export comes from here.
//!
//! All accuracy differences are percentage points (pp) of test accuracy. Trials are paired by parent and seed: both see
//! the same images in the same order under the same augmentation, and are evaluated on the same test images.
//!
//! The **criticality** of a block, for one substitute, init and scheme, is the mean of (control − child), which is the
//! accuracy that replacing the block costs. The control is the parent fine-tuned with the same scheme and seed (role
//! `parent-continued`). For the scheme `none`, and where a study lacks that control, the parent itself is the control;
//! [`Cell::fallback_pairs`] counts those pairs. Diverged and failed trials have no accuracy; they are counted and not
//! averaged.

mod budgets;
mod cells;
mod cost;
mod curves;
mod f1;
mod f2;
mod f3;
mod flips;
mod headline;
pub(crate) mod index;
pub(crate) mod metric;
mod proxy;
mod rates;
pub(crate) mod series;
mod similarity;
mod timing;
mod validity;

use serde::{Deserialize, Serialize};

pub use budgets::{AtBudget, Budgets, CellConvergence, RankingAgreement};
pub use cells::{BlockAnswer, Cell, Control, OnTrialImages, ParentSummary};
pub use cost::{ClassChange, Front, ParetoPoint};
pub use curves::{BandPoint, Curve, Survival};
pub use f1::{F1, F1Verdict, Pair};
pub use f2::{F2, F2Block, F2Verdict};
pub use f3::{AccuracyVerdict, Convergence, F3, F3Pair};
pub use flips::Flips;
pub use headline::Headline;
pub use metric::{LossVerdict, MetricAnalysis, MetricBlock, MetricCell, MetricControl};
pub use proxy::ProxyRanking;
pub use rates::TestedRate;
pub use series::{Basis, Estimate, Unit};
pub use similarity::{LayerCka, Similarity};
pub use timing::TimingCheck;
pub use validity::{ChanceTest, CollapsedControl, Validity};

use crate::data::{About, RunData};
use crate::stats::bootstrap::Draws;
use index::Index;

/// Version of the exported analysis. `schema.json` in this crate describes its fields.
pub const SCHEMA: u32 = 3;

/// Parameters of the analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Options {
    /// Equivalence and non-inferiority margin in percentage points of test accuracy.
    pub margin: f64,
    /// Whether to compute bootstrap intervals as well.
    pub bootstrap: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { margin: 1.0, bootstrap: true }
    }
}

/// The analysis of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Analysis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The study's name.
    pub name: String,
    /// How the run was made.
    pub about: About,
    /// The parameters of this analysis.
    pub options: Options,
    /// A child has recovered once its validation accuracy is within this many percentage points of its parent's.
    pub recovery_margin: f64,
    /// The schemes' names, in the study's order.
    pub schemes: Vec<String>,
    /// The parent's layers' names, in order.
    pub layers: Vec<String>,
    /// What varies between independent repetitions.
    pub unit: Unit,
    /// Number of repetitions: seeds, or parents.
    pub units: usize,
    /// Training images of the budget that everything here is about, but for `budgets`; absent in a plan without trials that train.
    pub budget: Option<usize>,
    /// The results under every budget; absent in a study of one.
    pub budgets: Option<Budgets>,
    /// The learning rates that range tests have found; absent in a study that gives its rates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<TestedRate>,
    /// Trials in the plan, including controls.
    pub planned: usize,
    /// Trials recorded.
    pub recorded: usize,
    /// Trials that diverged.
    pub diverged: usize,
    /// Trials that failed.
    pub failed: usize,
    /// Averages over the parents.
    pub parent: Option<ParentSummary>,
    /// What limits the conclusions.
    pub validity: Validity,
    /// The check of the time measurement; absent if no control was timed.
    pub timing: Option<TimingCheck>,
    /// The substitute, init and scheme under which blocks are compared.
    pub headline: Option<Headline>,
    /// The blocks with their results under the headline, in the order of [`Analysis::layers`].
    pub blocks: Vec<BlockAnswer>,
    /// Every combination of block, substitute, init and scheme, in the plan's order.
    pub cells: Vec<Cell>,
    /// The controls: fine-tuned parent, placebo, re-initialised block, dropped block.
    pub controls: Vec<Control>,
    /// Finding F1 under the headline.
    pub f1: Option<F1>,
    /// Finding F2.
    pub f2: Option<F2>,
    /// Finding F3.
    pub f3: Option<F3>,
    /// How well the rankings of cheaper combinations agree with the headline's.
    pub proxies: Vec<ProxyRanking>,
    /// Accuracy and cost of the parent and of every cell.
    pub pareto: Vec<ParetoPoint>,
    /// Accuracy changes per class under the headline.
    pub classes: Vec<ClassChange>,
    /// Test images whose prediction becomes wrong or right under the headline, per block.
    pub flips: Vec<Flips>,
    /// CKA similarity of parent and child at every shared layer under the headline, per block.
    pub similarity: Vec<Similarity>,
    /// Validation learning curves, averaged over trials.
    pub curves: Vec<Curve>,
    /// Kaplan-Meier curves of recovery: the share of trials not yet within the margin of the parent.
    pub survival: Vec<Survival>,
}

/// Analyses the records of a run.
pub fn analyse(data: &RunData, options: &Options) -> Analysis {
    if data.plan.budgets.len() > 1 { budgets::analyse_each(data, options) } else { analyse_one(data, options, None) }
}

/// Trials planned, recorded, diverged and failed.
fn counts(data: &RunData) -> (usize, usize, usize, usize) {
    use nettriage_records::record::Outcome;
    let outcomes = |state: fn(&Outcome) -> bool| data.records.iter().filter(|record| state(&record.outcome)).count();
    (
        data.plan.trials.len(),
        data.records.len(),
        outcomes(|outcome| matches!(outcome, Outcome::Diverged { .. })),
        outcomes(|outcome| matches!(outcome, Outcome::Failed { .. })),
    )
}

/// Analyses a run of one budget. Blocks are compared under `preferred`, where all of them have a finished trial under it.
fn analyse_one(data: &RunData, options: &Options, preferred: Option<&Headline>) -> Analysis {
    let index = Index::new(data);
    let images = index.test_images();
    let draws = options.bootstrap.then(|| Draws::new(images)).flatten();
    let timing = timing::check(&index);
    let cells = cells::cells(&index, draws.as_ref(), timing.is_none_or(|check| check.passed));
    let preferred = preferred.filter(|headline| headline::candidates(&index).contains(headline));
    let headline = preferred.cloned().or_else(|| headline::choose(&index, |_| true));
    let validity = validity::validity(&index, headline.as_ref(), options.margin);
    let blocks = cells::blocks(&index, headline.as_ref(), &cells);
    let (planned, recorded, diverged, failed) = counts(data);
    let mut units: Vec<_> =
        index.parent.keys().map(|key| (key.0, if index.unit == Unit::Seeds { key.1 } else { 0 })).collect();
    units.dedup();
    Analysis {
        schema: SCHEMA,
        name: data.plan.name.clone(),
        about: data.about.clone(),
        options: options.clone(),
        recovery_margin: data.plan.margin_pp(),
        schemes: data.plan.schemes.iter().map(|scheme| scheme.name.clone()).collect(),
        layers: data.plan.layers.iter().map(|layer| layer.name.clone()).collect(),
        unit: index.unit,
        units: units.len(),
        budget: data.plan.largest_budget().map(|budget| budget.images),
        budgets: None,
        rates: rates::rates(data),
        planned,
        recorded,
        diverged,
        failed,
        parent: cells::parent(&index),
        blocks,
        controls: cells::controls(&index, draws.as_ref(), options.margin),
        f1: headline.as_ref().and_then(|headline| f1::test(&index, headline, options.margin, &validity)),
        f2: f2::test(&index, options.margin, &validity),
        f3: f3::test(&index, options.margin, &validity),
        proxies: headline.as_ref().map(|headline| proxy::rankings(&index, headline)).unwrap_or_default(),
        pareto: cost::pareto(&index, &cells),
        classes: headline.as_ref().map(|headline| cost::classes(&index, headline)).unwrap_or_default(),
        flips: headline.as_ref().map(|headline| flips::flips(&index, headline)).unwrap_or_default(),
        similarity: headline.as_ref().map(|headline| similarity::similarities(&index, headline)).unwrap_or_default(),
        curves: curves::curves(&index),
        survival: curves::survival(&index),
        cells,
        validity,
        timing,
        headline,
    }
}
