//! Compression: single layers in place of blocks, solved in closed form, judged, chosen and fine-tuned.
//!
//! [`scan`] solves and judges a substitute for every range of layers without training; [`prescribe`] chooses among them
//! within a budget, builds the smaller network, fine-tunes and judges it. A [`LeastSquares`] accumulates the normal
//! equations of one convolution; studies initialise substitutes with it.
//!
//! ```
//! use nettriage_compress::LeastSquares;
//! use nettriage_net::{Conv, Shape};
//!
//! // A 1x1 convolution from 2 channels to 1, recovered from its inputs and outputs on one 2x2 image (H x W x C).
//! let mut equations = LeastSquares::new(Conv::same(1, 1), Shape::new(2, 2, 2), Shape::new(1, 2, 2));
//! let x = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, -1.0];
//! let y: Vec<f32> = x.chunks_exact(2).map(|pixel| 3.0 * pixel[0] - 2.0 * pixel[1] + 0.5).collect();
//! equations.add(&x, &y);
//! let (weight, bias) = equations.solve(1e-9).expect("finite inputs");
//! assert!((weight[0] - 3.0).abs() < 1e-3 && (weight[1] + 2.0).abs() < 1e-3 && (bias[0] - 0.5).abs() < 1e-3);
//! ```

mod error;
mod latency;
mod least_squares;
mod moments;
mod parallel;
pub mod prescribe;
pub mod scan;

pub use error::Error;
pub use latency::{Latencies, Timing, paired};
pub use least_squares::LeastSquares;
pub use moments::Moments;
