//! The tensors of a network after surgery that take the place of the ends of its parent's blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::block::Block;
use crate::{Error, Graph, INPUT};

/// A tensor of a child and the one of its parent whose place it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The layer of the child.
    pub child: String,
    /// The layer of the parent.
    pub parent: String,
}

/// The ends of `replaced` ranges, and the ends of those of the parent's `blocks` that the child still has, in the parent's order.
///
/// `added` are the layers of substitutes: one that has the name of a removed layer is not that layer. Left out are the network's
/// input and output, and tensors of different shapes. Where a range was dropped, one tensor of the child takes the place of
/// two of the parent; the later one counts, which is what the layers behind it read.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn ends(
    parent: &Graph,
    child: &Graph,
    blocks: &[Block],
    replaced: &[End],
    added: &BTreeSet<String>,
) -> Result<Vec<End>, Error> {
    let shapes = |graph: &Graph| -> Result<HashMap<String, _>, Error> {
        Ok(graph.layers.iter().map(|layer| layer.name.clone()).zip(graph.shapes()?).collect())
    };
    let (of_parent, of_child) = (shapes(parent)?, shapes(child)?);
    let places: HashMap<&str, usize> = parent.layers.iter().enumerate().map(|(i, l)| (l.name.as_str(), i)).collect();
    let changed: BTreeSet<&str> = replaced.iter().map(|end| end.parent.as_str()).collect();
    let kept = blocks
        .iter()
        .filter(|block| !changed.contains(block.output.as_str()) && !added.contains(&block.output))
        .map(|block| End { child: block.output.clone(), parent: block.output.clone() });
    let mut by_child: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for End { child: own, parent: other } in replaced.iter().cloned().chain(kept) {
        let same = of_child.get(&own).is_some_and(|shape| of_parent.get(&other) == Some(shape));
        let inner = own != INPUT && own != child.output && other != parent.output;
        let Some(&place) = places.get(other.as_str()).filter(|_| same && inner) else { continue };
        if by_child.get(&own).is_none_or(|(before, _)| *before < place) {
            by_child.insert(own, (place, other));
        }
    }
    let mut ends: Vec<(usize, End)> =
        by_child.into_iter().map(|(child, (place, parent))| (place, End { child, parent })).collect();
    ends.sort_by_key(|(place, _)| *place);
    Ok(ends.into_iter().map(|(_, end)| end).collect())
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::surgery::{self, Substitute};
    use crate::{Network, Shape, arch, block};

    fn parent() -> Network {
        let plan = Some(vec![vec![4, 4], vec![4, 4], vec![6, 6]]);
        let spec = arch::ArchSpec { plan, batch_norm: true, ..arch::ArchSpec::named("vgg") };
        let graph = arch::build(&spec, Shape::new(1, 16, 16), 10).unwrap();
        Network::initialised(graph, &mut rand_chacha::ChaCha8Rng::from_seed([0; 32])).unwrap()
    }

    fn pairs(ends: &[End]) -> Vec<[&str; 2]> {
        ends.iter().map(|end| [end.child.as_str(), end.parent.as_str()]).collect()
    }

    #[test]
    fn the_substitute_ends_where_its_block_did_and_other_blocks_keep_their_names() {
        let parent = parent();
        let blocks = block::find(&parent.graph);
        assert_eq!(blocks.len(), 3);
        let none = ends(&parent.graph, &parent.graph, &blocks, &[], &BTreeSet::new()).unwrap();
        let outputs: Vec<[&str; 2]> = blocks.iter().map(|block| [block.output.as_str(); 2]).collect();
        assert_eq!(pairs(&none), outputs);

        let second = &blocks[1];
        let child = surgery::compress(&parent, &[(second.clone(), Substitute::Conv { kernel: 3, groups: 1 })]).unwrap();
        let added: BTreeSet<String> = surgery::substitute_layers(second, &child).into_iter().collect();
        let last = surgery::substitute_layers(second, &child).pop().unwrap();
        let replaced = [End { child: last.clone(), parent: second.output.clone() }];
        let found = ends(&parent.graph, &child.graph, &blocks, &replaced, &added).unwrap();
        assert_eq!(pairs(&found), [outputs[0], [&last, outputs[1][1]], outputs[2]]);
    }

    #[test]
    fn after_a_drop_one_tensor_takes_the_place_of_the_later_one() {
        let parent = parent();
        // The second convolution of the first block, with its norm and activation.
        let graph = &parent.graph;
        let at = graph.layers.iter().position(|layer| layer.name == "features.3").unwrap();
        let name = |i: usize| graph.layers[i].name.clone();
        let inner = block::range(graph, "inner", &name(at), &name(at + 2)).unwrap();
        let before = block::range(graph, "before", &name(at - 3), &name(at - 1)).unwrap();
        let child = surgery::compress(&parent, &[(inner.clone(), Substitute::Drop)]).unwrap();
        let replaced = [End { child: inner.input.clone(), parent: inner.output.clone() }];
        for blocks in [vec![before.clone(), inner.clone()], vec![inner.clone(), before.clone()]] {
            let found = ends(graph, &child.graph, &blocks, &replaced, &BTreeSet::new()).unwrap();
            assert_eq!(pairs(&found), [[inner.input.as_str(), inner.output.as_str()]]);
        }
    }

    #[test]
    fn the_output_and_layers_that_only_share_a_name_are_left_out() {
        let parent = parent();
        let graph = &parent.graph;
        let blocks = block::find(graph);
        let output = graph.output.clone();
        let first = graph.layers[0].name.clone();
        let whole = block::range(graph, "whole", &first, &output).unwrap();
        assert_eq!(ends(graph, graph, &[whole], &[], &BTreeSet::new()).unwrap(), []);
        let added = BTreeSet::from([blocks[0].output.clone()]);
        assert_eq!(ends(graph, graph, &blocks[..1], &[], &added).unwrap(), []);
    }
}
