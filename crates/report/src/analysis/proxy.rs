//! Proxy rankings: would another init, scheme or the hint loss rank the blocks as the headline does, at what cost?

use serde::{Deserialize, Serialize};

use super::headline::{Headline, candidates};
use super::index::Index;
use super::series::{Key, Series, Unit, differences};
use crate::stats::kendall::{tau, tau_interval};
use crate::stats::paired::mean;

/// A ranking of the blocks by another init and scheme, compared with the headline's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProxyRanking {
    /// The ranking score: `criticality` after training, or `hint-loss` at the end of the hint stage.
    pub measure: String,
    /// The init.
    pub init: String,
    /// The scheme.
    pub scheme: String,
    /// Kendall's tau-b between this ranking and the headline's.
    pub tau: Option<f64>,
    /// 95% percentile bootstrap interval, resampling units.
    pub interval: Option<[f64; 2]>,
    /// Blocks ranked.
    pub blocks: usize,
    /// The score of every block, in the headline's order.
    pub scores: Vec<f64>,
    /// Mean wall-clock seconds per trial, divided by the headline's.
    pub relative_cost: f64,
}

/// Compares every other combination that covers all blocks with the headline, including more expensive ones.
pub(crate) fn rankings(index: &Index, headline: &Headline) -> Vec<ProxyRanking> {
    let full = criticalities(index, headline);
    let seconds = |candidate: &Headline| {
        let records = candidate.substitutes.iter().filter_map(|(block, _)| candidate.group(index, block));
        mean(&records.flat_map(|group| &group.done).map(|(_, record, _)| record.clock.seconds).collect::<Vec<_>>())
    };
    let full_seconds = seconds(headline);
    let mut all = Vec::new();
    for candidate in candidates(index).iter().filter(|candidate| *candidate != headline) {
        let seconds = seconds(candidate);
        let relative_cost = if full_seconds > 0.0 { seconds / full_seconds } else { 0.0 };
        let mut push = |measure: &str, own: &[Vec<(Key, f64)>]| {
            let (own, full) = common(own, &full);
            if own.is_empty() {
                return;
            }
            let scores = column_means(&own);
            all.push(ProxyRanking {
                measure: measure.to_owned(),
                init: candidate.init.clone(),
                scheme: candidate.scheme.clone(),
                tau: tau(&scores, &column_means(&full)),
                interval: tau_interval(&own, &full),
                blocks: scores.len(),
                scores,
                relative_cost,
            });
        };
        push("criticality", &criticalities(index, candidate));
        if let Some(losses) = hint_losses(index, candidate) {
            push("hint-loss", &losses);
        }
    }
    all
}

/// Criticality per block, then per unit.
pub(super) fn criticalities(index: &Index, candidate: &Headline) -> Vec<Vec<(Key, f64)>> {
    let of = |block: &str, series: &Series| -> Vec<(Key, f64)> {
        let (control, _) = index.control(&candidate.scheme, block, series);
        let values = differences(&control, series, index.unit).values;
        units(series.keys().filter(|key| control.contains_key(key)), index.unit).into_iter().zip(values).collect()
    };
    let groups = candidate.substitutes.iter().filter_map(|(block, _)| Some((block, candidate.group(index, block)?)));
    groups.map(|(block, group)| of(block, &group.series)).collect()
}

/// The last training loss of the first stage, if that is a hint stage.
fn hint_losses(index: &Index, candidate: &Headline) -> Option<Vec<Vec<(Key, f64)>>> {
    let scheme = index.data.plan.schemes.iter().find(|scheme| scheme.name == candidate.scheme)?;
    if !scheme.stages.first()?.to_lowercase().starts_with("hint") {
        return None;
    }
    let of = |block: &str| -> Option<Vec<(Key, f64)>> {
        let mut by_unit: std::collections::BTreeMap<Key, Vec<f64>> = std::collections::BTreeMap::new();
        for (key, _, readings) in &candidate.group(index, block)?.done {
            let loss = readings
                .curve
                .iter()
                .filter(|point| point.stage == 0)
                .filter_map(|point| point.train_loss)
                .next_back()?;
            let key = if index.unit == Unit::Parents { (key.0, 0) } else { *key };
            by_unit.entry(key).or_default().push(loss);
        }
        Some(by_unit.into_iter().map(|(key, values)| (key, mean(&values))).collect())
    };
    candidate.substitutes.iter().map(|(block, _)| of(block)).collect()
}

fn units<'k>(keys: impl Iterator<Item = &'k Key>, unit: Unit) -> Vec<Key> {
    let mut units: Vec<Key> = keys.map(|key| if unit == Unit::Parents { (key.0, 0) } else { *key }).collect();
    units.dedup();
    units
}

/// Both tables restricted to the units that all blocks have in both; rows are units, columns are blocks.
pub(super) fn common(a: &[Vec<(Key, f64)>], b: &[Vec<(Key, f64)>]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let value = |column: &[(Key, f64)], key: Key| column.iter().find(|(own, _)| *own == key).map(|(_, value)| *value);
    let row =
        |table: &[Vec<(Key, f64)>], key| table.iter().map(|column| value(column, key)).collect::<Option<Vec<f64>>>();
    let keys = a.first().map(|column| column.iter().map(|(key, _)| *key).collect::<Vec<_>>()).unwrap_or_default();
    keys.into_iter().filter_map(|key| Some((row(a, key)?, row(b, key)?))).unzip()
}

pub(super) fn column_means(rows: &[Vec<f64>]) -> Vec<f64> {
    (0..rows[0].len()).map(|j| mean(&rows.iter().map(|row| row[j]).collect::<Vec<_>>())).collect()
}
