//! Blocks: contiguous runs of layers with one input and one output tensor.

mod find;
mod modules;
mod units;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

pub use find::find;
pub use modules::module_path;
pub use units::{TO, Unit, range_name, units};

use crate::{Error, Graph};

/// A contiguous run of layers with one input and one output tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name, such as `block3`, without whitespace.
    pub name: String,
    /// Names of its layers, in the graph's order, without a gap.
    pub layers: Vec<String>,
    /// The one tensor that enters: a layer's name or [`INPUT`](crate::INPUT).
    pub input: String,
    /// The one tensor that leaves: the name of its last layer.
    pub output: String,
}

/// The layers from `first` to `last`, both included, as a block.
///
/// # Errors
/// A name that no layer has; an empty range; a range that more than one tensor enters or leaves, with those tensors and
/// the smallest range around it that one tensor enters and one leaves.
pub fn range(graph: &Graph, name: &str, first: &str, last: &str) -> Result<Block, Error> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(Error::block(name, "a block's name must have at least one letter and no whitespace"));
    }
    let position = |layer: &str| {
        let missing = || Error::block(name, format!("there is no layer `{layer}`; `nettriage inspect` lists them"));
        graph.position(layer).ok_or_else(missing)
    };
    let (from, to) = (position(first)?, position(last)?);
    if from > to {
        return Err(Error::block(name, format!("`{first}` comes after `{last}`; swap them")));
    }
    let border = Border::of(graph, from, to);
    if let Some((input, output)) = border.ends() {
        let layers = graph.layers[from..=to].iter().map(|layer| layer.name.clone()).collect();
        return Ok(Block { name: name.to_string(), layers, input: input.to_string(), output: output.to_string() });
    }
    let mut problem = format!("`{first}` to `{last}` is not separable here: {}", border.reason());
    if let Some((from, to)) = nearest(graph, from, to) {
        let (first, last) = (&graph.layers[from].name, &graph.layers[to].name);
        problem += &format!("; the nearest range that is: `{first}` to `{last}`");
    }
    Err(Error::block(name, problem))
}

/// The tensors that cross the border of a range.
struct Border<'a> {
    entering: Vec<&'a str>,
    leaving: Vec<&'a str>,
}

impl<'a> Border<'a> {
    fn of(graph: &'a Graph, from: usize, to: usize) -> Border<'a> {
        let range = &graph.layers[from..=to];
        let inside: HashSet<&str> = range.iter().map(|layer| layer.name.as_str()).collect();
        let mut seen = HashSet::new();
        let inputs = range.iter().flat_map(|layer| &layer.inputs).map(String::as_str);
        let entering = inputs.filter(|input| !inside.contains(input) && seen.insert(*input)).collect();
        let after = graph.layers[to + 1..].iter().flat_map(|layer| &layer.inputs).map(String::as_str);
        let leaving = after.chain([graph.output.as_str()]).filter(|t| inside.contains(t) && seen.insert(*t)).collect();
        Border { entering, leaving }
    }

    fn ends(&self) -> Option<(&'a str, &'a str)> {
        match (self.entering.as_slice(), self.leaving.as_slice()) {
            ([input], [output]) => Some((input, output)),
            _ => None,
        }
    }

    fn reason(&self) -> String {
        let describe = |tensors: &[&str], verb: &str| {
            let names: Vec<String> = tensors.iter().map(|t| format!("`{t}`")).collect();
            format!("{} tensors {verb} it ({})", tensors.len(), crate::shorten(&names))
        };
        match (self.entering.len(), self.leaving.len()) {
            (1, _) => describe(&self.leaving, "leave"),
            (_, 1) => describe(&self.entering, "enter"),
            _ => format!("{}, {}", describe(&self.entering, "enter"), describe(&self.leaving, "leave")),
        }
    }
}

/// The smallest range around `from..=to` that one tensor enters and one leaves, if there is one nearby.
fn nearest(graph: &Graph, from: usize, to: usize) -> Option<(usize, usize)> {
    // Longer than any module in use; it bounds the work on a graph of thousands of layers.
    const MOST_ADDED: usize = 128;
    for more in 1..=MOST_ADDED {
        for before in 0..=more {
            let (Some(first), last) = (from.checked_sub(before), to + more - before) else { continue };
            if last < graph.layers.len() && Border::of(graph, first, last).ends().is_some() {
                return Some((first, last));
            }
        }
    }
    None
}
