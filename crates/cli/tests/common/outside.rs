//! Libraries and files that not every machine has.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Layer, Padding, Shape, layer};

use super::skipped;

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The Python with the libraries, if `NETTRIAGE_PYTHON` is set.
pub fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("NETTRIAGE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        skipped(&format!("{test}: no NETTRIAGE_PYTHON"));
    }
    python
}

/// The folder of networks, if it exists.
pub fn networks(test: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("NETTRIAGE_SHARED").map_or(Path::new(ROOT).join("../shared"), PathBuf::from);
    let networks = shared.join("networks");
    if !networks.is_dir() {
        skipped(&format!("{test}: no {}", networks.display()));
        return None;
    }
    Some(networks)
}

/// The Python and the folder of networks, if both exist.
pub fn tools(test: &str) -> Option<(PathBuf, PathBuf)> {
    python(test).zip(networks(test))
}

/// The graph of `mnist_conv`, which the files of weights do not contain.
pub fn mnist_conv() -> Graph {
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |name: &str, kind: Kind| {
        let input = layers.last().map_or(INPUT.to_string(), |layer| layer.name.clone());
        layers.push(Layer { name: name.into(), inputs: vec![input], kind });
    };
    for (name, filters) in [("conv1", 8), ("conv2", 16), ("conv3", 24)] {
        add(name, Kind::Conv(Conv { padding: Padding::default(), ..Conv::same(filters, 3) }));
        add(&format!("{name}.relu"), Kind::Activation(Activation::Relu));
    }
    add("norm1", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 }));
    add("flatten", Kind::Flatten);
    add("fc1", Kind::Linear(layer::Linear { features: 32, bias: true }));
    add("fc1.relu", Kind::Activation(Activation::Relu));
    add("fc2", Kind::Linear(layer::Linear { features: 10, bias: true }));
    add("norm2", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 }));
    add("log_softmax", Kind::Softmax(layer::Softmax { log: true }));
    Graph { name: "mnist_conv".into(), input: Shape::new(1, 28, 28), layers, output: "log_softmax".into() }
}

pub fn array(path: &Path) -> Vec<f32> {
    npyz::NpyFile::new(BufReader::new(File::open(path).unwrap())).unwrap().into_vec().unwrap()
}

#[track_caller]
pub fn agree(what: &str, (theirs, ours): (Vec<f32>, Vec<f32>)) {
    assert_eq!(theirs.len(), ours.len(), "{what}");
    let largest = theirs.iter().fold(0.0f32, |m, y| m.max(y.abs()));
    let worst = theirs.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(largest > 0.0 && worst <= 1e-4 * largest, "{what}: {worst} of {largest}");
}
