//! Fusing: several ONNX operators that are one layer for triage.
//!
//! - compositions of functions of one number that are a known activation (SiLU, GELU, hard swish, hard sigmoid,
//!   ReLU6): they are told by their values, whatever way they are written;
//! - a multiplication and addition of constants after a convolution, linear layer or batch norm goes into its weights,
//!   one after another into one affine layer;
//! - zeros around a picture go into the padding of the convolution that follows.

use std::collections::HashMap;

use super::constant::Constant;
use super::import::{Function, Importer, Made, Op};
use nettriage_net::{Activation, Kind, layer};

/// Fuses what can be; returns the output's name.
pub fn fuse(importer: &mut Importer, output: String) -> String {
    for index in 0..importer.made.len() {
        if let Some((kind, input)) = response_norm(importer, index) {
            importer.made[index].op = Op::Kind(kind);
            importer.made[index].inputs = vec![input];
        }
    }
    for index in (0..importer.made.len()).rev() {
        if let Some((activation, input)) = recognised(importer, index) {
            let made = &mut importer.made[index];
            made.op = Op::Kind(Kind::Activation(activation));
            made.inputs = vec![input];
            // Those of the affine layer that it may have been.
            let keys = ["weight", "bias"].map(|part| format!("{}.{part}", made.name));
            keys.iter().for_each(|key| drop(importer.constants.remove(key)));
        }
    }
    let mut uses = uses(importer, &output);
    let mut alias: HashMap<String, String> = HashMap::new();
    for index in 0..importer.made.len() {
        let made = &mut importer.made[index];
        // What leads nowhere must change nothing: the inner parts of an activation often scale what it works on.
        if !uses.contains_key(&made.name) {
            continue;
        }
        for input in &mut made.inputs {
            if let Some(other) = alias.get(input) {
                *input = other.clone();
            }
        }
        let [input] = made.inputs.as_slice() else { continue };
        let Some(&before) = importer.places.get(input) else { continue };
        let (name, input) = (made.name.clone(), input.clone());
        let alone = uses.get(&input) == Some(&1);
        let is = |wanted: fn(&Kind) -> bool| matches!(&importer.made[index].op, Op::Kind(kind) if wanted(kind));
        if is(|kind| matches!(kind, Kind::Affine)) {
            if does_nothing(importer, &name) || (alone && absorbed(importer, &name, before)) {
                let users = uses.get(&name).copied().unwrap_or(0);
                // The layer's own use of its input goes; its users take it.
                let known = uses.get(&input).copied().unwrap_or(1);
                uses.insert(input.clone(), known - 1 + users);
                alias.insert(name, input);
            }
        } else if alone && is(|kind| matches!(kind, Kind::Conv(_))) {
            padded(importer, index, before);
        } else if alone && is(|kind| matches!(kind, Kind::AdaptiveAvgPool(_))) {
            pooled(importer, index, before);
        }
    }
    alias.get(&output).cloned().unwrap_or(output)
}

fn uses(importer: &Importer, output: &str) -> HashMap<String, usize> {
    // What leads nowhere, as the inner parts of an activation that was recognised, does not count.
    let mut needed: HashMap<String, usize> = HashMap::from([(output.to_string(), 1)]);
    for made in importer.made.iter().rev() {
        if needed.contains_key(&made.name) {
            made.inputs.iter().for_each(|input| *needed.entry(input.clone()).or_default() += 1);
        }
    }
    needed
}

fn constant<'a>(importer: &'a Importer, layer: &str, part: &str) -> Option<&'a Constant> {
    importer.constants.get(&format!("{layer}.{part}"))
}

fn does_nothing(importer: &Importer, affine: &str) -> bool {
    let all = |part: &str| constant(importer, affine, part).and_then(Constant::uniform);
    all("weight") == Some(1.0) && all("bias") == Some(0.0)
}

/// Puts the affine layer into the weights of the layer before it, if it has such.
fn absorbed(importer: &mut Importer, affine: &str, before: usize) -> bool {
    let (Some(scale), Some(shift)) =
        (constant(importer, affine, "weight").cloned(), constant(importer, affine, "bias").cloned())
    else {
        return false;
    };
    let name = importer.made[before].name.clone();
    let (rank, biased) = match &mut importer.made[before].op {
        Op::Kind(Kind::Conv(conv)) => (4, std::mem::replace(&mut conv.bias, true)),
        Op::Kind(Kind::Linear(layer::Linear { bias, .. })) => (2, std::mem::replace(bias, true)),
        Op::Kind(Kind::BatchNorm(_) | Kind::Affine) => (1, true),
        _ => return false,
    };
    let mut extents = vec![1; rank];
    extents[0] = scale.len();
    let multiplied = |constant: &Constant, by: &Constant| constant.combined(by, |a, b| a * b);
    let weight = constant(importer, &name, "weight").zip(scale.reshaped(extents).ok());
    let weight = weight.and_then(|(weight, factor)| {
        if scale.uniform() == Some(1.0) { Some(weight.clone()) } else { multiplied(weight, &factor).ok() }
    });
    let bias =
        if biased { constant(importer, &name, "bias").and_then(|bias| multiplied(bias, &scale).ok()) } else { None };
    let bias = match bias {
        Some(bias) => bias.combined(&shift, |a, b| a + b).ok(),
        None => Some(shift),
    };
    // All of one shape by construction: a linear layer's constants were checked when it was made.
    if let (Some(weight), Some(bias)) = (weight, bias) {
        importer.put(&name, "weight", weight);
        importer.put(&name, "bias", bias);
    }
    true
}

fn padded(importer: &mut Importer, index: usize, before: usize) {
    let Op::Kind(Kind::Pad(layer::Pad { channels: [0, 0], padding, value: 0.0 })) = importer.made[before].op else {
        return;
    };
    let inputs = importer.made[before].inputs.clone();
    let made = &mut importer.made[index];
    if let Op::Kind(Kind::Conv(conv)) = &mut made.op {
        let own = &mut conv.padding;
        own.top += padding.top;
        own.bottom += padding.bottom;
        own.left += padding.left;
        own.right += padding.right;
        made.inputs = inputs;
    }
}

/// Adaptive pooling of the rows, then of the columns, is one of both: its regions are rectangles.
fn pooled(importer: &mut Importer, index: usize, before: usize) {
    let first = &importer.made[before];
    let entering = importer.places.get(&first.inputs[0]).map_or(importer.input, |&at| importer.made[at].shape);
    let rows_alone = matches!(first.op, Op::Kind(Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { width, .. })) if width == entering.width);
    let same_rows = importer.made[index].shape.height == first.shape.height;
    if rows_alone && same_rows {
        importer.made[index].inputs = first.inputs.clone();
    }
}

/// Local response norm as PyTorch writes it: x / (bias + alpha mean(x² over neighbouring channels)) ^ beta. Its window
/// is ONNX's, and ours, where it is odd; an even one lies otherwise.
fn response_norm(importer: &Importer, index: usize) -> Option<(Kind, String)> {
    let made = |name: &str| importer.places.get(name).map(|&at| &importer.made[at]);
    let Op::Function(Function::Divide) = importer.made[index].op else { return None };
    let [x, below] = importer.made[index].inputs.as_slice() else { return None };
    let power = made(below)?;
    let Op::Function(Function::Power(beta)) = power.op else { return None };
    let (mut scale, mut shift) = (1.0, 0.0);
    let mut inner = made(&power.inputs[0])?;
    while let Op::Kind(Kind::Affine) = inner.op {
        let part = |part: &str| constant(importer, &inner.name, part).and_then(Constant::uniform);
        (scale, shift) = (scale * part("weight")?, shift + scale * part("bias")?);
        inner = made(&inner.inputs[0])?;
    }
    let Op::Function(Function::ChannelMean(size)) = inner.op else { return None };
    let padded = made(&inner.inputs[0])?;
    let Op::Kind(Kind::Pad(layer::Pad { channels, padding, value: 0.0 })) = padded.op else { return None };
    if size.is_multiple_of(2) || channels != [size / 2; 2] || padding != Default::default() {
        return None;
    }
    let square = made(&padded.inputs[0])?;
    let squared = match &square.op {
        Op::Kind(Kind::Mul) => square.inputs.iter().all(|input| input == x),
        Op::Function(Function::Power(2.0)) => square.inputs[0] == *x,
        _ => false,
    };
    let kind =
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size, alpha: scale as f32, beta, bias: shift as f32 });
    squared.then(|| (kind, x.clone()))
}

/// The most layers that one activation is written as.
const LARGEST: usize = 16;

const KNOWN: [Activation; 6] = [
    Activation::Silu,
    Activation::Gelu { tanh: false },
    Activation::Gelu { tanh: true },
    Activation::HardSwish,
    Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    Activation::Clip { min: 0.0, max: 6.0 },
];

/// The activation that the layer closes, with its input, if it takes two layers or more to write it.
fn recognised(importer: &Importer, index: usize) -> Option<(Activation, String)> {
    let closing = matches!(
        importer.made[index].op,
        Op::Kind(Kind::Mul | Kind::Affine | Kind::Add | Kind::Activation(Activation::Clip { .. } | Activation::Relu))
            | Op::Function(Function::Divide)
    );
    if !closing {
        return None;
    }
    // All tensors that it could be a function of: what is reached over elementwise layers.
    let mut reached: Vec<&str> = Vec::new();
    let mut open = vec![index];
    while let Some(at) = open.pop() {
        let made = &importer.made[at];
        if pointwise(importer, made, &[1.0; 2]).is_none() {
            continue;
        }
        for input in &made.inputs {
            if !reached.contains(&input.as_str()) {
                reached.push(input);
                open.extend(importer.places.get(input));
            }
        }
        if reached.len() > LARGEST {
            return None;
        }
    }
    let direct = &importer.made[index].inputs;
    reached.into_iter().find_map(|input| {
        let single = direct.iter().all(|d| d == input);
        let shape = importer.places.get(input).map_or(importer.input, |&at| importer.made[at].shape);
        if single || shape != importer.made[index].shape {
            return None;
        }
        let value = |x: f64| evaluate(importer, index, input, x, &mut HashMap::new());
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

/// The layer's value where `input` is x, if it depends on nothing else.
fn evaluate(importer: &Importer, at: usize, input: &str, x: f64, known: &mut HashMap<usize, f64>) -> Option<f64> {
    if let Some(value) = known.get(&at) {
        return Some(*value);
    }
    if known.len() > LARGEST {
        return None;
    }
    let made = &importer.made[at];
    // Told before the inputs are followed, so that the recursion stays within elementwise layers.
    pointwise(importer, made, &[1.0; 2])?;
    known.insert(at, f64::NAN);
    let values = made.inputs.iter().map(|name| {
        if name == input { Some(x) } else { evaluate(importer, *importer.places.get(name)?, input, x, known) }
    });
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    let value = pointwise(importer, made, &values)?;
    known.insert(at, value);
    Some(value)
}

/// A layer's value for these inputs' values, if it works on each number alone and alike.
fn pointwise(importer: &Importer, made: &Made, values: &[f64]) -> Option<f64> {
    let x = *values.first()?;
    match &made.op {
        Op::Kind(Kind::Mul) => Some(values.iter().product()),
        Op::Kind(Kind::Add) => Some(values.iter().sum()),
        Op::Kind(Kind::Affine) => {
            let part = |part: &str| constant(importer, &made.name, part).and_then(Constant::uniform);
            Some(x * part("weight")? + part("bias")?)
        }
        Op::Kind(Kind::Activation(activation)) => apply(activation, x),
        Op::Kind(_) => None,
        Op::Function(Function::Erf) => Some(erf(x)),
        Op::Function(Function::Exp) => Some(x.exp()),
        Op::Function(Function::Sqrt) => Some(x.sqrt()),
        Op::Function(Function::Softplus) => Some(x.exp().ln_1p()),
        Op::Function(Function::Power(exponent)) => Some(x.powf(f64::from(*exponent))),
        Op::Function(Function::Divide) => values.get(1).map(|below| x / below),
        Op::Function(Function::ChannelMean(_)) => None,
    }
}

fn apply(activation: &Activation, x: f64) -> Option<f64> {
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
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
    })
}

/// Abramowitz and Stegun, 7.1.26: absolute error below 1.5e-7.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.3275911 * x.abs());
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    (1.0 - series * (-x * x).exp()).copysign(x)
}
