//! `inspect`: what a network consists of.

use std::io::Write;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use nettriage_formats::shared::SharedWeights;
use nettriage_net::{Graph, block, cost, drawing};
use serde_json::json;

use crate::args;
use crate::fail::Fail;
use crate::{model, output};

/// `nettriage inspect MODEL`.
pub fn inspect(args: &args::Inspect) -> Result<(), Fail> {
    if let Some(path) = &args.svg {
        output::check(&[path], &output::as_paths(&output::of_model(&args.model)))?;
    }
    let (graph, shared) = model::graph(&args.model)?;
    if let Some(path) = &args.svg {
        output::write(path, &drawing::svg(&graph, &block::find(&graph))?)?;
    }
    let outputs: Vec<&Path> = args.svg.iter().map(PathBuf::as_path).collect();
    let mut out = output::messages(&outputs);
    if args.json { print_json(&graph, &shared, &mut out) } else { print_table(&graph, &shared, &mut out) }
}

fn print_table(graph: &Graph, shared: &[SharedWeights], out: &mut dyn Write) -> Result<(), Fail> {
    let (shapes, costs, total) = (graph.shapes()?, cost::per_layer(graph)?, cost::total(graph)?);
    let blocks = block::find(graph);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["layer", "kind", "output CxHxW", "parameters", "MACs", "block"]);
    for ((layer, shape), cost) in graph.layers.iter().zip(&shapes).zip(&costs) {
        let block = blocks.iter().find(|b| b.layers.contains(&layer.name)).map_or("", |b| b.name.as_str());
        table.add_row([
            layer.name.clone(),
            layer.describe(),
            shape.to_string(),
            grouped(cost.parameters),
            grouped(cost.macs),
            block.to_owned(),
        ]);
    }
    for column in [3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{}, input {}", graph.name, graph.input)?;
    writeln!(out, "{table}")?;
    writeln!(out, "{} parameters, {} MACs an image", grouped(total.parameters), grouped(total.macs))?;
    for shared in shared {
        let copies = grouped(shared.added() as u64);
        writeln!(
            out,
            "{copies} of them are copies of weights that layers share in the file: {}",
            shared.layers.join(", ")
        )?;
    }
    for block in &blocks {
        let (first, last) = (block.layers.first(), block.layers.last());
        let (first, last) = (first.map_or("", String::as_str), last.map_or("", String::as_str));
        let (input, output) = (graph.shape_of(&block.input)?, graph.shape_of(&block.output)?);
        writeln!(out, "{}: {first} to {last}, {input} -> {output}", block.name)?;
    }
    Ok(())
}

fn print_json(graph: &Graph, shared: &[SharedWeights], out: &mut dyn Write) -> Result<(), Fail> {
    let (shapes, costs, total) = (graph.shapes()?, cost::per_layer(graph)?, cost::total(graph)?);
    let layers = graph.layers.iter().zip(&shapes).zip(&costs).map(|((layer, shape), cost)| {
        json!({
            "name": layer.name, "kind": layer.describe(), "inputs": layer.inputs,
            "shape": [shape.channels, shape.height, shape.width],
            "parameters": cost.parameters, "macs": cost.macs,
        })
    });
    let blocks = block::find(graph);
    let blocks =
        blocks.iter().map(|b| json!({ "name": b.name, "layers": b.layers, "input": b.input, "output": b.output }));
    let value = json!({
        "name": graph.name,
        "input": [graph.input.channels, graph.input.height, graph.input.width],
        "layers": layers.collect::<Vec<_>>(),
        "blocks": blocks.collect::<Vec<_>>(),
        "parameters": total.parameters,
        "macs": total.macs,
        "shared_in_file": shared.iter().map(|s| json!({ "layers": s.layers, "elements": s.elements })).collect::<Vec<_>>(),
    });
    writeln!(out, "{value:#}")?;
    Ok(())
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
