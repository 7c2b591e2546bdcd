//! Weights that several layers of a file share.

use std::collections::BTreeMap;

use nettriage_net::shorten;

/// Layers that share weights in a file. A network here has no shared weights: each of the layers gets a copy of its
/// own, which is counted, replaced and trained separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedWeights {
    /// The layers, in the file's order; two or more.
    pub layers: Vec<String>,
    /// Elements of the weights that they share.
    pub elements: usize,
}

impl SharedWeights {
    /// Elements of all copies but the first: what the network here has more than the file.
    pub fn added(&self) -> usize {
        self.elements.saturating_mul(self.layers.len() - 1)
    }

    /// What a user should know of it, in one line.
    pub fn note(&self) -> String {
        format!(
            "layers {} share weights in the file ({} elements); each has its own copy here, which is counted and \
             trained separately",
            shorten(&self.layers),
            self.elements
        )
    }

    /// One entry for each set of layers, from the layers and the number of elements of each tensor of the file.
    pub(crate) fn of_tensors(tensors: impl IntoIterator<Item = (Vec<String>, usize)>) -> Vec<SharedWeights> {
        let mut elements: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        for (layers, count) in tensors {
            if layers.len() > 1 {
                *elements.entry(layers).or_default() += count;
            }
        }
        elements.into_iter().map(|(layers, elements)| SharedWeights { layers, elements }).collect()
    }
}
