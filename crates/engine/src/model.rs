//! A network that runs and trains.

use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;
use nettriage_net::{Network, Tensor, Weights};

use crate::layers::accumulate;
use crate::lowering::lower;
use crate::operation::{BackwardState, BufferView, Context, Inputs};
use crate::optimizer::{OptimizerMemory, Updater};
use crate::parameters::Parameters;
use crate::plan::{ExecutionPlan, InputGradient, Segment, plan};
use crate::{Error, Options, Trainable};

/// A network with all its memory allocated, ready to run and to train.
///
/// Batches are `f32` slices in N x H x W x C order (channels last); a batch of feature vectors is N x F. All memory is
/// allocated by [`Model::new`]; steps allocate nothing.
///
/// In evaluation mode, the output for an image depends neither on the other images of the batch, nor on its place among them,
/// nor on the number of threads. A network that is split in two gives the same bits as the whole.
pub struct Model {
    plan: ExecutionPlan,
    parameters: Parameters,
    updater: Updater,
    pool: Pool,
    scratch: Scratch,
    buffers: Vec<Buffer>,
    kept_gradients: Vec<Buffer>,
    /// Elements of one input image.
    image: usize,
    /// The largest batch.
    batch: usize,
    /// Images of the last forward pass.
    last_batch: usize,
    /// Images and seed of the last forward pass in training mode.
    last_training: Option<(usize, u64)>,
}

impl Model {
    /// Builds the model of a network.
    ///
    /// # Errors
    /// The network is invalid, an option is outside its range or names a layer that does not exist, or the model does not fit
    /// into memory.
    pub fn new(network: &Network, options: &Options) -> Result<Model, Error> {
        let Unallocated { plan, mut parameters, updater } = Unallocated::new(network, options)?;
        parameters.allocate(&network.weights, options.optimizer.state());
        // Operations write all of a tensor before anything reads it.
        let mut buffers = Buffer::several_undefined(&[&plan.buffer_sizes[..], &plan.kept_gradient_sizes].concat());
        let kept_gradients = buffers.split_off(plan.buffer_sizes.len());
        let mut scratch = Scratch::default();
        scratch.reserve(plan.scratch_bytes());
        Ok(Model {
            plan,
            parameters,
            updater,
            pool: Pool::new(options.threads),
            scratch,
            buffers,
            kept_gradients,
            image: network.graph.input.elements(),
            batch: options.batch,
            last_batch: 0,
            last_training: None,
        })
    }

    /// The [`Model::memory_bytes`] of a model with these options, without allocating its activations, gradients and optimiser
    /// state.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn memory_needed(network: &Network, options: &Options) -> Result<u64, Error> {
        let unallocated = Unallocated::new(network, options)?;
        unallocated.bytes(options).ok_or_else(|| too_large(network, options, None))
    }

    /// The output for `images` (N, H, W, C) in evaluation mode: (N, H, W, C), or (N, F).
    ///
    /// # Panics
    /// If `images` is not a whole number of images from 1 to [`Options::batch`].
    pub fn forward(&mut self, images: &[f32]) -> &[f32] {
        let n = self.count(images);
        self.run_forward(n, images, false, 0)
    }

    /// As [`Model::forward`], with the trainable layers in training mode: batch norm uses the statistics of the batch and
    /// updates the running ones, and dropout is active, by `seed`. Frozen layers stay in evaluation mode.
    ///
    /// A short batch, such as the last one of an epoch, counts as much as a full one in the running statistics, as in PyTorch. The
    /// exception is a batch norm that sees a single value per channel (one image at one position), which has no variance: it uses
    /// the running statistics and leaves them unchanged.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_train(&mut self, images: &[f32], seed: u64) -> &[f32] {
        let n = self.count(images);
        self.last_training = Some((n, seed));
        self.run_forward(n, images, true, seed)
    }

    /// The number of images, which must suit the model.
    fn count(&self, images: &[f32]) -> usize {
        let n = images.len() / self.image;
        assert!(
            n >= 1 && n <= self.batch && n * self.image == images.len(),
            "{} values are not 1 to {} images of {} values",
            images.len(),
            self.batch,
            self.image
        );
        n
    }

    fn run_forward(&mut self, n: usize, images: &[f32], training: bool, seed: u64) -> &[f32] {
        self.last_batch = n;
        let Model { plan, parameters, pool, scratch, buffers, .. } = self;
        let pool = &*pool;
        pool.enter(|| {
            for Segment { operations, images: most } in &plan.segments {
                for first in (0..n).step_by(*most) {
                    let part = first..n.min(first + most);
                    let mut cx = Context { n: part.len(), pool, parameters, scratch, training, seed };
                    for planned in &mut plan.operations[operations.clone()] {
                        let mut y = take(buffers, Some(planned.output));
                        let mut saved = take(buffers, planned.saved);
                        let x = Inputs { images, buffers, views: &planned.inputs, part: &part };
                        let saved_range = planned.saved.map_or(0..0, |view| view.range(&part));
                        let y_range = planned.output.range(&part);
                        planned.operation.forward(&mut cx, x, &mut y[y_range], &mut saved[saved_range]);
                        put_back(buffers, Some(planned.output), y);
                        put_back(buffers, planned.saved, saved);
                    }
                }
            }
        });
        view(&self.buffers, self.plan.output, n)
    }

    /// Computes the gradients of the trainable weights, from `output_gradient` = dLoss/dOutput, which has the shape of the output.
    /// `images` are those of the last [`Model::forward_train`]. The backward pass ends at the first layer that trains.
    ///
    /// # Panics
    /// If [`Model::forward_train`] has not been called, or the lengths do not match its images or output.
    pub fn backward(&mut self, images: &[f32], output_gradient: &[f32]) {
        assert_eq!(self.plan.loss_gradients.len(), 1, "`backward_with` takes the gradients of compared layers");
        self.backward_with(images, output_gradient, &[]);
    }

    /// As [`Model::backward`] for a loss of the output and of the outputs of [`Options::compared`], whose gradients are `inner`, in
    /// that order.
    ///
    /// # Panics
    /// As [`Model::backward`].
    pub fn backward_with(&mut self, images: &[f32], output_gradient: &[f32], inner: &[Vec<f32>]) {
        let (n, seed) = self.last_training.expect("backward follows forward_train");
        assert_eq!(images.len(), n * self.image, "{n} images");
        let Model { plan, parameters, pool, scratch, buffers, kept_gradients, .. } = self;
        assert_eq!(1 + inner.len(), plan.loss_gradients.len(), "the gradients of all tensors that are compared");
        let given =
            || plan.loss_gradients.iter().zip([output_gradient].into_iter().chain(inner.iter().map(Vec::as_slice)));
        given().for_each(|(loss, from)| assert_eq!(from.len(), n * loss.elements, "the gradient of {n} images"));
        let pool = &*pool;
        pool.enter(|| {
            for (loss, from) in given() {
                let Some(to) = loss.to else { continue };
                let to = &mut buffers[to.buffer][..from.len()];
                if loss.accumulate { accumulate(to, from, pool) } else { to.copy_from_slice(from) }
            }
            let part = 0..n;
            let mut cx = Context { n, pool, parameters, scratch, training: true, seed };
            for planned in plan.operations.iter_mut().rev() {
                let Some(gradient) = planned.gradient else { continue };
                let mut gradient_buffer = take(buffers, Some(gradient));
                let mut saved_buffer = take(buffers, planned.saved);
                let gy = &mut gradient_buffer[..n * gradient.elements];
                let saved = &mut saved_buffer[..planned.saved.map_or(0, |view| n * view.elements)];
                if let Some(index) = planned.kept_gradient {
                    // The operation may overwrite it.
                    kept_gradients[index][..gy.len()].copy_from_slice(gy);
                }
                let x = Inputs { images, buffers, views: &planned.inputs, part: &part };
                planned.operation.backward(&mut cx, x, view_if_held(buffers, planned.output, n), saved, gy);
                for (k, &input_gradient) in planned.input_gradients.iter().enumerate() {
                    match input_gradient {
                        InputGradient::NotNeeded | InputGradient::InPlace => {}
                        InputGradient::PassedThrough { to, accumulate: add } => {
                            let gx = &mut buffers[to.buffer][..n * to.elements];
                            if add { accumulate(gx, gy, pool) } else { gx.copy_from_slice(gy) }
                        }
                        InputGradient::Computed { to, temporary } => {
                            let target = temporary.unwrap_or(to);
                            let mut buffer = take(buffers, Some(target));
                            let x = Inputs { images, buffers, views: &planned.inputs, part: &part };
                            let state = BackwardState { y: view_if_held(buffers, planned.output, n), saved, gy };
                            let gx = &mut buffer[..n * to.elements];
                            planned.operation.backward_input(&mut cx, k, x, state, gx);
                            if temporary.is_some() {
                                accumulate(&mut buffers[to.buffer][..gx.len()], gx, pool);
                            }
                            put_back(buffers, Some(target), buffer);
                        }
                    }
                }
                put_back(buffers, Some(gradient), gradient_buffer);
                put_back(buffers, planned.saved, saved_buffer);
            }
        });
    }

    /// One step of the optimiser with learning rate `rate`, from the gradients of the last [`Model::backward`]. Where their global
    /// norm exceeds `clip`, they are scaled down to it. Returns the norm before clipping, or `None` without `clip`.
    pub fn step(&mut self, rate: f32, clip: Option<f32>) -> Option<f32> {
        let Model { updater, parameters, pool, .. } = self;
        let pool = &*pool;
        pool.enter(|| updater.step(parameters, rate, clip, pool))
    }

    /// The output of a layer named in [`Options::keep`] or [`Options::compared`] in the last forward pass, (N, H, W, C); `None` for
    /// any other name.
    pub fn activation(&self, layer: &str) -> Option<&[f32]> {
        self.plan.kept.get(layer).map(|&kept| view(&self.buffers, kept, self.last_batch))
    }

    /// dLoss/dOutput of a layer named in [`Options::keep_gradients`] in the last [`Model::backward`], (N, H, W, C); `None` for any
    /// other name.
    pub fn output_gradient(&self, layer: &str) -> Option<&[f32]> {
        self.plan.kept_gradients.get(layer).map(|&kept| view(&self.kept_gradients, kept, self.last_batch))
    }

    /// The gradient of the weight `<layer>.<parameter>` in the last [`Model::backward`], in the weight's layout; `None` if there is
    /// no such weight or it does not train.
    pub fn gradient(&self, weight: &str) -> Option<Tensor> {
        let parameter = self.parameters.named(weight).filter(|parameter| parameter.trains)?;
        Some(Tensor { shape: parameter.shape.clone(), data: parameter.gradient.to_vec() })
    }

    /// Whether the weight `<layer>.<parameter>` exists and trains; running statistics do not.
    pub fn trains(&self, weight: &str) -> bool {
        self.parameters.named(weight).is_some_and(|parameter| parameter.trains)
    }

    /// A copy of all weights and running statistics.
    pub fn weights(&self) -> Weights {
        self.parameters.export()
    }

    /// Replaces the given weights. All others keep their values, and the optimiser keeps its state.
    ///
    /// # Errors
    /// A weight that the network does not have, or whose shape differs; then nothing changes.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), Error> {
        self.parameters.import(weights)
    }

    /// A copy of what the optimiser remembers between steps.
    pub fn optimizer_memory(&self) -> OptimizerMemory {
        self.updater.memory(&self.parameters)
    }

    /// Replaces what the optimiser remembers. A model with the weights and the memory of another takes the same steps.
    ///
    /// # Errors
    /// The memory of a model with other trainable weights or another rule; then nothing changes.
    pub fn set_optimizer_memory(&mut self, memory: &OptimizerMemory) -> Result<(), Error> {
        self.updater.restore(&mut self.parameters, memory)
    }

    /// Bytes of everything that the model holds: activations, weights (also packed ones), gradients, optimiser state, scratch.
    pub fn memory_bytes(&self) -> usize {
        let buffers: usize = self.buffers.iter().chain(&self.kept_gradients).map(Buffer::bytes).sum();
        buffers + self.plan.operation_bytes() + self.scratch.bytes() + self.parameters.bytes() + self.updater.bytes()
    }
}

/// A model before its memory is allocated.
struct Unallocated {
    plan: ExecutionPlan,
    parameters: Parameters,
    updater: Updater,
}

/// No processor addresses more bytes than this. The sizes of working memory, a small multiple of a tensor's, do not overflow.
const ADDRESSABLE: u64 = 1 << 48;

impl Unallocated {
    /// Plans the model, and checks that the system provides its memory.
    fn new(network: &Network, options: &Options) -> Result<Unallocated, Error> {
        check_options(network, options)?;
        let shapes = network.graph.shapes()?;
        let largest = shapes.iter().chain([&network.graph.input]).map(|shape| shape.elements() as u64).max();
        let bytes = largest.and_then(|elements| elements.checked_mul(4)?.checked_mul(options.batch as u64));
        if bytes.is_none_or(|bytes| bytes > ADDRESSABLE) {
            return Err(too_large(network, options, bytes));
        }
        let mut parameters = Parameters::new(&network.weights);
        let plan = plan(lower(network, options, &mut parameters)?, options.batch, options.threads);
        let updater = Updater::new(options.optimizer, options.decay_all, &parameters);
        let model = Unallocated { plan, parameters, updater };
        let bytes = model.bytes(options);
        // Allocating a buffer aborts where the system refuses it, so ask first.
        let provided = bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
        if provided { Ok(model) } else { Err(too_large(network, options, bytes)) }
    }

    /// Bytes of the model; `None` if the number overflows.
    fn bytes(&self, options: &Options) -> Option<u64> {
        let Unallocated { plan, parameters, updater } = self;
        let elements = plan
            .buffer_sizes
            .iter()
            .chain(&plan.kept_gradient_sizes)
            .try_fold(0u64, |sum, &size| sum.checked_add(size as u64))?;
        let buffers = elements.checked_mul(4)?;
        let own = plan.operation_bytes() + plan.scratch_bytes() + updater.bytes();
        buffers.checked_add(parameters.bytes_needed(options.optimizer.state())?)?.checked_add(own as u64)
    }
}

fn too_large(network: &Network, options: &Options, bytes: Option<u64>) -> Error {
    Error::Memory { network: network.graph.name.clone(), batch: options.batch, bytes: bytes.unwrap_or(u64::MAX) }
}

fn view(buffers: &[Buffer], view: BufferView, n: usize) -> &[f32] {
    &buffers[view.buffer][..n * view.elements]
}

/// A tensor of the forward pass; empty if its buffer is in use for a gradient (the operation then does not read it).
fn view_if_held(buffers: &[Buffer], view: BufferView, n: usize) -> &[f32] {
    buffers[view.buffer].get(..n * view.elements).unwrap_or(&[])
}

/// Takes a buffer out of the list, so that it can be written while others are read.
fn take(buffers: &mut [Buffer], view: Option<BufferView>) -> Buffer {
    view.map(|view| std::mem::take(&mut buffers[view.buffer])).unwrap_or_default()
}

fn put_back(buffers: &mut [Buffer], view: Option<BufferView>, buffer: Buffer) {
    if let Some(view) = view {
        buffers[view.buffer] = buffer;
    }
}

/// More threads than processors of one machine: each has a stack and working memory of its own.
const MAX_THREADS: usize = 4096;

/// Checks that the options suit the network, whichever engine runs it.
///
/// # Errors
/// The network is invalid, an option is outside its range or names a layer that does not exist.
pub fn check_options(network: &Network, options: &Options) -> Result<(), Error> {
    network.check()?;
    let check_layer = |name: &String, purpose: &'static str| match network.graph.layer(name) {
        Some(_) => Ok(()),
        None => Err(Error::Layer { name: name.clone(), network: network.graph.name.clone(), purpose }),
    };
    options.keep.iter().try_for_each(|name| check_layer(name, "the outputs to keep"))?;
    options.keep_gradients.iter().try_for_each(|name| check_layer(name, "the output gradients to keep"))?;
    options.compared.iter().try_for_each(|name| check_layer(name, "the outputs that enter the loss"))?;
    if let Trainable::Layers(names) = &options.trainable {
        names.iter().try_for_each(|name| check_layer(name, "the layers to train"))?;
    }
    if let (Trainable::Nothing, Some(name)) = (&options.trainable, options.keep_gradients.first()) {
        let allowed = "empty for an inference model (to freeze every layer, train an empty set of layers)";
        return Err(Error::Option { option: "keep_gradients", value: format!("{name:?}"), allowed });
    }
    let check_range = |option, value: usize, range: std::ops::RangeInclusive<usize>, allowed| {
        let fail = || Error::Option { option, value: value.to_string(), allowed };
        if range.contains(&value) { Ok(()) } else { Err(fail()) }
    };
    check_range("batch", options.batch, 1..=usize::MAX, "at least 1")?;
    check_range("threads", options.threads, 1..=MAX_THREADS, "from 1 to 4096")?;
    Ok(())
}
