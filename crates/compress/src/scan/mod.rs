//! The scan: every range of layers that could be one layer, without training and without labels.
//!
//! For each range and each single layer that fits its shapes, the weights are solved in closed form (`fit_and_judge`): the
//! normal equations of many substitutes are accumulated in one pass over the images (`regression`, `accumulate`), solved
//! (`crate::least_squares`) and judged by running the whole network with the substitute in the range's place (`judge`). Both are timed
//! (`latency`).

mod accumulate;
mod fit;
mod fit_and_judge;
mod images;
mod judge;
mod latency;
mod measure;
mod narrow;
mod options;
mod parts;
mod ranges;
mod refit;
mod regression;
mod substitute;
mod units;

use std::time::Instant;

use nettriage_net::block::Unit;
use nettriage_net::{Graph, Network, block, cost};
use nettriage_records::scan::{self as records, Scan};

pub use images::{Fill, Images};
pub use latency::Stopwatch;
pub use measure::{Outputs, digest, measure};
pub use narrow::{changed_layers, narrowed};
pub use options::{Choice, Method, Options, Phase, Progress, Scope};
pub use parts::{Part, parts, with_times};
pub use refit::{Judge, Judgement, refit};

use crate::Error;
use fit_and_judge::fit_and_judge;
use judge::{Reference, Verdict};
use ranges::{Candidate, Range};
use units::recorded_cost;

/// The network and the images of a scan.
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
    measure::check_methods(measure(graph, subject.judged.labels.is_some(), options.outputs)?, options)?;
    let parts = block::units(graph);
    let (ranges, left_out) = ranges::ranges(graph, &parts, options)?;
    if ranges.is_empty() && !narrow::applies(graph, options)? {
        return Err(Error::Request(format!(
            "{}: no range of layers could be one layer; `nettriage inspect` shows its layers",
            graph.name
        )));
    }
    // The first batch of a large network takes a while.
    progress.phase(Phase::Fitting, 0, subject.fitted.count);
    let reference = Reference::new(network, subject.judged, options)?;
    let mut took = records::Took { threads: options.threads, batch: options.batch, ..records::Took::default() };
    let judged = fit_and_judge(subject, &ranges, &reference, options, progress, &mut took)?;

    let clock = Instant::now();
    let mut stopwatch = Stopwatch::new(&options.device, options.batch, options.exact);
    let units = units::unit_rows(network, &parts, &mut stopwatch)?;
    let milliseconds = candidate_milliseconds(&ranges, &mut stopwatch, progress)?;
    took.timing = clock.elapsed().as_secs_f64();

    let defaults = block::find(graph);
    let rows = ranges.iter().enumerate().map(|(index, range)| {
        let mut candidates = Vec::new();
        for (number, candidate) in range.candidates.iter().enumerate() {
            for (method, fitted, verdict) in &judged[&(index, number)] {
                let names = [candidate.substitute.to_string(), method.clone()];
                let errors = fitted.as_ref().map_or([0.0; 2], |fitted| [fitted.ridge, fitted.error]);
                let milliseconds = milliseconds[index][number];
                candidates.push(row(names, errors, verdict, &reference, candidate.cost, milliseconds));
            }
        }
        let ends = [range.block.layers.first(), range.block.layers.last()].map(|l| l.cloned().unwrap_or_default());
        records::Range {
            name: range.block.name.clone(),
            units: range.units,
            layers: ends,
            block: defaults.iter().find(|d| d.layers == range.block.layers).map(|d| d.name.clone()),
            cost: recorded_cost(range.cost),
            milliseconds: units[range.units[0]..=range.units[1]].iter().map(|u| u.milliseconds).sum(),
            candidates,
        }
    });
    let mut rows: Vec<records::Range> = rows.collect();
    add_narrower(subject, &parts, &units, &reference, options, &mut stopwatch, &mut rows)?;
    took.device = options.device.describe();
    took.seconds = begin.elapsed().as_secs_f64();
    Ok(Scan {
        network: graph.name.clone(),
        digest: digest(network),
        measure: reference.measure,
        source: String::new(),
        images: records::Images {
            data: String::new(),
            fitted: subject.fitted.count,
            judged: subject.judged.count,
            judged_from: String::new(),
        },
        parent: records::Parent {
            accuracy: reference.accuracy(),
            cost: recorded_cost(cost::total(graph)?),
            milliseconds: units.iter().map(|u| u.milliseconds).sum(),
        },
        units,
        ranges: rows,
        left_out,
        took,
        trust: Vec::new(),
    })
}

/// Adds the units with fewer inner channels to the candidates of their ranges.
fn add_narrower(
    subject: &Subject<'_>,
    parts: &[Unit],
    units: &[records::Unit],
    reference: &Reference,
    options: &Options,
    stopwatch: &mut Stopwatch,
    rows: &mut Vec<records::Range>,
) -> Result<(), Error> {
    if narrow::choices(options).is_empty() {
        return Ok(());
    }
    for (index, (part, unit)) in parts.iter().zip(units).enumerate() {
        let images = [subject.fitted, subject.judged];
        let found = narrow::candidates(subject.network, part, images, reference, stopwatch, options)?;
        if found.is_empty() {
            continue;
        }
        match rows.iter_mut().find(|row| row.units == [index; 2]) {
            Some(row) => row.candidates.extend(found),
            None => rows.push(records::Range {
                name: unit.name.clone(),
                units: [index; 2],
                layers: unit.layers.clone(),
                block: None,
                cost: unit.cost,
                milliseconds: unit.milliseconds,
                candidates: found,
            }),
        }
    }
    rows.sort_by_key(|row| row.units);
    Ok(())
}

/// First and last unit of every range that a scan with these options would judge.
///
/// # Errors
/// A graph whose shapes do not fit.
pub fn replaceable(graph: &Graph, options: &Options) -> Result<Vec<[usize; 2]>, Error> {
    let (ranges, _) = ranges::ranges(graph, &block::units(graph), options)?;
    Ok(ranges.into_iter().map(|range| range.units).collect())
}

fn candidate_milliseconds(
    ranges: &[Range],
    stopwatch: &mut Stopwatch,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f64>>, Error> {
    let mut all = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        let measure = |candidate: &Candidate| match candidate.map {
            None => Ok(0.0),
            Some(_) => stopwatch.measure(&candidate.graph),
        };
        all.push(range.candidates.iter().map(measure).collect::<Result<_, _>>()?);
        progress.phase(Phase::Timing, index + 1, ranges.len());
    }
    Ok(all)
}

fn row(
    [substitute, method]: [String; 2],
    [ridge, error]: [f64; 2],
    verdict: &Verdict,
    reference: &Reference,
    cost: cost::LayerCost,
    milliseconds: f64,
) -> records::Candidate {
    let share = |count: usize| count as f64 / verdict.images.max(1) as f64;
    records::Candidate {
        substitute,
        method,
        ridge,
        error,
        accuracy: verdict.right.map(share),
        drop: verdict.drop(),
        fidelity: reference.fidelity(verdict),
        cost: recorded_cost(cost),
        milliseconds,
    }
}
