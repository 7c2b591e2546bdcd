//! The units of a network as a scan reports them.

use nettriage_net::block::Unit;
use nettriage_net::{INPUT, Network, Weights, cost, slice};
use nettriage_records::plan::Cost;
use nettriage_records::scan as records;

use super::latency::Stopwatch;
use crate::Error;

/// A cost as records have it.
pub fn recorded_cost(cost: cost::LayerCost) -> Cost {
    Cost { parameters: cost.parameters, macs: cost.macs }
}

/// Name, layers, shape, cost and measured milliseconds of every unit.
pub fn unit_rows(network: &Network, units: &[Unit], stopwatch: &mut Stopwatch) -> Result<Vec<records::Unit>, Error> {
    let graph = &network.graph;
    let (shapes, costs) = (graph.shapes()?, cost::per_layer(graph)?);
    let weightless = Network { graph: graph.clone(), weights: Weights::new() };
    let mut rows = Vec::new();
    for unit in units {
        let input = unit.start.checked_sub(1).map_or(INPUT, |before| &graph.layers[before].name);
        let (first, last) = (&graph.layers[unit.start].name, &graph.layers[unit.end - 1].name);
        let alone = slice::between(&weightless, input, last)?;
        let shape = shapes[unit.end - 1];
        let cost = costs[unit.start..unit.end].iter().fold(cost::LayerCost::default(), |a, b| a + *b);
        rows.push(records::Unit {
            name: unit.name.clone(),
            layers: [first.clone(), last.clone()],
            output: [shape.channels, shape.height, shape.width],
            products: unit.products,
            cost: recorded_cost(cost),
            milliseconds: stopwatch.measure(&alone.graph)?,
        });
    }
    Ok(rows)
}
