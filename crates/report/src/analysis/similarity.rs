//! How alike parent and child are through the depth, under the headline.

use nettriage_records::record::LayerSimilarity;
use serde::{Deserialize, Serialize};

use super::headline::Headline;
use super::index::Index;
use crate::stats::paired::mean;

/// A block's children against their parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Similarity {
    /// The block replaced.
    pub block: String,
    /// Trials with such readings.
    pub trials: usize,
    /// Validation images that each of them looked at.
    pub images: usize,
    /// Tensor by tensor, in the parent's order.
    pub layers: Vec<SimilarLayer>,
}

/// Linear CKA at one tensor, the mean over trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SimilarLayer {
    /// The parent's layer.
    pub layer: String,
    /// Before training; absent where no trial could tell.
    pub before: Option<f64>,
    /// At the end.
    pub after: Option<f64>,
}

/// One for every block of the headline whose trials hold such readings.
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
        let layers = first.layers.iter().map(|LayerSimilarity { layer, .. }| SimilarLayer {
            layer: layer.clone(),
            before: over(layer, |one| one.before),
            after: over(layer, |one| one.after),
        });
        Some(Similarity { block: block.to_owned(), trials: all.len(), images: first.images, layers: layers.collect() })
    };
    headline.substitutes.iter().filter_map(|(block, _)| of(block)).collect()
}
