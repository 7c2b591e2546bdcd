//! Runs and trains networks on the devices of an installed PyTorch: the second engine, with the face of the first.
//!
//! [`Installation::find`] finds PyTorch, [`Torch::load`] loads its libraries for one device, and a [`Model`] then behaves as
//! [`nettriage_engine::Model`]: the same networks, options, weights, dropout masks and update rules. It calls PyTorch's own
//! kernels through its stable C ABI: neither a C++ compiler nor a library at link time is needed, and one binary runs with
//! any version from 2.13 on.
//!
//! Unlike the first engine, results are not reproducible to the bit: PyTorch's kernels depend on the device, its version, the
//! number of threads and the size of the batch.
#![deny(unsafe_code)]

mod abi;
mod device;
mod error;
mod find;
mod layers;
pub mod loss;
mod model;
mod optimizer;
mod parameters;
mod random;
mod storage;
mod tensor;

pub use abi::Tensor;
pub use device::{Device, Precision, Torch};
pub use error::Error;
pub use find::Installation;
pub use model::Model;
pub use storage::Storage;

/// Results of this crate.
type Result<T> = std::result::Result<T, Error>;
