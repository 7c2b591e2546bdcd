//! Prediction flips: test images that become wrong or right when a block is replaced.

use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;

/// Maximum number of images listed.
const LISTED: usize = 100;

/// Prediction flips of a block's children against their parents, under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flips {
    /// The block.
    pub block: String,
    /// Trials compared.
    pub trials: usize,
    /// Mean number of test images that the parent predicts correctly and the child does not.
    pub lost: f64,
    /// Mean number of test images that the child predicts correctly and the parent does not.
    pub gained: f64,
    /// Number of images lost in every trial.
    pub always_lost: usize,
    /// Number of images gained in every trial.
    pub always_gained: usize,
    /// The first 100 images lost in every trial, as indices into the test set from 0.
    pub lost_images: Vec<usize>,
    /// The first 100 images gained in every trial, likewise.
    pub gained_images: Vec<usize>,
}

/// Prediction flips of every block of the headline whose records hold per-image results.
pub(crate) fn flips(index: &Index, headline: &Headline) -> Vec<Flips> {
    let of = |block: &str| -> Option<Flips> {
        let group = headline.group(index, block)?;
        let pairs: Vec<_> = group
            .series
            .iter()
            .filter_map(|(key, child)| Some((index.parent.get(key)?.correct()?, child.correct()?)))
            .filter(|(parent, child)| parent.len() == child.len())
            .collect();
        let images = pairs.first()?.0.len();
        let pairs: Vec<_> = pairs.into_iter().filter(|(parent, _)| parent.len() == images).collect();
        let trials = pairs.len();
        let (mut lost, mut gained) = (vec![0; images], vec![0; images]);
        for (parent, child) in &pairs {
            for i in 0..images {
                lost[i] += usize::from(parent[i] == 1 && child[i] == 0);
                gained[i] += usize::from(parent[i] == 0 && child[i] == 1);
            }
        }
        let mean = |counts: &[usize]| counts.iter().sum::<usize>() as f64 / trials as f64;
        let every = |counts: &[usize]| -> Vec<usize> { (0..images).filter(|&i| counts[i] == trials).collect() };
        let (always, always_gained) = (every(&lost), every(&gained));
        Some(Flips {
            block: block.to_owned(),
            trials,
            lost: mean(&lost),
            gained: mean(&gained),
            always_lost: always.len(),
            always_gained: always_gained.len(),
            lost_images: always.into_iter().take(LISTED).collect(),
            gained_images: always_gained.into_iter().take(LISTED).collect(),
        })
    };
    headline.substitutes.iter().filter_map(|(block, _)| of(block)).collect()
}
