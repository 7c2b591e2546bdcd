//! Learning curves averaged over trials, and Kaplan-Meier curves of recovery.

use std::collections::BTreeMap;

use nettriage_records::plan::Role;
use serde::{Deserialize, Serialize};

use super::cells::recovery;
use super::index::{Group, Index, Kind};
use crate::stats::survival::{Step, Time, kaplan_meier, median};

/// A validation learning curve, averaged over trials of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Curve {
    /// Kind of trial.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub role: Role,
    /// The block; empty for the fine-tuned parent.
    pub block: String,
    /// The substitute; empty for controls.
    pub substitute: String,
    /// The init; empty for controls.
    pub init: String,
    /// The scheme.
    pub scheme: String,
    /// Number of trials averaged.
    pub trials: usize,
    /// The points.
    pub points: Vec<BandPoint>,
}

/// A point of an averaged curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BandPoint {
    /// Images trained on.
    pub examples: u64,
    /// Mean validation accuracy, percent.
    pub mean: f64,
    /// Lowest of the trials, percent.
    pub low: f64,
    /// Highest of the trials, percent.
    pub high: f64,
}

/// The averaged curve of every kind of trial that trains.
pub(crate) fn curves(index: &Index) -> Vec<Curve> {
    let kinds = index.kinds.iter().filter(|kind| kind.role != Role::Parent);
    kinds.filter_map(|kind| curve(kind, &index.groups[kind])).collect()
}

fn curve(kind: &Kind, group: &Group) -> Option<Curve> {
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (_, _, readings) in &group.done {
        // The end of a stage and the start of the next may give two points at the same image count; the later one is kept.
        let own: BTreeMap<u64, f64> =
            readings.curve.iter().map(|point| (point.examples, 100.0 * point.validation_top1)).collect();
        own.into_iter().for_each(|(examples, top1)| at.entry(examples).or_default().push(top1));
    }
    // A mean over a varying set of trials would jump, so only points that all trials have are kept.
    at.retain(|_, values| values.len() == group.done.len());
    let points: Vec<BandPoint> = at
        .into_iter()
        .map(|(examples, values)| BandPoint {
            examples,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
        .collect();
    (points.len() > 1).then(|| Curve {
        role: kind.role,
        block: kind.block.clone(),
        substitute: kind.substitute.clone(),
        init: kind.init.clone(),
        scheme: kind.scheme.clone(),
        trials: group.done.len(),
        points,
    })
}

/// The share of a scheme's children that have not recovered, by training images (Kaplan-Meier).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Survival {
    /// The scheme.
    pub scheme: String,
    /// The block; none for all blocks pooled.
    pub block: Option<String>,
    /// Trials.
    pub trials: usize,
    /// Trials that recovered.
    pub recovered: usize,
    /// Largest observation time over the trials, in training images.
    pub until: f64,
    /// Median images until recovery, if half recovered.
    pub median: Option<f64>,
    /// The curve.
    pub steps: Vec<Step>,
}

/// One curve per training scheme pooled over blocks and inits, and one per scheme and block.
pub(crate) fn survival(index: &Index) -> Vec<Survival> {
    let mut all = Vec::new();
    for scheme in index.data.plan.schemes.iter().filter(|scheme| scheme.name != "none") {
        let blocks = index.data.plan.blocks.iter().map(|block| Some(block.name.as_str()));
        for block in std::iter::once(None).chain(blocks) {
            let times: Vec<Time> = index
                .children()
                .filter(|(kind, _)| kind.scheme == scheme.name && block.is_none_or(|block| kind.block == block))
                .flat_map(|(_, group)| group.done.iter().map(|(_, _, readings)| recovery(readings)))
                .collect();
            if times.is_empty() {
                continue;
            }
            let steps = kaplan_meier(&times);
            all.push(Survival {
                scheme: scheme.name.clone(),
                block: block.map(str::to_owned),
                trials: times.len(),
                recovered: times.iter().filter(|time| time.event).count(),
                until: times.iter().map(|time| time.at).fold(0.0, f64::max),
                median: median(&steps),
                steps,
            });
        }
    }
    all
}
