//! Runs and trains a network: forward, backward, optimiser step, frozen parts, taps on inner tensors.
//!
//! A [`Model`] is made from a network (plain data) and [`Options`]; it owns copies of the weights and all memory it
//! will ever use. Tensors are f32, channels last (N x H x W x C); weights go in and come out in PyTorch's layouts.
//! Of models that are gone up to 256 MiB of memory stay with the process, for the next ones.

mod error;
mod layers;
pub mod loss;
mod lower;
mod memory;
mod model;
mod op;
mod options;
mod params;
mod plan;
mod random;
mod schedule;
mod update;

pub use error::Error;
pub use model::Model;
pub use options::{Optimizer, Options, Trainable};
pub use schedule::Schedule;

/// The instruction set chosen at run time, such as `AVX2+FMA`.
pub fn instruction_set() -> &'static str {
    nettriage_kernels::simd::kernels().name
}
