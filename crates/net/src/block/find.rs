//! Finding blocks by default.

use std::collections::{HashMap, HashSet};

use super::Block;
use crate::layer::Role;
use crate::{Graph, INPUT, Kind, Layer, Shape};

/// The blocks of a network by default: runs of convolutions with their norms and activations, or of modules with
/// several paths (residual units, inception and dense modules), between two reductions of resolution.
///
/// 1. The graph is cut wherever later layers need a single tensor. A piece between two cuts is one layer, or a whole
///    module.
/// 2. Pooling that reduces the resolution, the classifier (the last convolution or linear layer) and the layers around
///    it (flatten, linear, softmax) belong to no block. A piece that reduces the resolution by a stride begins a new
///    block; a depthwise convolution takes the 1x1 expansion before it into the new block.
/// 3. The other pieces form maximal runs. Layers between the input and the first module (the stem) are separated from
///    the first run; a gate stays with the depthwise convolution before it. A run starts at its first convolution or
///    module and ends with the norms and activations after its last. Where a run holds attention, every encoder layer
///    is a run.
/// 4. Runs with two convolutions or more are blocks, named `block1`, `block2` and so on; a number that already begins
///    a layer's name (in a network compressed before) is skipped.
///
/// A graph that [`Graph::shapes`] refuses has no blocks.
pub fn find(graph: &Graph) -> Vec<Block> {
    let Ok(shapes) = graph.shapes() else { return Vec::new() };
    let pieces = pieces(graph);
    let mut blocks = Vec::new();
    for run in runs(graph, &shapes, &pieces) {
        let Some((first, last)) = trim(graph, run) else { continue };
        let layers = &graph.layers[first.start..last.end];
        if layers.iter().filter(|layer| is_convolution(layer)).count() < 2 {
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
        !self.is_module() && is_convolution(&graph.layers[self.start])
    }
}

fn is_convolution(layer: &Layer) -> bool {
    layer.kind.role() == Role::Convolution
}

/// The graph cut wherever later layers need one tensor only: every tensor before it has had its last use.
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
    // The latest use of any tensor computed before this layer.
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
    let classifier = graph.layers.iter().rposition(|layer| layer.kind.as_convolution().is_some());
    let entry = |piece: &Piece| piece.start.checked_sub(1).map_or(graph.input, |before| shapes[before]);
    let mut runs: Vec<Vec<Piece>> = vec![Vec::new()];
    for piece in pieces {
        let (before, after) = (entry(piece), shapes[piece.end - 1]);
        let holds_classifier = classifier.is_some_and(|at| (piece.start..piece.end).contains(&at));
        let reduces = after.height < before.height || after.width < before.width;
        if holds_classifier || !may_belong(graph, *piece, reduces) {
            runs.push(Vec::new());
            continue;
        }
        let run = runs.last_mut().expect("never empty");
        if reduces && has_stride(graph, *piece) && run.iter().any(|p| p.is_module() || p.is_convolution(graph)) {
            let expansion = expansion_before(graph, shapes, run, *piece);
            let moved = run.split_off(expansion);
            runs.push(moved);
        }
        runs.last_mut().expect("never empty").push(*piece);
    }
    if let Some(run) = runs.first_mut().filter(|run| run.first().is_some_and(|piece| piece.start == 0))
        && let Some(module) = run.iter().position(|piece| piece.is_module())
        && let start = unit_start(graph, shapes, run, module)
        && start > 0
    {
        let rest = run.split_off(start);
        runs.insert(1, rest);
    }
    runs.into_iter().flat_map(|run| encoder_layers(graph, run)).collect()
}

/// Where the unit of a module begins: a gate, such as squeeze-and-excitation, belongs to the depthwise convolution before it and to
/// that one's expansion.
fn unit_start(graph: &Graph, shapes: &[Shape], run: &[Piece], module: usize) -> usize {
    if graph.layers[run[module].end - 1].kind != Kind::Mul {
        return module;
    }
    let depthwise = run[..module].iter().rposition(|piece| is_depthwise(graph, *piece));
    depthwise.map_or(module, |at| expansion_before(graph, shapes, &run[..at], run[at]))
}

/// The encoder layers of a run that holds attention (a product of two tensors): each begins with the module of its attention and goes
/// on to the next one, or to a convolution over several positions.
fn encoder_layers(graph: &Graph, run: Vec<Piece>) -> Vec<Vec<Piece>> {
    let attends = |piece: &Piece| piece.layers(graph).iter().any(|layer| matches!(layer.kind, Kind::MatMul(_)));
    let spatial = |layer: &Layer| matches!(&layer.kind, Kind::Conv(conv) if conv.kernel != [1, 1]);
    let mut parts: Vec<Vec<Piece>> = vec![Vec::new()];
    let mut inside = false;
    for piece in run {
        let attention = attends(&piece);
        if attention || inside && piece.layers(graph).iter().any(spatial) {
            parts.push(Vec::new());
            inside = attention;
        }
        parts.last_mut().expect("never empty").push(piece);
    }
    parts
}

/// Whether a piece may be part of a block.
fn may_belong(graph: &Graph, piece: Piece, reduces: bool) -> bool {
    let layers = piece.layers(graph);
    if piece.is_module() {
        return layers.iter().any(is_convolution);
    }
    match layers[0].kind.role() {
        Role::Convolution
        | Role::Norm
        | Role::CrossChannelNorm
        | Role::Activation
        | Role::Rearrangement
        | Role::NoOp => true,
        Role::Pooling => !reduces,
        Role::TransposedConvolution
        | Role::Linear
        | Role::Softmax
        | Role::AdaptivePooling
        | Role::Merge
        | Role::Reshape
        | Role::Upsampling => false,
    }
}

/// Whether a piece reduces the resolution by a stride: an unpadded convolution alone does not end a stage.
fn has_stride(graph: &Graph, piece: Piece) -> bool {
    let strides = |layer: &Layer| layer.kind.footprint().is_some_and(|footprint| footprint.stride != [1, 1]);
    piece.layers(graph).iter().any(strides)
}

fn is_depthwise(graph: &Graph, piece: Piece) -> bool {
    let depthwise = |conv: &crate::Conv| conv.groups > 1 && conv.groups == conv.filters;
    !piece.is_module() && matches!(&graph.layers[piece.start].kind, Kind::Conv(conv) if depthwise(conv))
}

/// Index in the run of the 1x1 expansion that feeds a depthwise convolution (MobileNetV2's inverted residuals,
/// arXiv:1801.04381); the run's length for any other piece.
fn expansion_before(graph: &Graph, shapes: &[Shape], run: &[Piece], piece: Piece) -> usize {
    if !is_depthwise(graph, piece) {
        return run.len();
    }
    for (index, before) in run.iter().enumerate().rev() {
        if before.is_module() {
            return run.len();
        }
        let layer = &graph.layers[before.start];
        if let Kind::Conv(conv) = &layer.kind {
            let entry = before.start.checked_sub(1).map_or(graph.input, |at| shapes[at]);
            let expands = conv.kernel == [1, 1] && conv.stride == [1, 1] && conv.filters > entry.channels;
            return if expands && index > 0 { index } else { run.len() };
        }
        if !matches!(layer.kind.role(), Role::Norm | Role::Activation) {
            return run.len();
        }
    }
    run.len()
}

/// The first and last piece of a run, without the layers before its first convolution or module and without those
/// after the norms and activations that follow its last.
fn trim(graph: &Graph, mut run: Vec<Piece>) -> Option<(Piece, Piece)> {
    let has_weights = |piece: &Piece| piece.is_module() || piece.is_convolution(graph);
    let first = run.iter().position(has_weights)?;
    let closes = |piece: &Piece| {
        has_weights(piece) || matches!(graph.layers[piece.start].kind.role(), Role::Norm | Role::Activation)
    };
    while run.last().is_some_and(|piece| !closes(piece)) {
        run.pop();
    }
    Some((run[first], *run.last()?))
}
