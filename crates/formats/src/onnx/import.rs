//! From an ONNX graph to ours: the walk over its nodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::attributes::Node;
use super::constant::Constant;
use super::proto::{GraphProto, ModelProto, ValueInfoProto};
use super::view::Live;
use super::{Layout, Model, ReadOptions, fold, fuse, ops};
use nettriage_net::{Graph, INPUT, Kind, Layer, Shape, shape};

/// What an ONNX tensor is: known now, or computed from the image.
#[derive(Clone, Debug)]
pub enum Value {
    Constant(Constant),
    Live(Live),
}

/// A function of one number that is no layer of ours but may be part of one, as erf is of GELU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Erf,
    Exp,
    Sqrt,
    Softplus,
    Power(f32),
    /// The first input by the second.
    Divide,
    /// The mean of so many neighbouring channels, as PyTorch writes local response norm.
    ChannelMean(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Kind(Kind),
    Function(Function),
}

/// A layer in the making.
#[derive(Clone, Debug)]
pub struct Made {
    pub name: String,
    pub inputs: Vec<String>,
    pub op: Op,
    pub shape: Shape,
    /// The node that it came from, for messages.
    pub label: String,
}

/// The state of the walk.
pub struct Importer {
    pub values: HashMap<String, Value>,
    pub made: Vec<Made>,
    /// Where each layer stands in `made`.
    pub places: HashMap<String, usize>,
    pub constants: BTreeMap<String, Constant>,
    pub input: Shape,
    /// Elements that constants made here may still take in memory.
    budget: usize,
}

pub fn model(model: ModelProto, folder: Option<&Path>, options: &ReadOptions) -> Result<Model, String> {
    let opset = model
        .opset_import
        .iter()
        .find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"))
        .map_or(0, |set| set.version);
    if opset < 7 {
        return Err(format!(
            "its operator set is {opset}; from 7 on they are read: convert it with onnx.version_converter"
        ));
    }
    let graph = model.graph.ok_or("not an ONNX model: it holds no graph")?;
    let mut values = HashMap::new();
    let mut declared = 0usize;
    for tensor in &graph.initializer {
        let constant = Constant::from_proto(tensor, folder)
            .map_err(|problem| format!("initializer `{}`: {problem}", tensor.name))?;
        declared = declared.saturating_add(constant.held());
        values.insert(tensor.name.clone(), Value::Constant(constant));
    }
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !values.contains_key(&input.name)).collect();
    let [input] = inputs.as_slice() else {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        return Err(format!("it has {} inputs ({}), and a network here has one image", names.len(), names.join(", ")));
    };
    let (live, layout) = image(input, &graph, options)?;
    let mut importer = Importer {
        made: Vec::new(),
        places: HashMap::new(),
        constants: BTreeMap::new(),
        input: live.shape,
        // Weights may be turned and scaled a few times, and shapes computed; a file of the same weights over and over
        // may not.
        budget: (1 << 22) + 4 * declared,
        values,
    };
    importer.values.insert(input.name.clone(), Value::Live(live));
    for proto in &graph.node {
        let node = Node { proto, opset };
        importer.node(&node, folder, 0).map_err(|problem| format!("{}: {problem}", node.label()))?;
    }
    let output = importer.output(&graph, options)?;
    importer.finish(graph.name, output, layout)
}

/// The image that enters, and the order of its axes.
fn image(input: &ValueInfoProto, graph: &GraphProto, options: &ReadOptions) -> Result<(Live, Layout), String> {
    let fail = |problem: String| format!("input `{}`: {problem}", input.name);
    let dims = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let dims: Vec<Option<usize>> = dims.map_or_else(Vec::new, |shape| {
        let known = |value: Option<i64>| value.and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0);
        shape.dim.iter().map(|dim| known(dim.dim_value)).collect()
    });
    let batch = dims.first().copied().flatten().unwrap_or(1);
    let told = || options.input.ok_or_else(|| fail("its shape is open; say it, such as `--input 3x32x32`".into()));
    match dims.as_slice() {
        [_, _, _, _] => {
            let layout =
                if enters_channels_last(graph, &input.name) { Layout::ChannelsLast } else { Layout::ChannelsFirst };
            let order = if layout == Layout::ChannelsLast { [3, 1, 2] } else { [1, 2, 3] };
            let shape = match order.map(|axis| dims[axis]) {
                [Some(c), Some(h), Some(w)] => Shape::new(c, h, w),
                open => {
                    let told = told()?;
                    let fits = open
                        .iter()
                        .zip([told.channels, told.height, told.width])
                        .all(|(dim, t)| dim.is_none_or(|d| d == t));
                    if !fits {
                        return Err(fail(format!("it takes {open:?} (C, H, W), not {told}")));
                    }
                    told
                }
            };
            shape::check_extent(shape).map_err(fail)?;
            let name = INPUT.to_string();
            Ok(match layout {
                Layout::ChannelsFirst => (Live::picture(name, shape, batch), layout),
                Layout::ChannelsLast => (Live::channels_last(name, shape, batch), layout),
            })
        }
        [_, features] => {
            let features = features.map_or_else(|| told().map(Shape::elements), Ok)?;
            shape::check_extent(Shape::new(features, 1, 1)).map_err(fail)?;
            Ok((Live::vector(INPUT.into(), features, batch), Layout::ChannelsFirst))
        }
        [] => {
            let shape = told()?;
            shape::check_extent(shape).map_err(fail)?;
            Ok((Live::picture(INPUT.into(), shape, 1), Layout::ChannelsFirst))
        }
        _ => Err(fail(format!("it has {} axes; a batch of images has 4, of vectors 2", dims.len()))),
    }
}

/// Whether the image has its channels last. ONNX's own operators take them first, so such an image meets a Transpose
/// to (N, C, H, W) before anything that looks at more than one pixel.
fn enters_channels_last(graph: &GraphProto, input: &str) -> bool {
    const BY_PIXEL: [&str; 11] =
        ["Identity", "Cast", "Add", "Sub", "Mul", "Div", "Clip", "Relu", "Pad", "MatMul", "BatchNormalization"];
    let mut reached: HashSet<&str> = [input].into();
    for node in &graph.node {
        if !node.input.iter().any(|name| reached.contains(name.as_str())) {
            continue;
        }
        if node.op_type == "Transpose" && node.attribute.iter().any(|a| a.name == "perm" && a.ints == [0, 3, 1, 2]) {
            return true;
        }
        if BY_PIXEL.contains(&node.op_type.as_str()) {
            reached.extend(node.output.iter().map(String::as_str));
        }
    }
    false
}

impl Importer {
    fn node(&mut self, node: &Node, folder: Option<&Path>, depth: usize) -> Result<(), String> {
        if !matches!(node.proto.domain.as_str(), "" | "ai.onnx") {
            return Err(
                "an operator of a domain of its own has no layer here; export the model with standard operators".into(),
            );
        }
        if node.op() == "If" {
            return self.branch(node, folder, depth);
        }
        let mut constants = Vec::new();
        for name in &node.proto.input {
            match self.values.get(name) {
                Some(Value::Constant(constant)) => constants.push(Some(constant)),
                None if name.is_empty() => constants.push(None),
                Some(Value::Live(_)) => break,
                None => return Err(format!("its input `{name}` comes from nowhere")),
            }
        }
        let results = if constants.len() == node.proto.input.len() {
            let folded = fold::node(node, &constants, folder)?;
            // What stands in the file counts as much as an initializer.
            let held = folded.iter().map(Constant::held).sum();
            if node.op() == "Constant" {
                self.budget = self.budget.saturating_add(4 * held);
            }
            self.spend(held)?;
            folded.into_iter().map(Value::Constant).collect()
        } else {
            ops::node(self, node)?
        };
        for (name, value) in node.proto.output.iter().zip(results) {
            if !name.is_empty() && self.values.insert(name.clone(), value).is_some() {
                return Err(format!("its output `{name}` is there already"));
            }
        }
        Ok(())
    }

    /// An If whose condition is known now: the nodes of its branch, in its place. PyTorch writes `squeeze` so.
    fn branch(&mut self, node: &Node, folder: Option<&Path>, depth: usize) -> Result<(), String> {
        if depth > 8 {
            return Err("branches stand in each other too deep".into());
        }
        let condition = self.needed(node, 0)?.scalar().ok_or("its condition is no single value")?;
        let name = if condition != 0.0 { "then_branch" } else { "else_branch" };
        let graph = node.graph(name).ok_or_else(|| format!("it has no {name}"))?;
        for tensor in &graph.initializer {
            let constant = Constant::from_proto(tensor, folder)?;
            self.spend(constant.held())?;
            self.values.insert(tensor.name.clone(), Value::Constant(constant));
        }
        for proto in &graph.node {
            let inner = Node { proto, opset: node.opset };
            self.node(&inner, folder, depth + 1).map_err(|problem| format!("{}: {problem}", inner.label()))?;
        }
        for (name, given) in node.proto.output.iter().zip(&graph.output) {
            let value = self.values.get(&given.name).cloned();
            let value = value.ok_or_else(|| format!("its output `{}` comes from nowhere", given.name))?;
            if self.values.insert(name.clone(), value).is_some() {
                return Err(format!("its output `{name}` is there already"));
            }
        }
        Ok(())
    }

    /// The input at that place, which must depend on the image.
    pub fn live(&self, node: &Node, index: usize) -> Result<Live, String> {
        match node.input(index).and_then(|name| self.values.get(name)) {
            Some(Value::Live(live)) => Ok(live.clone()),
            _ => Err(format!("its input {index} must depend on the image")),
        }
    }

    /// The input at that place, if there is one; it must be known now.
    pub fn constant(&self, node: &Node, index: usize) -> Result<Option<Constant>, String> {
        let Some(name) = node.input(index) else { return Ok(None) };
        match self.values.get(name) {
            Some(Value::Constant(constant)) => Ok(Some(constant.clone())),
            Some(Value::Live(_)) => {
                Err(format!("its input `{name}` depends on the image, and only a constant has a layer here"))
            }
            None => Err(format!("its input `{name}` comes from nowhere")),
        }
    }

    pub fn needed(&self, node: &Node, index: usize) -> Result<Constant, String> {
        self.constant(node, index)?.ok_or_else(|| format!("its input {index} is missing"))
    }

    /// Adds a layer; its name comes from `hint`. Returns the name and the shape of its output.
    pub fn emit(&mut self, node: &Node, hint: &str, op: Op, inputs: &[&Live]) -> Result<(String, Shape), String> {
        let shapes: Vec<Shape> = inputs.iter().map(|live| live.shape).collect();
        let shape = match &op {
            Op::Kind(kind) => kind.output_shape(&shapes)?,
            Op::Function(Function::ChannelMean(size)) => {
                let channels = (shapes[0].channels + 1).checked_sub(*size).filter(|&channels| channels > 0);
                Shape { channels: channels.ok_or("its window is larger than its input")?, ..shapes[0] }
            }
            Op::Function(_) => shapes[0],
        };
        shape::check_extent(shape)?;
        let name = self.unique(hint, node);
        let inputs = inputs.iter().map(|live| live.tensor.clone()).collect();
        self.places.insert(name.clone(), self.made.len());
        self.made.push(Made { name: name.clone(), inputs, op, shape, label: node.label() });
        Ok((name, shape))
    }

    /// A layer that keeps its input's shape, and so the view on it.
    pub fn keep(&mut self, node: &Node, kind: Kind, live: &Live) -> Result<Live, String> {
        let (name, _) = self.emit(node, &hint(node), Op::Kind(kind), &[live])?;
        Ok(live.with(name))
    }

    fn spend(&mut self, elements: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(elements);
        self.budget = left.ok_or("the constants computed up to here are many times larger than the file")?;
        Ok(())
    }

    /// Gives a layer one of its weights.
    pub fn set(&mut self, layer: &str, parameter: &str, constant: Constant) -> Result<(), String> {
        self.spend(constant.dense())?;
        self.put(layer, parameter, constant);
        Ok(())
    }

    /// Replaces one of a layer's weights.
    pub fn put(&mut self, layer: &str, parameter: &str, constant: Constant) {
        self.constants.insert(format!("{layer}.{parameter}"), constant);
    }

    fn unique(&self, hint: &str, node: &Node) -> String {
        let clean = in_one_word(hint.trim_start_matches('/'));
        let base = match clean.as_str() {
            "" => node.op().to_lowercase(),
            INPUT => "input_layer".into(),
            _ => clean,
        };
        let taken = |name: &String| self.places.contains_key(name);
        if !taken(&base) {
            return base;
        }
        // Started at the layer's number, the search is short even where every layer has the same name.
        (self.made.len()..)
            .map(|number| format!("{base}_{number}"))
            .find(|name| !taken(name))
            .expect("there is no last number")
    }

    fn output(&mut self, graph: &GraphProto, options: &ReadOptions) -> Result<Live, String> {
        let names: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        let name = match (&options.output, names.as_slice()) {
            (Some(wanted), names) if names.contains(&wanted.as_str()) => wanted.clone(),
            (None, [only]) => only.to_string(),
            _ => return Err(format!("its outputs are {}; say which is meant", names.join(", "))),
        };
        let proto = super::proto::NodeProto {
            name: "output".into(),
            op_type: "output".into(),
            input: vec![name.clone()],
            ..Default::default()
        };
        let node = Node { proto: &proto, opset: 0 };
        let fail = |problem: String| format!("output `{name}`: {problem}");
        match self.values.get(&name) {
            Some(Value::Live(live)) if live.is_plain() => Ok(live.clone()),
            Some(Value::Live(live)) if live.dims.len() == 2 => {
                let live = self.vector(&node, 0).map_err(fail)?;
                if live.is_plain_vector() {
                    Ok(live)
                } else {
                    Err(fail("its features come in no order that a layer gives".into()))
                }
            }
            Some(Value::Live(live)) if live.shape.height * live.shape.width == 1 && live.channel_axis().is_some() => {
                Ok(live.clone())
            }
            Some(Value::Live(_)) => self.picture(&node, 0).map_err(fail),
            Some(Value::Constant(_)) => Err(fail("it does not depend on the image".into())),
            None => Err(fail("it comes from nowhere".into())),
        }
    }

    fn finish(mut self, name: String, output: Live, layout: Layout) -> Result<Model, String> {
        let output = fuse::fuse(&mut self, output.tensor);
        let mut needed: HashSet<&str> = [output.as_str()].into();
        for made in self.made.iter().rev() {
            if needed.contains(made.name.as_str()) {
                needed.extend(made.inputs.iter().map(String::as_str));
            }
        }
        let mut layers = Vec::new();
        for made in self.made.iter().filter(|made| needed.contains(made.name.as_str())) {
            let Op::Kind(kind) = &made.op else {
                let problem = "this function has no layer here, alone or as part of an activation that is known (SiLU, GELU, hard swish)";
                return Err(format!("{}: {problem}", made.label));
            };
            layers.push(Layer { name: made.name.clone(), inputs: made.inputs.clone(), kind: kind.clone() });
        }
        let kept = |key: &str| key.rsplit_once('.').is_some_and(|(layer, _)| needed.contains(layer));
        let constants = self
            .constants
            .iter()
            .filter(|(key, _)| kept(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let name = in_one_word(&name);
        let graph =
            Graph { name: if name.is_empty() { "onnx".into() } else { name }, input: self.input, layers, output };
        graph.check().map_err(|error| error.to_string())?;
        Ok(Model { graph, layout, constants })
    }
}

/// A name without blanks and without what a terminal would obey.
fn in_one_word(name: &str) -> String {
    name.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

/// A layer's name from its node.
pub fn hint(node: &Node) -> String {
    let outputs = node.proto.output.first().cloned().unwrap_or_default();
    if node.proto.name.is_empty() { outputs } else { node.proto.name.clone() }
}

/// A layer's name from its weights, where these carry one; else from its node.
pub fn hint_from_weight(node: &Node, index: usize) -> String {
    let weight = node.input(index).unwrap_or_default();
    let named = [".weight", "_w_0", "/kernel:0"].iter().find_map(|ending| weight.strip_suffix(ending));
    named.filter(|name| !name.is_empty()).map_or_else(|| hint(node), str::to_string)
}
