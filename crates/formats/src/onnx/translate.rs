//! What operators work with: the values of ONNX tensors by name, and the graph under construction.

use std::collections::HashMap;

use nettriage_net::{Kind, Shape};

use super::attributes::Node;
use super::builder::{GraphBuilder, Op};
use super::constant::Constant;
use super::readers::WeightReaders;
use super::symbolic::SymbolicTensor;

/// The value of an ONNX tensor: known at import, or computed from the image.
#[derive(Clone, Debug)]
pub enum Value {
    Constant(Constant),
    Symbolic(SymbolicTensor),
}

/// Translates operators into layers. Its methods are implemented by group of operators in `operators`, `binary`,
/// `windows` and `reshape`.
pub struct Translator {
    pub values: HashMap<String, Value>,
    pub builder: GraphBuilder,
    pub readers: WeightReaders,
    /// Tensors that tell where another one is not a number, by name, with that other one.
    pub not_a_number: HashMap<String, String>,
}

impl Translator {
    /// Input `index`, which must depend on the image.
    pub fn symbolic(&self, node: &Node, index: usize) -> Result<SymbolicTensor, String> {
        match node.input(index).and_then(|name| self.values.get(name)) {
            Some(Value::Symbolic(tensor)) => Ok(tensor.clone()),
            _ => Err(format!("its input {index} must depend on the image")),
        }
    }

    /// Input `index`, if there is one; it must be a constant.
    pub fn constant(&self, node: &Node, index: usize) -> Result<Option<Constant>, String> {
        let Some(name) = node.input(index) else { return Ok(None) };
        match self.values.get(name) {
            Some(Value::Constant(constant)) => Ok(Some(constant.clone())),
            Some(Value::Symbolic(_)) => {
                Err(format!("its input `{name}` depends on the image; only a constant is supported there"))
            }
            None => Err(format!("no node gives its input `{name}`")),
        }
    }

    /// Input `index`, which must be a constant.
    pub fn required(&self, node: &Node, index: usize) -> Result<Constant, String> {
        self.constant(node, index)?.ok_or_else(|| format!("its input {index} is missing"))
    }

    /// Adds a layer whose name derives from `wanted`. Returns its name and the shape of its output.
    pub fn add(
        &mut self,
        node: &Node,
        wanted: &str,
        op: Op,
        inputs: &[&SymbolicTensor],
    ) -> Result<(String, Shape), String> {
        let shapes: Vec<Shape> = inputs.iter().map(|tensor| tensor.shape).collect();
        let names = inputs.iter().map(|tensor| tensor.name.clone()).collect();
        self.builder.add(node, wanted, op, names, &shapes)
    }

    /// Whether a constant of this name is a tensor of the file that an exporter named, or derived from one.
    pub fn parameter(&self, name: &str) -> bool {
        let source = self.readers.source(name);
        let numbered = source.contains("::") || source.starts_with("val_") || source.contains("/Constant");
        matches!(self.values.get(name), Some(Value::Constant(_))) && source.contains('.') && !numbered
    }

    /// A layer's name from the tensor of the file that is its weight, where an exporter names it; otherwise from its node.
    ///
    /// Exporters store equal tensors once. Norms of an untrained network all have the same weights, so they are named by their
    /// own module where the file gives it.
    pub fn name_from_weight(&self, node: &Node, index: usize) -> String {
        let weight = node.input(index).map(|name| self.readers.source(name)).unwrap_or_default();
        let layer = [".weight", "_w_0", "/kernel:0"].iter().find_map(|ending| weight.strip_suffix(ending));
        let of_another = |layer: &str, module: &str| {
            let own = layer.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            node.op().ends_with("Normalization") && !own
        };
        match (layer.filter(|name| !name.is_empty()), node.module()) {
            (Some(layer), Some(module)) if of_another(layer, &module) => module,
            (Some(layer), _) => layer.to_string(),
            // A module that computes several products itself, as Swin's attention: its later ones have their operation's name too.
            (None, Some(module)) if node.scopes().is_some() => match self.builder.positions.contains_key(&module) {
                true => format!("{module}.{}", layer_name(node)),
                false => module,
            },
            (None, _) => layer_name(node),
        }
    }

    /// Adds a layer that keeps its input's shape, and so the view of it.
    pub fn add_elementwise(&mut self, node: &Node, kind: Kind, x: &SymbolicTensor) -> Result<SymbolicTensor, String> {
        let (name, _) = self.add(node, &layer_name(node), Op::Kind(kind), &[x])?;
        Ok(x.renamed(name))
    }
}

/// A layer's name from its node.
pub fn layer_name(node: &Node) -> String {
    let outputs = node.proto.output.first().cloned().unwrap_or_default();
    if node.proto.name.is_empty() { outputs } else { node.proto.name.clone() }
}
