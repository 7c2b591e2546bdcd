//! A convolutional network as plain data: graph, weights, shapes, costs, blocks, surgery, inits, architectures.
//!
//! A [`Network`] is a [`Graph`] of layers with its [`Weights`] beside it. Everything here is a pure function of such
//! data. Nothing here computes a forward pass, reads a file or knows a data set.
//!
//! ```
//! use nettriage_net::arch::{self, ArchSpec};
//! use nettriage_net::init::{self, Init};
//! use nettriage_net::surgery::{self, Substitute};
//! use nettriage_net::{Network, Shape, block, cost};
//! use rand::SeedableRng;
//!
//! // A quarter-width VGG16 for images of 3 x 32 x 32 and 10 classes, with initial weights.
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let spec = ArchSpec { width: 0.25, ..ArchSpec::named("vgg16_bn") };
//! let parent = Network::initialised(arch::build(&spec, Shape::new(3, 32, 32), 10)?, &mut rng)?;
//!
//! // Its third block, replaced by one 3x3 convolution that starts from the block's own first filters.
//! let block = block::find(&parent.graph).swap_remove(2);
//! let conv3x3: Substitute = "conv3x3".parse()?;
//! let mut child = surgery::compress(&parent, &[(block.clone(), conv3x3)])?;
//! init::apply(Init::First, &mut child, &parent, &block, &mut rng)?;
//! child.check()?;
//!
//! assert!(cost::total(&child.graph)?.macs < cost::total(&parent.graph)?.macs);
//! # Ok::<(), nettriage_net::Error>(())
//! ```

pub mod arch;
pub mod block;
pub mod cost;
pub mod drawing;
pub mod ends;
mod error;
mod graph;
pub mod init;
pub mod layer;
pub mod narrow;
mod network;
mod random;
pub mod receptive_field;
pub mod shape;
pub mod slice;
mod sublayer;
pub mod surgery;
mod tensor;

pub use error::{Error, printable, shorten};
pub use graph::{Graph, INPUT};
pub use layer::{Activation, Conv, Kind, Layer, Padding, Window};
pub use network::{Network, expected_weights};
pub use shape::{Axis, Shape};
pub use tensor::{Tensor, Weights};
