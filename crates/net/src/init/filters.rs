//! Inits from the block's own filters: `first`, `last`, `mean`.

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues, SeparablePart, SubstituteLayer};
use super::weights::NORM;
use crate::{Conv, Error, Kind, Network, Tensor};

/// Which of the block's convolutions and linear layers an init takes.
#[derive(Clone, Copy)]
pub(super) enum Filters {
    First,
    Last,
    /// The mean over all of them.
    Mean,
}

impl InitMethod for Filters {
    fn name(&self) -> &str {
        match self {
            Filters::First => "first",
            Filters::Last => "last",
            Filters::Mean => "mean",
        }
    }

    fn describe(&self) -> &str {
        match self {
            Filters::First => "filters, bias and norm of the block's first convolution, adapted to the shape",
            Filters::Last => "filters, bias and norm of the block's last convolution, adapted to the shape",
            Filters::Mean => "mean over the block's convolutions of their filters, biases and norms, adapted",
        }
    }

    fn is_random(&self) -> bool {
        false
    }

    fn is_calibrated(&self) -> bool {
        false
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
        let layer = &problem.layer;
        let mut sources = Vec::new();
        let named = |name: &String| problem.parent.graph.layer(name)?.kind.as_convolution();
        for name in problem.block.layers.iter().filter(|name| named(name).is_some_and(|conv| serves(layer.part, &conv)))
        {
            if let Some(adapted) = adapt(problem.parent, name, layer)? {
                sources.push(adapted);
            }
        }
        let chosen: Vec<Adapted> = match self {
            Filters::First => sources.into_iter().take(1).collect(),
            Filters::Last => sources.into_iter().next_back().into_iter().collect(),
            Filters::Mean => sources,
        };
        if chosen.is_empty() {
            let what = match layer.part {
                Some(SeparablePart::Depthwise) => "a depthwise convolution",
                Some(SeparablePart::Pointwise) => "a convolution that is not depthwise, or a linear layer,",
                None => "a convolution or linear layer",
            };
            return Err(problem.error(format!("init {} needs {what} in it", self.name())));
        }
        let weight = Tensor::new(&layer.shape, mean(chosen.iter().map(|source| &source.weight)));
        let bias = mean(chosen.iter().map(|source| &source.bias));
        let norms: Vec<[Vec<f32>; 4]> = chosen.into_iter().map(|source| source.norm_with_bias(layer.filters)).collect();
        let norm = [0, 1, 2, 3].map(|part| mean(norms.iter().map(|norm| &norm[part])));
        Ok(InitialValues::WithNorm { weight, bias, norm })
    }
}

/// Whether a layer of the block is of the kind of the substitute's: the depthwise convolution of a separable substitute
/// takes depthwise ones, its 1x1 convolution the others.
fn serves(part: Option<SeparablePart>, conv: &Conv) -> bool {
    match part {
        Some(SeparablePart::Depthwise) => conv.is_depthwise(),
        Some(SeparablePart::Pointwise) => !conv.is_depthwise(),
        None => true,
    }
}

/// One layer's filters, adapted to the substitute's shape.
struct Adapted {
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Weight, bias, running mean and variance of the batch norm after it.
    norm: Option<[Vec<f32>; 4]>,
}

impl Adapted {
    /// The norm for a substitute without a bias: the layer's own bias is subtracted from the running mean, or becomes
    /// the norm's bias where the layer has no norm.
    fn norm_with_bias(self, filters: usize) -> [Vec<f32>; 4] {
        match self.norm {
            Some([weight, bias, running, variance]) => {
                let centred = running.iter().zip(&self.bias).map(|(mean, bias)| mean - bias).collect();
                [weight, bias, centred, variance]
            }
            None => [vec![1.0; filters], self.bias, vec![0.0; filters], vec![1.0; filters]],
        }
    }
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

/// The filters of the layer of that name, adapted; `None` if it is neither a convolution nor linear.
///
/// W[o, i, y, x] = sqrt(I / i') F[o mod O, i mod I, y', x'], as [`Init::First`](super::Init::First) says.
fn adapt(parent: &Network, name: &str, target: &SubstituteLayer) -> Result<Option<Adapted>, Error> {
    let Some(conv) = parent.graph.layer(name).and_then(|layer| layer.kind.as_convolution()) else { return Ok(None) };
    let (filters, kernel, groups) = (conv.filters, conv.kernel, conv.groups);
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
    let factor = (channels as f64 / target.channels as f64).sqrt() as f32;
    // The same position counted from the centres of both kernels.
    let source_tap = |at: usize, axis: usize| {
        (at + kernel[axis] / 2).checked_sub(target.kernel[axis] / 2).filter(|&tap| tap < kernel[axis])
    };
    let adapted = target.weight(|filter, channel, row, column| match (source_tap(row, 0), source_tap(column, 1)) {
        (Some(row), Some(column)) => factor * source(filter % filters, channel % channels, row, column),
        _ => 0.0,
    });
    let repeat =
        |values: &[f32]| -> Vec<f32> { (0..target.filters).map(|filter| values[filter % values.len()]).collect() };
    let bias = parent.weights.get(&format!("{name}.bias")).map(|tensor| repeat(&tensor.data));
    Ok(Some(Adapted {
        weight: adapted.data,
        bias: bias.unwrap_or_else(|| vec![0.0; target.filters]),
        norm: norm_after(parent, name).map(|parts| parts.map(repeat)),
    }))
}

/// The weights of the batch norm that takes this layer's output.
fn norm_after<'a>(parent: &'a Network, name: &str) -> Option<[&'a [f32]; 4]> {
    let takes = |layer: &&crate::Layer| matches!(layer.kind, Kind::BatchNorm(_)) && layer.inputs == [name];
    let norm = &parent.graph.layers.iter().find(takes)?.name;
    let part = |key: &str| parent.weights.get(&format!("{norm}.{key}")).map(|tensor| tensor.data.as_slice());
    let [weight, bias, mean, variance] = NORM.map(part);
    Some([weight?, bias?, mean?, variance?])
}
