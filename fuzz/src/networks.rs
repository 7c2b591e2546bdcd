//! The readers of networks.

use nettriage_formats::load;
use nettriage_formats::onnx::{self, ReadOptions};
use nettriage_formats::pytorch::Checkpoint;
use nettriage_net::{Graph, block, cost, drawing};

use crate::one_line;

/// Bytes of all the weights that a graph declares.
fn declared(graph: &Graph) -> usize {
    4 * cost::total(graph).map_or(0, |cost| usize::try_from(cost.parameters).unwrap_or(usize::MAX / 8))
}

/// Checks a graph that a reader accepted: blocks can be found in it and it can be drawn.
fn check_graph(graph: &Graph) {
    graph.check().unwrap();
    let blocks = block::find(graph);
    drawing::svg(graph, &blocks).unwrap();
}

/// An ONNX model: its graph, and its weights if they are at most 16 MiB.
pub fn onnx(bytes: &[u8]) -> usize {
    match onnx::from_bytes(bytes, &ReadOptions::default()) {
        Ok(model) => {
            check_graph(&model.graph);
            let weights = declared(&model.graph);
            if weights > 16 << 20 {
                return 0;
            }
            match model.into_network() {
                Ok(network) => network.check().unwrap(),
                Err(error) => one_line(&error.to_string()),
            }
            weights
        }
        Err(error) => {
            one_line(&error.to_string());
            0
        }
    }
}

fn checkpoint(bytes: &[u8]) -> usize {
    let checkpoint = match Checkpoint::parse(bytes) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            one_line(&error.to_string());
            return 0;
        }
    };
    let mut elements = 0;
    for (name, shape) in checkpoint.shapes() {
        // The reader checks each against its storage before reading it.
        match checkpoint.tensor(name) {
            Ok(tensor) => {
                assert_eq!(tensor.shape, shape);
                elements += tensor.data.len();
            }
            Err(error) => one_line(&error.to_string()),
        }
    }
    match checkpoint.tensors() {
        Ok(tensors) => assert_eq!(tensors.len(), checkpoint.shapes().count()),
        Err(error) => one_line(&error.to_string()),
    }
    4 * elements
}

/// A pickle, wrapped in an archive as PyTorch writes it.
pub fn pickle(bytes: &[u8]) -> usize {
    checkpoint(&crate::seeds::stored(&[("a/data.pkl", bytes), ("a/data/0", &[0; 64]), ("a/data/1", &[1; 64])]))
}

/// A PyTorch checkpoint in a zip archive.
pub fn zip(bytes: &[u8]) -> usize {
    checkpoint(bytes)
}

/// A PyTorch checkpoint in the legacy format.
pub fn legacy(bytes: &[u8]) -> usize {
    checkpoint(bytes)
}

/// A safetensors file, with our graph or without.
pub fn safetensors(bytes: &[u8]) -> usize {
    match load::from_bytes("x.safetensors", bytes, &load::LoadOptions::default()) {
        Ok(loaded) => {
            check_graph(&loaded.network.graph);
            loaded.network.check().unwrap();
            declared(&loaded.network.graph)
        }
        Err(error) => {
            one_line(&error.to_string());
            0
        }
    }
}
