//! CKA similarity of parent and child, layer by layer, under the headline.

use nettriage_records::record::LayerSimilarity;
use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;
use crate::stats::paired::mean;

/// CKA similarity of a block's children and their parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Similarity {
    /// The block replaced.
    pub block: String,
    /// Trials with similarity readings.
    pub trials: usize,
    /// Validation images that each trial used.
    pub images: usize,
    /// The shared layers, in the parent's order.
    pub layers: Vec<LayerCka>,
}

/// Linear CKA at the output of one layer, mean over trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LayerCka {
    /// The parent's layer.
    pub layer: String,
    /// Before training; absent where no trial has a value.
    pub before: Option<f64>,
    /// After training.
    pub after: Option<f64>,
}

/// Similarities of every block of the headline whose records hold them.
pub(crate) fn similarities(index: &Index, headline: &Headline) -> Vec<Similarity> {
    let of = |block: &str| -> Option<Similarity> {
        let group = headline.group(index, block)?;
        let all: Vec<_> = group.done.iter().filter_map(|(_, _, readings)| readings.similarity.as_ref()).collect();
        let first = all.first()?;
        let over = |layer: &str, read: fn(&LayerSimilarity) -> Option<f64>| {
            let found = all.iter().filter_map(|one| one.layers.iter().find(|other| other.layer == layer));
            let values: Vec<f64> = found.filter_map(read).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let layers = first.layers.iter().map(|LayerSimilarity { layer, .. }| LayerCka {
            layer: layer.clone(),
            before: over(layer, |one| one.before),
            after: over(layer, |one| one.after),
        });
        Some(Similarity { block: block.to_owned(), trials: all.len(), images: first.images, layers: layers.collect() })
    };
    headline.substitutes.iter().filter_map(|(block, _)| of(block)).collect()
}
