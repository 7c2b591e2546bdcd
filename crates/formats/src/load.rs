//! Loads a network from any file. The format is recognised by the file's content.

use std::path::{Path, PathBuf};

use ::safetensors::tensor::SafeTensors;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Error, Graph, Network, Shape, Tensor};

use crate::info::ModelInfo;
use crate::onnx::{self, Layout, ReadOptions};
use crate::pytorch::{self, Checkpoint};
use crate::shared::SharedWeights;
use crate::{keys, safetensors};

/// What the file may not hold.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The architecture, for files that hold weights only.
    pub arch: Option<ArchSpec>,
    /// Instead of an architecture, a file that holds the graph: a safetensors file with a graph, an ONNX model, or a
    /// graph as JSON.
    pub graph: Option<PathBuf>,
    /// Number of classes; by default the rows of the last matrix.
    pub classes: Option<usize>,
    /// Shape (C, H, W) of an image; by default the file's, or the usual one of the architecture.
    pub input: Option<Shape>,
    /// The output to take of an ONNX model with several.
    pub output: Option<String>,
    /// Class names, normalisation and input size; by default read from the file beside the network.
    pub info: Option<ModelInfo>,
}

impl LoadOptions {
    /// Sets the architecture by the name of a built-in one, or by the path of a file that holds a graph: the argument of
    /// `--arch`.
    pub fn arch(mut self, text: &str) -> LoadOptions {
        if arch::names().contains(&text) || !Path::new(text).exists() {
            self.arch = Some(ArchSpec::named(text));
        } else {
            self.graph = Some(text.into());
        }
        self
    }
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors with a graph in the metadata.
    Nettriage,
    /// Safetensors with weights only.
    Safetensors,
    /// ONNX.
    Onnx,
    /// A PyTorch checkpoint.
    PyTorch,
}

/// A network from a file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The network.
    pub network: Network,
    /// The order of axes of the model's own input; the network here takes (C, H, W).
    pub layout: Layout,
    /// Class names, normalisation and input size, if known.
    pub info: ModelInfo,
    /// The file's format.
    pub format: Format,
    /// Layers that share weights in the file; in the network each has a copy of its own.
    pub shared: Vec<SharedWeights>,
    /// Notes for the user on how the file was read, one for each of `shared` among them.
    pub notes: Vec<String>,
}

/// Loads a network: ONNX, safetensors, or a PyTorch checkpoint. Files that hold weights only need an architecture or a
/// graph in `options`.
///
/// # Errors
/// A file that cannot be read, or has none of these formats; weights that do not fit the architecture, with the missing
/// and the unexpected ones; a missing architecture.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let info = match &options.info {
        Some(info) => info.clone(),
        None => ModelInfo::beside(path)?.unwrap_or_default(),
    };
    from_bytes(path, &bytes, &LoadOptions { info: Some(info), ..options.clone() })
}

/// Loads a network from the bytes of a file. `path` names it in errors and locates external data.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8], options: &LoadOptions) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let info = options.info.clone().unwrap_or_default();
    let options = LoadOptions { input: options.input.or(info.input_shape()), ..options.clone() };
    let parts = read(path, bytes, &options, &info).map_err(|error| with_path(path, error))?;
    let Parts { network, layout, format, shared, mut notes } = parts;
    notes.extend(shared.iter().map(SharedWeights::note));
    for (word, values) in [("means", info.mean.len()), ("deviations", info.std.len())] {
        if values != 0 && values != network.graph.input.channels {
            let problem = format!("{values} {word} are given for images of {}", network.graph.input);
            return Err(Error::file(path.display(), problem));
        }
    }
    Ok(Loaded { network, layout, info, format, shared, notes })
}

struct Parts {
    network: Network,
    layout: Layout,
    format: Format,
    shared: Vec<SharedWeights>,
    notes: Vec<String>,
}

fn read(path: &Path, bytes: &[u8], options: &LoadOptions, info: &ModelInfo) -> Result<Parts, Error> {
    if pytorch::is_checkpoint(bytes) {
        return read_checkpoint(bytes, options, info);
    }
    if is_safetensors(bytes) {
        return read_safetensors(bytes, options, info);
    }
    if bytes.first() == Some(&b'{') {
        let problem =
            "it holds a graph without weights; pass it with `--arch`, together with a file that holds weights";
        return Err(Error::file("graph", problem));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        // PyTorch's oldest format: the error says how to convert it.
        Checkpoint::parse(bytes)?;
    }
    let read_options = ReadOptions { input: options.input, output: options.output.clone() };
    let model = onnx::from_file_bytes(path, bytes, &read_options).map_err(|error| match error {
        Error::File { path, problem } if problem.starts_with("not a") => {
            let problem = format!("its format is unknown; ONNX, PyTorch and safetensors files are read: {problem}");
            Error::File { path, problem }
        }
        other => other,
    })?;
    let (layout, shared) = (model.layout, model.shared.clone());
    Ok(Parts { network: model.into_network()?, layout, format: Format::Onnx, shared, notes: Vec::new() })
}

fn read_checkpoint(bytes: &[u8], options: &LoadOptions, info: &ModelInfo) -> Result<Parts, Error> {
    let checkpoint = Checkpoint::parse(bytes)?;
    let source: Vec<(String, Vec<usize>)> =
        checkpoint.shapes().map(|(name, shape)| (name.into(), shape.into())).collect();
    let (graph, layout) = graph_for(options, info, &source)?;
    let (network, notes) = keys::fit(graph, &source, |name| checkpoint.tensor(name))?;
    Ok(Parts { network, layout, format: Format::PyTorch, shared: checkpoint.shared(), notes })
}

fn read_safetensors(bytes: &[u8], options: &LoadOptions, info: &ModelInfo) -> Result<Parts, Error> {
    let fail = |problem: String| Error::file("safetensors", problem);
    if safetensors::graph_in(bytes).map_err(fail)?.is_some() {
        let network = safetensors::from_bytes(bytes)?;
        let (layout, format) = (Layout::ChannelsFirst, Format::Nettriage);
        return Ok(Parts { network, layout, format, shared: Vec::new(), notes: Vec::new() });
    }
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| fail(format!("not a valid safetensors file: {error}")))?;
    // The header is in any order; most writers store the data in the order of the layers.
    let mut source: Vec<(String, Vec<usize>, usize)> = Vec::new();
    for (name, view) in file.iter() {
        source.push((name.to_string(), view.shape().to_vec(), view.data().as_ptr() as usize));
    }
    source.sort_by_key(|(_, _, address)| *address);
    let source: Vec<(String, Vec<usize>)> = source.into_iter().map(|(name, shape, _)| (name, shape)).collect();
    let (graph, layout) = graph_for(options, info, &source)?;
    let weights = safetensors::weights_in(&file).map_err(fail)?;
    let fetch = |name: &str| -> Result<Tensor, Error> {
        let tensor = weights.get(name).cloned();
        tensor.ok_or_else(|| Error::file("safetensors", format!("no tensor `{name}`")))
    };
    let (network, notes) = keys::fit(graph, &source, fetch)?;
    // A safetensors file cannot say that tensors share their elements.
    Ok(Parts { network, layout, format: Format::Safetensors, shared: Vec::new(), notes })
}

/// Adds the file's path to an error without it.
fn with_path(path: &Path, error: Error) -> Error {
    match error {
        Error::File { path: place, problem } if place == path.display().to_string() => {
            Error::File { path: place, problem }
        }
        other => Error::file(path.display(), other),
    }
}

fn is_safetensors(bytes: &[u8]) -> bool {
    let Some(size) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else { return false };
    size <= bytes.len() as u64 && bytes.get(8) == Some(&b'{')
}

/// The graph for weights without one, and the order of its input's axes.
fn graph_for(
    options: &LoadOptions,
    info: &ModelInfo,
    source: &[(String, Vec<usize>)],
) -> Result<(Graph, Layout), Error> {
    if let Some(path) = &options.graph {
        return graph_in(path, options);
    }
    let spec = options.arch.as_ref().ok_or_else(|| {
        let problem = format!(
            "it holds weights only; give `--arch` one of {}, or a file that holds the graph",
            arch::names().join(", ")
        );
        Error::file("weights", problem)
    })?;
    let known = (!info.classes.is_empty()).then_some(info.classes.len());
    let last = source.iter().rev().find(|(_, shape)| shape.len() == 2).map(|(_, shape)| shape[0]);
    let classes = options
        .classes
        .or(known)
        .or(last)
        .ok_or_else(|| Error::file("weights", "its number of classes is unknown; give `--classes N`"))?;
    let input = options.input.unwrap_or_else(|| {
        let channels =
            source.iter().find(|(_, shape)| shape.len() == 4).map_or(3, |(_, shape)| shape[1].clamp(1, 1024));
        let large = match spec.arch.as_str() {
            name if name.starts_with("vgg") => {
                source.iter().any(|(key, _)| key.ends_with("classifier.6.weight") || key.contains("pre_logits"))
            }
            name => !name.starts_with("cifar-"),
        };
        let size = if large { 224 } else { 32 };
        Shape::new(channels, size, size)
    });
    Ok((arch::build(spec, input, classes)?, Layout::ChannelsFirst))
}

/// The graph in a file: safetensors with a graph, an ONNX model, or a graph as JSON.
fn graph_in(path: &Path, options: &LoadOptions) -> Result<(Graph, Layout), Error> {
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let fail = |problem: String| Error::file(path.display(), problem);
    if bytes.first() == Some(&b'{') {
        let graph: Graph = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        graph.check()?;
        return Ok((graph, Layout::ChannelsFirst));
    }
    if is_safetensors(&bytes) {
        let graph = safetensors::graph_in(&bytes).map_err(fail)?;
        let graph = graph.ok_or_else(|| fail("it holds weights without a graph".into()))?;
        graph.check()?;
        return Ok((graph, Layout::ChannelsFirst));
    }
    let read_options = ReadOptions { input: options.input, output: options.output.clone() };
    let model = onnx::read(path, &read_options)?;
    Ok((model.graph, model.layout))
}
