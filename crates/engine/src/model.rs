//! A network that runs and trains.

use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;
use nettriage_net::{Network, Tensor, Weights};

use crate::layers::accumulate;
use crate::lowering::lower;
use crate::operation::{BackwardState, BufferView, Context, Inputs};
use crate::optimizer::Updater;
use crate::parameters::Parameters;
use crate::plan::{ExecutionPlan, InputGradient, plan};
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
        network.check()?;
        check_options(network, options)?;
        let mut parameters = Parameters::new(&network.weights);
        let plan = plan(lower(network, options, &mut parameters)?);
        parameters.allocate_gradients(options.optimizer.state());
        let updater = Updater::new(options.optimizer, &parameters);
        let (buffers, kept_gradients) = allocate(network, options, &plan)?;
        let pool = Pool::new(options.threads);
        let mut scratch = Scratch::default();
        scratch.reserve(plan.operations.iter().map(|planned| planned.operation.scratch_bytes()).max().unwrap_or(0));
        Ok(Model {
            plan,
            parameters,
            updater,
            pool,
            scratch,
            buffers,
            kept_gradients,
            image: network.graph.input.elements(),
            batch: options.batch,
            last_batch: 0,
            last_training: None,
        })
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
            let mut cx = Context { n, pool, parameters, scratch, training, seed };
            for planned in &mut plan.operations {
                let mut y = take(buffers, Some(planned.output));
                let mut saved = take(buffers, planned.saved);
                let x = Inputs { images, buffers, views: &planned.inputs, n };
                let saved_elements = planned.saved.map_or(0, |view| n * view.elements);
                planned.operation.forward(
                    &mut cx,
                    x,
                    &mut y[..n * planned.output.elements],
                    &mut saved[..saved_elements],
                );
                put_back(buffers, Some(planned.output), y);
                put_back(buffers, planned.saved, saved);
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
        let (n, seed) = self.last_training.expect("backward follows forward_train");
        assert_eq!(images.len(), n * self.image, "{n} images");
        assert_eq!(output_gradient.len(), n * self.plan.output.elements, "the gradient of {n} images");
        let Some(start) = self.plan.output_gradient else { return };
        self.buffers[start.buffer][..output_gradient.len()].copy_from_slice(output_gradient);
        let Model { plan, parameters, pool, scratch, buffers, kept_gradients, .. } = self;
        let pool = &*pool;
        pool.enter(|| {
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
                let x = Inputs { images, buffers, views: &planned.inputs, n };
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
                            let x = Inputs { images, buffers, views: &planned.inputs, n };
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

    /// The output of a layer named in [`Options::keep`] in the last forward pass, (N, H, W, C); `None` for any other name.
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

    /// Bytes of everything that the model holds: activations, weights (also packed ones), gradients, optimiser state, scratch.
    pub fn memory_bytes(&self) -> usize {
        let buffers: usize = self.buffers.iter().chain(&self.kept_gradients).map(Buffer::bytes).sum();
        let operations: usize = self.plan.operations.iter().map(|planned| planned.operation.bytes()).sum();
        buffers + operations + self.scratch.bytes() + self.parameters.bytes() + self.updater.bytes()
    }
}

/// The buffers of activations and gradients, and those of the gradients that the caller can read.
fn allocate(network: &Network, options: &Options, plan: &ExecutionPlan) -> Result<(Vec<Buffer>, Vec<Buffer>), Error> {
    let sizes = || plan.buffer_sizes.iter().chain(&plan.kept_gradient_sizes).copied();
    let elements = sizes().try_fold(0u64, |sum, size| sum.checked_add(size as u64));
    let bytes = elements.and_then(|n| n.checked_mul(4)).and_then(|n| n.checked_mul(options.batch as u64));
    let too_large = || Error::Memory {
        network: network.graph.name.clone(),
        batch: options.batch,
        bytes: bytes.unwrap_or(u64::MAX),
    };
    if bytes.is_none_or(|bytes| bytes > isize::MAX as u64) {
        return Err(too_large());
    }
    let sizes: Vec<usize> = sizes().map(|size| size * options.batch).collect();
    // `Buffer` aborts where the system refuses the memory, so ask first.
    Vec::<f32>::new().try_reserve_exact(sizes.iter().sum()).map_err(|_| too_large())?;
    let mut buffers = Buffer::several(&sizes);
    let kept_gradients = buffers.split_off(plan.buffer_sizes.len());
    Ok((buffers, kept_gradients))
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

fn check_options(network: &Network, options: &Options) -> Result<(), Error> {
    let check_layer = |name: &String, purpose: &'static str| match network.graph.layer(name) {
        Some(_) => Ok(()),
        None => Err(Error::Layer { name: name.clone(), network: network.graph.name.clone(), purpose }),
    };
    options.keep.iter().try_for_each(|name| check_layer(name, "the outputs to keep"))?;
    options.keep_gradients.iter().try_for_each(|name| check_layer(name, "the output gradients to keep"))?;
    if let Trainable::Layers(names) = &options.trainable {
        names.iter().try_for_each(|name| check_layer(name, "the layers to train"))?;
    }
    if let (Trainable::Nothing, Some(name)) = (&options.trainable, options.keep_gradients.first()) {
        let allowed = "empty for an inference model (to freeze every layer, train an empty set of layers)";
        return Err(Error::Option { option: "keep_gradients", value: format!("{name:?}"), allowed });
    }
    for (option, value) in [("batch", options.batch), ("threads", options.threads)] {
        if value == 0 {
            return Err(Error::Option { option, value: "0".into(), allowed: "at least 1" });
        }
    }
    Ok(())
}
