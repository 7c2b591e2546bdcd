//! A convolutional network as plain data.
//!
//! A [`Network`] is a [`Graph`] of layers with its [`Weights`] beside it. Everything here is a pure
//! function of such data; nothing here computes a forward pass or knows a data set.

pub mod arch;
pub mod block;
pub mod cost;
mod describe;
mod draw;
pub mod drawing;
mod error;
mod graph;
pub mod info;
pub mod init;
mod keys;
pub mod load;
mod network;
pub mod onnx;
pub mod pytorch;
pub mod safetensors;
mod shape;
pub mod slice;
pub mod surgery;
mod tensor;
mod walk;

pub use error::Error;
pub use graph::{Activation, Conv, Graph, INPUT, Kind, Layer, Padding, Shape, Window};
pub use network::Network;
pub use tensor::{Tensor, Weights};
