//! The pages of a prescription and of a front: predicted and measured figures, and the Pareto front of plans.

use maud::{Markup, html};
use nettriage_records::prescription::{Front, FrontPoint, Prescription};
use nettriage_records::scan::Measure;

use super::{Td, common_script, document, table};
use crate::format::{number, short};
use crate::prescription::{front_rows, rows, verdict};
use crate::scan::kept_and_lost;

/// Width and height of the plot in pixels.
const SIZE: [f64; 2] = [720.0, 320.0];

/// Plans with a larger predicted drop, in pp, are not drawn.
const LARGEST: f64 = 30.0;

/// The prescription as one HTML document.
pub fn prescription(prescription: &Prescription) -> String {
    let cells = |row: &Vec<String>| row.iter().map(Td::from).collect::<Vec<Td>>();
    let figures = rows(prescription);
    let header: Vec<&str> = figures[0].iter().map(String::as_str).collect();
    let replaced = prescription.replaced.iter().map(|replaced| {
        let [first, last] = &replaced.layers;
        vec![Td::from(&replaced.range), Td::from(format!("{first}, {last}")), Td::from(&replaced.substitute)]
    });
    let body = html! {
        section #answer {
            p.eyebrow { b { (prescription.network) } ", " (prescription.data) }
            h1 { (verdict(prescription)) }
            (table("plain", &header, figures[1..].iter().map(cells).collect()))
        }
        section #replaced {
            h2 { "Replaced layers" }
            (table("plain left", &["range", "first and last layer", "by"], replaced.collect()))
            (method(prescription))
        }
        (predicted("Other budgets", &prescription.front, prescription.measure))
    };
    let links = [("answer", "Answer"), ("replaced", "Replaced layers"), ("front", "Other budgets")];
    document(&format!("{}: compressed", prescription.network), "nettriage prescribe", &links, &body, &common_script())
}

/// The networks of a front as one HTML document.
pub fn front(front: &Front) -> String {
    let figures = front_rows(front);
    let header: Vec<&str> = figures[0].iter().map(String::as_str).collect();
    let cells = |row: &Vec<String>| row.iter().map(Td::from).collect::<Vec<Td>>();
    let count = front.networks.len();
    let Some(first) = front.networks.first().map(|network| &network.prescription) else {
        return document("no networks", "nettriage prescribe", &[], &html! { p { "No networks." } }, &common_script());
    };
    let body = html! {
        section #answer {
            p.eyebrow { b { (first.network) } ", " (first.data) }
            h1 { (first.budget) ": " (count) " networks" }
            figure.front { div.scroll { (measured(front)) } }
            p {
                "Time and loss as measured" @if first.test.is_some() { " on the test set" } ", with 95% intervals over images; the time is a \
                 share of the original network's. Line: no other network is both faster and more accurate."
            }
            (table("plain left", &header, figures[1..].iter().map(cells).collect()))
            @if (0..count).any(|network| front.is_dominated(network)) {
                p { "* another of these networks loses no more and takes no more time." }
            }
            (method(first))
        }
        (predicted("Predicted", &front.plans, first.measure))
    };
    let links = [("answer", "Networks"), ("front", "Predicted")];
    document(&format!("{}: smaller networks", first.network), "nettriage prescribe", &links, &body, &common_script())
}

/// How a network was trained, judged and timed.
fn method(prescription: &Prescription) -> Markup {
    html! {
        p {
            "Training after surgery: " (prescription.training) ". Evaluated on " (prescription.judged_from) ". Judged by "
            (prescription.measure.describe()) ". "
            @match &prescription.latency_table {
                Some(table) => { "Times: sums over the network's parts of the times in " (table) ", which were measured elsewhere." }
                None => { "Timed by " (prescription.timed_by) "." }
            }
        }
    }
}

/// The section of the plans that the scan predicts.
fn predicted(title: &str, front: &[FrontPoint], measure: Measure) -> Markup {
    html! {
        section #front {
            h2 { (title) }
            p {
                "The Pareto front of predicted drop and predicted cost, added up from the scan, before refitting and training. Squares: \
                 plans that were built and measured. Line: no plan is both faster and more accurate."
                @if front.iter().any(|plan| plan.corrected.is_some()) {
                    " Corrected: predicted for the end, from the scan and the networks that were built before."
                }
            }
            figure.front { div.scroll { (plot(front, measure)) } }
            (plans(front, measure))
        }
    }
}

/// The measured networks of a front: share of the original's time, and loss with its interval.
fn measured(front: &Front) -> Markup {
    let [width, height] = SIZE;
    let measure = front.networks.first().map_or(Measure::Accuracy, |network| network.prescription.measure);
    // Loss, its interval, and share of the time; the original network is the last.
    let mut points: Vec<([f64; 3], f64)> = Vec::new();
    for network in &front.networks {
        let figures = network.prescription.final_figures();
        let loss = figures.loss().unwrap_or(0.0);
        points.push((figures.drop.unwrap_or([loss; 3]), network.prescription.time_ratio[0]));
    }
    points.push(([0.0; 3], 1.0));
    let slowest = points.iter().map(|(_, time)| *time).fold(1.0, f64::max);
    let largest = points.iter().map(|([_, _, high], _)| *high).fold(1.0, f64::max);
    let lowest = points.iter().map(|([_, low, _], _)| *low).fold(0.0, f64::min);
    let x = |time: f64| 60.0 + (width - 80.0) * time / slowest;
    let y = |loss: f64| 20.0 + (height - 70.0) * (loss - lowest) / (largest - lowest);
    let px = |pixels: f64| format!("{pixels:.1}");
    let mut line: Vec<(f64, f64)> = (0..front.networks.len())
        .filter(|&network| !front.is_dominated(network))
        .map(|network| (points[network].1, points[network].0[0]))
        .chain([(1.0, 0.0)])
        .collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    let line: Vec<String> = line.iter().map(|&(time, loss)| format!("{:.1} {:.1}", x(time), y(loss))).collect();
    html! {
        svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label="Measured loss against time" {
            @for loss in ticks(largest) {
                line x1="60" x2=(width - 20.0) y1=(px(y(loss))) y2=(px(y(loss))) {}
                text x="52" y=(px(y(loss) + 4.0)) text-anchor="end" { (tick_label(loss)) }
            }
            @for time in ticks(slowest) {
                text x=(px(x(time))) y=(height - 30.0) text-anchor="middle" { (tick_label(100.0 * time)) "%" }
            }
            path d={ "M" (line.join("L")) } {}
            @for (number, ([loss, low, high], time)) in points.iter().enumerate() {
                @let name = if number < front.networks.len() { format!("network {}", number + 1) } else { "as it is".to_owned() };
                path d={ "M" (px(x(*time))) " " (px(y(*low))) "V" (px(y(*high))) } {}
                rect x=(px(x(*time) - 4.5)) y=(px(y(*loss) - 4.5)) width="9" height="9" {
                    title { (name) ": " (crate::format::number(*loss, 2)) " " (measure.unit()) ", " (crate::format::percent(*time)) " of the time" }
                }
                text x=(px(x(*time) + 8.0)) y=(px(y(*loss) - 8.0)) { @if number < front.networks.len() { (number + 1) } }
            }
            text x=(width / 2.0) y=(height - 8.0) text-anchor="middle" { "share of the original's time, and " (measure.loss()) " in " (measure.unit()) " (down)" }
        }
    }
}

/// The table of a front of plans.
fn plans(front: &[FrontPoint], measure: Measure) -> Markup {
    let rows = front.iter().map(|plan| {
        let replaced: Vec<String> = plan.replaced.iter().map(|r| format!("{} {}", r.range, r.substitute)).collect();
        vec![
            Td::number(plan.drop, number(plan.drop, 2)),
            Td::optional(plan.corrected, |drop| number(drop, 2)),
            Td::optional(plan.tried, |drop| number(drop, 2)),
            Td::number(plan.milliseconds, number(plan.milliseconds, 3)),
            Td::number(plan.cost.macs as f64, short(plan.cost.macs as f64)),
            Td::number(plan.cost.parameters as f64, short(plan.cost.parameters as f64)),
            Td::from(replaced.join(", ")),
        ]
    });
    let [_, lost] = kept_and_lost(measure);
    let [predicted, measured] = ["predicted", "measured"].map(|word| format!("{word} {lost}"));
    let header = [predicted.as_str(), "corrected", measured.as_str(), "ms", "MACs", "parameters", "ranges"];
    table("plain left", &header, rows.collect())
}

fn plot(front: &[FrontPoint], measure: Measure) -> Markup {
    let [width, height] = SIZE;
    let points: Vec<&FrontPoint> = front.iter().filter(|plan| plan.drop <= LARGEST).collect();
    let slowest = points.iter().map(|plan| plan.milliseconds).fold(0.0, f64::max).max(1e-9);
    let largest = points.iter().map(|plan| plan.drop.max(plan.tried.unwrap_or(0.0))).fold(1.0, f64::max);
    let x = |ms: f64| 60.0 + (width - 80.0) * ms / slowest;
    let y = |drop: f64| 20.0 + (height - 70.0) * drop.max(0.0) / largest;
    let px = |pixels: f64| format!("{pixels:.1}");
    let line: Vec<String> =
        fastest(&points).iter().map(|plan| format!("{:.1} {:.1}", x(plan.milliseconds), y(plan.drop))).collect();
    html! {
        svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label="Predicted loss against milliseconds" {
            @for drop in ticks(largest) {
                line x1="60" x2=(width - 20.0) y1=(px(y(drop))) y2=(px(y(drop))) {}
                text x="52" y=(px(y(drop) + 4.0)) text-anchor="end" { (tick_label(drop)) }
            }
            @for ms in ticks(slowest) {
                text x=(px(x(ms))) y=(height - 30.0) text-anchor="middle" { (tick_label(ms)) }
            }
            path d={ "M" (line.join("L")) } {}
            @for plan in &points {
                circle cx=(px(x(plan.milliseconds))) cy=(px(y(plan.drop))) r="3" {
                    title { (number(plan.drop, 2)) " " (measure.unit()) ", " (number(plan.milliseconds, 3)) " ms" }
                }
                @if let Some(tried) = plan.tried {
                    rect x=(px(x(plan.milliseconds) - 4.5)) y=(px(y(tried) - 4.5)) width="9" height="9" {
                        title { "measured: " (number(tried, 2)) " " (measure.unit()) }
                    }
                }
            }
            text x=(width / 2.0) y=(height - 8.0) text-anchor="middle" { "milliseconds per pass, and " (measure.loss()) " in " (measure.unit()) " (down)" }
        }
    }
}

/// The plans for which no other is both faster and more accurate, from fast to slow. The front is that of the budget's cost,
/// which need not be time.
fn fastest<'p>(plans: &[&'p FrontPoint]) -> Vec<&'p FrontPoint> {
    let mut sorted = plans.to_vec();
    sorted.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds).then(a.drop.total_cmp(&b.drop)));
    let mut least = f64::INFINITY;
    sorted.retain(|plan| {
        let better = plan.drop < least;
        least = least.min(plan.drop);
        better
    });
    sorted
}

/// Round values from 0 to `largest`, three to six of them.
fn ticks(largest: f64) -> Vec<f64> {
    let step = crate::format::round_step(largest / 4.0);
    (0..=(largest / step) as usize).map(|i| i as f64 * step).collect()
}

fn tick_label(x: f64) -> String {
    let text = number(x, 6);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_leaves_out_plans_that_another_beats_in_both() {
        let plan = |milliseconds: f64, drop: f64| FrontPoint {
            drop,
            corrected: None,
            cost: nettriage_records::plan::Cost::default(),
            milliseconds,
            replaced: vec![],
            tried: None,
        };
        let plans = [plan(3.0, 0.0), plan(2.0, 1.0), plan(2.5, 1.5), plan(1.0, 4.0)];
        let line = fastest(&plans.iter().collect::<Vec<_>>());
        assert_eq!(line.iter().map(|plan| plan.milliseconds).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(7.3).iter().map(|&x| tick_label(x)).collect::<Vec<_>>(), ["0", "2", "4", "6"]);
        assert_eq!(ticks(0.37).iter().map(|&x| tick_label(x)).collect::<Vec<_>>(), ["0", "0.1", "0.2", "0.3"]);
    }
}
