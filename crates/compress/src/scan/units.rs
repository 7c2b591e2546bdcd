//! The units of a network as a scan reports them.

use nettriage_net::block::Unit;
use nettriage_net::{Graph, INPUT, Kind, Network, Weights, cost, slice};
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
            name: unit_name(graph, unit),
            layers: [first.clone(), last.clone()],
            output: [shape.channels, shape.height, shape.width],
            products: unit.products,
            cost: recorded_cost(cost),
            milliseconds: stopwatch.measure(&alone.graph)?,
        });
    }
    Ok(rows)
}

/// The name of its only product, or what the names of its layers begin with.
fn unit_name(graph: &Graph, unit: &Unit) -> String {
    let layers = &graph.layers[unit.start..unit.end];
    let mut products = layers.iter().filter(|l| matches!(l.kind, Kind::Conv(_) | Kind::Linear(_)));
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
