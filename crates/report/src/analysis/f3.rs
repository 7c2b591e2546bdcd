//! F3: distillation hastens the convergence of a compressed network, but holds the accuracy attainable to that of the
//! base model.
//!
//! Every scheme with soft targets is paired with the scheme that has the same stages without them, trial by trial (same
//! block, substitute, init, parent and seed). The two claims are tested separately:
//!
//! - *convergence*: training images until the child is within the margin of the parent's validation accuracy. Trials that
//!   never recover are censored at the end of their budget. The log-rank test is stratified by block, substitute and init.
//!   A permutation test that swaps the two arms within each pair of trials is reported as well; it makes no large-sample
//!   assumption.
//! - *final accuracy*: against the plain scheme (difference, and equivalence by TOST) and against the parent.

use std::collections::{BTreeMap, BTreeSet};

use nettriage_records::record::Readings;
use serde::{Deserialize, Serialize};

use super::cells::recovery;
use super::index::{Group, Index};
use super::series::{Differences, Estimate, Key, Series, Unit, differences, estimate};
use super::validity::Validity;
use crate::stats::paired::{Mean, mean, student};
use crate::stats::random::SplitMix;
use crate::stats::survival::{LogRank, Time, kaplan_meier, log_rank, median};

/// Verdict on the first claim of F3: which scheme converges faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Convergence {
    /// Distillation recovers in fewer images.
    Faster,
    /// Distillation needs more images.
    Slower,
    /// The data show no difference.
    Undecided,
    /// No trial of either arm recovered.
    NeverReached,
}

/// Verdict on two final accuracies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AccuracyVerdict {
    /// Within the margin.
    Equivalent,
    /// Higher.
    Higher,
    /// Lower.
    Lower,
    /// The data show none of these.
    Undecided,
}

/// F3 for one pair of schemes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct F3Pair {
    /// The scheme with soft targets.
    pub distilled: String,
    /// The same stages without.
    pub plain: String,
    /// Pairs of trials.
    pub pairs: usize,
    /// Verdict on convergence.
    pub convergence: Convergence,
    /// Trials that recovered, distilled and plain.
    pub recovered: [usize; 2],
    /// Median images until recovery, distilled and plain; absent if fewer than half recovered.
    pub median: [Option<f64>; 2],
    /// The log-rank test.
    pub log_rank: Option<LogRank>,
    /// P value of the paired permutation test on the same statistic.
    pub p_permutation: Option<f64>,
    /// Mean over units of (distilled − plain) in images until recovery, censored at the budget, with Student's 95%
    /// interval.
    pub examples: Option<(f64, [f64; 2])>,
    /// Verdict on the final accuracy against the plain scheme.
    pub against_plain: AccuracyVerdict,
    /// Distilled − plain after training, percentage points.
    pub to_plain: Option<Estimate>,
    /// Verdict on the final accuracy against the parent.
    pub against_parent: AccuracyVerdict,
    /// Distilled − parent, percentage points.
    pub to_parent: Option<Estimate>,
    /// Plain − parent, percentage points.
    pub plain_to_parent: Option<Estimate>,
}

/// F3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct F3 {
    /// All pairs of schemes together.
    pub overall: F3Pair,
    /// Each pair of schemes.
    pub pairs: Vec<F3Pair>,
}

/// One stratum: the paired trials of a block, substitute and init under both schemes.
struct Stratum {
    pairs: Vec<(Key, Time, Time)>,
    distilled: Series,
    plain: Series,
}

/// Tests F3; `None` where the study has no such pair of schemes. Cells with diverged or failed trials are left out, and a
/// parent at chance leaves it undecided.
pub(crate) fn test(index: &Index, margin: f64, validity: &Validity) -> Option<F3> {
    let mut everything = Vec::new();
    let mut pairs = Vec::new();
    for scheme in index.data.plan.schemes.iter().filter(|scheme| scheme.distills) {
        let Some(plain) = &scheme.undistilled else { continue };
        let strata: Vec<Stratum> = index
            .children()
            .filter(|(kind, _)| kind.scheme == scheme.name)
            .filter_map(|(kind, group)| stratum(group, index.child(&kind.block, &kind.substitute, &kind.init, plain)?))
            .collect();
        pairs.extend(compare(index, &scheme.name, plain, &strata, margin));
        everything.extend(strata);
    }
    let names = |read: fn(&F3Pair) -> &String| {
        let mut names: Vec<&str> = pairs.iter().map(|pair| read(pair).as_str()).collect();
        names.dedup();
        names.join(", ")
    };
    let overall = compare(index, &names(|pair| &pair.distilled), &names(|pair| &pair.plain), &everything, margin)?;
    let mut f3 = F3 { overall, pairs };
    if validity.parent_at_chance() {
        for pair in f3.pairs.iter_mut().chain([&mut f3.overall]) {
            pair.convergence = Convergence::Undecided;
            pair.against_plain = AccuracyVerdict::Undecided;
            pair.against_parent = AccuracyVerdict::Undecided;
        }
    }
    Some(f3)
}

fn stratum(distilled: &Group, plain: &Group) -> Option<Stratum> {
    let of = |group: &Group| -> BTreeMap<Key, Time> {
        group.done.iter().map(|(key, _, readings): &(Key, _, &Readings)| (*key, recovery(readings))).collect()
    };
    if distilled.incomplete() || plain.incomplete() {
        return None;
    }
    let second = of(plain);
    let pairs: Vec<_> = of(distilled).into_iter().filter_map(|(key, a)| Some((key, a, *second.get(&key)?))).collect();
    (!pairs.is_empty()).then(|| Stratum { pairs, distilled: distilled.series.clone(), plain: plain.series.clone() })
}

fn compare(index: &Index, distilled: &str, plain: &str, strata: &[Stratum], margin: f64) -> Option<F3Pair> {
    if strata.is_empty() {
        return None;
    }
    let arms: Vec<(Vec<Time>, Vec<Time>)> =
        strata.iter().map(|stratum| stratum.pairs.iter().map(|&(_, a, b)| (a, b)).unzip()).collect();
    let first: Vec<Time> = arms.iter().flat_map(|(a, _)| a).copied().collect();
    let second: Vec<Time> = arms.iter().flat_map(|(_, b)| b).copied().collect();
    let events = |times: &[Time]| times.iter().filter(|time| time.event).count();
    let test = log_rank(&arms);
    let saved = examples(strata, index.unit);
    let convergence = match &test {
        _ if events(&first) + events(&second) == 0 => Convergence::NeverReached,
        // One unit gives no estimate of training noise, however many blocks and inits it has.
        _ if repetitions(strata, index.unit) < 2 => Convergence::Undecided,
        Some(test) if test.p < 0.05 && test.observed > test.expected => Convergence::Faster,
        Some(test) if test.p < 0.05 => Convergence::Slower,
        _ => Convergence::Undecided,
    };
    let to_plain = pooled(strata.iter().map(|s| differences(&s.distilled, &s.plain, index.unit)), strata, index.unit);
    let to_parent =
        pooled(strata.iter().map(|s| differences(&s.distilled, &index.parent, index.unit)), strata, index.unit);
    let plain_to_parent =
        pooled(strata.iter().map(|s| differences(&s.plain, &index.parent, index.unit)), strata, index.unit);
    Some(F3Pair {
        distilled: distilled.to_owned(),
        plain: plain.to_owned(),
        pairs: first.len(),
        convergence,
        recovered: [events(&first), events(&second)],
        median: [median(&kaplan_meier(&first)), median(&kaplan_meier(&second))],
        log_rank: test,
        p_permutation: test.and_then(|test| swap_p(strata, &test)),
        examples: saved,
        against_plain: accuracy_verdict(&to_plain, margin),
        to_plain: estimate(&to_plain, None),
        against_parent: accuracy_verdict(&to_parent, margin),
        to_parent: estimate(&to_parent, None),
        plain_to_parent: estimate(&plain_to_parent, None),
    })
}

/// The mean over strata for each unit, on the units that every stratum has; per image where every stratum has
/// per-image results, since strata share their test images.
fn pooled(each: impl Iterator<Item = Differences>, strata: &[Stratum], unit: Unit) -> Differences {
    let each: Vec<Differences> = each.collect();
    // Strata that lack a unit (a missing trial) are left out, so that every mean is over the same units.
    let keys = |stratum: &Stratum| -> Vec<Key> {
        let mut keys: Vec<Key> =
            stratum.pairs.iter().map(|(key, _, _)| if unit == Unit::Parents { (key.0, 0) } else { *key }).collect();
        keys.dedup();
        keys
    };
    let largest = strata.iter().map(|stratum| keys(stratum).len()).max().unwrap_or(0);
    let Some(model) = strata.iter().find(|stratum| keys(stratum).len() == largest).map(keys) else {
        return Differences::default();
    };
    let kept: Vec<&Differences> = strata
        .iter()
        .zip(&each)
        .filter(|(stratum, own)| keys(stratum) == model && own.values.len() == model.len())
        .map(|(_, own)| own)
        .collect();
    if kept.is_empty() {
        return Differences::default();
    }
    let n = kept.len();
    let values = (0..model.len()).map(|u| kept.iter().map(|own| own.values[u]).sum::<f64>() / n as f64).collect();
    let rows = kept.iter().map(|own| own.rows.as_ref()).collect::<Option<Vec<_>>>().map(|tables| {
        (0..model.len())
            .map(|u| {
                let mut sum = vec![0.0_f64; tables[0][u].len()];
                for table in &tables {
                    sum.iter_mut().zip(&table[u]).for_each(|(sum, d)| *sum += d / n as f64);
                }
                sum
            })
            .collect()
    });
    Differences { values, rows, pairs: kept.iter().map(|own| own.pairs).sum() }
}

fn accuracy_verdict(differences: &Differences, margin: f64) -> AccuracyVerdict {
    let mean: Option<Mean> = differences.mean().filter(|_| differences.values.len() > 1);
    match mean {
        Some(mean) if mean.p_equivalent(margin) < 0.05 => AccuracyVerdict::Equivalent,
        Some(mean) if mean.p_zero() < 0.05 && mean.mean > 0.0 => AccuracyVerdict::Higher,
        Some(mean) if mean.p_zero() < 0.05 => AccuracyVerdict::Lower,
        _ => AccuracyVerdict::Undecided,
    }
}

/// Number of different units over all strata.
fn repetitions(strata: &[Stratum], unit: Unit) -> usize {
    let keys = strata.iter().flat_map(|stratum| &stratum.pairs);
    keys.map(|(key, _, _)| if unit == Unit::Parents { (key.0, 0) } else { *key }).collect::<BTreeSet<Key>>().len()
}

/// Mean difference over units of the images until recovery, censored at the budget.
fn examples(strata: &[Stratum], unit: Unit) -> Option<(f64, [f64; 2])> {
    let mut by_unit: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for (key, a, b) in strata.iter().flat_map(|stratum| &stratum.pairs) {
        let key = if unit == Unit::Parents { (key.0, 0) } else { *key };
        by_unit.entry(key).or_default().push(a.at - b.at);
    }
    let values: Vec<f64> = by_unit.values().map(|values| mean(values)).collect();
    student(&values).map(|mean| (mean.mean, mean.interval(0.95)))
}

/// P value of the permutation test that swaps the arms within random pairs of trials 1,999 times, with statistic |O − E|.
///
/// Swapping keeps the union of a stratum's risk sets, so only O and E change.
fn swap_p(strata: &[Stratum], test: &LogRank) -> Option<f64> {
    let observed = (test.observed - test.expected).abs();
    let mut random = SplitMix::new(1966);
    let mut arms: Vec<(Vec<Time>, Vec<Time>)> =
        strata.iter().map(|stratum| stratum.pairs.iter().map(|&(_, a, b)| (a, b)).unzip()).collect();
    let mut as_large = 0;
    for _ in 0..1999 {
        for (first, second) in &mut arms {
            for (a, b) in first.iter_mut().zip(second.iter_mut()) {
                if random.below(2) == 1 {
                    std::mem::swap(a, b);
                }
            }
        }
        let test = log_rank(&arms)?;
        if (test.observed - test.expected).abs() >= observed - 1e-9 {
            as_large += 1;
        }
    }
    Some(f64::from(as_large + 1) / 2000.0)
}
