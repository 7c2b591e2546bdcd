//! A convolutional network as plain data.
//!
//! A [`Network`] is a [`Graph`] of layers with its [`Weights`] beside it. Everything here is a pure
//! function of such data; nothing here computes a forward pass or knows a data set.

mod graph;
mod tensor;

pub use graph::{Activation, Conv, Graph, INPUT, Kind, Layer, Padding, Shape, Window};
pub use tensor::{Tensor, Weights};

/// A graph and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The structure.
    pub graph: Graph,
    /// The weights, by `"<layer>.<parameter>"`.
    pub weights: Weights,
}
