//! Shared by the tests of all engines: hashed numbers, small graphs, and an f64 reference of every layer in naive loops.
#![allow(dead_code)]

pub mod peers;
pub mod reference;
pub mod suite;

use nettriage_net::{Graph, INPUT, Kind, Layer, Network, Shape, Tensor, Weights};

/// Deterministic pseudorandom numbers in [-scale, scale), as in the PyTorch scripts: the first `n` elements of `stream`.
pub fn hashed(n: usize, stream: u32, scale: f32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(stream.wrapping_mul(0x9E37_79B9));
            x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
            x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
            x ^= x >> 16;
            ((x >> 8) as f32 / 8_388_608.0 - 1.0) * scale
        })
        .collect()
}

/// A layer with these inputs.
pub fn layer(name: &str, inputs: &[&str], kind: Kind) -> Layer {
    Layer { name: name.into(), inputs: inputs.iter().map(ToString::to_string).collect(), kind }
}

/// A chain of layers, from (name, kind).
pub fn chain(input: Shape, layers: &[(&str, Kind)]) -> Graph {
    let mut before = INPUT.to_string();
    let layers = layers
        .iter()
        .map(|(name, kind)| layer(name, &[&std::mem::replace(&mut before, name.to_string())], kind.clone()))
        .collect();
    Graph { name: "test".into(), input, layers, output: before }
}

/// A graph with hashed weights; variances and the weights of norms are positive.
pub fn network(graph: Graph, stream: u32) -> Network {
    let shapes = graph.shapes().expect("a sound graph");
    let mut weights = Weights::new();
    for (i, layer) in graph.layers.iter().enumerate() {
        let input = match graph.position(&layer.inputs[0]) {
            Some(position) => shapes[position],
            None => graph.input,
        };
        for (j, parameter) in layer.kind.parameters(input).into_iter().enumerate() {
            let (parameter, shape) = (parameter.name, parameter.shape);
            let count = shape.iter().product();
            let fan: usize = shape[1..].iter().product();
            let mut data = hashed(count, stream + 100 * i as u32 + j as u32, 1.5 / (fan as f32).sqrt());
            let positive = matches!(layer.kind, Kind::BatchNorm(_)) && matches!(parameter, "weight" | "running_var");
            if positive {
                data.iter_mut().for_each(|v| *v = 0.6 + 0.3 * *v);
            }
            weights.insert(format!("{}.{parameter}", layer.name), Tensor::new(&shape, data));
        }
    }
    let network = Network { graph, weights };
    network.check().expect("sound weights");
    network
}

/// The largest absolute error of `got`, relative to the largest element of `want` (at least 0.2, for tensors near 0).
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.2f64, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).abs());
    worst.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) / largest
}
