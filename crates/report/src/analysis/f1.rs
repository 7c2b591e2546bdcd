//! F1: accuracy does not depend on which layer was compressed.
//!
//! Failing to find a difference does not show that there is none, so there are two tests:
//!
//! - *Are the blocks equivalent?* Every pair must pass TOST within the margin at 5%. This is an intersection-union test
//!   (Berger, 1982): all pairs must pass, so no multiplicity correction is needed.
//! - *Do the blocks differ?* A permutation test over units at 5%, reported with Friedman's test. Paired tests with Holm's
//!   correction show which pairs differ.
//!
//! If both tests succeed, the verdict is equivalence: the blocks differ by a detectable but negligible amount, and the
//! report says so.

use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;
use super::series::{Series, differences, table};
use super::validity::Validity;
use crate::stats::omnibus::{friedman, permutation};
use crate::stats::paired::{detectable, hedges, holm};

/// Verdict on F1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum F1Verdict {
    /// Every pair of blocks is within the margin.
    Equivalent,
    /// Replacing one block costs more than replacing another.
    Different,
    /// The data show neither.
    Undecided,
}

/// F1 under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct F1 {
    /// The verdict.
    pub verdict: F1Verdict,
    /// P value of equivalence: the largest over pairs.
    pub p_equivalent: Option<f64>,
    /// P value of the permutation test of no difference.
    pub p_permutation: Option<f64>,
    /// Friedman's chi-squared.
    pub friedman: Option<f64>,
    /// Its p value.
    pub p_friedman: Option<f64>,
    /// Kendall's W, 0 to 1: how far units agree on the order of the blocks.
    pub concordance: Option<f64>,
    /// Largest difference between two blocks' means, percentage points.
    pub spread: f64,
    /// Minimum detectable difference between two blocks at 5% significance and 80% power, percentage points, from the
    /// median standard error over pairs.
    pub detectable: Option<f64>,
    /// Units that have a result for every block.
    pub units: usize,
    /// Every pair of blocks.
    pub pairs: Vec<Pair>,
}

/// Two blocks compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pair {
    /// First block.
    pub first: String,
    /// Second block.
    pub second: String,
    /// Criticality of the first − criticality of the second, percentage points, computed as accuracy of the second's
    /// children − accuracy of the first's.
    pub difference: f64,
    /// Its 95% interval.
    pub interval: [f64; 2],
    /// P value of no difference.
    pub p: f64,
    /// P value of no difference with Holm's correction over all pairs.
    pub p_holm: f64,
    /// P value of equivalence within the margin.
    pub p_equivalent: f64,
    /// Standardised difference, Hedges' g of the paired differences over units.
    pub effect: Option<f64>,
}

/// Tests F1; `None` with fewer than two blocks. A parent at chance or a block with missing trials leaves it undecided.
pub(crate) fn test(index: &Index, headline: &Headline, margin: f64, validity: &Validity) -> Option<F1> {
    let blocks: Vec<(&str, &Series)> = headline
        .substitutes
        .iter()
        .filter_map(|(block, _)| Some((block.as_str(), &headline.group(index, block)?.series)))
        .collect();
    if blocks.len() < 2 {
        return None;
    }
    let rows = table(&blocks.iter().map(|(_, series)| *series).collect::<Vec<_>>(), index.unit);
    if rows.is_empty() {
        return None;
    }
    let mut pairs = Vec::new();
    let mut errors = Vec::new();
    for (i, (first, a)) in blocks.iter().enumerate() {
        for (second, b) in &blocks[i + 1..] {
            // The accuracies are compared directly, because a control common to both blocks cancels.
            let differences = differences(b, a, index.unit);
            // A single unit gives no estimate of training noise, however many images it has.
            let Some(mean) = differences.mean().filter(|_| differences.values.len() > 1) else { continue };
            errors.push((mean.se, mean.df));
            pairs.push(Pair {
                first: (*first).to_owned(),
                second: (*second).to_owned(),
                difference: mean.mean,
                interval: mean.interval(0.95),
                p: mean.p_zero(),
                p_holm: 1.0,
                p_equivalent: mean.p_equivalent(margin),
                effect: hedges(&differences.values),
            });
        }
    }
    let corrected = holm(&pairs.iter().map(|pair| pair.p).collect::<Vec<_>>());
    pairs.iter_mut().zip(corrected).for_each(|(pair, p)| pair.p_holm = p);
    let all_pairs = blocks.len() * (blocks.len() - 1) / 2;
    let p_equivalent =
        (pairs.len() == all_pairs).then(|| pairs.iter().map(|pair| pair.p_equivalent).fold(0.0, f64::max));
    let p_permutation = permutation(&rows);
    let friedman = friedman(&rows);
    let verdict = match (p_equivalent, p_permutation) {
        _ if validity.parent_at_chance() || !validity.incomplete_blocks.is_empty() => F1Verdict::Undecided,
        (Some(p), _) if p < 0.05 => F1Verdict::Equivalent,
        (_, Some(p)) if p < 0.05 => F1Verdict::Different,
        _ => F1Verdict::Undecided,
    };
    let n = rows.len() as f64;
    let means: Vec<f64> = (0..blocks.len()).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / n).collect();
    let spread =
        means.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b)) - means.iter().fold(f64::INFINITY, |a, &b| a.min(b));
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(F1 {
        verdict,
        p_equivalent,
        p_permutation,
        friedman: friedman.map(|test| test.chi2),
        p_friedman: friedman.map(|test| test.p),
        concordance: friedman.map(|test| test.w),
        spread,
        detectable: errors.get(errors.len() / 2).map(|&(se, df)| detectable(se, df)),
        units: rows.len(),
        pairs,
    })
}
