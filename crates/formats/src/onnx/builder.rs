//! The graph under construction: layers in order, their weights, and a budget for the memory of constants.

use std::collections::{BTreeMap, HashMap, HashSet};

use nettriage_net::{Graph, INPUT, Kind, Layer, Shape, shape};

use super::attributes::Node;
use super::constant::Constant;

/// A part of a layer that is not a layer alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// The mean over a window of this many neighbouring channels, as PyTorch exports local response norm.
    ChannelMean(usize),
}

/// What a pending node computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Kind(Kind),
    Function(Function),
}

/// A layer before fusion.
#[derive(Clone, Debug)]
pub struct PendingNode {
    pub name: String,
    pub inputs: Vec<String>,
    pub op: Op,
    pub shape: Shape,
    /// The ONNX node that it came from, for messages.
    pub label: String,
}

/// Collects layers and weights.
pub struct GraphBuilder {
    pub nodes: Vec<PendingNode>,
    /// Position in `nodes` by name.
    pub positions: HashMap<String, usize>,
    /// By `<layer>.<parameter>`.
    pub weights: BTreeMap<String, Constant>,
    pub input: Shape,
    /// Elements that folded constants and weights may still take in memory.
    memory: usize,
    /// Elements that folding may still compute.
    work: usize,
}

impl GraphBuilder {
    /// For an image of this shape and a file with this number of elements in its initializers.
    pub fn new(input: Shape, declared: usize) -> GraphBuilder {
        GraphBuilder {
            nodes: Vec::new(),
            positions: HashMap::new(),
            weights: BTreeMap::new(),
            input,
            // Real models transpose and scale each weight a few times and compute small shape tensors. A file that
            // copies its weights over and over is refused.
            memory: (1 << 22) + 4 * declared,
            work: (1 << 24) + 64 * declared,
        }
    }

    /// Adds a layer; its name derives from `wanted`. Returns its name and the shape of its output.
    pub fn add(
        &mut self,
        node: &Node,
        wanted: &str,
        op: Op,
        inputs: Vec<String>,
        shapes: &[Shape],
    ) -> Result<(String, Shape), String> {
        let shape = match &op {
            Op::Kind(kind) => kind.output_shape(shapes)?,
            Op::Function(Function::ChannelMean(size)) => {
                let channels = (shapes[0].channels + 1).checked_sub(*size).filter(|&channels| channels > 0);
                Shape { channels: channels.ok_or("its window is larger than its input")?, ..shapes[0] }
            }
        };
        shape::check_extent(shape)?;
        if let Op::Kind(Kind::Gather(gather)) = &op {
            // A few bytes of the file may describe many positions. A position takes as much memory as two numbers.
            self.charge(2 * gather.indices.len())?;
        }
        let name = self.unique_name(wanted, node);
        self.positions.insert(name.clone(), self.nodes.len());
        self.nodes.push(PendingNode { name: name.clone(), inputs, op, shape, label: node.label() });
        Ok((name, shape))
    }

    /// Gives a layer one of its weights.
    pub fn set_weight(&mut self, layer: &str, parameter: &str, constant: Constant) -> Result<(), String> {
        self.charge(constant.stored())?;
        self.replace_weight(layer, parameter, constant);
        Ok(())
    }

    /// Replaces one of a layer's weights by one of the same size.
    pub fn replace_weight(&mut self, layer: &str, parameter: &str, constant: Constant) {
        self.weights.insert(format!("{layer}.{parameter}"), constant);
    }

    pub fn weight(&self, layer: &str, parameter: &str) -> Option<&Constant> {
        self.weights.get(&format!("{layer}.{parameter}"))
    }

    /// The shape of a tensor: the image's, or a layer's output.
    pub fn shape_of(&self, tensor: &str) -> Shape {
        self.positions.get(tensor).map_or(self.input, |&at| self.nodes[at].shape)
    }

    /// Takes elements that are kept in memory from the budget.
    pub fn charge(&mut self, elements: usize) -> Result<(), String> {
        let left = self.memory.checked_sub(elements);
        self.memory = left.ok_or("the constants computed up to here are many times larger than the file")?;
        Ok(())
    }

    /// Returns elements to the budget that are no longer in memory.
    pub fn refund(&mut self, elements: usize) {
        self.memory = self.memory.saturating_add(elements);
    }

    /// Takes elements that are read or computed once from the budget.
    pub fn charge_work(&mut self, elements: usize) -> Result<(), String> {
        let left = self.work.checked_sub(elements);
        self.work = left.ok_or("its constants take many times more computation than the file is large")?;
        Ok(())
    }

    /// Adds to the budgets for a tensor that the file holds in a Constant node.
    pub fn credit(&mut self, elements: usize) {
        self.memory = self.memory.saturating_add(4 * elements);
        self.work = self.work.saturating_add(64 * elements);
    }

    fn unique_name(&self, wanted: &str, node: &Node) -> String {
        let clean = without_blanks(wanted.trim_start_matches('/'));
        let base = match clean.as_str() {
            "" => node.op().to_lowercase(),
            INPUT => "input_layer".into(),
            _ => clean,
        };
        let taken = |name: &String| self.positions.contains_key(name);
        if !taken(&base) {
            return base;
        }
        // Starting at the number of layers keeps the search short even if every layer has the same name.
        (self.nodes.len()..)
            .map(|number| format!("{base}_{number}"))
            .find(|name| !taken(name))
            .expect("there is no last number")
    }

    /// The graph of the layers that `output` depends on, and their weights.
    pub fn finish(self, name: &str, output: String) -> Result<(Graph, BTreeMap<String, Constant>), String> {
        let mut needed: HashSet<&str> = [output.as_str()].into();
        for node in self.nodes.iter().rev() {
            if needed.contains(node.name.as_str()) {
                needed.extend(node.inputs.iter().map(String::as_str));
            }
        }
        let mut layers = Vec::new();
        for node in self.nodes.iter().filter(|node| needed.contains(node.name.as_str())) {
            let Op::Kind(kind) = &node.op else {
                let problem = "a mean over a window of channels is supported only as part of local response norm";
                return Err(format!("{}: {problem}", node.label));
            };
            layers.push(Layer { name: node.name.clone(), inputs: node.inputs.clone(), kind: kind.clone() });
        }
        let used = |key: &str| key.rsplit_once('.').is_some_and(|(layer, _)| needed.contains(layer));
        let weights =
            self.weights.iter().filter(|(key, _)| used(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let name = without_blanks(name);
        let name = if name.is_empty() { "onnx".into() } else { name };
        let graph = Graph { name, input: self.input, layers, output };
        graph.check().map_err(|error| error.to_string())?;
        Ok((graph, weights))
    }
}

/// A name without blanks and control characters.
fn without_blanks(name: &str) -> String {
    name.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}
