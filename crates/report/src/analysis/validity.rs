//! Checks that come before any verdict: a network that has learned nothing, missing trials, no variance over repetitions,
//! a validation set that the parent may have been trained on, a control that falls apart.

use nettriage_records::plan::Role;
use nettriage_records::record::ParentRecord;
use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;
use super::series::{Estimate, differences, estimate};
use crate::stats::distributions::binomial_tail;

/// Level of the test against chance. It is strict because untrained networks exceed chance by a few points occasionally: their
/// features are not independent of the class.
const CHANCE_LEVEL: f64 = 0.001;

/// What limits the conclusions of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Validity {
    /// The test of the parent against always predicting the most frequent class; of several parents the worst.
    pub chance: Option<ChanceTest>,
    /// Blocks under the headline with diverged or failed trials. They get no verdict, because the trials that are left are a
    /// selection.
    pub incomplete_blocks: Vec<String>,
    /// Blocks under the headline whose accuracy drop is exactly the same in all repetitions.
    pub zero_variance_blocks: Vec<String>,
    /// Whether the parents were read from a file.
    pub parent_from_file: bool,
    /// Schemes under which the fine-tuned parent is worse than the parent as it is by more than the margin.
    pub collapsed_controls: Vec<CollapsedControl>,
    /// Whether such a parent may have been trained on the validation images: those are carved from the training set, and the study
    /// does not say that it was not.
    pub validation_seen: bool,
}

/// Exact binomial test of the parent's accuracy against the share of the most frequent class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChanceTest {
    /// Test images that the parent classifies correctly.
    pub correct: u64,
    /// Test images.
    pub images: u64,
    /// Share of the most frequent class among them; one in the number of classes where the labels are not in the run's folder.
    pub chance: f64,
    /// P value of an accuracy no better than `chance`.
    pub p: f64,
}

impl ChanceTest {
    /// The test of `correct` among `images` images against the share `chance`.
    pub fn of(correct: u64, images: u64, chance: f64) -> ChanceTest {
        ChanceTest { correct, images, chance, p: binomial_tail(correct, images, chance) }
    }

    /// Whether the accuracy is not shown to be better than chance.
    pub fn is_at_chance(&self) -> bool {
        self.p >= CHANCE_LEVEL
    }
}

impl Validity {
    /// Whether the parent's accuracy is not shown to be better than chance. Then there are no verdicts.
    pub fn parent_at_chance(&self) -> bool {
        self.chance.is_some_and(|test| test.is_at_chance())
    }
}

/// A control of equal budget that is worse than the parent as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CollapsedControl {
    /// The scheme that the parent was fine-tuned by.
    pub scheme: String,
    /// Parent − fine-tuned parent, percentage points.
    pub loss: Estimate,
}

/// The schemes under which fine-tuning the parent loses more than the margin, with an interval above zero.
fn collapsed_controls(index: &Index, margin: f64) -> Vec<CollapsedControl> {
    let controls = index.of_role(Role::ParentContinued).filter(|(kind, _)| kind.block.is_empty());
    let collapsed = controls.filter_map(|(kind, group)| {
        let loss = estimate(&differences(&index.parent, &group.series, index.unit), None)?;
        let clear = loss.interval.is_some_and(|ends| ends[0] > 0.0);
        (loss.mean > margin && clear).then(|| CollapsedControl { scheme: kind.scheme.clone(), loss })
    });
    collapsed.collect()
}

/// Checks a run.
pub(crate) fn validity(index: &Index, headline: Option<&Headline>, margin: f64) -> Validity {
    Validity {
        chance: chance(index),
        parent_from_file: parent_from_file(index.data),
        validation_seen: index.data.parents.iter().any(ParentRecord::may_have_seen_validation),
        ..of_trials(index, headline, margin)
    }
}

/// The checks that need no more than the trials' results.
pub(crate) fn of_trials(index: &Index, headline: Option<&Headline>, margin: f64) -> Validity {
    let groups = headline.into_iter().flat_map(|headline| {
        headline.substitutes.iter().filter_map(|(block, _)| Some((block, headline.group(index, block)?)))
    });
    let (mut incomplete_blocks, mut zero_variance_blocks) = (Vec::new(), Vec::new());
    for (block, group) in groups {
        if group.incomplete() {
            incomplete_blocks.push(block.clone());
        }
        let (control, _) = index.control(headline.map_or("", |h| &h.scheme), block, &group.series);
        let values = super::series::differences(&control, &group.series, index.unit).values;
        if values.len() > 1 && values.iter().all(|value| *value == values[0]) {
            zero_variance_blocks.push(block.clone());
        }
    }
    let collapsed_controls = collapsed_controls(index, margin);
    Validity { incomplete_blocks, zero_variance_blocks, collapsed_controls, ..Validity::default() }
}

pub(crate) fn parent_from_file(data: &crate::data::RunData) -> bool {
    !data.parents.is_empty() && data.parents.iter().all(ParentRecord::from_file)
}

fn chance(index: &Index) -> Option<ChanceTest> {
    let data = index.data;
    // Parents on the trials' test images, whose labels the run's folder holds.
    let labels =
        data.sample_images.as_ref().map(|images| &images.labels).filter(|labels| labels.len() == data.plan.data.test);
    let counts = |labels: &Vec<u16>| {
        let mut counts = vec![0_u64; data.plan.data.classes.len()];
        labels.iter().for_each(|&label| counts.get_mut(usize::from(label)).into_iter().for_each(|count| *count += 1));
        counts.into_iter().max().unwrap_or(0)
    };
    let tests = data.parents.iter().filter_map(|parent| {
        let on_trial_images = index.parent_on_trial_images(&parent.id).unwrap_or(&parent.test);
        let (correct, images) = (on_trial_images.correct, on_trial_images.images);
        let chance = match labels.filter(|labels| labels.len() as u64 == images) {
            Some(labels) => counts(labels) as f64 / images as f64,
            None => 1.0 / data.plan.data.classes.len().max(1) as f64,
        };
        (images > 0).then(|| ChanceTest::of(correct, images, chance))
    });
    tests.max_by(|a, b| a.p.total_cmp(&b.p))
}
