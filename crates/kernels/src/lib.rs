//! Convolution kernels for CPUs: a convolution is planned once for its shape and then runs forward and backward.
//!
//! ```
//! use nettriage_kernels::conv::{Conv, ConvOp, Epilogue, Geometry, Needs};
//! use nettriage_kernels::memory::Scratch;
//! use nettriage_kernels::pool::Pool;
//!
//! // 8 filters of 3x3 on one RGB image of 5x5 pixels, "same" padding.
//! let geometry = Geometry::of([3, 5, 5], Conv::same(8, 3));
//! let mut conv = ConvOp::new(&geometry, 1, 2, false, Needs::default());
//!
//! let x = vec![1.0; geometry.input_len()]; // N x H x W x C
//! let w = vec![1.0; geometry.weight_len()]; // filters x channels x rows x columns
//! let mut y = vec![0.0; geometry.output_len()];
//! conv.forward(1, &w, &x, Epilogue::default(), &mut y, &Pool::new(2), &mut Scratch::default());
//!
//! let at = |row: usize, column: usize| y[(row * 5 + column) * 8];
//! assert!((at(0, 0) - 12.0).abs() < 1e-4); // a corner sees 2x2 pixels of 3 channels
//! assert!((at(2, 2) - 27.0).abs() < 1e-4); // an inner pixel sees 3x3
//! ```
//!
//! [`conv`] holds the convolution, [`activation`] what may follow it, [`pool`] the threads, [`memory`] aligned buffers on huge pages, and [`simd`] vectors
//! of every instruction set with the dispatch at run time.

pub mod activation;
pub mod conv;
pub mod memory;
pub mod pool;
pub mod simd;
