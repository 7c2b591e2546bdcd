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
pub mod init;
mod network;
pub mod shape;
pub mod slice;
pub mod surgery;
mod tensor;

pub use error::{Error, printable, shorten};
pub use graph::{Activation, Conv, Graph, INPUT, Kind, Layer, Padding, Shape, Window};
pub use network::{Network, expected_weights};
pub use tensor::{Tensor, Weights};
