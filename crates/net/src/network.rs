//! A graph with its weights: checks, and first weights.

use std::collections::BTreeSet;

use rand::Rng;

use crate::error::shorten;
use crate::{Activation, Error, Graph, Kind, Layer, Shape, Tensor, Weights, draw};

/// A graph and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The structure.
    pub graph: Graph,
    /// The weights, by `"<layer>.<parameter>"`.
    pub weights: Weights,
}

impl Network {
    /// Whether the graph is sound and every weight is there with its shape, with none left over.
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

    /// A network with first weights, as one trains it from scratch.
    ///
    /// Convolutions: normal with variance 2 / fan-in (He et al., arXiv:1502.01852, eq. 10), bias 0. Linear layers:
    /// weight and bias uniform in ±1/sqrt(fan-in), PyTorch's default. Batch norm: weight 1, bias 0, mean 0,
    /// variance 1. PReLU slopes 0.25.
    ///
    /// # Errors
    /// Those of [`Graph::check`].
    pub fn initialised(graph: Graph, rng: &mut impl Rng) -> Result<Network, Error> {
        graph.check()?;
        let shapes = graph.shapes()?;
        let mut weights = Weights::new();
        for (layer, input) in graph.layers.iter().zip(graph.first_inputs(&shapes)) {
            insert_first_weights(&mut weights, layer, input, rng);
        }
        Ok(Network { graph, weights })
    }
}

/// Keys and shapes of all the weights that a sound graph needs, in the order of its layers.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn expected_weights(graph: &Graph) -> Result<Vec<(String, Vec<usize>)>, Error> {
    let shapes = graph.shapes()?;
    let mut list = Vec::new();
    for (layer, input) in graph.layers.iter().zip(graph.first_inputs(&shapes)) {
        for (name, shape) in layer.parameters(input) {
            list.push((format!("{}.{name}", layer.name), shape));
        }
    }
    Ok(list)
}

/// Draws a layer's weights as [`Network::initialised`] says.
pub(crate) fn insert_first_weights(weights: &mut Weights, layer: &Layer, input: Shape, rng: &mut impl Rng) {
    let mut fan_in = 1.0_f64;
    for (name, shape) in layer.parameters(input) {
        let count: usize = shape.iter().product();
        if name == "weight" {
            fan_in = draw::fan_in(&shape);
        }
        let data = match (&layer.kind, name) {
            (Kind::Conv(_) | Kind::ConvTranspose { .. }, "weight") => draw::normal(count, (2.0 / fan_in).sqrt(), rng),
            (Kind::Linear { .. }, _) => draw::uniform(count, fan_in.sqrt().recip(), rng),
            (Kind::Activation(Activation::Prelu), _) => vec![0.25; count],
            (_, "weight" | "running_var") => vec![1.0; count],
            _ => vec![0.0; count],
        };
        weights.insert(format!("{}.{name}", layer.name), Tensor { shape, data });
    }
}
