//! Accuracy against cost, and accuracy changes per class.

use serde::{Deserialize, Serialize};

use super::cells::Cell;
use super::headline::Headline;
use super::index::Index;
use crate::stats::paired::{mean, student};

/// Accuracy and cost of one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ParetoPoint {
    /// Index into [`super::Analysis::cells`]; none for the parent.
    pub cell: Option<usize>,
    /// Mean test accuracy, percent.
    pub accuracy: f64,
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// Inference time divided by the parent's.
    pub latency: Option<f64>,
    /// For which costs it is on the Pareto front: no network is at least as good in both and better in one.
    pub front: Front,
}

/// For which costs a network is on the Pareto front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Front {
    /// Accuracy against parameters.
    pub parameters: bool,
    /// Accuracy against multiply-accumulates.
    pub macs: bool,
    /// Accuracy against measured inference time.
    pub latency: bool,
}

/// The parent and every cell, with Pareto fronts.
pub(crate) fn pareto(index: &Index, cells: &[Cell]) -> Vec<ParetoPoint> {
    // On the trials' test images; each parent is weighted by its number of seeds.
    let accuracies: Vec<f64> = index.parent.values().map(|point| point.score).collect();
    let parent = index.data.parents.first().filter(|_| !accuracies.is_empty()).map(|first| ParetoPoint {
        cell: None,
        accuracy: mean(&accuracies),
        parameters: first.cost.parameters,
        macs: first.cost.macs,
        latency: Some(1.0),
        front: Front::default(),
    });
    let children = cells.iter().enumerate().map(|(i, cell)| ParetoPoint {
        cell: Some(i),
        accuracy: cell.accuracy,
        parameters: cell.cost.parameters,
        macs: cell.cost.macs,
        latency: cell.latency,
        front: Front::default(),
    });
    let mut points: Vec<ParetoPoint> = parent.into_iter().chain(children).collect();
    let fronts: Vec<Front> = points
        .iter()
        .map(|point| Front {
            parameters: on_front(&points, point, |point| Some(point.parameters as f64)),
            macs: on_front(&points, point, |point| Some(point.macs as f64)),
            latency: on_front(&points, point, |point| point.latency),
        })
        .collect();
    points.iter_mut().zip(fronts).for_each(|(point, front)| point.front = front);
    points
}

fn on_front(points: &[ParetoPoint], point: &ParetoPoint, cost: impl Fn(&ParetoPoint) -> Option<f64>) -> bool {
    let Some(own) = cost(point) else { return false };
    !points.iter().any(|other| {
        cost(other).is_some_and(|cost| {
            cost <= own && other.accuracy >= point.accuracy && (cost < own || other.accuracy > point.accuracy)
        })
    })
}

/// Accuracy change of one class for one block, under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClassChange {
    /// The block.
    pub block: String,
    /// The class.
    pub class: String,
    /// Mean of child − parent over trials, percentage points of that class's test images.
    pub change: f64,
    /// 95% interval by Student's t over trials, not corrected for the number of classes.
    pub interval: Option<[f64; 2]>,
}

/// Accuracy changes for every block and class.
pub(crate) fn classes(index: &Index, headline: &Headline) -> Vec<ClassChange> {
    let data = index.data;
    let mut changes = Vec::new();
    for (block, _) in &headline.substitutes {
        let Some(group) = headline.group(index, block) else { continue };
        for (c, class) in data.plan.data.classes.iter().enumerate() {
            let values: Vec<f64> = group
                .done
                .iter()
                .filter_map(|(_, record, readings)| {
                    let parent = index.parent_on_trial_images(&record.spec.parent)?;
                    Some(100.0 * (readings.test.per_class.get(c)? - parent.per_class.get(c)?))
                })
                .collect();
            if !values.is_empty() {
                let interval = student(&values).map(|mean| mean.interval(0.95));
                changes.push(ClassChange {
                    block: block.clone(),
                    class: class.clone(),
                    change: mean(&values),
                    interval,
                });
            }
        }
    }
    changes
}
