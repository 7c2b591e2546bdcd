//! Inits of a substitute that is a copy of attention or of an MLP.

use rand::Rng;

use super::Init;
use super::method::{InitProblem, InitialValues, SubstituteLayer};
use crate::block::Block;
use crate::network::insert_initial_weights;
use crate::sublayer::{self, Sublayer};
use crate::{Error, Kind, Layer, Network, Tensor};

/// Sets the weights of the copy, layer by layer; the constants of the network stay.
///
/// # Errors
/// An init in closed form; one that takes the block's own weights, where the block has no sublayer of that kind, or one of
/// another structure.
pub(super) fn apply(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    rng: &mut impl Rng,
) -> Result<(), Error> {
    let Some((kind, layers)) = sublayer::copied(&child.graph, block) else { return Ok(()) };
    let layers: Vec<Layer> = layers.into_iter().cloned().collect();
    match init {
        Init::First | Init::Last | Init::Mean => taken(init, child, parent, block, kind, &layers),
        Init::He | Init::Xavier | Init::Custom(_) if !init.method().is_calibrated() => {
            from_scratch(init, child, parent, block, &layers, rng)
        }
        Init::Collapse | Init::LeastSquares | Init::Identity | Init::He | Init::Xavier | Init::Custom(_) => {
            Err(no_closed_form(init, block, kind))
        }
    }
}

/// Why an init in closed form does not apply.
pub(super) fn no_closed_form(init: Init, block: &Block, kind: Sublayer) -> Error {
    let problem =
        format!("init {init} gives one affine map, which {kind} is not: use random, xavier, first, last or mean");
    Error::block(&block.name, problem)
}

/// The weights of the block's own sublayers: of the first or the last, or their mean.
fn taken(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    kind: Sublayer,
    layers: &[Layer],
) -> Result<(), Error> {
    let fail = |problem: String| Err(Error::block(&block.name, problem));
    let own = sublayer::inside(&parent.graph, block, kind)?;
    let chosen = match init {
        Init::First => &own[..own.len().min(1)],
        Init::Last => &own[own.len().saturating_sub(1)..],
        Init::Mean
        | Init::He
        | Init::Xavier
        | Init::Collapse
        | Init::LeastSquares
        | Init::Identity
        | Init::Custom(_) => &own[..],
    };
    if chosen.is_empty() {
        return fail(format!("init {init} needs {kind} in it"));
    }
    for (at, layer) in layers.iter().enumerate().filter(|(_, layer)| !layer.kind.is_fixed()) {
        let parts: Vec<String> = {
            let prefix = format!("{}.", layer.name);
            let of_layer =
                |key: &String| key.strip_prefix(&prefix).filter(|part| !part.contains('.')).map(str::to_owned);
            child.weights.keys().filter_map(of_layer).collect()
        };
        for part in parts {
            let key = format!("{}.{part}", layer.name);
            let shape = child.weights[&key].shape.clone();
            let mut sum = vec![0.0f64; shape.iter().product()];
            for found in chosen {
                let source = found.layers(&parent.graph);
                let same = source.len() == layers.len() && source.iter().zip(layers).all(|(a, b)| a.kind == b.kind);
                let tensor = parent.weights.get(&format!("{}.{part}", source.get(at).map_or("", |layer| &layer.name)));
                let Some(tensor) = tensor.filter(|tensor| same && tensor.shape == shape) else {
                    return fail(format!(
                        "init {init}: the block's {kind} have different structures: use first or random"
                    ));
                };
                sum.iter_mut().zip(&tensor.data).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            let data = sum.into_iter().map(|sum| (sum / chosen.len() as f64) as f32).collect();
            child.weights.insert(key, Tensor { shape, data });
        }
    }
    Ok(())
}

/// Random weights of every convolution and linear layer with biases of zero; learned constants as in training from scratch.
fn from_scratch(
    init: Init,
    child: &mut Network,
    parent: &Network,
    block: &Block,
    layers: &[Layer],
    rng: &mut impl Rng,
) -> Result<(), Error> {
    let shapes = child.graph.shapes()?;
    for layer in layers {
        let input = child.graph.input_shapes(layer, &shapes)[0];
        if let Some(conv) = layer.kind.as_convolution() {
            let linear = matches!(layer.kind, Kind::Linear(_));
            let own = SubstituteLayer::new(layer.name.clone(), &conv, input.channels, linear);
            let filters = own.filters;
            let problem = InitProblem { parent, block, layer: own };
            let (weight, bias) = match init.method().values(&problem, rng)? {
                InitialValues::FromScratch { weight } => (weight, vec![0.0; filters]),
                InitialValues::Affine { weight, bias } | InitialValues::WithNorm { weight, bias, .. } => (weight, bias),
            };
            if weight.shape != problem.layer.shape || bias.len() != filters {
                let expected = &problem.layer.shape;
                let problem =
                    format!("init {init} gives {} a weight of {:?}, not {expected:?}", layer.name, weight.shape);
                return Err(Error::block(&block.name, problem));
            }
            child.weights.insert(format!("{}.weight", layer.name), weight);
            if conv.bias {
                child.weights.insert(format!("{}.bias", layer.name), Tensor::new(&[filters], bias));
            }
        } else if !layer.kind.is_fixed() {
            insert_initial_weights(&mut child.weights, layer, input, rng);
        }
    }
    Ok(())
}
