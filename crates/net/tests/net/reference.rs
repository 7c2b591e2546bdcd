//! A forward pass in f64 by the definitions of the layers: slow, for tests only.

use std::collections::HashMap;

use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Layer, Network, Padding, Shape, layer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A tensor of shape (C, H, W) in that order.
#[derive(Clone, Debug)]
pub struct Values {
    pub shape: Shape,
    pub data: Vec<f64>,
}

impl Values {
    pub fn random(shape: Shape, seed: u64) -> Values {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Values { shape, data: (0..shape.elements()).map(|_| rng.random::<f64>() * 2.0 - 1.0).collect() }
    }

    pub fn at(&self, c: usize, y: i64, x: i64) -> f64 {
        let inside = y >= 0 && x >= 0 && y < self.shape.height as i64 && x < self.shape.width as i64;
        if !inside {
            return 0.0;
        }
        self.data[(c * self.shape.height + y as usize) * self.shape.width + x as usize]
    }

    fn build(shape: Shape, mut value: impl FnMut(usize, i64, i64) -> f64) -> Values {
        let mut data = Vec::new();
        for c in 0..shape.channels {
            for y in 0..shape.height as i64 {
                for x in 0..shape.width as i64 {
                    data.push(value(c, y, x));
                }
            }
        }
        Values { shape, data }
    }
}

/// The tensor of that name for one image, batch norm in evaluation mode.
pub fn tensor(network: &Network, image: &Values, name: &str) -> Values {
    let shapes = network.graph.shapes().unwrap();
    let mut known = HashMap::from([(INPUT, image.clone())]);
    for (layer, shape) in network.graph.layers.iter().zip(shapes) {
        let inputs: Vec<&Values> = layer.inputs.iter().map(|input| &known[input.as_str()]).collect();
        let result = forward(network, layer, &inputs, shape);
        known.insert(&layer.name, result);
    }
    known[name].clone()
}

pub fn run(network: &Network, image: &Values) -> Values {
    tensor(network, image, &network.graph.output)
}

fn forward(network: &Network, layer: &Layer, inputs: &[&Values], shape: Shape) -> Values {
    let x = inputs[0];
    let weight = |part: &str, index: usize| f64::from(network.weights[&format!("{}.{part}", layer.name)].data[index]);
    match &layer.kind {
        Kind::Conv(conv) => convolve(conv, &weight, x, shape),
        Kind::Linear(layer::Linear { features, bias }) => {
            let conv = Conv { bias: *bias, ..Conv::same(*features, 1) };
            convolve(&conv, &weight, x, shape)
        }
        Kind::BatchNorm(layer::BatchNorm { eps, .. }) => Values::build(shape, |c, y, z| {
            let scaled =
                (x.at(c, y, z) - weight("running_mean", c)) / (weight("running_var", c) + f64::from(*eps)).sqrt();
            scaled * weight("weight", c) + weight("bias", c)
        }),
        Kind::Affine => Values::build(shape, |c, y, z| x.at(c, y, z) * weight("weight", c) + weight("bias", c)),
        Kind::Activation(Activation::Relu) => Values::build(shape, |c, y, z| x.at(c, y, z).max(0.0)),
        Kind::Add => Values::build(shape, |c, y, z| inputs.iter().map(|input| input.at(c, y, z)).sum()),
        Kind::Concat(_) => Values::build(shape, |mut c, y, z| {
            for input in inputs {
                if c < input.shape.channels {
                    return input.at(c, y, z);
                }
                c -= input.shape.channels;
            }
            unreachable!("more channels than the inputs have")
        }),
        Kind::Pad(layer::Pad { channels, padding, value }) => Values::build(shape, |c, y, z| {
            let (y, z) = (y - padding.top as i64, z - padding.left as i64);
            let inside = c >= channels[0] && c < channels[0] + x.shape.channels;
            let inside = inside && y >= 0 && z >= 0 && y < x.shape.height as i64 && z < x.shape.width as i64;
            if inside { x.at(c - channels[0], y, z) } else { f64::from(*value) }
        }),
        Kind::MaxPool(window) => {
            assert_eq!(window.padding, Padding::default());
            Values::build(shape, |c, y, z| {
                let mut largest = f64::MIN;
                for row in 0..window.kernel[0] {
                    for column in 0..window.kernel[1] {
                        let (y, z) = (y as usize * window.stride[0] + row, z as usize * window.stride[1] + column);
                        largest = largest.max(x.at(c, y as i64, z as i64));
                    }
                }
                largest
            })
        }
        Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }) => {
            let area = x.shape.height * x.shape.width;
            Values::build(shape, |c, _, _| x.data[c * area..(c + 1) * area].iter().sum::<f64>() / area as f64)
        }
        Kind::Flatten => Values { shape, data: x.data.clone() },
        Kind::Identity | Kind::Dropout(_) => x.clone(),
        other => panic!("the reference does not implement {other:?}"),
    }
}

fn convolve(conv: &Conv, weight: &impl Fn(&str, usize) -> f64, x: &Values, shape: Shape) -> Values {
    let per_group = x.shape.channels / conv.groups;
    Values::build(shape, |filter, y, z| {
        let group = filter / (conv.filters / conv.groups);
        let mut sum = if conv.bias { weight("bias", filter) } else { 0.0 };
        for channel in 0..per_group {
            for row in 0..conv.kernel[0] {
                for column in 0..conv.kernel[1] {
                    let index = ((filter * per_group + channel) * conv.kernel[0] + row) * conv.kernel[1] + column;
                    let y = y * conv.stride[0] as i64 + (row * conv.dilation[0]) as i64 - conv.padding.top as i64;
                    let z = z * conv.stride[1] as i64 + (column * conv.dilation[1]) as i64 - conv.padding.left as i64;
                    sum += weight("weight", index) * x.at(group * per_group + channel, y, z);
                }
            }
        }
        sum
    })
}

/// A network with every weight random, norms included.
pub fn random_network(graph: Graph, seed: u64) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut network = Network::initialised(graph, &mut rng).unwrap();
    for (key, tensor) in &mut network.weights {
        if tensor.shape.len() == 1 {
            let positive = key.ends_with("running_var");
            tensor.data.iter_mut().for_each(|value| {
                *value = if positive { 0.5 + rng.random::<f32>() } else { rng.random::<f32>() * 2.0 - 1.0 };
            });
        }
    }
    network
}

/// A graph in which each layer's input is the previous layer.
pub fn chain(input: Shape, layers: Vec<(&str, Kind)>) -> Graph {
    let mut last = INPUT.to_string();
    let mut list = Vec::new();
    for (name, kind) in layers {
        list.push(Layer { name: name.into(), inputs: vec![last], kind });
        last = name.into();
    }
    Graph { name: "chain".into(), input, layers: list, output: last }
}

pub fn conv(filters: usize, kernel: usize) -> Kind {
    Kind::Conv(Conv::same(filters, kernel))
}

pub fn norm() -> Kind {
    Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })
}

pub fn relu() -> Kind {
    Kind::Activation(Activation::Relu)
}
