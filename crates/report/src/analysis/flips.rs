//! Which test images change sides when a block is replaced.

use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;

/// Images listed at most.
const LISTED: usize = 100;

/// The images that a block's replacement loses and gains against its parent, under the headline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Flips {
    /// The block.
    pub block: String,
    /// Trials compared.
    pub trials: usize,
    /// Mean number of test images that the parent has right and the child wrong.
    pub lost: f64,
    /// Mean number that the parent has wrong and the child right.
    pub gained: f64,
    /// Images lost in every trial.
    pub always_lost: usize,
    /// Images gained in every trial.
    pub always_gained: usize,
    /// The first 100 images lost in every trial, counted from 0 in the test set's order.
    pub images: Vec<usize>,
    /// The first 100 images gained in every trial, likewise.
    pub gained_images: Vec<usize>,
}

/// One for every block of the headline whose trials know their images one by one.
pub(crate) fn flips(index: &Index, headline: &Headline) -> Vec<Flips> {
    let of = |block: &str| -> Option<Flips> {
        let group = headline.group(index, block)?;
        let pairs: Vec<_> = group
            .series
            .iter()
            .filter_map(|(key, child)| Some((index.parent.get(key)?.bits.as_ref()?, child.bits.as_ref()?)))
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
            images: always.into_iter().take(LISTED).collect(),
            gained_images: always_gained.into_iter().take(LISTED).collect(),
        })
    };
    headline.substitutes.iter().filter_map(|(block, _)| of(block)).collect()
}
