//! Index of the records by kind of trial.

use std::collections::HashMap;
use std::rc::Rc;

use nettriage_records::plan::{Role, TrialSpec};
use nettriage_records::record::{Evaluation, Outcome, Readings, Record};

use super::series::{Key, PerImage, Point, Series, Unit};
use crate::data::{RunData, bits};

/// Everything that identifies a trial except parent and seed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub role: Role,
    pub block: String,
    pub substitute: String,
    pub init: String,
    pub scheme: String,
}

impl Kind {
    pub fn of(spec: &TrialSpec) -> Kind {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Kind {
            role: spec.role,
            block: text(&spec.block),
            substitute: text(&spec.substitute),
            init: text(&spec.init),
            scheme: spec.scheme.clone(),
        }
    }
}

/// The trials of one kind.
#[derive(Default)]
pub(crate) struct Group<'a> {
    /// Finished trials with readings.
    pub done: Vec<(Key, &'a Record, &'a Readings)>,
    pub diverged: usize,
    pub failed: usize,
    /// Test accuracy after training, or the metric.
    pub series: Series,
    /// Test accuracy at the point of highest validation accuracy.
    pub best: Series,
}

impl Group<'_> {
    /// Whether a trial diverged or failed. The others are then a selection, so conclusions from them may be biased.
    pub fn incomplete(&self) -> bool {
        self.diverged + self.failed > 0
    }
}

/// Records by kind; kinds in the plan's order.
pub(crate) struct Index<'a> {
    pub data: &'a RunData,
    pub kinds: Vec<Kind>,
    pub groups: HashMap<Kind, Group<'a>>,
    /// The parent's evaluation, repeated for every (parent, seed) of a trial.
    pub parent: Series,
    pub unit: Unit,
}

impl<'a> Index<'a> {
    pub fn new(data: &'a RunData) -> Index<'a> {
        let place: HashMap<&str, usize> =
            data.plan.parents.iter().enumerate().map(|(i, parent)| (parent.id.as_str(), i)).collect();
        let parents: HashMap<usize, Point> = data
            .parents
            .iter()
            .filter_map(|parent| {
                let test = &parent.test;
                let mut bits = bits(&parent.test_correct, test.images, test.correct);
                let mut score = 100.0 * test.top1;
                // Parents are tested on all test images, trials possibly on a prefix of them; compare both on that prefix.
                let shared = data.plan.data.test;
                if let Some(bits) = bits.as_mut().filter(|bits| shared > 0 && bits.len() > shared) {
                    bits.truncate(shared);
                    score = 100.0 * bits.iter().map(|&bit| f64::from(bit)).sum::<f64>() / shared as f64;
                }
                let images = bits.map(|bits| PerImage::Correct(Rc::new(bits)));
                Some((*place.get(parent.id.as_str())?, Point { score, images }))
            })
            .chain(
                data.records
                    .iter()
                    .filter(|record| record.spec.role == Role::Parent)
                    .filter_map(|record| Some((*place.get(record.spec.parent.as_str())?, measured(data, record)?))),
            )
            .collect();
        let mut kinds = Vec::new();
        let mut groups: HashMap<Kind, Group> = HashMap::new();
        let mut parent = Series::new();
        for spec in &data.plan.trials {
            let kind = Kind::of(spec);
            groups.entry(kind).or_insert_with_key(|kind| {
                kinds.push(kind.clone());
                Group::default()
            });
        }
        for record in &data.records {
            let Some(&at) = place.get(record.spec.parent.as_str()) else { continue };
            let key = (at, record.spec.seed);
            if let Some(point) = parents.get(&at) {
                parent.entry(key).or_insert_with(|| point.clone());
            }
            let group = groups.entry(Kind::of(&record.spec)).or_default();
            if let Some(point) = measured(data, record) {
                group.series.insert(key, point);
                continue;
            }
            match (&record.outcome, &record.readings) {
                (Outcome::Done, Some(readings)) => {
                    let test = &readings.test;
                    let bits = bits(&readings.test_correct, test.images, test.correct);
                    let images = bits.map(|bits| PerImage::Correct(Rc::new(bits)));
                    group.series.insert(key, Point { score: 100.0 * test.top1, images });
                    group.best.insert(key, Point { score: 100.0 * readings.best.test.top1, images: None });
                    group.done.push((key, record, readings));
                }
                (Outcome::Diverged { .. }, _) => group.diverged += 1,
                _ => group.failed += 1,
            }
        }
        // Results are about the architecture only if there are several parents.
        let mut seen: Vec<usize> = parent.keys().map(|key| key.0).collect();
        seen.dedup();
        let unit = if seen.len() >= 2 { Unit::Parents } else { Unit::Seeds };
        Index { data, kinds, groups, parent, unit }
    }

    /// Number of test images whose results the parents' records hold, one by one.
    pub fn test_images(&self) -> usize {
        self.parent.values().find_map(|point| point.images.as_ref()).map_or(0, PerImage::len)
    }

    /// The control of equal budget at each key, and the number of keys for which the parent itself had to be used.
    ///
    /// The control of scheme `none` is the parent, whose budget is zero as well. Where only the substitute trains, the
    /// control trains only the block, so controls may be specific to a block.
    pub fn control(&self, scheme: &str, block: &str, keys: &Series) -> (Series, usize) {
        let continued = |of: &str| {
            self.groups
                .iter()
                .find(|(kind, _)| kind.role == Role::ParentContinued && kind.scheme == scheme && kind.block == of)
        };
        let continued = continued(block).or_else(|| continued(""));
        let mut fallback_pairs = 0;
        let mut control = Series::new();
        for key in keys.keys() {
            let exact = continued.and_then(|(_, group)| group.series.get(key));
            if exact.is_none() && scheme != "none" {
                fallback_pairs += 1;
            }
            if let Some(point) = exact.or_else(|| self.parent.get(key)) {
                control.insert(*key, point.clone());
            }
        }
        (control, fallback_pairs)
    }

    /// A parent's evaluation on the trials' test images: from the untrained `parent` control, or, before that has run,
    /// from the parent's own record if it used the same images.
    pub fn parent_on_trial_images(&self, id: &str) -> Option<&'a Evaluation> {
        let data = self.data;
        let own = data.records.iter().filter(|record| record.spec.role == Role::Parent && record.spec.parent == id);
        let control = own.filter_map(|record| record.readings.as_ref()).map(|readings| &readings.test).next();
        let record = data.parents.iter().find(|parent| parent.id == id).map(|parent| &parent.test);
        control.or_else(|| record.filter(|test| test.images == data.plan.data.test as u64))
    }

    /// The trials of one kind of child.
    pub fn child(&self, block: &str, substitute: &str, init: &str, scheme: &str) -> Option<&Group<'a>> {
        let text = str::to_owned;
        let kind = Kind {
            role: Role::Child,
            block: text(block),
            substitute: text(substitute),
            init: text(init),
            scheme: text(scheme),
        };
        self.groups.get(&kind)
    }

    /// All kinds of children.
    pub fn children(&self) -> impl Iterator<Item = (&Kind, &Group<'a>)> {
        self.of_role(Role::Child)
    }

    /// All kinds of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = (&Kind, &Group<'a>)> {
        self.kinds.iter().filter(move |kind| kind.role == role).map(|kind| (kind, &self.groups[kind]))
    }
}

/// What the user's program measured for a trial, if it did.
fn measured(data: &RunData, record: &Record) -> Option<Point> {
    let (metric, measured) = (data.plan.metric.as_ref()?, record.measured.as_ref()?);
    let values: Vec<f64> = measured.values.iter().map(|&value| metric.better.oriented(value)).collect();
    let score = crate::stats::paired::mean(&values);
    Some(Point { score, images: Some(PerImage::Values(Rc::new(values))) })
}
