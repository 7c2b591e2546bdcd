//! Networks from and to files: ONNX models, PyTorch checkpoints and safetensors.
//!
//! [`load::load`] reads any of them and recognises the format by the file's content.

pub mod info;
mod keys;
pub mod load;
pub mod onnx;
pub mod pytorch;
pub mod safetensors;
mod walk;
