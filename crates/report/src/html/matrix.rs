//! Criticality for every block, init and scheme.

use maud::{Markup, html};

use super::{answer, colour_step, sortable};
use crate::analysis::{Analysis, Cell};
use crate::format::{duration, interval, number, signed_percent};

pub(super) fn section(analysis: &Analysis) -> Option<Markup> {
    if analysis.cells.is_empty() {
        return None;
    }
    let schemes: Vec<&str> = analysis
        .schemes
        .iter()
        .map(String::as_str)
        .filter(|name| analysis.cells.iter().any(|cell| cell.scheme == *name))
        .collect();
    let mut rows: Vec<(&str, &str, &str)> = Vec::new();
    for cell in &analysis.cells {
        let row = (cell.block.as_str(), cell.substitute.as_str(), cell.init.as_str());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let place = |block: &str| analysis.blocks.iter().position(|own| own.block == block).unwrap_or(usize::MAX);
    rows.sort_by_key(|(block, _, _)| place(block));
    let several_substitutes = rows.iter().any(|row| row.1 != rows[0].1);
    let fallback_pairs: usize = analysis.cells.iter().map(|cell| cell.fallback_pairs).sum();
    Some(html! {
        p {
            "Test accuracy drop in percentage points (pp) for each replacement, against its control of equal budget; means over \
             trials. Outlined: the combination of the answer above, chosen on the validation set. Hover over a cell or move to it \
             with the arrow keys for its details; click a heading to sort."
        }
        @if fallback_pairs > 0 {
            p.warning {
                (fallback_pairs) " pairs have no fine-tuned parent with the same scheme and seed. Their control is the parent without \
                fine-tuning (marked °), so the drop does not account for the gain from training alone."
            }
        }
        figure data-plot="matrix" {
            div.scroll {
                table.matrix {
                    thead {
                        tr {
                            (sortable("block"))
                            @if several_substitutes { (sortable("substitute")) }
                            (sortable("init"))
                            @for scheme in &schemes { (sortable(scheme)) }
                        }
                    }
                    tbody {
                        @for (block, substitute, init) in &rows {
                            tr {
                                th scope="row" data-value=(place(block)) { (block) }
                                @if several_substitutes { td.name { (substitute) } }
                                td.name { (init) }
                                @for scheme in &schemes { (find(analysis, block, substitute, init, scheme)) }
                            }
                        }
                    }
                }
            }
            (answer::colour_scale())
        }
    })
}

fn find(analysis: &Analysis, block: &str, substitute: &str, init: &str, scheme: &str) -> Markup {
    let found = analysis.cells.iter().position(|cell| {
        cell.block == block && cell.substitute == substitute && cell.init == init && cell.scheme == scheme
    });
    let Some(index) = found else { return html! { td.none { "·" } } };
    let cell = &analysis.cells[index];
    let Some(estimate) = &cell.criticality else { return html! { td.none { "no control" } } };
    let in_answer = analysis.blocks.iter().any(|block| block.cell == Some(index));
    html! {
        td tabindex="0" class={ "s" (colour_step(estimate.mean)) @if in_answer { " chosen" } } data-value=(estimate.mean)
            data-tip=(details(analysis, cell))
        {
            (number(estimate.mean, 2))
            @if cell.fallback_pairs > 0 { "°" }
            @if cell.diverged + cell.failed > 0 { "†" }
        }
    }
}

/// Everything about a cell, a line each.
fn details(analysis: &Analysis, cell: &Cell) -> String {
    let mut lines = vec![format!("{}, {}, {}, {}", cell.block, cell.substitute, cell.init, cell.scheme)];
    if let Some(estimate) = &cell.criticality {
        lines.push(format!("accuracy drop {} pp", number(estimate.mean, 2)));
        let intervals = [
            ("95% interval", estimate.interval),
            ("Student's t over repetitions alone", estimate.student),
            ("BCa bootstrap", estimate.bootstrap),
        ];
        lines.extend(intervals.iter().filter_map(|(name, ends)| Some(format!("{name} {}", interval((*ends)?)))));
        let values: Vec<String> = estimate.values.iter().map(|&value| number(value, 2)).collect();
        lines.push(format!("repetitions: {}", values.join("  ")));
    }
    lines.push(format!(
        "accuracy: control {}%, child {}%, at its best validation point {}%",
        cell.control_accuracy.map_or("–".to_owned(), |accuracy| number(accuracy, 2)),
        number(cell.accuracy, 2),
        number(cell.best_accuracy, 2)
    ));
    lines.push(format!("drop before training {} pp", number(cell.drop_before_training, 2)));
    if cell.scheme != "none" {
        let median = cell.median_recovery.map(|at| format!(", half by {at:.0} images")).unwrap_or_default();
        lines.push(format!(
            "{} of {} within {} pp of the parent{median}",
            cell.recovered,
            cell.trials,
            number(analysis.recovery_margin, 1)
        ));
    }
    lines.push(format!("same prediction as the parent {}%", number(cell.agreement, 1)));
    if let (Some(ratio), Some([low, high])) = (cell.latency, cell.latency_interval) {
        let change = |ratio: f64| signed_percent(ratio - 1.0);
        lines.push(format!("inference time {} ({} to {})", change(ratio), change(low), change(high)));
    }
    if cell.diverged + cell.failed > 0 {
        lines.push(format!("{} diverged, {} failed", cell.diverged, cell.failed));
    }
    lines.push(format!("{} per trial", duration(cell.seconds)));
    lines.join("\n")
}
