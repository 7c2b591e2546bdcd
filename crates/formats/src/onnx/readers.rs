//! Which layers read each tensor of the file as a weight.

use std::collections::{BTreeMap, HashMap};

use nettriage_net::Graph;

use super::attributes::Node;
use super::builder::{Op, PendingNode};
use super::constant::Constant;
use super::translate::Value;
use crate::shared::SharedWeights;

/// The layers that read each tensor, by the tensor's name in the file.
#[derive(Default)]
pub struct WeightReaders {
    /// The tensor of the file that a folded constant holds in another order or shape.
    sources: HashMap<String, String>,
    /// Elements and layers of each tensor.
    readers: BTreeMap<String, (usize, Vec<String>)>,
}

impl WeightReaders {
    /// Notes a folded node: an output as large as its largest input (a transpose, reshape or cast) stands for it.
    pub fn folded(&mut self, node: &Node, inputs: &[Option<&Constant>], outputs: &[Constant]) {
        let named = node.proto.input.iter().zip(inputs).filter_map(|(name, constant)| Some((name, (*constant)?.len())));
        let Some((input, elements)) = named.max_by_key(|(_, elements)| *elements) else { return };
        if let ([output], [name]) = (outputs, node.proto.output.as_slice())
            && output.len() == elements
            && elements > 1
        {
            let source = self.source(input);
            self.sources.insert(name.clone(), source);
        }
    }

    /// Notes the layers that a node was translated into.
    pub fn translated(&mut self, node: &Node, values: &HashMap<String, Value>, layers: &[PendingNode]) {
        let with_weights = |layer: &&PendingNode| match &layer.op {
            Op::Kind(kind) => !kind.parameters(layer.shape).is_empty(),
            Op::Function(_) => false,
        };
        let layers: Vec<&PendingNode> = layers.iter().filter(with_weights).collect();
        for name in node.proto.input.iter().filter(|_| !layers.is_empty()) {
            let Some(Value::Constant(constant)) = values.get(name) else { continue };
            // Exporters store equal constants once; a scalar, or a vector of zeros, is not a weight that layers share.
            if constant.uniform().is_some() {
                continue;
            }
            let (_, readers) = self.readers.entry(self.source(name)).or_insert((constant.len(), Vec::new()));
            for layer in &layers {
                if !readers.contains(&layer.name) {
                    readers.push(layer.name.clone());
                }
            }
        }
    }

    /// What the layers of the finished graph share.
    pub fn shared(self, graph: &Graph) -> Vec<SharedWeights> {
        let in_graph = |(elements, layers): (usize, Vec<String>)| {
            (layers.into_iter().filter(|layer| graph.layer(layer).is_some()).collect(), elements)
        };
        SharedWeights::of_tensors(self.readers.into_values().filter(|(_, layers)| layers.len() > 1).map(in_graph))
    }

    /// The tensor of the file that a constant stands for.
    pub fn source(&self, name: &str) -> String {
        self.sources.get(name).map_or(name, String::as_str).to_string()
    }
}
