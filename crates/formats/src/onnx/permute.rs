//! Input arithmetic per channel: slices of one tensor, each scaled and shifted, concatenated in another order.
//!
//! Inception's `transform_input` and a change from RGB to BGR are written so. y_c = s_c x_p(c) + b_c becomes an affine layer
//! on x; the permutation p goes into the weights of the layers that read y.

use std::collections::{HashMap, HashSet};

use nettriage_net::{Axis, Kind, layer};

use super::builder::{GraphBuilder, Op};
use super::constant::Constant;

/// For each channel of a concatenation: the channel of the common input, its factor and its offset.
type Channels = Vec<(usize, f64, f64)>;

/// Replaces every such concatenation whose readers can take the permutation. `output` is the graph's output.
pub fn fold_permutations(builder: &mut GraphBuilder, output: &str) {
    let concatenations: Vec<usize> = (0..builder.nodes.len())
        .filter(|&at| matches!(builder.nodes[at].op, Op::Kind(Kind::Concat(layer::Concat { axis: Axis::Channels }))))
        .filter(|&at| builder.nodes[at].inputs.len() <= builder.nodes[at].shape.channels)
        .collect();
    if concatenations.is_empty() {
        return;
    }
    let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, node) in builder.nodes.iter().enumerate() {
        for input in &node.inputs {
            readers.entry(input.clone()).or_default().push(at);
        }
    }
    for at in concatenations {
        let Some((source, channels)) = channels(builder, at) else { continue };
        let order: Vec<usize> = channels.iter().map(|(channel, _, _)| *channel).collect();
        let identity = order.iter().enumerate().all(|(index, &channel)| index == channel);
        if !identity {
            let Some(affected) = affected(builder, &readers, at, output) else { continue };
            let mut inverse = vec![0i64; order.len()];
            order.iter().enumerate().for_each(|(index, &channel)| inverse[channel] = index as i64);
            let permuted: Option<Vec<(String, Constant)>> = affected
                .iter()
                .map(|(key, axis)| Some((key.clone(), permute(builder, key, *axis, &inverse)?)))
                .collect();
            let Some(permuted) = permuted else { continue };
            builder.weights.extend(permuted);
        }
        let (mut scale, mut shift) = (vec![0.0; order.len()], vec![0.0; order.len()]);
        for (channel, factor, offset) in channels {
            (scale[channel], shift[channel]) = (factor as f32, offset as f32);
        }
        let node = &mut builder.nodes[at];
        node.op = Op::Kind(Kind::Affine);
        node.inputs = vec![source];
        let (name, count) = (node.name.clone(), order.len());
        builder.replace_weight(&name, "weight", Constant::floats(vec![count], scale));
        builder.replace_weight(&name, "bias", Constant::floats(vec![count], shift));
    }
}

/// The common input of a concatenation and its channels, if these are a permutation.
fn channels(builder: &GraphBuilder, at: usize) -> Option<(String, Channels)> {
    let node = &builder.nodes[at];
    let mut source: Option<&str> = None;
    let mut all = Channels::new();
    let mut seen = HashSet::new();
    for input in &node.inputs {
        let (from, part) = part(builder, input)?;
        if source.is_some_and(|source| source != from) || builder.shape_of(from) != node.shape {
            return None;
        }
        source = Some(from);
        if !part.iter().all(|(channel, _, _)| seen.insert(*channel)) {
            return None;
        }
        all.extend(part);
    }
    (all.len() == node.shape.channels).then_some((source?.to_string(), all))
}

/// The tensor that a slice, scaled and shifted any number of times, is taken from, and its channels.
fn part<'a>(builder: &'a GraphBuilder, tensor: &'a str) -> Option<(&'a str, Channels)> {
    const MAX_STEPS: usize = 8;
    let mut affine = Vec::new();
    let mut tensor = tensor;
    for _ in 0..MAX_STEPS {
        let node = &builder.nodes[*builder.positions.get(tensor)?];
        match node.op {
            Op::Kind(Kind::Affine) => {
                affine.push((builder.weight(&node.name, "weight")?, builder.weight(&node.name, "bias")?));
                tensor = node.inputs.first()?;
            }
            Op::Kind(Kind::Slice(layer::Slice { start, end })) => {
                let channel = |index: usize| {
                    let (mut scale, mut shift) = (1.0, 0.0);
                    // From the slice to the concatenation.
                    for (weight, bias) in affine.iter().rev() {
                        (scale, shift) = (scale * weight.get(index), shift * weight.get(index) + bias.get(index));
                    }
                    (start + index, scale, shift)
                };
                return Some((node.inputs.first()?.as_str(), (0..end - start).map(channel).collect()));
            }
            _ => return None,
        }
    }
    None
}

/// Keys of all weights that depend on the order of a tensor's channels, with the axis of these, if the order can be
/// changed by changing weights only.
fn affected(
    builder: &GraphBuilder,
    readers: &HashMap<String, Vec<usize>>,
    at: usize,
    output: &str,
) -> Option<Vec<(String, usize)>> {
    const MAX_READERS: usize = 64;
    let mut open = vec![at];
    let mut keys = Vec::new();
    while let Some(at) = open.pop() {
        let name = &builder.nodes[at].name;
        if name == output {
            return None;
        }
        for &reader in readers.get(name)? {
            if keys.len() > MAX_READERS || open.len() > MAX_READERS {
                return None;
            }
            let node = &builder.nodes[reader];
            let key = |part: &str| format!("{}.{part}", node.name);
            match &node.op {
                Op::Kind(Kind::Conv(conv)) if conv.groups == 1 => keys.push((key("weight"), 1)),
                Op::Kind(Kind::Affine) => {
                    keys.extend(["weight", "bias"].map(|part| (key(part), 0)));
                    open.push(reader);
                }
                Op::Kind(Kind::BatchNorm(_)) => {
                    keys.extend(["weight", "bias", "running_mean", "running_var"].map(|part| (key(part), 0)));
                    open.push(reader);
                }
                Op::Kind(Kind::Pad(layer::Pad { channels: [0, 0], .. })) => open.push(reader),
                _ => return None,
            }
        }
    }
    Some(keys)
}

fn permute(builder: &GraphBuilder, key: &str, axis: usize, order: &[i64]) -> Option<Constant> {
    let weight = builder.weights.get(key)?;
    if weight.dims.get(axis) != Some(&order.len()) {
        return None;
    }
    weight.gathered(axis, &Constant::ints(vec![order.len()], order.to_vec())).ok()
}
