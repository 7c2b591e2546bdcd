//! Compression: single layers in place of blocks, solved in closed form, judged, chosen and fine-tuned.
//!
//! [`scan`] solves and judges a substitute for every range of layers without training; [`prescribe`] chooses among them
//! within a budget, builds the smaller network, fine-tunes and judges it. A [`LeastSquares`] accumulates the normal
//! equations of one convolution; studies initialise substitutes with it.

mod error;
mod latency;
mod moments;
pub mod prescribe;
pub mod scan;

pub use error::Error;
pub use latency::{Latencies, alternating};
pub use moments::Moments;
pub use scan::{LeastSquares, as_conv};
