//! Finding blocks by default.

use std::collections::{HashMap, HashSet};

use super::modules::Modules;
use super::{Block, TO};
use crate::layer::Role;
use crate::{Graph, INPUT, Kind, Layer, Shape, arch};

/// The blocks of a network by default: runs of convolutions with their norms and activations, or of modules with
/// several paths (residual units, inception and dense modules), between two reductions of resolution.
///
/// 1. The graph is cut wherever later layers need a single tensor. A piece between two cuts is one layer, or a whole
///    module. Pieces of one module of the author's, by the names of the layers, are joined again, where modules like it hold
///    paths that join.
/// 2. Pooling that reduces the resolution, the classifier (the last convolution or linear layer) and the layers around
///    it (flatten, linear, softmax) belong to no block. A piece that reduces the resolution by a stride begins a new
///    block; a depthwise convolution takes the 1x1 expansion before it into the new block.
/// 3. The other pieces form maximal runs. Layers between the input and the first module (the stem) are separated from
///    the first run; a gate stays with the depthwise convolution before it. A run starts at its first convolution or
///    module and ends with the norms and activations after its last. Where a run holds attention, every encoder layer
///    is a run.
/// 4. A piece that is most of a network of several resolutions (a U-Net, an HRNet) is divided into the author's modules
///    that one tensor enters and one leaves. A network without any run of two convolutions, such as an autoencoder, is
///    divided in the same way.
/// 5. Runs with two convolutions or more are blocks. A block has the name of the author's module that it is, such as
///    `layer3`, or of the first and last unit, such as `features.4_to_features.6`. If one has none, all are named `block1`,
///    `block2` and so on, and so are those of built-in architectures, whose records have these names; a number that already
///    begins a layer's name (in a network compressed before) is skipped.
///
/// A graph that [`Graph::shapes`] refuses has no blocks.
pub fn find(graph: &Graph) -> Vec<Block> {
    let Ok(shapes) = graph.shapes() else { return Vec::new() };
    let modules = Modules::of(graph);
    let pieces = modules.join(graph, pieces(graph));
    let mut found = Vec::new();
    for run in runs(graph, &shapes, &modules, &pieces) {
        let Some(run) = trim(graph, run) else { continue };
        for run in divide(&modules, without_neighbours(graph, &modules, run)) {
            let (first, last) = (run[0], run[run.len() - 1]);
            if graph.layers[first.start..last.end].iter().filter(|layer| is_convolution(layer)).count() > 1 {
                let start = first.start - usize::from(norm_before(graph, first));
                found.push((Piece { start, end: last.end }, name(graph, &modules, &run)));
            }
        }
    }
    if found.is_empty() {
        found.extend(modules.halves(graph).into_iter().map(|part| (part, modules.exact(part.start, part.end))));
    }
    let taken: HashSet<&str> = graph.layers.iter().filter_map(|layer| layer.name.split('.').next()).collect();
    let numbers = (1..).map(|number| format!("block{number}")).filter(|name| !taken.contains(name.as_str()));
    let (parts, own): (Vec<Piece>, Vec<Option<String>>) = found.into_iter().unzip();
    // All or none: a number means the same block, whatever the names of the others are.
    let own: Option<Vec<String>> = own.into_iter().collect();
    let own = own.filter(|names| names.iter().collect::<HashSet<_>>().len() == names.len());
    let own = own.filter(|_| !arch::names().contains(&graph.name.as_str()));
    let names = own.unwrap_or_else(|| numbers.take(parts.len()).collect());
    let block = |(part, name): (&Piece, String)| {
        super::range(graph, &name, &graph.layers[part.start].name, &graph.layers[part.end - 1].name).ok()
    };
    parts.iter().zip(names).filter_map(block).collect()
}

/// The author's name for a run: that of its module, or of the first and the last unit where both are modules.
fn name(graph: &Graph, modules: &Modules, run: &[Piece]) -> Option<String> {
    let (first, last) = (run[0], run[run.len() - 1]);
    let of = |piece: &Piece| modules.exact(piece.start, piece.end);
    let units = || {
        let mut units = run.iter().filter(|piece| piece.is_module());
        let (first, last) = (units.next()?, units.next_back()?);
        modules.container(*first)?;
        let others = run.iter().any(|piece| piece.is_convolution(graph));
        (!others).then_some(format!("{}{TO}{}", of(first)?, of(last)?))
    };
    of(&Piece { start: first.start, end: last.end }).or_else(units)
}

/// Whether a layer norm is directly before a convolution that reduces the resolution, as in ConvNeXt: it is a part of the stage.
fn norm_before(graph: &Graph, first: Piece) -> bool {
    let Some(before) = first.start.checked_sub(1).map(|at| &graph.layers[at]) else { return false };
    let next = &graph.layers[first.start];
    let readers = graph.layers.iter().flat_map(|layer| &layer.inputs).filter(|input| **input == before.name).count();
    first.is_convolution(graph)
        && has_stride(graph, first)
        && matches!(before.kind, Kind::LayerNorm(_))
        && next.inputs[0] == before.name
        && readers == 1
}

/// A run without the convolution before its first and after its last unit, if its units are in a container of the author's and the
/// whole run is no module: the layer that reduces the resolution before a stage, or the one before the classifier.
fn without_neighbours(graph: &Graph, modules: &Modules, run: Vec<Piece>) -> Vec<Piece> {
    // A gate, such as squeeze-and-excitation, is a part of a unit.
    let is_unit = |piece: &Piece| {
        let gate = graph.layers[piece.end - 1].kind == Kind::Mul;
        piece.is_module() && !gate && modules.container(*piece).is_some()
    };
    let ends = run.iter().position(is_unit).zip(run.iter().rposition(is_unit));
    let Some((mut first, mut last)) = ends else { return run };
    if modules.exact(run[0].start, run[run.len() - 1].end).is_some() {
        return run;
    }
    let unit = run[last];
    let own = |piece: &Piece| modules.may_hold(unit, &graph.layers[piece.start].name);
    last += run[last + 1..].iter().take_while(|piece| closes(graph, **piece) && own(piece)).count();
    // Several convolutions are a unit that is not found by the names.
    let several =
        |pieces: &[Piece]| pieces.iter().filter(|piece| piece.is_module() || piece.is_convolution(graph)).count() > 1;
    if several(&run[..first]) {
        first = 0;
    }
    if several(&run[last + 1..]) {
        last = run.len() - 1;
    }
    run[first..=last].to_vec()
}

/// A run of units divided where the author's container of units ends, if every part is a container and the whole run is none.
fn divide(modules: &Modules, run: Vec<Piece>) -> Vec<Vec<Piece>> {
    let (start, end) = (run[0].start, run[run.len() - 1].end);
    if modules.exact(start, end).is_some() {
        return vec![run];
    }
    let mut parts: Vec<Vec<Piece>> = Vec::new();
    let mut container = None;
    for piece in &run {
        let own = modules.container(*piece);
        if parts.is_empty() || own.is_some() && own != container {
            parts.push(Vec::new());
            container = own;
        }
        parts.last_mut().expect("never empty").push(*piece);
    }
    let is_container = |part: &Vec<Piece>| modules.exact(part[0].start, part[part.len() - 1].end).is_some();
    if parts.iter().all(is_container) { parts } else { vec![run] }
}

/// Layers `start..end` between two cuts.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Piece {
    pub(super) fn is_module(self) -> bool {
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

fn runs(graph: &Graph, shapes: &[Shape], modules: &Modules, pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let classifier = graph.layers.iter().rposition(|layer| layer.kind.as_convolution().is_some());
    let entry = |piece: &Piece| piece.start.checked_sub(1).map_or(graph.input, |before| shapes[before]);
    let mut runs: Vec<Vec<Piece>> = vec![Vec::new()];
    for piece in pieces {
        let parts = modules.parts(graph, *piece);
        if !parts.is_empty() {
            runs.extend(parts.into_iter().map(|part| vec![part]));
            runs.push(Vec::new());
            continue;
        }
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
    !piece.is_module() && matches!(&graph.layers[piece.start].kind, Kind::Conv(conv) if conv.is_depthwise())
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

/// A run without the layers before its first convolution or module and without those after the norms and activations that
/// follow its last.
fn trim(graph: &Graph, mut run: Vec<Piece>) -> Option<Vec<Piece>> {
    let has_weights = |piece: &Piece| piece.is_module() || piece.is_convolution(graph);
    let first = run.iter().position(has_weights)?;
    while run.last().is_some_and(|piece| !has_weights(piece) && !closes(graph, *piece)) {
        run.pop();
    }
    Some(run.split_off(first))
}

/// Whether a piece is a norm or an activation, which belongs to what is before it.
fn closes(graph: &Graph, piece: Piece) -> bool {
    !piece.is_module() && matches!(graph.layers[piece.start].kind.role(), Role::Norm | Role::Activation)
}
