//! Finding blocks by default.

use std::collections::{HashMap, HashSet};

use super::Block;
use crate::{Graph, INPUT, Kind, Layer, Shape};

/// The blocks of a network by default: runs of convolutions with their norms and activations, or of modules with
/// joins (residual units, inception and dense modules), between two down-samplings.
///
/// 1. Where a single tensor holds all that later layers need, the graph can be cut. Between two cuts stands a piece:
///    one layer, or a whole module.
/// 2. Pooling that shrinks the picture, the classifier (the last layer with weights of its kind) and what
///    surrounds it (flatten, linear, softmax) belong to no block. A piece that shrinks the picture by a stride
///    begins a new block; a depthwise one takes the 1x1 expansion before it along.
/// 3. What remains falls into maximal runs. A run that begins at the input sheds its stem, the layers before its first
///    module. A run starts at its first convolution or module and ends with the norms and activations after its last.
/// 4. Runs with two convolutions or more are blocks, named `block1`, `block2` and so on; a number already in use as a
///    prefix of the graph's names (a network compressed before) is skipped.
///
/// A graph that [`Graph::shapes`] refuses has no blocks.
pub fn find(graph: &Graph) -> Vec<Block> {
    let Ok(shapes) = graph.shapes() else { return Vec::new() };
    let pieces = pieces(graph);
    let mut blocks = Vec::new();
    for run in runs(graph, &shapes, &pieces) {
        let Some((first, last)) = trim(graph, run) else { continue };
        let layers = &graph.layers[first.start..last.end];
        if layers.iter().filter(|layer| matches!(layer.kind, Kind::Conv(_))).count() < 2 {
            continue;
        }
        blocks.push(Block {
            name: String::new(),
            layers: layers.iter().map(|layer| layer.name.clone()).collect(),
            input: first.start.checked_sub(1).map_or(INPUT, |before| &graph.layers[before].name).to_string(),
            output: graph.layers[last.end - 1].name.clone(),
        });
    }
    let taken: HashSet<&str> = graph.layers.iter().filter_map(|layer| layer.name.split('.').next()).collect();
    let mut names = (1..).map(|number| format!("block{number}")).filter(|name| !taken.contains(name.as_str()));
    for block in &mut blocks {
        block.name = names.next().expect("there is no last number");
    }
    blocks
}

/// Layers `start..end` between two cuts.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Piece {
    fn is_module(self) -> bool {
        self.end - self.start > 1
    }

    fn layers(self, graph: &Graph) -> &[Layer] {
        &graph.layers[self.start..self.end]
    }

    fn is_convolution(self, graph: &Graph) -> bool {
        !self.is_module() && matches!(graph.layers[self.start].kind, Kind::Conv(_))
    }
}

/// The graph cut wherever one tensor is all that the rest needs: there, every tensor made so far but the last
/// layer's has had its last use.
pub(super) fn pieces(graph: &Graph) -> Vec<Piece> {
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (index, layer) in graph.layers.iter().enumerate() {
        for input in &layer.inputs {
            last_use.insert(input, index);
        }
    }
    last_use.insert(&graph.output, graph.layers.len());
    let mut pieces = Vec::new();
    let mut start = 0;
    // The latest use of any tensor made before the layer at hand.
    let mut horizon = last_use.get(INPUT).copied().unwrap_or(0);
    for (index, layer) in graph.layers.iter().enumerate() {
        if horizon <= index {
            pieces.push(Piece { start, end: index + 1 });
            start = index + 1;
        }
        horizon = horizon.max(last_use.get(layer.name.as_str()).copied().unwrap_or(index));
    }
    pieces
}

fn runs(graph: &Graph, shapes: &[Shape], pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let classifier = graph.layers.iter().rposition(|layer| matches!(layer.kind, Kind::Conv(_) | Kind::Linear { .. }));
    let entry = |piece: &Piece| piece.start.checked_sub(1).map_or(graph.input, |before| shapes[before]);
    let mut runs: Vec<Vec<Piece>> = vec![Vec::new()];
    for piece in pieces {
        let (before, after) = (entry(piece), shapes[piece.end - 1]);
        let holds_classifier = classifier.is_some_and(|at| (piece.start..piece.end).contains(&at));
        let shrinks = after.height < before.height || after.width < before.width;
        if holds_classifier || !belongs(graph, *piece, shrinks) {
            runs.push(Vec::new());
            continue;
        }
        let run = runs.last_mut().expect("never empty");
        if shrinks && strides(graph, *piece) && run.iter().any(|p| p.is_module() || p.is_convolution(graph)) {
            let expansion = expansion_before(graph, shapes, run, *piece);
            let moved = run.split_off(expansion);
            runs.push(moved);
        }
        runs.last_mut().expect("never empty").push(*piece);
    }
    if let Some(run) = runs.first_mut().filter(|run| run.first().is_some_and(|piece| piece.start == 0))
        && let Some(module) = run.iter().position(|piece| piece.is_module())
        && module > 0
    {
        let rest = run.split_off(module);
        runs.insert(1, rest);
    }
    runs
}

/// Whether a piece may be part of a block.
fn belongs(graph: &Graph, piece: Piece, shrinks: bool) -> bool {
    let layers = piece.layers(graph);
    if piece.is_module() {
        return layers.iter().any(|layer| matches!(layer.kind, Kind::Conv(_)));
    }
    match &layers[0].kind {
        Kind::Conv(_)
        | Kind::BatchNorm { .. }
        | Kind::Affine
        | Kind::Activation(_)
        | Kind::LocalResponseNorm { .. }
        | Kind::Dropout { .. }
        | Kind::ChannelShuffle { .. }
        | Kind::Pad { .. }
        | Kind::Identity => true,
        Kind::MaxPool(_) | Kind::AvgPool { .. } => !shrinks,
        _ => false,
    }
}

/// Whether a piece shrinks the picture by a stride: an unpadded convolution alone does not end a stage.
fn strides(graph: &Graph, piece: Piece) -> bool {
    piece.layers(graph).iter().any(|layer| match &layer.kind {
        Kind::Conv(conv) => conv.stride != [1, 1],
        Kind::MaxPool(window) | Kind::AvgPool { window, .. } => window.stride != [1, 1],
        _ => false,
    })
}

/// Where in the run the 1x1 expansion begins that feeds a depthwise convolution (MobileNetV2's inverted residuals,
/// arXiv:1801.04381); the run's end for any other piece.
fn expansion_before(graph: &Graph, shapes: &[Shape], run: &[Piece], piece: Piece) -> usize {
    let depthwise =
        matches!(&graph.layers[piece.start].kind, Kind::Conv(conv) if conv.groups > 1 && conv.groups == conv.filters);
    if piece.is_module() || !depthwise {
        return run.len();
    }
    for (index, before) in run.iter().enumerate().rev() {
        if before.is_module() {
            return run.len();
        }
        match &graph.layers[before.start].kind {
            Kind::Conv(conv) => {
                let entry = before.start.checked_sub(1).map_or(graph.input, |at| shapes[at]);
                let expands = conv.kernel == [1, 1] && conv.stride == [1, 1] && conv.filters > entry.channels;
                return if expands && index > 0 { index } else { run.len() };
            }
            Kind::BatchNorm { .. } | Kind::Affine | Kind::Activation(_) => {}
            _ => return run.len(),
        }
    }
    run.len()
}

/// The first and last piece of a run without what stands before its first convolution or module, and without what
/// follows the norms and activations after its last.
fn trim(graph: &Graph, mut run: Vec<Piece>) -> Option<(Piece, Piece)> {
    let weighty = |piece: &Piece| piece.is_module() || piece.is_convolution(graph);
    let first = run.iter().position(weighty)?;
    let closing = |piece: &Piece| {
        let kind = &graph.layers[piece.start].kind;
        weighty(piece) || matches!(kind, Kind::BatchNorm { .. } | Kind::Affine | Kind::Activation(_))
    };
    while run.last().is_some_and(|piece| !closing(piece)) {
        run.pop();
    }
    Some((run[first], *run.last()?))
}
