//! Accuracies, or values of the user's metric, per unit, and their paired differences.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::stats::bootstrap::Draws;
use crate::stats::paired::{self, Mean};

/// Parent (index in the plan) and seed; trials with equal keys are paired.
pub(crate) type Key = (usize, u64);

/// One test evaluation: the higher, the better.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Test accuracy in percent, or the mean of the metric in its unit.
    pub score: f64,
    /// What it is the mean of; absent if the record does not hold it.
    pub images: Option<PerImage>,
}

/// A result for each test image.
#[derive(Clone, Debug)]
pub(crate) enum PerImage {
    /// 1 if it is predicted correctly, else 0.
    Correct(Rc<Vec<u8>>),
    /// The metric's value, its sign such that higher is better.
    Values(Rc<Vec<f64>>),
}

impl PerImage {
    /// Number of images.
    pub fn len(&self) -> usize {
        match self {
            PerImage::Correct(bits) => bits.len(),
            PerImage::Values(values) => values.len(),
        }
    }

    /// The score of one image, in the unit of [`Point::score`].
    fn score(&self, image: usize) -> f64 {
        match self {
            PerImage::Correct(bits) => 100.0 * f64::from(bits[image]),
            PerImage::Values(values) => values[image],
        }
    }
}

impl Point {
    /// 1 for each image that is predicted correctly, else 0; none for a metric.
    pub fn correct(&self) -> Option<&[u8]> {
        match self.images.as_ref()? {
            PerImage::Correct(bits) => Some(bits),
            PerImage::Values(_) => None,
        }
    }
}

/// Evaluations by parent and seed.
pub(crate) type Series = BTreeMap<Key, Point>;

/// What varies between the independent repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seeds of one parent: results are about this network.
    Seeds,
    /// Parents, each averaged over its seeds: results are about the architecture.
    Parents,
}

/// Paired differences, one per unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences {
    /// Mean difference over the test images, percentage points or the metric's unit.
    pub values: Vec<f64>,
    /// Differences per image, in the same unit; absent where a side lacks per-image results.
    pub rows: Option<Vec<Vec<f64>>>,
    /// Pairs of trials.
    pub pairs: usize,
}

/// `first − second` over the keys that both have.
pub(crate) fn differences(first: &Series, second: &Series, unit: Unit) -> Differences {
    let keys: Vec<Key> = first.keys().filter(|key| second.contains_key(key)).copied().collect();
    let group = |key: &Key| match unit {
        Unit::Seeds => *key,
        Unit::Parents => (key.0, 0),
    };
    let mut groups: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
    keys.iter().for_each(|key| groups.entry(group(key)).or_default().push(*key));
    let value =
        |keys: &Vec<Key>| keys.iter().map(|key| first[key].score - second[key].score).sum::<f64>() / keys.len() as f64;
    let row = |keys: &Vec<Key>| {
        let mut sum: Vec<f64> = Vec::new();
        for key in keys {
            let (a, b) = (first[key].images.as_ref()?, second[key].images.as_ref()?);
            if a.len() != b.len() || (!sum.is_empty() && sum.len() != a.len()) {
                return None;
            }
            sum.resize(a.len(), 0.0);
            sum.iter_mut().enumerate().for_each(|(image, sum)| *sum += a.score(image) - b.score(image));
        }
        let n = keys.len() as f64;
        sum.iter_mut().for_each(|sum| *sum /= n);
        Some(sum)
    };
    let rows: Option<Vec<Vec<f64>>> = groups.values().map(row).collect();
    let rows = rows.filter(|rows| rows.windows(2).all(|pair| pair[0].len() == pair[1].len()));
    Differences { values: groups.values().map(value).collect(), rows, pairs: keys.len() }
}

impl Differences {
    /// The mean with the standard error that tests use: crossed over units and images where possible, else over units.
    pub fn mean(&self) -> Option<Mean> {
        let over_both = self.rows.as_ref().and_then(|rows| paired::crossed(rows));
        over_both.or_else(|| paired::student(&self.values))
    }
}

/// What an interval generalises to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// New units and new test images.
    UnitsAndImages,
    /// New units, with these test images.
    Units,
    /// New test images, with this one unit; not to another seed.
    Images,
}

/// A mean difference, in percentage points or in the metric's unit, with its intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Independent repetitions (seeds, or parents).
    pub units: usize,
    /// Pairs of trials.
    pub pairs: usize,
    /// The value of each unit.
    pub values: Vec<f64>,
    /// Standard error used by `interval`.
    pub se: Option<f64>,
    /// Its degrees of freedom.
    pub df: Option<f64>,
    /// The 95% interval that reports show.
    pub interval: Option<[f64; 2]>,
    /// What `interval` generalises to.
    pub basis: Option<Basis>,
    /// 95% interval by Student's t over units alone.
    pub student: Option<[f64; 2]>,
    /// 95% interval by the BCa bootstrap over units and images.
    pub bootstrap: Option<[f64; 2]>,
}

/// The estimate of the mean difference; `None` where there is no pair.
pub(crate) fn estimate(differences: &Differences, draws: Option<&Draws>) -> Option<Estimate> {
    let units = differences.values.len();
    if units == 0 {
        return None;
    }
    let shown = differences.mean();
    let basis = shown.map(|_| match (&differences.rows, units) {
        (Some(_), 1) => Basis::Images,
        (Some(_), _) => Basis::UnitsAndImages,
        (None, _) => Basis::Units,
    });
    let bootstrap = draws.zip(differences.rows.as_ref()).and_then(|(draws, rows)| draws.interval(rows));
    Some(Estimate {
        mean: paired::mean(&differences.values),
        units,
        pairs: differences.pairs,
        values: differences.values.clone(),
        se: shown.map(|mean| mean.se),
        df: shown.map(|mean| mean.df),
        interval: shown.map(|mean| mean.interval(0.95)),
        basis,
        student: paired::student(&differences.values).map(|mean| mean.interval(0.95)),
        bootstrap,
    })
}

/// The score of every series on the units that all have; rows are units, columns are series.
pub(crate) fn table(series: &[&Series], unit: Unit) -> Vec<Vec<f64>> {
    let Some(first) = series.first() else { return Vec::new() };
    let common = |key: &&Key| series.iter().all(|series| series.contains_key(key));
    let mut groups: BTreeMap<Key, Vec<Key>> = BTreeMap::new();
    for key in first.keys().filter(common) {
        let group = if unit == Unit::Parents { (key.0, 0) } else { *key };
        groups.entry(group).or_default().push(*key);
    }
    let mean =
        |series: &Series, keys: &[Key]| keys.iter().map(|key| series[key].score).sum::<f64>() / keys.len() as f64;
    groups.values().map(|keys| series.iter().map(|series| mean(series, keys)).collect()).collect()
}
