//! Units: the parts of a graph that a range of layers takes whole, and the names of ranges.

use std::collections::HashSet;

use super::find::{Piece, pieces};
use super::modules::Modules;
use crate::layer::Role;
use crate::{Graph, Layer};

/// Layers `start..end` of a graph that a range of layers takes whole: a convolution or linear layer with the norms and
/// activations after it, a module of several paths with what follows it likewise, a unit of the author's as in
/// [`find`](super::find), or one layer without weights (pooling, flatten) between them. One tensor enters a unit and one
/// leaves it, except what is between the parts of a network of several resolutions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name, unique among the units of the graph: that of its only layer with weights, such as `features.3`, or of the
    /// author's module around its layers, such as `layer3.1` or `blocks.4.mlp`.
    pub name: String,
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
    let modules = Modules::of(graph);
    let whole = modules.join(graph, pieces(graph));
    for Piece { start, end } in whole.into_iter().flat_map(|piece| divided(graph, &modules, piece)) {
        let closes =
            end - start == 1 && matches!(graph.layers[start].kind.role(), Role::Norm | Role::Activation | Role::NoOp);
        match units.last_mut().filter(|unit| closes && unit.products > 0) {
            Some(unit) => unit.end = end,
            None => {
                let products = (start..end).filter(has_weights).count();
                units.push(Unit { name: String::new(), start, end, products });
            }
        }
    }
    let mut taken = HashSet::new();
    for unit in &mut units {
        let mut names = candidate_names(&graph.layers[unit.start..unit.end]);
        names.splice(0..0, modules.exact(unit.start, unit.end));
        let free = names.iter().find(|name| !taken.contains(*name)).cloned();
        let numbered = |number: &usize| format!("{}_{number}", names[0]);
        unit.name = free.unwrap_or_else(|| {
            (2..).map(|n| numbered(&n)).find(|name| !taken.contains(name)).expect("there is no last number")
        });
        taken.insert(unit.name.clone());
    }
    units
}

/// A piece, or its separable parts and what is between them.
fn divided(graph: &Graph, modules: &Modules, piece: Piece) -> Vec<Piece> {
    let (mut found, mut start) = (Vec::new(), piece.start);
    for part in modules.parts(graph, piece) {
        found.extend((start < part.start).then_some(Piece { start, end: part.start }));
        found.push(part);
        start = part.end;
    }
    found.extend((start < piece.end).then_some(Piece { start, end: piece.end }));
    found
}

/// Between the names of the first and the last unit in a range's name.
pub const TO: &str = "_to_";

/// The name of the range of units from `first` to `last`: `layer2.0_to_layer3.1`, or the unit's if it is one. It has no
/// white space, and the layers of a substitute may begin with it.
pub fn range_name(first: &Unit, last: &Unit) -> String {
    if first.name == last.name { first.name.clone() } else { format!("{}{TO}{}", first.name, last.name) }
}

/// Names for a unit, the best first.
fn candidate_names(layers: &[Layer]) -> Vec<String> {
    let weighted: Vec<&str> =
        layers.iter().filter(|layer| layer.kind.as_convolution().is_some()).map(|layer| layer.name.as_str()).collect();
    let mut names = Vec::new();
    if weighted.len() > 1 {
        names.extend(module_names(&weighted));
    }
    names.extend(weighted.first().map(|name| (*name).to_owned()));
    names.extend([&layers[0].name, &layers[layers.len() - 1].name].map(String::clone));
    names
}

/// Names of the module around layers, from their own: `layer1.0` of `layer1.0.conv1` and `layer1.0.conv2`, and of
/// `layer1/layer1.0/conv1/Conv` and `layer1/layer1.0/conv2/Conv`, where the path from the root is another name.
fn module_names(layers: &[&str]) -> Vec<String> {
    let path = common_parts(layers, '/');
    if let Some((_, module)) = path.rsplit_once('/') {
        return vec![module.to_owned(), path];
    }
    if !path.is_empty() {
        return vec![path];
    }
    let module = common_parts(layers, '.');
    if module.is_empty() { Vec::new() } else { vec![module] }
}

/// The parts between separators that all names begin with; the last part of a name is its own.
fn common_parts(names: &[&str], separator: char) -> String {
    let parts = |name: &str| {
        let mut parts: Vec<String> = name.split(separator).map(str::to_owned).collect();
        parts.pop();
        parts
    };
    let common = names.iter().skip(1).fold(parts(names[0]), |common, name| {
        common.into_iter().zip(parts(name)).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    });
    common.join(&separator.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv, INPUT, Kind, Shape};

    /// A convolution, two residual units of two convolutions each, and their names.
    fn residual(names: [&str; 9]) -> Graph {
        let layer = |name: &str, inputs: &[&str], kind| Layer {
            name: name.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            kind,
        };
        let conv = || Kind::Conv(Conv::same(4, 3));
        let [stem, a, b, add1, relu1, c, d, add2, relu2] = names;
        let relu = || Kind::Activation(crate::Activation::Relu);
        let layers = vec![
            layer(stem, &[INPUT], conv()),
            layer(a, &[stem], conv()),
            layer(b, &[a], conv()),
            layer(add1, &[b, stem], Kind::Add),
            layer(relu1, &[add1], relu()),
            layer(c, &[relu1], conv()),
            layer(d, &[c], conv()),
            layer(add2, &[d, relu1], Kind::Add),
            layer(relu2, &[add2], relu()),
        ];
        Graph { name: "r".into(), input: Shape::new(4, 8, 8), layers, output: relu2.to_owned() }
    }

    fn names(graph: &Graph) -> Vec<String> {
        units(graph).into_iter().map(|unit| unit.name).collect()
    }

    #[test]
    fn residual_units_have_the_names_of_the_networks_modules() {
        // As PyTorch's two exporters name nodes: operations without weights are numbered by the newer one.
        let newer = [
            "conv1",
            "layer1.0.conv1",
            "layer1.0.conv2",
            "node_add",
            "node_relu_2",
            "layer1.1.conv1",
            "layer1.1.conv2",
            "node_add_1",
            "node_relu_4",
        ];
        assert_eq!(names(&residual(newer)), ["conv1", "layer1.0", "layer1.1"]);
        let older = [
            "conv1/Conv",
            "layer1/layer1.0/conv1/Conv",
            "layer1/layer1.0/conv2/Conv",
            "layer1/layer1.0/Add",
            "layer1/layer1.0/relu_1/Relu",
            "layer1/layer1.1/conv1/Conv",
            "layer1/layer1.1/conv2/Conv",
            "layer1/layer1.1/Add",
            "layer1/layer1.1/relu_1/Relu",
        ];
        assert_eq!(names(&residual(older)), ["conv1/Conv", "layer1.0", "layer1.1"]);
        let units = units(&residual(newer));
        assert_eq!(range_name(&units[1], &units[2]), "layer1.0_to_layer1.1");
        assert_eq!(range_name(&units[2], &units[2]), "layer1.1");
    }

    #[test]
    fn names_of_units_are_unique() {
        let modules = ["m.stem", "m.1.a", "m.1.b", "add", "relu", "m.1.c", "m.1.d", "add_1", "relu_1"];
        assert_eq!(names(&residual(modules)), ["m.stem", "m.1", "m.1.c"]);
        let numbered = ["Conv_0", "Conv_1", "Conv_2", "Add_3", "Relu_4", "Conv_5", "Conv_6", "Add_7", "Relu_8"];
        assert_eq!(names(&residual(numbered)), ["Conv_0", "Conv_1", "Conv_5"]);
        let paths = ["a/stem", "a/x/1", "a/x/2", "a/x/add", "a/x/r", "b/x/1", "b/x/2", "b/x/add", "b/x/r"];
        assert_eq!(names(&residual(paths)), ["a/stem", "a.x", "b"]);
    }
}
