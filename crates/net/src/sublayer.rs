//! The sublayers of a transformer: attention or an MLP with its norm and its skip, found in a network and copied.

use std::collections::HashMap;
use std::fmt;

use crate::block::{self, Block, Unit};
use crate::layer::{Initial, Role};
use crate::{Error, Graph, Kind, Layer, Network, Shape, Tensor, Weights};

/// A kind of sublayer of an encoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sublayer {
    /// Layers with a product of two tensors.
    Attention,
    /// 1x1 convolutions or linear layers with an activation between them, and what else treats every position alone.
    Mlp,
}

impl fmt::Display for Sublayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sublayer::Attention => "attention",
            Sublayer::Mlp => "mlp",
        })
    }
}

/// Layers of a graph that are a sublayer: their places, and the one tensor that enters.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    start: usize,
    end: usize,
    input: String,
}

impl Found {
    /// The layers.
    pub(crate) fn layers<'g>(&self, graph: &'g Graph) -> &'g [Layer] {
        &graph.layers[self.start..self.end]
    }
}

/// The sublayers of a kind inside a block that one tensor enters and one leaves, both of the block's input's shape, in order.
pub(crate) fn inside(graph: &Graph, block: &Block, kind: Sublayer) -> Result<Vec<Found>, Error> {
    let shape = graph.shape_of(&block.input)?;
    let position = |name: Option<&String>| name.and_then(|name| graph.position(name));
    let Some((first, last)) = position(block.layers.first()).zip(position(block.layers.last())) else {
        return Ok(Vec::new());
    };
    Ok(all(graph, shape, kind)?.into_iter().filter(|found| found.start >= first && found.end <= last + 1).collect())
}

/// All sublayers of a kind in a network with inputs and outputs of this shape.
fn all(graph: &Graph, shape: Shape, kind: Sublayer) -> Result<Vec<Found>, Error> {
    let (mut list, shapes) = (Vec::new(), graph.shapes()?);
    for Unit { start, end, .. } in block::units(graph) {
        let layers = &graph.layers[start..end];
        let by_position = |layer: &Layer| by_position(layer, &graph.input_shapes(layer, &shapes));
        if !is_sublayer(layers, kind) || kind == Sublayer::Mlp && !layers.iter().all(by_position) {
            continue;
        }
        let Ok(unit) = block::range(graph, "unit", &layers[0].name, &layers[layers.len() - 1].name) else { continue };
        if graph.shape_of(&unit.input)? == shape && graph.shape_of(&unit.output)? == shape {
            list.push(Found { start, end, input: unit.input });
        }
    }
    Ok(list)
}

/// Whether it has the layers with weights of a kind of sublayer.
fn is_sublayer(layers: &[Layer], kind: Sublayer) -> bool {
    let attends = layers.iter().any(|layer| matches!(layer.kind, Kind::MatMul(_)));
    match kind {
        Sublayer::Attention => attends,
        Sublayer::Mlp => {
            let products: Vec<_> = layers.iter().filter_map(|layer| layer.kind.as_convolution()).collect();
            let pointwise = products.iter().all(|conv| (conv.kernel, conv.stride, conv.groups) == ([1; 2], [1; 2], 1));
            let bends = layers.iter().any(|layer| matches!(layer.kind, Kind::Activation(_)));
            !attends && products.len() > 1 && pointwise && bends
        }
    }
}

/// Whether an output position of a layer depends on the same position of its inputs alone.
fn by_position(layer: &Layer, inputs: &[Shape]) -> bool {
    match layer.kind.role() {
        Role::Convolution | Role::Linear | Role::Norm | Role::CrossChannelNorm | Role::Activation | Role::NoOp => true,
        Role::Merge => matches!(layer.kind, Kind::Add | Kind::Mul),
        // A reshape that keeps the channels puts positions in rows of another length.
        Role::Reshape => {
            let keeps = |kind: &Kind| matches!(kind, Kind::Reshape(to) if to.shape.channels == inputs[0].channels);
            matches!(layer.kind, Kind::Constant(_)) || keeps(&layer.kind)
        }
        Role::Rearrangement => matches!(layer.kind, Kind::Slice(_)),
        Role::TransposedConvolution | Role::Softmax | Role::Pooling | Role::AdaptivePooling | Role::Upsampling => false,
    }
}

/// A copy of the block's first sublayer of a kind, or of the network's first one of its shape, that reads `input`. Layers are named
/// `<block>.attention.1` and so on. Constants of the network have their values, norms weight 1 and bias 0, all other weights are zero.
pub(crate) fn copy(
    network: &Network,
    block: &Block,
    kind: Sublayer,
    input: &str,
) -> Result<Vec<(Layer, Weights)>, Error> {
    let graph = &network.graph;
    let shape = graph.shape_of(&block.input)?;
    let output = graph.shape_of(&block.output)?;
    let fail = |problem: String| Error::block(&block.name, problem);
    if shape != output {
        return Err(fail(format!("{kind} keeps its input's shape, {shape}, and the block's output is {output}")));
    }
    let own = inside(graph, block, kind)?.into_iter().next();
    let found = match own {
        Some(found) => Some(found),
        None => all(graph, shape, kind)?.into_iter().next(),
    };
    let found =
        found.ok_or_else(|| fail(format!("there is no {kind} from {shape} to {shape} in the network to copy")))?;
    let mut names: HashMap<&str, String> = HashMap::from([(found.input.as_str(), input.to_owned())]);
    let shapes = graph.shapes()?;
    let mut added = Vec::new();
    for (number, layer) in (1..).zip(found.layers(graph)) {
        let name = format!("{}{number}", prefix(block, kind));
        if graph.position(&name).is_some() && !block.layers.contains(&name) {
            return Err(fail(format!("there is a layer `{name}` already; give the block another name")));
        }
        let inputs = layer.inputs.iter().map(|input| names[input.as_str()].clone()).collect();
        let first = graph.input_shapes(layer, &shapes)[0];
        let mut weights = Weights::new();
        for parameter in layer.kind.parameters(first) {
            let own = network.weights.get(&format!("{}.{}", layer.name, parameter.name));
            let value = match parameter.initial {
                Initial::Constant(value) => value,
                Initial::Normal { .. } | Initial::Uniform { .. } => 0.0,
            };
            let tensor = match own.filter(|_| layer.kind.is_fixed()) {
                Some(own) => own.clone(),
                None => Tensor::full(&parameter.shape, value),
            };
            weights.insert(format!("{name}.{}", parameter.name), tensor);
        }
        added.push((Layer { name: name.clone(), inputs, kind: layer.kind.clone() }, weights));
        names.insert(&layer.name, name);
    }
    Ok(added)
}

fn prefix(block: &Block, kind: Sublayer) -> String {
    format!("{}.{kind}.", block.name)
}

/// The sublayer that [`copy`] put in the place of a block, and its layers; none if there is another substitute.
pub(crate) fn copied<'g>(graph: &'g Graph, block: &Block) -> Option<(Sublayer, Vec<&'g Layer>)> {
    [Sublayer::Attention, Sublayer::Mlp].into_iter().find_map(|kind| {
        let prefix = prefix(block, kind);
        let numbered = |layer: &&Layer| {
            let number = layer.name.strip_prefix(&prefix);
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
        };
        let layers: Vec<&Layer> = graph.layers.iter().filter(numbered).collect();
        (!layers.is_empty()).then_some((kind, layers))
    })
}
