//! A training as tensors for a checkpoint, and back.

use nettriage_engine::{Model, OptimizerMemory};
use nettriage_net::{Tensor, Weights};
use nettriage_records::checkpoint::Tensors;

use crate::Error;

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
pub fn add_optimizer(tensors: &mut Tensors, model: &Model) -> u64 {
    let OptimizerMemory { steps, first, second } = model.optimizer_memory();
    add_tensors(tensors, "first", &first);
    add_tensors(tensors, "second", &second);
    steps
}

/// Continues the optimiser of `model` from what [`add_optimizer`] added.
///
/// # Errors
/// Tensors of another model.
pub fn restore_optimizer(model: &mut Model, tensors: &Tensors, steps: u64) -> Result<(), Error> {
    let (first, second) = (tensors_of(tensors, "first"), tensors_of(tensors, "second"));
    Ok(model.set_optimizer_memory(&OptimizerMemory { steps, first, second })?)
}
