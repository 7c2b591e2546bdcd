//! Inference time of the children, and the check of the measurement.
//!
//! A trial times its network and the parent in alternation and records the median ratio of the paired passes with its
//! interval. Controls have the parent's own architecture, so their true ratio is 1: if their measured ratio is not close to
//! 1, the machine was disturbed and no time is reported.

use nettriage_records::plan::Role;
use nettriage_records::record::InferenceTime;
use serde::{Deserialize, Serialize};

use super::index::{Group, Index, Kind};
use crate::stats::bootstrap::quantile;

/// Largest deviation of the controls' ratio from 1 at which times are reported.
const TOLERANCE: f64 = 0.05;
/// Widest interval at which a ratio is reported.
const WIDEST: f64 = 0.3;

/// The time ratio of networks that have the parent's architecture, which should be 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TimingCheck {
    /// Measurements, one per process that ran trials.
    pub measurements: usize,
    /// Their median.
    pub ratio: f64,
    /// From the lowest to the highest end of their 95% intervals.
    pub interval: [f64; 2],
    /// Whether the ratio is within 5% of 1, and the interval at most 0.3 wide.
    pub passed: bool,
}

/// A time ratio: child / parent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub measurements: usize,
    pub median: f64,
    pub interval: [f64; 2],
}

/// The ratio of one architecture. Trials of one process pool their passes, so each record repeats the passes of those
/// before it; only the longest measurements count, each once. `None` without any, or without an interval.
fn pool<'t>(times: impl Iterator<Item = &'t InferenceTime>) -> Option<Ratio> {
    let times: Vec<&InferenceTime> = times.filter(|time| time.parent[0] > 0.0).collect();
    let longest = times.iter().map(|time| time.repetitions).max()?;
    let mut distinct: Vec<&InferenceTime> = Vec::new();
    for time in times.into_iter().filter(|time| time.repetitions == longest) {
        if !distinct.contains(&time) {
            distinct.push(time);
        }
    }
    // Older records hold medians without an interval: it takes two of them to have one.
    if distinct.len() < 2 && distinct.iter().any(|time| time.ratio.is_none()) {
        return None;
    }
    let ratios = distinct.iter().map(|time| time.ratio.unwrap_or([time.network[0] / time.parent[0]; 3]));
    let (mut medians, mut interval) = (Vec::new(), [f64::INFINITY, f64::NEG_INFINITY]);
    for [median, low, high] in ratios {
        medians.push(median);
        interval = [interval[0].min(low), interval[1].max(high)];
    }
    medians.sort_by(f64::total_cmp);
    Some(Ratio { measurements: medians.len(), median: quantile(&medians, 0.5), interval })
}

fn times<'g>(group: &'g Group<'_>) -> impl Iterator<Item = &'g InferenceTime> {
    group.done.iter().filter_map(|(_, record, _)| record.clock.inference.as_ref())
}

/// The check; `None` if no control was timed.
pub(crate) fn check(index: &Index) -> Option<TimingCheck> {
    let same_architecture = [Role::Placebo, Role::Parent, Role::ParentContinued, Role::Reinit];
    let groups = index.kinds.iter().filter(|kind| same_architecture.contains(&kind.role));
    let Ratio { measurements, median: ratio, interval } = pool(groups.flat_map(|kind| times(&index.groups[kind])))?;
    let passed = (ratio - 1.0).abs() <= TOLERANCE && interval[1] - interval[0] <= WIDEST;
    Some(TimingCheck { measurements, ratio, interval, passed })
}

/// The time ratio of a block's children with a substitute. `None` if it is too uncertain.
pub(crate) fn ratio(index: &Index, kind: &Kind) -> Option<Ratio> {
    let same = |other: &Kind| other.block == kind.block && other.substitute == kind.substitute;
    let groups = index.children().filter(|(other, _)| same(other));
    pool(groups.flat_map(|(_, group)| times(group))).filter(|ratio| ratio.interval[1] - ratio.interval[0] <= WIDEST)
}
