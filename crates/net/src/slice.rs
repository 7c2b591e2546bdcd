//! The part of a network between two tensors, as a network of its own.

use std::collections::HashSet;

use crate::{Error, Graph, INPUT, Kind, Layer, Network, Weights};

/// The part that computes tensor `to` from tensor `from`, each a layer's name or [`INPUT`].
///
/// The result's input has the shape of `from`; its layers keep their names and weights. Where `from` equals `to`, the
/// result is one identity layer.
///
/// # Errors
/// Names that the graph does not have; a `to` that depends on the network's input by a path around `from`.
pub fn between(network: &Network, from: &str, to: &str) -> Result<Network, Error> {
    let graph = &network.graph;
    let input = graph.shape_of(from)?;
    graph.shape_of(to)?;
    let name = format!("{}:{from}..{to}", graph.name);
    if from == to {
        let identity = Layer { name: "identity".into(), inputs: vec![INPUT.into()], kind: Kind::Identity };
        let graph = Graph { name, input, layers: vec![identity], output: "identity".into() };
        return Ok(Network { graph, weights: Weights::new() });
    }
    let around = || {
        let problem = format!("`{to}` does not depend on `{from}` alone: a path from the input leads around it");
        Error::Graph { network: graph.name.clone(), problem }
    };
    let mut needed: HashSet<&str> = [to].into();
    let mut layers: Vec<Layer> = Vec::new();
    for layer in graph.layers.iter().rev() {
        if layer.name == from || !needed.contains(layer.name.as_str()) {
            continue;
        }
        needed.extend(layer.inputs.iter().map(String::as_str));
        let mut layer = layer.clone();
        for input in layer.inputs.iter_mut().filter(|input| *input == from) {
            *input = INPUT.into();
        }
        layers.push(layer);
    }
    if from != INPUT && needed.contains(INPUT) || layers.is_empty() {
        return Err(around());
    }
    layers.reverse();
    let weights = weights_of(network, layers.iter().map(|layer| layer.name.as_str()));
    Ok(Network { graph: Graph { name, input, layers, output: to.to_string() }, weights })
}

/// Copies of the weights of these layers.
pub(crate) fn weights_of<'a>(network: &Network, layers: impl Iterator<Item = &'a str>) -> Weights {
    let names: HashSet<&str> = layers.collect();
    let of_layer = |key: &str| key.rsplit_once('.').is_some_and(|(layer, _)| names.contains(layer));
    network.weights.iter().filter(|(key, _)| of_layer(key)).map(|(key, tensor)| (key.clone(), tensor.clone())).collect()
}
