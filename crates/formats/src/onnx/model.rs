//! A model that was read, and the options for reading it.

use std::collections::BTreeMap;

use nettriage_net::{Error, Graph, Network, Shape, Tensor, Weights};

use super::constant::Constant;
use crate::shared::SharedWeights;

/// The order of axes in which a model takes its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// (N, C, H, W), as in PyTorch.
    #[default]
    ChannelsFirst,
    /// (N, H, W, C), as in TensorFlow.
    ChannelsLast,
}

/// What the file may leave open.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Shape (C, H, W) of an image, for a model whose input has dynamic axes.
    pub input: Option<Shape>,
    /// The output to take, for a model that has several.
    pub output: Option<String>,
}

/// A model as read: its graph, and its weights in the form in which the file holds them.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph.
    pub graph: Graph,
    /// The order of axes of the model's own input.
    pub layout: Layout,
    /// Layers that share weights in the file; here each has a copy of its own.
    pub shared: Vec<SharedWeights>,
    pub(super) weights: BTreeMap<String, Constant>,
}

impl Model {
    /// The network, its weights as dense tensors. (A model can declare gigabytes of equal weights in a few bytes, so
    /// reading the graph alone does not allocate them.)
    ///
    /// # Errors
    /// More than 2^30 weights; those of [`Network::check`].
    pub fn into_network(self) -> Result<Network, Error> {
        let total = self.weights.values().map(Constant::len).fold(0usize, usize::saturating_add);
        if total > 1 << 30 {
            let problem = format!("it has {total} of them; at most 2^30 are read");
            return Err(Error::Weights { network: self.graph.name, problem });
        }
        let dense = |(key, constant): (String, Constant)| {
            (key, Tensor { shape: constant.dims.clone(), data: constant.to_floats() })
        };
        let weights: Weights = self.weights.into_iter().map(dense).collect();
        let network = Network { graph: self.graph, weights };
        network.check()?;
        Ok(network)
    }
}
