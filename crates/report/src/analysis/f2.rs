//! F2: accuracy can be recovered or exceeded after compression by fine-tuning the entire model.
//!
//! Tested with the best global scheme without soft targets, chosen on the validation set. The parent's accuracy is the
//! one to recover; the fine-tuned parent shows what training alone would have gained. L and U are the ends of the
//! two-sided 90% interval (one-sided 5% tests), m is the margin:
//!
//! | verdict | child − parent | child − fine-tuned parent |
//! |---|---|---|
//! | exceeded | L > 0 | L > 0 |
//! | exceeded only because of the extra training | L > 0 | U < m, and not L > 0 |
//! | recovered | L > -m, and none of the above | |
//! | not recovered | U < -m | |
//! | undecided | otherwise | |

use serde::{Deserialize, Serialize};

use super::headline::{Headline, choose};
use super::index::{Group, Index};
use super::series::{Differences, Estimate, Point, Series, differences, estimate};
use super::validity::Validity;

/// Verdict on F2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum F2Verdict {
    /// Better than the parent and than the fine-tuned parent.
    Exceeded,
    /// Better than the parent, but not than the fine-tuned parent.
    ExceededByTraining,
    /// Not worse than the parent by the margin or more.
    Recovered,
    /// Worse than the parent by more than the margin.
    NotRecovered,
    /// The data show none of these.
    Undecided,
}

/// F2 for one block, or for the mean over blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct F2Block {
    /// The block; none for the mean over blocks.
    pub block: Option<String>,
    /// The verdict.
    pub verdict: F2Verdict,
    /// Child − parent, percentage points.
    pub to_parent: Estimate,
    /// Child − fine-tuned parent, percentage points; absent where the study lacks that control.
    pub to_fine_tuned: Option<Estimate>,
}

/// F2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct F2 {
    /// The substitute, init and scheme used.
    pub headline: Headline,
    /// The mean over blocks.
    pub overall: F2Block,
    /// Block by block.
    pub blocks: Vec<F2Block>,
}

/// Tests F2; `None` where no scheme trains the whole network.
pub(crate) fn test(index: &Index, margin: f64, validity: &Validity) -> Option<F2> {
    let plain = choose(index, |scheme| scheme.global && !scheme.distills);
    of_headline(index, plain.or_else(|| choose(index, |scheme| scheme.global))?, margin, validity)
}

/// Tests F2 with one substitute, init and scheme.
pub(crate) fn of_headline(index: &Index, headline: Headline, margin: f64, validity: &Validity) -> Option<F2> {
    let groups: Vec<(&str, &Group)> = headline
        .substitutes
        .iter()
        .filter_map(|(block, _)| Some((block.as_str(), headline.group(index, block)?)))
        .collect();
    let children: Vec<(&str, &Series)> = groups.iter().map(|(block, group)| (*block, &group.series)).collect();
    let mut blocks: Vec<F2Block> = children
        .iter()
        .filter_map(|(block, series)| of(index, Some(block), &headline.scheme, series, margin))
        .collect();
    let mut overall = of(index, None, &headline.scheme, &mean_child(&children), margin)?;
    // A parent at chance leaves everything undecided, and a block with missing trials itself and the mean.
    let missing = |block: &F2Block| {
        groups.iter().any(|(name, group)| block.block.as_deref().is_none_or(|own| own == *name) && group.incomplete())
    };
    for block in blocks.iter_mut().chain([&mut overall]) {
        if validity.parent_at_chance() || missing(block) {
            block.verdict = F2Verdict::Undecided;
        }
    }
    Some(F2 { overall, blocks, headline })
}

fn of(index: &Index, block: Option<&str>, scheme: &str, child: &Series, margin: f64) -> Option<F2Block> {
    let to_parent = differences(child, &index.parent, index.unit);
    let (control, fallback_pairs) = index.control(scheme, block.unwrap_or_default(), child);
    // With the parent as its own control the second comparison would repeat the first.
    let to_fine_tuned = (fallback_pairs == 0).then(|| differences(child, &control, index.unit));
    Some(F2Block {
        block: block.map(str::to_owned),
        verdict: verdict(&to_parent, to_fine_tuned.as_ref(), margin),
        to_parent: estimate(&to_parent, None)?,
        to_fine_tuned: to_fine_tuned.and_then(|differences| estimate(&differences, None)),
    })
}

/// The mean over blocks as one series, on the keys that all blocks have.
fn mean_child(children: &[(&str, &Series)]) -> Series {
    let Some((_, first)) = children.first() else { return Series::new() };
    let n = children.len() as f64;
    let common = first.keys().filter(|key| children.iter().all(|(_, series)| series.contains_key(key)));
    let mean =
        |key| Point { score: children.iter().map(|(_, series)| series[key].score).sum::<f64>() / n, images: None };
    common.map(|key| (*key, mean(key))).collect()
}

fn verdict(to_parent: &Differences, to_fine_tuned: Option<&Differences>, margin: f64) -> F2Verdict {
    let mean = |differences: &Differences| differences.mean().filter(|_| differences.values.len() > 1);
    let Some(parent) = mean(to_parent) else { return F2Verdict::Undecided };
    let continued = to_fine_tuned.and_then(mean);
    let above = |p: f64| p < 0.05;
    if above(parent.p_above(0.0)) {
        match continued {
            Some(continued) if above(continued.p_above(0.0)) => return F2Verdict::Exceeded,
            Some(continued) if above(continued.p_below(margin)) => return F2Verdict::ExceededByTraining,
            _ => {}
        }
    }
    if above(parent.p_above(-margin)) {
        F2Verdict::Recovered
    } else if above(parent.p_below(-margin)) {
        F2Verdict::NotRecovered
    } else {
        F2Verdict::Undecided
    }
}
