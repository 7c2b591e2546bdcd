//! The page of a study of a user-defined metric: the answer, every combination, the findings and the controls.

use maud::{Markup, html};
use nettriage_records::metric::Better;
use nettriage_records::plan::Role;

use super::details::placebo;
use super::{Td, common_script, of_sections, table};
use crate::analysis::{Estimate, LossVerdict, MetricAnalysis, MetricCell};
use crate::format::{number, p_value, short, signed_percent};
use crate::metric::{LEFT_OUT, Scale, answer, cautions, conditions, findings, verdict, with_unit};
use crate::sentences::{capitalised, f2_phrase};

/// Width of the plot, height of a row, and the space for names, in pixels.
const WIDTH: f64 = 760.0;
const ROW: f64 = 26.0;
const NAMES: f64 = 190.0;

/// The results as one HTML document.
pub fn metric(analysis: &MetricAnalysis) -> String {
    let sections = [
        ("answer", "Answer", Some(first(analysis))),
        ("cells", "All combinations", cells(analysis)),
        ("findings", "Findings", Some(tests(analysis))),
        ("controls", "Controls", controls(analysis)),
        ("method", "Method", Some(method(analysis))),
    ];
    of_sections(&analysis.name, sections, &common_script())
}

fn first(analysis: &MetricAnalysis) -> Markup {
    let scale = Scale(&analysis.metric);
    let loss = with_unit("loss", &analysis.metric);
    let header = ["rank", "block", &loss, "95% interval", "control", "child", "parameters", "MACs", "verdict"];
    let rows = analysis.blocks.iter().map(|block| {
        let cell = block.cell.map(|cell| &analysis.cells[cell]);
        let saved = |share: Option<f64>| Td::optional(share.map(|share| -share), signed_percent);
        vec![
            Td::optional(block.rank.map(|rank| rank as f64), |rank| format!("{rank}")),
            Td::from(&block.block),
            loss_of(cell.and_then(|cell| cell.loss.as_ref()), scale),
            ends_of(cell.and_then(|cell| cell.loss.as_ref()), scale),
            Td::optional(cell.and_then(|cell| cell.control), |x| scale.number(x)),
            Td::optional(cell.map(|cell| cell.value), |x| scale.number(x)),
            saved(block.saves_parameters),
            saved(block.saves_macs),
            cell.map_or_else(Td::none, |cell| Td::from(verdict(cell, scale))),
        ]
    });
    html! {
        p.eyebrow { b { (analysis.name) } }
        h1 { (answer(analysis)) }
        p.conditions { (conditions(analysis)) }
        @for caution in cautions(analysis) { p.caution { (caution) } }
        @if let Some(plot) = plot(analysis) {
            figure.front {
                figcaption { (with_unit(&format!("Loss of {} against the control, 95% intervals", analysis.metric.name), &analysis.metric)) }
                div.scroll { (plot) }
            }
        }
        (table("plain", &header, rows.collect()))
    }
}

fn loss_of(loss: Option<&Estimate>, scale: Scale<'_>) -> Td {
    Td::optional(loss.map(|loss| loss.mean), |x| scale.number(x))
}

fn ends_of(loss: Option<&Estimate>, scale: Scale<'_>) -> Td {
    loss.and_then(|loss| loss.interval).map_or_else(Td::none, |ends| Td::number(ends[0], scale.interval(ends)))
}

/// Losses of the blocks with their intervals, and the margin.
fn plot(analysis: &MetricAnalysis) -> Option<Markup> {
    let scale = Scale(&analysis.metric);
    let margin = analysis.metric.margin;
    let rows: Vec<(&str, &MetricCell, &Estimate)> = analysis
        .blocks
        .iter()
        .filter_map(|block| {
            let cell = &analysis.cells[block.cell?];
            Some((block.block.as_str(), cell, cell.loss.as_ref()?))
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let ends = |loss: &Estimate| loss.interval.unwrap_or([loss.mean, loss.mean]);
    let low = rows.iter().map(|row| ends(row.2)[0].min(row.2.mean)).fold(0.0, f64::min);
    let high = rows.iter().map(|row| ends(row.2)[1].max(row.2.mean)).fold(margin, f64::max);
    let x = |value: f64| NAMES + (WIDTH - NAMES - 30.0) * (value - low) / (high - low).max(f64::MIN_POSITIVE);
    let px = |pixels: f64| format!("{pixels:.1}");
    let height = ROW * rows.len() as f64 + 40.0;
    let y = |row: usize| ROW * (row as f64 + 0.5) + 4.0;
    let step = crate::format::round_step((high - low) / 5.0);
    let ticks = (low / step).ceil() as i64..=(high / step).floor() as i64;
    let label = format!("Loss of {} of every block with its 95% interval", analysis.metric.name);
    Some(html! {
        svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(label) {
            @for tick in ticks {
                @let at = tick as f64 * step;
                line x1=(px(x(at))) x2=(px(x(at))) y1="4" y2=(px(height - 34.0)) {}
                text x=(px(x(at))) y=(px(height - 16.0)) text-anchor="middle" { (number(at, digits(step))) }
            }
            line.margin x1=(px(x(margin))) x2=(px(x(margin))) y1="4" y2=(px(height - 34.0)) stroke-dasharray="4 3" {
                title { "margin " (scale.with_unit(margin)) }
            }
            text x=(px(x(margin))) y=(px(height - 2.0)) text-anchor="middle" { "margin" }
            @for (row, (name, cell, loss)) in rows.iter().enumerate() {
                text x=(px(NAMES - 8.0)) y=(px(y(row) + 4.0)) text-anchor="end" { (name) }
                path d={ "M" (px(x(ends(loss)[0]))) " " (px(y(row))) "L" (px(x(ends(loss)[1]))) " " (px(y(row))) } {}
                circle cx=(px(x(loss.mean))) cy=(px(y(row))) r=(if cell.verdict == LossVerdict::Undecided { "3" } else { "5" }) {
                    title { (name) ": " (scale.with_unit(loss.mean)) ", " (verdict(cell, scale)) }
                }
            }
        }
    })
}

/// Decimals that show a step of an axis.
fn digits(step: f64) -> usize {
    (-step.log10().floor()).clamp(0.0, 12.0) as usize
}

fn cells(analysis: &MetricAnalysis) -> Option<Markup> {
    let scale = Scale(&analysis.metric);
    let loss = with_unit("loss", &analysis.metric);
    let to_parent = with_unit("loss against the parent", &analysis.metric);
    let header = [
        "block",
        "substitute",
        "init",
        "seeds",
        "control",
        "child",
        &loss,
        "95% interval",
        &to_parent,
        "parameters",
        "MACs",
        "verdict",
    ];
    let rows = analysis.cells.iter().map(|cell| {
        let seeds = match cell.failed {
            0 => format!("{}", cell.trials),
            failed => format!("{}, {failed} failed", cell.trials),
        };
        vec![
            Td::from(&cell.block),
            Td::from(&cell.substitute),
            Td::from(&cell.init),
            Td::number(cell.trials as f64, seeds),
            Td::optional(cell.control, |x| scale.number(x)),
            Td::number(cell.value, scale.number(cell.value)),
            Td::optional(cell.loss.as_ref().map(|loss| loss.mean), |x| {
                format!("{}{}", scale.number(x), if cell.fallback_pairs > 0 { "°" } else { "" })
            }),
            ends_of(cell.loss.as_ref(), scale),
            loss_of(cell.loss_to_parent.as_ref(), scale),
            Td::number(cell.cost.parameters as f64, short(cell.cost.parameters as f64)),
            Td::number(cell.cost.macs as f64, short(cell.cost.macs as f64)),
            Td::from(verdict(cell, scale)),
        ]
    });
    (!analysis.cells.is_empty()).then(|| {
        html! {
            p { "A loss is how much worse the child is than the fine-tuned parent of its seed; a negative one is a gain. °: for some \
                 seeds the control is the parent as it is." }
            (table("plain", &header, rows.collect()))
        }
    })
}

fn tests(analysis: &MetricAnalysis) -> Markup {
    let scale = Scale(&analysis.metric);
    let text = |p: Option<f64>| p.map_or("–".to_owned(), p_value);
    let pairs = analysis.f1.iter().flat_map(|f1| &f1.pairs).map(|pair| {
        vec![
            Td::from(format!("{} − {}", pair.first, pair.second)),
            Td::number(pair.difference, scale.number(pair.difference)),
            Td::number(pair.interval[0], scale.interval(pair.interval)),
            Td::number(pair.p_holm, p_value(pair.p_holm)),
            Td::number(pair.p_equivalent, p_value(pair.p_equivalent)),
        ]
    });
    let difference = with_unit("difference of losses", &analysis.metric);
    let within = format!("within ±{}", scale.with_unit(analysis.metric.margin));
    let pair_header = ["pair", &difference, "95% interval", "no difference, Holm", &within];
    let gain = |estimate: Option<&Estimate>| {
        estimate.map_or_else(Td::none, |estimate| {
            let ends = estimate.interval.map(|[low, high]| scale.interval([-high, -low]));
            let shown =
                html! { (scale.number(-estimate.mean)) @if let Some(ends) = ends { " " small { "(" (ends) ")" } } };
            Td::number(-estimate.mean, shown)
        })
    };
    let blocks = analysis.f2.iter().flat_map(|f2| f2.blocks.iter().chain([&f2.overall])).map(|block| {
        vec![
            block.block.as_ref().map_or_else(|| Td::from(html! { b { "mean over blocks" } }), Td::from),
            Td::from(capitalised(f2_phrase(block.verdict))),
            gain(Some(&block.to_parent)),
            gain(block.to_fine_tuned.as_ref()),
        ]
    });
    let against =
        ["loss against the parent", "loss against the fine-tuned parent"].map(|text| with_unit(text, &analysis.metric));
    let block_header = ["block", "verdict", &against[0], &against[1]];
    html! {
        @for finding in findings(analysis) {
            h3 { (finding.name) ": " (finding.claim) }
            p { b { (capitalised(&finding.verdict)) ". " } (finding.reason) }
            @if finding.name == "F1" {
                @if let Some(f1) = &analysis.f1 {
                    p {
                        "No difference: permutation " (text(f1.p_permutation)) ", Friedman " (text(f1.p_friedman)) ". Minimum detectable \
                         difference (80% power): " (f1.detectable.map_or("–".to_owned(), |x| scale.with_unit(x))) "."
                    }
                    details { summary { "All pairs of blocks" } (table("plain", &pair_header, pairs.clone().collect())) }
                }
            } @else if analysis.f2.is_some() {
                (table("plain", &block_header, blocks.clone().collect()))
            }
        }
        p { (LEFT_OUT) }
    }
}

fn controls(analysis: &MetricAnalysis) -> Option<Markup> {
    let scale = Scale(&analysis.metric);
    let (value, loss) = (with_unit(&analysis.metric.name, &analysis.metric), with_unit("loss", &analysis.metric));
    let rows = analysis.controls.iter().map(|control| {
        let name = match control.role {
            Role::ParentContinued => "fine-tuned parent",
            Role::Placebo => "placebo: no layer replaced",
            Role::Reinit => "block re-initialised, then trained",
            Role::Drop => "block dropped",
            Role::Parent | Role::Child => "parent",
        };
        vec![
            Td::from(name),
            Td::from(control.block.as_deref().unwrap_or("–")),
            Td::from(control.trials),
            Td::number(control.value, scale.number(control.value)),
            loss_of(control.loss.as_ref(), scale),
            ends_of(control.loss.as_ref(), scale),
            placebo(control.role, control.p_equivalent, "seed"),
        ]
    });
    let header = ["control", "block", "seeds", &value, &loss, "95% interval", "verdict"];
    (!analysis.controls.is_empty()).then(|| {
        html! {
            p {
                "The reference of the fine-tuned parent is the parent; the reference of all other controls is the fine-tuned parent. A \
                 placebo is a child with no layer replaced, so it must be equivalent to its reference."
            }
            (table("plain", &header, rows.collect()))
        }
    })
}

fn method(analysis: &MetricAnalysis) -> Markup {
    let metric = &analysis.metric;
    let (worse, better) = match metric.better {
        Better::Higher => ("control − child", "Higher"),
        Better::Lower => ("child − control", "Lower"),
    };
    html! {
        p {
            "nettriage built every network; the user's own program trained it and measured " (metric.name) " on every test example. "
            (better) " values are better, so a loss is " (worse) ". The control is the parent trained by the same program with the \
             child's seed. Differences are paired by seed and by test example; intervals hold for new seeds and new test examples \
             (two-way random effects, Satterthwaite's degrees of freedom). A loss is negligible if a one-sided test at 5% puts it below \
             the margin of " (Scale(metric).with_unit(metric.margin)) "."
        }
        p {
            "Pairs are fair if the training of a seed sees the same data in the same order for every network; that is up to the program. \
             Blocks are compared under the first substitute and init of the plan, not under the best on the test examples."
        }
        @if !analysis.about.machine.is_empty() { p { "Recorded on: " (analysis.about.machine) "." } }
        p { (analysis.about.program) ", run " code { (analysis.about.folder) } "." }
    }
}
