//! A graph with its weights: checks, and initial weights.

use std::collections::BTreeSet;

use rand::Rng;

use crate::error::shorten;
use crate::layer::{Initial, Layer};
use crate::{Error, Graph, Shape, Tensor, Weights, random};

/// A graph and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The structure.
    pub graph: Graph,
    /// The weights, by `<layer>.<parameter>`.
    pub weights: Weights,
}

impl Network {
    /// Checks the graph, and that the weights are exactly those that it needs, each of its shape.
    ///
    /// # Errors
    /// Those of [`Graph::check`]; all missing, unexpected and misshapen weights by name.
    pub fn check(&self) -> Result<(), Error> {
        self.graph.check()?;
        let mut expected = BTreeSet::new();
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for (key, shape) in expected_weights(&self.graph)? {
            match self.weights.get(&key) {
                None => missing.push(key.clone()),
                Some(tensor) if tensor.shape != shape || tensor.data.len() != shape.iter().product::<usize>() => {
                    misshapen.push(format!("{key} is {:?}, not {shape:?}", tensor.shape));
                }
                Some(_) => {}
            }
            expected.insert(key);
        }
        let unexpected: Vec<String> = self.weights.keys().filter(|key| !expected.contains(*key)).cloned().collect();
        let mut parts = Vec::new();
        for (word, names) in [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)] {
            if !names.is_empty() {
                parts.push(format!("{word}: {}", shorten(&names)));
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::Weights { network: self.graph.name.clone(), problem: parts.join("; ") })
    }

    /// The weights of layers that are constants of the network ([`Kind::is_fixed`](crate::Kind::is_fixed)).
    pub fn constants(&self) -> Weights {
        let fixed: BTreeSet<&str> =
            self.graph.layers.iter().filter(|layer| layer.kind.is_fixed()).map(|layer| layer.name.as_str()).collect();
        let of_fixed = |key: &str| key.rsplit_once('.').is_some_and(|(layer, _)| fixed.contains(layer));
        self.weights.iter().filter(|(key, _)| of_fixed(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// A network with initial weights for training from scratch.
    ///
    /// Convolutions: normal with variance 2 / fan-in (He et al., arXiv:1502.01852, eq. 10), bias 0. Linear layers:
    /// weight and bias uniform in ±1/sqrt(fan-in), PyTorch's default. Batch norm: weight 1, bias 0, mean 0,
    /// variance 1. PReLU slopes 0.25. The generator is read layer by layer in the graph's order. A graph does not hold
    /// the values of its constants; [those of a file](Network::constants) may replace the initial ones.
    ///
    /// # Errors
    /// Those of [`Graph::check`].
    pub fn initialised(graph: Graph, rng: &mut impl Rng) -> Result<Network, Error> {
        graph.check()?;
        let shapes = graph.shapes()?;
        let mut weights = Weights::new();
        for (layer, input) in graph.layers.iter().zip(graph.first_inputs(&shapes)) {
            insert_initial_weights(&mut weights, layer, input, rng);
        }
        Ok(Network { graph, weights })
    }
}

/// Keys `<layer>.<parameter>` and shapes of all the weights that a graph needs, in the order of its layers.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn expected_weights(graph: &Graph) -> Result<Vec<(String, Vec<usize>)>, Error> {
    let shapes = graph.shapes()?;
    let mut list = Vec::new();
    for (layer, input) in graph.layers.iter().zip(graph.first_inputs(&shapes)) {
        for parameter in layer.kind.parameters(input) {
            list.push((format!("{}.{}", layer.name, parameter.name), parameter.shape));
        }
    }
    Ok(list)
}

/// The initial values of a layer's weights, as [`Network::initialised`] describes them.
pub(crate) fn insert_initial_weights(weights: &mut Weights, layer: &Layer, input: Shape, rng: &mut impl Rng) {
    for parameter in layer.kind.parameters(input) {
        let count: usize = parameter.shape.iter().product();
        let data = match parameter.initial {
            Initial::Constant(value) => vec![value; count],
            Initial::Normal { deviation } => random::normal(count, deviation, rng),
            Initial::Uniform { bound } => random::uniform(count, bound, rng),
        };
        weights.insert(format!("{}.{}", layer.name, parameter.name), Tensor { shape: parameter.shape, data });
    }
}
