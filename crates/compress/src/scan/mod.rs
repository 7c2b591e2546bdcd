//! The quick answer: every range of layers that could be one layer, without training and without labels.
//!
//! For each range and each single layer that fits its shapes, the weights are solved in closed form (`fit`), the whole
//! network is run with the layer in the range's place (`judge`), and both are timed (`latency`). All ranges share one
//! pass over the images, or as many as the budget of memory makes of it.

mod fit;
mod images;
mod judge;
mod latency;
mod least_squares;
mod ranges;
mod refit;
mod solve;
mod sums;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use nettriage_net::block::{self, Block, Unit};
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Graph, Kind, Network, Tensor, cost, init};
use nettriage_records::plan::Cost;
use nettriage_records::scan::{self as found, Scan};

pub use images::{Fill, Images};
pub use latency::Stopwatch;
pub use least_squares::LeastSquares;
pub use ranges::as_conv;
pub use refit::{Judge, Judgement, refit};

use crate::Error;
use fit::{Fitted, Sources, Wanted};
use judge::{Reference, Task, Verdict};
use ranges::{Candidate, Range};

/// Which ranges are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The default blocks.
    Blocks,
    /// Every range within which the picture keeps its size.
    Stages,
    /// Every range, across down-samplings too.
    All,
}

/// A kind of single layer to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    One(Substitute),
    /// A dense convolution as large as the range's receptive field.
    Field,
    /// A convolution of that kernel with as many groups as divide both numbers of channels.
    Depthwise(usize),
}

impl FromStr for Choice {
    type Err = nettriage_net::Error;

    fn from_str(text: &str) -> Result<Choice, Self::Err> {
        match text {
            "field" => Ok(Choice::Field),
            "depthwise3x3" => Ok(Choice::Depthwise(3)),
            "depthwise5x5" => Ok(Choice::Depthwise(5)),
            _ => text.parse().map(Choice::One),
        }
    }
}

/// How closed-form weights are found. In text: `plain`, `relu` (one further solve), `relu3` (three), each with `+moments`,
/// `+gradients` or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Solves in all. The first is plain ridge regression; each further one asks nothing of outputs that the closing
    /// ReLU would cut off for fit and target alike.
    pub solves: usize,
    /// Whether mean and variance of each output are made those of the target at the end.
    pub moments: bool,
    /// Whether an output position counts by the squared length of the gradient there of the network's answer: an error where
    /// it does not matter costs nothing.
    pub gradients: bool,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.solves {
            1 => write!(f, "plain")?,
            2 => write!(f, "relu")?,
            n => write!(f, "relu{}", n - 1)?,
        }
        f.write_str(if self.moments { "+moments" } else { "" })?;
        f.write_str(if self.gradients { "+gradients" } else { "" })
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Method, Error> {
        let mut parts = text.split('+');
        let name = parts.next().unwrap_or_default();
        let extras: Vec<&str> = parts.collect();
        let has = |extra: &str| extras.contains(&extra);
        let solves = match name {
            "plain" => Some(1),
            "relu" => Some(2),
            _ => name
                .strip_prefix("relu")
                .and_then(|n| n.parse().ok())
                .filter(|n| (1..=20).contains(n))
                .map(|n: usize| n + 1),
        };
        let unknown = || {
            Error::Request(format!(
                "no method `{text}`; use plain, relu or relu3, alone or with +moments, +gradients or both"
            ))
        };
        if extras.iter().any(|extra| !["moments", "gradients"].contains(extra)) {
            return Err(unknown());
        }
        Ok(Method { solves: solves.ok_or_else(unknown)?, moments: has("moments"), gradients: has("gradients") })
    }
}

/// How a scan is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which ranges.
    pub scope: Scope,
    /// Which single layers.
    pub choices: Vec<Choice>,
    /// How their weights are found; each is judged.
    pub methods: Vec<Method>,
    /// Largest number of unknowns of a filter where a kernel is larger than 3x3 (channels times taps).
    pub unknowns: usize,
    /// Output positions looked at for every unknown, at most as many as there are.
    pub rows: usize,
    /// Output positions looked at, at the least.
    pub least_rows: usize,
    /// Threads.
    pub threads: usize,
    /// Whether convolutions run without the less accurate algorithms.
    pub exact: bool,
    /// Bytes for sums, tensors and solutions; more passes over the images where they do not fit.
    pub memory: usize,
    /// Images in a pass whose milliseconds are measured.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Options {
        let conv = |kernel| Choice::One(Substitute::Conv { kernel, groups: 1 });
        Options {
            scope: Scope::All,
            choices: vec![
                conv(1),
                conv(3),
                conv(5),
                Choice::Field,
                Choice::One(Substitute::Linear),
                Choice::One(Substitute::Drop),
            ],
            methods: vec![Method { solves: 2, moments: true, gradients: false }],
            unknowns: 2400,
            rows: 24,
            least_rows: 20_000,
            threads: 1,
            exact: false,
            memory: 2 << 30,
            batch: 1,
        }
    }
}

/// What is told while a scan runs.
pub trait Progress {
    /// A phase has so many steps behind it.
    fn phase(&self, phase: Phase, done: usize, of: usize);
}

/// What a scan is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Gathering sums and solving; steps are images.
    Fitting,
    /// Running the network with substitutes; steps are candidates.
    Judging,
    /// Measuring milliseconds; steps are ranges.
    Timing,
}

/// What a scan is about.
pub struct Subject<'a> {
    /// The network, up to its logits.
    pub network: &'a Network,
    /// Images to fit to; labels are not looked at.
    pub fitted: &'a Images<'a>,
    /// Images to judge by.
    pub judged: &'a Images<'a>,
}

/// Scans a network. Names of files and data sets are left empty for the caller to fill in.
///
/// # Errors
/// A network in which no range could be one layer; those of the engine.
pub fn scan(subject: &Subject<'_>, options: &Options, progress: &dyn Progress) -> Result<Scan, Error> {
    let begin = Instant::now();
    let network = subject.network;
    let graph = &network.graph;
    let units = block::units(graph);
    let (ranges, left_out) = ranges::ranges(graph, &units, options)?;
    if ranges.is_empty() {
        return Err(Error::Request(format!(
            "{}: no range of layers could be one layer; `nettriage inspect` shows its layers",
            graph.name
        )));
    }
    let reference = Reference::new(network, subject.judged, options)?;
    let mut took = found::Took { threads: options.threads, batch: options.batch, ..found::Took::default() };
    let judged = fit_and_judge(subject, &ranges, &reference, options, progress, &mut took)?;

    let clock = Instant::now();
    let mut stopwatch = Stopwatch::new(options.batch, options.exact);
    let units = unit_rows(network, &units, &mut stopwatch)?;
    let milliseconds = candidate_milliseconds(&ranges, &mut stopwatch, progress)?;
    took.timing = clock.elapsed().as_secs_f64();

    let defaults = block::find(graph);
    let rows = ranges.iter().enumerate().map(|(index, range)| {
        let mut candidates = Vec::new();
        for (number, candidate) in range.candidates.iter().enumerate() {
            for (method, fitted, verdict) in &judged[&(index, number)] {
                candidates.push(row(candidate, method, fitted, verdict, milliseconds[index][number]));
            }
        }
        let ends = [range.block.layers.first(), range.block.layers.last()].map(|l| l.cloned().unwrap_or_default());
        found::Range {
            name: range.block.name.clone(),
            units: range.units,
            layers: ends,
            block: defaults.iter().find(|d| d.layers == range.block.layers).map(|d| d.name.clone()),
            cost: plain(range.cost),
            milliseconds: units[range.units[0]..=range.units[1]].iter().map(|u| u.milliseconds).sum(),
            candidates,
        }
    });
    let rows = rows.collect();
    took.seconds = begin.elapsed().as_secs_f64();
    Ok(Scan {
        network: graph.name.clone(),
        source: String::new(),
        images: found::Images {
            data: String::new(),
            fitted: subject.fitted.count,
            judged: subject.judged.count,
            judged_from: String::new(),
            labelled: subject.judged.labels.is_some(),
        },
        parent: found::Parent {
            accuracy: reference.accuracy(),
            cost: plain(cost::total(graph)?),
            milliseconds: units.iter().map(|u| u.milliseconds).sum(),
        },
        units,
        ranges: rows,
        left_out,
        took,
        trust: Vec::new(),
    })
}

type Judged = HashMap<(usize, usize), Vec<(String, Option<Fitted>, Verdict)>>;

/// Weights and verdicts of every candidate by every method, site after site as memory permits.
fn fit_and_judge(
    subject: &Subject<'_>,
    ranges: &[Range],
    reference: &Reference,
    options: &Options,
    progress: &dyn Progress,
    took: &mut found::Took,
) -> Result<Judged, Error> {
    let network = subject.network;
    let mut wanted = Vec::new();
    let mut whose = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        for (number, candidate) in range.candidates.iter().enumerate() {
            if let Some(conv) = candidate.conv {
                wanted.push(want(&network.graph, range, conv)?);
                whose.push((index, number));
            }
        }
    }
    let total: usize = ranges.iter().map(|r| r.candidates.len() * options.methods.len()).sum();
    // Rows with weights and rows without have different sums.
    let mut groups = Vec::new();
    for weighted in [false, true] {
        let methods: Vec<Method> = options.methods.iter().copied().filter(|m| m.gradients == weighted).collect();
        if !methods.is_empty() {
            let sites = grouped(fit::sites(&wanted, weighted), options.memory);
            groups.extend(sites.into_iter().map(|sites| (sites, methods.clone())));
        }
    }
    let mut judged = Judged::new();
    let mut done = 0;
    let passes = groups.len().max(1);
    for (number, (sites, methods)) in groups.iter().enumerate() {
        let clock = Instant::now();
        let sources = Sources { inputs: network, targets: None, images: subject.fitted };
        let tell = |n: usize, of: usize| progress.phase(Phase::Fitting, number * of + n, passes * of);
        let fitted = fit::fit(&sources, &wanted, sites, methods, options, &tell)?;
        took.fitting += clock.elapsed().as_secs_f64();
        took.bytes = took.bytes.max(sites.iter().map(fit::Site::bytes).sum());

        let clock = Instant::now();
        let mut inputs: Vec<&str> = sites.iter().map(fit::Site::input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            let mine: Vec<usize> = sites.iter().filter(|s| s.input() == input).flat_map(fit::Site::wanted).collect();
            // What is wanted of each range, by each method.
            let mut keys: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
            for at in mine {
                let members = (0..methods.len()).map(|method| (at, method));
                keys.entry(whose[at].0).or_default().extend(members);
            }
            let task = |(range, members): (&usize, &Vec<(usize, usize)>)| {
                let range = &ranges[*range];
                let alone = |&(at, method): &(usize, usize)| {
                    substitute(network, range, &range.candidates[whose[at].1], &fitted[method][&at])
                };
                let substitutes = members.iter().map(alone).collect::<Result<_, Error>>()?;
                Ok(Task { output: range.block.output.clone(), substitutes })
            };
            let tasks = keys.iter().map(task).collect::<Result<Vec<_>, Error>>()?;
            let verdicts = judge::judge(network, input, &tasks, subject.judged, reference, options)?;
            for (keys, verdicts) in keys.into_values().zip(verdicts) {
                for ((at, method), verdict) in keys.into_iter().zip(verdicts) {
                    let entry = (methods[method].to_string(), Some(fitted[method][&at].clone()), verdict);
                    judged.entry(whose[at]).or_default().push(entry);
                    done += 1;
                }
            }
            progress.phase(Phase::Judging, done, total);
        }
        took.judging += clock.elapsed().as_secs_f64();
    }
    let clock = Instant::now();
    for (index, range) in ranges.iter().enumerate() {
        for (number, candidate) in range.candidates.iter().enumerate().filter(|(_, c)| c.conv.is_none()) {
            let alone = Network { graph: candidate.graph.clone(), weights: nettriage_net::Weights::new() };
            let task = Task { output: range.block.output.clone(), substitutes: vec![alone] };
            let verdicts =
                judge::judge(network, &range.block.input, &[task], subject.judged, reference, options)?.swap_remove(0);
            let entry = verdicts.into_iter().map(|v| ("none".to_owned(), None, v)).collect();
            judged.insert((index, number), entry);
        }
    }
    took.judging += clock.elapsed().as_secs_f64();
    Ok(judged)
}

/// What a fit needs to know of a candidate.
fn want(graph: &Graph, range: &Range, conv: nettriage_net::Conv) -> Result<Wanted, Error> {
    Ok(Wanted {
        input: range.block.input.clone(),
        from: range.input,
        target: range.target.clone(),
        to: range.output,
        conv,
        closing: init::closing(graph, &range.block),
        closed: range.target == range.block.output,
    })
}

/// Sites in groups that fit the memory, each group one fit; a site that alone exceeds it is a group of its own.
fn grouped(sites: Vec<fit::Site>, memory: usize) -> Vec<Vec<fit::Site>> {
    let mut groups: Vec<(usize, Vec<fit::Site>)> = Vec::new();
    for site in sites {
        let bytes = site.bytes();
        match groups.iter_mut().find(|(held, _)| held + bytes <= memory / 2) {
            Some((held, group)) => {
                *held += bytes;
                group.push(site);
            }
            None => groups.push((bytes, vec![site])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// A candidate as a network of its own, with its weights.
fn substitute(network: &Network, range: &Range, candidate: &Candidate, fitted: &Fitted) -> Result<Network, Error> {
    let whole = Block { input: nettriage_net::INPUT.to_owned(), ..range.block.clone() };
    let alone = nettriage_net::slice::between(network, &range.block.input, &range.block.output)?;
    let mut child = surgery::compress(&alone, &[(whole.clone(), candidate.substitute)])?;
    fill(&mut child, &whole, fitted)?;
    Ok(child)
}

/// Puts fitted weights into a substitute.
fn fill(child: &mut Network, block: &Block, fitted: &Fitted) -> Result<(), Error> {
    let layers = surgery::substitute_layers(block, child);
    let product = layers.first().cloned().unwrap_or_default();
    let shape = child.weights.get(&format!("{product}.weight")).map(|w| w.shape.clone()).unwrap_or_default();
    Ok(init::set_affine(child, block, Tensor { shape, data: fitted.weight.clone() }, &fitted.bias)?)
}

fn plain(cost: cost::LayerCost) -> Cost {
    Cost { parameters: cost.parameters, macs: cost.macs }
}

fn unit_rows(network: &Network, units: &[Unit], stopwatch: &mut Stopwatch) -> Result<Vec<found::Unit>, Error> {
    let graph = &network.graph;
    let (shapes, costs) = (graph.shapes()?, cost::per_layer(graph)?);
    let weightless = Network { graph: graph.clone(), weights: nettriage_net::Weights::new() };
    let mut rows = Vec::new();
    for unit in units {
        let input = unit.start.checked_sub(1).map_or(nettriage_net::INPUT, |before| &graph.layers[before].name);
        let (first, last) = (&graph.layers[unit.start].name, &graph.layers[unit.end - 1].name);
        let alone = nettriage_net::slice::between(&weightless, input, last)?;
        let shape = shapes[unit.end - 1];
        let cost = costs[unit.start..unit.end].iter().fold(cost::LayerCost::default(), |a, b| a + *b);
        rows.push(found::Unit {
            name: unit_name(graph, unit),
            layers: [first.clone(), last.clone()],
            output: [shape.channels, shape.height, shape.width],
            products: unit.products,
            cost: plain(cost),
            milliseconds: stopwatch.measure(&alone.graph)?,
        });
    }
    Ok(rows)
}

/// The name of its only product, or what the names of its layers begin with.
fn unit_name(graph: &Graph, unit: &Unit) -> String {
    let layers = &graph.layers[unit.start..unit.end];
    let mut products = layers.iter().filter(|l| matches!(l.kind, Kind::Conv(_) | Kind::Linear { .. }));
    if unit.products <= 1 {
        return products.next().unwrap_or(&layers[0]).name.clone();
    }
    let common = layers.iter().skip(1).fold(layers[0].name.as_str(), |common, layer| {
        let same = common.split('.').zip(layer.name.split('.')).take_while(|(a, b)| a == b);
        let length: usize = same.map(|(part, _)| part.len() + 1).sum();
        &common[..length.saturating_sub(1)]
    });
    if common.is_empty() { layers[layers.len() - 1].name.clone() } else { common.to_owned() }
}

fn candidate_milliseconds(
    ranges: &[Range],
    stopwatch: &mut Stopwatch,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>, Error> {
    let mut all = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        let measure = |candidate: &Candidate| match candidate.conv {
            None => Ok(0.0),
            Some(_) => stopwatch.measure(&candidate.graph),
        };
        all.push(range.candidates.iter().map(measure).collect::<Result<_, _>>()?);
        progress.phase(Phase::Timing, index + 1, ranges.len());
    }
    Ok(all)
}

fn row(
    candidate: &Candidate,
    method: &str,
    fitted: &Option<Fitted>,
    verdict: &Verdict,
    milliseconds: f64,
) -> found::Candidate {
    let share = |count: usize| count as f64 / verdict.images.max(1) as f64;
    found::Candidate {
        substitute: candidate.substitute.to_string(),
        method: method.to_owned(),
        ridge: fitted.as_ref().map_or(0.0, |f| f.ridge),
        error: fitted.as_ref().map_or(0.0, |f| f.error),
        accuracy: verdict.right.map(share),
        drop: verdict.drop(),
        agreement: share(verdict.agreed),
        divergence: verdict.divergence / verdict.images.max(1) as f64,
        cost: plain(candidate.cost),
        milliseconds,
    }
}
