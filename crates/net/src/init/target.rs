//! What the substitute's affine map stands for in the parent.

use crate::block::Block;
use crate::surgery::closing_activation;
use crate::{Activation, Graph, Kind};

/// The parent's tensor before the block's closing activation, which the substitute's affine map approximates. The
/// block's output where no activation closes it, or where pooling follows the activation.
pub fn target_tensor(parent: &Graph, block: &Block) -> String {
    let from_end = block.layers.iter().rev().filter_map(|name| parent.layer(name));
    let mut after_activation = from_end.take_while(|layer| !matches!(layer.kind, Kind::Activation(_)));
    let pooled = after_activation.any(|layer| matches!(layer.kind, Kind::MaxPool(_)));
    match closing_activation(parent, block) {
        Some(layer) if !pooled => layer.inputs[0].clone(),
        _ => block.output.clone(),
    }
}

/// The block's closing activation, if it has one: the substitute has the same.
pub fn closing(parent: &Graph, block: &Block) -> Option<Activation> {
    let layer = closing_activation(parent, block)?;
    if let Kind::Activation(activation) = layer.kind { Some(activation) } else { None }
}
