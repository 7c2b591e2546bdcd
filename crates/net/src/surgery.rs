//! Surgery: a new network with blocks replaced by substitutes, removed, or re-initialised.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::layer::{Initial, Linear, Rank};
use crate::network::insert_initial_weights;
use crate::sublayer;
pub use crate::sublayer::Sublayer;
use crate::{Activation, Conv, Error, Graph, Kind, Layer, Network, Padding, Shape, Tensor, Weights, block};

/// What replaces a block. In text: `conv3x3`, `conv1x1`, `conv3x3g4` (four groups), `separable3x3`, `linear`, each also
/// with `+skip`; `attention`, `mlp`; `drop`.
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
    /// A depthwise convolution, then a 1x1 convolution (Sifre, 2014; Chollet, arXiv:1610.02357), without an activation
    /// between them; then the block's closing norm and activation.
    Separable {
        /// Rows and columns of the depthwise kernel.
        kernel: usize,
    },
    /// One of these on the block's residual branch: its input is added before the closing activation.
    Skip(Branch),
    /// One attention or one MLP of a transformer, with its norm and its skip: a copy of the block's first, or of the network's first
    /// one of that shape.
    Sublayer(Sublayer),
}

/// The layers on the residual branch of a [`Substitute::Skip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Branch {
    /// As [`Substitute::Conv`].
    Conv {
        /// Rows and columns of the kernel.
        kernel: usize,
        /// Groups; 1 is dense.
        groups: usize,
    },
    /// As [`Substitute::Linear`].
    Linear,
    /// As [`Substitute::Separable`].
    Separable {
        /// Rows and columns of the depthwise kernel.
        kernel: usize,
    },
}

/// The end of the name of a substitute on the residual branch.
const SKIP: &str = "+skip";

impl Substitute {
    /// The layers of an affine map, and whether they are on a residual branch.
    fn branch(self) -> Option<(Branch, bool)> {
        match self {
            Substitute::Conv { kernel, groups } => Some((Branch::Conv { kernel, groups }, false)),
            Substitute::Linear => Some((Branch::Linear, false)),
            Substitute::Separable { kernel } => Some((Branch::Separable { kernel }, false)),
            Substitute::Skip(branch) => Some((branch, true)),
            Substitute::Sublayer(_) | Substitute::Drop => None,
        }
    }

    /// Whether it is an affine map before the block's closing activation, as inits in closed form give it.
    pub fn is_affine(self) -> bool {
        self.branch().is_some()
    }

    /// Rows and columns of the kernel of an affine map: 1 of a linear layer.
    pub fn kernel(self) -> Option<usize> {
        match self.branch()?.0 {
            Branch::Conv { kernel, .. } | Branch::Separable { kernel } => Some(kernel),
            Branch::Linear => Some(1),
        }
    }

    /// The groups of an affine map: 1 where the output depends on all input channels.
    pub fn groups(self) -> Option<usize> {
        match self.branch()?.0 {
            Branch::Conv { groups, .. } => Some(groups),
            Branch::Linear | Branch::Separable { .. } => Some(1),
        }
    }

    /// Whether it maps vectors only.
    pub fn is_linear(self) -> bool {
        matches!(self.branch(), Some((Branch::Linear, _)))
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Branch::Conv { kernel, groups: 1 } => write!(f, "conv{kernel}x{kernel}"),
            Branch::Conv { kernel, groups } => write!(f, "conv{kernel}x{kernel}g{groups}"),
            Branch::Linear => write!(f, "linear"),
            Branch::Separable { kernel } => write!(f, "separable{kernel}x{kernel}"),
        }
    }
}

impl fmt::Display for Substitute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Substitute::Conv { kernel, groups } => Branch::Conv { kernel: *kernel, groups: *groups }.fmt(f),
            Substitute::Linear => Branch::Linear.fmt(f),
            Substitute::Separable { kernel } => Branch::Separable { kernel: *kernel }.fmt(f),
            Substitute::Skip(branch) => write!(f, "{branch}{SKIP}"),
            Substitute::Sublayer(kind) => kind.fmt(f),
            Substitute::Drop => write!(f, "drop"),
        }
    }
}

impl FromStr for Substitute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Substitute, Error> {
        let unknown = || {
            Error::Name(format!(
                "no substitute `{text}`; use conv3x3, conv1x1, conv3x3g4, separable3x3 or linear, each also with {SKIP}, or attention, mlp, drop"
            ))
        };
        match text {
            "drop" => return Ok(Substitute::Drop),
            "attention" => return Ok(Substitute::Sublayer(Sublayer::Attention)),
            "mlp" => return Ok(Substitute::Sublayer(Sublayer::Mlp)),
            _ => {}
        }
        if let Some(branch) = text.strip_suffix(SKIP) {
            return branch_of(branch).map(Substitute::Skip).ok_or_else(unknown);
        }
        Ok(match branch_of(text).ok_or_else(unknown)? {
            Branch::Conv { kernel, groups } => Substitute::Conv { kernel, groups },
            Branch::Linear => Substitute::Linear,
            Branch::Separable { kernel } => Substitute::Separable { kernel },
        })
    }
}

fn branch_of(text: &str) -> Option<Branch> {
    if text == "linear" {
        return Some(Branch::Linear);
    }
    let number = |digits: &str| digits.parse::<usize>().ok().filter(|n| (1..1 << 16).contains(n));
    let square = |extent: &str| {
        let (rows, columns) = extent.split_once('x')?;
        if rows == columns { number(rows) } else { None }
    };
    if let Some(extent) = text.strip_prefix("separable") {
        return Some(Branch::Separable { kernel: square(extent)? });
    }
    let sizes = text.strip_prefix("conv")?;
    let (extent, groups) = sizes.split_once('g').unwrap_or((sizes, "1"));
    Some(Branch::Conv { kernel: square(extent)?, groups: number(groups)? })
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
/// A substitute's layers are named `<block>.depthwise`, `<block>.conv` or `<block>.linear`, `<block>.norm`, `<block>.skip`
/// (the sum with the block's input), `<block>.act`. There is a norm only where the block has a batch norm, and then the
/// layer before it has no bias. The activation is the block's
/// closing one, with its slopes if it is a PReLU. The layers of a copied attention or MLP are named `<block>.attention.1` and so on,
/// and are those that they are a copy of. The stride follows from the shapes. Weights are zero, those of the
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

/// The substitute to begin with for these blocks, which adds no parameters to blocks of usual networks: `conv1x1` where a
/// block holds attention, `conv1x1+skip` if all blocks keep their shapes; `separable3x3` where one holds depthwise
/// convolutions; otherwise `conv3x3`.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn usual(graph: &Graph, blocks: &[Block]) -> Result<Substitute, Error> {
    let holds = |wanted: fn(&Kind) -> bool| {
        let inside: HashSet<&str> = blocks.iter().flat_map(|block| &block.layers).map(String::as_str).collect();
        graph.layers.iter().any(|layer| inside.contains(layer.name.as_str()) && wanted(&layer.kind))
    };
    if holds(|kind| matches!(kind, Kind::MatMul(_))) {
        for block in blocks {
            if graph.shape_of(&block.input)? != graph.shape_of(&block.output)? {
                return Ok(Substitute::Conv { kernel: 1, groups: 1 });
            }
        }
        return Ok(Substitute::Skip(Branch::Conv { kernel: 1, groups: 1 }));
    }
    if holds(|kind| matches!(kind, Kind::Conv(conv) if conv.is_depthwise())) {
        return Ok(Substitute::Separable { kernel: 3 });
    }
    Ok(Substitute::Conv { kernel: 3, groups: 1 })
}

/// Names of the substitute's layers in a network that [`compress`] made; none after a drop.
pub fn substitute_layers(block: &Block, network: &Network) -> Vec<String> {
    let named = |part: &str| network.graph.layer(&format!("{}.{part}", block.name));
    let Some(product) = named("conv").or_else(|| named("linear")) else {
        let copied = sublayer::copied(&network.graph, block).map(|(_, layers)| layers).unwrap_or_default();
        return copied.into_iter().map(|layer| layer.name.clone()).collect();
    };
    let depthwise = named("depthwise").filter(|layer| product.inputs.contains(&layer.name));
    let mut chain: Vec<&Layer> = depthwise.into_iter().chain([product]).collect();
    // A layer of that name outside the block is not of the chain.
    for next in ["norm", "skip", "act", "flatten"].into_iter().filter_map(named) {
        if next.inputs.contains(&chain[chain.len() - 1].name) {
            chain.push(next);
        }
    }
    chain.into_iter().map(|layer| layer.name.clone()).collect()
}

/// What a substitute computes before its closing activation, with its norm taken as a part of it: y = W * x + b, or
/// y = x + W * x + b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffineMap {
    /// W as one convolution: dense for a separable one, of 1x1 for a linear layer.
    pub conv: Conv,
    /// Whether W is a depthwise convolution, then one of 1x1.
    pub separable: bool,
    /// Whether x is added.
    pub skip: bool,
}

impl From<Conv> for AffineMap {
    fn from(conv: Conv) -> AffineMap {
        AffineMap { conv, separable: false, skip: false }
    }
}

/// The map that replaces `block` in a network that [`compress`] made; none if the substitute is no affine map.
pub fn affine_map(block: &Block, child: &Network) -> Option<AffineMap> {
    let layers = substitute_layers(block, child);
    let named = |part: &str| {
        let name = format!("{}.{part}", block.name);
        child.graph.layer(&name).filter(|_| layers.contains(&name))
    };
    let own = named("conv").or_else(|| named("linear"))?.kind.as_convolution()?;
    let depthwise = named("depthwise").and_then(|layer| layer.kind.as_convolution());
    let conv = depthwise.map_or(own, |spatial| Conv { filters: own.filters, groups: 1, bias: own.bias, ..spatial });
    Some(AffineMap { conv, separable: depthwise.is_some(), skip: named("skip").is_some() })
}

/// Name of the layer whose output is y = W * x + b of [`affine_map`], without the norm and the sum with x; none if the
/// substitute is no affine map.
pub fn last_product(block: &Block, child: &Graph) -> Option<String> {
    let names = ["conv", "linear"].map(|part| format!("{}.{part}", block.name));
    names.into_iter().find(|name| child.layer(name).is_some())
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
    if let Substitute::Sublayer(kind) = substitute {
        return sublayer::copy(network, block, kind, &input);
    }
    let Some((branch, skip)) = substitute.branch() else {
        if from == to {
            return Ok(Vec::new());
        }
        return Err(fail(format!(
            "it cannot be dropped: its input is {from} and its output {to}, and only equal shapes connect"
        )));
    };
    if skip && from != to {
        return Err(fail(format!(
            "{substitute} adds its input, {from}, to its output, {to}, and only equal shapes add: use {branch}"
        )));
    }
    let mut kinds = match branch {
        Branch::Linear => {
            if !(from.is_vector() && to.is_vector()) {
                return Err(fail(format!(
                    "a linear layer cannot map {from} to {to}; use a convolution, such as conv3x3"
                )));
            }
            vec![("linear", Kind::Linear(Linear { features: to.channels, bias: norm.is_none() }))]
        }
        Branch::Conv { kernel, groups } => {
            vec![("conv", Kind::Conv(convolution(kernel, groups, norm.is_none(), from, to).map_err(fail)?))]
        }
        Branch::Separable { kernel } => {
            let within = Shape { channels: from.channels, ..to };
            let depthwise = convolution(kernel, from.channels, false, from, within).map_err(fail)?;
            let pointwise = Conv { bias: norm.is_none(), ..Conv::same(to.channels, 1) };
            vec![("depthwise", Kind::Conv(depthwise)), ("conv", Kind::Conv(pointwise))]
        }
    };
    kinds.extend(norm.map(|layer| ("norm", layer.kind.clone())));
    kinds.extend(skip.then_some(("skip", Kind::Add)));
    let closing = closing_activation(graph, block);
    kinds.extend(closing.map(|layer| ("act", layer.kind.clone())));
    if branch != Branch::Linear && is_vector(graph, &block.output) {
        kinds.push(("flatten", Kind::Flatten));
    }

    let mut added = Vec::new();
    let (mut last, mut shape) = (input.clone(), from);
    for (part, kind) in kinds {
        let name = format!("{}.{part}", block.name);
        if graph.position(&name).is_some() && !block.layers.contains(&name) {
            return Err(fail(format!("there is a layer `{name}` already; give the block another name")));
        }
        let mut layer = Layer { name: name.clone(), inputs: vec![last], kind };
        if part == "skip" {
            layer.inputs.insert(0, input.clone());
        }
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
        shape = layer.kind.output_shape(&vec![shape; layer.inputs.len()]).map_err(fail)?;
        added.push((layer, weights));
        last = name;
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
