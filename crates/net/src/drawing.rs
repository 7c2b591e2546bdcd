//! A graph drawn as SVG: layers in one column, edges that skip layers at its side, blocks as coloured backgrounds.

use std::collections::HashMap;
use std::fmt::Write;

use crate::block::Block;
use crate::layer::Role;
use crate::{Error, Graph, INPUT};

const ROW: usize = 30;
const BOX: usize = 20;
const LEFT: usize = 130;
const WIDTH: usize = 540;
const LANE: usize = 14;
/// Most lanes for edges; beyond, edges share a lane so that the drawing fits a screen.
const LANES: usize = 12;

/// The graph as one SVG document with the blocks marked and named. It refers to no other file: no fonts, scripts or
/// styles.
///
/// # Errors
/// Those of [`Graph::shapes`].
pub fn svg(graph: &Graph, blocks: &[Block]) -> Result<String, Error> {
    let shapes = graph.shapes()?;
    let rows: HashMap<&str, usize> = std::iter::once(INPUT)
        .chain(graph.layers.iter().map(|layer| layer.name.as_str()))
        .enumerate()
        .map(|(row, name)| (name, row))
        .collect();
    let (lanes, used) = lanes(graph, &rows);
    let width = LEFT + WIDTH + LANE * (used + 1) + 10;
    let height = ROW * (graph.layers.len() + 1) + 30;
    let top = |row: usize| 15 + row * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\" role=\"img\">\n<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n",
        escape(&graph.name)
    );
    for (index, block) in blocks.iter().enumerate() {
        let ends = block.layers.first().zip(block.layers.last());
        let Some((&first, &last)) =
            ends.and_then(|(first, last)| rows.get(first.as_str()).zip(rows.get(last.as_str())))
        else {
            continue;
        };
        let colour = ["#dbe9f6", "#fdebd0", "#dff2e1", "#f3e1f3"][index % 4];
        let (y, tall) = (top(first) - 5, (last + 1 - first.min(last)) * ROW);
        let _ = writeln!(
            svg,
            "<rect x=\"8\" y=\"{y}\" width=\"{}\" height=\"{tall}\" rx=\"6\" fill=\"{colour}\"/>",
            LEFT + WIDTH
        );
        let _ = writeln!(svg, "<text x=\"18\" y=\"{}\" font-weight=\"600\">{}</text>", y + 18, escape(&block.name));
    }
    for (layer, row) in graph.layers.iter().zip(1..) {
        for input in &layer.inputs {
            let from = rows[input.as_str()];
            let (start, end) = (top(from) + BOX, top(row));
            if from + 1 == row {
                let x = LEFT + WIDTH / 2;
                let _ = writeln!(svg, "<path d=\"M{x} {start}V{end}\" stroke=\"#555\" fill=\"none\"/>");
            } else {
                let (x, lane) = (LEFT + WIDTH, LEFT + WIDTH + LANE * (lanes[&(from, row)] + 1));
                let (start, end) = (start - BOX / 2, end + BOX / 2);
                let _ = writeln!(svg, "<path d=\"M{x} {start}H{lane}V{end}H{x}\" stroke=\"#555\" fill=\"none\"/>");
            }
        }
    }
    let boxed = |svg: &mut String, row: usize, name: &str, words: &str, shape: String, colour: &str| {
        let y = top(row);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{BOX}\" rx=\"4\" fill=\"{colour}\" stroke=\"#666\"/>"
        );
        let line = y + 14;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{line}\">{}</text>", LEFT + 8, escape(&shortened(name, 32)));
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{line}\" fill=\"#333\">{}</text>", LEFT + 210, escape(&cut(words, 40)));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{line}\" text-anchor=\"end\" fill=\"#333\">{shape}</text>",
            LEFT + WIDTH - 8
        );
    };
    boxed(&mut svg, 0, INPUT, "", graph.input.to_string(), "#eee");
    for ((layer, shape), row) in graph.layers.iter().zip(&shapes).zip(1..) {
        boxed(&mut svg, row, &layer.name, &layer.describe(), shape.to_string(), colour(layer.kind.role()));
    }
    svg += "</svg>\n";
    Ok(svg)
}

fn colour(role: Role) -> &'static str {
    match role {
        Role::Convolution | Role::TransposedConvolution | Role::Linear => "#b7d3f2",
        Role::Norm | Role::CrossChannelNorm => "#e6e0f5",
        Role::Activation | Role::Softmax => "#fbf3c4",
        Role::Pooling | Role::AdaptivePooling => "#f7c9c0",
        Role::Merge => "#c9ead0",
        Role::Rearrangement | Role::Reshape | Role::Upsampling | Role::NoOp => "#fff",
    }
}

/// The lane of each edge that skips layers, by (from, to) row, and the number of lanes. An edge takes the first free lane.
fn lanes(graph: &Graph, rows: &HashMap<&str, usize>) -> (HashMap<(usize, usize), usize>, usize) {
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for (layer, row) in graph.layers.iter().zip(1..) {
        edges.extend(layer.inputs.iter().map(|input| (rows[input.as_str()], row)).filter(|(from, to)| from + 1 != *to));
    }
    // Short edges first, so that they get the lanes next to the column.
    edges.sort_by_key(|(from, to)| (to - from, *from));
    edges.dedup();
    let mut taken: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut lanes = HashMap::new();
    for edge in edges {
        let free = |lane: &Vec<(usize, usize)>| {
            lane.iter().all(|&(from, to)| to <= edge.0 || edge.1 <= from || from == edge.0)
        };
        // The search is quadratic: beyond 4000 edges all share one lane.
        let searched = lanes.len() < 4000;
        let lane = if searched { taken.iter().position(free).unwrap_or(taken.len()).min(LANES - 1) } else { 0 };
        if lane == taken.len() {
            taken.push(Vec::new());
        }
        taken[lane].push(edge);
        lanes.insert(edge, lane);
    }
    (lanes, taken.len())
}

/// The end of a long name, which distinguishes layers better than its beginning.
fn shortened(text: &str, length: usize) -> String {
    let count = text.chars().count();
    if count <= length {
        text.to_string()
    } else {
        format!("…{}", text.chars().skip(count + 1 - length).collect::<String>())
    }
}

/// The beginning of a long description.
fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_string();
    }
    format!("{}…", text.chars().take(length - 1).collect::<String>())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            // XML 1.0 does not allow other control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
