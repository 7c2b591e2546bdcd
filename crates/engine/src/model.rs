//! A network that runs and trains.

use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;
use nettriage_net::{Network, Tensor, Weights};

use crate::lower::lower;
use crate::op::{Context, Inputs, Place, Prepared};
use crate::params::Params;
use crate::plan::{Plan, Target, plan};
use crate::update::Update;
use crate::{Error, Options, Trainable};

/// A network with its buffers planned, ready to run and to train.
///
/// Batches are N x H x W x C (channels last) slices of `f32`; a vector of features is N x F. All memory is taken in
/// [`Model::new`]; after the first step nothing is allocated any more.
///
/// An image's output never depends on the batch it is in, on its place there or on the number of threads,
/// nor on whether the network was cut in two that run one after the other.
pub struct Model {
    plan: Plan,
    params: Params,
    update: Update,
    pool: Pool,
    scratch: Scratch,
    buffers: Vec<Buffer>,
    /// The gradients that stay readable.
    gradients: Vec<Buffer>,
    input: usize,
    batch: usize,
    /// Size and seed of the last training batch.
    trained: Option<(usize, u64)>,
    /// Images in the last batch.
    last: usize,
}

impl Model {
    /// Plans the network for the options.
    ///
    /// # Errors
    /// A network that is not sound, options that name layers it does not have, a batch of no images, buffers that do not fit into memory.
    pub fn new(network: &Network, options: &Options) -> Result<Model, Error> {
        network.check()?;
        check(network, options)?;
        let mut params = Params::new(&network.weights);
        let plan = plan(lower(network, options, &mut params)?);
        let update = Update::new(options.optimizer, &mut params);
        let input = network.graph.input.elements();
        let mut watched = vec![0; plan.watched.values().map(|(index, _)| index + 1).max().unwrap_or(0)];
        plan.watched.values().for_each(|&(index, elements)| watched[index] = elements);
        let sizes: Vec<usize> = plan.sizes.iter().chain(&watched).copied().collect();
        let total = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size as u64));
        let bytes = total.and_then(|t| t.checked_mul(4)).and_then(|t| t.checked_mul(options.batch as u64));
        let too_large = || Error::Memory {
            network: network.graph.name.clone(),
            batch: options.batch,
            bytes: bytes.unwrap_or(u64::MAX),
        };
        if bytes.is_none_or(|bytes| bytes > isize::MAX as u64) {
            return Err(too_large());
        }
        let sizes: Vec<usize> = sizes.into_iter().map(|size| size * options.batch).collect();
        // Whether the system gives so much is only asked here: `Buffer` itself ends the program where it does not.
        Vec::<f32>::new().try_reserve_exact(sizes.iter().sum()).map_err(|_| too_large())?;
        let mut buffers = Buffer::several(&sizes);
        let gradients = buffers.split_off(plan.sizes.len());
        let pool = Pool::new(options.threads);
        let mut scratch = Scratch::default();
        scratch.reserve(plan.steps.iter().map(|step| step.op.scratch_bytes()).max().unwrap_or(0));
        let batch = options.batch;
        Ok(Model { plan, params, update, pool, scratch, buffers, gradients, input, batch, trained: None, last: 0 })
    }

    fn images_in(&self, images: &[f32]) -> usize {
        let n = images.len() / self.input;
        assert!(
            n >= 1 && n <= self.batch && n * self.input == images.len(),
            "{} values are not 1 to {} images of {}",
            images.len(),
            self.batch,
            self.input
        );
        n
    }

    /// The output (n x H x W x C, or n x features) for `images` (n x H x W x C) in evaluation mode.
    ///
    /// # Panics
    /// If `images` is not a whole number of images between 1 and the batch size planned for.
    pub fn forward(&mut self, images: &[f32]) -> &[f32] {
        let n = self.images_in(images);
        self.run(n, images, false, 0);
        &self.buffers[self.plan.output.slot][..n * self.plan.output.elements]
    }

    /// As [`Model::forward`], with the layers that train in training mode: batch norm on the batch's statistics, which
    /// move the running ones, and dropout by `seed`. Frozen layers stay in evaluation mode.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_train(&mut self, images: &[f32], seed: u64) -> &[f32] {
        let n = self.images_in(images);
        self.run(n, images, true, seed);
        self.trained = Some((n, seed));
        &self.buffers[self.plan.output.slot][..n * self.plan.output.elements]
    }

    fn run(&mut self, n: usize, images: &[f32], train: bool, seed: u64) {
        self.last = n;
        let Model { plan, params, pool, scratch, buffers, .. } = self;
        let pool = &*pool;
        pool.enter(|| {
            let mut cx = Context { n, pool, params, scratch, train, seed };
            for step in &mut plan.steps {
                let mut y = take(buffers, Some(step.output));
                let mut saved = take(buffers, step.saved);
                let x = Inputs { images, buffers, places: &step.inputs, n };
                let saved_elements = step.saved.map_or(0, |place| n * place.elements);
                step.op.forward(&mut cx, x, &mut y[..n * step.output.elements], &mut saved[..saved_elements]);
                give(buffers, Some(step.output), y);
                give(buffers, step.saved, saved);
            }
        });
    }

    /// The gradients of the weights that train, from `grad_output` = dLoss/dOutput (as large as the output) of the last
    /// [`Model::forward_train`], whose `images` these are. The sweep stops where nothing below trains.
    ///
    /// # Panics
    /// If no [`Model::forward_train`] came before, or `images` or `grad_output` are not as large as its images or output.
    pub fn backward(&mut self, images: &[f32], grad_output: &[f32]) {
        let (n, seed) = self.trained.expect("backward follows forward_train");
        assert_eq!(images.len(), n * self.input, "{n} images");
        assert_eq!(grad_output.len(), n * self.plan.output.elements, "the gradient of {n} images");
        let Some(start) = self.plan.gradient else { return };
        self.buffers[start.slot][..grad_output.len()].copy_from_slice(grad_output);
        let Model { plan, params, pool, scratch, buffers, gradients, .. } = self;
        let pool = &*pool;
        pool.enter(|| {
            let mut cx = Context { n, pool, params, scratch, train: true, seed };
            for step in plan.steps.iter_mut().rev() {
                let Some(gradient) = step.gradient else { continue };
                let mut whole = take(buffers, Some(gradient));
                let mut saved = take(buffers, step.saved);
                let gy = &mut whole[..n * gradient.elements];
                if let Some(index) = step.watched {
                    // The layer may overwrite it.
                    gradients[index][..gy.len()].copy_from_slice(gy);
                }
                let saved_elements = step.saved.map_or(0, |place| n * place.elements);
                let saved_values = &mut saved[..saved_elements];
                let x = Inputs { images, buffers, places: &step.inputs, n };
                let y = read(buffers, step.output, n);
                step.op.backward(&mut cx, x, y, saved_values, gy);
                for (k, &target) in step.targets.iter().enumerate() {
                    match target {
                        Target::None | Target::Shared => {}
                        Target::Passed { to, first } => {
                            let gx = &mut buffers[to.slot][..n * to.elements];
                            if first { gx.copy_from_slice(gy) } else { add(gx, gy, pool) }
                        }
                        Target::Computed { to, scratch } => {
                            let mut into = take(buffers, Some(scratch.unwrap_or(to)));
                            let x = Inputs { images, buffers, places: &step.inputs, n };
                            let prepared = Prepared { y: read(buffers, step.output, n), saved: saved_values, gy };
                            let gx = &mut into[..n * to.elements];
                            step.op.backward_input(&mut cx, k, x, prepared, gx);
                            if scratch.is_some() {
                                add(&mut buffers[to.slot][..gx.len()], gx, pool);
                            }
                            give(buffers, Some(scratch.unwrap_or(to)), into);
                        }
                    }
                }
                give(buffers, Some(gradient), whole);
                give(buffers, step.saved, saved);
            }
        });
    }

    /// One step of the optimiser with the gradients of the last [`Model::backward`], scaled down to the norm `clip` where
    /// they exceed it. With `clip`, returns the gradients' norm before that.
    pub fn step(&mut self, rate: f32, clip: Option<f32>) -> Option<f32> {
        let Model { update, params, pool, .. } = self;
        let pool = &*pool;
        pool.enter(|| update.step(params, rate, clip, pool))
    }

    /// What a layer named in [`Options::keep`] put out in the last forward pass (n x H x W x C); `None` for other names.
    pub fn value(&self, layer: &str) -> Option<&[f32]> {
        let place = self.plan.kept.get(layer)?;
        Some(&self.buffers[place.slot][..self.last * place.elements])
    }

    /// dLoss/dOutput of a layer named in [`Options::gradients`] from the last [`Model::backward`] (n x H x W x C); `None` for
    /// other names.
    pub fn output_gradient(&self, layer: &str) -> Option<&[f32]> {
        let &(index, elements) = self.plan.watched.get(layer)?;
        Some(&self.gradients[index][..self.last * elements])
    }

    /// The gradient of the weight `<layer>.<parameter>` from the last [`Model::backward`], in the net crate's layout;
    /// `None` if there is no such weight or it does not train.
    pub fn gradient(&self, weight: &str) -> Option<Tensor> {
        let param = self.params.named(weight).filter(|param| param.trains)?;
        Some(Tensor { shape: param.shape.clone(), data: param.gradient.to_vec() })
    }

    /// All weights as they are now.
    pub fn weights(&self) -> Weights {
        self.params.export()
    }

    /// Takes over the weights given; those not given stay as they are, and so does the optimiser's state.
    ///
    /// # Errors
    /// A weight that the network does not have or that has another shape; then nothing changes.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), Error> {
        self.params.import(weights)
    }

    /// Bytes of everything that the model holds: tensors, weights as given and packed, gradients, optimiser state, scratch.
    pub fn memory_bytes(&self) -> usize {
        let tensors: usize = self.buffers.iter().chain(&self.gradients).map(Buffer::bytes).sum();
        let ops: usize = self.plan.steps.iter().map(|step| step.op.bytes()).sum();
        tensors + ops + self.scratch.bytes() + self.params.bytes() + self.update.bytes()
    }
}

/// Takes a buffer out of its slot, so that others can be read beside it.
fn take(buffers: &mut [Buffer], place: Option<Place>) -> Buffer {
    place.map(|place| std::mem::take(&mut buffers[place.slot])).unwrap_or_default()
}

/// A tensor of the forward pass, or nothing where another has taken its place by now (and the node does not read it).
fn read(buffers: &[Buffer], place: Place, n: usize) -> &[f32] {
    buffers[place.slot].get(..n * place.elements).unwrap_or(&[])
}

fn give(buffers: &mut [Buffer], place: Option<Place>, buffer: Buffer) {
    if let Some(place) = place {
        buffers[place.slot] = buffer;
    }
}

fn add(to: &mut [f32], from: &[f32], pool: &Pool) {
    const CHUNK: usize = crate::layers::CHUNK;
    pool.chunks(to, CHUNK, |i, to| {
        to.iter_mut().zip(&from[i * CHUNK..]).for_each(|(to, &from)| *to += from);
    });
}

fn check(network: &Network, options: &Options) -> Result<(), Error> {
    let known = |name: &String, purpose: &'static str| match network.graph.layer(name) {
        Some(_) => Ok(()),
        None => Err(Error::Layer { name: name.clone(), network: network.graph.name.clone(), purpose }),
    };
    options.keep.iter().try_for_each(|name| known(name, "what to keep"))?;
    options.gradients.iter().try_for_each(|name| known(name, "whose output's gradient to keep"))?;
    if let Trainable::Layers(names) = &options.trainable {
        names.iter().try_for_each(|name| known(name, "what to train"))?;
    }
    if let (Trainable::Nothing, Some(name)) = (&options.trainable, options.gradients.first()) {
        let allowed = "empty for a model of inference: freeze every layer instead";
        return Err(Error::Option { option: "gradients", value: format!("{name:?}"), allowed });
    }
    if options.batch == 0 {
        return Err(Error::Option { option: "batch", value: "0".into(), allowed: "at least 1" });
    }
    if options.threads == 0 {
        return Err(Error::Option { option: "threads", value: "0".into(), allowed: "at least 1" });
    }
    Ok(())
}
