//! The modules of a network's author, from the names of its layers.

use std::collections::BTreeSet;

use super::find::Piece;
use crate::layer::Role;
use crate::{Graph, Kind, Layer};

/// The paths of all layers with products (convolutions, linear layers), as exporters write them into names.
///
/// PyTorch's newer exporter gives the path of the module, `layer1.0.conv1`. The older one gives scopes and an operator,
/// `layer1/layer1.0/conv1/Conv`, in which a member of a sequence repeats the sequence's own name. Other layers are left out:
/// some have no path, and norms with equal weights may have that of another one.
pub(super) struct Modules {
    /// Index of the layer, and its path.
    products: Vec<(usize, Vec<String>)>,
    /// Length of the path that all of them begin with.
    root: usize,
}

impl Modules {
    pub(super) fn of(graph: &Graph) -> Modules {
        let products: Vec<(usize, Vec<String>)> = (graph.layers.iter().enumerate())
            .filter(|(_, layer)| is_product(layer))
            .map(|(index, layer)| (index, module_path(&layer.name)))
            .collect();
        let root = common(products.iter().map(|(_, path)| path)).len();
        Modules { products, root }
    }

    /// The module that holds the products of layers `start..end` and no others; the outermost one, where several that are in
    /// one another hold no others, except that the only member of a sequence keeps its number. `None` for fewer than two products.
    pub(super) fn exact(&self, start: usize, end: usize) -> Option<String> {
        let path = self.exact_path(start, end)?;
        let mut length = path.len();
        let count = self.products_of(&path).count();
        let only_member = |length: usize| is_numbered(&path[..length]) && !is_numbered(&path[..length - 1]);
        while length > self.root + 1 && !only_member(length) && self.products_of(&path[..length - 1]).count() == count {
            length -= 1;
        }
        Some(path[..length].join("."))
    }

    fn exact_path(&self, start: usize, end: usize) -> Option<Vec<String>> {
        let path = self.common(start, end)?;
        let inside = |index: usize| (start..end).contains(&index);
        let whole = self.products_of(&path).all(inside);
        whole.then_some(path)
    }

    /// The path of the innermost module around the products of layers `start..end`; `None` for fewer than two of them.
    fn common(&self, start: usize, end: usize) -> Option<Vec<String>> {
        let inside: Vec<&Vec<String>> = self.within(start, end).collect();
        let path = common(inside.iter().copied());
        (inside.len() > 1 && path.len() > self.root).then_some(path)
    }

    fn within(&self, start: usize, end: usize) -> impl Iterator<Item = &Vec<String>> {
        self.products.iter().filter(move |(index, _)| (start..end).contains(index)).map(|(_, path)| path)
    }

    /// Indices of a module's layers with products.
    fn products_of(&self, module: &[String]) -> impl Iterator<Item = usize> {
        self.products.iter().filter(move |(_, path)| path.starts_with(module)).map(|(index, _)| *index)
    }

    /// All modules below the common one, outer ones first.
    fn all(&self) -> Vec<Vec<String>> {
        let prefixes =
            |path: &Vec<String>| (self.root + 1..=path.len()).map(|n| path[..n].to_vec()).collect::<Vec<_>>();
        let all: BTreeSet<Vec<String>> = self.products.iter().flat_map(|(_, path)| prefixes(path)).collect();
        let mut all: Vec<Vec<String>> = all.into_iter().collect();
        all.sort_by_key(Vec::len);
        all
    }

    /// Pieces joined to the units that the author wrote.
    ///
    /// Where paths join (a sum, a concatenation), the module around them is such a unit; so are its siblings, the modules whose
    /// paths differ in numbers only. Thus the inverted residual units of a MobileNet are complete where they have no skip, too.
    pub(super) fn join(&self, graph: &Graph, pieces: Vec<Piece>) -> Vec<Piece> {
        let patterns: BTreeSet<Vec<String>> =
            pieces.iter().filter_map(|piece| self.unit(graph, &pieces, *piece)).map(|path| pattern(&path)).collect();
        let mut joined = pieces;
        for module in self.all() {
            if !patterns.contains(&pattern(&module)) {
                continue;
            }
            let layers: Vec<usize> = self.products_of(&module).collect();
            let holds = |layer: usize| joined.iter().position(|piece| (piece.start..piece.end).contains(&layer));
            let (Some(first), Some(last)) = (holds(layers[0]), holds(layers[layers.len() - 1])) else { continue };
            let whole = Piece { start: joined[first].start, end: joined[last].end };
            if first < last && self.within(whole.start, whole.end).count() == layers.len() {
                joined.splice(first..=last, [whole]);
            }
        }
        joined
    }

    /// The path of the container of a unit, such as `layer3` or `features`: of the module around it, without the unit's own number.
    /// `None` where the unit is directly in the network.
    pub(super) fn container(&self, piece: Piece) -> Option<Vec<String>> {
        let path = self.exact_path(piece.start, piece.end)?;
        let mut path = self.without_parts(path);
        path.pop();
        (path.len() > self.root).then_some(path)
    }

    /// Whether a layer without products may be of the unit `piece`: its path is inside the unit's, or it has none.
    pub(super) fn may_hold(&self, piece: Piece, layer: &str) -> bool {
        let path = module_path(layer);
        let unit = self.common(piece.start, piece.end).map(|path| self.without_parts(path));
        path.len() < 2 || unit.is_none_or(|unit| path.starts_with(&unit))
    }

    /// A path without the names at its end that have no number, such as `block` or `conv`, while the module around them holds
    /// nothing else: members of sequences have numbers, and what has none is a part of a unit.
    fn without_parts(&self, mut path: Vec<String>) -> Vec<String> {
        let count = self.products_of(&path).count();
        while path.len() > self.root + 1
            && !is_numbered(&path)
            && self.products_of(&path[..path.len() - 1]).count() == count
        {
            path.pop();
        }
        path
    }

    /// The path of the unit that a piece with several paths is, or is the only such piece of.
    fn unit(&self, graph: &Graph, pieces: &[Piece], piece: Piece) -> Option<Vec<String>> {
        // A gate, such as squeeze-and-excitation, is a part of the unit whose convolutions it scales.
        if !piece.is_module() || graph.layers[piece.end - 1].kind == Kind::Mul {
            return None;
        }
        let path = self.common(piece.start, piece.end)?;
        let layers: Vec<usize> = self.products_of(&path).collect();
        let others = pieces.iter().filter(|other| {
            other.is_module() && other.start != piece.start && graph.layers[other.end - 1].kind != Kind::Mul
        });
        let mut inside = others.filter(|other| layers.iter().any(|layer| (other.start..other.end).contains(layer)));
        if inside.next().is_some() {
            return None;
        }
        Some(self.without_parts(path))
    }

    /// The modules inside a piece that one tensor enters and one leaves, for a piece that is no module itself but most of a
    /// network of several resolutions: in a U-Net from a tensor that is kept to where it is used again, or all branches of an
    /// HRNet. Modules that change the resolution are left out.
    pub(super) fn parts(&self, graph: &Graph, piece: Piece) -> Vec<Piece> {
        let Ok(shapes) = graph.shapes() else { return Vec::new() };
        let layers = || (piece.start..piece.end).map(|at| (&graph.layers[at], shapes[at]));
        let enlarges =
            layers().any(|(layer, _)| matches!(layer.kind.role(), Role::Upsampling | Role::TransposedConvolution));
        let extents: BTreeSet<(usize, usize)> =
            layers().filter(|(layer, _)| is_product(layer)).map(|(_, shape)| (shape.height, shape.width)).collect();
        // A unit has two resolutions at most, and single elements in its gates.
        let branches = extents.iter().filter(|extent| **extent != (1, 1)).count() > 2
            && self.common(piece.start, piece.end).is_none();
        if !piece.is_module() || !enlarges && !branches {
            return Vec::new();
        }
        let keeps = |part: &Piece| {
            let border = super::Border::of(graph, part.start, part.end - 1);
            let before = border.ends().and_then(|(input, _)| graph.shape_of(input).ok());
            let after = shapes[part.end - 1];
            before.is_some_and(|before| (before.height, before.width) == (after.height, after.width))
        };
        self.separable(graph, piece, keeps)
    }

    /// The outermost modules of a network that one tensor enters and one leaves, such as an autoencoder's encoder and decoder;
    /// not the one that holds a classifier.
    pub(super) fn halves(&self, graph: &Graph) -> Vec<Piece> {
        let whole = Piece { start: 0, end: graph.layers.len() };
        let vector = graph.output_shape().is_ok_and(|shape| shape.is_vector());
        let classifier = self.products.last().map(|(index, _)| *index).filter(|_| vector);
        let holds = |part: &Piece| classifier.is_some_and(|at| (part.start..part.end).contains(&at));
        self.separable(graph, whole, |part| !holds(part))
    }

    /// The outermost modules inside a piece that one tensor enters and one leaves, in order, for which `wanted` holds.
    fn separable(&self, graph: &Graph, piece: Piece, wanted: impl Fn(&Piece) -> bool) -> Vec<Piece> {
        let mut parts: Vec<Piece> = Vec::new();
        for module in self.all() {
            let layers: Vec<usize> = self.products_of(&module).collect();
            let (first, last) = (layers[0], layers[layers.len() - 1]);
            let within = first >= piece.start && last < piece.end;
            let taken = |part: &Piece| first < part.end && last >= part.start;
            if layers.len() < 2 || !within || parts.iter().any(taken) {
                continue;
            }
            if self.within(first, last + 1).count() != layers.len() {
                continue;
            }
            let part = end_of(graph, first, last, piece.end).map(|end| Piece { start: first, end });
            parts.extend(part.filter(&wanted));
        }
        parts.sort_by_key(|part| part.start);
        parts
    }
}

/// One past the last layer of the part whose first and last products these are: with the sum that ends it, and the norms and
/// activations after that.
fn end_of(graph: &Graph, first: usize, last: usize, limit: usize) -> Option<usize> {
    let one_leaves = |end: &usize| super::Border::of(graph, first, end - 1).ends().is_some();
    let products = |end: &usize| graph.layers[last + 1..*end].iter().any(is_product);
    // Norm, activation, sum, and what an exporter writes for a scale between them.
    let mut end = (last + 1..=limit.min(last + 5)).take_while(|end| !products(end)).find(one_leaves)?;
    while end < limit {
        let next = &graph.layers[end];
        let closes = matches!(next.kind.role(), Role::Norm | Role::Activation | Role::NoOp);
        if !closes || next.inputs[0] != graph.layers[end - 1].name || !one_leaves(&(end + 1)) {
            break;
        }
        end += 1;
    }
    Some(end)
}

fn is_product(layer: &Layer) -> bool {
    layer.kind.as_convolution().is_some() || matches!(layer.kind, Kind::ConvTranspose(_))
}

/// The path of a module in the name that an exporter gives its layer or node.
///
/// A name without slashes is the path itself, `layer1.0.conv1`. With slashes it is a list of scopes and an operator,
/// `layer1/layer1.0/conv1/Conv`, in which a member of a sequence repeats the sequence's own name.
pub fn module_path(name: &str) -> Vec<String> {
    let Some((scopes, _)) = name.rsplit_once('/') else {
        return name.split('.').map(str::to_owned).collect();
    };
    let mut groups: Vec<&str> = Vec::new();
    for scope in scopes.split('/').filter(|scope| !scope.is_empty()) {
        let repeats = |last: &&str| scope.strip_prefix(*last).is_some_and(|rest| rest.starts_with('.'));
        if groups.last().is_some_and(repeats) {
            groups.pop();
        }
        groups.push(scope);
    }
    groups.iter().flat_map(|group| group.split('.')).map(str::to_owned).collect()
}

fn is_numbered(path: &[String]) -> bool {
    path.last().is_some_and(|name| name.contains(|c: char| c.is_ascii_digit()))
}

/// A path with every number in it replaced by one sign.
fn pattern(path: &[String]) -> Vec<String> {
    let without_numbers = |name: &String| {
        let mut text = String::new();
        for c in name.chars() {
            match c.is_ascii_digit() {
                true if text.ends_with('#') => {}
                true => text.push('#'),
                false => text.push(c),
            }
        }
        text
    };
    path.iter().map(without_numbers).collect()
}

fn common<'p>(mut paths: impl Iterator<Item = &'p Vec<String>>) -> Vec<String> {
    let first = paths.next().cloned().unwrap_or_default();
    paths
        .fold(first, |common, path| common.into_iter().zip(path).take_while(|(a, b)| a == *b).map(|(a, _)| a).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_exporters_give_the_path_of_a_module() {
        let of = |name: &str| module_path(name).join(".");
        assert_eq!(of("layer1.0.conv1"), "layer1.0.conv1");
        assert_eq!(of("layer1/layer1.0/conv1/Conv"), "layer1.0.conv1");
        assert_eq!(of("blocks.0/attn/qkv/MatMul"), "blocks.0.attn.qkv");
        assert_eq!(of("features/features.1/conv/conv.0/conv.0.0/Conv"), "features.1.conv.0.0");
        assert_eq!(of("trunk_output/block1/block1-0/f/a/a.0/Conv"), "trunk_output.block1.block1-0.f.a.0");
        assert_eq!(of("stage2/stage2.0/branches.0/branches.0.0/conv1/Conv"), "stage2.0.branches.0.0.conv1");
    }

    #[test]
    fn siblings_differ_in_numbers_only() {
        let of = |name: &str| pattern(&module_path(name)).join(".");
        assert_eq!(of("features.12.conv"), of("features.3.conv"));
        assert_ne!(of("features.12.conv"), of("features.3.block"));
    }
}
