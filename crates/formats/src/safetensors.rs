//! Networks in safetensors files: the weights as tensors, the graph as JSON in the metadata under the key `nettriage`.
//!
//! The metadata is `{"version": 1, "graph": …}`. Every safetensors reader can read the weights; this one also reads the
//! graph.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde::{Deserialize, Serialize};

use nettriage_net::{Error, Graph, Kind, Layer, Network, Tensor, Weights};

/// Key of the graph in the file's metadata.
pub const METADATA_KEY: &str = "nettriage";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    graph: Graph,
}

/// Writes the network; a regular file is replaced atomically.
///
/// # Errors
/// Those of [`Network::check`]; a file that cannot be written.
pub fn save(network: &Network, path: impl AsRef<Path>) -> Result<(), Error> {
    write_file(path.as_ref(), &to_bytes(network)?)
}

/// Writes the weights without the graph, under the keys of PyTorch's model of the same architecture, for
/// `load_state_dict(load_file(path))`.
///
/// torchvision's VGGs with batch norm have a bias before each norm, which has no effect and which the networks here lack;
/// it is written as zeros.
///
/// # Errors
/// As [`save`].
pub fn save_state_dict(network: &Network, path: impl AsRef<Path>) -> Result<(), Error> {
    network.check()?;
    let mut weights = network.weights.clone();
    let graph = &network.graph;
    for layer in &graph.layers {
        let norm = |reader: &Layer| matches!(reader.kind, Kind::BatchNorm(_)) && reader.inputs.contains(&layer.name);
        if let Kind::Conv(conv) = &layer.kind
            && !conv.bias
            && layer.name.starts_with("features.")
            && graph.layers.iter().any(norm)
        {
            weights.insert(format!("{}.bias", layer.name), Tensor::zeros(&[conv.filters]));
        }
    }
    write_file(path.as_ref(), &weights_to_bytes(&weights, None)?)
}

/// Reads a network that [`save`] wrote.
///
/// # Errors
/// A file that cannot be read, is no safetensors file, has no graph in its metadata, or whose weights do not fit the graph.
pub fn load(path: impl AsRef<Path>) -> Result<Network, Error> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    parse(&bytes).map_err(|problem| Error::file(path.display(), problem))
}

/// The network as the bytes of a safetensors file. Equal networks give equal bytes.
///
/// # Errors
/// Those of [`Network::check`].
pub fn to_bytes(network: &Network) -> Result<Vec<u8>, Error> {
    network.check()?;
    let header = Header { version: VERSION, graph: network.graph.clone() };
    let json = serde_json::to_string(&header).map_err(|error| Error::file(METADATA_KEY, error))?;
    let metadata = HashMap::from([(METADATA_KEY.to_string(), json)]);
    weights_to_bytes(&network.weights, Some(metadata))
}

/// The network from the bytes of a safetensors file.
///
/// # Errors
/// As [`load`], but for reading the file.
pub fn from_bytes(bytes: &[u8]) -> Result<Network, Error> {
    parse(bytes).map_err(|problem| Error::file("safetensors", problem))
}

pub(crate) fn weights_to_bytes(weights: &Weights, metadata: Option<HashMap<String, String>>) -> Result<Vec<u8>, Error> {
    let views = weights.iter().map(|(name, tensor)| (name.as_str(), Bytes(tensor)));
    ::safetensors::serialize(views, metadata).map_err(|error| Error::file("safetensors", error))
}

fn parse(bytes: &[u8]) -> Result<Network, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a valid safetensors file: {error}"))?;
    let graph = graph_in(bytes)?.ok_or("it holds weights without a graph; give its architecture with `--arch NAME`")?;
    let weights = weights_in(&file)?;
    let network = Network { graph, weights };
    network.check().map_err(|error| error.to_string())?;
    Ok(network)
}

/// The graph in the metadata, if there is one.
pub(crate) fn graph_in(bytes: &[u8]) -> Result<Option<Graph>, String> {
    let (_, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| format!("not a valid safetensors file: {error}"))?;
    let Some(json) = metadata.metadata().as_ref().and_then(|map| map.get(METADATA_KEY)) else { return Ok(None) };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_str(json).map_err(|error| format!("its graph: {error}"))?;
    if version != VERSION {
        return Err(format!("its graph is of version {version}, and this program reads version {VERSION}"));
    }
    let header: Header = serde_json::from_str(json).map_err(|error| format!("its graph: {error}"))?;
    Ok(Some(header.graph))
}

/// All tensors of a file as `f32`.
fn weights_in(file: &SafeTensors<'_>) -> Result<Weights, String> {
    file.iter().map(|(name, view)| Ok((name.to_string(), tensor(name, &view)?))).collect()
}

/// One tensor as `f32`.
pub(crate) fn tensor(name: &str, view: &TensorView<'_>) -> Result<Tensor, String> {
    let data = floats(view.dtype(), view.data()).ok_or_else(|| {
        format!("tensor `{name}` is of type {:?}; F32, F64, F16, BF16 and integers are read", view.dtype())
    })?;
    if data.len() != view.shape().iter().product::<usize>() {
        return Err(format!("tensor `{name}` has {} elements and shape {:?}", data.len(), view.shape()));
    }
    Ok(Tensor { shape: view.shape().to_vec(), data })
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
    }
    Some(match dtype {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => each(bytes, |b| half(u16::from_le_bytes(b))),
        Dtype::BF16 => each(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        Dtype::U8 => each(bytes, |[b]: [u8; 1]| f32::from(b)),
        _ => return None,
    })
}

/// IEEE 754 binary16 to binary32.
pub(crate) fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * (-24f32).exp2(),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1024.0 + fraction) * ((exponent - 25) as f32).exp2(),
    }
}

/// Writes a file, atomically if it is a regular one.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    nettriage_files::write_output(path, bytes).map_err(|error| Error::file(path.display(), error))
}

struct Bytes<'a>(&'a Tensor);

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.data.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.0.data.len() * 4
    }
}
