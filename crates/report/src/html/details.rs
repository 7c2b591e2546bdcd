//! Controls, cheaper answers, classes and calibration: tables.

use nettriage_records::plan::Role;

use super::escape::text;
use super::{pictures, step, table};
use crate::analysis::{Analysis, Control};
use crate::data::RunData;
use crate::format::{interval, number, percent, points};
use crate::words::answered;

/// The controls, for the reader's trust: what is known to cost little or much must come out so.
pub(crate) fn controls(analysis: &Analysis) -> String {
    if analysis.controls.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = analysis
        .controls
        .iter()
        .map(|control| {
            let name = match control.role {
                Role::ParentContinued => "parent trained on",
                Role::Placebo => "placebo: no layer replaced",
                Role::Reinit => "block drawn anew, then trained",
                Role::Drop => "block dropped",
                Role::Parent | Role::Child => "parent",
            };
            let estimate = control.criticality.as_ref();
            let colour = estimate.map_or(String::new(), |estimate| format!(" class=\"chip s{}\"", step(estimate.mean)));
            let mark = if control.stand_ins > 0 { "°" } else { "" };
            vec![
                name.to_owned(),
                control.block.as_ref().map_or("–".to_owned(), |block| text(block)),
                text(&control.scheme),
                control.trials.to_string(),
                format!("{}%", number(control.accuracy, 2)),
                estimate.map_or("–".to_owned(), |estimate| {
                    format!("<span{colour}>{}{mark}</span>", number(estimate.mean, 2))
                }),
                estimate.and_then(|estimate| estimate.interval).map_or("–".to_owned(), interval),
                placebo(control),
            ]
        })
        .collect();
    let header = ["control", "block", "scheme", "trials", "accuracy", "costs, points", "95% interval", "verdict"];
    format!(
        "<p>The parent trained on is measured against the parent as it was; a placebo, a block drawn anew or dropped, against the parent \
         trained on. A negative cost is a gain. A placebo goes the way of a child with no layer replaced: it must come out equivalent.</p>{}",
        table("plain", &header, &rows)
    )
}

/// What a placebo shows of the instrument.
fn placebo(control: &Control) -> String {
    match control.p_equivalent {
        _ if control.role != Role::Placebo => "–".to_owned(),
        Some(p) if p < 0.05 => "equivalent".to_owned(),
        Some(_) => "<b>not shown to be equivalent</b>".to_owned(),
        None => "one repetition only".to_owned(),
    }
}

/// How well cheaper answers rank the blocks.
pub(crate) fn cheap(analysis: &Analysis) -> String {
    if analysis.cheap.is_empty() || answered(analysis).len() < 3 {
        return String::new();
    }
    let mut sorted: Vec<_> = analysis.cheap.iter().collect();
    sorted.sort_by(|a, b| a.relative_cost.total_cmp(&b.relative_cost));
    let rows: Vec<Vec<String>> = sorted
        .iter()
        .map(|cheap| {
            let measure = if cheap.measure == "hint-loss" { "loss of the hint stage" } else { "criticality" };
            vec![
                format!("{}, {}", text(&cheap.scheme), text(&cheap.init)),
                measure.to_owned(),
                percent(cheap.relative_cost),
                cheap.tau.map_or("–".to_owned(), |tau| {
                    let width = 50.0 * tau.abs();
                    let left = if tau < 0.0 { 50.0 - width } else { 50.0 };
                    format!(
                        "<span class=\"tau\"><u><s style=\"left:{left:.1}%;width:{width:.1}%\"></s></u>{}</span>",
                        number(tau, 2)
                    )
                }),
                cheap.interval.map_or("–".to_owned(), interval),
            ]
        })
        .collect();
    let header = ["scheme and init", "ranks by", "time a trial, of the answer’s", "Kendall’s τ", "95% interval"];
    format!(
        "<p>Would a cheaper study have ranked the {} blocks alike? τ is 1 for the same order as the answer’s, 0 for no relation, −1 for the \
         reverse. With few blocks τ knows few values; its interval comes from resampling the repetitions.</p>{}",
        sorted[0].blocks,
        table("plain", &header, &rows)
    )
}

/// Changes class by class.
pub(crate) fn classes(data: &RunData, analysis: &Analysis) -> String {
    if analysis.classes.is_empty() {
        return String::new();
    }
    // A table a hundred columns wide tells nobody anything: the classes that change most, in their order.
    let mut worst: Vec<(usize, f64)> = (0..data.plan.data.classes.len())
        .map(|c| {
            let name = &data.plan.data.classes[c];
            let own = analysis.classes.iter().filter(|change| &change.class == name);
            (c, own.map(|change| change.change.abs()).fold(0.0, f64::max))
        })
        .collect();
    worst.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut shown: Vec<usize> = worst.iter().take(12).map(|(c, _)| *c).collect();
    shown.sort_unstable();
    let head: String =
        shown.iter().map(|&c| format!("<th scope=\"col\">{}</th>", text(&data.plan.data.classes[c]))).collect();
    let mut body = String::new();
    for (block, _, _) in answered(analysis) {
        body += &format!("<tr><th scope=\"row\">{}</th>", text(&block.block));
        for &c in &shown {
            let class = &data.plan.data.classes[c];
            let found = analysis.classes.iter().find(|change| change.block == block.block && &change.class == class);
            body += &found.map_or("<td class=\"none\">·</td>".to_owned(), |change| {
                let ends = change.interval.map(|ends| format!("\n95% interval {}", interval(ends))).unwrap_or_default();
                let tip = format!("{}, {}\n{} points{ends}", change.block, change.class, points(change.change));
                format!(
                    "<td tabindex=\"0\" class=\"s{}\" data-tip=\"{}\">{}</td>",
                    step(-change.change),
                    text(&tip),
                    points(change.change)
                )
            });
        }
        body += "</tr>";
    }
    let which = if shown.len() < data.plan.data.classes.len() {
        format!(" The {} classes that change most of {}.", shown.len(), data.plan.data.classes.len())
    } else {
        String::new()
    };
    let flips = flips(data, analysis);
    format!(
        "<p>Child − parent on the test images of each class, in percentage points, under the answer’s combination.{which}</p>\
         <figure data-plot=\"classes\"><div class=\"scroll\"><table class=\"matrix\"><thead><tr><th scope=\"col\">block</th>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>{flips}"
    )
}

/// Which images change sides: a part of the section on classes.
pub(crate) fn flips(data: &RunData, analysis: &Analysis) -> String {
    if analysis.flips.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = analysis
        .flips
        .iter()
        .map(|flips| {
            let list: Vec<String> = flips.images.iter().take(12).map(usize::to_string).collect();
            let more = if flips.always_lost > 12 { ", …" } else { "" };
            vec![
                text(&flips.block),
                number(flips.lost, 1),
                number(flips.gained, 1),
                flips.always_lost.to_string(),
                flips.always_gained.to_string(),
                format!("{}{more}", list.join(", ")),
            ]
        })
        .collect();
    let header = ["block", "lost", "gained", "lost every time", "gained every time", "images lost every time, from 0"];
    format!(
        "<h3>Images that change sides</h3><p>Against the parent, out of the test set: images lost are right under the parent and wrong under \
         the child. Those lost in every trial are what the block itself knows; the rest is noise of training.</p>{}{}",
        table("plain", &header, &rows),
        analysis.flips.iter().map(|flips| pictures::flipped(data, flips)).collect::<String>()
    )
}

/// Calibration and agreement.
pub(crate) fn calibration(analysis: &Analysis) -> String {
    let answered = answered(analysis);
    let Some(parent) = analysis.parent.as_ref().filter(|_| !answered.is_empty()) else { return String::new() };
    let same = parent.on_trial_images.as_ref();
    let (error, top5) =
        same.map_or((parent.calibration_error, parent.top5), |same| (same.calibration_error, same.top5));
    let mut rows = vec![vec![
        "<b>parent</b>".to_owned(),
        format!("{}%", number(error, 2)),
        "–".to_owned(),
        format!("{}%", number(top5, 2)),
    ]];
    rows.extend(answered.iter().map(|(block, cell, _)| {
        vec![
            text(&block.block),
            format!("{}%", number(cell.calibration_error, 2)),
            format!("{}%", number(cell.agreement, 2)),
            format!("{}%", number(cell.top5, 2)),
        ]
    }));
    let header = ["network", "expected calibration error", "agrees with the parent", "top-5 accuracy"];
    format!(
        "<p>On the test images that trials are judged on, under the answer’s combination. Calibration error in 15 bins of equal width (Guo et al., 2017): how far stated \
         confidence lies from the share that is right.</p>{}",
        table("plain", &header, &rows)
    )
}
