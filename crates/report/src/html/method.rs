//! How the results were measured.

use maud::{Markup, html};

use super::{Td, table};
use crate::analysis::{Analysis, TestedRate, Unit};
use crate::data::RunData;
use crate::format::{count, duration, number};
use crate::sentences;

pub(super) fn section(data: &RunData, analysis: &Analysis) -> Markup {
    let plan = &data.plan;
    let schemes = plan.schemes.iter().map(|scheme| {
        let stages = if scheme.stages.is_empty() { "no training".to_owned() } else { scheme.stages.join("; then ") };
        vec![Td::from(&scheme.name), Td::from(stages)]
    });
    let layers = plan.layers.iter().map(|layer| {
        let [c, h, w] = layer.shape;
        vec![
            Td::from(&layer.name),
            Td::from(&layer.kind),
            Td::from(format!("{c}×{h}×{w}")),
            Td::number(layer.parameters as f64, count(layer.parameters)),
            Td::number(layer.macs as f64, count(layer.macs)),
            Td::from(layer.block.as_deref().unwrap_or("–")),
        ]
    });
    html! {
        dl.facts.wide {
            @for (name, value) in facts(data, analysis) {
                div { dt { (name) } dd { @if name == "command" { code { (value) } } @else { (value) } } }
            }
        }
        (statistics(analysis))
        (rates(analysis))
        h3 { "Schemes" }
        (table("plain left", &["scheme", "stages"], schemes.collect()))
        details {
            summary { "The parent's " (plan.layers.len()) " layers" }
            (table("plain", &["layer", "kind", "output", "parameters", "MACs", "block"], layers.collect()))
        }
        details {
            summary { "The study file" }
            div.copy {
                button type="button" data-copy="study" { "Copy" }
                pre #study tabindex="0" { (plan.study) }
            }
        }
    }
}

fn facts(data: &RunData, analysis: &Analysis) -> Vec<(&'static str, String)> {
    let (plan, about) = (&data.plan, &analysis.about);
    let mut seeds: Vec<u64> = plan.trials.iter().map(|trial| trial.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let list = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let parents: Vec<u64> = plan.parents.iter().map(|parent| parent.seed).collect();
    let time = about.trials_seconds.filter(|&seconds| seconds > 0.0).map_or(String::new(), |seconds| {
        format!("{} from the end of the parents' training to the end of the last trial", duration(seconds))
    });
    let facts = [
        ("data", format!("{} (checksum {})", plan.data.name, plan.data.checksum)),
        (
            "images",
            format!(
                "{} {}, {} for every choice (validation), {} evaluated once per trial at its end (test); children train on {}",
                count(plan.data.train as u64),
                if analysis.validity.parent_from_file { "to train children" } else { "to train parents" },
                count(plan.data.validation as u64),
                count(plan.data.test as u64),
                sentences::budgets(plan)
            ),
        ),
        ("seeds", format!("trials {}; parents {}", list(&seeds), list(&parents))),
        (
            "trials",
            format!(
                "{} of {} recorded; {} diverged, {} failed",
                analysis.recorded, analysis.planned, analysis.diverged, analysis.failed
            ),
        ),
        ("not run", about.halving.clone()),
        ("time", time),
        ("program", about.program.clone()),
        ("machine", about.machine.clone()),
        ("command", about.command.clone()),
        ("run", about.folder.clone()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// The learning rates that range tests have found, with their curves.
fn rates(analysis: &Analysis) -> Markup {
    html! {
        @if !analysis.rates.is_empty() {
            h3 { "Learning rates" }
            @for tested in &analysis.rates {
                p {
                    "The largest rate of " (tested.of) " is " (tested.rate) ", found by a range test of " (tested.rates.len())
                    " steps: " (tested.rule) " (" (format!("{:.2e}", tested.edge)) ")."
                }
                (range_curve(tested))
            }
        }
    }
}

/// The smoothed loss of a range test against the logarithm of the rate, from 0 to the loss of guessing and a quarter more, with the
/// chosen rate as a line.
fn range_curve(tested: &TestedRate) -> Markup {
    const WIDTH: f64 = 360.0;
    const HEIGHT: f64 = 90.0;
    let (Some(first), Some(last)) = (tested.rates.first(), tested.rates.last()) else { return html! {} };
    let across = (last / first).ln();
    let x = |rate: f64| if across > 0.0 { WIDTH * (rate / first).ln() / across } else { 0.0 };
    let y = |loss: f64| HEIGHT * (1.0 - (loss / (1.25 * tested.chance)).clamp(0.0, 1.0));
    let places =
        tested.rates.iter().zip(&tested.smoothed).map(|(rate, loss)| format!("{:.1},{:.1}", x(*rate), y(*loss)));
    let points = places.collect::<Vec<_>>().join(" ");
    let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        html! {
            line x1=(format!("{x1:.1}")) y1=(format!("{y1:.1}")) x2=(format!("{x2:.1}")) y2=(format!("{y2:.1}"))
                stroke="currentColor" stroke-dasharray="3 3" opacity="0.6" {}
        }
    };
    let label = format!("Smoothed loss of the range test for {}, rates {first:.0e} to {last:.1e}", tested.of);
    html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) height=(HEIGHT) role="img" aria-label=(label) {
                (line(0.0, y(tested.chance), WIDTH, y(tested.chance)))
                (line(x(tested.rate), 0.0, x(tested.rate), HEIGHT))
                polyline points=(points) fill="none" stroke="currentColor" stroke-width="1.5" {}
            }
            figcaption {
                "Smoothed training loss against the learning rate, " (format!("{first:.0e} to {last:.1e}")) ", logarithmic. Dashed: the \
                 chosen rate, and the loss of guessing (" (number(tested.chance, 2)) ")."
            }
        }
    }
}

fn statistics(analysis: &Analysis) -> Markup {
    let unit = match analysis.unit {
        Unit::Seeds => "Repetitions are seeds of one parent, so results are about this network.",
        Unit::Parents => {
            "Repetitions are parents, each averaged over its seeds, so results are about the architecture and not about one trained network."
        }
    };
    html! {
        h3 { "Statistics" }
        p {
            "Trials are paired by parent and seed: both see the same images in the same order under the same augmentation, and are \
             evaluated on the same test images. The accuracy drop of a block is the mean of control − child in percentage points of \
             test accuracy; the control is the parent fine-tuned with the same scheme and seed. " (unit)
        }
        p {
            "The 95% interval covers two sources of error, other repetitions and other test images: a two-way random-effects layout \
             of repetitions by images, with Satterthwaite's degrees of freedom. With one repetition it covers test images only. The \
             matrix also gives Student's t over repetitions, which takes the test images as fixed, and the BCa bootstrap over both. \
             Equivalence means within ±" (number(analysis.options.margin, 2)) " pp by two one-sided tests at 5%. The answer's \
             combination is the one with the highest mean validation accuracy over blocks; the test set has no part in the choice. \
             Diverged and failed trials are counted, not averaged."
        }
    }
}
