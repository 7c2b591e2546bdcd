//! The front door: any network in any file, recognised by its content.

use std::path::{Path, PathBuf};

use ::safetensors::tensor::SafeTensors;

use crate::info::ModelInfo;
use crate::onnx::{self, Layout, ReadOptions};
use crate::pytorch::{self, Checkpoint};
use crate::{keys, safetensors};
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Error, Graph, Network, Shape, Tensor};

/// What a file may not say by itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The architecture, for files that hold weights alone.
    pub arch: Option<ArchSpec>,
    /// In the architecture's place, a file that holds the graph: a network of ours, an ONNX model, or a graph as JSON.
    pub graph: Option<PathBuf>,
    /// Number of classes; otherwise the rows of the last matrix.
    pub classes: Option<usize>,
    /// Shape of an image (C, H, W); otherwise the file's, or what is usual for the architecture.
    pub input: Option<Shape>,
    /// Which of several outputs is meant (ONNX).
    pub output: Option<String>,
    /// What is known of the network besides; otherwise the file beside it is read.
    pub info: Option<ModelInfo>,
}

impl Options {
    /// Takes the name of a built-in architecture, or the path of a file that holds a graph: what `--arch` takes.
    pub fn arch(mut self, text: &str) -> Options {
        if arch::names().contains(&text) || !Path::new(text).exists() {
            self.arch = Some(ArchSpec::named(text));
        } else {
            self.graph = Some(text.into());
        }
        self
    }
}

/// What kind of file it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors with our graph.
    Nettriage,
    /// Safetensors with weights alone.
    Safetensors,
    /// ONNX.
    Onnx,
    /// A checkpoint of PyTorch.
    PyTorch,
}

/// A network from a file.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The network.
    pub network: Network,
    /// The order of axes that the model itself takes; the network here takes (C, H, W).
    pub layout: Layout,
    /// What is known besides.
    pub info: ModelInfo,
    /// The file's kind.
    pub format: Format,
    /// What a reader should know of how it was read.
    pub notes: Vec<String>,
}

/// Reads a network: safetensors (ours, or any with an architecture), ONNX, or a checkpoint of PyTorch with an
/// architecture.
///
/// # Errors
/// A file that cannot be read, or is none of these; weights that do not fit the architecture, with the missing and the
/// unexpected; an architecture that must be told.
pub fn load(path: impl AsRef<Path>, options: &Options) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let info = match &options.info {
        Some(info) => info.clone(),
        None => ModelInfo::beside(path)?.unwrap_or_default(),
    };
    from_bytes(path, &bytes, &Options { info: Some(info), ..options.clone() })
}

/// Reads a network from its file's bytes; `path` names it in errors and says where external data would lie.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8], options: &Options) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let info = options.info.clone().unwrap_or_default();
    let options = Options { input: options.input.or(info.input_shape()), ..options.clone() };
    let (network, layout, format, notes) = read(path, bytes, &options, &info).map_err(|error| named(path, error))?;
    for (word, values) in [("means", info.mean.len()), ("deviations", info.std.len())] {
        if values != 0 && values != network.graph.input.channels {
            let problem = format!("{values} {word} are given for images of {}", network.graph.input);
            return Err(Error::file(path.display(), problem));
        }
    }
    Ok(Loaded { network, layout, info, format, notes })
}

type Parts = (Network, Layout, Format, Vec<String>);

fn read(path: &Path, bytes: &[u8], options: &Options, info: &ModelInfo) -> Result<Parts, Error> {
    if pytorch::is_checkpoint(bytes) {
        let checkpoint = Checkpoint::parse(bytes)?;
        let source: Vec<(String, Vec<usize>)> =
            checkpoint.shapes().map(|(name, shape)| (name.into(), shape.into())).collect();
        let (graph, layout) = graph_for(options, info, &source)?;
        let (network, notes) = keys::fit(graph, &source, |name| checkpoint.tensor(name))?;
        return Ok((network, layout, Format::PyTorch, notes));
    }
    if is_safetensors(bytes) {
        let fail = |problem: String| Error::file("safetensors", problem);
        if safetensors::graph_in(bytes).map_err(fail)?.is_some() {
            let network = safetensors::from_bytes(bytes)?;
            return Ok((network, Layout::ChannelsFirst, Format::Nettriage, Vec::new()));
        }
        let file =
            SafeTensors::deserialize(bytes).map_err(|error| fail(format!("not a sound safetensors file: {error}")))?;
        // The header's own order is by type and offset; most writers keep the order of the layers there.
        let mut source: Vec<(String, Vec<usize>, usize)> = Vec::new();
        for (name, view) in file.iter() {
            source.push((name.to_string(), view.shape().to_vec(), view.data().as_ptr() as usize));
        }
        source.sort_by_key(|(_, _, place)| *place);
        let source: Vec<(String, Vec<usize>)> = source.into_iter().map(|(name, shape, _)| (name, shape)).collect();
        let (graph, layout) = graph_for(options, info, &source)?;
        let weights = safetensors::weights_in(&file).map_err(fail)?;
        let fetch = |name: &str| -> Result<Tensor, Error> {
            weights
                .get(name)
                .cloned()
                .ok_or_else(|| Error::file("safetensors", format!("tensor `{name}` is not there")))
        };
        let (network, notes) = keys::fit(graph, &source, fetch)?;
        return Ok((network, layout, Format::Safetensors, notes));
    }
    if bytes.first() == Some(&b'{') {
        return Err(Error::file(
            "graph",
            "it holds a graph without weights; give it as `--arch` to a file that holds them",
        ));
    }
    if bytes.get(257..262) == Some(b"ustar") {
        // Says what to do with PyTorch's oldest format.
        Checkpoint::parse(bytes)?;
    }
    let told = ReadOptions { input: options.input, output: options.output.clone() };
    let model = onnx::from_file_bytes(path, bytes, &told).map_err(|error| match error {
        Error::File { path, problem } if problem.starts_with("not a") => {
            let problem = format!("it is none of the files that are read here (safetensors, ONNX, PyTorch): {problem}");
            Error::File { path, problem }
        }
        other => other,
    })?;
    let layout = model.layout;
    Ok((model.into_network()?, layout, Format::Onnx, Vec::new()))
}

/// Puts the file's path before a message that lacks it.
fn named(path: &Path, error: Error) -> Error {
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

/// The graph for weights that come without one, and the order of its input's axes.
fn graph_for(options: &Options, info: &ModelInfo, source: &[(String, Vec<usize>)]) -> Result<(Graph, Layout), Error> {
    if let Some(path) = &options.graph {
        return graph_in(path, options);
    }
    let spec = options.arch.as_ref().ok_or_else(|| {
        let problem = format!(
            "it holds weights alone; say `--arch` with one of {}, or with a file that holds the graph",
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
        .ok_or_else(|| Error::file("weights", "the number of classes must be told"))?;
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

/// The graph in a file: a network of ours, an ONNX model, or the graph alone as JSON.
fn graph_in(path: &Path, options: &Options) -> Result<(Graph, Layout), Error> {
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let fail = |problem: String| Error::file(path.display(), problem);
    if bytes.first() == Some(&b'{') {
        let graph: Graph = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        graph.check()?;
        return Ok((graph, Layout::ChannelsFirst));
    }
    if is_safetensors(&bytes) {
        let graph = safetensors::graph_in(&bytes).map_err(fail)?;
        let graph = graph.ok_or_else(|| fail("it holds weights but no graph of ours".into()))?;
        graph.check()?;
        return Ok((graph, Layout::ChannelsFirst));
    }
    let told = ReadOptions { input: options.input, output: options.output.clone() };
    let model = onnx::read(path, &told)?;
    Ok((model.graph, model.layout))
}
