//! A training as tensors for a checkpoint, and back.

use nettriage_engine::OptimizerMemory;
use nettriage_net::{Tensor, Weights};
use nettriage_records::checkpoint::Tensors;

use crate::{Error, Model};

/// Adds tensors under the names `<part>/<name>`.
pub fn add_tensors(tensors: &mut Tensors, part: &str, weights: &Weights) {
    let named =
        |(name, tensor): (&String, &Tensor)| (format!("{part}/{name}"), (tensor.shape.clone(), tensor.data.clone()));
    tensors.extend(weights.iter().map(named));
}

/// The tensors that [`add_tensors`] added as `part`.
pub fn tensors_of(tensors: &Tensors, part: &str) -> Weights {
    let own = tensors.iter().filter_map(|(name, (shape, data))| {
        let name = name.strip_prefix(part)?.strip_prefix('/')?;
        Some((name.to_owned(), Tensor { shape: shape.clone(), data: data.clone() }))
    });
    own.collect()
}

/// Adds what the optimiser of `model` remembers; the steps that it has counted.
///
/// # Errors
/// The model's device fails.
pub fn add_optimizer(tensors: &mut Tensors, model: &Model) -> Result<u64, Error> {
    let OptimizerMemory { steps, first, second } = model.optimizer_memory()?;
    add_tensors(tensors, "first", &first);
    add_tensors(tensors, "second", &second);
    Ok(steps)
}

/// Continues the optimiser of `model` from what [`add_optimizer`] added.
///
/// # Errors
/// Tensors of another model; the model's device fails.
pub fn restore_optimizer(model: &mut Model, tensors: &Tensors, steps: u64) -> Result<(), Error> {
    let (first, second) = (tensors_of(tensors, "first"), tensors_of(tensors, "second"));
    model.set_optimizer_memory(&OptimizerMemory { steps, first, second })
}
