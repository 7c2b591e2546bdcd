//! Parameters and multiply-accumulates.
//!
//! Multiply-accumulates are counted for convolutions, transposed convolutions and linear layers, as direct products,
//! per image. Normalisation, activations, pooling, biases and sums count 0, as in most published tables. Parameters are
//! all weights except a batch norm's running statistics, which no optimiser trains.

use crate::{Error, Graph, Layer, Shape};

/// What a layer, or a whole network, costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCost {
    /// Trained parameters.
    pub parameters: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
}

impl std::ops::Add for LayerCost {
    type Output = LayerCost;

    fn add(self, other: LayerCost) -> LayerCost {
        LayerCost {
            parameters: self.parameters.saturating_add(other.parameters),
            macs: self.macs.saturating_add(other.macs),
        }
    }
}

/// The cost of every layer, in order.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn per_layer(graph: &Graph) -> Result<Vec<LayerCost>, Error> {
    let shapes = graph.shapes()?;
    let layers = graph.layers.iter().zip(graph.first_inputs(&shapes)).zip(&shapes);
    let cost = |((layer, input), output): ((&Layer, Shape), &Shape)| LayerCost {
        parameters: parameters(layer, input),
        macs: layer.kind.macs(input, *output),
    };
    Ok(layers.map(cost).collect())
}

/// The cost of the whole network.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn total(graph: &Graph) -> Result<LayerCost, Error> {
    Ok(per_layer(graph)?.into_iter().fold(LayerCost::default(), |sum, cost| sum + cost))
}

fn parameters(layer: &Layer, input: Shape) -> u64 {
    let trained = layer.kind.parameters(input).into_iter().filter(|parameter| parameter.trained);
    trained.map(|parameter| parameter.elements()).fold(0, u64::saturating_add)
}
