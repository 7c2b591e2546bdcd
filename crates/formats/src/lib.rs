//! Networks from and to files: ONNX models, PyTorch checkpoints and safetensors.
//!
//! ```
//! use nettriage_formats::load::{LoadOptions, load};
//! use nettriage_formats::{onnx, safetensors};
//! # use nettriage_net::{Network, Shape, arch};
//! # use rand::SeedableRng;
//! # let folder = tempfile::tempdir()?;
//! # let graph = arch::build(&arch::ArchSpec::named("cifar-resnet20"), Shape::new(3, 32, 32), 10)?;
//! # let network = Network::initialised(graph, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1))?;
//! # std::fs::write(folder.path().join("net.onnx"), onnx::to_bytes(&network)?)?;
//!
//! // Any file; the format is recognised by its content.
//! let loaded = load(folder.path().join("net.onnx"), &LoadOptions::default())?;
//! assert_eq!(loaded.network.graph.input, Shape::new(3, 32, 32));
//! // Graph and weights in one file, which other safetensors readers can read too.
//! safetensors::save(&loaded.network, folder.path().join("net.safetensors"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A checkpoint or safetensors file that holds weights only needs an architecture or a graph ([`load::LoadOptions`]).
//! Class names, normalisation and input size are read from a TOML file beside the network ([`info::ModelInfo`]).

mod identify;
pub mod info;
mod keys;
pub mod load;
pub mod onnx;
pub mod pytorch;
pub mod safetensors;
pub mod shared;
mod strided;
