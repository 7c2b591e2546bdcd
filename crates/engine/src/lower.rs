//! From a graph to nodes: layers that run as one are joined, layers that do nothing vanish, layers that nothing needs are left out.

use std::collections::{BTreeMap, BTreeSet};

use nettriage_net::{Activation, INPUT, Kind, Layer, Network, Shape, layer};

use crate::layers::activation::{ActivationLayer, Prelu};
use crate::layers::combine::{Add, Concat, Mul};
use crate::layers::conv::{ConvLayer, ConvTransposeLayer, Setting, geometry};
use crate::layers::copy::Copy;
use crate::layers::dropout::Dropout;
use crate::layers::gather::Gather;
use crate::layers::lrn::Lrn;
use crate::layers::norm::{Norm, Statistics};
use crate::layers::pool::{AvgPool, MaxPool};
use crate::layers::resize::{Pad, Slice, Upsample};
use crate::layers::softmax::Softmax;
use crate::layers::tiles::Tiles;
use crate::op::Op;
use crate::params::{ParamId, Params};
use crate::{Error, Options};

/// A tensor of the model; 0 is the batch of images.
pub(crate) type TensorId = usize;

/// One step of the forward pass.
pub(crate) struct Node {
    pub op: Box<dyn Op>,
    pub inputs: Vec<TensorId>,
    pub output: TensorId,
    /// Whether its own weights train.
    pub trains: bool,
}

/// The model before its buffers are planned.
pub(crate) struct Lowered {
    pub nodes: Vec<Node>,
    /// Elements per image of every tensor.
    pub elements: Vec<usize>,
    /// Tensors of the layers that stay readable.
    pub kept: BTreeMap<String, TensorId>,
    /// Tensors of the layers whose outputs' gradients stay readable.
    pub watched: BTreeMap<String, TensorId>,
    pub output: TensorId,
    /// Whether the gradient of every tensor but the images is wanted.
    pub whole_sweep: bool,
}

struct Lowering<'a> {
    layers: &'a [Layer],
    shapes: Vec<Shape>,
    input: Shape,
    options: &'a Options,
    params: &'a mut Params,
    /// The only layer that reads a layer's output, where there is just one and nobody else sees it.
    next: Vec<Option<usize>>,
    /// The tensor of every layer so far, and whether anything at or below it trains.
    tensors: BTreeMap<&'a str, TensorId>,
    trainable: Vec<bool>,
    whole_sweep: bool,
    elements: Vec<usize>,
    nodes: Vec<Node>,
}

/// Lowers the network and marks the weights that train in `params`.
pub(crate) fn lower(network: &Network, options: &Options, params: &mut Params) -> Result<Lowered, Error> {
    let graph = &network.graph;
    let shapes = graph.shapes()?;
    let layers = &graph.layers[..];
    let index: BTreeMap<&str, usize> = layers.iter().enumerate().map(|(i, l)| (l.name.as_str(), i)).collect();
    let mut seen: BTreeSet<&str> = options.keep.iter().chain(&options.gradients).map(String::as_str).collect();
    seen.insert(&graph.output);

    let mut live = vec![false; layers.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); layers.len()];
    for (i, layer) in layers.iter().enumerate().rev() {
        live[i] = seen.contains(layer.name.as_str()) || !readers[i].is_empty();
        if live[i] {
            for input in layer.inputs.iter().filter_map(|name| index.get(name.as_str())) {
                readers[*input].push(i);
            }
        }
    }
    let next = (0..layers.len())
        .map(|i| match readers[i][..] {
            [only] if !seen.contains(layers[i].name.as_str()) => Some(only),
            _ => None,
        })
        .collect();

    let mut lowering = Lowering {
        layers,
        shapes,
        input: graph.input,
        options,
        params,
        next,
        tensors: BTreeMap::from([(INPUT, 0)]),
        trainable: vec![false],
        whole_sweep: (options.whole_sweep || !options.gradients.is_empty())
            && options.trainable != crate::Trainable::Nothing,
        elements: vec![graph.input.elements()],
        nodes: Vec::new(),
    };
    for i in 0..layers.len() {
        if live[i] && !lowering.tensors.contains_key(layers[i].name.as_str()) {
            lowering.layer(i, &index)?;
        }
    }
    // The caller's images are not the model's to hand back: a tensor that is read must be a copy.
    let mut readable = BTreeMap::new();
    for name in seen {
        let mut tensor = lowering.tensors[name];
        if tensor == 0 {
            tensor = lowering.push(Box::new(Copy), vec![0], graph.input, false);
        }
        readable.insert(name.to_string(), tensor);
    }
    let output = readable[&graph.output];
    let of = |names: &[String]| names.iter().map(|name| (name.clone(), readable[name])).collect();
    let (kept, watched) = (of(&options.keep), of(&options.gradients));
    let Lowering { nodes, elements, whole_sweep, .. } = lowering;
    Ok(Lowered { nodes, elements, kept, watched, output, whole_sweep })
}

impl<'a> Lowering<'a> {
    fn push(&mut self, op: Box<dyn Op>, inputs: Vec<TensorId>, output: Shape, trains: bool) -> TensorId {
        let trainable = trains || self.whole_sweep || inputs.iter().any(|&t| self.trainable[t]);
        self.elements.push(output.elements());
        self.trainable.push(trainable);
        self.nodes.push(Node { op, inputs, output: self.elements.len() - 1, trains });
        self.elements.len() - 1
    }

    fn trains(&self, layer: &Layer) -> bool {
        self.options.trainable.contains(&layer.name, layer.kind == Kind::Affine)
    }

    /// A weight of `layer`, marked as trainable where the layer is and `learned` says so.
    fn param(&mut self, layer: &Layer, parameter: &str, learned: bool) -> Result<ParamId, Error> {
        let id = self.params.find(&layer.name, parameter).ok_or_else(|| Error::Weight {
            name: format!("{}.{parameter}", layer.name),
            problem: "is missing".into(),
        })?;
        if learned && self.trains(layer) {
            self.params.train(id);
        }
        Ok(id)
    }

    /// The layer after `i` if it alone reads `i` and `joins` likes it.
    fn follower(&self, i: usize, joins: impl Fn(&Kind) -> bool) -> Option<usize> {
        self.next[i].filter(|&next| joins(&self.layers[next].kind))
    }

    fn relu_after(&self, i: usize) -> Option<usize> {
        self.follower(i, |kind| *kind == Kind::Activation(Activation::Relu))
    }

    /// Max-pooling of 2x2 tiles without remainder after layer `i`, and its layer.
    fn tiles_after(&self, i: usize) -> Option<(Tiles, usize)> {
        let next = self.next[i]?;
        let Kind::MaxPool(window) = self.layers[next].kind else { return None };
        Some((Tiles::of(self.shapes[i], self.shapes[next], window)?, next))
    }

    /// The norm of layer `i` with the ReLU after it; and the last layer that this covers.
    fn norm(&mut self, i: usize) -> Result<(Norm, usize), Error> {
        let layer = &self.layers[i];
        let weight = self.param(layer, "weight", true)?;
        let bias = self.param(layer, "bias", true)?;
        let statistics = match layer.kind {
            Kind::BatchNorm(layer::BatchNorm { eps, momentum }) => Some(Statistics {
                mean: self.param(layer, "running_mean", false)?,
                variance: self.param(layer, "running_var", false)?,
                eps,
                momentum,
            }),
            _ => None,
        };
        let relu = self.relu_after(i);
        let (channels, trains) = (self.shapes[i].channels, self.trains(layer));
        Ok((Norm::new(weight, bias, statistics, relu.is_some(), channels, trains), relu.unwrap_or(i)))
    }

    /// Makes the node of layer `i` and of those joined to it.
    fn layer(&mut self, i: usize, index: &BTreeMap<&str, usize>) -> Result<(), Error> {
        let layer = &self.layers[i];
        let inputs: Vec<TensorId> = layer.inputs.iter().map(|name| self.tensors[name.as_str()]).collect();
        let from: Vec<Shape> = layer
            .inputs
            .iter()
            .map(|name| index.get(name.as_str()).map_or(self.input, |&layer| self.shapes[layer]))
            .collect();
        let (x, y, trains) = (from[0], self.shapes[i], self.trains(layer));
        let positions = y.height * y.width;
        let spread = |from: &[Shape]| from.iter().map(|&x| x != y).collect::<Vec<bool>>();
        let setting = Setting {
            batch: self.options.batch,
            threads: self.options.threads.max(1),
            exact: self.options.exact,
            trains,
            below: inputs.iter().any(|&t| self.trainable[t]),
        };
        let mut last = i;
        let mut any = false;
        let op: Option<Box<dyn Op>> = match &layer.kind {
            Kind::Conv(_) | Kind::Linear(_) => {
                let (conv, biased) = match &layer.kind {
                    Kind::Conv(conv) => (*conv, conv.bias),
                    Kind::Linear(layer::Linear { features, bias }) => (pointwise(*features), *bias),
                    _ => unreachable!("one of the two above"),
                };
                any = trains;
                let weight = self.param(layer, "weight", true)?;
                let bias = if biased { Some(self.param(layer, "bias", true)?) } else { None };
                let norm = match self.follower(i, |kind| matches!(kind, Kind::BatchNorm(_) | Kind::Affine)) {
                    Some(next) => {
                        any |= self.trains(&self.layers[next]);
                        let (norm, end) = self.norm(next)?;
                        last = end;
                        Some(norm)
                    }
                    None => None,
                };
                let relu = if norm.is_some() { None } else { self.relu_after(i) };
                last = relu.unwrap_or(last);
                let tiles = self.tiles_after(last);
                if let Some((_, pool)) = tiles {
                    last = pool;
                }
                let tiles = tiles.map(|(tiles, _)| tiles);
                let geometry = geometry(extents(x), extents(y), &conv);
                Some(Box::new(ConvLayer::new(&geometry, weight, bias, norm, relu.is_some(), tiles, setting)))
            }
            Kind::ConvTranspose(layer::ConvTranspose { conv, .. }) => {
                any = trains;
                let weight = self.param(layer, "weight", true)?;
                let bias = if conv.bias { Some(self.param(layer, "bias", true)?) } else { None };
                Some(Box::new(ConvTransposeLayer::new(extents(x), extents(y), conv, weight, bias, setting)))
            }
            Kind::BatchNorm(_) | Kind::Affine => {
                any = trains;
                let (norm, end) = self.norm(i)?;
                last = end;
                Some(Box::new(norm))
            }
            Kind::Activation(Activation::Prelu) => {
                any = trains;
                let weight = self.param(layer, "weight", true)?;
                Some(Box::new(Prelu::new(weight, x.channels, trains)))
            }
            Kind::Activation(function) => Some(Box::new(ActivationLayer::new(*function))),
            Kind::MaxPool(window) => Some(Box::new(MaxPool::new(x, y, *window))),
            Kind::AvgPool(layer::AvgPool { window, count_padding }) => {
                Some(Box::new(AvgPool::window(x, y, *window, *count_padding)))
            }
            Kind::AdaptiveAvgPool(_) => Some(Box::new(AvgPool::adaptive(x, y))),
            Kind::Add => {
                let relu = self.relu_after(i);
                last = relu.unwrap_or(i);
                Some(Box::new(Add::new(y.channels, positions, spread(&from), relu.is_some())))
            }
            Kind::Mul => Some(Box::new(Mul::new(y.channels, positions, spread(&from)))),
            Kind::Concat => {
                let channels: Vec<usize> = from.iter().map(|x| x.channels).collect();
                Some(Box::new(Concat::new(&channels, positions)))
            }
            Kind::Flatten | Kind::Reshape(_) => Gather::reshape(x, y).map(|op| Box::new(op) as Box<dyn Op>),
            Kind::ChannelShuffle(layer::ChannelShuffle { groups }) => {
                Gather::shuffle(x.channels, *groups).map(|op| Box::new(op) as Box<dyn Op>)
            }
            Kind::Slice(layer::Slice { start, end }) => Some(Box::new(Slice::new(x, *start, *end))),
            Kind::Pad(layer::Pad { channels, padding, value }) => {
                Some(Box::new(Pad::new(x, *channels, *padding, *value)))
            }
            Kind::Upsample(layer::Upsample { factor }) => Some(Box::new(Upsample::new(x, *factor))),
            Kind::LocalResponseNorm(layer::LocalResponseNorm { size, alpha, beta, bias }) => {
                Some(Box::new(Lrn::new(x.channels, *size, *alpha, *beta, *bias)))
            }
            Kind::Dropout(layer::Dropout { p }) if trains && *p > 0.0 => Some(Box::new(Dropout::new(&layer.name, *p))),
            Kind::Softmax(layer::Softmax { log }) => Some(Box::new(Softmax::new(x.channels, *log))),
            Kind::Dropout(_) | Kind::Identity => None,
        };
        let tensor = match op {
            Some(op) => self.push(op, inputs, self.shapes[last], any),
            None => inputs[0],
        };
        // Layers between `i` and `last` are joined: nobody reads them, and they are done with.
        let mut joined = i;
        self.tensors.insert(&self.layers[i].name, tensor);
        while joined != last {
            joined = self.next[joined].expect("a layer is joined to the only one that reads it");
            self.tensors.insert(&self.layers[joined].name, tensor);
        }
        Ok(())
    }
}

fn extents(shape: Shape) -> [usize; 3] {
    [shape.channels, shape.height, shape.width]
}

/// A fully connected layer as the convolution of a picture of one pixel.
fn pointwise(features: usize) -> nettriage_net::Conv {
    let padding = nettriage_net::Padding::default();
    nettriage_net::Conv {
        filters: features,
        kernel: [1; 2],
        stride: [1; 2],
        padding,
        dilation: [1; 2],
        groups: 1,
        bias: false,
    }
}
