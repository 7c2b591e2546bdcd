//! Runs and trains networks on the CPU: forward pass, backward pass, optimiser steps, frozen layers, access to inner activations
//! and gradients.
//!
//! A [`Model`] is built from a [`Network`](nettriage_net::Network) (plain data) and [`Options`]. It owns a copy of the weights and
//! all memory it needs. Tensors are `f32`, channels last (N x H x W x C); weights have PyTorch's layouts.
//!
//! ```
//! use nettriage_engine::{Model, Optimizer, Options, loss};
//! use nettriage_net::layer::{AdaptiveAvgPool, Linear};
//! use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Layer, Network, Shape, Tensor};
//!
//! // A convolution with four 3x3 filters, ReLU, global average pooling and a linear classifier with two classes.
//! let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
//! let layers = vec![
//!     layer("conv", INPUT, Kind::Conv(Conv { bias: false, ..Conv::same(4, 3) })),
//!     layer("relu", "conv", Kind::Activation(Activation::Relu)),
//!     layer("pool", "relu", Kind::AdaptiveAvgPool(AdaptiveAvgPool { height: 1, width: 1 })),
//!     layer("head", "pool", Kind::Linear(Linear { features: 2, bias: false })),
//! ];
//! let graph = Graph { name: "small".into(), input: Shape::new(1, 8, 8), layers, output: "head".into() };
//! let values = |n: usize| (0..n).map(|i| (i as f32 * 1.7).sin() * 0.5).collect::<Vec<f32>>();
//! let weights = [
//!     ("conv.weight".to_string(), Tensor::new(&[4, 1, 3, 3], values(36))),
//!     ("head.weight".to_string(), Tensor::new(&[2, 4], values(8))),
//! ];
//! let network = Network { graph, weights: weights.into() };
//!
//! // Two images, one of each class: (N, H, W, C) = (2, 8, 8, 1).
//! let (images, labels) = (values(2 * 8 * 8), [0, 1]);
//! let mut model = Model::new(&network, &Options::training(2, Optimizer::sgd()))?;
//! let mut gradient = [0.0; 4];
//!
//! let before = loss::cross_entropy(model.forward_train(&images, 0), &labels, 2, &mut gradient);
//! model.backward(&images, &gradient);
//! model.step(0.1, None);
//! let after = loss::cross_entropy(model.forward(&images), &labels, 2, &mut gradient);
//! assert!(after < before, "the loss falls");
//! # Ok::<(), nettriage_engine::Error>(())
//! ```
//!
//! Up to 256 MiB of memory of dropped models stays allocated, for the models that follow.

mod average;
mod error;
mod layers;
pub mod loss;
mod lowering;
mod model;
mod non_finite;
mod operation;
mod optimizer;
mod options;
mod packing;
mod parameters;
mod plan;
pub mod random;
mod schedule;

pub use average::WeightAverage;
pub use error::Error;
pub use model::{Model, check_options};
pub use non_finite::{NonFinite, first_non_finite};
pub use optimizer::{Optimizer, OptimizerMemory};
pub use options::{Options, Trainable};
pub use schedule::Schedule;

/// The instruction set chosen at run time, such as `AVX2+FMA`.
pub fn instruction_set() -> &'static str {
    nettriage_kernels::simd::kernels().name
}
