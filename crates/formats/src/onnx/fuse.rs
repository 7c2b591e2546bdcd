//! Fusion of operators that are one layer here:
//!
//! - compositions of elementwise functions that are a known activation (SiLU, GELU, hard swish, hard sigmoid, ReLU6),
//!   recognised by their values, so that any way of writing them is found;
//! - constants that are multiplied or added after a convolution, linear layer, batch norm or affine layer, which go into
//!   its weights;
//! - zero padding before a convolution, which becomes the convolution's padding;
//! - channels of one tensor that are scaled and put into another order (`permute`).

use std::collections::{HashMap, VecDeque};

use nettriage_net::{Activation, Axis, Kind, layer};

use super::builder::{Function, GraphBuilder, Op, PendingNode};
use super::constant::Constant;
use super::permute::fold_permutations;

/// Fuses operators; returns the output's name.
pub fn fuse(builder: &mut GraphBuilder, output: String) -> String {
    for index in 0..builder.nodes.len() {
        if let Some((kind, input)) = response_norm(builder, index) {
            builder.nodes[index].op = Op::Kind(kind);
            builder.nodes[index].inputs = vec![input];
        }
    }
    for index in 0..builder.nodes.len() {
        if let Some((norm, input)) = layer_norm(builder, index) {
            let channels = builder.nodes[index].shape.channels;
            let node = &mut builder.nodes[index];
            node.op = Op::Kind(Kind::LayerNorm(norm));
            node.inputs = vec![input];
            let name = node.name.clone();
            let parts = [("weight", 1.0), ("bias", 0.0)];
            for (part, value) in &parts[..if norm.centred { 2 } else { 1 }] {
                if let Ok(constant) = Constant::fill(vec![channels], *value, false) {
                    builder.replace_weight(&name, part, constant);
                }
            }
        }
    }
    for index in (0..builder.nodes.len()).rev() {
        if let Some((activation, input)) = recognise(builder, index) {
            let node = &mut builder.nodes[index];
            node.op = Op::Kind(Kind::Activation(activation));
            node.inputs = vec![input];
            // It may have been an affine layer.
            let keys = ["weight", "bias"].map(|part| format!("{}.{part}", node.name));
            keys.iter().for_each(|key| drop(builder.weights.remove(key)));
        }
    }
    fold_permutations(builder, &output);
    let mut uses = uses(builder, &output);
    let mut alias: HashMap<String, String> = HashMap::new();
    for index in 0..builder.nodes.len() {
        let node = &mut builder.nodes[index];
        // The inner parts of a recognised activation are unused now; their constants must not be fused into its input.
        if !uses.contains_key(&node.name) {
            continue;
        }
        for input in &mut node.inputs {
            if let Some(other) = alias.get(input) {
                *input = other.clone();
            }
        }
        let [input] = node.inputs.as_slice() else { continue };
        let before = builder.positions.get(input).copied();
        let (name, input) = (node.name.clone(), input.clone());
        let alone = uses.get(&input) == Some(&1);
        let is = |wanted: fn(&Kind) -> bool| matches!(&builder.nodes[index].op, Op::Kind(kind) if wanted(kind));
        if is(|kind| matches!(kind, Kind::Affine)) {
            let removed = (before.is_some() || name != output) && is_identity(builder, &name)
                || alone && before.is_some_and(|before| fold_affine(builder, &name, before));
            if removed {
                let users = uses.get(&name).copied().unwrap_or(0);
                // The affine layer no longer uses its input; its users do.
                let known = uses.get(&input).copied().unwrap_or(1);
                uses.insert(input.clone(), known - 1 + users);
                alias.insert(name, input);
            }
            continue;
        }
        let Some(before) = before.filter(|_| alone) else { continue };
        if is(|kind| matches!(kind, Kind::Conv(_))) {
            fuse_padding(builder, index, before);
        } else if is(|kind| matches!(kind, Kind::AdaptiveAvgPool(_))) {
            fuse_pooling(builder, index, before);
        }
    }
    alias.get(&output).cloned().unwrap_or(output)
}

fn uses(builder: &GraphBuilder, output: &str) -> HashMap<String, usize> {
    // Unused nodes, such as the inner parts of a recognised activation, do not count.
    let mut needed: HashMap<String, usize> = HashMap::from([(output.to_string(), 1)]);
    for node in builder.nodes.iter().rev() {
        if needed.contains_key(&node.name) {
            node.inputs.iter().for_each(|input| *needed.entry(input.clone()).or_default() += 1);
        }
    }
    needed
}

fn is_identity(builder: &GraphBuilder, affine: &str) -> bool {
    let all = |part: &str| builder.weight(affine, part).and_then(Constant::uniform);
    all("weight") == Some(1.0) && all("bias") == Some(0.0)
}

/// Folds the affine layer into the weights of the layer before it, if that has suitable ones.
fn fold_affine(builder: &mut GraphBuilder, affine: &str, before: usize) -> bool {
    let (Some(scale), Some(shift)) =
        (builder.weight(affine, "weight").cloned(), builder.weight(affine, "bias").cloned())
    else {
        return false;
    };
    let name = builder.nodes[before].name.clone();
    let (rank, biased) = match &mut builder.nodes[before].op {
        Op::Kind(Kind::Conv(conv)) => (4, std::mem::replace(&mut conv.bias, true)),
        Op::Kind(Kind::Linear(layer::Linear { bias, .. })) => (2, std::mem::replace(bias, true)),
        Op::Kind(Kind::LayerNorm(layer::LayerNorm { centred: false, .. })) if shift.uniform() != Some(0.0) => {
            return false;
        }
        Op::Kind(Kind::LayerNorm(layer::LayerNorm { centred, .. })) => (1, *centred),
        Op::Kind(Kind::BatchNorm(_) | Kind::GroupNorm(_) | Kind::Affine) => (1, true),
        _ => return false,
    };
    let mut extents = vec![1; rank];
    extents[0] = scale.len();
    let multiplied = |constant: &Constant, by: &Constant| constant.combined(by, |a, b| a * b);
    let weight = builder.weight(&name, "weight").zip(scale.reshaped(extents).ok());
    let weight = weight.and_then(|(weight, factor)| {
        if scale.uniform() == Some(1.0) { Some(weight.clone()) } else { multiplied(weight, &factor).ok() }
    });
    let bias = if biased { builder.weight(&name, "bias").and_then(|bias| multiplied(bias, &scale).ok()) } else { None };
    let bias = match bias {
        Some(bias) => bias.combined(&shift, |a, b| a + b).ok(),
        None => Some(shift),
    };
    // The shapes match: they were checked when the layers were added.
    if let (Some(weight), Some(bias)) = (weight, bias) {
        builder.replace_weight(&name, "weight", weight);
        if !matches!(builder.nodes[before].op, Op::Kind(Kind::LayerNorm(layer::LayerNorm { centred: false, .. }))) {
            builder.replace_weight(&name, "bias", bias);
        }
    }
    true
}

fn fuse_padding(builder: &mut GraphBuilder, index: usize, before: usize) {
    let Op::Kind(Kind::Pad(layer::Pad { channels: [0, 0], padding, value: 0.0 })) = builder.nodes[before].op else {
        return;
    };
    let inputs = builder.nodes[before].inputs.clone();
    let node = &mut builder.nodes[index];
    if let Op::Kind(Kind::Conv(conv)) = &mut node.op {
        let own = &mut conv.padding;
        own.top += padding.top;
        own.bottom += padding.bottom;
        own.left += padding.left;
        own.right += padding.right;
        node.inputs = inputs;
    }
}

/// Adaptive pooling of the rows and then of the columns is adaptive pooling of both.
fn fuse_pooling(builder: &mut GraphBuilder, index: usize, before: usize) {
    let first = &builder.nodes[before];
    let entering = builder.shape_of(&first.inputs[0]);
    let rows_alone = matches!(first.op, Op::Kind(Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { width, .. })) if width == entering.width);
    let same_rows = builder.nodes[index].shape.height == first.shape.height;
    if rows_alone && same_rows {
        builder.nodes[index].inputs = first.inputs.clone();
    }
}

/// Local response norm as PyTorch writes it: x / (bias + alpha mean(x² over neighbouring channels)) ^ beta. Its window
/// is the one of ONNX's LRN if its size is odd.
fn response_norm(builder: &GraphBuilder, index: usize) -> Option<(Kind, String)> {
    let node = |name: &str| builder.positions.get(name).map(|&at| &builder.nodes[at]);
    let Op::Kind(Kind::Mul) = builder.nodes[index].op else { return None };
    let [x, below] = builder.nodes[index].inputs.as_slice() else { return None };
    let reciprocal = node(below)?;
    let Op::Kind(Kind::Activation(Activation::Power { exponent: -1.0 })) = reciprocal.op else { return None };
    let power = node(&reciprocal.inputs[0])?;
    let Op::Kind(Kind::Activation(Activation::Power { exponent: beta })) = power.op else { return None };
    let (scale, shift, inner) = affine_before(builder, node(&power.inputs[0])?)?;
    let Op::Function(Function::ChannelMean(size)) = inner.op else { return None };
    let padded = node(&inner.inputs[0])?;
    let Op::Kind(Kind::Pad(layer::Pad { channels, padding, value: 0.0 })) = padded.op else { return None };
    if size.is_multiple_of(2) || channels != [size / 2; 2] || padding != Default::default() {
        return None;
    }
    let squared = square_of(node(&padded.inputs[0])?) == Some(x.as_str());
    let kind =
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size, alpha: scale as f32, beta, bias: shift as f32 });
    squared.then(|| (kind, x.clone()))
}

/// The node before any number of affine layers of one factor and one offset, with these.
fn affine_before<'a>(builder: &'a GraphBuilder, mut node: &'a PendingNode) -> Option<(f64, f64, &'a PendingNode)> {
    let (mut scale, mut shift) = (1.0, 0.0);
    while let Op::Kind(Kind::Affine) = node.op {
        let part = |part: &str| builder.weight(&node.name, part).and_then(Constant::uniform);
        (scale, shift) = (scale * part("weight")?, shift + scale * part("bias")?);
        node = &builder.nodes[*builder.positions.get(&node.inputs[0])?];
    }
    Some((scale, shift, node))
}

/// The tensor that the node squares.
fn square_of(node: &PendingNode) -> Option<&str> {
    match &node.op {
        Op::Kind(Kind::Mul) => match node.inputs.as_slice() {
            [a, b] if a == b => Some(a),
            _ => None,
        },
        Op::Kind(Kind::Activation(Activation::Power { exponent: 2.0 })) => node.inputs.first().map(String::as_str),
        _ => None,
    }
}

/// Layer norm written as several operators: (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps), or without the means of x; over channels.
fn layer_norm(builder: &GraphBuilder, index: usize) -> Option<(layer::LayerNorm, String)> {
    let node = |name: &str| builder.positions.get(name).map(|&at| &builder.nodes[at]);
    let power = |node: &PendingNode| match node.op {
        Op::Kind(Kind::Activation(Activation::Power { exponent })) => Some(exponent),
        _ => None,
    };
    let mean_of = |node: &PendingNode| match &node.op {
        Op::Kind(Kind::Reduce(layer::Reduce { function: layer::Reduction::Mean, axes }))
            if *axes == [Axis::Channels] =>
        {
            node.inputs.first().cloned()
        }
        _ => None,
    };
    let Op::Kind(Kind::Mul) = builder.nodes[index].op else { return None };
    let [first, second] = builder.nodes[index].inputs.as_slice() else { return None };
    for (centred, below) in [(first, second), (second, first)] {
        let found = || -> Option<(layer::LayerNorm, String)> {
            let mut root = node(below)?;
            let mut exponent = power(root)?;
            if exponent == -1.0 {
                root = node(&root.inputs[0])?;
                exponent = -power(root)?;
            }
            if exponent != -0.5 {
                return None;
            }
            let (scale, eps, mean) = affine_before(builder, node(&root.inputs[0])?)?;
            let square = mean_of(mean)?;
            if scale != 1.0 || eps < 0.0 || square_of(node(&square)?) != Some(centred) {
                return None;
            }
            // Whether what is squared is x minus its mean.
            let difference = || -> Option<String> {
                let sum = node(centred)?;
                let (Op::Kind(Kind::Add), [x, minus]) = (&sum.op, sum.inputs.as_slice()) else { return None };
                let (factor, offset, mean) = affine_before(builder, node(minus)?)?;
                (factor == -1.0 && offset == 0.0 && mean_of(mean)? == *x).then(|| x.clone())
            };
            let x = difference();
            let norm = layer::LayerNorm { eps: eps as f32, centred: x.is_some() };
            Some((norm, x.unwrap_or_else(|| centred.clone())))
        };
        if let Some(found) = found() {
            return Some(found);
        }
    }
    None
}

/// The most operators that one activation is written as.
const MAX_OPERATORS: usize = 16;

const KNOWN: [Activation; 9] = [
    Activation::Silu,
    Activation::Gelu { tanh: false },
    Activation::Gelu { tanh: true },
    Activation::Mish,
    Activation::Selu,
    Activation::Softplus,
    Activation::HardSwish,
    Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    Activation::Clip { min: 0.0, max: 6.0 },
];

/// The activation whose last operator this node is, with its input, if it is written as two operators or more.
fn recognise(builder: &GraphBuilder, index: usize) -> Option<(Activation, String)> {
    let may_be_last = matches!(
        builder.nodes[index].op,
        Op::Kind(Kind::Mul | Kind::Affine | Kind::Add | Kind::Activation(Activation::Clip { .. } | Activation::Relu))
    );
    if !may_be_last {
        return None;
    }
    // Candidates for the input: the nearest tensors that are reached over elementwise nodes, however many there are beyond.
    let mut reached: Vec<&str> = Vec::new();
    let mut open = VecDeque::from([index]);
    while let Some(at) = open.pop_front().filter(|_| reached.len() <= MAX_OPERATORS) {
        let node = &builder.nodes[at];
        if pointwise(builder, node, &[1.0; 2]).is_none() {
            continue;
        }
        for input in &node.inputs {
            if !reached.contains(&input.as_str()) {
                reached.push(input);
                open.extend(builder.positions.get(input));
            }
        }
    }
    let direct = &builder.nodes[index].inputs;
    reached.into_iter().find_map(|input| {
        let single = direct.iter().all(|d| d == input);
        let shape = builder.shape_of(input);
        if single || shape != builder.nodes[index].shape {
            return None;
        }
        let value = |x: f64| evaluate(builder, index, input, x, &mut HashMap::new());
        value(1.0)?;
        let same = |activation: &&Activation| {
            (-20..=20).map(|step| f64::from(step) * 0.437).all(|x| {
                let (Some(found), Some(wanted)) = (value(x), apply(activation, x)) else { return false };
                (found - wanted).abs() <= 1e-5 * (1.0 + wanted.abs())
            })
        };
        KNOWN.iter().find(same).map(|activation| (*activation, input.to_string()))
    })
}

/// The node's value for `input` = x, if it depends on nothing else.
fn evaluate(builder: &GraphBuilder, at: usize, input: &str, x: f64, known: &mut HashMap<usize, f64>) -> Option<f64> {
    if let Some(value) = known.get(&at) {
        return Some(*value);
    }
    if known.len() > MAX_OPERATORS {
        return None;
    }
    let node = &builder.nodes[at];
    // Checked before the inputs are followed, so that the recursion stays within elementwise nodes.
    pointwise(builder, node, &[1.0; 2])?;
    known.insert(at, f64::NAN);
    let values = node.inputs.iter().map(|name| {
        if name == input { Some(x) } else { evaluate(builder, *builder.positions.get(name)?, input, x, known) }
    });
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    let value = pointwise(builder, node, &values)?;
    known.insert(at, value);
    Some(value)
}

/// The node's value for these values of its inputs, if it is elementwise with the same function for all elements.
fn pointwise(builder: &GraphBuilder, node: &PendingNode, values: &[f64]) -> Option<f64> {
    let x = *values.first()?;
    match &node.op {
        Op::Kind(Kind::Mul) => Some(values.iter().product()),
        Op::Kind(Kind::Add) => Some(values.iter().sum()),
        Op::Kind(Kind::Affine) => {
            let part = |part: &str| builder.weight(&node.name, part).and_then(Constant::uniform);
            Some(x * part("weight")? + part("bias")?)
        }
        Op::Kind(Kind::Activation(activation)) => apply(activation, x),
        Op::Kind(_) => None,
        Op::Function(Function::ChannelMean(_)) => None,
    }
}

/// The function's value, if it has no weights.
pub fn apply(activation: &Activation, x: f64) -> Option<f64> {
    Some(match *activation {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                f64::from(slope) * x
            }
        }
        Activation::Prelu => return None,
        Activation::Clip { min, max } => x.max(f64::from(min)).min(f64::from(max)),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu { tanh: false } => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Gelu { tanh: true } => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Activation::Selu => 1.0507009873554805 * if x > 0.0 { x } else { 1.6732632423543772 * x.exp_m1() },
        Activation::Celu { alpha } => {
            let alpha = f64::from(alpha);
            if x > 0.0 { x } else { alpha * (x / alpha).exp_m1() }
        }
        Activation::Softplus => x.exp().ln_1p(),
        Activation::Abs => x.abs(),
        Activation::Atan => x.atan(),
        Activation::Erf => erf(x),
        Activation::Exp => x.exp(),
        Activation::Log => x.ln(),
        Activation::Power { exponent } => x.powf(f64::from(exponent)),
    })
}

/// Abramowitz and Stegun, 7.1.26: absolute error below 1.5e-7.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.3275911 * x.abs());
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    (1.0 - series * (-x * x).exp()).copysign(x)
}
