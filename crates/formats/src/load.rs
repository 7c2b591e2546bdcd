//! Loads a network from any file. The format is recognised by the file's content.

use std::path::{Path, PathBuf};

use ::safetensors::tensor::SafeTensors;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Error, Graph, Network, Shape, shorten};

use crate::identify::{FileKind, identify};
use crate::info::{ModelInfo, Sidecar};
use crate::onnx::{self, Layout, ReadOptions};
use crate::pytorch::{Checkpoint, EXPORT};
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
    /// The weights to take of a checkpoint with several sets: the keys of nested dictionaries joined by dots, or a prefix
    /// of the tensors' names.
    pub key: Option<String>,
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
/// and the unexpected ones; a missing architecture; weights that are not finite; a file beside the network that
/// contradicts it.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let (info, note) = match &options.info {
        Some(info) => (info.clone(), None),
        None => match ModelInfo::beside(path)? {
            Sidecar::Absent => (ModelInfo::default(), None),
            Sidecar::Found(info) => (info, None),
            Sidecar::Other(note) => (ModelInfo::default(), Some(note)),
        },
    };
    let mut loaded = from_bytes(path, &bytes, &LoadOptions { info: Some(info), ..options.clone() })?;
    loaded.notes.extend(note);
    Ok(loaded)
}

/// Loads a network from the bytes of a file. `path` names it in errors and locates external data.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8], options: &LoadOptions) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let info = options.info.clone().unwrap_or_default();
    let explicit = options.input;
    let options = LoadOptions { input: explicit.or(info.input_shape()), ..options.clone() };
    let parts = read(path, bytes, &options, &info).map_err(|error| with_path(path, error))?;
    let Parts { network, layout, format, shared, mut notes } = parts;
    notes.extend(shared.iter().map(SharedWeights::note));
    let fail = |problem: String| Error::file(path.display(), problem);
    check_values(&network).map_err(fail)?;
    if let Some(given) = explicit.filter(|given| contradicts(*given, network.graph.input)) {
        return Err(fail(format!(
            "its images are {} (C, H, W); `--input {given}` contradicts it",
            network.graph.input
        )));
    }
    let info = ModelInfo { input: info.input.filter(|_| explicit.is_none()), ..info };
    check_info(&network, &info).map_err(fail)?;
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
    let kind = identify(bytes).map_err(|problem| Error::file(path.display(), problem))?;
    if kind != FileKind::Onnx && options.output.is_some() {
        let problem = "`--graph-output` selects an output of an ONNX model, and this file is none; leave it out";
        return Err(Error::file(path.display(), problem));
    }
    if options.key.is_some() && !matches!(kind, FileKind::Checkpoint | FileKind::Safetensors) {
        let problem =
            "`--key` selects weights of a checkpoint or safetensors file, and this file is none; leave it out";
        return Err(Error::file(path.display(), problem));
    }
    match kind {
        FileKind::Checkpoint => read_checkpoint(bytes, options, info),
        FileKind::Safetensors => read_safetensors(bytes, options, info),
        FileKind::Json => {
            let problem =
                "it holds a graph without weights; pass it with `--arch`, together with a file that holds weights";
            Err(Error::file(path.display(), problem))
        }
        FileKind::Onnx => read_onnx(path, bytes, options),
    }
}

fn read_onnx(path: &Path, bytes: &[u8], options: &LoadOptions) -> Result<Parts, Error> {
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
    let checkpoint = Checkpoint::parse_key(bytes, options.key.as_deref())?;
    let source: Vec<(String, Vec<usize>)> =
        checkpoint.shapes().map(|(name, shape)| (name.into(), shape.into())).collect();
    let (graph, layout) = graph_for(options, info, &source)?;
    let (network, mut notes) = keys::fit(graph, &source, |name| checkpoint.tensor(name))?;
    let (key, others) = checkpoint.keys();
    if !others.is_empty() {
        let place = if key.is_empty() { "at its top level".to_string() } else { format!("under its key `{key}`") };
        let others: Vec<String> =
            others.iter().map(|key| if key.is_empty() { "its top level".into() } else { format!("`{key}`") }).collect();
        notes.push(format!("its weights are those {place}; it also holds tensors under {}", shorten(&others)));
    }
    let skipped: Vec<String> =
        checkpoint.skipped().iter().map(|(class, count)| format!("{count} of {class}")).collect();
    if !skipped.is_empty() {
        let count: usize = checkpoint.skipped().values().sum();
        let objects = if count == 1 { "1 object".to_string() } else { format!("{count} objects") };
        notes.push(format!("skipped without executing anything: {objects} other than tensors ({})", shorten(&skipped)));
    }
    Ok(Parts { network, layout, format: Format::PyTorch, shared: checkpoint.shared(), notes })
}

fn read_safetensors(bytes: &[u8], options: &LoadOptions, info: &ModelInfo) -> Result<Parts, Error> {
    let fail = |problem: String| Error::file("safetensors", problem);
    if safetensors::graph_in(bytes).map_err(fail)?.is_some() {
        if options.key.is_some() {
            return Err(fail("`--key` selects weights of a file without a graph, and this file has one".into()));
        }
        let network = safetensors::from_bytes(bytes)?;
        let (layout, format) = (Layout::ChannelsFirst, Format::Nettriage);
        return Ok(Parts { network, layout, format, shared: Vec::new(), notes: Vec::new() });
    }
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| fail(format!("not a valid safetensors file: {error}")))?;
    let prefix = options.key.as_ref().map_or_else(String::new, |key| format!("{}.", key.trim_end_matches('.')));
    // The header is in any order; most writers store the data in the order of the layers.
    let mut source: Vec<(String, Vec<usize>, usize)> = Vec::new();
    for (name, view) in file.iter() {
        if let Some(name) = name.strip_prefix(&prefix) {
            source.push((name.to_string(), view.shape().to_vec(), view.data().as_ptr() as usize));
        }
    }
    if source.is_empty() && !prefix.is_empty() {
        return Err(fail(format!("it has no tensor whose name starts with `{prefix}`")));
    }
    source.sort_by_key(|(_, _, address)| *address);
    let source: Vec<(String, Vec<usize>)> = source.into_iter().map(|(name, shape, _)| (name, shape)).collect();
    let (graph, layout) = graph_for(options, info, &source)?;
    let fetch = |name: &str| {
        let name = format!("{prefix}{name}");
        let view = file.tensor(&name).map_err(|_| fail(format!("no tensor `{name}`")))?;
        safetensors::tensor(&name, &view).map_err(fail)
    };
    let (network, notes) = keys::fit(graph, &source, fetch)?;
    // A safetensors file cannot say that tensors share their elements.
    Ok(Parts { network, layout, format: Format::Safetensors, shared: Vec::new(), notes })
}

/// Refuses weights that would make every output NaN or infinite.
fn check_values(network: &Network) -> Result<(), String> {
    for (key, tensor) in &network.weights {
        let bad = tensor.data.iter().filter(|value| !value.is_finite()).count();
        if let Some(at) = tensor.data.iter().position(|value| !value.is_finite()) {
            return Err(format!(
                "its weight `{key}` is not finite: {bad} of {} values, the first {} at index {at}; a diverged training \
                 leaves such weights, so use an earlier checkpoint",
                tensor.data.len(),
                tensor.data[at]
            ));
        }
        if key.ends_with(".running_var")
            && let Some(value) = tensor.data.iter().find(|value| **value < 0.0)
        {
            return Err(format!("its variance `{key}` has the negative value {value}; the file is damaged"));
        }
    }
    Ok(())
}

/// Whether a given shape of an image is not the network's. A network of vectors takes images of as many elements.
fn contradicts(given: Shape, input: Shape) -> bool {
    given != input && (input.height * input.width != 1 || given.elements() != input.elements())
}

/// Refuses a description of the network that contradicts it.
fn check_info(network: &Network, info: &ModelInfo) -> Result<(), String> {
    let input = network.graph.input;
    for (word, count) in [("means", info.mean.len()), ("deviations", info.std.len())] {
        if count != 0 && count != input.channels {
            return Err(format!("{count} {word} are given for images of {input}; give one per channel"));
        }
    }
    if let Some(given) = info.input_shape().filter(|given| contradicts(*given, input)) {
        return Err(format!("its images are {input} (C, H, W), but `input` is {given}; correct or remove `input`"));
    }
    let output = network.graph.output_shape().map_err(|error| error.to_string())?;
    if !info.classes.is_empty() && info.classes.len() != output.channels {
        return Err(format!(
            "it has {} outputs, but {} names of classes are given ({}); give one name per output, in their order",
            output.channels,
            info.classes.len(),
            shorten(&info.classes)
        ));
    }
    Ok(())
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
            "it holds weights only; give `--arch` one of {}, or a file that holds the graph, such as the ONNX file from \
             {EXPORT}",
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
    let graph = match identify(&bytes).map_err(fail)? {
        FileKind::Json => serde_json::from_slice(&bytes).map_err(|error| fail(format!("not a graph: {error}")))?,
        FileKind::Safetensors => {
            let graph = safetensors::graph_in(&bytes).map_err(fail)?;
            graph.ok_or_else(|| fail("it holds weights without a graph".into()))?
        }
        FileKind::Checkpoint => {
            let problem = format!("it is a PyTorch checkpoint, which holds no graph; in Python: {EXPORT}");
            return Err(fail(problem));
        }
        FileKind::Onnx => {
            let read_options = ReadOptions { input: options.input, output: options.output.clone() };
            let model = onnx::from_file_bytes(path, &bytes, &read_options)?;
            return Ok((model.graph, model.layout));
        }
    };
    let graph: Graph = graph;
    graph.check().map_err(|error| fail(error.to_string()))?;
    Ok((graph, Layout::ChannelsFirst))
}
