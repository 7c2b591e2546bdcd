//! Units: the parts of a graph that a range of layers takes whole.

use super::find::{Piece, pieces};
use crate::Graph;
use crate::layer::Role;

/// Layers `start..end` of a graph that a range of layers takes whole: a convolution or linear layer with the norms and
/// activations after it, a module of several paths with what follows it likewise, or one layer without weights
/// (pooling, flatten) between them. One tensor enters a unit and one leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Index of the first layer.
    pub start: usize,
    /// One past the last layer.
    pub end: usize,
    /// Number of convolutions and linear layers in it.
    pub products: usize,
}

/// The units of a graph, in order and without a gap, from the first layer to the output's.
pub fn units(graph: &Graph) -> Vec<Unit> {
    let has_weights = |index: &usize| graph.layers[*index].kind.as_convolution().is_some();
    let mut units: Vec<Unit> = Vec::new();
    for Piece { start, end } in pieces(graph) {
        let closes =
            end - start == 1 && matches!(graph.layers[start].kind.role(), Role::Norm | Role::Activation | Role::NoOp);
        match units.last_mut().filter(|unit| closes && unit.products > 0) {
            Some(unit) => unit.end = end,
            None => units.push(Unit { start, end, products: (start..end).filter(has_weights).count() }),
        }
    }
    units
}
