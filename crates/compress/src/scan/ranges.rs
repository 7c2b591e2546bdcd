//! Which ranges of layers could be one layer, and which single layers could take their place.

use nettriage_net::block::{self, Block, Unit};
use nettriage_net::receptive_field::kernel_extent;
use nettriage_net::surgery::{self, AffineMap, Substitute};
use nettriage_net::{Conv, Graph, INPUT, Network, Shape, Weights, cost, init, slice};

use crate::Error;

use super::options::{Choice, Options, Scope};
use crate::least_squares::sums::{Sums, Window};

/// One layer for several may have up to this many times their multiply-accumulates, since it may still be faster.
const MAX_MACS_RATIO: u64 = 2;

/// A run of units, with the single layers that could take its place.
pub struct Range {
    /// Indices of its first and last unit.
    pub units: [usize; 2],
    /// Its layers.
    pub block: Block,
    /// Shape of its input tensor.
    pub input: Shape,
    /// Shape of its output tensor.
    pub output: Shape,
    /// The target of the substitute's affine map: the tensor before the closing activation.
    pub target: String,
    /// Parameters and multiply-accumulates of its layers.
    pub cost: cost::LayerCost,
    /// The single layers that could take its place.
    pub candidates: Vec<Candidate>,
}

/// A single layer for a range.
pub struct Candidate {
    /// The substitute.
    pub substitute: Substitute,
    /// The substitute's layers alone, from the range's input to its output; no weights yet.
    pub graph: Graph,
    /// What its weights compute; none for a drop.
    pub map: Option<AffineMap>,
    /// Its cost.
    pub cost: cost::LayerCost,
}

/// All ranges of the scope with at least one candidate, and the number of candidates that are too large to solve.
pub fn ranges(graph: &Graph, units: &[Unit], options: &Options) -> Result<(Vec<Range>, usize), Error> {
    let costs = cost::per_layer(graph)?;
    let options = &Options { choices: options.choices_for(graph), ..options.clone() };
    let (defaults, shapes) = (block::find(graph), graph.shapes()?);
    let (mut ranges, mut left_out) = (Vec::new(), 0);
    for first in 0..units.len() {
        for last in first..units.len() {
            let layers = &graph.layers[units[first].start..units[last].end];
            let products: usize = units[first..=last].iter().map(|unit| unit.products).sum();
            if products == 0 {
                continue;
            }
            let ends = [&layers[0].name, &layers[layers.len() - 1].name];
            let own = defaults.iter().find(|d| [&d.layers[0], &d.output] == ends).map(|d| d.name.clone());
            let name = own.unwrap_or_else(|| block::range_name(&units[first], &units[last]));
            // Between the parts of a network of several resolutions several tensors enter or leave.
            let Ok(block) = block::range(graph, &name, ends[0], ends[1]) else { continue };
            let wanted = match options.scope {
                Scope::All => true,
                Scope::Stages => {
                    let from = graph.shape_of(&block.input)?;
                    let inside = &shapes[units[first].start..units[last].end];
                    inside.iter().all(|to| (to.height, to.width) == (from.height, from.width))
                }
                Scope::Blocks => defaults.iter().any(|d| d.layers == block.layers),
            };
            if !wanted {
                continue;
            }
            let cost = costs[units[first].start..units[last].end].iter().fold(Default::default(), |a, b| a + *b);
            let (input, output) = (graph.shape_of(&block.input)?, graph.shape_of(&block.output)?);
            let target = init::target_tensor(graph, &block);
            let mut range = Range { units: [first, last], block, input, output, target, cost, candidates: Vec::new() };
            range.candidates = candidates(graph, &range, products, options, &mut left_out)?;
            if !range.candidates.is_empty() {
                ranges.push(range);
            }
        }
    }
    Ok((ranges, left_out))
}

/// Single layers that fit the shapes and save work; counts those that are too large to be solved.
fn candidates(
    graph: &Graph,
    range: &Range,
    products: usize,
    options: &Options,
    left_out: &mut usize,
) -> Result<Vec<Candidate>, Error> {
    let weightless = Network { graph: graph.clone(), weights: Weights::new() };
    let alone = slice::between(&weightless, &range.block.input, &range.block.output)?;
    let whole = Block { input: INPUT.to_owned(), ..range.block.clone() };
    let mut found: Vec<Candidate> = Vec::new();
    for choice in &options.choices {
        let Some(substitute) = resolve(*choice, graph, range)? else { continue };
        if found.iter().any(|c| c.substitute == substitute) {
            continue;
        }
        // A substitute that cannot take the one shape to the other is no candidate; that is no error here.
        let Ok(child) = surgery::compress(&alone, &[(whole.clone(), substitute)]) else { continue };
        let map = surgery::affine_map(&whole, &child);
        let graph = child.graph;
        if map.is_some_and(|map| !covers_input(&map.conv, range.input)) {
            continue;
        }
        let cost = cost::total(&graph)?;
        let saves = cost.macs < range.cost.macs || products > 1 && cost.macs <= MAX_MACS_RATIO * range.cost.macs;
        if !saves {
            continue;
        }
        if map.is_some_and(|map| !solvable(&map.conv, range.input, range.output, options)) {
            *left_out += 1;
        } else {
            found.push(Candidate { substitute, graph, map, cost });
        }
    }
    Ok(found)
}

/// The substitute that a choice stands for in this range, if any.
fn resolve(choice: Choice, graph: &Graph, range: &Range) -> Result<Option<Substitute>, Error> {
    let vectors = [range.input, range.output].iter().all(|s| (s.height, s.width) == (1, 1));
    Ok(match choice {
        Choice::One(substitute) if substitute.is_linear() => vectors.then_some(substitute),
        // Between vectors every kernel covers one element, so only the linear layer is a candidate.
        Choice::One(substitute) if vectors && substitute != Substitute::Drop => None,
        Choice::Field | Choice::Depthwise(_) if vectors => None,
        // Their weights have no closed form.
        Choice::One(Substitute::Sublayer(_)) => None,
        // The unit itself, with fewer channels, is no single layer.
        Choice::Narrow(_) => None,
        Choice::One(substitute) => Some(substitute),
        Choice::Field => Some(Substitute::Conv { kernel: kernel_extent(graph, &range.block)[0], groups: 1 }),
        Choice::Depthwise(kernel) => {
            let groups = greatest_common_divisor(range.input.channels, range.output.channels);
            (groups > 1).then_some(Substitute::Conv { kernel, groups })
        }
    })
}

/// Whether a convolution covers every pixel and has no tap that always lies outside the feature map.
fn covers_input(conv: &Conv, input: Shape) -> bool {
    let [kernel, _] = conv.kernel;
    let covers = |stride: usize| stride <= kernel.max(2);
    let inside = kernel < 2 * input.height.min(input.width);
    covers(conv.stride[0]) && covers(conv.stride[1]) && inside
}

/// Normal equations up to this many bytes are solved whatever the limit on memory, so that it changes no result.
pub const ALWAYS_SOLVED: usize = 2 << 30;

/// Whether its normal equations are small enough. Equations cannot be divided among passes over the images.
fn solvable(conv: &Conv, input: Shape, output: Shape, options: &Options) -> bool {
    let [kernel, _] = conv.kernel;
    let unknowns = input.channels / conv.groups * kernel * kernel;
    // As they are accumulated and as they are factored.
    let bytes = 2 * Sums::bytes(&Window::of(conv, input, output), output.channels);
    bytes <= options.memory.max(ALWAYS_SOLVED) && (kernel <= 3 || unknowns <= options.unknowns)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use nettriage_net::Kind;
    use nettriage_net::arch::{self, ArchSpec};

    use super::*;

    fn vgg() -> Graph {
        let spec = ArchSpec { width: 0.25, ..ArchSpec::named("vgg16_bn") };
        arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap()
    }

    #[test]
    fn receptive_fields_of_three_by_three_convolutions_grow_by_two() {
        let graph = vgg();
        let blocks = block::find(&graph);
        let fields: Vec<usize> = blocks.iter().map(|b| kernel_extent(&graph, b)[0]).collect();
        assert_eq!(fields, [5, 5, 7, 7, 7]);
    }

    #[test]
    fn ranges_within_stages_are_the_runs_of_each() {
        let graph = vgg();
        let units = block::units(&graph);
        let options = Options { scope: Scope::Stages, choices: vec!["conv3x3".parse().unwrap()], ..Options::default() };
        let (found, _) = ranges(&graph, &units, &options).unwrap();
        // A stage of n convolutions has n (n - 1) / 2 runs of two or more: 1 + 1 + 3 + 3 + 3; one 3x3 for one 3x3
        // saves nothing. The last unit is the classifier, a stage of vectors, which a convolution does not fit.
        assert_eq!(found.len(), 11);
        let blocks = block::find(&graph);
        assert!(blocks.iter().all(|b| found.iter().any(|r| r.block.layers == b.layers)));
        let all = Options { scope: Scope::All, ..options };
        assert!(ranges(&graph, &units, &all).unwrap().0.len() > 60);
    }

    #[test]
    fn kernels_whose_equations_exceed_the_memory_are_left_out() {
        let possible = |channels: usize, kernel: usize, memory: usize| {
            let shape = Shape::new(channels, 4, 4);
            solvable(&Conv::same(channels, kernel), shape, shape, &Options { memory, ..Options::default() })
        };
        assert!(possible(512, 3, 1 << 20), "small equations are solved with any memory");
        assert!(possible(2048, 1, 1 << 20));
        assert!(!possible(2048, 3, 2 << 30));
        assert!(possible(2048, 3, 64 << 30));
        assert!(!possible(128, 5, 64 << 30), "more than 2,400 unknowns");
    }

    #[test]
    fn a_range_that_ends_in_pooling_is_fitted_to_its_output() {
        let graph = vgg();
        let pool = graph.layers.iter().position(|l| matches!(l.kind, Kind::MaxPool(_))).unwrap();
        let name = graph.layers[pool].name.clone();
        let block = block::range(&graph, "b", &graph.layers[0].name, &name).unwrap();
        assert_eq!(init::target_tensor(&graph, &block), name);
        assert_eq!(init::closing(&graph, &block), Some(nettriage_net::Activation::Relu));
    }
}
