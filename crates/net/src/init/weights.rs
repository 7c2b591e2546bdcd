//! The weights of a substitute: its affine map, and its norm's statistics.

use super::method::SubstituteLayer;
use super::separable::separated;
use crate::block::Block;
use crate::{Error, Graph, Kind, Network, Tensor};

/// A batch norm's parameters and buffers, in the order of the arrays here.
pub(super) const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Sets the substitute's weights to the affine map y = W * x + b before the closing activation.
///
/// `weight` is `[filters, channels / groups, rows, columns]` (`[filters, channels]` for a linear substitute), `bias`
/// `[filters]`. A norm gets running mean 0, running variance 1, weight sqrt(1 + eps) and bias b, so that in evaluation
/// mode the map is exact up to rounding. Where the substitute is on a residual branch, y = W * x + b is the branch. A
/// separable one takes the weight of the dense convolution, and gets the nearest weights that it can hold ([`separated`]).
///
/// # Errors
/// No substitute (the block was dropped, or this is another network); weights of another shape than its own.
pub fn set_affine(child: &mut Network, block: &Block, weight: Tensor, bias: &[f32]) -> Result<(), Error> {
    let layer = SubstituteLayer::of(child, block)?
        .ok_or_else(|| Error::block(&block.name, "it has no substitute to initialise: it was dropped"))?;
    if SubstituteLayer::depthwise(child, block).is_none() {
        return set_product(child, block, &layer, weight, bias);
    }
    check(block, &layer, &weight, Some(bias))?;
    let taps = layer.kernel[0] * layer.kernel[1];
    let (depthwise, pointwise) = separated(&weight.data, layer.filters, layer.channels, taps);
    let shape = [layer.channels, 1, layer.kernel[0], layer.kernel[1]];
    child.weights.insert(format!("{}.depthwise.weight", block.name), Tensor::new(&shape, depthwise));
    let layer = layer.pointwise();
    let weight = Tensor::new(&layer.shape, pointwise);
    set_product(child, block, &layer, weight, bias)
}

/// Sets the weight of one of the substitute's layers.
pub(super) fn set_weight(
    child: &mut Network,
    block: &Block,
    layer: &SubstituteLayer,
    weight: Tensor,
) -> Result<(), Error> {
    check(block, layer, &weight, None)?;
    child.weights.insert(format!("{}.weight", layer.name), weight);
    Ok(())
}

/// Sets weight and bias of the substitute's last convolution or linear layer; its norm adds the bias, if it has one.
pub(super) fn set_product(
    child: &mut Network,
    block: &Block,
    layer: &SubstituteLayer,
    weight: Tensor,
    bias: &[f32],
) -> Result<(), Error> {
    check(block, layer, &weight, Some(bias))?;
    set_weight(child, block, layer, weight)?;
    if let Some(eps) = norm_eps(&child.graph, block) {
        let slope = (1.0 + f64::from(eps)).sqrt() as f32;
        set_norm(
            child,
            block,
            [vec![slope; layer.filters], bias.to_vec(), vec![0.0; layer.filters], vec![1.0; layer.filters]],
        );
    } else {
        child.weights.insert(format!("{}.bias", layer.name), Tensor::new(&[layer.filters], bias.to_vec()));
    }
    Ok(())
}

/// Refuses weights of another shape than the layer's own.
fn check(block: &Block, layer: &SubstituteLayer, weight: &Tensor, bias: Option<&[f32]>) -> Result<(), Error> {
    let biases = bias.map_or(layer.filters, <[f32]>::len);
    if weight.shape != layer.shape || weight.data.len() != layer.elements() || biases != layer.filters {
        let problem = format!(
            "its substitute takes a weight of {:?} and {} biases, not {:?} and {biases}",
            layer.shape, layer.filters, weight.shape,
        );
        return Err(Error::block(&block.name, problem));
    }
    Ok(())
}

/// Gives the substitute's norm the running statistics `mean` and `variance` and changes its weight and bias so that
/// the function in evaluation mode stays the same.
///
/// Given the statistics of the substitute's convolution on data, one element a filter, training mode starts from the
/// same function as evaluation mode; without them, the batch's statistics would normalise it away. With
/// a = weight / sqrt(variance₀ + eps) for the old variance₀ and mean₀: weight ← a sqrt(variance + eps),
/// bias ← bias + a (mean − mean₀). A substitute without a norm is left as it is.
///
/// # Errors
/// `mean` or `variance` with another number of elements than filters, a variance below 0, or a value that is not
/// finite.
pub fn calibrate(child: &mut Network, block: &Block, mean: &[f32], variance: &[f32]) -> Result<(), Error> {
    let Some(eps) = norm_eps(&child.graph, block) else { return Ok(()) };
    let eps = f64::from(eps);
    let Some([weight, bias, old_mean, old_variance]) = norm(child, block) else {
        return Err(Error::block(&block.name, "the weights of its substitute's norm are missing"));
    };
    let sound = mean.iter().all(|m| m.is_finite()) && variance.iter().all(|v| v.is_finite() && *v >= 0.0);
    if mean.len() != weight.len() || variance.len() != weight.len() || !sound {
        let problem = format!("its substitute's norm takes {} finite means and variances", weight.len());
        return Err(Error::block(&block.name, problem));
    }
    let (mut new_weight, mut new_bias) = (Vec::new(), Vec::new());
    for filter in 0..weight.len() {
        let slope = f64::from(weight[filter]) / (f64::from(old_variance[filter]) + eps).sqrt();
        new_weight.push((slope * (f64::from(variance[filter]) + eps).sqrt()) as f32);
        let shift = f64::from(mean[filter]) - f64::from(old_mean[filter]);
        new_bias.push((f64::from(bias[filter]) + slope * shift) as f32);
    }
    set_norm(child, block, [new_weight, new_bias, mean.to_vec(), variance.to_vec()]);
    Ok(())
}

/// The eps of the substitute's norm, if it has one.
pub(super) fn norm_eps(graph: &Graph, block: &Block) -> Option<f32> {
    let layer = graph.layer(&format!("{}.norm", block.name))?;
    if let Kind::BatchNorm(norm) = &layer.kind { Some(norm.eps) } else { None }
}

/// Weight, bias, running mean and running variance of the substitute's norm, if it has one.
fn norm(child: &Network, block: &Block) -> Option<[Vec<f32>; 4]> {
    let part = |name: &str| child.weights.get(&format!("{}.norm.{name}", block.name)).map(|tensor| tensor.data.clone());
    let [weight, bias, mean, variance] = NORM.map(part);
    let parts = [weight?, bias?, mean?, variance?];
    parts.iter().all(|part| part.len() == parts[0].len()).then_some(parts)
}

/// Sets weight, bias, running mean and running variance of the substitute's norm.
pub(super) fn set_norm(child: &mut Network, block: &Block, values: [Vec<f32>; 4]) {
    for (name, data) in NORM.iter().zip(values) {
        child.weights.insert(format!("{}.norm.{name}", block.name), Tensor { shape: vec![data.len()], data });
    }
}

/// Sets the substitute's norm, if there is one, as in training from scratch: 1, 0, 0, 1.
pub(super) fn reset_norm(child: &mut Network, block: &Block) {
    if let Some([weight, ..]) = norm(child, block) {
        let count = weight.len();
        set_norm(child, block, [vec![1.0; count], vec![0.0; count], vec![0.0; count], vec![1.0; count]]);
    }
}
