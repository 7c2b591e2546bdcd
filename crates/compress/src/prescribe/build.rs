//! Builds a plan's network range by range. Each substitute is fitted to the current output of the network before it.

use std::collections::BTreeSet;

use nettriage_net::surgery;
use nettriage_net::{Network, block};
use nettriage_records::scan::Scan;
use nettriage_train::seed;

use super::Plan;
use crate::Error;
use crate::scan::{Images, Options, refit};

/// A network after surgery.
pub struct Built {
    /// The network.
    pub network: Network,
    /// Names of the substitutes' layers.
    pub substitute_layers: BTreeSet<String>,
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
    let mut substitute_layers = BTreeSet::new();
    for &(range, number) in &plan.chosen {
        let range = &scan.ranges[range];
        let candidate = &range.candidates[number];
        let substitute = candidate.substitute.parse()?;
        let [first, last] = &range.layers;
        let before = block::range(&parent.graph, &range.name, first, last)?;
        // The same layers in the current network: their input may have another name.
        let now = block::range(&network.graph, &range.name, first, last)?;
        network = match candidate.method.parse().ok() {
            Some(method) => refit(parent, &before, &network, &now, substitute, method, fitted, options)?,
            None => surgery::compress(&network, &[(now.clone(), substitute)])?,
        };
        substitute_layers.extend(surgery::substitute_layers(&now, &network));
    }
    Ok(Built { network, substitute_layers })
}

/// A network of the plan's structure, with weights that are not fitted: for its time.
pub fn shape_of(parent: &Network, scan: &Scan, plan: &Plan) -> Result<Network, Error> {
    let replacement = |&(range, number): &(usize, usize)| {
        let range = &scan.ranges[range];
        let [first, last] = &range.layers;
        let block = block::range(&parent.graph, &range.name, first, last)?;
        Ok((block, range.candidates[number].substitute.parse()?))
    };
    let replacements = plan.chosen.iter().map(replacement).collect::<Result<Vec<_>, Error>>()?;
    let graph = surgery::compress(parent, &replacements)?.graph;
    Ok(Network::initialised(graph, &mut seed::rng("timed weights", &[]))?)
}
