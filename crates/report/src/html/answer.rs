//! The first screen: the answer, the network as its blocks in order, and the three findings.

use maud::{Markup, html};

use super::colour_step;
use crate::analysis::{Analysis, BlockAnswer, Cell, Estimate};
use crate::data::RunData;
use crate::format::{count, interval, number, round_step, shell_word, short, signed_percent};
use crate::sentences;

pub(super) fn section(data: &RunData, analysis: &Analysis) -> Markup {
    let answer = sentences::answer(analysis);
    html! {
        p.eyebrow { "Which blocks of " b { (analysis.name) } " matter?" }
        h1 { (answer.action) }
        p.lead { (answer.importance) }
        p.conditions {
            @if let Some(parent) = &analysis.parent {
                "The parent has " (number(parent.accuracy, 2)) "% accuracy on " (count(parent.test_images)) " test images"
                @if let Some(trials) = &parent.on_trial_images {
                    " (" (number(trials.accuracy, 2)) "% on the " (count(trials.images)) " that trials use)"
                }
                " with "
                (short(parent.cost.parameters as f64)) " parameters and " (short(parent.cost.macs as f64))
                " multiply-accumulates per image. "
            }
            (sentences::conditions(data, analysis))
        }
        @for caution in sentences::cautions(analysis) { p.warning { (caution) } }
        div.first { (network(data, analysis)) (findings(analysis)) }
    }
}

/// The accuracy axis that all blocks share.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Covers every interval, zero and the margin, with some space at both ends.
    fn new(analysis: &Analysis) -> Axis {
        let (mut low, mut high) = (-analysis.options.margin, analysis.options.margin);
        for (_, _, estimate) in sentences::answered_blocks(analysis) {
            // A very wide interval (two seeds) would compress all others: it leaves the axis instead.
            let reach = 4.0 * estimate.mean.abs().max(analysis.options.margin);
            let [a, b] = estimate.interval.unwrap_or([estimate.mean; 2]);
            low = low.min(a.max(estimate.mean - reach));
            high = high.max(b.min(estimate.mean + reach));
        }
        let space = 0.06 * (high - low);
        Axis { low: low - space, high: high + space }
    }

    /// The position of `x` in percent of the axis.
    fn at(&self, x: f64) -> f64 {
        100.0 * ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Four to eight round values on the axis.
    fn ticks(&self) -> Vec<f64> {
        let step = round_step((self.high - self.low) / 5.0);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

fn network(data: &RunData, analysis: &Analysis) -> Markup {
    let axis = Axis::new(analysis);
    let margin = short_number(analysis.options.margin);
    html! {
        figure.network data-plot="criticality" {
            figcaption {
                span {
                    "The network from input to output. Colour and dot: the accuracy drop in percentage points (pp) when the block is \
                     replaced, against the control of equal budget. Line: 95% interval. Grey band: ±" (margin)
                    " pp, treated as no difference. The number in a block is its rank."
                }
            }
            div.head aria-hidden="true" { span { "block" } span { "drop, pp" } span {} span { "change of the network" } }
            div.blocks role="list" {
                div.end { span { "input " (shape(data.plan.data.shape)) } }
                @for block in &analysis.blocks { (row(data, analysis, block, &axis)) }
                div.end { span { (data.plan.data.classes.len()) " classes" } }
            }
            div.axis aria-hidden="true" {
                div { @for x in axis.ticks() { span style={ "left:" (format!("{:.2}", axis.at(x))) "%" } { (short_number(x)) } } }
            }
            (colour_scale())
        }
    }
}

/// One block: its place in the network, layers, drop with interval, and what replacing it changes.
fn row(data: &RunData, analysis: &Analysis, block: &BlockAnswer, axis: &Axis) -> Markup {
    let Some(summary) = data.plan.blocks.iter().find(|summary| summary.name == block.block) else { return html! {} };
    let cell = block.cell.map(|cell| &analysis.cells[cell]);
    let estimate = cell.and_then(|cell| cell.criticality.as_ref());
    let colour = estimate.map_or("untried".to_owned(), |estimate| format!("s{}", colour_step(estimate.mean)));
    // Wider blocks have more output channels, on a logarithmic scale.
    let widest = data.plan.blocks.iter().map(|block| block.output[0]).max().unwrap_or(1) as f64;
    let width = 34.0 + 66.0 * (1.0 + summary.output[0] as f64).ln() / (1.0 + widest).ln();
    html! {
        div.block role="listitem" {
            div.glyph {
                span class=(colour) style=(format!("width:{width:.0}%")) { @if let Some(rank) = block.rank { i { (rank) } } }
            }
            div.what { b { (block.block) } small { (layers(data, &summary.layers)) " → " (shape(summary.output)) } }
            div.value {
                b { (estimate.map_or("not tried".to_owned(), |estimate| number(estimate.mean, 2))) }
                small { (estimate.and_then(|e| e.interval).map_or("no interval".to_owned(), interval)) }
            }
            div.range { (bar(estimate, axis, analysis.options.margin, &colour)) }
            div.saves { @if cell.is_some() { (changes(block)) } }
            @if let (Some(cell), Some(estimate)) = (cell, estimate) { (verdict_and_command(analysis, block, cell, estimate)) }
        }
    }
}

/// Accuracies, and the command that exports the block's best child.
fn verdict_and_command(analysis: &Analysis, block: &BlockAnswer, cell: &Cell, estimate: &Estimate) -> Markup {
    let id = format!("export-{}", analysis.blocks.iter().position(|own| own.block == block.block).unwrap_or(0));
    html! {
        div.detail {
            span {
                @if let Some(control) = cell.control_accuracy {
                    "control " (number(control, 2)) "%, child " (number(cell.accuracy, 2)) "%"
                }
                @if let Some([low, high]) = cell.latency_interval {
                    "; time " (signed_percent(low - 1.0)) " to " (signed_percent(high - 1.0))
                }
                @if sentences::replaceable(analysis, block, estimate) { " " b.can { "can be one " (cell.substitute) } }
            }
            span.export { code id=(id) { (export_command(analysis, &block.block)) } button type="button" data-copy=(id) { "Copy" } }
        }
    }
}

/// The command that exports the block's best child.
fn export_command(analysis: &Analysis, block: &str) -> String {
    let file: String = block.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let run = if analysis.about.run.is_empty() { "RUN".to_owned() } else { shell_word(&analysis.about.run) };
    format!("nettriage export {run} --block {} --best -o {file}.onnx", shell_word(block))
}

fn shape([c, h, w]: [usize; 3]) -> String {
    format!("{c}×{h}×{w}")
}

/// A number with at most two decimals and no trailing zeros.
fn short_number(x: f64) -> String {
    let text = number(x, 2);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The colour scale with its steps.
pub(super) fn colour_scale() -> Markup {
    let names = ["gains > 2", "1 to 2", "¼ to 1", "±¼", "¼ to 1", "1 to 2", "2 to 5", "5 to 10", "drops > 10"];
    html! {
        div.scale aria-label="Colour scale, percentage points" {
            @for (step, name) in names.iter().enumerate() { span class={ "s" (step) } { (name) } }
        }
    }
}

/// Dot and interval on the shared axis.
fn bar(estimate: Option<&Estimate>, axis: &Axis, margin: f64, colour: &str) -> Markup {
    let percent = |x: f64| format!("{x:.2}%");
    let at = |x: f64| percent(axis.at(x));
    html! {
        svg width="100%" height="34" aria-hidden="true" {
            rect.margin x=(at(-margin)) y="0" width=(percent(axis.at(margin) - axis.at(-margin))) height="34" {}
            line.zero x1=(at(0.0)) x2=(at(0.0)) y1="0" y2="34" {}
            @if let Some(estimate) = estimate {
                @if let Some([low, high]) = estimate.interval {
                    line.ci x1=(at(low)) x2=(at(high)) y1="17" y2="17" {}
                    (interval_end(axis, low))
                    (interval_end(axis, high))
                }
                circle class={ "dot " (colour) } cx=(at(estimate.mean)) cy="17" r="6.5" {}
            }
        }
    }
}

/// A cap at the end of an interval, or an arrow where the interval continues beyond the axis.
fn interval_end(axis: &Axis, end: f64) -> Markup {
    let at = format!("{:.2}%", axis.at(end));
    // A nested SVG of fixed size, because a path cannot be placed by percentages.
    html! {
        @if end < axis.low {
            svg.beyond x="0" y="11" width="8" height="12" overflow="visible" { path.arrow d="M8 0L0 6L8 12Z" {} }
        } @else if end > axis.high {
            svg.beyond x="100%" y="11" width="8" height="12" overflow="visible" { path.arrow d="M-8 0L0 6L-8 12Z" {} }
        } @else {
            line.ci x1=(at) x2=(at) y1="12" y2="22" {}
        }
    }
}

/// The block's layers with weights; equal neighbours are counted.
fn layers(data: &RunData, names: &[String]) -> String {
    let kinds = names.iter().filter_map(|name| data.plan.layers.iter().find(|layer| &layer.name == name));
    let weighted: Vec<&str> = kinds.filter(|layer| layer.macs > 0).map(|layer| layer.kind.as_str()).collect();
    let counted = weighted.chunk_by(|a, b| a == b).map(|group| match group.len() {
        1 => group[0].to_owned(),
        n => format!("{n} × {}", group[0]),
    });
    let parts: Vec<String> = counted.collect();
    match parts.len() {
        0 => format!("{} layers", names.len()),
        1..=3 => parts.join(", "),
        _ => format!("{} layers with weights", weighted.len()),
    }
}

/// What replacing the block changes, relative to the whole network.
fn changes(block: &BlockAnswer) -> Markup {
    let shares = [("parameters", block.saves_parameters), ("MACs", block.saves_macs), ("time", block.saves_time)];
    html! {
        @for (name, share) in shares {
            @if let Some(share) = share {
                span {
                    em { (name) }
                    u { s style=(format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0))) {} }
                    b { (signed_percent(-share)) }
                }
            }
        }
    }
}

fn findings(analysis: &Analysis) -> Markup {
    html! {
        div.verdicts {
            @for finding in sentences::findings(analysis) {
                article class={ "verdict " (match finding.agrees { Some(true) => "yes", Some(false) => "no", None => "open" }) } {
                    h3 { span { (finding.name) } " " (finding.claim) }
                    p.word { (sentences::capitalised(&finding.verdict)) }
                    p.mark { (finding.mark) }
                    p { (finding.reason) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_on_the_axis() {
        assert_eq!(Axis { low: -1.2, high: 3.4 }.ticks(), [-1.0, 0.0, 1.0, 2.0, 3.0]);
        let fine = Axis { low: -0.11, high: 0.12 }.ticks();
        assert!(fine.len() >= 4 && fine.len() <= 8, "{fine:?}");
    }
}
