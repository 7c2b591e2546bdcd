//! How it was measured.

use super::escape::text;
use super::table;
use crate::analysis::{Analysis, Unit};
use crate::data::RunData;
use crate::format::{count, duration, number};

pub(crate) fn section(data: &RunData, analysis: &Analysis) -> String {
    let plan = &data.plan;
    let about = &analysis.about;
    let mut seeds: Vec<u64> = plan.trials.iter().map(|trial| trial.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let list = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let parents: Vec<u64> = plan.parents.iter().map(|parent| parent.seed).collect();
    let mut rows = vec![
        ("data", format!("{} (checksum {})", text(&plan.data.name), text(&plan.data.checksum))),
        (
            "images",
            format!(
                "{} for training parents, {} for every choice (validation), {} read once a trial at its end (test); children see {} images in all",
                count(plan.data.train as u64),
                count(plan.data.validation as u64),
                count(plan.data.test as u64),
                count(plan.data.budget as u64)
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
    ];
    if !about.halving.is_empty() {
        rows.push(("left out", text(&about.halving)));
    }
    if let Some(seconds) = about.trials_seconds.filter(|&seconds| seconds > 0.0) {
        rows.push((
            "time",
            format!("{} from the end of the parents’ training to the last trial’s end", duration(seconds)),
        ));
    }
    for (name, value) in
        [("program", &about.program), ("machine", &about.machine), ("command", &about.command), ("run", &about.folder)]
    {
        if !value.is_empty() {
            rows.push((name, if name == "command" { format!("<code>{}</code>", text(value)) } else { text(value) }));
        }
    }
    let facts: String =
        rows.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).collect();
    let schemes: Vec<Vec<String>> = plan
        .schemes
        .iter()
        .map(|scheme| {
            let stages: Vec<String> = scheme.stages.iter().map(|stage| text(stage)).collect();
            vec![text(&scheme.name), if stages.is_empty() { "no training".to_owned() } else { stages.join("; then ") }]
        })
        .collect();
    let layers: Vec<Vec<String>> = plan
        .layers
        .iter()
        .map(|layer| {
            let [c, h, w] = layer.shape;
            vec![
                text(&layer.name),
                text(&layer.kind),
                format!("{c}×{h}×{w}"),
                count(layer.parameters),
                count(layer.macs),
                layer.block.as_ref().map_or("–".to_owned(), |block| text(block)),
            ]
        })
        .collect();
    format!(
        "<dl class=\"facts wide\">{facts}</dl>{}<h3>Schemes</h3>{}\
         <details><summary>The parent’s {} layers</summary>{}</details>\
         <details><summary>The study file</summary><div class=\"copy\"><button type=\"button\" data-copy=\"study\">Copy</button>\
         <pre id=\"study\" tabindex=\"0\">{}</pre></div></details>",
        statistics(analysis),
        table("plain left", &["scheme", "stages"], &schemes),
        layers.len(),
        table("plain", &["layer", "kind", "output", "parameters", "MACs", "block"], &layers),
        text(&plan.study),
    )
}

fn statistics(analysis: &Analysis) -> String {
    let unit = match analysis.unit {
        Unit::Seeds => "The repetitions are seeds of one parent, so claims are about this network.",
        Unit::Parents => {
            "The repetitions are parents, each averaged over its seeds, so claims are about the architecture and not about one lucky network."
        }
    };
    let margin = number(analysis.options.margin, 2);
    format!(
        "<h3>Statistics</h3><p>Trials pair by parent and seed: the same images in the same order under the same augmentation, judged on the same \
         test images. What replacing a block costs is the mean of control − child in percentage points of the test set, where the control is \
         the parent trained on under the same scheme and seed. {unit}</p><p>The 95% interval that is shown counts two sources of error at once, other \
         repetitions and other test images: the two-way random layout of repetitions by images, with Satterthwaite’s degrees of freedom. With one \
         repetition it knows the images’ share alone. Student’s t over repetitions, which takes the test images as given, and the BCa bootstrap \
         over both stand beside it in the matrix. Equivalence means within ±{margin} points by two one-sided tests at 5%. The combination of the \
         answer is the one with the highest mean validation accuracy over blocks; the test set had no say in it. Diverged and failed trials are \
         counted, never averaged in.</p>"
    )
}
