//! Fuzz targets: each takes bytes as they might come from a file, and panics only if a reader breaks its promise.
//!
//! A target returns the bytes of the tensors that the input declared and the reader accepted; [`measure::run`] holds
//! its memory and time to a limit that follows from it.

mod data;
pub mod measure;
mod networks;
pub mod seeds;
mod text;

pub use data::{archive, cifar, idx, image};
pub use networks::{legacy, onnx, pickle, safetensors, zip};
pub use text::{info, study};

#[global_allocator]
static ALLOCATOR: measure::Counting = measure::Counting;

/// A target takes bytes, and returns how many bytes of tensors they declared.
pub type Target = fn(&[u8]) -> usize;

/// Small valid inputs of a target.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// Name, function and seeds of every target.
pub const TARGETS: [(&str, Target, Seeds); 11] = [
    ("idx", idx, seeds::idx),
    ("cifar", cifar, seeds::cifar),
    ("archive", archive, seeds::archive),
    ("image", image, seeds::image),
    ("onnx", onnx, seeds::onnx),
    ("pickle", pickle, seeds::pickle),
    ("zip", zip, seeds::zip),
    ("legacy", legacy, seeds::legacy),
    ("safetensors", safetensors, seeds::safetensors),
    ("study", study, seeds::study),
    ("info", info, seeds::info),
];

/// A message must be one line without control characters.
fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
}
