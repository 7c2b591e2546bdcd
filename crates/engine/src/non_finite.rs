//! Which layer first produces NaN or infinity.

use nettriage_net::{INPUT, Network};

use crate::{Error, Model, Options};

/// The first layer of a network whose output is not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// The layer's name; [`INPUT`] if the image itself is not finite.
    pub layer: String,
    /// Index of the first image for which this happens.
    pub image: usize,
    /// The value: NaN or an infinity.
    pub value: f32,
    /// The first of the layer's own weights that is not finite, if any.
    pub weight: Option<String>,
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NonFinite { layer, image, value, weight } = self;
        if layer == INPUT {
            return write!(f, "image {image} contains {value}");
        }
        write!(f, "layer {layer:?} is the first whose output contains {value}, for image {image}")?;
        match weight {
            Some(weight) => write!(f, ": its weight {weight:?} is not finite"),
            None => Ok(()),
        }
    }
}

/// Images per forward pass.
const BATCH: usize = 8;

/// Finds the first layer, in the order of the graph, whose output for `images` (N, H, W, C) is not finite in evaluation mode.
/// `None` if all outputs are finite.
///
/// This runs the network with every layer's output kept, so it is slow: call it when an output or a loss is not finite, to tell
/// the reason.
///
/// # Errors
/// As [`Model::new`].
///
/// # Panics
/// If `images` is not a whole number of images.
pub fn first_non_finite(network: &Network, images: &[f32]) -> Result<Option<NonFinite>, Error> {
    let size = network.graph.input.elements();
    assert!(images.len().is_multiple_of(size), "{} values are not images of {size} values", images.len());
    let keep = network.graph.layers.iter().map(|layer| layer.name.clone()).collect();
    let mut model = Model::new(network, &Options { keep, ..Options::inference(BATCH) })?;
    for (i, batch) in images.chunks(BATCH * size).enumerate() {
        model.forward(batch);
        let count = batch.len() / size;
        let outputs =
            network.graph.layers.iter().filter_map(|layer| Some((&layer.name[..], model.activation(&layer.name)?)));
        for (layer, values) in std::iter::once((INPUT, batch)).chain(outputs) {
            let Some(at) = values.iter().position(|value| !value.is_finite()) else { continue };
            let weight = network.weights.iter().find(|(name, tensor)| {
                name.rsplit_once('.').is_some_and(|(owner, _)| owner == layer)
                    && tensor.data.iter().any(|value| !value.is_finite())
            });
            return Ok(Some(NonFinite {
                layer: layer.to_owned(),
                image: i * BATCH + at / (values.len() / count),
                value: values[at],
                weight: weight.map(|(name, _)| name.clone()),
            }));
        }
    }
    Ok(None)
}
