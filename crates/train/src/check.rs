//! Whether a network and a data set fit each other.

use nettriage_data::Dataset;
use nettriage_net::{Graph, Kind, Network, Shape};

use crate::Error;

/// Refuses a data set whose images have another shape than the network's input.
///
/// # Errors
/// [`Error::Mismatch`] with both shapes.
pub fn check_images(graph: &Graph, data: &Dataset) -> Result<(), Error> {
    let images = Shape::new(data.channels, data.height, data.width);
    if graph.input != images {
        let problem = format!("{} takes {} images, {} holds {images}", graph.name, graph.input, data.name);
        return Err(Error::Mismatch(problem));
    }
    Ok(())
}

/// The network up to its logits: the losses here take logits, and a closing softmax changes no prediction.
pub fn without_softmax(mut network: Network) -> Network {
    let graph = &mut network.graph;
    while let Some(last) = graph.layer(&graph.output).filter(|l| matches!(l.kind, Kind::Softmax(_))) {
        let (name, input) = (last.name.clone(), last.inputs[0].clone());
        graph.layers.retain(|l| l.name != name);
        graph.output = input;
    }
    network
}
