//! How a model is built: batch size, threads, and which layers train.

use std::collections::BTreeSet;

use nettriage_net::Layer;
use serde::{Deserialize, Serialize};

use crate::Optimizer;

/// Which layers train. All others are frozen: they run in evaluation mode, their weights get no gradient and their running
/// statistics do not change.
///
/// A layer is selected by its name, whether it has weights or not: dropout is active only where its own layer trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trainable {
    /// None: a model for inference only, which reuses its buffers along the graph.
    Nothing,
    /// Every layer except constants of the network ([`Kind::is_fixed`](nettriage_net::Kind::is_fixed)), which train only when named.
    All,
    /// The layers of these names.
    Layers(BTreeSet<String>),
}

impl Trainable {
    /// Whether a layer trains.
    pub fn includes(&self, layer: &Layer) -> bool {
        match self {
            Trainable::Nothing => false,
            Trainable::All => !layer.kind.is_fixed(),
            Trainable::Layers(names) => names.contains(&layer.name),
        }
    }
}

/// How a model is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The largest batch, in images (at least 1). Smaller batches need no other model.
    pub batch: usize,
    /// Threads per operation (at least 1); 1 computes everything in the calling thread. No result depends on it.
    pub threads: usize,
    /// Which layers train.
    pub trainable: Trainable,
    /// How they train.
    pub optimizer: Optimizer,
    /// Whether weight decay applies to every trainable weight, as in PyTorch, or only to those of two or more axes: not to biases,
    /// scales, shifts and slopes.
    pub decay_all: bool,
    /// Whether to exclude the convolution algorithms of lower accuracy (Winograd F(4x4, 3x3)).
    pub exact: bool,
    /// Whether the backward pass continues to the first layer even where no layer below trains, to measure how much time
    /// stopping early saves. No result depends on it.
    pub full_backward: bool,
    /// Layers whose outputs can be read after a forward pass, with [`Model::activation`](crate::Model::activation).
    pub keep: Vec<String>,
    /// Layers whose output gradients can be read after a backward pass, with
    /// [`Model::output_gradient`](crate::Model::output_gradient); the backward pass then continues to the first layer. Frozen
    /// layers are allowed: with an empty [`Trainable::Layers`] no weight gradient is computed at all.
    pub keep_gradients: Vec<String>,
    /// Layers whose outputs enter the loss beside the network's output: [`Model::activation`](crate::Model::activation) returns
    /// them, and [`Model::backward_with`](crate::Model::backward_with) takes the loss's gradients with respect to them, in this
    /// order.
    pub compared: Vec<String>,
}

impl Options {
    /// Inference with batches of up to `batch` images, on one thread.
    pub fn inference(batch: usize) -> Options {
        Options {
            batch,
            threads: 1,
            trainable: Trainable::Nothing,
            optimizer: Optimizer::sgd(),
            decay_all: true,
            exact: false,
            full_backward: false,
            keep: Vec::new(),
            keep_gradients: Vec::new(),
            compared: Vec::new(),
        }
    }

    /// Training of every layer with batches of up to `batch` images, on one thread.
    pub fn training(batch: usize, optimizer: Optimizer) -> Options {
        Options { trainable: Trainable::All, optimizer, ..Options::inference(batch) }
    }
}
