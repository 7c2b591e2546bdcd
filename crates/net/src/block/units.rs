//! Units: what a range of layers may begin and end with.

use super::find::{Piece, pieces};
use crate::{Graph, Kind};

/// Layers `start..end` of a graph that a range takes whole: a convolution or linear layer with the norms and
/// activations after it, a module with joins and what follows it likewise, or one layer without products (pooling,
/// flatten) between them. One tensor enters a unit and one leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Index of the first layer.
    pub start: usize,
    /// One past the last layer.
    pub end: usize,
    /// Convolutions and linear layers in it.
    pub products: usize,
}

/// The units of a graph, in order and without a gap, from the first layer to the output's.
pub fn units(graph: &Graph) -> Vec<Unit> {
    let product = |index: &usize| matches!(graph.layers[*index].kind, Kind::Conv(_) | Kind::Linear { .. });
    let mut units: Vec<Unit> = Vec::new();
    for Piece { start, end } in pieces(graph) {
        let closes = end - start == 1
            && matches!(
                graph.layers[start].kind,
                Kind::BatchNorm { .. } | Kind::Affine | Kind::Activation(_) | Kind::Dropout { .. } | Kind::Identity
            );
        match units.last_mut().filter(|unit| closes && unit.products > 0) {
            Some(unit) => unit.end = end,
            None => units.push(Unit { start, end, products: (start..end).filter(product).count() }),
        }
    }
    units
}
