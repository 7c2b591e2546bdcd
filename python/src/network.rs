//! A network: graph and weights.

use std::path::PathBuf;

use nettriage::{LoadOptions, block, load, onnx, safetensors};
use nettriage_engine::{Model, Options};
use nettriage_formats::info::ModelInfo;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error::raise;

/// A network with its weights, its normalisation and its class names.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Network {
    pub network: nettriage::Network,
    pub info: ModelInfo,
    notes: Vec<String>,
}

impl Network {
    pub fn new(network: nettriage::Network, info: ModelInfo) -> Network {
        Network { network, info, notes: Vec::new() }
    }
}

/// Weights and graph as safetensors, mean, standard deviation, classes.
type Packed<'py> = (Bound<'py, PyBytes>, Vec<f32>, Vec<f32>, Vec<String>);

#[pymethods]
impl Network {
    /// From an ONNX, safetensors or PyTorch file.
    #[staticmethod]
    #[pyo3(signature = (path, arch=None, key=None, output=None, input=None, classes=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        arch: Option<String>,
        key: Option<String>,
        output: Option<String>,
        input: Option<[usize; 3]>,
        classes: Option<usize>,
    ) -> PyResult<Network> {
        let input = input.map(|[c, h, w]| nettriage::Shape::new(c, h, w));
        let mut options = LoadOptions { key, output, input, classes, ..LoadOptions::default() };
        if let Some(arch) = arch {
            options = options.arch(&arch);
        }
        let loaded = py.detach(|| load(&path, &options)).map_err(raise)?;
        Ok(Network { network: loaded.network, info: loaded.info, notes: loaded.notes })
    }

    /// The same network under other normalisation and class names.
    #[pyo3(signature = (mean=None, std=None, classes=None))]
    fn with_info(&self, mean: Option<Vec<f32>>, std: Option<Vec<f32>>, classes: Option<Vec<String>>) -> Network {
        let mut info = self.info.clone();
        if let (Some(mean), Some(std)) = (mean, std) {
            (info.mean, info.std) = (mean, std);
        }
        if let Some(classes) = classes {
            info.classes = classes;
        }
        Network { network: self.network.clone(), info, notes: self.notes.clone() }
    }

    #[getter]
    fn name(&self) -> &str {
        &self.network.graph.name
    }

    /// How the file was read, as far as a user should know.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// Mean per channel of pixels scaled to 0..1; empty if unknown.
    #[getter]
    fn mean(&self) -> Vec<f32> {
        self.info.mean.clone()
    }

    /// Standard deviation per channel; empty if unknown.
    #[getter]
    fn std(&self) -> Vec<f32> {
        self.info.std.clone()
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.info.classes.clone()
    }

    /// The graph as JSON.
    fn graph_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.network.graph).map_err(raise)
    }

    /// Per layer, in order: name, description, output shape, parameters, multiply-accumulates; and its block's name.
    fn layers_json(&self) -> PyResult<String> {
        let graph = &self.network.graph;
        let shapes = graph.shapes().map_err(raise)?;
        let blocks = block::find(graph);
        let costs = nettriage_net::cost::per_layer(graph).map_err(raise)?;
        let rows = graph.layers.iter().zip(&shapes).zip(&costs).map(|((layer, shape), cost)| {
            let block = blocks.iter().find(|block| block.layers.contains(&layer.name)).map(|block| block.name.clone());
            serde_json::json!({
                "name": layer.name, "kind": layer.kind.describe(),
                "shape": [shape.channels, shape.height, shape.width],
                "parameters": cost.parameters, "macs": cost.macs, "block": block,
            })
        });
        serde_json::to_string(&rows.collect::<Vec<_>>()).map_err(raise)
    }

    /// Every weight by its name: its shape, and its f32 values in the machine's byte order.
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let weights = PyDict::new(py);
        for (name, tensor) in self.network.weights.iter() {
            let bytes: Vec<u8> = tensor.data.iter().flat_map(|value| value.to_ne_bytes()).collect();
            weights.set_item(name, (tensor.shape.clone(), PyBytes::new(py, &bytes)))?;
        }
        Ok(weights)
    }

    /// Outputs for n images: f32 bytes n x H x W x C to f32 bytes n x outputs, in the machine's byte order.
    fn outputs<'py>(&self, py: Python<'py>, images: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let input = self.network.graph.input;
        let values: Vec<f32> =
            images.chunks_exact(4).map(|bytes| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
        let size = input.elements();
        if values.is_empty() || !values.len().is_multiple_of(size) {
            return Err(raise(format!("{} values: images of {input} have {size} each", values.len())));
        }
        let outputs = py.detach(|| -> Result<Vec<u8>, nettriage_engine::Error> {
            let mut outputs = Vec::new();
            let batch = (values.len() / size).min(32);
            let mut model = Model::new(&self.network, &Options::inference(batch))?;
            for images in values.chunks(batch * size) {
                outputs.extend(model.forward(images).iter().flat_map(|value| value.to_ne_bytes()));
            }
            Ok(outputs)
        });
        Ok(PyBytes::new(py, &outputs.map_err(raise)?))
    }

    /// The arguments of [`Network::unpacked`], for another process.
    fn packed<'py>(&self, py: Python<'py>) -> PyResult<Packed<'py>> {
        let bytes = py.detach(|| safetensors::to_bytes(&self.network)).map_err(raise)?;
        let ModelInfo { mean, std, classes, .. } = self.info.clone();
        Ok((PyBytes::new(py, &bytes), mean, std, classes))
    }

    /// What [`Network::packed`] packed.
    #[staticmethod]
    fn unpacked(
        py: Python<'_>,
        bytes: &[u8],
        mean: Vec<f32>,
        std: Vec<f32>,
        classes: Vec<String>,
    ) -> PyResult<Network> {
        let network = py.detach(|| safetensors::from_bytes(bytes)).map_err(raise)?;
        Ok(Network::new(network, ModelInfo { mean, std, classes, input: None }))
    }

    /// Writes it as ONNX or safetensors, by the ending of the name, with its normalisation and classes beside it.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| -> Result<(), String> {
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("onnx") => onnx::write(&self.network, &path).map_err(|error| error.to_string())?,
                Some("safetensors") => safetensors::save(&self.network, &path).map_err(|error| error.to_string())?,
                _ => return Err(format!("{}: name the file .onnx or .safetensors", path.display())),
            }
            let text = self.info.to_toml();
            if text.is_empty() {
                return Ok(());
            }
            let mut beside = path.clone().into_os_string();
            beside.push(".toml");
            let beside = PathBuf::from(beside);
            nettriage_files::write_atomic(&beside, text.as_bytes())
                .map_err(|error| format!("{}: cannot be written: {error}", beside.display()))
        })
        .map_err(raise)
    }
}
