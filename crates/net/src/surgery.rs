//! Surgery: a new network with blocks replaced by single layers, removed, or re-initialised.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::layer::{Initial, Linear, Rank};
use crate::network::insert_initial_weights;
use crate::{Activation, Conv, Error, Graph, Kind, Layer, Network, Padding, Shape, Tensor, Weights, block};

/// What replaces a block. In text: `conv3x3`, `conv1x1`, `conv3x3g4` (four groups), `linear`, `drop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Substitute {
    /// One convolution, with the block's closing norm and activation.
    Conv {
        /// Rows and columns of the kernel.
        kernel: usize,
        /// Groups; 1 is dense.
        groups: usize,
    },
    /// One linear layer, for a block from vector to vector.
    Linear,
    /// Nothing: the block's input is used as its output.
    Drop,
}

impl fmt::Display for Substitute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Substitute::Conv { kernel, groups: 1 } => write!(f, "conv{kernel}x{kernel}"),
            Substitute::Conv { kernel, groups } => write!(f, "conv{kernel}x{kernel}g{groups}"),
            Substitute::Linear => write!(f, "linear"),
            Substitute::Drop => write!(f, "drop"),
        }
    }
}

impl FromStr for Substitute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Substitute, Error> {
        let unknown =
            || Error::Name(format!("no substitute `{text}`; use conv3x3, conv1x1, conv3x3g4, linear or drop"));
        match text {
            "linear" => return Ok(Substitute::Linear),
            "drop" => return Ok(Substitute::Drop),
            _ => {}
        }
        let sizes = text.strip_prefix("conv").ok_or_else(unknown)?;
        let (extent, groups) = sizes.split_once('g').unwrap_or((sizes, "1"));
        let (rows, columns) = extent.split_once('x').ok_or_else(unknown)?;
        let number =
            |digits: &str| digits.parse::<usize>().ok().filter(|n| (1..1 << 16).contains(n)).ok_or_else(unknown);
        if rows != columns {
            return Err(unknown());
        }
        Ok(Substitute::Conv { kernel: number(rows)?, groups: number(groups)? })
    }
}

impl TryFrom<String> for Substitute {
    type Error = Error;

    fn try_from(text: String) -> Result<Substitute, Error> {
        text.parse()
    }
}

impl From<Substitute> for String {
    fn from(substitute: Substitute) -> String {
        substitute.to_string()
    }
}

/// A new network with each block replaced by its substitute.
///
/// A substitute's layers are named `<block>.conv` or `<block>.linear`, `<block>.norm`, `<block>.act`. There is a norm
/// only where the block has a batch norm, and then the layer before it has no bias. The activation is the block's
/// closing one, with its slopes if it is a PReLU. The stride follows from the shapes. Weights are zero, those of the
/// norm 1, 0, 0, 1 (weight, bias, mean, variance), until an [init](crate::init) sets them. All other layers keep their
/// names and weights.
///
/// # Errors
/// Blocks that are not blocks of this network, or overlap; a substitute that cannot map the block's input shape to its
/// output shape; a layer name that is taken.
pub fn compress(network: &Network, replacements: &[(Block, Substitute)]) -> Result<Network, Error> {
    let graph = &network.graph;
    let mut starts: BTreeMap<usize, (&Block, Substitute)> = BTreeMap::new();
    for (block, substitute) in replacements {
        let start = locate(graph, block)?;
        let overlap = starts.insert(start, (block, *substitute)).is_some();
        let ends_before = |(at, (other, _)): (&usize, &(&Block, _))| at + other.layers.len() <= start;
        let begins_after = |(at, _): (&usize, _)| start + block.layers.len() <= *at;
        if overlap
            || !starts.range(..start).next_back().is_none_or(ends_before)
            || !starts.range(start + 1..).next().is_none_or(begins_after)
        {
            return Err(Error::block(&block.name, "it overlaps with another block that is replaced"));
        }
    }

    let mut weights = network.weights.clone();
    let mut layers: Vec<Layer> = Vec::with_capacity(graph.layers.len());
    let mut renamed: HashMap<&str, String> = HashMap::new();
    let current = |renamed: &HashMap<&str, String>, name: &String| renamed.get(name.as_str()).unwrap_or(name).clone();
    let mut at = 0;
    while at < graph.layers.len() {
        let Some((block, substitute)) = starts.get(&at) else {
            let mut layer = graph.layers[at].clone();
            layer.inputs = layer.inputs.iter().map(|input| current(&renamed, input)).collect();
            layers.push(layer);
            at += 1;
            continue;
        };
        let input = current(&renamed, &block.input);
        let added = substitute_for(network, block, *substitute, input.clone())?;
        let output = added.last().map_or(input, |(layer, _)| layer.name.clone());
        let removed: HashSet<&str> = block.layers.iter().map(String::as_str).collect();
        weights.retain(|key, _| key.rsplit_once('.').is_none_or(|(layer, _)| !removed.contains(layer)));
        for (layer, own_weights) in added {
            weights.extend(own_weights);
            layers.push(layer);
        }
        renamed.insert(&block.output, output);
        at += block.layers.len();
    }
    let output = current(&renamed, &graph.output);
    let child = Graph { name: graph.name.clone(), input: graph.input, layers, output };
    child.shapes()?;
    Ok(Network { graph: child, weights })
}

/// Names of the substitute's layers in a network that [`compress`] made; none after a drop.
pub fn substitute_layers(block: &Block, network: &Network) -> Vec<String> {
    let names = ["conv", "linear", "norm", "act", "flatten"].map(|part| format!("{}.{part}", block.name));
    names.into_iter().filter(|name| network.graph.layer(name).is_some()).collect()
}

/// The same network with the block's weights re-initialised, as [`Network::initialised`] sets them; constants of the
/// network ([`Kind::is_fixed`]) keep their values.
///
/// # Errors
/// A block that is not one of this network.
pub fn reinit(network: &Network, block: &Block, rng: &mut impl Rng) -> Result<Network, Error> {
    let start = locate(&network.graph, block)?;
    let shapes = network.graph.shapes()?;
    let mut result = network.clone();
    let layers = &network.graph.layers[start..start + block.layers.len()];
    for layer in layers.iter().filter(|layer| !layer.kind.is_fixed()) {
        let input = network.graph.input_shapes(layer, &shapes)[0];
        insert_initial_weights(&mut result.weights, layer, input, rng);
    }
    Ok(result)
}

/// Index of the block's first layer, after a check that it is a block of this graph.
pub(crate) fn locate(graph: &Graph, of: &Block) -> Result<usize, Error> {
    let ends = of.layers.first().zip(of.layers.last());
    let (first, last) = ends.ok_or_else(|| Error::block(&of.name, "it has no layers"))?;
    let found = block::range(graph, &of.name, first, last)?;
    if found != *of {
        let problem = "its layers, input or output are not this network's; find the block again in this network";
        return Err(Error::block(&of.name, problem));
    }
    graph.position(first).ok_or_else(|| graph.no_tensor(first))
}

/// The activation that closes the block, if there is one: its last layer, except for dropout and identity, and for
/// max-pooling after a monotone activation f, where max(f(x)) = f(max(x)).
pub(crate) fn closing_activation<'a>(graph: &'a Graph, block: &Block) -> Option<&'a Layer> {
    let mut pooled = false;
    for layer in block.layers.iter().rev().filter_map(|name| graph.layer(name)) {
        match &layer.kind {
            Kind::Dropout(_) | Kind::Identity => {}
            Kind::MaxPool(_) => pooled = true,
            Kind::Activation(activation) if !pooled || activation.is_monotone() => return Some(layer),
            Kind::Activation(_)
            | Kind::Conv(_)
            | Kind::ConvTranspose(_)
            | Kind::Linear(_)
            | Kind::BatchNorm(_)
            | Kind::Affine
            | Kind::AvgPool(_)
            | Kind::AdaptiveAvgPool(_)
            | Kind::Add
            | Kind::Mul
            | Kind::Concat(_)
            | Kind::MatMul(_)
            | Kind::Permute(_)
            | Kind::Gather(_)
            | Kind::Constant(_)
            | Kind::Reduce(_)
            | Kind::Resize(_)
            | Kind::LayerNorm(_)
            | Kind::GroupNorm(_)
            | Kind::Flatten
            | Kind::Reshape(_)
            | Kind::ChannelShuffle(_)
            | Kind::Slice(_)
            | Kind::Pad(_)
            | Kind::Upsample(_)
            | Kind::LocalResponseNorm(_)
            | Kind::Softmax(_) => return None,
        }
    }
    None
}

fn substitute_for(
    network: &Network,
    block: &Block,
    substitute: Substitute,
    input: String,
) -> Result<Vec<(Layer, Weights)>, Error> {
    let graph = &network.graph;
    let (from, to) = (graph.shape_of(&block.input)?, graph.shape_of(&block.output)?);
    let fail = |problem: String| Error::block(&block.name, problem);
    let norm = block.layers.iter().filter_map(|name| graph.layer(name)).rfind(|l| matches!(l.kind, Kind::BatchNorm(_)));
    let (part, main) = match substitute {
        Substitute::Drop if from == to => return Ok(Vec::new()),
        Substitute::Drop => {
            return Err(fail(format!(
                "it cannot be dropped: its input is {from} and its output {to}, and only equal shapes connect"
            )));
        }
        Substitute::Linear => {
            if !(from.is_vector() && to.is_vector()) {
                return Err(fail(format!(
                    "a linear layer cannot map {from} to {to}; use a convolution, such as conv3x3"
                )));
            }
            ("linear", Kind::Linear(Linear { features: to.channels, bias: norm.is_none() }))
        }
        Substitute::Conv { kernel, groups } => {
            ("conv", Kind::Conv(convolution(kernel, groups, norm.is_none(), from, to).map_err(fail)?))
        }
    };
    let mut kinds = vec![(part, main)];
    kinds.extend(norm.map(|layer| ("norm", layer.kind.clone())));
    let closing = closing_activation(graph, block);
    kinds.extend(closing.map(|layer| ("act", layer.kind.clone())));
    if matches!(substitute, Substitute::Conv { .. }) && is_vector(graph, &block.output) {
        kinds.push(("flatten", Kind::Flatten));
    }

    let mut added = Vec::new();
    let (mut last, mut shape) = (input, from);
    for (part, kind) in kinds {
        let name = format!("{}.{part}", block.name);
        if graph.position(&name).is_some() && !block.layers.contains(&name) {
            return Err(fail(format!("there is a layer `{name}` already; give the block another name")));
        }
        let layer = Layer { name: name.clone(), inputs: vec![last], kind };
        let mut weights = Weights::new();
        for parameter in layer.kind.parameters(shape) {
            // Zero until an init sets them; a norm begins as the identity.
            let value = match parameter.initial {
                Initial::Constant(value) if part == "norm" => value,
                Initial::Constant(_) | Initial::Normal { .. } | Initial::Uniform { .. } => 0.0,
            };
            weights.insert(format!("{name}.{}", parameter.name), Tensor::full(&parameter.shape, value));
        }
        if let (Kind::Activation(Activation::Prelu), Some(closing)) = (&layer.kind, closing)
            && let Some(slopes) = network.weights.get(&format!("{}.weight", closing.name))
        {
            weights.insert(format!("{name}.weight"), slopes.clone());
        }
        added.push((layer, weights));
        (last, shape) = (name, to);
    }
    Ok(added)
}

/// Whether a tensor is a vector (N, F) and not a feature map (N, C, 1, 1), which other programs distinguish.
fn is_vector(graph: &Graph, tensor: &str) -> bool {
    let mut vectors: HashSet<&str> = HashSet::new();
    for layer in &graph.layers {
        let vector = match layer.kind.rank() {
            Rank::Vector => true,
            Rank::AsInputs => layer.inputs.iter().all(|input| vectors.contains(input.as_str())),
            Rank::FeatureMap => false,
        };
        if vector {
            vectors.insert(&layer.name);
        }
    }
    vectors.contains(tensor)
}

/// The convolution with a square kernel that maps one shape to another.
fn convolution(kernel: usize, groups: usize, bias: bool, from: Shape, to: Shape) -> Result<Conv, String> {
    if groups == 0 || !from.channels.is_multiple_of(groups) || !to.channels.is_multiple_of(groups) {
        return Err(format!(
            "{groups} groups do not divide its {} input and {} output channels",
            from.channels, to.channels
        ));
    }
    let problem = || format!("a {kernel}x{kernel} convolution cannot map {from} to {to}; try another kernel");
    let (rows, top, bottom) = stride_and_padding(kernel, from.height, to.height).ok_or_else(problem)?;
    let (columns, left, right) = stride_and_padding(kernel, from.width, to.width).ok_or_else(problem)?;
    Ok(Conv {
        filters: to.channels,
        kernel: [kernel; 2],
        stride: [rows, columns],
        padding: Padding { top, bottom, left, right },
        dilation: [1; 2],
        groups,
        bias,
    })
}

/// Stride, and padding before and after, along one axis.
///
/// If they fit, the usual ones: half the kernel on both sides, and the ratio of the extents as stride. Otherwise the
/// smallest stride for which the exact padding is smaller than the kernel on either side.
fn stride_and_padding(kernel: usize, from: usize, to: usize) -> Option<(usize, usize, usize)> {
    let half = kernel / 2;
    let stride = from.div_ceil(to);
    if kernel % 2 == 1 && from.div_ceil(stride) == to {
        return Some((stride, half, half));
    }
    (1..=from).find_map(|stride| {
        let padding = ((to - 1) * stride + kernel).checked_sub(from)?;
        (padding <= 2 * (kernel - 1)).then_some((stride, padding / 2, padding.div_ceil(2)))
    })
}
