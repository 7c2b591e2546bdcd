//! Builds a plan's network range by range. Each substitute is fitted to the current output of the network before it.

use std::collections::BTreeSet;

use nettriage_net::ends::{self, End};
use nettriage_net::narrow::{self, Narrow};
use nettriage_net::surgery;
use nettriage_net::{Network, block};
use nettriage_records::scan::Scan;
use nettriage_train::seed;

use super::Plan;
use crate::Error;
use crate::scan::{Images, Options, changed_layers, narrowed, refit};

/// A network after surgery.
pub struct Built {
    /// The network.
    pub network: Network,
    /// Names of the substitutes' layers.
    pub substitute_layers: BTreeSet<String>,
    /// The ends of the replaced ranges and of the parent's blocks.
    pub ends: Vec<End>,
}

/// The network of a plan. A later substitute is fitted to the compressed network's own activations, so that it corrects
/// errors of earlier ones.
pub fn build(
    parent: &Network,
    scan: &Scan,
    plan: &Plan,
    fitted: &Images<'_>,
    options: &Options,
) -> Result<Built, Error> {
    let mut network = parent.clone();
    let (mut substitute_layers, mut replaced) = (BTreeSet::new(), Vec::new());
    for &(range, number) in &plan.chosen {
        let range = &scan.ranges[range];
        let candidate = &range.candidates[number];
        let [first, last] = &range.layers;
        let before = block::range(&parent.graph, &range.name, first, last)?;
        // The same layers in the current network: their input may have another name.
        let now = block::range(&network.graph, &range.name, first, last)?;
        if let Some(narrow) = narrowing(&candidate.substitute) {
            network = narrowed([parent, &network], [&before, &now], &[narrow], fitted, options)?.swap_remove(0);
            substitute_layers.extend(changed_layers(&network.graph, &now));
            replaced.push(End { child: now.output, parent: before.output });
            continue;
        }
        let substitute = candidate.substitute.parse()?;
        network = match candidate.method.parse().ok() {
            Some(method) => refit(parent, &before, &network, &now, substitute, method, fitted, options)?,
            None => surgery::compress(&network, &[(now.clone(), substitute)])?,
        };
        let layers = surgery::substitute_layers(&now, &network);
        let child = layers.last().cloned().unwrap_or(now.input);
        replaced.push(End { child, parent: before.output });
        substitute_layers.extend(layers);
    }
    let blocks = block::find(&parent.graph);
    let ends = ends::ends(&parent.graph, &network.graph, &blocks, &replaced, &substitute_layers)?;
    Ok(Built { network, substitute_layers, ends })
}

/// The candidate of that name, if it is a unit with fewer inner channels.
pub fn narrowing(substitute: &str) -> Option<Narrow> {
    substitute.parse().ok()
}

/// A network of the plan's structure, with weights that are not fitted: for its time.
pub fn shape_of(parent: &Network, scan: &Scan, plan: &Plan) -> Result<Network, Error> {
    let (mut replacements, mut narrower) = (Vec::new(), Vec::new());
    for &(range, number) in &plan.chosen {
        let range = &scan.ranges[range];
        let [first, last] = &range.layers;
        let substitute = &range.candidates[number].substitute;
        match narrowing(substitute) {
            Some(narrow) => narrower.push((range, narrow)),
            None => replacements.push((block::range(&parent.graph, &range.name, first, last)?, substitute.parse()?)),
        }
    }
    let mut network = surgery::compress(parent, &replacements)?;
    for (range, how) in narrower {
        let [first, last] = &range.layers;
        let block = block::range(&network.graph, &range.name, first, last)?;
        network = narrow::narrowed_shape(&network, &block, how)?;
    }
    Ok(Network::initialised(network.graph, &mut seed::rng("timed weights", &[]))?)
}
