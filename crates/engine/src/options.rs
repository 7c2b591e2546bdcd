//! How a model is to be run and trained.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Which layers train. Everything else is frozen: evaluation mode, no weight gradient, no drift of running statistics.
///
/// A layer counts as trainable by its name, whether it has weights or not: dropout drops only where its own layer trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trainable {
    /// A model for inference alone; its buffers are reused along the graph.
    Nothing,
    /// Every layer except [`Affine`](nettriage_net::Kind::Affine), which trains only when named.
    All,
    /// The layers of these names.
    Layers(BTreeSet<String>),
}

impl Trainable {
    /// Whether the layer `name` trains; `affine` says that it is an affine layer.
    pub(crate) fn contains(&self, name: &str, affine: bool) -> bool {
        match self {
            Trainable::Nothing => false,
            Trainable::All => !affine,
            Trainable::Layers(names) => names.contains(name),
        }
    }
}

/// The rule by which a gradient becomes a change of the weights. Weight decay acts on every trainable weight, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent as `torch.optim.SGD` defines it (dampening 0):
    /// g += decay w; v = momentum v + g; w -= rate (nesterov ? g + momentum v : v).
    Sgd {
        /// Share of the last step's direction that is kept; 0 for none.
        momentum: f32,
        /// Whether the gradient is taken ahead (Nesterov).
        nesterov: bool,
        /// Share of the weights added to the gradient.
        weight_decay: f32,
    },
    /// AdamW (Loshchilov and Hutter, arXiv:1711.05101) as `torch.optim.AdamW` defines it.
    AdamW {
        /// Decay of the first and second moments.
        betas: (f32, f32),
        /// Added to the root of the second moment.
        eps: f32,
        /// Share of the weights taken off each step, times the rate.
        weight_decay: f32,
    },
}

impl Optimizer {
    /// SGD with momentum 0.9, the usual choice.
    pub fn sgd() -> Optimizer {
        Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
    }
}

/// How a model is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The largest batch, in images; smaller ones may follow.
    pub batch: usize,
    /// Threads inside an operation; 1 runs everything in the caller.
    pub threads: usize,
    /// Which layers train.
    pub trainable: Trainable,
    /// How they train.
    pub optimizer: Optimizer,
    /// Whether convolution algorithms of lower accuracy (Winograd F(4x4, 3x3)) are ruled out.
    pub exact: bool,
    /// Whether the backward sweep goes on to the first layer where nothing that trains lies there: for measuring what
    /// stopping saves. No result depends on it.
    pub whole_sweep: bool,
    /// Layers whose outputs stay readable after a forward pass.
    pub keep: Vec<String>,
    /// Layers whose outputs' gradients stay readable after a backward sweep, which then goes on to the first layer. Layers
    /// that are frozen may be among them: with [`Trainable::Layers`] of none no weight's gradient is computed.
    pub gradients: Vec<String>,
}

impl Options {
    /// Inference of up to `batch` images on one thread.
    pub fn inference(batch: usize) -> Options {
        Options {
            batch,
            threads: 1,
            trainable: Trainable::Nothing,
            optimizer: Optimizer::sgd(),
            exact: false,
            whole_sweep: false,
            keep: Vec::new(),
            gradients: Vec::new(),
        }
    }

    /// Training of every layer with batches of up to `batch` images on one thread.
    pub fn training(batch: usize, optimizer: Optimizer) -> Options {
        Options { trainable: Trainable::All, optimizer, ..Options::inference(batch) }
    }
}
