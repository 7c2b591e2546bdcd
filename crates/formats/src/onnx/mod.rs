//! ONNX models, read and written.
//!
//! Operator sets 7 to 22 are read. The importer walks the nodes in order (`import`): nodes whose inputs are constants
//! are folded (`fold`), reshapes and transposes only change how a tensor is viewed (`symbolic`), and every other
//! operator becomes one layer (`operators`, `binary`, `windows`, `reshape`), collected by `builder`. Afterwards `fuse`
//! merges operators that are one layer here. Models are written with operator set 17.

mod arrange;
mod attributes;
mod axes;
mod binary;
mod builder;
mod constant;
mod evaluate;
mod fold;
mod fuse;
mod import;
mod model;
mod operators;
mod permute;
mod proto;
mod readers;
mod reduce;
mod reshape;
mod symbolic;
#[cfg(test)]
mod tests;
mod translate;
mod windows;
mod write;

use std::path::{Path, PathBuf};

use nettriage_net::Error;
use prost::Message;

pub use model::{Layout, Model, ReadOptions};
pub use write::{to_bytes, write};

/// Reads an ONNX file, and its external data beside it.
///
/// # Errors
/// A file that cannot be read or is no ONNX model; an operator, or a use of one, that is not supported, with its node's
/// name; an input with dynamic axes whose shape `options` do not give.
pub fn read(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Model, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    from_file_bytes(path, &bytes, options)
}

/// Reads the bytes of a file at `path`, and its external data beside it.
pub(crate) fn from_file_bytes(path: &Path, bytes: &[u8], options: &ReadOptions) -> Result<Model, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    parse(bytes, Some(folder), options).map_err(|problem| Error::file(path.display(), problem))
}

/// The files beside an ONNX model that hold its external data; none for any other file.
pub fn external_files(path: impl AsRef<Path>) -> Vec<PathBuf> {
    let path = path.as_ref();
    let folder = path.parent().unwrap_or(Path::new(""));
    let model = std::fs::read(path).ok().filter(|bytes| proto::plausible(bytes));
    let Some(model) = model.and_then(|bytes| proto::ModelProto::decode(bytes.as_slice()).ok()) else {
        return Vec::new();
    };
    let initializers = model.graph.iter().flat_map(|graph| &graph.initializer);
    let entries = initializers.flat_map(|tensor| &tensor.external_data).filter(|entry| entry.key == "location");
    let mut names: Vec<&str> = entries.map(|entry| entry.value.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Reads an ONNX model from its bytes; external data are refused.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(bytes: &[u8], options: &ReadOptions) -> Result<Model, Error> {
    parse(bytes, None, options).map_err(|problem| Error::file("ONNX model", problem))
}

fn parse(bytes: &[u8], folder: Option<&Path>, options: &ReadOptions) -> Result<Model, String> {
    if !proto::plausible(bytes) {
        return Err(
            "not a valid ONNX model: it declares more nodes and tensors than a file of its size can hold".into()
        );
    }
    let model = proto::ModelProto::decode(bytes).map_err(|error| format!("not a valid ONNX model: {error}"))?;
    import::model(model, folder, options)
}
