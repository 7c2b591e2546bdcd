//! Inits from the block's own filters: `first`, `last`, `mean`.

use super::{Init, Main, norm_eps, set_norm};
use crate::block::Block;
use crate::{Error, Kind, Network, Tensor};

/// One layer's filters as the substitute would take them.
struct Adapted {
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Weight, bias, running mean and variance of the batch norm after it.
    norm: Option<[Vec<f32>; 4]>,
}

pub(super) fn apply(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    main: &Main,
) -> Result<(), Error> {
    let mut sources = Vec::new();
    for name in &block.layers {
        if let Some(adapted) = adapt(parent, name, main)? {
            sources.push(adapted);
        }
    }
    let chosen = match init {
        Init::First => sources.into_iter().take(1).collect(),
        Init::Last => sources.into_iter().next_back().into_iter().collect(),
        _ => sources,
    };
    if chosen.is_empty() {
        return Err(Error::block(&block.name, format!("init {init} needs a convolution or linear layer in it")));
    }
    child
        .weights
        .insert(format!("{}.weight", main.layer), Tensor::new(&main.shape, mean(chosen.iter().map(|s| &s.weight))));
    if norm_eps(&child.graph, block).is_none() {
        let bias = mean(chosen.iter().map(|source| &source.bias));
        child.weights.insert(format!("{}.bias", main.layer), Tensor::new(&[main.filters], bias));
        return Ok(());
    }
    let norms: Vec<[Vec<f32>; 4]> = chosen
        .into_iter()
        .map(|source| match source.norm {
            // The substitute has no bias before its norm: what the layer's own would add is taken from the mean.
            Some([weight, bias, running, variance]) => {
                let centred = running.iter().zip(&source.bias).map(|(mean, bias)| mean - bias).collect();
                [weight, bias, centred, variance]
            }
            None => [vec![1.0; main.filters], source.bias, vec![0.0; main.filters], vec![1.0; main.filters]],
        })
        .collect();
    set_norm(child, block, [0, 1, 2, 3].map(|part| mean(norms.iter().map(|norm| &norm[part]))));
    Ok(())
}

fn mean<'a>(rows: impl ExactSizeIterator<Item = &'a Vec<f32>>) -> Vec<f32> {
    let count = rows.len() as f64;
    let mut sum: Vec<f64> = Vec::new();
    for row in rows {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(total, value)| *total += f64::from(*value));
    }
    sum.into_iter().map(|total| (total / count) as f32).collect()
}

/// The filters of the layer of that name, or `None` if it has none.
fn adapt(parent: &Network, name: &str, main: &Main) -> Result<Option<Adapted>, Error> {
    let Some(layer) = parent.graph.layer(name) else { return Ok(None) };
    let (filters, kernel, groups) = match &layer.kind {
        Kind::Conv(conv) => (conv.filters, conv.kernel, conv.groups),
        Kind::Linear { features, .. } => (*features, [1, 1], 1),
        _ => return Ok(None),
    };
    let missing = || Error::layer(name, "its weights are missing");
    let weight = parent.weights.get(&format!("{name}.weight")).ok_or_else(missing)?;
    let per_group = weight.shape.get(1).copied().unwrap_or(1);
    let channels = per_group * groups;
    if weight.data.len() != filters * per_group * kernel[0] * kernel[1] {
        return Err(Error::layer(name, "its weights have another shape than the layer"));
    }
    let source = |filter: usize, channel: usize, row: usize, column: usize| {
        let group = filter / (filters / groups);
        if channel / per_group != group {
            return 0.0;
        }
        let index = ((filter * per_group + channel % per_group) * kernel[0] + row) * kernel[1] + column;
        weight.data[index]
    };
    let factor = (channels as f64 / main.channels as f64).sqrt() as f32;
    let place = |at: usize, axis: usize| {
        (at + kernel[axis] / 2).checked_sub(main.kernel[axis] / 2).filter(|&p| p < kernel[axis])
    };
    let adapted = main.fill(|filter, channel, row, column| match (place(row, 0), place(column, 1)) {
        (Some(row), Some(column)) => factor * source(filter % filters, channel % channels, row, column),
        _ => 0.0,
    });
    let spread =
        |values: &[f32]| -> Vec<f32> { (0..main.filters).map(|filter| values[filter % values.len()]).collect() };
    let bias = parent.weights.get(&format!("{name}.bias")).map(|tensor| spread(&tensor.data));
    Ok(Some(Adapted {
        weight: adapted,
        bias: bias.unwrap_or_else(|| vec![0.0; main.filters]),
        norm: norm_after(parent, name).map(|parts| parts.map(spread)),
    }))
}

/// The weights of the batch norm that takes this layer's output.
fn norm_after<'a>(parent: &'a Network, name: &str) -> Option<[&'a [f32]; 4]> {
    let takes = |layer: &&crate::Layer| matches!(layer.kind, Kind::BatchNorm { .. }) && layer.inputs == [name];
    let norm = &parent.graph.layers.iter().find(takes)?.name;
    let part = |key: &str| parent.weights.get(&format!("{norm}.{key}")).map(|tensor| tensor.data.as_slice());
    let [weight, bias, mean, variance] = super::NORM.map(part);
    Some([weight?, bias?, mean?, variance?])
}
