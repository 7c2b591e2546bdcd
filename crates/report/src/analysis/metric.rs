//! The analysis of a study of a user-defined metric, as plain data.
//!
//! Pairing, controls, intervals, F1 and F2 are those of accuracies; the unit is the metric's, and a loss is positive whichever values
//! are better. There is no learning curve and no validation set, so F3, recovery and whatever depends on them are left out, and
//! blocks are compared under the plan's first substitute and init that have the most trials: no choice is made by test results.

use nettriage_records::metric::Metric;
use nettriage_records::plan::{Cost, Role};
use serde::{Deserialize, Serialize};

use super::f1::{self, F1};
use super::f2::{self, F2};
use super::headline::{Headline, candidates};
use super::index::{Group, Index, Kind};
use super::series::{Differences, Estimate, differences, estimate};
use super::validity::{self, Validity};
use crate::data::{About, RunData};
use crate::stats::bootstrap::Draws;
use crate::stats::paired::mean;

/// The results of a study of a user-defined metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricAnalysis {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The study's name.
    pub name: String,
    /// How the run was made.
    pub about: About,
    /// The metric; its margin is that of every test.
    pub metric: Metric,
    /// Mean of the parent as it is; absent before it is recorded.
    pub parent: Option<f64>,
    /// Cost of the parent.
    pub cost: Cost,
    /// Number of seeds with results.
    pub seeds: usize,
    /// Trials in the plan, including controls.
    pub planned: usize,
    /// Trials recorded.
    pub recorded: usize,
    /// Trials that failed.
    pub failed: usize,
    /// What limits the conclusions.
    pub validity: Validity,
    /// The substitute and init under which blocks are compared.
    pub headline: Option<Headline>,
    /// The blocks from input to output.
    pub blocks: Vec<MetricBlock>,
    /// Every combination of block, substitute and init with a result, in the plan's order.
    pub cells: Vec<MetricCell>,
    /// The controls: fine-tuned parent, placebo, re-initialised block, dropped block.
    pub controls: Vec<MetricControl>,
    /// Finding F1.
    pub f1: Option<F1>,
    /// Finding F2.
    pub f2: Option<F2>,
}

/// A block's result under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricBlock {
    /// The block.
    pub block: String,
    /// Rank by loss, 1 for the largest; absent without results.
    pub rank: Option<usize>,
    /// Index into [`MetricAnalysis::cells`].
    pub cell: Option<usize>,
    /// Share of the network's parameters that the replacement saves, 0 to 1; negative where it adds some.
    pub saves_parameters: Option<f64>,
    /// Share of the multiply-accumulates saved.
    pub saves_macs: Option<f64>,
}

/// Results of one combination of block, substitute and init.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricCell {
    /// The block.
    pub block: String,
    /// Its substitute.
    pub substitute: String,
    /// The init.
    pub init: String,
    /// Trials with results.
    pub trials: usize,
    /// Trials that failed; not part of any mean.
    pub failed: usize,
    /// Mean over trials and test examples.
    pub value: f64,
    /// The same of the control over the same pairs.
    pub control: Option<f64>,
    /// How much worse than the control the children are, in the metric's unit.
    pub loss: Option<Estimate>,
    /// Pairs whose control is the parent as it is, because the fine-tuned parent of that seed is not recorded.
    pub fallback_pairs: usize,
    /// How much worse than the parent as it is.
    pub loss_to_parent: Option<Estimate>,
    /// What the loss shows.
    pub verdict: LossVerdict,
    /// Cost of the child.
    pub cost: Cost,
}

/// What a loss shows, by one-sided tests at 5%.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossVerdict {
    /// It is below the margin.
    Negligible,
    /// There is one, and it is not shown to be below the margin.
    Loss,
    /// Neither; also with one seed, or with failed trials.
    Undecided,
}

/// A control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricControl {
    /// Kind of control.
    pub role: Role,
    /// The block; none for controls of the whole network.
    pub block: Option<String>,
    /// Trials with results.
    pub trials: usize,
    /// Mean over trials and test examples.
    pub value: f64,
    /// How much worse than its reference: the parent for the fine-tuned parent, the fine-tuned parent for all others.
    pub loss: Option<Estimate>,
    /// P value of equivalence to the reference within the margin (TOST). A placebo must pass this test.
    pub p_equivalent: Option<f64>,
}

/// Analyses the records of a run whose plan has a metric; none for another run.
pub fn analyse(data: &RunData, bootstrap: bool) -> Option<MetricAnalysis> {
    let metric = data.plan.metric.clone()?;
    let index = Index::new(data);
    let draws = bootstrap.then(|| Draws::new(index.test_images())).flatten();
    let headline = headline(&index);
    let validity = validity::of_trials(&index, headline.as_ref(), metric.margin);
    let cells = cells(&index, &metric, draws.as_ref());
    let (planned, recorded, _, failed) = super::counts(data);
    let mut seeds: Vec<u64> = index.children().flat_map(|(_, group)| group.series.keys().map(|key| key.1)).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let parent = index.of_role(Role::Parent).find_map(|(_, group)| group.series.values().next());
    Some(MetricAnalysis {
        schema: super::SCHEMA,
        name: data.plan.name.clone(),
        about: data.about.clone(),
        parent: parent.map(|point| metric.better.oriented(point.score)),
        cost: whole(data),
        seeds: seeds.len(),
        planned,
        recorded,
        failed,
        blocks: blocks(data, headline.as_ref(), &cells),
        controls: controls(&index, &metric, draws.as_ref()),
        f1: headline.as_ref().and_then(|headline| f1::test(&index, headline, metric.margin, &validity)),
        f2: headline.clone().and_then(|headline| f2::of_headline(&index, headline, metric.margin, &validity)),
        cells,
        validity,
        headline,
        metric,
    })
}

/// The first in the plan of those with the most results in the block that has fewest.
fn headline(index: &Index) -> Option<Headline> {
    let complete = |headline: &Headline| {
        let groups = headline.substitutes.iter().filter_map(|(block, _)| headline.group(index, block));
        groups.map(|group| group.series.len()).min().unwrap_or(0)
    };
    let mut best: Option<(usize, Headline)> = None;
    for candidate in candidates(index) {
        let complete = complete(&candidate);
        if best.as_ref().is_none_or(|(most, _)| complete > *most) {
            best = Some((complete, candidate));
        }
    }
    best.map(|(_, headline)| headline)
}

/// Cost of the parent.
fn whole(data: &RunData) -> Cost {
    let layers = &data.plan.layers;
    Cost {
        parameters: layers.iter().map(|layer| layer.parameters).sum(),
        macs: layers.iter().map(|layer| layer.macs).sum(),
    }
}

fn value(group: &Group, metric: &Metric) -> f64 {
    metric.better.oriented(mean(&group.series.values().map(|point| point.score).collect::<Vec<_>>()))
}

fn cells(index: &Index, metric: &Metric, draws: Option<&Draws>) -> Vec<MetricCell> {
    let cell = |kind: &Kind, group: &Group| {
        let measured = index.data.records.iter().filter(|record| Kind::of(&record.spec) == *kind);
        let cost = measured.filter_map(|record| Some(record.measured.as_ref()?.cost)).next()?;
        let (control, fallback_pairs) = index.control(&kind.scheme, &kind.block, &group.series);
        let losses = differences(&control, &group.series, index.unit);
        let scores: Vec<f64> = control.values().map(|point| point.score).collect();
        Some(MetricCell {
            block: kind.block.clone(),
            substitute: kind.substitute.clone(),
            init: kind.init.clone(),
            trials: group.series.len(),
            failed: group.failed,
            value: value(group, metric),
            control: (!scores.is_empty()).then(|| metric.better.oriented(mean(&scores))),
            loss: estimate(&losses, draws),
            fallback_pairs,
            loss_to_parent: estimate(&differences(&index.parent, &group.series, index.unit), None),
            verdict: verdict(&losses, metric.margin, group.incomplete()),
            cost,
        })
    };
    index.children().filter_map(|(kind, group)| cell(kind, group)).collect()
}

fn verdict(losses: &Differences, margin: f64, incomplete: bool) -> LossVerdict {
    // A single seed gives no estimate of training noise, however many examples it has.
    match losses.mean().filter(|_| losses.values.len() > 1 && !incomplete) {
        Some(mean) if mean.p_below(margin) < 0.05 => LossVerdict::Negligible,
        Some(mean) if mean.p_above(0.0) < 0.05 => LossVerdict::Loss,
        _ => LossVerdict::Undecided,
    }
}

fn blocks(data: &RunData, headline: Option<&Headline>, cells: &[MetricCell]) -> Vec<MetricBlock> {
    let whole = whole(data);
    let place = |block: &str| {
        let headline = headline?;
        let substitute = headline.substitute(block)?;
        let own =
            |cell: &MetricCell| cell.block == block && cell.substitute == substitute && cell.init == headline.init;
        cells.iter().position(own)
    };
    let loss = |cell: Option<usize>| Some(cells[cell?].loss.as_ref()?.mean);
    let all: Vec<f64> = data.plan.blocks.iter().filter_map(|block| loss(place(&block.name))).collect();
    let of = |block: &nettriage_records::plan::BlockSummary| {
        let cell = place(&block.name);
        let saved = |read: fn(&Cost) -> u64| {
            let (whole, child) = (read(&whole), read(&cells[cell?].cost));
            (whole > 0).then(|| 1.0 - child as f64 / whole as f64)
        };
        MetricBlock {
            block: block.name.clone(),
            rank: loss(cell).map(|own| 1 + all.iter().filter(|&&other| other > own).count()),
            cell,
            saves_parameters: saved(|cost| cost.parameters),
            saves_macs: saved(|cost| cost.macs),
        }
    };
    data.plan.blocks.iter().map(of).collect()
}

fn controls(index: &Index, metric: &Metric, draws: Option<&Draws>) -> Vec<MetricControl> {
    let roles = [Role::ParentContinued, Role::Placebo, Role::Reinit, Role::Drop];
    let kinds = roles.into_iter().flat_map(|role| index.of_role(role)).filter(|(_, group)| !group.series.is_empty());
    kinds
        .map(|(kind, group)| {
            let reference = match kind.role {
                Role::ParentContinued => index.parent.clone(),
                _ => index.control(&kind.scheme, &kind.block, &group.series).0,
            };
            let losses = differences(&reference, &group.series, index.unit);
            let mean = losses.mean().filter(|_| losses.values.len() > 1);
            MetricControl {
                role: kind.role,
                block: (!kind.block.is_empty()).then(|| kind.block.clone()),
                trials: group.series.len(),
                value: value(group, metric),
                loss: estimate(&losses, draws),
                p_equivalent: mean.map(|mean| mean.p_equivalent(metric.margin)),
            }
        })
        .collect()
}
