//! The walk over an ONNX graph: each node is folded to a constant or translated into layers.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use nettriage_net::{INPUT, Shape, shape, shorten};

use super::attributes::Node;
use super::builder::GraphBuilder;
use super::constant::Constant;
use super::model::{Layout, Model, ReadOptions};
use super::proto::type_proto::Value::TensorType;
use super::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_shape_proto::dimension};
use super::readers::WeightReaders;
use super::symbolic::SymbolicTensor;
use super::translate::{Translator, Value};
use super::{evaluate, fold, fuse, operators};

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
    let mut graph = model.graph.ok_or("not an ONNX model: it holds no graph")?;
    let mut values = HashMap::new();
    let mut declared = 0usize;
    // Each tensor is dropped once it is converted, so that only one of them is in memory twice.
    for tensor in std::mem::take(&mut graph.initializer) {
        let constant = Constant::from_proto(&tensor, folder)
            .map_err(|problem| format!("initializer `{}`: {problem}", tensor.name))?;
        declared = declared.saturating_add(constant.owned());
        values.insert(tensor.name, Value::Constant(constant));
    }
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !values.contains_key(&input.name)).collect();
    let [input] = inputs.as_slice() else {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        return Err(format!("it has {} inputs ({}); a model with one input is read", names.len(), names.join(", ")));
    };
    let (image, layout) = image(input, &graph, options)?;
    let builder = GraphBuilder::new(image.shape, declared);
    values.insert(input.name.clone(), Value::Symbolic(image));
    let mut translator =
        Translator { values, builder, readers: WeightReaders::default(), not_a_number: HashMap::new() };
    let mut uses = HashMap::new();
    count_uses(&graph, &mut uses);
    for proto in &graph.node {
        let node = Node { proto, opset };
        visit(&mut translator, &node, folder, 0).map_err(|problem| format!("{}: {problem}", node.label()))?;
        for name in &proto.input {
            drop_unused(&mut translator, &mut uses, name);
        }
    }
    let output = output(&mut translator, &graph, options)?;
    let mut builder = translator.builder;
    let output = fuse::fuse(&mut builder, output.name);
    let (graph, weights) = builder.finish(&graph.name, output)?;
    let shared = translator.readers.shared(&graph);
    Ok(Model { graph, layout, shared, weights })
}

/// The model's input, and the order of its axes.
fn image(
    input: &ValueInfoProto,
    graph: &GraphProto,
    options: &ReadOptions,
) -> Result<(SymbolicTensor, Layout), String> {
    let fail = |problem: String| format!("input `{}`: {problem}", input.name);
    let dims = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TensorType(tensor)) => tensor.shape.as_ref(),
        None => None,
    };
    let dims: Vec<Option<usize>> = dims.map_or_else(Vec::new, |shape| {
        let extent = |value: &Option<dimension::Value>| match value {
            Some(dimension::Value::DimValue(value)) => usize::try_from(*value).ok().filter(|&v| v > 0),
            _ => None,
        };
        shape.dim.iter().map(|dim| extent(&dim.value)).collect()
    });
    let batch = dims.first().copied().flatten().unwrap_or(1);
    let given =
        || options.input.ok_or_else(|| fail("its axes are dynamic; give its shape, such as `--input 3x32x32`".into()));
    match dims.as_slice() {
        [_, _, _, _] => {
            let layout =
                if enters_channels_last(graph, &input.name) { Layout::ChannelsLast } else { Layout::ChannelsFirst };
            let order = if layout == Layout::ChannelsLast { [3, 1, 2] } else { [1, 2, 3] };
            let shape = match order.map(|axis| dims[axis]) {
                [Some(c), Some(h), Some(w)] => Shape::new(c, h, w),
                open => {
                    let given = given()?;
                    let fits = open
                        .iter()
                        .zip([given.channels, given.height, given.width])
                        .all(|(dim, g)| dim.is_none_or(|d| d == g));
                    if !fits {
                        return Err(fail(format!("it takes {open:?} (C, H, W), not {given}")));
                    }
                    given
                }
            };
            shape::check_extent(shape).map_err(fail)?;
            let name = INPUT.to_string();
            Ok(match layout {
                Layout::ChannelsFirst => (SymbolicTensor::channels_first(name, shape, batch), layout),
                Layout::ChannelsLast => (SymbolicTensor::channels_last(name, shape, batch), layout),
            })
        }
        [_, features] => {
            let features = features.map_or_else(|| given().map(Shape::elements), Ok)?;
            shape::check_extent(Shape::new(features, 1, 1)).map_err(fail)?;
            Ok((SymbolicTensor::vector(INPUT.into(), features, batch), Layout::ChannelsFirst))
        }
        [] => {
            let shape = given()?;
            shape::check_extent(shape).map_err(fail)?;
            Ok((SymbolicTensor::channels_first(INPUT.into(), shape, 1), Layout::ChannelsFirst))
        }
        _ => Err(fail(format!("it has {} axes; a batch of images has 4, of vectors 2", dims.len()))),
    }
}

/// Whether the model takes (N, H, W, C). ONNX's own operators take channels first, so such an input meets a Transpose
/// to (N, C, H, W) before any operator that reads more than one pixel.
fn enters_channels_last(graph: &GraphProto, input: &str) -> bool {
    const PER_PIXEL: [&str; 11] =
        ["Identity", "Cast", "Add", "Sub", "Mul", "Div", "Clip", "Relu", "Pad", "MatMul", "BatchNormalization"];
    let mut reached: HashSet<&str> = [input].into();
    for node in &graph.node {
        if !node.input.iter().any(|name| reached.contains(name.as_str())) {
            continue;
        }
        if node.op_type == "Transpose" && node.attribute.iter().any(|a| a.name == "perm" && a.ints == [0, 3, 1, 2]) {
            return true;
        }
        if PER_PIXEL.contains(&node.op_type.as_str()) {
            reached.extend(node.output.iter().map(String::as_str));
        }
    }
    false
}

fn visit(translator: &mut Translator, node: &Node, folder: Option<&Path>, depth: usize) -> Result<(), String> {
    if !matches!(node.proto.domain.as_str(), "" | "ai.onnx") {
        return Err("an operator of a custom domain is not supported; export the model with standard operators".into());
    }
    if node.op() == "If" {
        return branch(translator, node, folder, depth);
    }
    let mut constants = Vec::new();
    for name in &node.proto.input {
        match translator.values.get(name) {
            Some(Value::Constant(constant)) => constants.push(Some(constant)),
            None if name.is_empty() => constants.push(None),
            Some(Value::Symbolic(_)) => break,
            None if translator.not_a_number.contains_key(name) => break,
            None => return Err(format!("no node gives its input `{name}`")),
        }
    }
    let results = if constants.len() == node.proto.input.len() {
        let read: usize = constants.iter().flatten().map(|constant| constant.stored()).sum();
        let folded = fold::node(node, &constants, folder)?;
        let computed = evaluate::work(node, &constants, &folded);
        translator.readers.folded(node, &constants, &folded);
        // A Constant node holds its value in the file, as an initializer does.
        let owned = folded.iter().map(Constant::owned).sum();
        if node.op() == "Constant" {
            translator.builder.credit(owned);
        }
        translator.builder.charge(owned)?;
        translator.builder.charge_work(read.saturating_add(owned).saturating_add(computed))?;
        folded.into_iter().map(Value::Constant).collect()
    } else {
        let before = translator.builder.nodes.len();
        let results = operators::node(translator, node)?;
        translator.readers.translated(node, &translator.values, &translator.builder.nodes[before..]);
        results
    };
    for (name, value) in node.proto.output.iter().zip(results) {
        define(translator, name, value)?;
    }
    Ok(())
}

/// How often each tensor is an input of a node, in subgraphs too.
fn count_uses<'a>(graph: &'a GraphProto, uses: &mut HashMap<&'a str, usize>) {
    for node in &graph.node {
        for name in &node.input {
            *uses.entry(name).or_default() += 1;
        }
        for subgraph in node.attribute.iter().filter_map(|attribute| attribute.g.as_deref()) {
            count_uses(subgraph, uses);
        }
    }
    for output in &graph.output {
        *uses.entry(&output.name).or_default() += 1;
    }
}

/// Drops a constant after its last use.
fn drop_unused(translator: &mut Translator, uses: &mut HashMap<&str, usize>, name: &str) {
    let Some(count) = uses.get_mut(name) else { return };
    *count = count.saturating_sub(1);
    if *count == 0
        && matches!(translator.values.get(name), Some(Value::Constant(_)))
        && let Some(Value::Constant(constant)) = translator.values.remove(name)
    {
        translator.builder.refund(constant.owned());
    }
}

fn define(translator: &mut Translator, name: &str, value: Value) -> Result<(), String> {
    if !name.is_empty() && translator.values.insert(name.to_string(), value).is_some() {
        return Err(format!("another node gives its output `{name}` already"));
    }
    Ok(())
}

/// An If with a constant condition, replaced by the nodes of its branch. PyTorch exports `squeeze` so.
fn branch(translator: &mut Translator, node: &Node, folder: Option<&Path>, depth: usize) -> Result<(), String> {
    if depth > 8 {
        return Err("its branches are nested more than 8 deep".into());
    }
    let condition = translator.required(node, 0)?.scalar().ok_or("its condition is not a scalar")?;
    let name = if condition != 0.0 { "then_branch" } else { "else_branch" };
    let graph = node.graph(name).ok_or_else(|| format!("it has no {name}"))?;
    for tensor in &graph.initializer {
        let constant = Constant::from_proto(tensor, folder)?;
        translator.builder.charge(constant.owned())?;
        translator.values.insert(tensor.name.clone(), Value::Constant(constant));
    }
    for proto in &graph.node {
        let inner = Node { proto, opset: node.opset };
        visit(translator, &inner, folder, depth + 1).map_err(|problem| format!("{}: {problem}", inner.label()))?;
    }
    for (name, given) in node.proto.output.iter().zip(&graph.output) {
        let value = translator.values.get(&given.name).cloned();
        let value = value.ok_or_else(|| format!("no node gives its output `{}`", given.name))?;
        if translator.values.insert(name.clone(), value).is_some() {
            return Err(format!("another node gives its output `{name}` already"));
        }
    }
    Ok(())
}

/// The output to take, as (N, C, H, W) or (N, F).
fn output(translator: &mut Translator, graph: &GraphProto, options: &ReadOptions) -> Result<SymbolicTensor, String> {
    let names: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let listed = || {
        let described = |name: &&str| match translator.values.get(*name) {
            Some(Value::Symbolic(tensor)) => format!("`{name}` {:?}", tensor.extents()),
            _ => format!("`{name}`"),
        };
        shorten(&names.iter().map(described).collect::<Vec<_>>())
    };
    let name = match (&options.output, names.as_slice()) {
        (Some(wanted), names) if names.contains(&wanted.as_str()) => wanted.clone(),
        (Some(wanted), _) => return Err(format!("it has no output `{wanted}`; its outputs are {}", listed())),
        (None, [only]) => only.to_string(),
        (None, []) => return Err("it has no output; export the model again".into()),
        (None, [first, ..]) => {
            let count = names.len();
            return Err(format!("it has {count} outputs: {}; choose one, such as `--graph-output {first}`", listed()));
        }
    };
    let proto =
        NodeProto { name: "output".into(), op_type: "output".into(), input: vec![name.clone()], ..Default::default() };
    let node = Node { proto: &proto, opset: 0 };
    let fail = |problem: String| format!("output `{name}`: {problem}");
    match translator.values.get(&name) {
        Some(Value::Symbolic(tensor)) if tensor.is_plain() => Ok(tensor.clone()),
        Some(Value::Symbolic(tensor)) if tensor.dims.len() == 2 => {
            let vector = translator.as_vector(&node, 0).map_err(fail)?;
            if vector.is_plain_vector() { Ok(vector) } else { Err(fail("its features are permuted".into())) }
        }
        Some(Value::Symbolic(tensor))
            if tensor.shape.height * tensor.shape.width == 1 && tensor.channel_axis().is_some() =>
        {
            Ok(tensor.clone())
        }
        Some(Value::Symbolic(_)) => translator.as_feature_map(&node, 0).map_err(fail),
        Some(Value::Constant(_)) => Err(fail("it does not depend on the image".into())),
        None => Err(fail("no node gives it".into())),
    }
}
