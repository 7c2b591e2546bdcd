//! A network that runs and trains on a device.

use std::collections::{BTreeMap, BTreeSet};

use nettriage_engine::{Optimizer, OptimizerMemory, Options, Trainable, check_options};
use nettriage_net::{INPUT, Layer, Network, Shape, Tensor as Plain, Weights};

use crate::abi::{Format, Tensor, Type};
use crate::layers::{self, Backward, Context, Gradient, Operation, Output, Pass, Traits};
use crate::optimizer::Updater;
use crate::parameters::Parameters;
use crate::{Result, Torch};

/// A network on a device, ready to run and to train, with the face of [`nettriage_engine::Model`].
///
/// Batches are `f32` slices in N x H x W x C order, or tensors on the device.
pub struct Model {
    torch: Torch,
    threads: usize,
    nodes: Vec<Node>,
    /// Tensor of each layer that can be read.
    kept: BTreeMap<String, usize>,
    kept_gradients: BTreeMap<String, usize>,
    /// Tensors that enter the loss beside the output.
    compared: Vec<usize>,
    output: usize,
    shapes: Vec<Shape>,
    /// For each tensor, whether the caller can read it after a pass.
    readable: Vec<bool>,
    parameters: Parameters,
    updater: Updater,
    /// The largest batch.
    batch: usize,
    state: State,
    host: Host,
    bytes: u64,
}

/// What a forward pass leaves for the backward pass.
#[derive(Default)]
struct State {
    /// Images of the last pass.
    n: usize,
    /// The seed of the last pass, if it was in training mode.
    training: Option<u64>,
    /// Tensors by number; 0 is the batch.
    values: Vec<Option<Tensor>>,
    /// Their types of elements.
    types: Vec<Type>,
    /// What each operation saved.
    saved: Vec<Vec<Tensor>>,
    /// Gradients that the caller can read, by tensor.
    gradients: BTreeMap<usize, Tensor>,
}

impl State {
    /// A tensor that can be read after the pass.
    fn value(&self, number: usize) -> &Tensor {
        self.values[number].as_ref().expect("a readable tensor is kept")
    }
}

/// Copies in the host's memory.
#[derive(Default)]
struct Host {
    output: Vec<f32>,
    activations: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<f32>>,
}

/// An operation with its place in the graph. Its output is the tensor after its own number.
struct Node {
    operation: Box<dyn Operation>,
    traits: Traits,
    inputs: Vec<usize>,
    /// For each input, whether its gradient is needed.
    needed: Vec<bool>,
    /// Whether its backward pass runs.
    needs_gradient: bool,
    /// Whether it overwrites its input.
    in_place: bool,
    /// Whether its backward pass may overwrite its output.
    consumable: bool,
    /// Tensors that no operation reads after this one, with whether a backward pass does.
    last_read: Vec<(usize, bool)>,
}

impl Model {
    /// Builds the model of a network on the device of `torch`.
    ///
    /// # Errors
    /// The network is invalid, an option is outside its range or names a layer that does not exist, or the model does not fit
    /// into the device's memory.
    pub fn new(torch: &Torch, network: &Network, options: &Options) -> Result<Model> {
        check_options(network, options)?;
        torch.enter(options.threads);
        let graph = &network.graph;
        let layer_shapes = graph.shapes()?;
        let formats: BTreeMap<String, Format> = graph
            .layers
            .iter()
            .zip(&layer_shapes)
            .map(|(layer, &output)| {
                let input = graph.input_shapes(layer, &layer_shapes)[0];
                (format!("{}.weight", layer.name), layers::format(torch, input, output))
            })
            .collect();
        let mut parameters =
            Parameters::new(torch, &network.weights, |name| formats.get(name).copied().unwrap_or(Format::Contiguous))?;

        let readable_names: BTreeSet<&str> =
            [&options.keep[..], &options.keep_gradients, &options.compared, std::slice::from_ref(&graph.output)]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
        let live = live_layers(&graph.layers, &readable_names);
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::from([(INPUT, 0)]);
        let mut shapes = vec![graph.input];
        let mut nodes = Vec::new();
        let full =
            (options.full_backward || !options.keep_gradients.is_empty()) && options.trainable != Trainable::Nothing;
        let mut needs_gradient = vec![false];
        for (layer, &output) in
            graph.layers.iter().zip(&layer_shapes).filter(|(layer, _)| live.contains(&layer.name[..]))
        {
            let inputs: Vec<usize> = layer.inputs.iter().map(|name| numbers[name.as_str()]).collect();
            let input_shapes: Vec<Shape> = inputs.iter().map(|&number| shapes[number]).collect();
            let trains = options.trainable.includes(layer);
            let trains_weights = trains && !layer.kind.parameters(input_shapes[0]).is_empty();
            let mut cx = Context { torch, layer, inputs: &input_shapes, output, trains, parameters: &mut parameters };
            let operation = layers::build(&mut cx);
            let needed: Vec<bool> = inputs.iter().map(|&number| needs_gradient[number]).collect();
            needs_gradient.push(full || trains_weights || needed.contains(&true));
            numbers.insert(&layer.name, shapes.len());
            shapes.push(output);
            nodes.push(Node {
                traits: operation.traits(),
                operation,
                inputs,
                needed,
                needs_gradient: needs_gradient[needs_gradient.len() - 1],
                in_place: false,
                consumable: false,
                last_read: Vec::new(),
            });
        }
        let readable: Vec<bool> = {
            let mut readable = vec![false; shapes.len()];
            readable_names.iter().for_each(|name| readable[numbers[name]] = true);
            readable
        };
        place(&mut nodes, &readable);
        let named = |name: &String| (name.clone(), numbers[name.as_str()]);
        let kept = options.keep.iter().chain(&options.compared).map(named).collect();
        let kept_gradients = options.keep_gradients.iter().map(named).collect();
        let compared = options.compared.iter().map(|name| numbers[name.as_str()]).collect();
        let updater = Updater::new(options.optimizer, options.decay_all, &mut parameters)?;
        Ok(Model {
            output: numbers[graph.output.as_str()],
            torch: torch.clone(),
            threads: options.threads,
            nodes,
            kept,
            kept_gradients,
            compared,
            shapes,
            readable,
            parameters,
            updater,
            batch: options.batch,
            state: State::default(),
            host: Host::default(),
            bytes: Model::memory_needed(network, options)?,
        })
    }

    /// An estimate of the bytes that a model needs on the device: weights, gradients, the optimiser's state, and the tensors of a
    /// pass, without the working memory of PyTorch's kernels.
    ///
    /// # Errors
    /// The network is invalid.
    pub fn memory_needed(network: &Network, options: &Options) -> Result<u64> {
        let shapes = network.graph.shapes()?;
        let float = size_of::<f32>() as u64;
        let tensor =
            |shape: &Shape| (shape.elements() as u64).saturating_mul(options.batch as u64).saturating_mul(float);
        let all = shapes.iter().chain([&network.graph.input]).map(tensor);
        let largest = all.clone().max().unwrap_or(0);
        // A training pass keeps the tensors for the backward pass, which has two gradients at a time.
        let activations = match options.trainable {
            Trainable::Nothing => largest.saturating_mul(3),
            _ => all.fold(0, u64::saturating_add).saturating_add(largest.saturating_mul(2)),
        };
        let states = match options.optimizer {
            Optimizer::Sgd { momentum, .. } => u64::from(momentum != 0.0),
            Optimizer::AdamW { .. } => 2,
        };
        let weights = network.graph.layers.iter().map(|layer| {
            let own = |name: &String| name.rsplit_once('.').is_some_and(|(owner, _)| owner == layer.name);
            let elements: u64 =
                network.weights.iter().filter(|(name, _)| own(name)).map(|(_, tensor)| tensor.data.len() as u64).sum();
            elements * float * if options.trainable.includes(layer) { 2 + states } else { 1 }
        });
        Ok(activations.saturating_add(weights.sum()))
    }

    /// [`Model::memory_needed`] of this model.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    /// The output for `images` (N, H, W, C) in evaluation mode: (N, H, W, C), or (N, F).
    ///
    /// # Errors
    /// PyTorch fails, such as with too little memory on the device.
    ///
    /// # Panics
    /// If `images` is not a whole number of images from 1 to [`Options::batch`].
    pub fn forward(&mut self, images: &[f32]) -> Result<&[f32]> {
        self.forward_host(images, None)
    }

    /// As [`Model::forward`], with the trainable layers in training mode, as [`nettriage_engine::Model::forward_train`].
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_train(&mut self, images: &[f32], seed: u64) -> Result<&[f32]> {
        self.forward_host(images, Some(seed))
    }

    fn forward_host(&mut self, images: &[f32], training: Option<u64>) -> Result<&[f32]> {
        let batch = self.upload(images)?;
        self.pass(&batch, training)?;
        self.download()
    }

    /// Copies the output of the last forward pass, and the tensors that [`Model::activation`] returns, to the host's memory.
    /// Returns the output (N, H, W, C).
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// Before the first forward pass.
    pub fn download(&mut self) -> Result<&[f32]> {
        let Model { state, host, shapes, kept, output, .. } = self;
        let download = |number: usize, to: &mut Vec<f32>| {
            Torch::download_batch(state.value(number), sizes(state.n, shapes[number]), to)
        };
        download(*output, &mut host.output)?;
        for (name, &number) in kept.iter() {
            download(number, host.activations.entry(name.clone()).or_default())?;
        }
        Ok(&host.output)
    }

    /// The images (N, H, W, C) as a tensor on the device, as [`Model::forward_on`] takes it.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn upload(&self, images: &[f32]) -> Result<Tensor> {
        let shape = self.shapes[0];
        let n = images.len() / shape.elements();
        assert_eq!(n * shape.elements(), images.len(), "whole images of {} values", shape.elements());
        self.torch.enter(self.threads);
        self.torch.upload_batch(images, sizes(n, shape))
    }

    /// Values in the order of the output (N, H, W, C), as a tensor on the device that has the last output's shape.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// If they are not as many as the last output's.
    pub fn upload_output(&self, values: &[f32]) -> Result<Tensor> {
        self.upload_as(self.output, values)
    }

    /// The same with the shape of the last output of `place`, a place in [`Options::compared`].
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// If they are not as many as that output's, or there is no such place.
    pub fn upload_compared(&self, place: usize, values: &[f32]) -> Result<Tensor> {
        self.upload_as(self.compared[place], values)
    }

    fn upload_as(&self, number: usize, values: &[f32]) -> Result<Tensor> {
        let sizes = self.sizes(number);
        assert_eq!(values.len(), sizes.iter().product::<usize>(), "values of {} images", sizes[0]);
        self.torch.enter(self.threads);
        self.torch.upload_batch(values, sizes)
    }

    /// The output for a batch N x C x H x W on the device, which stays there. In training mode with the seed of dropout, else in
    /// evaluation mode.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_on(&mut self, batch: &Tensor, training: Option<u64>) -> Result<&Tensor> {
        self.pass(batch, training)?;
        Ok(self.output())
    }

    /// The output of the last forward pass, on the device.
    ///
    /// # Panics
    /// Before the first forward pass.
    pub fn output(&self) -> &Tensor {
        self.state.value(self.output)
    }

    /// The last output, on the device, of a layer named in [`Options::keep`] or [`Options::compared`], in f32; `None` for any other
    /// name.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::output`].
    pub fn kept(&self, layer: &str) -> Result<Option<Tensor>> {
        self.kept.get(layer).map(|&number| self.state.value(number).float()).transpose()
    }

    /// The output of the last forward pass in f32, whatever the precision is.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::output`].
    pub fn output_in_f32(&self) -> Result<Tensor> {
        self.output().float()
    }

    /// The device, its threads set for the calling thread.
    pub fn torch(&self) -> &Torch {
        self.torch.enter(self.threads);
        &self.torch
    }

    fn sizes(&self, number: usize) -> [usize; 4] {
        sizes(self.state.n, self.shapes[number])
    }

    fn pass(&mut self, batch: &Tensor, training: Option<u64>) -> Result<()> {
        let elements = self.shapes[0].elements();
        let n = batch.elements() / elements;
        assert!(
            n >= 1 && n <= self.batch && n * elements == batch.elements(),
            "{} values are not 1 to {} images of {elements} values",
            batch.elements(),
            self.batch
        );
        self.torch.enter(self.threads);
        let Model { torch, nodes, parameters, state, readable, .. } = self;
        let pass = Pass { torch, parameters, n, training };
        // The tensors of the last pass are freed first.
        *state = State { n, training, values: Vec::with_capacity(nodes.len() + 1), ..State::default() };
        state.values.push(Some(batch.clone()));
        state.types.push(Type::Float32);
        for node in nodes.iter() {
            let value =
                |&number: &usize| state.values[number].as_ref().expect("a tensor is kept until its last reader");
            let in_place = node.in_place.then(|| node.operation.forward_in_place(value(&node.inputs[0]))).flatten();
            let Output { value, saved } = match in_place {
                Some(output) => output?,
                None => node.operation.forward(&pass, &node.inputs.iter().map(value).collect::<Vec<_>>())?,
            };
            let mixed = torch.mixed();
            state.types.push(if mixed { value.element_type().unwrap_or(Type::Float32) } else { Type::Float32 });
            state.values.push(Some(value));
            state.saved.push(if training.is_some() && node.needs_gradient { saved } else { Vec::new() });
            for &(number, in_backward) in &node.last_read {
                let is_read = readable[number] || training.is_some() && in_backward;
                if !is_read {
                    state.values[number] = None;
                }
            }
        }
        Ok(())
    }

    /// Computes the gradients of the trainable weights from `output_gradient` = dLoss/dOutput (N, H, W, C), after
    /// [`Model::forward_train`]. The backward pass ends at the first layer that trains.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// If no forward pass in training mode precedes it, or the length does not match its output.
    pub fn backward(&mut self, output_gradient: &[f32]) -> Result<()> {
        let extent = self.sizes(self.output);
        assert_eq!(output_gradient.len(), extent.iter().product::<usize>(), "the gradient of {} images", extent[0]);
        self.torch.enter(self.threads);
        let gradient = self.torch.upload_batch(output_gradient, extent)?;
        self.backward_from(gradient)?;
        let Model { state, host, shapes, kept_gradients, .. } = self;
        for (name, &number) in kept_gradients.iter() {
            if let Some(gradient) = state.gradients.get(&number) {
                let to = host.gradients.entry(name.clone()).or_default();
                Torch::download_batch(gradient, sizes(state.n, shapes[number]), to)?;
            }
        }
        Ok(())
    }

    /// As [`Model::backward`], from a gradient on the device that has the output's number of elements.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::backward`].
    pub fn backward_from(&mut self, output_gradient: Tensor) -> Result<()> {
        self.backward_with(output_gradient, Vec::new())
    }

    /// As [`Model::backward_from`] for a loss of the output and of the outputs of [`Options::compared`], whose gradients are `inner`,
    /// in that order.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::backward`].
    pub fn backward_with(&mut self, output_gradient: Tensor, inner: Vec<Tensor>) -> Result<()> {
        self.torch.enter(self.threads);
        let Model { torch, nodes, parameters, state, shapes, output, readable, kept_gradients, compared, .. } = self;
        assert_eq!(inner.len(), compared.len(), "the gradients of all tensors that are compared");
        let training = state.training.take();
        assert!(training.is_some(), "backward follows a forward pass in training mode");
        let kept: BTreeSet<usize> = kept_gradients.values().copied().collect();
        let mut gradients: Vec<Option<Gradient>> = shapes.iter().map(|_| None).collect();
        let losses = [*output].into_iter().chain(compared.iter().copied());
        for (number, gradient) in losses.zip([output_gradient].into_iter().chain(inner)) {
            let gradient = gradient.reshape(&sizes(state.n, shapes[number]).map(|size| size as i64))?;
            gradients[number] = Some(Gradient::own(match gradients[number].take() {
                Some(before) => before.value.add(&gradient)?,
                None => gradient,
            }));
        }
        for (index, node) in nodes.iter().enumerate().rev() {
            let number = index + 1;
            let Some(mut gradient) = gradients[number].take().filter(|_| node.needs_gradient) else { continue };
            if state.types[number] != Type::Float32 || torch.mixed() {
                gradient.value = gradient.value.to_type(state.types[number])?;
            }
            if kept.contains(&number) {
                state.gradients.insert(number, gradient.value.copied()?);
            }
            let inputs: Vec<Tensor> = if node.traits.inputs {
                node.inputs
                    .iter()
                    .map(|&input| state.values[input].clone().expect("kept for the backward pass"))
                    .collect()
            } else {
                Vec::new()
            };
            let saved = std::mem::take(&mut state.saved[index]);
            let result = node.operation.backward(
                &Pass { torch, parameters, n: state.n, training },
                Backward {
                    inputs: &inputs,
                    output: state.values[number].as_ref(),
                    consumable: node.consumable,
                    saved: &saved,
                    gradient,
                    needed: &node.needed,
                },
            )?;
            for (id, gradient) in result.weights {
                parameters.set_gradient(id, &gradient)?;
            }
            let inputs = node.inputs.iter().zip(&node.needed).zip(result.inputs);
            for ((&input, _), gradient) in inputs.filter(|((_, needed), _)| **needed) {
                let Some(gradient) = gradient else { continue };
                gradients[input] = Some(match gradients[input].take() {
                    Some(before) => Gradient::own(before.value.add(&gradient.value)?),
                    None => gradient,
                });
            }
            if !readable[number] {
                state.values[number] = None;
            }
        }
        Ok(())
    }

    /// One step of the optimiser with learning rate `rate`, from the gradients of the last backward pass. Where their global norm
    /// exceeds `clip`, they are scaled down to it.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn step(&mut self, rate: f32, clip: Option<f32>) -> Result<()> {
        self.torch.enter(self.threads);
        self.updater.step(&self.torch, &self.parameters, rate, clip)
    }

    /// The output of a layer named in [`Options::keep`] in the last [`Model::forward`] or [`Model::forward_train`], (N, H, W, C);
    /// `None` for any other name.
    pub fn activation(&self, layer: &str) -> Option<&[f32]> {
        self.host.activations.get(layer).map(Vec::as_slice)
    }

    /// dLoss/dOutput of a layer named in [`Options::keep_gradients`] in the last [`Model::backward`], (N, H, W, C); `None` for any
    /// other name.
    pub fn output_gradient(&self, layer: &str) -> Option<&[f32]> {
        self.host.gradients.get(layer).map(Vec::as_slice)
    }

    /// The gradient of the weight `<layer>.<parameter>` in the last backward pass; `None` if there is no such weight or it does
    /// not train.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn gradient(&self, weight: &str) -> Result<Option<Plain>> {
        self.parameters.gradient(weight)
    }

    /// A copy of all weights and running statistics.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn weights(&self) -> Result<Weights> {
        self.parameters.export()
    }

    /// Replaces the given weights. All others keep their values, and the optimiser keeps its state.
    ///
    /// # Errors
    /// A weight that the network does not have, or whose shape differs; then nothing changes. Else as [`Model::forward`].
    pub fn set_weights(&mut self, weights: &Weights) -> Result<()> {
        self.torch.enter(self.threads);
        self.parameters.import(&self.torch, weights)
    }

    /// Whether the weight `<layer>.<parameter>` exists and trains; running statistics do not.
    pub fn trains(&self, weight: &str) -> bool {
        self.parameters.named(weight).is_some_and(|parameter| parameter.trains)
    }

    /// A copy of what the optimiser remembers between steps.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn optimizer_memory(&self) -> Result<OptimizerMemory> {
        self.updater.memory(&self.parameters)
    }

    /// Replaces what the optimiser remembers.
    ///
    /// # Errors
    /// The memory of a model with other trainable weights or another rule; then nothing changes. Else as [`Model::forward`].
    pub fn set_optimizer_memory(&mut self, memory: &OptimizerMemory) -> Result<()> {
        self.torch.enter(self.threads);
        self.updater.restore(&self.torch, &self.parameters, memory)
    }
}

fn sizes(n: usize, shape: Shape) -> [usize; 4] {
    [n, shape.channels, shape.height, shape.width]
}

/// The layers that the readable ones depend on.
fn live_layers<'a>(layers: &'a [Layer], readable: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let mut live = readable.clone();
    for layer in layers.iter().rev() {
        if live.contains(layer.name.as_str()) {
            live.extend(layer.inputs.iter().map(String::as_str));
        }
    }
    live
}

/// Decides when tensors are freed and where they are overwritten.
fn place(nodes: &mut [Node], readable: &[bool]) {
    let count = nodes.len() + 1;
    let mut readers = vec![0; count];
    let mut last_reader = vec![None; count];
    let mut in_backward = vec![false; count];
    // The tensor whose memory each may be a view of.
    let mut origin: Vec<usize> = (0..count).collect();
    for (index, node) in nodes.iter().enumerate() {
        let own = index + 1;
        for &input in &node.inputs {
            readers[input] += 1;
            last_reader[input] = Some(index);
            in_backward[input] |= node.traits.inputs && node.needs_gradient;
        }
        in_backward[own] |= node.traits.output && node.needs_gradient;
        if !node.traits.overwritable && !node.traits.output {
            origin[own] = origin[node.inputs[0]];
        }
    }
    let read_origins: BTreeSet<usize> =
        (0..count).filter(|&number| readable[number]).map(|number| origin[number]).collect();
    for index in 0..nodes.len() {
        let input = nodes[index].inputs[0];
        let overwritable = input > 0 && nodes[input - 1].traits.overwritable && !readable[input];
        nodes[index].in_place = overwritable && readers[input] == 1;
        nodes[index].consumable = !read_origins.contains(&(index + 1));
    }
    for number in 0..count {
        if let Some(reader) = last_reader[number] {
            nodes[reader].last_read.push((number, in_backward[number]));
        }
    }
}
