//! From a graph to operations: fuses layers, removes those that compute nothing, and leaves out those that nothing reads.
//!
//! This file walks the graph; how each kind of layer becomes an operation stands beside its computation, in [`crate::layers`].

use std::collections::{BTreeMap, BTreeSet};

use nettriage_net::{Kind, Layer, Network, Shape};

use crate::layers::copy::Copy;
use crate::layers::{self, Fusion};
use crate::operation::Operation;
use crate::parameters::{ParameterId, Parameters};
use crate::{Error, Options, Trainable};

/// Index of a tensor of the model; 0 is the batch of images.
pub(crate) type TensorId = usize;

/// One operation of the forward pass.
pub(crate) struct Node {
    pub operation: Box<dyn Operation>,
    pub inputs: Vec<TensorId>,
    pub output: TensorId,
    /// Whether any of its own weights train.
    pub trains: bool,
}

/// The model before its buffers are assigned.
pub(crate) struct LoweredModel {
    /// In the order of the forward pass.
    pub nodes: Vec<Node>,
    /// Elements per image of every tensor.
    pub elements: Vec<usize>,
    /// Tensors that the caller can read, by layer.
    pub kept: BTreeMap<String, TensorId>,
    /// Tensors whose gradients the caller can read, by layer.
    pub kept_gradients: BTreeMap<String, TensorId>,
    /// Tensors that enter the loss beside the output.
    pub compared: Vec<TensorId>,
    pub output: TensorId,
    /// Whether the gradients of all tensors but the images are computed.
    pub full_backward: bool,
}

/// Lowers the network, and marks the weights that train in `parameters`.
pub(crate) fn lower(network: &Network, options: &Options, parameters: &mut Parameters) -> Result<LoweredModel, Error> {
    let graph = &network.graph;
    let Options { keep, keep_gradients, compared, .. } = options;
    let mut readable: BTreeSet<&str> = keep.iter().chain(keep_gradients).chain(compared).map(String::as_str).collect();
    readable.insert(&graph.output);

    let mut lowering = Lowering::new(network, options, parameters, &readable)?;
    for i in 0..graph.layers.len() {
        if lowering.is_live[i] && lowering.tensors[i].is_none() {
            lowering.lower_layer(i)?;
        }
    }

    let mut tensors = BTreeMap::new();
    for name in readable {
        let mut tensor = lowering.tensor(name);
        if tensor == 0 {
            // The batch belongs to the caller; a tensor that can be read after the pass must be a copy.
            tensor = lowering.push(Box::new(Copy), vec![0], graph.input, false);
        }
        tensors.insert(name.to_string(), tensor);
    }
    let named = |name: &String| (name.clone(), tensors[name]);
    Ok(LoweredModel {
        kept: keep.iter().chain(compared).map(named).collect(),
        kept_gradients: keep_gradients.iter().map(named).collect(),
        compared: compared.iter().map(|name| tensors[name]).collect(),
        output: tensors[&graph.output],
        nodes: lowering.nodes,
        elements: lowering.elements,
        full_backward: lowering.full_backward,
    })
}

struct Lowering<'a> {
    layers: &'a [Layer],
    options: &'a Options,
    parameters: &'a mut Parameters,
    /// Position of each layer by name.
    position: BTreeMap<&'a str, usize>,
    input: Shape,
    /// Output shape of each layer.
    shapes: Vec<Shape>,
    /// Whether the output depends on the layer, or the caller reads it.
    is_live: Vec<bool>,
    /// The only consumer of a layer's output, where there is just one and the caller does not read it.
    sole_consumer: Vec<Option<usize>>,
    /// The tensor of each layer that is lowered already.
    tensors: Vec<Option<TensorId>>,
    full_backward: bool,
    nodes: Vec<Node>,
    /// Elements per image of each tensor.
    elements: Vec<usize>,
    /// For each tensor, whether its gradient is needed.
    needs_gradient: Vec<bool>,
}

impl<'a> Lowering<'a> {
    fn new(
        network: &'a Network,
        options: &'a Options,
        parameters: &'a mut Parameters,
        readable: &BTreeSet<&str>,
    ) -> Result<Lowering<'a>, Error> {
        let graph = &network.graph;
        let layers = &graph.layers[..];
        let position: BTreeMap<&str, usize> = layers.iter().enumerate().map(|(i, l)| (l.name.as_str(), i)).collect();
        let is_readable = |i: usize| readable.contains(layers[i].name.as_str());

        let mut is_live = vec![false; layers.len()];
        let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); layers.len()];
        for (i, layer) in layers.iter().enumerate().rev() {
            is_live[i] = is_readable(i) || !consumers[i].is_empty();
            if is_live[i] {
                for input in layer.inputs.iter().filter_map(|name| position.get(name.as_str())) {
                    consumers[*input].push(i);
                }
            }
        }
        let sole_consumer = (0..layers.len())
            .map(|i| match consumers[i][..] {
                [only] if !is_readable(i) => Some(only),
                _ => None,
            })
            .collect();
        let all_gradients = options.full_backward || !options.keep_gradients.is_empty();
        Ok(Lowering {
            layers,
            options,
            parameters,
            position,
            input: graph.input,
            shapes: graph.shapes()?,
            is_live,
            sole_consumer,
            tensors: vec![None; layers.len()],
            full_backward: all_gradients && options.trainable != Trainable::Nothing,
            nodes: Vec::new(),
            elements: vec![graph.input.elements()],
            needs_gradient: vec![false],
        })
    }

    /// The tensor of a layer that is lowered already, or of the network's input.
    fn tensor(&self, name: &str) -> TensorId {
        match self.position.get(name) {
            Some(&i) => self.tensors[i].expect("layers are in topological order"),
            None => 0,
        }
    }

    fn push(&mut self, operation: Box<dyn Operation>, inputs: Vec<TensorId>, output: Shape, trains: bool) -> TensorId {
        let needs_gradient = trains || self.full_backward || inputs.iter().any(|&t| self.needs_gradient[t]);
        self.elements.push(output.elements());
        self.needs_gradient.push(needs_gradient);
        let output = self.elements.len() - 1;
        self.nodes.push(Node { operation, inputs, output, trains });
        output
    }

    /// Lowers layer `i` and the layers fused with it.
    fn lower_layer(&mut self, i: usize) -> Result<(), Error> {
        let mut inputs: Vec<TensorId> = self.layers[i].inputs.iter().map(|name| self.tensor(name)).collect();
        let input_shapes: Vec<Shape> = self.layers[i]
            .inputs
            .iter()
            .map(|name| self.position.get(name.as_str()).map_or(self.input, |&layer| self.shapes[layer]))
            .collect();
        let input_needs_gradient = inputs.iter().any(|&t| self.needs_gradient[t]);
        let mut context = LayerContext {
            fused: vec![i],
            lowering: self,
            input_shapes,
            input_needs_gradient,
            trains_weights: false,
            added: None,
        };
        let operation = layers::build(&mut context)?;
        let LayerContext { fused, trains_weights, added, .. } = context;
        inputs.extend(added);
        let last = fused[fused.len() - 1];
        let tensor = match operation {
            Some(operation) => self.push(operation, inputs, self.shapes[last], trains_weights),
            None => inputs[0],
        };
        // Nothing else reads the tensors between fused layers, so all of these layers stand for the operation's output.
        for layer in fused {
            self.tensors[layer] = Some(tensor);
        }
        Ok(())
    }

    fn trains(&self, layer: &Layer) -> bool {
        self.options.trainable.includes(layer)
    }
}

/// A layer that is being lowered, as the `build` function of its kind sees it. Fusing the next layer makes that one the
/// current layer.
pub(crate) struct LayerContext<'l, 'a> {
    lowering: &'l mut Lowering<'a>,
    /// The layers of the operation so far; the last one is the current layer.
    fused: Vec<usize>,
    input_shapes: Vec<Shape>,
    input_needs_gradient: bool,
    /// Whether any weight of the operation trains.
    trains_weights: bool,
    /// A further input, which a fused sum adds.
    added: Option<TensorId>,
}

impl<'a> LayerContext<'_, 'a> {
    fn current(&self) -> usize {
        self.fused[self.fused.len() - 1]
    }

    fn layer(&self) -> &'a Layer {
        &self.lowering.layers[self.current()]
    }

    /// The current layer's name.
    pub fn name(&self) -> &'a str {
        &self.layer().name
    }

    /// The current layer's kind.
    pub fn kind(&self) -> &'a Kind {
        &self.layer().kind
    }

    /// The shape of the operation's first input.
    pub fn input(&self) -> Shape {
        self.input_shapes[0]
    }

    /// The shapes of the operation's inputs.
    pub fn inputs(&self) -> &[Shape] {
        &self.input_shapes
    }

    /// The shape of the current layer's output.
    pub fn output(&self) -> Shape {
        self.lowering.shapes[self.current()]
    }

    /// Whether the current layer trains.
    pub fn trains(&self) -> bool {
        self.lowering.trains(self.layer())
    }

    /// Whether the gradient of any of the operation's inputs is needed.
    pub fn input_needs_gradient(&self) -> bool {
        self.input_needs_gradient
    }

    /// How the model is built.
    pub fn options(&self) -> &'a Options {
        self.lowering.options
    }

    /// A weight of the current layer, which trains if the layer does.
    pub fn weight(&mut self, parameter: &str) -> Result<ParameterId, Error> {
        let id = self.statistic(parameter)?;
        if self.trains() {
            self.lowering.parameters.set_trainable(id);
            self.trains_weights = true;
        }
        Ok(id)
    }

    /// A running statistic of the current layer, which has no gradient.
    pub fn statistic(&self, parameter: &str) -> Result<ParameterId, Error> {
        self.lowering
            .parameters
            .find(self.name(), parameter)
            .ok_or_else(|| Error::Weight { name: format!("{}.{parameter}", self.name()), problem: "is missing".into() })
    }

    /// How the next layer can be fused into this operation; `None` if it cannot, or if the tensor between the two has other
    /// readers.
    pub fn next_fusion(&self) -> Option<Fusion> {
        let next = self.lowering.sole_consumer[self.current()]?;
        Fusion::of(&self.lowering.layers[next].kind)
    }

    /// Fuses the next layer, for which [`LayerContext::next_fusion`] returned a fusion. It is then the current layer.
    pub fn fuse_next(&mut self) {
        self.fused.extend(self.lowering.sole_consumer[self.current()]);
    }

    /// Whether the backward pass never visits the operation with the layers fused so far.
    pub fn is_frozen(&self) -> bool {
        !self.trains_weights && !self.input_needs_gradient && !self.lowering.full_backward
    }

    /// Fuses the next layer if it is the sum of this one and a tensor of the same shape that is computed already, has no gradient
    /// and becomes the operation's last input. Returns whether it does.
    pub fn fuse_add(&mut self) -> bool {
        let added = self.addend();
        if added.is_some() {
            self.added = added;
            self.fuse_next();
        }
        added.is_some()
    }

    fn addend(&self) -> Option<TensorId> {
        let lowering = &self.lowering;
        let next = &lowering.layers[lowering.sole_consumer[self.current()]?];
        let [a, b] = &next.inputs[..] else { return None };
        let other = if a == self.name() { b } else { a };
        let (tensor, shape) = match lowering.position.get(other.as_str()) {
            Some(&i) => (lowering.tensors[i]?, lowering.shapes[i]),
            None => (0, lowering.input),
        };
        let suits = next.kind == Kind::Add && shape == self.output() && !lowering.needs_gradient[tensor];
        suits.then_some(tensor)
    }

    /// Fuses the next layer if it is a ReLU. Returns whether it is.
    pub fn fuse_relu(&mut self) -> bool {
        let is_relu = self.next_fusion() == Some(Fusion::Relu);
        if is_relu {
            self.fuse_next();
        }
        is_relu
    }
}
