//! Controls, proxy rankings, classes and calibration.

use maud::{Markup, html};
use nettriage_records::plan::Role;

use super::{Td, colour_step, images, sortable, table};
use crate::analysis::Analysis;
use crate::data::RunData;
use crate::format::{interval, number, percent};
use crate::sentences::answered_blocks;

/// The controls. Their expected outcome is known, so they show whether the measurement can be trusted.
pub(super) fn controls(analysis: &Analysis) -> Option<Markup> {
    if analysis.controls.is_empty() {
        return None;
    }
    let rows = analysis.controls.iter().map(|control| {
        let name = match control.role {
            Role::ParentContinued => "fine-tuned parent",
            Role::Placebo => "placebo: no layer replaced",
            Role::Reinit => "block re-initialised, then trained",
            Role::Drop => "block dropped",
            Role::Parent | Role::Child => "parent",
        };
        let drop = control.criticality.as_ref().map_or_else(Td::none, |estimate| {
            let shown = html! {
                span class={ "chip s" (colour_step(estimate.mean)) } {
                    (number(estimate.mean, 2))
                    @if control.fallback_pairs > 0 { "°" }
                }
            };
            Td::number(estimate.mean, shown)
        });
        let ends = control.criticality.as_ref().and_then(|estimate| estimate.interval);
        vec![
            Td::from(name),
            Td::from(control.block.as_deref().unwrap_or("–")),
            Td::from(&control.scheme),
            Td::from(control.trials),
            Td::number(control.accuracy, format!("{}%", number(control.accuracy, 2))),
            drop,
            ends.map_or_else(Td::none, |ends| Td::number(ends[0], interval(ends))),
            placebo(control.role, control.p_equivalent, "repetition"),
        ]
    });
    let header = ["control", "block", "scheme", "trials", "accuracy", "drop, pp", "95% interval", "verdict"];
    Some(html! {
        p {
            "The reference of the fine-tuned parent is the parent; the reference of all other controls is the fine-tuned parent. A \
             negative drop is a gain. A placebo goes through the same steps as a child, with no layer replaced, so it must be \
             equivalent to its reference."
        }
        (table("plain", &header, rows.collect()))
    })
}

/// Whether a control passes as a placebo, by its test of equivalence; `repetition` is what one trial of several is called.
pub(super) fn placebo(role: Role, p_equivalent: Option<f64>, repetition: &str) -> Td {
    match p_equivalent {
        _ if role != Role::Placebo => Td::none(),
        Some(p) if p < 0.05 => Td::from("equivalent"),
        Some(_) => Td::from(html! { b { "not shown to be equivalent" } }),
        None => Td::from(format!("one {repetition} only")),
    }
}

/// How well proxies rank the blocks.
pub(super) fn proxies(analysis: &Analysis) -> Option<Markup> {
    if analysis.proxies.is_empty() || answered_blocks(analysis).len() < 3 {
        return None;
    }
    let mut sorted: Vec<_> = analysis.proxies.iter().collect();
    sorted.sort_by(|a, b| a.relative_cost.total_cmp(&b.relative_cost));
    let rows = sorted.iter().map(|proxy| {
        let tau = proxy.tau.map_or_else(Td::none, |tau| {
            let width = 50.0 * tau.abs();
            let left = if tau < 0.0 { 50.0 - width } else { 50.0 };
            let shown = html! {
                span.tau { u { s style=(format!("left:{left:.1}%;width:{width:.1}%")) {} } (number(tau, 2)) }
            };
            Td::number(tau, shown)
        });
        vec![
            Td::from(format!("{}, {}", proxy.scheme, proxy.init)),
            Td::from(if proxy.measure == "hint-loss" { "loss of the hint stage" } else { "criticality" }),
            Td::number(proxy.relative_cost, percent(proxy.relative_cost)),
            tau,
            proxy.interval.map_or_else(Td::none, |ends| Td::number(ends[0], interval(ends))),
        ]
    });
    let header = ["scheme and init", "ranks by", "time per trial, of the answer's", "Kendall's τ", "95% interval"];
    Some(html! {
        p {
            "Would a cheaper study have ranked the " (sorted[0].blocks) " blocks the same? τ is 1 for the same order as the \
             answer's, 0 for no relation, −1 for the reverse. With few blocks τ can take few values; its interval comes from \
             resampling the repetitions."
        }
        (table("plain", &header, rows.collect()))
    })
}

/// Classes shown at most: those whose accuracy changes most.
const CLASSES: usize = 12;

/// Accuracy changes per class.
pub(super) fn classes(data: &RunData, analysis: &Analysis) -> Option<Markup> {
    if analysis.classes.is_empty() {
        return None;
    }
    let names = &data.plan.data.classes;
    let change = |block: &str, class: &str| {
        analysis.classes.iter().find(|change| change.block == block && change.class == class)
    };
    let largest = |class: &String| {
        let own = analysis.classes.iter().filter(|change| &change.class == class);
        own.map(|change| change.change.abs()).fold(0.0, f64::max)
    };
    let mut shown: Vec<usize> = (0..names.len()).collect();
    shown.sort_by(|&a, &b| largest(&names[b]).total_cmp(&largest(&names[a])));
    shown.truncate(CLASSES);
    shown.sort_unstable();
    let cell = |block: &str, class: &str| {
        let Some(change) = change(block, class) else { return html! { td.none { "·" } } };
        let drop = -change.change;
        let ends = change.interval.map(|[low, high]| format!("\n95% interval {}", interval([-high, -low])));
        let tip = format!("{block}, {class}\naccuracy drop {} pp{}", number(drop, 2), ends.unwrap_or_default());
        html! {
            td tabindex="0" class={ "s" (colour_step(drop)) } data-value=(drop) data-tip=(tip) { (number(drop, 2)) }
        }
    };
    Some(html! {
        p {
            "Accuracy drop against the parent on the test images of each class, in percentage points, for the answer's combination. \
             A negative drop is a gain."
            @if shown.len() < names.len() {
                " Shown are the " (shown.len()) " of " (names.len()) " classes that change most."
            }
        }
        figure data-plot="classes" {
            div.scroll {
                table.matrix {
                    thead { tr { (sortable("block")) @for &class in &shown { (sortable(&names[class])) } } }
                    tbody {
                        @for (block, _, _) in answered_blocks(analysis) {
                            tr {
                                th scope="row" { (block.block) }
                                @for &class in &shown { (cell(&block.block, &names[class])) }
                            }
                        }
                    }
                }
            }
        }
        @if !analysis.flips.is_empty() { (flips(data, analysis)) }
    })
}

/// Images whose prediction changes: a part of the section on classes.
fn flips(data: &RunData, analysis: &Analysis) -> Markup {
    /// Indices listed at most.
    const LISTED: usize = 12;
    let rows = analysis.flips.iter().map(|flips| {
        let list: Vec<String> = flips.lost_images.iter().take(LISTED).map(usize::to_string).collect();
        let more = if flips.always_lost > LISTED { ", …" } else { "" };
        vec![
            Td::from(&flips.block),
            Td::number(flips.lost, number(flips.lost, 1)),
            Td::number(flips.gained, number(flips.gained, 1)),
            Td::from(flips.always_lost),
            Td::from(flips.always_gained),
            Td::from(format!("{}{more}", list.join(", "))),
        ]
    });
    let header = [
        "block",
        "lost",
        "gained",
        "lost in every trial",
        "gained in every trial",
        "indices of images lost in every trial, from 0",
    ];
    html! {
        h3 { "Images whose prediction changes" }
        p {
            "Test images that the parent classifies correctly and the child does not are lost; the reverse are gained. Counts are \
             means over trials. Images lost in every trial depend on the block; the others vary with training noise."
        }
        (table("plain", &header, rows.collect()))
        @for images in analysis.flips.iter().filter_map(|flips| images::flipped(data, flips)) { (images) }
    }
}

/// Calibration and agreement.
pub(super) fn calibration(analysis: &Analysis) -> Option<Markup> {
    let answered = answered_blocks(analysis);
    let parent = analysis.parent.as_ref().filter(|_| !answered.is_empty())?;
    let same = parent.on_trial_images.as_ref();
    let (error, top5) =
        same.map_or((parent.calibration_error, parent.top5), |same| (same.calibration_error, same.top5));
    let share = |x: f64| Td::number(x, format!("{}%", number(x, 2)));
    let parent = vec![Td::from(html! { b { "parent" } }), share(error), Td::none(), share(top5)];
    let children = answered.iter().map(|(block, cell, _)| {
        vec![Td::from(&block.block), share(cell.calibration_error), share(cell.agreement), share(cell.top5)]
    });
    let header = ["network", "expected calibration error", "same prediction as the parent", "top-5 accuracy"];
    Some(html! {
        p {
            "On the trials' test images, for the answer's combination. The expected calibration error is the gap between confidence \
             and accuracy in 15 bins of equal width (Guo et al., 2017)."
        }
        (table("plain", &header, std::iter::once(parent).chain(children).collect()))
    })
}
