//! Solves and judges every candidate of every range, in as many passes over the images as the memory requires.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use nettriage_net::surgery::AffineMap;
use nettriage_net::{Graph, Network, Weights, init};
use nettriage_records::scan as records;

use super::fit::{Sources, fit};
use super::judge::{self, Reference, Task, Verdict};
use super::options::{Method, Options, Phase, Progress};
use super::ranges::Range;
use super::regression::{FitRequest, Regression, Solution, group};
use super::{Subject, substitute};
use crate::Error;

/// For a range and a candidate, by index: method, solution and verdict of each method.
pub type Judged = HashMap<(usize, usize), Vec<(String, Option<Solution>, Verdict)>>;

/// Weights and verdicts of every candidate by every method; `took` receives the seconds and bytes that it took.
pub fn fit_and_judge(
    subject: &Subject<'_>,
    ranges: &[Range],
    reference: &Reference,
    options: &Options,
    progress: &dyn Progress,
    took: &mut records::Took,
) -> Result<Judged, Error> {
    let network = subject.network;
    let mut wanted = Vec::new();
    let mut whose = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        for (number, candidate) in range.candidates.iter().enumerate() {
            if let Some(map) = candidate.map {
                wanted.push(request(&network.graph, range, map)?);
                whose.push((index, number));
            }
        }
    }
    let total: usize = ranges.iter().map(|r| r.candidates.len() * options.methods.len()).sum();
    // Rows with and without weights have different sums.
    let mut groups = Vec::new();
    for weighted in [false, true] {
        let methods: Vec<Method> = options.methods.iter().copied().filter(|m| m.gradients == weighted).collect();
        if !methods.is_empty() {
            let regressions = batches_within(group(&wanted, weighted), options.memory);
            groups.extend(regressions.into_iter().map(|regressions| (regressions, methods.clone())));
        }
    }
    let mut judged = Judged::new();
    let mut done = 0;
    let passes = groups.len().max(1);
    for (number, (regressions, methods)) in groups.iter().enumerate() {
        let clock = Instant::now();
        let sources = Sources { inputs: network, targets: None, images: subject.fitted };
        let tell = |n: usize, of: usize| progress.phase(Phase::Fitting, number * of + n, passes * of);
        let fitted = fit(&sources, &wanted, regressions, methods, options, &tell)?;
        took.fitting += clock.elapsed().as_secs_f64();
        took.bytes = took.bytes.max(regressions.iter().map(Regression::bytes).sum());

        let clock = Instant::now();
        let mut inputs: Vec<&str> = regressions.iter().map(Regression::input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            let mine: Vec<usize> =
                regressions.iter().filter(|s| s.input() == input).flat_map(Regression::requests).collect();
            // For each range: requests and methods.
            let mut keys: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
            for at in mine {
                let members = (0..methods.len()).map(|method| (at, method));
                keys.entry(whose[at].0).or_default().extend(members);
            }
            let task = |(range, members): (&usize, &Vec<(usize, usize)>)| {
                let range = &ranges[*range];
                let alone = |&(at, method): &(usize, usize)| {
                    substitute::substitute(network, range, &range.candidates[whose[at].1], &fitted[method][&at])
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
        for (number, candidate) in range.candidates.iter().enumerate().filter(|(_, c)| c.map.is_none()) {
            let alone = Network { graph: candidate.graph.clone(), weights: Weights::new() };
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

/// The fit request of a candidate.
fn request(graph: &Graph, range: &Range, map: AffineMap) -> Result<FitRequest, Error> {
    Ok(FitRequest {
        input: range.block.input.clone(),
        from: range.input,
        target: range.target.clone(),
        to: range.output,
        map,
        closing: init::closing(graph, &range.block),
        closed: range.target == range.block.output,
    })
}

/// Regressions in groups that fit the memory, each for one pass; a regression that exceeds it alone is a group by its own.
fn batches_within(regressions: Vec<Regression>, memory: usize) -> Vec<Vec<Regression>> {
    let mut groups: Vec<(usize, Vec<Regression>)> = Vec::new();
    for regression in regressions {
        let bytes = regression.bytes();
        match groups.iter_mut().find(|(held, _)| held + bytes <= memory / 2) {
            Some((held, group)) => {
                *held += bytes;
                group.push(regression);
            }
            None => groups.push((bytes, vec![regression])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
