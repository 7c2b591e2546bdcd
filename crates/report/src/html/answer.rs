//! The first screen: the answer, the network as its blocks in order, and the three verdicts.

use super::escape::text;
use super::step;
use crate::analysis::{Analysis, BlockAnswer, Cell};
use crate::data::RunData;
use crate::format::{count, interval, number, percent, short};
use crate::words;

pub(crate) fn section(data: &RunData, analysis: &Analysis) -> String {
    let parent = analysis.parent.as_ref().map_or(String::new(), |parent| {
        format!(
            "The parent gets {}% of {} test images right with {} parameters and {} multiply-accumulates an image. ",
            number(parent.accuracy, 2),
            count(parent.test_images),
            short(parent.cost.parameters as f64),
            short(parent.cost.macs as f64)
        )
    });
    let unfinished = if analysis.recorded < analysis.planned {
        format!(
            "<p class=\"warning\">{} of {} trials are recorded: the answer may change.</p>",
            analysis.recorded, analysis.planned
        )
    } else {
        String::new()
    };
    let lost = if analysis.diverged + analysis.failed > 0 {
        format!(
            "<p class=\"warning\">{} trials diverged and {} failed: they are counted in the matrix and are in no mean.</p>",
            analysis.diverged, analysis.failed
        )
    } else {
        String::new()
    };
    let answer = words::answer(analysis);
    format!(
        "<p class=\"eyebrow\">Which blocks of <b>{}</b> matter?</p><h1>{}</h1><p class=\"lead\">{}</p><p class=\"conditions\">{parent}{}</p>{unfinished}{lost}\
         <div class=\"first\">{}{}</div>",
        text(&analysis.name),
        text(&answer[0]),
        text(&answer[1]),
        text(&words::conditions(data, analysis)),
        network(data, analysis),
        verdicts(analysis),
    )
}

/// Ends of the shared axis: every interval, zero and the margin, with a little room.
fn axis(analysis: &Analysis) -> (f64, f64) {
    let (mut low, mut high) = (-analysis.options.margin, analysis.options.margin);
    for (_, _, estimate) in words::answered(analysis) {
        // An interval that is huge (two seeds) must not squeeze all else: it runs out of the picture instead.
        let reach = 4.0 * estimate.mean.abs().max(analysis.options.margin);
        let [a, b] = estimate.interval.unwrap_or([estimate.mean; 2]);
        low = low.min(a.max(estimate.mean - reach));
        high = high.max(b.min(estimate.mean + reach));
    }
    let room = 0.06 * (high - low);
    (low - room, high + room)
}

/// Round values inside the axis, four to eight of them.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let magnitude = 10.0_f64.powf(rough.log10().floor());
    let unit =
        [1.0, 2.0, 5.0, 10.0].map(|unit| unit * magnitude).into_iter().find(|&unit| unit >= rough).unwrap_or(rough);
    let first = (low / unit).ceil() as i64;
    let last = (high / unit).floor() as i64;
    (first..=last).map(|i| i as f64 * unit).collect()
}

fn network(data: &RunData, analysis: &Analysis) -> String {
    let (low, high) = axis(analysis);
    let at = |x: f64| 100.0 * ((x - low) / (high - low)).clamp(0.0, 1.0);
    let widest = data.plan.blocks.iter().map(|block| block.output[0]).max().unwrap_or(1) as f64;
    let mut rows = String::new();
    let [c, h, w] = data.plan.data.shape;
    rows += &format!("<div class=\"end\"><span>input {c}×{h}×{w}</span></div>");
    for (summary, block) in data.plan.blocks.iter().zip(&analysis.blocks) {
        let cell = block.cell.map(|cell| &analysis.cells[cell]);
        let estimate = cell.and_then(|cell| cell.criticality.as_ref());
        let [c, h, w] = summary.output;
        let width = 34.0 + 66.0 * (1.0 + c as f64).ln() / (1.0 + widest).ln();
        let colour = estimate.map_or("untried".to_owned(), |estimate| format!("s{}", step(estimate.mean)));
        let rank = block.rank.map(|rank| format!("<i>{rank}</i>")).unwrap_or_default();
        let value = estimate.map_or("not tried".to_owned(), |estimate| number(estimate.mean, 2));
        let ends = estimate.and_then(|estimate| estimate.interval);
        let range = ends.map(interval).unwrap_or_else(|| "no interval".to_owned());
        let kind = layers(data, &summary.layers);
        rows += &format!(
            "<div class=\"block\" role=\"listitem\"><div class=\"glyph\"><span class=\"{colour}\" style=\"width:{width:.0}%\">{rank}</span></div>\
             <div class=\"what\"><b>{}</b><small>{} → {c}×{h}×{w}</small></div>\
             <div class=\"value\"><b>{value}</b><small>{range}</small></div>\
             <div class=\"range\">{}</div><div class=\"saves\">{}</div></div>",
            text(&summary.name),
            text(&kind),
            bar(
                estimate.map(|estimate| (at(estimate.mean), ends.map(|ends| ends.map(at)))),
                at(0.0),
                at(-analysis.options.margin),
                at(analysis.options.margin),
                &colour
            ),
            saves(block, cell),
        );
    }
    let classes = data.plan.data.classes.len();
    rows += &format!("<div class=\"end\"><span>{classes} classes</span></div>");
    let labels: String = ticks(low, high)
        .into_iter()
        .map(|x| format!("<span style=\"left:{:.2}%\">{}</span>", at(x), trim(x)))
        .collect();
    format!(
        "<figure class=\"network\" data-plot=\"criticality\"><figcaption><span>The network from input to output. Colour and dot: points of accuracy \
         that replacing the block costs against the control of equal budget; line: 95% interval; grey band: ±{} points, counted as nothing. \
         The number in a block is its rank.</span></figcaption><div class=\"head\" aria-hidden=\"true\"><span>block</span><span>costs, points</span>\
         <span></span><span>saves of the whole</span></div><div class=\"blocks\" role=\"list\">{rows}</div>\
         <div class=\"axis\" aria-hidden=\"true\"><div>{labels}</div></div>{}</figure>",
        trim(analysis.options.margin),
        scale(),
    )
}

fn trim(x: f64) -> String {
    let text = number(x, 2);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The colour scale with its steps in words.
pub(crate) fn scale() -> String {
    let names = ["gains > 2", "1 to 2", "¼ to 1", "±¼", "¼ to 1", "1 to 2", "2 to 5", "5 to 10", "costs > 10"];
    let steps: String =
        names.iter().enumerate().map(|(i, name)| format!("<span class=\"s{i}\">{name}</span>")).collect();
    format!("<div class=\"scale\" aria-label=\"Colour scale, percentage points\">{steps}</div>")
}

/// Dot and interval on the shared axis; positions in percent.
fn bar(at: Option<(f64, Option<[f64; 2]>)>, zero: f64, left: f64, right: f64, colour: &str) -> String {
    let mut out = format!(
        "<svg width=\"100%\" height=\"34\" aria-hidden=\"true\"><rect class=\"margin\" x=\"{left:.2}%\" y=\"0\" width=\"{:.2}%\" height=\"34\"/>\
         <line class=\"zero\" x1=\"{zero:.2}%\" x2=\"{zero:.2}%\" y1=\"0\" y2=\"34\"/>",
        right - left
    );
    if let Some((mean, ends)) = at {
        if let Some([low, high]) = ends {
            out += &format!("<line class=\"ci\" x1=\"{low:.2}%\" x2=\"{high:.2}%\" y1=\"17\" y2=\"17\"/>");
            for end in [low, high] {
                out += &format!("<line class=\"ci\" x1=\"{end:.2}%\" x2=\"{end:.2}%\" y1=\"12\" y2=\"22\"/>");
            }
        }
        out += &format!("<circle class=\"dot {colour}\" cx=\"{mean:.2}%\" cy=\"17\" r=\"6.5\"/>");
    }
    out + "</svg>"
}

/// What the block is made of: its layers' kinds, equal ones counted.
fn layers(data: &RunData, names: &[String]) -> String {
    let kinds = names.iter().filter_map(|name| data.plan.layers.iter().find(|layer| &layer.name == name));
    // Normalisations and activations go without saying.
    let heavy: Vec<&str> = kinds.filter(|layer| layer.macs > 0).map(|layer| layer.kind.as_str()).collect();
    let counted = heavy.chunk_by(|a, b| a == b).map(|group| match group.len() {
        1 => group[0].to_owned(),
        n => format!("{n} × {}", group[0]),
    });
    let mut parts: Vec<String> = counted.collect();
    if parts.len() > 3 {
        parts = vec![format!("{} layers with weights", heavy.len())];
    }
    if parts.is_empty() { format!("{} layers", names.len()) } else { parts.join(", ") }
}

fn saves(block: &BlockAnswer, cell: Option<&Cell>) -> String {
    if cell.is_none() {
        return String::new();
    }
    let one = |name: &str, share: Option<f64>| {
        share.map_or(String::new(), |share| {
            let width = 100.0 * share.clamp(0.0, 1.0);
            format!("<span><em>{name}</em><u><s style=\"width:{width:.1}%\"></s></u><b>{}</b></span>", percent(share))
        })
    };
    one("parameters", block.saves_parameters) + &one("arithmetic", block.saves_macs) + &one("time", block.saves_time)
}

fn verdicts(analysis: &Analysis) -> String {
    let cards: String = words::verdicts(analysis)
        .iter()
        .map(|verdict| {
            let class = match verdict.agrees {
                Some(true) => "yes",
                Some(false) => "no",
                None => "open",
            };
            format!(
                "<article class=\"verdict {class}\"><h3><span>{}</span> {}</h3><p class=\"word\">{}</p><p class=\"mark\">{}</p><p>{}</p></article>",
                verdict.name,
                text(verdict.claim),
                text(&words::capital(&verdict.verdict)),
                text(verdict.mark),
                text(&verdict.line)
            )
        })
        .collect();
    format!("<div class=\"verdicts\">{cards}</div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(-1.2, 3.4), [-1.0, 0.0, 1.0, 2.0, 3.0]);
        let fine = ticks(-0.11, 0.12);
        assert!(fine.len() >= 4 && fine.len() <= 8, "{fine:?}");
    }
}
