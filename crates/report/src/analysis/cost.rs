//! Accuracy against cost, and changes class by class.

use serde::{Deserialize, Serialize};

use super::cells::Cell;
use super::headline::Headline;
use super::index::Index;
use crate::stats::paired::{mean, student};

/// A network in the plane of accuracy and cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ParetoPoint {
    /// Which of [`super::Analysis::cells`]; none for the parent.
    pub cell: Option<usize>,
    /// Mean test accuracy, percent.
    pub accuracy: f64,
    /// Parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// Inference time over the parent's.
    pub latency: Option<f64>,
    /// In which planes it is on the front: nothing there is as cheap and as accurate, and better in one of the two.
    pub front: Front,
}

/// In which planes a point is on the Pareto front.
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

/// The parent and every cell, with the fronts.
pub(crate) fn pareto(index: &Index, cells: &[Cell]) -> Vec<ParetoPoint> {
    // On the test images that the trials saw, each parent counting as often as it has seeds.
    let accuracies: Vec<f64> = index.parent.values().map(|point| 100.0 * point.top1).collect();
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

/// A block's change in one class under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClassChange {
    /// The block.
    pub block: String,
    /// The class.
    pub class: String,
    /// Mean of child - parent over trials, percentage points of that class's test images.
    pub change: f64,
    /// 95% by Student's t over trials, uncorrected for the number of classes.
    pub interval: Option<[f64; 2]>,
}

/// Changes class by class, blocks in order, classes in order.
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
