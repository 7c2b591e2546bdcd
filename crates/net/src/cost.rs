//! Parameters and multiply-accumulates.
//!
//! Counted are the multiply-accumulates of convolutions (also transposed) and linear layers, as direct products, per
//! image. Normalisation, activations, pooling, biases and joins count 0, as in most published tables.
//! Parameters are all weights but a batch norm's running statistics, which no optimiser trains.

use crate::{Error, Graph, Kind, Layer, Shape};

/// What a layer, or a whole network, costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCost {
    /// Parameters.
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
        macs: macs(layer, input, *output),
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

fn product(extents: &[usize]) -> u64 {
    extents.iter().fold(1u64, |product, &extent| product.saturating_mul(extent as u64))
}

fn parameters(layer: &Layer, input: Shape) -> u64 {
    let trained = layer.parameters(input).into_iter().filter(|(name, _)| !name.starts_with("running_"));
    trained.map(|(_, shape)| product(&shape)).fold(0, u64::saturating_add)
}

fn macs(layer: &Layer, input: Shape, output: Shape) -> u64 {
    match &layer.kind {
        Kind::Conv(conv) => product(&[
            conv.kernel[0],
            conv.kernel[1],
            input.channels / conv.groups,
            conv.filters,
            output.height,
            output.width,
        ]),
        Kind::ConvTranspose { conv, .. } => product(&[
            conv.kernel[0],
            conv.kernel[1],
            input.channels,
            conv.filters / conv.groups,
            input.height,
            input.width,
        ]),
        Kind::Linear { features, .. } => product(&[input.channels, *features]),
        _ => 0,
    }
}
