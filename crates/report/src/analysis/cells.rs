//! Criticality per cell, controls, and the result of each block under the headline.

use nettriage_records::plan::{BlockSummary, Cost, Role};
use nettriage_records::record::Readings;
use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::{Group, Index, Kind};
use super::series::{Estimate, Key, Series, differences, estimate};
use super::timing::{self, Ratio};
use crate::stats::bootstrap::Draws;
use crate::stats::paired::mean;
use crate::stats::survival::{Time, kaplan_meier, median};

/// Results of one combination of block, substitute, init and scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cell {
    /// The block.
    pub block: String,
    /// Its substitute.
    pub substitute: String,
    /// The init.
    pub init: String,
    /// The scheme.
    pub scheme: String,
    /// Trials with readings.
    pub trials: usize,
    /// Trials that diverged; not part of any mean.
    pub diverged: usize,
    /// Trials that failed; not part of any mean.
    pub failed: usize,
    /// Mean test accuracy at the end, percent.
    pub accuracy: f64,
    /// Mean test accuracy at the point of highest validation accuracy, percent: what early stopping would give.
    pub best_accuracy: f64,
    /// Mean test top-5 accuracy, percent.
    pub top5: f64,
    /// Mean test accuracy of the control over the same pairs, percent: this − `accuracy` is the criticality.
    pub control_accuracy: Option<f64>,
    /// Control − child after training, percentage points.
    pub criticality: Option<Estimate>,
    /// Pairs whose control is the parent without fine-tuning, because the study has no fine-tuned parent for them.
    pub fallback_pairs: usize,
    /// Parent − child after training, percentage points.
    pub loss_to_parent: Option<Estimate>,
    /// Mean drop of validation accuracy before training, percentage points: parent − child right after surgery.
    pub drop_before_training: f64,
    /// Trials whose validation accuracy came within the recovery margin of the parent's.
    pub recovered: usize,
    /// Median number of training images until recovery (Kaplan-Meier); absent if fewer than half recovered.
    pub median_recovery: Option<f64>,
    /// Mean share of test images on which child and parent predict the same class, percent.
    pub agreement: f64,
    /// Mean expected calibration error on the test set, percent.
    pub calibration_error: f64,
    /// Cost of the child.
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, u64>"))]
    pub cost: Cost,
    /// Inference time of the child divided by the parent's: the median over paired passes of all trials with this block and
    /// substitute, which share one architecture. Absent if the check of the time measurement failed
    /// ([`super::Analysis::timing`]) or if the interval is wider than 0.3.
    pub latency: Option<f64>,
    /// The distribution-free 95% interval of `latency`; of several processes, from the lowest to the highest end.
    pub latency_interval: Option<[f64; 2]>,
    /// Mean wall-clock seconds per trial.
    pub seconds: f64,
}

/// Averages over the parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ParentSummary {
    /// Parents recorded.
    pub parents: usize,
    /// Mean test accuracy, percent.
    pub accuracy: f64,
    /// Lowest and highest test accuracy, percent.
    pub range: [f64; 2],
    /// Mean test top-5 accuracy, percent.
    pub top5: f64,
    /// Mean validation accuracy, percent.
    pub validation: f64,
    /// Mean expected calibration error on the test set, percent.
    pub calibration_error: f64,
    /// Test images.
    pub test_images: u64,
    /// The same on the test images that trials use, where these are fewer.
    pub on_trial_images: Option<OnTrialImages>,
    /// Cost.
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, u64>"))]
    pub cost: Cost,
}

/// Averages over the parents on the test images that trials use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OnTrialImages {
    /// Test images.
    pub images: u64,
    /// Mean accuracy, percent.
    pub accuracy: f64,
    /// Mean top-5 accuracy, percent.
    pub top5: f64,
    /// Mean expected calibration error, percent.
    pub calibration_error: f64,
}

/// A control: the parent fine-tuned, a placebo, a block re-initialised or dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Control {
    /// Kind of control.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub role: Role,
    /// The block; none for controls of the whole network.
    pub block: Option<String>,
    /// The scheme.
    pub scheme: String,
    /// Trials with readings.
    pub trials: usize,
    /// Mean test accuracy, percent.
    pub accuracy: f64,
    /// Reference − control, percentage points. The reference is the fine-tuned parent; for the fine-tuned parent it is the
    /// parent.
    pub criticality: Option<Estimate>,
    /// Pairs whose reference is the parent because the study has no fine-tuned parent for them.
    pub fallback_pairs: usize,
    /// P value of equivalence to the reference within the margin (TOST). A placebo must pass this test.
    pub p_equivalent: Option<f64>,
}

/// A block's result under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockAnswer {
    /// The block.
    pub block: String,
    /// The parent's layer whose output is the block's output.
    pub output_layer: Option<String>,
    /// Rank by criticality, 1 for the most critical; absent without trials.
    pub rank: Option<usize>,
    /// Index into [`super::Analysis::cells`].
    pub cell: Option<usize>,
    /// Share of the network's parameters that the replacement saves, 0 to 1; negative where it adds some.
    pub saves_parameters: Option<f64>,
    /// Share of the multiply-accumulates saved.
    pub saves_macs: Option<f64>,
    /// Share of the measured inference time saved.
    pub saves_time: Option<f64>,
}

/// All cells with at least one finished trial, in the plan's order.
pub(crate) fn cells(index: &Index, draws: Option<&Draws>, timed: bool) -> Vec<Cell> {
    let time = |kind: &Kind| if timed { timing::ratio(index, kind) } else { None };
    index.children().filter_map(|(kind, group)| cell(index, kind, group, time(kind), draws)).collect()
}

fn cell(index: &Index, kind: &Kind, group: &Group, time: Option<Ratio>, draws: Option<&Draws>) -> Option<Cell> {
    let of = |read: fn(&Readings) -> f64| average(group, read);
    let (control, fallback_pairs) = index.control(&kind.scheme, &kind.block, &group.series);
    let validation = |key: &Key| index.data.parents.iter().find(|p| p.id == index.data.plan.parents[key.0].id);
    let drops: Vec<f64> = group
        .done
        .iter()
        .filter_map(|(key, _, readings)| Some(100.0 * (validation(key)?.validation.top1 - readings.before.top1)))
        .collect();
    let recovered = group.done.iter().filter(|(_, _, readings)| readings.recovered_at.is_some()).count();
    let times: Vec<Time> = group.done.iter().map(|(_, _, readings)| recovery(readings)).collect();
    let (_, _, first) = group.done.first()?;
    Some(Cell {
        block: kind.block.clone(),
        substitute: kind.substitute.clone(),
        init: kind.init.clone(),
        scheme: kind.scheme.clone(),
        trials: group.done.len(),
        diverged: group.diverged,
        failed: group.failed,
        accuracy: 100.0 * of(|readings| readings.test.top1),
        best_accuracy: 100.0 * of(|readings| readings.best.test.top1),
        top5: 100.0 * of(|readings| readings.test.top5),
        control_accuracy: control_accuracy(&control),
        criticality: estimate(&differences(&control, &group.series, index.unit), draws),
        fallback_pairs,
        loss_to_parent: estimate(&differences(&index.parent, &group.series, index.unit), None),
        drop_before_training: if drops.is_empty() { 0.0 } else { mean(&drops) },
        recovered,
        median_recovery: median(&kaplan_meier(&times)),
        agreement: 100.0 * of(|readings| readings.test.agreement),
        calibration_error: 100.0 * of(|readings| readings.test.calibration_error),
        cost: first.cost,
        latency: time.map(|ratio| ratio.median),
        latency_interval: time.map(|ratio| ratio.interval),
        seconds: mean(&group.done.iter().map(|(_, record, _)| record.clock.seconds).collect::<Vec<_>>()),
    })
}

/// Mean accuracy over the pairs, percent.
fn control_accuracy(control: &Series) -> Option<f64> {
    let accuracies: Vec<f64> = control.values().map(|point| point.score).collect();
    (!accuracies.is_empty()).then(|| mean(&accuracies))
}

/// Images until a trial recovered; censored at the end of its curve.
pub(crate) fn recovery(readings: &Readings) -> Time {
    match readings.recovered_at {
        Some(at) => Time { at: at as f64, event: true },
        None => Time { at: readings.curve.last().map_or(0.0, |point| point.examples as f64), event: false },
    }
}

fn average(group: &Group, read: impl Fn(&Readings) -> f64) -> f64 {
    mean(&group.done.iter().map(|(_, _, readings)| read(readings)).collect::<Vec<_>>())
}

/// Averages over the parents.
pub(crate) fn parent(index: &Index) -> Option<ParentSummary> {
    let data = index.data;
    let first = data.parents.first()?;
    let of = |read: fn(&nettriage_records::ParentRecord) -> f64| {
        100.0 * mean(&data.parents.iter().map(read).collect::<Vec<_>>())
    };
    let accuracies = || data.parents.iter().map(|parent| 100.0 * parent.test.top1);
    Some(ParentSummary {
        parents: data.parents.len(),
        accuracy: of(|parent| parent.test.top1),
        range: [accuracies().fold(f64::INFINITY, f64::min), accuracies().fold(f64::NEG_INFINITY, f64::max)],
        top5: of(|parent| parent.test.top5),
        validation: of(|parent| parent.validation.top1),
        calibration_error: of(|parent| parent.test.calibration_error),
        test_images: first.test.images,
        on_trial_images: on_trial_images(index).filter(|same| same.images != first.test.images),
        cost: first.cost,
    })
}

/// Taken from the untrained `parent` controls, which are evaluated on the trials' test images.
fn on_trial_images(index: &Index) -> Option<OnTrialImages> {
    let (_, group) = index.of_role(Role::Parent).find(|(_, group)| !group.done.is_empty())?;
    Some(OnTrialImages {
        images: group.done[0].2.test.images,
        accuracy: 100.0 * average(group, |readings| readings.test.top1),
        top5: 100.0 * average(group, |readings| readings.test.top5),
        calibration_error: 100.0 * average(group, |readings| readings.test.calibration_error),
    })
}

/// All controls except the untrained parent.
pub(crate) fn controls(index: &Index, draws: Option<&Draws>, margin: f64) -> Vec<Control> {
    let roles = [Role::ParentContinued, Role::Placebo, Role::Reinit, Role::Drop];
    let kinds = roles.into_iter().flat_map(|role| index.of_role(role)).filter(|(_, group)| !group.done.is_empty());
    kinds
        .map(|(kind, group)| {
            let (reference, fallback_pairs) = match kind.role {
                Role::ParentContinued => (index.parent.clone(), 0),
                _ => index.control(&kind.scheme, &kind.block, &group.series),
            };
            let differences = differences(&reference, &group.series, index.unit);
            // A single unit gives no estimate of training noise, however many images it has.
            let mean = differences.mean().filter(|_| differences.values.len() > 1);
            Control {
                role: kind.role,
                block: (!kind.block.is_empty()).then(|| kind.block.clone()),
                scheme: kind.scheme.clone(),
                trials: group.done.len(),
                accuracy: 100.0 * average(group, |readings| readings.test.top1),
                criticality: estimate(&differences, draws),
                fallback_pairs,
                p_equivalent: mean.map(|mean| mean.p_equivalent(margin)),
            }
        })
        .collect()
}

/// The blocks from input to output, with their results under the headline.
pub(crate) fn blocks(index: &Index, headline: Option<&Headline>, cells: &[Cell]) -> Vec<BlockAnswer> {
    let plan = &index.data.plan;
    // The plan has the blocks in the study file's order.
    let position = |block: &BlockSummary| {
        let first = block.layers.first();
        plan.layers.iter().position(|layer| Some(&layer.name) == first).unwrap_or(usize::MAX)
    };
    let mut in_network_order: Vec<&BlockSummary> = plan.blocks.iter().collect();
    in_network_order.sort_by_key(|block| position(block));
    let whole = index.data.parents.first().map(|parent| parent.cost);
    let place = |block: &str| {
        let headline = headline?;
        let substitute = headline.substitute(block)?;
        cells.iter().position(|cell| {
            cell.block == block
                && cell.substitute == substitute
                && cell.init == headline.init
                && cell.scheme == headline.scheme
        })
    };
    let critical = |cell: Option<usize>| Some(cells[cell?].criticality.as_ref()?.mean);
    let all: Vec<Option<f64>> = plan.blocks.iter().map(|block| critical(place(&block.name))).collect();
    in_network_order
        .into_iter()
        .map(|block| {
            let cell = place(&block.name);
            let own = critical(cell);
            let saved = |read: fn(&Cost) -> u64| {
                let (whole, child) = (read(&whole?), read(&cells[cell?].cost));
                (whole > 0).then(|| 1.0 - child as f64 / whole as f64)
            };
            BlockAnswer {
                block: block.name.clone(),
                output_layer: block.layers.last().cloned(),
                rank: own.map(|own| 1 + all.iter().flatten().filter(|&&other| other > own).count()),
                cell,
                saves_parameters: saved(|cost| cost.parameters),
                saves_macs: saved(|cost| cost.macs),
                saves_time: cell.and_then(|cell| cells[cell].latency).map(|latency| 1.0 - latency),
            }
        })
        .collect()
}
