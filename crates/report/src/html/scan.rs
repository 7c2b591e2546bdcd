//! The page of a scan: triangles over all ranges of layers, and the table behind them.

use maud::{Markup, html};
use nettriage_records::scan::{Candidate, Fidelity, Measure, Range, Scan};

use super::{Td, colour_step, common_script, document, table};
use crate::format::{interval, number, percent, short};
use crate::scan::{Column, columns, header, ranking_note, shortlist};

/// Side of a triangle's cell in pixels.
const CELL: usize = 26;
/// Space for names left of the cells, in pixels.
const NAMES: usize = 150;
/// Space for names above the cells, in pixels.
const ABOVE: usize = 92;

/// The scan as one HTML document.
pub fn scan(scan: &Scan) -> String {
    let links = [("answer", "Answer"), ("triangle", "Ranges"), ("table", "All candidates"), ("method", "Method")];
    let body = html! {
        section #answer { (answer(scan)) }
        section #triangle { h2 { "Ranges" } (triangles(scan)) }
        section #table { h2 { "All candidates" } (all_candidates(scan)) }
        section #method { h2 { "Method" } (method(scan)) }
    };
    let title = format!("{}: which ranges could be one layer", scan.network);
    document(&title, "nettriage scan", &links, &body, &common_script())
}

fn saved_milliseconds((range, candidate): &(&Range, &Candidate)) -> f64 {
    range.milliseconds - candidate.milliseconds
}

/// `part` as a percentage of `whole`.
fn percentage(part: f64, whole: f64) -> f64 {
    100.0 * part / whole
}

fn answer(scan: &Scan) -> Markup {
    let shortlist = shortlist(scan);
    let labelled = scan.measure == Measure::Accuracy;
    let most = |c: &Candidate| c.drop.map_or(c.loss(), |[_, _, high]| high);
    let harmless = shortlist.iter().filter(|(_, c)| most(c) <= 1.0);
    let fastest = harmless.max_by(|a, b| saved_milliseconds(a).total_cmp(&saved_milliseconds(b)));
    let headline = match fastest {
        Some(best @ (range, candidate)) => format!(
            "{} could be one {}: {} less time, {} {} {}, before any training.",
            range.name,
            candidate.substitute,
            percent(saved_milliseconds(best) / scan.parent.milliseconds.max(1e-9)),
            scan.measure.loss(),
            number(candidate.loss(), 2),
            scan.measure.unit()
        ),
        None if labelled => {
            "No range can become one layer without training at an accuracy drop shown to be below 1 pp.".to_owned()
        }
        None => format!("No range can become one layer without training at 1% {} or less.", scan.measure.loss()),
    };
    let rows = shortlist.iter().map(|(range, candidate)| columns(scan, range, candidate).map(Td::from).into());
    html! {
        p.eyebrow { b { (scan.network) } ", " (scan.images.data) }
        h1 { (headline) }
        p.conditions {
            @if let Some(accuracy) = scan.parent.accuracy {
                (number(100.0 * accuracy, 2)) "% accuracy on " (scan.images.judged_from) ", "
            }
            (short(scan.parent.cost.parameters as f64)) " parameters, " (short(scan.parent.cost.macs as f64))
            " multiply-accumulates, " (number(scan.parent.milliseconds, 3)) " ms. Judged by " (scan.measure.describe()) ". "
            (ranking_note(scan))
        }
        p { "The Pareto front of what is kept and time, and the default blocks. Changes are relative to the whole network." }
        (table("plain", &header(scan.measure), rows.collect()))
    }
}

impl From<Column> for Td {
    fn from(column: Column) -> Td {
        Td { content: html! { (column.text) }, value: column.value }
    }
}

/// Four triangles: accuracy drop, and time, multiply-accumulates and parameters saved, by each range's best candidate.
fn triangles(scan: &Scan) -> Markup {
    let parent = &scan.parent;
    let whole = |total: u64| (total as f64).max(1.0);
    let loss = |_: &Range, c: &Candidate| c.loss();
    let time = |r: &Range, c: &Candidate| percentage(c.milliseconds - r.milliseconds, parent.milliseconds.max(1e-9));
    let macs = |r: &Range, c: &Candidate| percentage(c.cost.macs as f64 - r.cost.macs as f64, whole(parent.cost.macs));
    let parameters = |r: &Range, c: &Candidate| {
        percentage(c.cost.parameters as f64 - r.cost.parameters as f64, whole(parent.cost.parameters))
    };
    let first = match scan.measure {
        Measure::Accuracy => "Accuracy drop, pp",
        Measure::Classes => "Predictions changed, %",
        Measure::DenseClasses => "Positions changed, %",
        Measure::Values => "Variance unexplained, %",
    };
    // Savings use the blue half of the scale: the more saved, the bluer.
    let change_step = |change: f64| match -change {
        saved if saved >= 20.0 => 0,
        saved if saved >= 8.0 => 1,
        saved if saved >= 2.0 => 2,
        saved if saved >= -2.0 => 3,
        _ => 5,
    };
    let steps = [
        ("s2", "gained"),
        ("s3", "within 0.25"),
        ("s4", "up to 1"),
        ("s5", "up to 2"),
        ("s6", "up to 5"),
        ("s7", "up to 10"),
        ("s8", "more"),
    ];
    html! {
        p {
            "A cell is the range from the layer of its row to the layer of its column, replaced by the best single layer. Hover over \
             a cell for its numbers; the table below lists all of them."
        }
        div.steps { (scan.measure.unit()) ": " @for (class, name) in steps { span class=(class) { (name) } } }
        div.triangles {
            (triangle(scan, first, &loss, &colour_step))
            (triangle(scan, "Change of time, % of the network's", &time, &change_step))
            (triangle(scan, "Change of multiply-accumulates, % of the network's", &macs, &change_step))
            (triangle(scan, "Change of parameters, % of the network's", &parameters, &change_step))
        }
    }
}

fn triangle(
    scan: &Scan,
    title: &str,
    value: &dyn Fn(&Range, &Candidate) -> f64,
    colour: &dyn Fn(f64) -> usize,
) -> Markup {
    let n = scan.units.len();
    let (width, height) = (NAMES + n * CELL + 56, ABOVE + n * CELL);
    let side = CELL - 2;
    html! {
        figure {
            figcaption { (title) }
            div.scroll {
                svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(title) style=(format!("width:{width}px")) {
                    @for (i, unit) in scan.units.iter().enumerate() {
                        text x=(NAMES - 6) y=(ABOVE + i * CELL + CELL / 2 + 4) text-anchor="end" { (shortened(&unit.name)) }
                        text transform=(format!("translate({} {}) rotate(-60)", NAMES + i * CELL + CELL / 2 + 4, ABOVE - 6)) {
                            (shortened(&unit.name))
                        }
                    }
                    @for range in &scan.ranges {
                        @if let Some(best) = range.best() {
                            @let (x, y) = (NAMES + range.units[1] * CELL, ABOVE + range.units[0] * CELL);
                            @let shown = value(range, best);
                            g {
                                title { (hint(range, best)) }
                                rect class={ "s" (colour(shown)) } x=(x) y=(y) width=(side) height=(side) rx="3" {}
                                text.v x=(x + CELL / 2 - 1) y=(y + CELL / 2 + 2) {
                                    (number(shown, usize::from(shown.abs() < 9.95)))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn hint(range: &Range, best: &Candidate) -> String {
    let drop = best.drop.map_or(String::new(), |[drop, low, high]| {
        format!(", accuracy drop {} ({}) pp", number(drop, 2), interval([low, high]))
    });
    format!(
        "{}: {}{drop}, {}, {} to {} ms",
        range.name,
        best.substitute,
        best.fidelity.describe(),
        number(range.milliseconds, 3),
        number(best.milliseconds, 3)
    )
}

/// The end of a long name, where names of layers differ.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= 20 { name.to_owned() } else { format!("…{}", name.chars().skip(count - 19).collect::<String>()) }
}

fn all_candidates(scan: &Scan) -> Markup {
    let fidelity = match scan.measure {
        Measure::Values => ["mean R²", "relative error"],
        Measure::Accuracy | Measure::Classes | Measure::DenseClasses => ["same prediction", "divergence"],
    };
    let header = [&header(scan.measure)[..], &["method", "error"], &fidelity].concat();
    let rows = scan.ranges.iter().flat_map(|range| {
        range.candidates.iter().map(move |candidate| {
            let mut row: Vec<Td> = columns(scan, range, candidate).map(Td::from).into();
            row.extend([Td::from(&candidate.method), Td::number(candidate.error, number(candidate.error, 3))]);
            row.extend(match candidate.fidelity {
                Fidelity::Classes { agreement, divergence, .. } => {
                    [Td::number(agreement, percent(agreement)), Td::number(divergence, number(divergence, 3))]
                }
                Fidelity::Values { mean_r2, relative_error, .. } => {
                    [Td::number(mean_r2, number(mean_r2, 4)), Td::number(relative_error, percent(relative_error))]
                }
            });
            row
        })
    });
    table("plain", &header, rows.collect())
}

fn method(scan: &Scan) -> Markup {
    let seconds = |x: f64| format!("{x:.1} s");
    html! {
        p {
            "For every range and every single layer that fits its shapes, the weights are the ridge regression from the range's input \
             to its output before the closing activation, on " (scan.images.fitted) " images without labels. The ridge is chosen on a \
             held-out fifth of them. Method " code { "relu" } " solves again without the outputs that the closing ReLU sets to zero \
             for both the fit and the target. The network with the new layer is then evaluated on " (scan.images.judged_from) " ("
            (scan.images.judged) " images). The drop is paired by image, with the interval of Agresti and Min (2005). Milliseconds \
            are medians over forward passes of " (scan.took.batch) " image(s) on one thread; each part is timed alone. " i { "Error" }
            ": squared error of the affine map on held-out images divided by the variance of its target. "
            @if scan.measure == Measure::Values {
                i { "R²" } ": 1 − (sum of squared differences from the original network's output) / (sum of squared deviations \
                of that output from its mean), output by output; an output that is constant has none. " i { "Relative error" }
                ": Euclidean norm of all differences divided by that of the original outputs."
            } @else {
                i { "Divergence" } ": Kullback-Leibler divergence from the original network, in nats."
            }
        }
        p {
            (scan.ranges.len()) " ranges, " (scan.took.threads) " threads, " (seconds(scan.took.seconds)) ": "
            (seconds(scan.took.fitting)) " solving, " (seconds(scan.took.judging)) " evaluating, " (seconds(scan.took.timing))
            " timing; at most " (scan.took.bytes >> 20) " MiB of sums and solutions."
        }
    }
}
