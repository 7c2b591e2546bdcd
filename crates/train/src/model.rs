//! A network that runs and trains, on whichever device.

use nettriage_engine::{OptimizerMemory, loss};
use nettriage_net::{Shape, Tensor, Weights};
use nettriage_torch::loss as device_loss;

use crate::Error;

/// A network on a [`Device`](crate::Device), ready to run and to train.
///
/// Batches are N x H x W x C; a batch of feature vectors is N x F. What a pass computes is defined by [`nettriage_engine::Model`];
/// the engines agree but for rounding.
pub struct Model(Engine);

enum Engine {
    Processor(Box<Processor>),
    Torch(Box<nettriage_torch::Model>),
}

struct Processor {
    model: nettriage_engine::Model,
    /// dLoss/dOutput of the last [`Model::differentiate`].
    gradient: Vec<f32>,
    /// The same for the tensors that are compared beside the output.
    inner_gradients: Vec<Vec<f32>>,
}

/// A batch of one tensor, N x H x W x C.
#[derive(Clone)]
pub enum Batch<'a> {
    /// In the host's memory.
    Host(&'a [f32]),
    /// On a device of PyTorch.
    Torch(nettriage_torch::Tensor),
}

impl Batch<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        match self {
            Batch::Host(values) => values.len(),
            Batch::Torch(tensor) => tensor.elements(),
        }
    }

    /// The values in the host's memory, of images of `shape`; `buffer` receives them from a device.
    ///
    /// # Errors
    /// The device fails.
    pub fn in_host<'a>(&'a self, shape: Shape, buffer: &'a mut Vec<f32>) -> Result<&'a [f32], Error> {
        match self {
            Batch::Host(values) => Ok(values),
            Batch::Torch(tensor) => {
                nettriage_torch::Torch::download_images(tensor, extents(shape), buffer)?;
                Ok(buffer)
            }
        }
    }
}

/// A shape as the other engine takes it.
pub(crate) fn extents(shape: Shape) -> [usize; 3] {
    [shape.channels, shape.height, shape.width]
}

impl<'a> From<&'a [f32]> for Batch<'a> {
    fn from(values: &'a [f32]) -> Batch<'a> {
        Batch::Host(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Batch<'a> {
    fn from(values: &'a Vec<f32>) -> Batch<'a> {
        Batch::Host(values)
    }
}

/// Second labels of images that are mixtures of two, by [`loss::mix_labels`].
#[derive(Clone, Copy, Debug)]
pub struct MixedLabels<'a> {
    /// The classes of the images that are mixed in.
    pub others: &'a [u16],
    /// The shares of the first images.
    pub own: &'a [f32],
}

/// What the output of a training step is compared with.
pub enum Target<'a> {
    /// One class an image, by [`loss::smoothed_cross_entropy`].
    Labels {
        /// The classes.
        labels: &'a [u16],
        /// Share of a label's weight that is spread over all classes.
        smoothing: f32,
        /// The labels of the images that are mixed in.
        mixed: Option<MixedLabels<'a>>,
    },
    /// A teacher's logits and the labels, by [`loss::distillation`].
    Teacher {
        /// The classes.
        labels: &'a [u16],
        /// The teacher's logits.
        logits: Batch<'a>,
        /// Temperature T.
        temperature: f32,
        /// Weight of the teacher.
        alpha: f32,
        /// The labels of the images that are mixed in.
        mixed: Option<MixedLabels<'a>>,
    },
    /// Values of the output itself, by [`loss::mean_squared`].
    Values(Batch<'a>),
}

/// What the output of a layer of [`Options::compared`](nettriage_engine::Options::compared) is compared with.
pub struct InnerTarget<'a> {
    /// The layer.
    pub layer: &'a str,
    /// The values.
    pub values: Batch<'a>,
    /// Factor of the mean squared error in the loss.
    pub weight: f32,
}

impl Model {
    pub(crate) fn on_processor(model: nettriage_engine::Model) -> Model {
        let (gradient, inner_gradients) = (Vec::new(), Vec::new());
        Model(Engine::Processor(Box::new(Processor { model, gradient, inner_gradients })))
    }

    pub(crate) fn on_torch(model: nettriage_torch::Model) -> Model {
        Model(Engine::Torch(Box::new(model)))
    }

    /// The output for a batch in evaluation mode, in the host's memory: (N, H, W, C), or (N, F).
    ///
    /// # Errors
    /// The device fails, such as with too little memory.
    ///
    /// # Panics
    /// If the batch is not a whole number of images from 1 to [`Options::batch`](nettriage_engine::Options::batch).
    pub fn forward<'a>(&mut self, batch: impl Into<Batch<'a>>) -> Result<&[f32], Error> {
        match &mut self.0 {
            Engine::Processor(own) => Ok(own.model.forward(of_host(batch.into()))),
            Engine::Torch(model) => {
                let batch = on_device(model, batch.into())?;
                model.forward_on(&batch, None)?;
                Ok(model.download()?)
            }
        }
    }

    /// As [`Model::forward`], but the output stays where the model is.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn run<'a>(&mut self, batch: impl Into<Batch<'a>>) -> Result<Batch<'_>, Error> {
        match &mut self.0 {
            Engine::Processor(own) => Ok(Batch::Host(own.model.forward(of_host(batch.into())))),
            Engine::Torch(model) => {
                let batch = on_device(model, batch.into())?;
                model.forward_on(&batch, None)?;
                Ok(Batch::Torch(model.output_in_f32()?))
            }
        }
    }

    /// As [`Model::forward`], with the trainable layers in training mode, as [`nettriage_engine::Model::forward_train`].
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_train<'a>(&mut self, batch: impl Into<Batch<'a>>, seed: u64) -> Result<&[f32], Error> {
        match &mut self.0 {
            Engine::Processor(own) => Ok(own.model.forward_train(of_host(batch.into()), seed)),
            Engine::Torch(model) => {
                let batch = on_device(model, batch.into())?;
                model.forward_on(&batch, Some(seed))?;
                Ok(model.download()?)
            }
        }
    }

    /// Computes the gradients of the trainable weights from `output_gradient` = dLoss/dOutput in the output's shape. `images` are
    /// those of the last [`Model::forward_train`]. The backward pass ends at the first layer that trains.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// If [`Model::forward_train`] has not been called, or the lengths do not match its images or output.
    pub fn backward(&mut self, images: &[f32], output_gradient: &[f32]) -> Result<(), Error> {
        match &mut self.0 {
            Engine::Processor(own) => own.model.backward(images, output_gradient),
            Engine::Torch(model) => model.backward(output_gradient)?,
        }
        Ok(())
    }

    /// One training step up to the optimiser: forward pass in training mode, loss, backward pass. Returns the loss, averaged over
    /// the batch; where it is not finite, the gradients are undefined.
    ///
    /// `inner` are the targets of all layers of [`Options::compared`](nettriage_engine::Options::compared), in that order: their
    /// weighted mean squared errors are added to the loss. `behind` is a network that takes the output and runs although its own output is unused.
    ///
    /// # Errors
    /// As [`Model::forward`].
    ///
    /// # Panics
    /// If batch, labels and targets do not have as many images, or a label is not less than the number of classes; if `inner` are not
    /// the compared layers.
    pub fn differentiate(
        &mut self,
        batch: Batch<'_>,
        seed: u64,
        target: Target<'_>,
        inner: &[InnerTarget<'_>],
        behind: Option<&mut Model>,
    ) -> Result<f64, Error> {
        match &mut self.0 {
            Engine::Processor(own) => {
                let images = of_host(batch);
                let Processor { model, gradient, inner_gradients } = &mut **own;
                let output = model.forward_train(images, seed);
                if let Some(behind) = behind {
                    std::hint::black_box(behind.forward(output)?);
                }
                gradient.resize(output.len(), 0.0);
                let mut loss = host_loss(output, target, gradient);
                inner_gradients.resize_with(inner.len(), Vec::new);
                for (InnerTarget { layer, values, weight }, gradient) in inner.iter().zip(&mut *inner_gradients) {
                    let output = model.activation(layer).expect("a compared layer can be read");
                    gradient.resize(output.len(), 0.0);
                    loss += loss::weighted_mean_squared(output, of_host(values.clone()), *weight, gradient);
                }
                if loss.is_finite() {
                    model.backward_with(images, gradient, inner_gradients);
                }
                Ok(loss)
            }
            Engine::Torch(model) => {
                let batch = on_device(model, batch)?;
                let output = model.forward_on(&batch, Some(seed))?.clone();
                if let Some(behind) = behind {
                    std::hint::black_box(behind.forward(Batch::Torch(output.clone()))?);
                }
                let mut loss = torch_loss(model, &output, target)?;
                drop(output);
                let mut gradients = Vec::new();
                for (place, InnerTarget { layer, values, weight }) in inner.iter().enumerate() {
                    let output = model.kept(layer)?.expect("a compared layer can be read");
                    let target = match values {
                        Batch::Host(values) => model.upload_compared(place, values)?,
                        Batch::Torch(tensor) => tensor.clone(),
                    };
                    let torch = model.torch();
                    let part = device_loss::mean_squared(torch, &output, &target)?.times(torch, *weight)?;
                    loss = loss.with_value_of(&part)?;
                    gradients.push(part.gradient);
                }
                // The host prepares the backward pass while the device computes; the loss is read last, because reading it waits.
                model.backward_with(loss.gradient.clone(), gradients)?;
                Ok(loss.value()?)
            }
        }
    }

    /// One step of the optimiser with learning rate `rate`, from the gradients of the last backward pass. Where their global norm
    /// exceeds `clip`, they are scaled down to it.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn step(&mut self, rate: f32, clip: Option<f32>) -> Result<(), Error> {
        match &mut self.0 {
            Engine::Processor(own) => drop(own.model.step(rate, clip)),
            Engine::Torch(model) => model.step(rate, clip)?,
        }
        Ok(())
    }

    /// The output of a layer named in [`Options::keep`](nettriage_engine::Options::keep) in the last forward pass, (N, H, W, C);
    /// `None` for any other name.
    pub fn activation(&self, layer: &str) -> Option<&[f32]> {
        match &self.0 {
            Engine::Processor(own) => own.model.activation(layer),
            Engine::Torch(model) => model.activation(layer),
        }
    }

    /// The output of a layer named in [`Options::keep`](nettriage_engine::Options::keep) in the last pass, where the model is; `None`
    /// for any other name.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn kept(&self, layer: &str) -> Result<Option<Batch<'_>>, Error> {
        match &self.0 {
            Engine::Processor(own) => Ok(own.model.activation(layer).map(Batch::Host)),
            Engine::Torch(model) => Ok(model.kept(layer)?.map(Batch::Torch)),
        }
    }

    /// dLoss/dOutput of a layer named in [`Options::keep_gradients`](nettriage_engine::Options::keep_gradients) in the last
    /// [`Model::backward`], (N, H, W, C); `None` for any other name.
    pub fn output_gradient(&self, layer: &str) -> Option<&[f32]> {
        match &self.0 {
            Engine::Processor(own) => own.model.output_gradient(layer),
            Engine::Torch(model) => model.output_gradient(layer),
        }
    }

    /// The gradient of the weight `<layer>.<parameter>` in the last backward pass, in the weight's layout; `None` if there is no
    /// such weight or it does not train.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn gradient(&self, weight: &str) -> Result<Option<Tensor>, Error> {
        match &self.0 {
            Engine::Processor(own) => Ok(own.model.gradient(weight)),
            Engine::Torch(model) => Ok(model.gradient(weight)?),
        }
    }

    /// Whether the weight `<layer>.<parameter>` exists and trains; running statistics do not.
    pub fn trains(&self, weight: &str) -> bool {
        match &self.0 {
            Engine::Processor(own) => own.model.trains(weight),
            Engine::Torch(model) => model.trains(weight),
        }
    }

    /// A copy of all weights and running statistics.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn weights(&self) -> Result<Weights, Error> {
        match &self.0 {
            Engine::Processor(own) => Ok(own.model.weights()),
            Engine::Torch(model) => Ok(model.weights()?),
        }
    }

    /// Replaces the given weights. All others keep their values, and the optimiser keeps its state.
    ///
    /// # Errors
    /// A weight that the network does not have, or whose shape differs; then nothing changes. Else as [`Model::forward`].
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), Error> {
        match &mut self.0 {
            Engine::Processor(own) => Ok(own.model.set_weights(weights)?),
            Engine::Torch(model) => Ok(model.set_weights(weights)?),
        }
    }

    /// A copy of what the optimiser remembers between steps.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn optimizer_memory(&self) -> Result<OptimizerMemory, Error> {
        match &self.0 {
            Engine::Processor(own) => Ok(own.model.optimizer_memory()),
            Engine::Torch(model) => Ok(model.optimizer_memory()?),
        }
    }

    /// Replaces what the optimiser remembers. A model with the weights and the memory of another takes the same steps.
    ///
    /// # Errors
    /// The memory of a model with other trainable weights or another rule; then nothing changes. Else as [`Model::forward`].
    pub fn set_optimizer_memory(&mut self, memory: &OptimizerMemory) -> Result<(), Error> {
        match &mut self.0 {
            Engine::Processor(own) => Ok(own.model.set_optimizer_memory(memory)?),
            Engine::Torch(model) => Ok(model.set_optimizer_memory(memory)?),
        }
    }

    /// Bytes that the model holds; on a device of PyTorch an estimate, see [`nettriage_torch::Model::memory_needed`].
    pub fn memory_bytes(&self) -> u64 {
        match &self.0 {
            Engine::Processor(own) => own.model.memory_bytes() as u64,
            Engine::Torch(model) => model.memory_bytes(),
        }
    }
}

/// # Panics
/// If the batch is on a device: sources put batches there for models of that device only.
fn of_host(batch: Batch<'_>) -> &[f32] {
    match batch {
        Batch::Host(values) => values,
        Batch::Torch(_) => panic!("a batch of a device for a model in the host's memory"),
    }
}

/// The batch as the model's device takes it.
fn on_device(model: &nettriage_torch::Model, batch: Batch<'_>) -> Result<nettriage_torch::Tensor, Error> {
    match batch {
        Batch::Host(images) => Ok(model.upload(images)?),
        Batch::Torch(tensor) => Ok(tensor),
    }
}

/// The loss of `output` and, in `gradient`, its gradient.
fn host_loss(output: &[f32], target: Target<'_>, gradient: &mut [f32]) -> f64 {
    match target {
        Target::Labels { labels, smoothing, mixed } => {
            let plain = loss::smoothed_cross_entropy(output, labels, output.len() / labels.len(), smoothing, gradient);
            plain + host_mixture(output, labels, mixed, 1.0 - f64::from(smoothing), gradient)
        }
        Target::Teacher { labels, logits, temperature, alpha, mixed } => {
            let (logits, classes) = (of_host(logits), output.len() / labels.len());
            let plain = loss::distillation(output, logits, labels, classes, temperature, alpha, gradient);
            plain + host_mixture(output, labels, mixed, 1.0 - f64::from(alpha), gradient)
        }
        Target::Values(target) => loss::mean_squared(output, of_host(target), gradient),
    }
}

/// What mixed labels add to the loss, whose factor of the labels' cross-entropy is `part`.
fn host_mixture(
    output: &[f32],
    labels: &[u16],
    mixed: Option<MixedLabels<'_>>,
    part: f64,
    gradient: &mut [f32],
) -> f64 {
    let Some(MixedLabels { others, own }) = mixed else { return 0.0 };
    loss::mix_labels(output, labels, others, own, output.len() / labels.len(), part, gradient)
}

/// The same on the device.
fn torch_loss(
    model: &nettriage_torch::Model,
    output: &nettriage_torch::Tensor,
    target: Target<'_>,
) -> Result<device_loss::Loss, Error> {
    let torch = model.torch();
    let like_output = |batch| match batch {
        Batch::Host(values) => model.upload_output(values),
        Batch::Torch(tensor) => Ok(tensor),
    };
    Ok(match target {
        Target::Labels { labels, smoothing, mixed } => {
            let plain = device_loss::smoothed_cross_entropy(torch, output, &torch.labels(labels)?, smoothing)?;
            torch_mixture(model, output, plain, labels, mixed, 1.0 - f64::from(smoothing))?
        }
        Target::Teacher { labels, logits, temperature, alpha, mixed } => {
            let (logits, classes) = (like_output(logits)?, torch.labels(labels)?);
            let plain = device_loss::distillation(torch, output, &logits, &classes, temperature, alpha)?;
            torch_mixture(model, output, plain, labels, mixed, 1.0 - f64::from(alpha))?
        }
        Target::Values(target) => device_loss::mean_squared(torch, output, &like_output(target)?)?,
    })
}

/// A loss on the device with what mixed labels add to it.
fn torch_mixture(
    model: &nettriage_torch::Model,
    output: &nettriage_torch::Tensor,
    plain: device_loss::Loss,
    labels: &[u16],
    mixed: Option<MixedLabels<'_>>,
    part: f64,
) -> Result<device_loss::Loss, Error> {
    let Some(MixedLabels { others, own }) = mixed else { return Ok(plain) };
    let classes = output.elements() / labels.len().max(1);
    let mut moved = vec![0.0; output.elements()];
    // The gradient does not depend on the logits.
    let _ = loss::mix_labels(&vec![0.0; moved.len()], labels, others, own, classes, part, &mut moved);
    Ok(plain.plus_linear(output, &model.upload_output(&moved)?)?)
}
