//! Units with fewer inner channels: which channels remain, and the weights of the convolutions that read them.
//!
//! Of every chain of a unit (`nettriage_net::narrow`) the channels are left out by backward elimination, and the convolution behind
//! them is solved again by least squares, as in channel pruning (He et al., arXiv:1707.06168). Its target is the original network's
//! value behind the convolution and its norm; where that is added to a shortcut, the target also corrects what the shortcut of the
//! network built so far has lost.

use nettriage_net::block::{self, Block, Unit};
use nettriage_net::narrow::{self, Chain, Narrow};
use nettriage_net::{Conv, Graph, Kind, Network, Shape, Tensor, cost, slice};
use nettriage_records::scan as records;

use super::images::{Images, Tensors};
use super::judge::{self, Reference, Task};
use super::latency::Stopwatch;
use super::options::{Choice, Method, Options};
use super::row;
use crate::Error;
use crate::least_squares::sums::{Positions, Sums, Window};
use crate::least_squares::{LeastSquares, Reduced};

/// Ridge of these regressions, as a share of the mean diagonal element of Z'Z.
const RIDGE: f64 = 1e-4;

/// Images in a pass.
const BATCH: usize = 50;

/// Slopes of a norm below this are taken for this, so that filters can be divided by them.
const LEAST_SLOPE: f64 = 1e-3;

/// The choices of narrower units, the widest first.
pub fn choices(options: &Options) -> Vec<Narrow> {
    let mut found: Vec<Narrow> = options
        .choices
        .iter()
        .filter_map(|choice| if let Choice::Narrow(narrow) = choice { Some(*narrow) } else { None })
        .collect();
    found.sort_by_key(|narrow| std::cmp::Reverse(narrow.percent));
    found.dedup();
    found
}

/// The method by which narrower units are solved: once, with matched moments if the options' first method matches them.
pub fn method(options: &Options) -> Method {
    Method { solves: 1, moments: options.methods.first().is_some_and(|method| method.moments), gradients: false }
}

/// Chains of the block whose regression can be solved.
fn solvable(graph: &Graph, block: &Block, options: &Options) -> Result<Vec<Chain>, Error> {
    let mut found = Vec::new();
    for chain in narrow::chains(graph, block) {
        let (conv, from, to) = consumer(graph, &chain)?;
        let bytes = 2 * Sums::bytes(&Window::of(&conv, from, to), to.channels);
        if conv.dilation != [1, 1] || bytes > options.memory.max(super::ranges::ALWAYS_SOLVED) {
            return Ok(Vec::new());
        }
        found.push(chain);
    }
    Ok(found)
}

/// The convolution that reads a chain, with the shapes of its input and output.
fn consumer(graph: &Graph, chain: &Chain) -> Result<(Conv, Shape, Shape), Error> {
    let Some(Kind::Conv(conv)) = graph.layer(&chain.consumer).map(|layer| &layer.kind) else {
        return Err(Error::Request(format!("{}: {} is no convolution", graph.name, chain.consumer)));
    };
    Ok((*conv, graph.shape_of(chain.tensor())?, graph.shape_of(&chain.consumer)?))
}

/// `network` with the inner channels of `now` reduced, once for each of `how`. `before` are the same layers in `parent`.
///
/// # Errors
/// A block without inner channels; those of the engine.
pub fn narrowed(
    [parent, network]: [&Network; 2],
    [before, now]: [&Block; 2],
    how: &[Narrow],
    images: &Images<'_>,
    options: &Options,
) -> Result<Vec<Network>, Error> {
    let chains = solvable(&network.graph, now, options)?;
    let Some(first) = chains.first() else {
        return Err(Error::Request(format!("{}: it has no inner channels that could be left out", now.name)));
    };
    // The first chain reads the same tensor whatever remains of it.
    let equations = Equations::gather([parent, network], [before, now], first, images, options)?;
    let mut results = Vec::new();
    for narrow in how {
        let mut result = equations.reduce(network, first, *narrow, options)?;
        for chain in &chains[1..] {
            let equations = Equations::gather([parent, &result], [before, now], chain, images, options)?;
            result = equations.reduce(&result, chain, *narrow, options)?;
        }
        results.push(result);
    }
    Ok(results)
}

/// The names of the layers of a unit that narrowing changed.
pub fn changed_layers(graph: &Graph, block: &Block) -> Vec<String> {
    let chains = narrow::chains(graph, block);
    let of = |chain: Chain| {
        let norm = norm_after(graph, &chain.consumer).map(|(name, _)| name.to_owned());
        [chain.producer, chain.consumer].into_iter().chain(chain.through).chain(norm)
    };
    chains.into_iter().flat_map(of).collect()
}

/// The norm behind a convolution, with its eps, if it alone reads its output.
fn norm_after<'a>(graph: &'a Graph, conv: &str) -> Option<(&'a str, f64)> {
    let layer = narrow::only_reader(graph, conv)?;
    if let Kind::BatchNorm(norm) = &layer.kind { Some((&layer.name, f64::from(norm.eps))) } else { None }
}

/// The other term, if a sum of two terms of one shape alone reads a tensor, inside the block.
fn shortcut<'a>(graph: &'a Graph, block: &Block, tensor: &str) -> Option<&'a str> {
    let mut readers = graph.layers.iter().filter(|layer| layer.inputs.iter().any(|input| input == tensor));
    let sum = readers.next().filter(|layer| matches!(layer.kind, Kind::Add) && block.layers.contains(&layer.name))?;
    let [a, b] = sum.inputs.as_slice() else { return None };
    let other = if a == tensor { b } else { a };
    let same = graph.shape_of(other).ok()? == graph.shape_of(tensor).ok()?;
    (readers.next().is_none() && a != b && same).then_some(other)
}

/// The regression of the convolution behind a chain.
struct Equations {
    sums: LeastSquares,
    /// Channels in the order of their elimination.
    order: Vec<usize>,
    taps: usize,
}

impl Equations {
    fn gather(
        [parent, network]: [&Network; 2],
        [before, now]: [&Block; 2],
        chain: &Chain,
        images: &Images<'_>,
        options: &Options,
    ) -> Result<Equations, Error> {
        let (conv, from, to) = consumer(&network.graph, chain)?;
        let target = norm_after(&parent.graph, &chain.consumer).map_or(chain.consumer.as_str(), |(norm, _)| norm);
        let shortcuts = shortcut(&parent.graph, before, target).zip(shortcut(&network.graph, now, target));
        let tensors = |network: &Network, names: &[&str]| {
            Tensors::new(&options.device, network, names, BATCH, options.threads, options.exact)
        };
        let mut wanted = vec![target];
        let mut given = vec![chain.tensor()];
        if let Some((original, current)) = shortcuts {
            wanted.push(original);
            given.push(current);
        }
        let (mut parents, mut own) = (tensors(parent, &wanted)?, tensors(network, &given)?);
        let window = Window::of(&conv, from, to);
        let rows = (options.rows * (window.patch() + 1)).max(options.least_rows);
        let mut positions = Positions::new(rows.div_ceil(images.count.max(1)), window.positions());
        let mut sums = LeastSquares::new(conv, from, to);
        let mut targets = Vec::new();
        for start in (0..images.count).step_by(BATCH) {
            let range = start..images.count.min(start + BATCH);
            parents.run(images, range.clone())?;
            own.run(images, range)?;
            targets.clear();
            targets.extend_from_slice(parents.get(target));
            if let Some((original, current)) = shortcuts {
                let differences = parents.get(original).iter().zip(own.get(current));
                targets.iter_mut().zip(differences).for_each(|(target, (original, now))| *target += original - now);
            }
            sums.add_drawn(own.get(chain.tensor()), &targets, start, &mut positions);
        }
        let order = sums.elimination(RIDGE).ok_or_else(|| unsolved(&chain.consumer))?;
        Ok(Equations { sums, order, taps: conv.kernel[0] * conv.kernel[1] })
    }

    /// `network` with fewer channels in the chain.
    fn reduce(&self, network: &Network, chain: &Chain, how: Narrow, options: &Options) -> Result<Network, Error> {
        let count = how.of(chain.channels);
        let mut kept = self.order[chain.channels - count..].to_vec();
        kept.sort_unstable();
        let mut result = narrow::narrow(network, chain, &kept)?;
        let reduced = self.sums.solve_channels(&kept, RIDGE, method(options).moments);
        fill(&mut result, chain, &reduced.ok_or_else(|| unsolved(&chain.consumer))?, self.taps);
        Ok(result)
    }
}

fn unsolved(layer: &str) -> Error {
    Error::Request(format!("{layer}: no weights were found for fewer input channels: its inputs are not finite"))
}

/// Puts solved weights into the convolution behind a chain and its norm, which gets the statistics of the convolution's output.
fn fill(network: &mut Network, chain: &Chain, solved: &Reduced, taps: usize) {
    let (mut weight, bias) = solved.filters(taps);
    let name = &chain.consumer;
    let filters = bias.len();
    let per_filter = weight.len() / filters;
    let shape = network.weights[&format!("{name}.weight")].shape.clone();
    let norm = norm_after(&network.graph, name).map(|(norm, eps)| (norm.to_owned(), eps));
    if let Some((norm, eps)) = norm {
        let part = |part: &str| network.weights[&format!("{norm}.{part}")].data.clone();
        let (slopes, variances) = (part("weight"), part("running_var"));
        let mut values = ["weight", "bias", "running_mean", "running_var"].map(|part| (part, Vec::new()));
        for f in 0..filters {
            // The filters keep their scale, on which weight decay and the effective rate depend.
            let slope = f64::from(slopes[f]) / (f64::from(variances[f]) + eps).sqrt();
            let slope = if slope.abs() < LEAST_SLOPE { LEAST_SLOPE } else { slope };
            let own = &mut weight[f * per_filter..(f + 1) * per_filter];
            own.iter_mut().for_each(|w| *w = (f64::from(*w) / slope) as f32);
            let variance = solved.variance[f] / (slope * slope);
            let all = [
                slope * (variance + eps).sqrt(),
                f64::from(bias[f]) + solved.mean[f],
                solved.mean[f] / slope,
                variance,
            ];
            values.iter_mut().zip(all).for_each(|((_, list), value)| list.push(value as f32));
        }
        for (part, data) in values {
            network.weights.insert(format!("{norm}.{part}"), Tensor::new(&[filters], data));
        }
        if let Some(own) = network.weights.get_mut(&format!("{name}.bias")) {
            own.data.fill(0.0);
        }
    } else {
        for layer in network.graph.layers.iter_mut().filter(|layer| layer.name == *name) {
            if let Kind::Conv(conv) = &mut layer.kind {
                conv.bias = true;
            }
        }
        network.weights.insert(format!("{name}.bias"), Tensor::new(&[filters], bias));
    }
    network.weights.insert(format!("{name}.weight"), Tensor::new(&shape, weight));
}

/// Whether the options have narrower units, and the network a unit with inner channels.
pub fn applies(graph: &Graph, options: &Options) -> Result<bool, Error> {
    let mut found = false;
    for unit in block::units(graph) {
        found |= !choices(options).is_empty() && narrowable(graph, &unit, options)?.is_some();
    }
    Ok(found)
}

/// The unit as a block, if it has inner channels.
fn narrowable(graph: &Graph, unit: &Unit, options: &Options) -> Result<Option<Block>, Error> {
    let layers = &graph.layers[unit.start..unit.end];
    let block = block::range(graph, &unit.name, &layers[0].name, &layers[layers.len() - 1].name)?;
    let chains = solvable(graph, &block, options)?;
    Ok((!chains.is_empty()).then_some(block))
}

/// What a scan records of a unit with fewer inner channels; nothing of a unit without any.
pub fn candidates(
    network: &Network,
    unit: &Unit,
    images: [&Images<'_>; 2],
    reference: &Reference,
    stopwatch: &mut Stopwatch,
    options: &Options,
) -> Result<Vec<records::Candidate>, Error> {
    let Some(block) = narrowable(&network.graph, unit, options)? else { return Ok(Vec::new()) };
    let how = choices(options);
    let [fitted, judged] = images;
    let whole = narrowed([network; 2], [&block; 2], &how, fitted, options)?;
    let parts = whole.iter().map(|whole| Ok(slice::between(whole, &block.input, &block.output)?));
    let parts: Vec<Network> = parts.collect::<Result<_, Error>>()?;
    let task = |part: &Network| Task { output: block.output.clone(), substitutes: vec![part.clone()] };
    let tasks: Vec<Task> = parts.iter().map(task).collect();
    let verdicts = judge::judge(network, &block.input, &tasks, judged, reference, options)?;
    let mut found = Vec::new();
    for ((narrow, part), verdict) in how.iter().zip(&parts).zip(verdicts.iter().map(|verdicts| &verdicts[0])) {
        let (names, cost) = ([narrow.to_string(), method(options).to_string()], cost::total(&part.graph)?);
        found.push(row(names, [RIDGE, 0.0], verdict, reference, cost, stopwatch.measure(&part.graph)?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use nettriage_net::{Activation, INPUT, Layer, Weights, layer};
    use nettriage_train::seed;

    use super::super::images::noise;
    use super::*;

    const SHAPE: Shape = Shape { channels: 3, height: 6, width: 5 };

    /// A stem and a residual unit of 8 inner channels.
    fn residual() -> Network {
        let layer = |name: &str, inputs: &[&str], kind| Layer {
            name: name.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            kind,
        };
        let conv = |filters| Kind::Conv(Conv { bias: false, ..Conv::same(filters, 3) });
        let norm = || Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 });
        let relu = || Kind::Activation(Activation::Relu);
        let layers = vec![
            layer("stem", &[INPUT], Kind::Conv(Conv::same(4, 3))),
            layer("u.conv1", &["stem"], conv(8)),
            layer("u.bn1", &["u.conv1"], norm()),
            layer("u.relu1", &["u.bn1"], relu()),
            layer("u.conv2", &["u.relu1"], conv(4)),
            layer("u.bn2", &["u.conv2"], norm()),
            layer("u.add", &["u.bn2", "stem"], Kind::Add),
            layer("u.relu", &["u.add"], relu()),
        ];
        let graph = Graph { name: "r".into(), input: SHAPE, layers, output: "u.relu".into() };
        let mut network = Network::initialised(graph, &mut seed::rng("test", &[])).unwrap();
        let vary = |weights: &mut Weights, key: &str, low: f32, step: f32| {
            let values = weights.get_mut(key).unwrap();
            values.data.iter_mut().enumerate().for_each(|(at, value)| *value = low + step * (at % 5) as f32);
        };
        for (key, low, step) in [
            ("u.bn1.bias", -0.2, 0.1),
            ("u.bn2.weight", -0.9, 0.5),
            ("u.bn2.bias", 0.3, -0.2),
            ("u.bn2.running_mean", 0.2, 0.1),
            ("u.bn2.running_var", 0.5, 0.4),
        ] {
            vary(&mut network.weights, key, low, step);
        }
        network
    }

    fn images() -> Images<'static> {
        noise(SHAPE, 300)
    }

    fn unit(graph: &Graph) -> Block {
        block::range(graph, "u", "u.conv1", "u.relu").unwrap()
    }

    fn options() -> Options {
        Options { methods: vec![Method { solves: 1, moments: false, gradients: false }], ..Options::default() }
    }

    /// Mean squared difference of the outputs.
    fn difference(a: &Network, b: &Network) -> f64 {
        let mut tensors = [a, b]
            .map(|network| Tensors::new(&nettriage_train::Device::Cpu, network, &["u.relu"], 300, 1, true).unwrap());
        tensors.iter_mut().for_each(|tensors| tensors.run(&images(), 0..300).unwrap());
        let [a, b] = &tensors;
        let (a, b) = (a.get("u.relu"), b.get("u.relu"));
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
    }

    fn narrow_to(parent: &Network, network: &Network, percent: usize) -> Network {
        let blocks = [unit(&parent.graph), unit(&network.graph)];
        let [before, now] = &blocks;
        let how = [Narrow { percent }];
        let child = narrowed([parent, network], [before, now], &how, &images(), &options()).unwrap().swap_remove(0);
        child.check().unwrap();
        child
    }

    #[test]
    fn repeated_channels_are_left_out_without_loss() {
        let mut parent = residual();
        // Filters 4 to 7 repeat 0 to 3, their norms too.
        for (key, per_filter) in [("u.conv1.weight", 36), ("u.bn1.bias", 1)] {
            let data = &mut parent.weights.get_mut(key).unwrap().data;
            data.copy_within(0..4 * per_filter, 4 * per_filter);
        }
        let child = narrow_to(&parent, &parent, 50);
        assert_eq!(child.graph.shape_of("u.relu1").unwrap().channels, 4);
        let (half, quarter) = (difference(&parent, &child), difference(&parent, &narrow_to(&parent, &parent, 25)));
        assert!(half < 1e-5 && quarter > 1e-3, "{half} {quarter}");
    }

    #[test]
    fn what_the_shortcut_lost_is_corrected() {
        let parent = residual();
        let mut network = parent.clone();
        let bias = &mut network.weights.get_mut("stem.bias").unwrap().data;
        bias.iter_mut().zip([0.3, -0.4, 0.2, 0.5]).for_each(|(bias, error)| *bias += error);
        // With every channel kept only the second convolution is solved again.
        let before = difference(&parent, &network);
        let after = difference(&parent, &narrow_to(&parent, &network, 99));
        assert!(after < 0.2 * before, "{before} {after}");
    }

    #[test]
    fn a_shortcut_that_is_a_branch_of_the_unit_is_corrected_too() {
        let mut graph = residual().graph;
        let sum = graph.position("u.add").unwrap();
        graph.layers[sum].inputs[1] = "u.short".to_owned();
        let branch = Layer { name: "u.short".into(), inputs: vec!["stem".into()], kind: Kind::Conv(Conv::same(4, 1)) };
        graph.layers.insert(sum, branch);
        let parent = Network::initialised(graph, &mut seed::rng("branch", &[])).unwrap();
        let mut network = parent.clone();
        network.weights.get_mut("stem.bias").unwrap().data.iter_mut().for_each(|bias| *bias += 0.4);
        let before = difference(&parent, &network);
        let after = difference(&parent, &narrow_to(&parent, &network, 99));
        assert!(after < 0.5 * before, "{before} {after}");
    }

    #[test]
    fn the_norm_has_the_statistics_of_its_convolution() {
        let parent = residual();
        let child = narrow_to(&parent, &parent, 75);
        let mut tensors = Tensors::new(&nettriage_train::Device::Cpu, &child, &["u.conv2"], 300, 1, true).unwrap();
        tensors.run(&images(), 0..300).unwrap();
        let mut moments = crate::moments::Moments::new(4);
        moments.add(tensors.get("u.conv2"));
        let [mean, variance] = moments.finish();
        for f in 0..4 {
            let stored = |part: &str| child.weights[&format!("u.bn2.{part}")].data[f];
            assert!((stored("running_mean") - mean[f]).abs() < 1e-6, "{} {}", stored("running_mean"), mean[f]);
            assert!((stored("running_var") / variance[f] - 1.0).abs() < 1e-6);
        }
    }
}
