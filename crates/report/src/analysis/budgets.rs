//! The study under each of its budgets: criticality, ranking of the blocks, verdicts, and which trainings had converged.
//!
//! Learning rates fall towards the end of a training, and with them learning curves rise to the end, whatever the budget. So
//! convergence is judged between budgets, whose trainings are separate. A cell (block, substitute, init, scheme) **has
//! converged** at a budget if its mean test accuracy is equivalent (TOST within the margin, 5%) to its mean at the next smaller
//! budget of at most half the size. A cell without such a budget, or with a single repetition, cannot be judged.

use serde::{Deserialize, Serialize};

use super::cells::{BlockAnswer, Cell, Control};
use super::f1::F1;
use super::f2::F2;
use super::f3::F3;
use super::headline::Headline;
use super::index::{Index, Kind};
use super::proxy::{column_means, common, criticalities};
use super::series::{Estimate, differences, estimate};
use super::{Analysis, Options, analyse_one};
use crate::data::RunData;
use crate::stats::kendall::{tau, tau_interval};

/// A study of several budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Budgets {
    /// The results under each budget, the smallest first.
    pub each: Vec<AtBudget>,
    /// Whether the blocks rank alike under two budgets.
    pub rankings: Vec<RankingAgreement>,
    /// Every cell of every budget, in the order of `each`.
    pub convergence: Vec<CellConvergence>,
}

/// The results under one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AtBudget {
    /// As the study gives it.
    pub name: String,
    /// Training images.
    pub images: usize,
    /// The combination under which blocks are compared: that of the largest budget, where this one has its trials.
    pub headline: Option<Headline>,
    /// The blocks under it.
    pub blocks: Vec<BlockAnswer>,
    /// Every combination of block, substitute, init and scheme.
    pub cells: Vec<Cell>,
    /// The controls.
    pub controls: Vec<Control>,
    /// Finding F1.
    pub f1: Option<F1>,
    /// Finding F2.
    pub f2: Option<F2>,
    /// Finding F3.
    pub f3: Option<F3>,
    /// Cells that had converged.
    pub converged: usize,
    /// Cells that can be judged.
    pub judged: usize,
}

/// The rankings of the blocks under two budgets, by criticality under the combination that the answer compares them by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RankingAgreement {
    /// Images of the smaller budget.
    pub smaller: usize,
    /// Images of the larger one.
    pub larger: usize,
    /// Kendall's tau-b; absent where one ranking is all ties.
    pub tau: Option<f64>,
    /// 95% percentile bootstrap interval, resampling units.
    pub interval: Option<[f64; 2]>,
    /// Blocks ranked.
    pub blocks: usize,
}

/// Whether the trainings of a cell had converged at a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CellConvergence {
    /// The block.
    pub block: String,
    /// Its substitute.
    pub substitute: String,
    /// The init.
    pub init: String,
    /// The scheme.
    pub scheme: String,
    /// Training images.
    pub budget: usize,
    /// Training images of the budget that it is compared with; absent if there is none of at most half the size.
    pub smaller: Option<usize>,
    /// Accuracy at the budget − accuracy at the smaller one, percentage points.
    pub gain: Option<Estimate>,
    /// P value of equivalence within the margin (TOST).
    pub p_equivalent: Option<f64>,
    /// Whether it had converged; absent if that cannot be judged.
    pub converged: Option<bool>,
}

/// Analyses a run under each of its budgets; the analysis itself is that of the largest which has a finished child.
pub(crate) fn analyse_each(data: &RunData, options: &Options) -> Analysis {
    let runs: Vec<RunData> = data.plan.budgets.iter().map(|budget| data.at(budget.images)).collect();
    let begun = |run: &RunData| {
        use nettriage_records::plan::Role;
        run.records.iter().any(|r| r.spec.role == Role::Child && r.spec.budget.is_some() && r.readings.is_some())
    };
    let main = runs.iter().rposition(begun).unwrap_or(runs.len() - 1);
    let mut analysis = analyse_one(&runs[main], options, None);
    let plain = Options { bootstrap: false, ..options.clone() };
    let indices: Vec<Index> = runs.iter().map(Index::new).collect();
    let convergence = convergence(data, &indices, options.margin);
    let at = |(run, budget): (&RunData, &nettriage_records::plan::BudgetSummary)| {
        let one = analyse_one(run, &plain, analysis.headline.as_ref());
        let own = || convergence.iter().filter(|cell| cell.budget == budget.images);
        AtBudget {
            name: budget.name.clone(),
            images: budget.images,
            headline: one.headline,
            blocks: one.blocks,
            cells: one.cells,
            controls: one.controls,
            f1: one.f1,
            f2: one.f2,
            f3: one.f3,
            converged: own().filter(|cell| cell.converged == Some(true)).count(),
            judged: own().filter(|cell| cell.converged.is_some()).count(),
        }
    };
    let each: Vec<AtBudget> = runs.iter().zip(&data.plan.budgets).map(at).collect();
    let rankings = analysis.headline.as_ref().map(|headline| rankings(data, &indices, headline)).unwrap_or_default();
    analysis.budgets = Some(Budgets { each, rankings, convergence });
    // Of the whole run.
    let whole = super::counts(data);
    (analysis.planned, analysis.recorded, analysis.diverged, analysis.failed) = whole;
    analysis
}

fn rankings(data: &RunData, indices: &[Index], headline: &Headline) -> Vec<RankingAgreement> {
    let images = |at: usize| data.plan.budgets[at].images;
    let tables: Vec<_> = indices.iter().map(|index| criticalities(index, headline)).collect();
    let pairs = (0..tables.len()).flat_map(|larger| (0..larger).map(move |smaller| (smaller, larger)));
    let agreement = |(smaller, larger): (usize, usize)| {
        if tables[smaller].len() != tables[larger].len() {
            return None;
        }
        let (a, b) = common(&tables[smaller], &tables[larger]);
        let first = a.first().filter(|row| row.len() > 1)?;
        Some(RankingAgreement {
            smaller: images(smaller),
            larger: images(larger),
            tau: tau(&column_means(&a), &column_means(&b)),
            interval: tau_interval(&a, &b),
            blocks: first.len(),
        })
    };
    pairs.filter_map(agreement).collect()
}

fn convergence(data: &RunData, indices: &[Index], margin: f64) -> Vec<CellConvergence> {
    let budgets = &data.plan.budgets;
    let mut all = Vec::new();
    for (at, budget) in budgets.iter().enumerate() {
        let half = budget.images / 2;
        let trained = |kind: &Kind| data.plan.schemes.iter().any(|s| s.name == kind.scheme && !s.stages.is_empty());
        let children = indices[at].children().filter(|(kind, group)| trained(kind) && !group.done.is_empty());
        for (kind, group) in children {
            let smaller = (0..at).rev().find(|&smaller| budgets[smaller].images <= half);
            // Without trials at that budget there is nothing to compare with.
            let before = smaller.and_then(|smaller| {
                let before = indices[smaller].groups.get(kind).filter(|before| !before.done.is_empty())?;
                Some((budgets[smaller].images, before))
            });
            let gain = before.map(|(_, before)| differences(&group.series, &before.series, indices[at].unit));
            // Trials that are left after others diverged are a selection.
            let complete = before.is_some_and(|(_, before)| !group.incomplete() && !before.incomplete());
            let mean = gain.as_ref().filter(|gain| gain.values.len() > 1).and_then(|gain| gain.mean());
            let p_equivalent = mean.map(|mean| mean.p_equivalent(margin));
            all.push(CellConvergence {
                block: kind.block.clone(),
                substitute: kind.substitute.clone(),
                init: kind.init.clone(),
                scheme: kind.scheme.clone(),
                budget: budget.images,
                smaller: before.map(|(images, _)| images),
                gain: gain.as_ref().and_then(|gain| estimate(gain, None)),
                p_equivalent,
                converged: p_equivalent.map(|p| complete && p < 0.05),
            });
        }
    }
    all
}

impl Budgets {
    /// The convergence of a cell at a budget.
    pub fn of(&self, budget: usize, cell: &Cell) -> Option<&CellConvergence> {
        self.convergence.iter().find(|other| {
            other.budget == budget
                && (&other.block, &other.substitute, &other.init, &other.scheme)
                    == (&cell.block, &cell.substitute, &cell.init, &cell.scheme)
        })
    }
}

impl AtBudget {
    /// The criticality of a block here, if blocks are compared under `headline` here too.
    pub fn criticality(&self, block: &str, headline: Option<&Headline>) -> Option<&Estimate> {
        let own = self.blocks.iter().find(|own| own.block == block).filter(|_| self.headline.as_ref() == headline)?;
        self.cells[own.cell?].criticality.as_ref()
    }
}
