//! ONNX models in and out.
//!
//! Reading takes the graph as it is at run time, opset 7 to 22: constants are folded, shapes computed, reshapings
//! followed (`view`), and each remaining operator becomes one layer; then what is one layer for triage is fused.
//! Writing gives opset 17.

mod attributes;
mod constant;
mod fold;
mod fuse;
mod import;
mod joins;
mod ops;
mod proto;
mod reshape;
#[cfg(test)]
mod tests;
mod view;
mod windows;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;

pub use write::{to_bytes, write};

use constant::Constant;
use nettriage_net::{Error, Graph, Network, Shape, Tensor, Weights};

/// The order of axes in which a model takes its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// (N, C, H, W), as PyTorch has it.
    #[default]
    ChannelsFirst,
    /// (N, H, W, C), as TensorFlow has it.
    ChannelsLast,
}

/// What a reader may have to be told.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Shape of an image (C, H, W), where the model leaves it open.
    pub input: Option<Shape>,
    /// Which of several outputs is meant.
    pub output: Option<String>,
}

/// A model as it was read: its graph, and its weights until they are asked for.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph.
    pub graph: Graph,
    /// The order of axes of the model's own input.
    pub layout: Layout,
    constants: BTreeMap<String, Constant>,
}

impl Model {
    /// The network with all weights in memory. (A model may declare gigabytes of equal weights in a few bytes.)
    ///
    /// # Errors
    /// More than 2^30 weights; those of [`Network::check`].
    pub fn into_network(self) -> Result<Network, Error> {
        let total = self.constants.values().map(Constant::len).fold(0usize, usize::saturating_add);
        if total > 1 << 30 {
            return Err(Error::Weights { network: self.graph.name, problem: format!("{total} of them are too many") });
        }
        let dense = |(key, constant): (String, Constant)| {
            (key, Tensor { shape: constant.dims.clone(), data: constant.to_floats() })
        };
        let weights: Weights = self.constants.into_iter().map(dense).collect();
        let network = Network { graph: self.graph, weights };
        network.check()?;
        Ok(network)
    }
}

/// Reads an ONNX file, and its external data beside it.
///
/// # Errors
/// A file that cannot be read or is no ONNX model; an operator, or a use of one, that has no layer here, by its node's
/// name; an input whose shape must be told.
pub fn read(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Model, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    from_file_bytes(path, &bytes, options)
}

/// Reads the bytes of a file that lies at `path`, and its external data beside it.
pub(crate) fn from_file_bytes(path: &Path, bytes: &[u8], options: &ReadOptions) -> Result<Model, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    parse(bytes, Some(folder), options).map_err(|problem| Error::file(path.display(), problem))
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
        return Err("not a sound ONNX model: it announces more parts than it can hold".into());
    }
    let model = proto::ModelProto::decode(bytes).map_err(|error| format!("not a sound ONNX model: {error}"))?;
    import::model(model, folder, options)
}
