//! The results of a study of a user-defined metric: their analysis, and the report as plain text, as a page and as tables.

use nettriage_records::metric::{Better, Metric};
use nettriage_records::plan::Role;
use nettriage_records::record::Outcome;

use crate::analysis::{Estimate, F1Verdict, F2Verdict, LossVerdict, MetricAnalysis, MetricBlock, MetricCell};
use crate::data::RunData;
use crate::format::{number, p_value, percent, printable, short, signed_percent};
use crate::sentences::{capitalised, f2_phrase, list};
use crate::stats::paired::mean;
use crate::terminal::{aligned, wrap};

pub use crate::analysis::metric::analyse;
pub use crate::html::metric as html;

/// What such a study has no results for, and why.
pub(crate) const LEFT_OUT: &str = "Left out: F3 and recovery, which need learning curves, and readings of networks that nettriage \
    trains itself (calibration, filters, similarity, inference time).";

/// The table of blocks, the answer and the findings as plain text of at most 100 columns.
pub fn terminal(analysis: &MetricAnalysis) -> String {
    let mut out = wrap(&conditions(analysis), 96) + "\n\n";
    let mut rows = vec![header(&analysis.metric)];
    rows.extend(analysis.blocks.iter().map(|block| row(analysis, block)));
    let mut lines = aligned(&rows, |column| column == 1);
    let width = lines.iter().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
    lines.insert(1, "─".repeat(width) + "\n");
    out += &lines.concat();
    out += "\n";
    let mut paragraphs = vec![answer(analysis)];
    paragraphs.extend(cautions(analysis).into_iter().map(|caution| format!("note: {caution}")));
    paragraphs.push(String::new());
    paragraphs.extend(findings(analysis).into_iter().map(|finding| finding.line()));
    paragraphs.push(LEFT_OUT.to_owned());
    paragraphs.push(String::new());
    paragraphs.push(progress(analysis));
    for paragraph in paragraphs {
        out += &(wrap(&paragraph, 96) + "\n");
    }
    printable(&out)
}

/// The answer, the table of blocks and the findings as Markdown.
pub fn markdown(analysis: &MetricAnalysis) -> String {
    use crate::markdown::escape;
    let mut out =
        format!("## Which blocks of {} matter\n\n**{}**\n\n", escape(&analysis.name), escape(&answer(analysis)));
    for caution in cautions(analysis) {
        out += &format!("> {}\n>\n", escape(&caution));
    }
    out += &format!("\n{}\n\n", escape(&conditions(analysis)));
    let line =
        |row: Vec<String>| format!("| {} |\n", row.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(" | "));
    out += &line(header(&analysis.metric));
    out += "|--:|:--|--:|:--:|--:|--:|--:|--:|:--|\n";
    analysis.blocks.iter().for_each(|block| out += &line(row(analysis, block)));
    out += "\n";
    for finding in findings(analysis) {
        out += &format!("- {}\n", escape(&finding.line()));
    }
    out + &format!("\n{LEFT_OUT}\n\n<sub>{}</sub>\n", escape(&progress(analysis)))
}

/// The analysis as JSON.
pub fn json(analysis: &MetricAnalysis) -> String {
    serde_json::to_string_pretty(analysis).expect("plain data") + "\n"
}

/// One row per recorded trial: what it is, the mean of its values, its cost.
pub fn csv(data: &RunData) -> String {
    let mut out = "id,role,block,substitute,init,seed,state,examples,value,parameters,macs\n".to_owned();
    for record in &data.records {
        let spec = &record.spec;
        let text = |text: &Option<String>| quoted(text.as_deref().unwrap_or_default());
        let state = match record.outcome {
            Outcome::Done => "done",
            Outcome::Diverged { .. } => "diverged",
            Outcome::Failed { .. } => "failed",
        };
        let numbers = record.measured.as_ref().map_or(",,,".to_owned(), |measured| {
            let (values, cost) = (&measured.values, measured.cost);
            format!("{},{},{},{}", values.len(), mean(values), cost.parameters, cost.macs)
        });
        out += &format!(
            "{},{},{},{},{},{},{state},{numbers}\n",
            spec.id,
            role(spec.role),
            text(&spec.block),
            text(&spec.substitute),
            text(&spec.init),
            spec.seed
        );
    }
    out
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// A role as serialised.
fn role(role: Role) -> &'static str {
    match role {
        Role::Child => "child",
        Role::Parent => "parent",
        Role::ParentContinued => "parent-continued",
        Role::Placebo => "placebo",
        Role::Reinit => "reinit",
        Role::Drop => "drop",
    }
}

/// How numbers of a metric are written.
#[derive(Clone, Copy)]
pub(crate) struct Scale<'a>(pub &'a Metric);

impl Scale<'_> {
    /// Decimals: three figures of the margin.
    fn digits(self) -> usize {
        (2.0 - self.0.margin.log10().floor()).clamp(0.0, 12.0) as usize
    }

    pub fn number(self, x: f64) -> String {
        number(x, self.digits())
    }

    /// A number with the unit.
    pub fn with_unit(self, x: f64) -> String {
        let unit = &self.0.unit;
        if unit.is_empty() { self.number(x) } else { format!("{} {unit}", self.number(x)) }
    }

    pub fn interval(self, [low, high]: [f64; 2]) -> String {
        format!("{} to {}", self.number(low), self.number(high))
    }

    fn loss(self, estimate: &Estimate) -> String {
        let ends = estimate.interval.map(|ends| format!(" (95% interval {})", self.interval(ends)));
        self.with_unit(estimate.mean) + &ends.unwrap_or_default()
    }
}

/// The heading of a column with the metric's unit.
pub(crate) fn with_unit(text: &str, metric: &Metric) -> String {
    if metric.unit.is_empty() { text.to_owned() } else { format!("{text} ({})", metric.unit) }
}

pub(crate) fn header(metric: &Metric) -> Vec<String> {
    let loss = with_unit("loss", metric);
    ["rank", "block", &loss, "95% interval", "control", "child", "params", "MACs", "verdict"]
        .map(str::to_owned)
        .to_vec()
}

/// A block's row under [`header`].
pub(crate) fn row(analysis: &MetricAnalysis, block: &MetricBlock) -> Vec<String> {
    let scale = Scale(&analysis.metric);
    let dash = || "-".to_owned();
    let share = |x: Option<f64>| x.map_or_else(dash, |x| signed_percent(-x));
    let cell = block.cell.map(|cell| &analysis.cells[cell]);
    let loss = cell.and_then(|cell| cell.loss.as_ref());
    vec![
        block.rank.map_or_else(dash, |rank| rank.to_string()),
        block.block.clone(),
        loss.map_or_else(dash, |loss| scale.number(loss.mean)),
        loss.and_then(|loss| loss.interval).map_or_else(dash, |ends| scale.interval(ends)),
        cell.and_then(|cell| cell.control).map_or_else(dash, |x| scale.number(x)),
        cell.map_or_else(dash, |cell| scale.number(cell.value)),
        share(block.saves_parameters),
        share(block.saves_macs),
        cell.map_or_else(dash, |cell| verdict(cell, scale)),
    ]
}

/// A cell's verdict in a few words.
pub(crate) fn verdict(cell: &MetricCell, scale: Scale<'_>) -> String {
    match cell.verdict {
        LossVerdict::Negligible => format!("below {}", scale.with_unit(scale.0.margin)),
        LossVerdict::Loss => "loses".to_owned(),
        LossVerdict::Undecided => "undecided".to_owned(),
    }
}

/// What the study measured, in sentences.
pub(crate) fn conditions(analysis: &MetricAnalysis) -> String {
    let MetricAnalysis { metric, headline, .. } = analysis;
    let scale = Scale(metric);
    let parent = analysis.parent.map_or(String::new(), |value| format!("parent {}, ", scale.with_unit(value)));
    let better = match metric.better {
        Better::Higher => "higher",
        Better::Lower => "lower",
    };
    let under = headline.as_ref().map_or(String::new(), |headline| {
        format!(" Blocks as one {}, init {}.", headline.substitute_text(), headline.init)
    });
    format!(
        "{}: {parent}{} parameters, {} MACs. {} ({better} is better) of {} test examples; {} seed{}; margin {}. Trained and measured \
         by the user's own program.{under}",
        analysis.name,
        short(analysis.cost.parameters as f64),
        short(analysis.cost.macs as f64),
        metric.name,
        metric.examples,
        analysis.seeds,
        if analysis.seeds == 1 { "" } else { "s" },
        scale.with_unit(metric.margin)
    )
}

/// Which blocks can be one layer, and which matters most.
pub(crate) fn answer(analysis: &MetricAnalysis) -> String {
    let scale = Scale(&analysis.metric);
    let answered: Vec<(&MetricBlock, &MetricCell, &Estimate)> = analysis
        .blocks
        .iter()
        .filter_map(|block| {
            let cell = &analysis.cells[block.cell?];
            Some((block, cell, cell.loss.as_ref()?))
        })
        .collect();
    let Some((most, cell, loss)) = answered.iter().max_by(|a, b| a.2.mean.total_cmp(&b.2.mean)) else {
        return "No block has a result yet.".to_owned();
    };
    let free: Vec<&(&MetricBlock, &MetricCell, &Estimate)> =
        answered.iter().filter(|(_, cell, _)| cell.verdict == LossVerdict::Negligible).collect();
    let action = match free
        .iter()
        .max_by(|a, b| a.0.saves_macs.unwrap_or(0.0).total_cmp(&b.0.saves_macs.unwrap_or(0.0)))
    {
        Some((block, cell, _)) => {
            let saves = |share: Option<f64>| percent(share.unwrap_or(0.0));
            let others: Vec<&str> =
                free.iter().map(|(other, ..)| other.block.as_str()).filter(|name| *name != block.block).collect();
            let others = match others.len() {
                0 => String::new(),
                1 => format!(" {} can be one layer as well.", capitalised(others[0])),
                _ => format!(" {} can each be one layer as well, one block at a time.", capitalised(&list(&others))),
            };
            format!(
                "{} can be one {}: {} fewer parameters, {} fewer MACs, a loss of {} below {}.{others}",
                capitalised(&block.block),
                cell.substitute,
                saves(block.saves_parameters),
                saves(block.saves_macs),
                analysis.metric.name,
                scale.with_unit(analysis.metric.margin)
            )
        }
        None => format!(
            "No block is shown to be replaceable at a loss of {} below {}.",
            analysis.metric.name,
            scale.with_unit(analysis.metric.margin)
        ),
    };
    let sure = if cell.verdict == LossVerdict::Loss { "" } else { ", which these trials do not confirm as a loss" };
    format!("{action} {} looks most important, {}{sure}.", capitalised(&most.block), scale.loss(loss))
}

/// What limits the conclusions.
pub(crate) fn cautions(analysis: &MetricAnalysis) -> Vec<String> {
    let scale = Scale(&analysis.metric);
    let validity = &analysis.validity;
    let names = |names: &[String]| list(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut cautions = Vec::new();
    if analysis.recorded < analysis.planned {
        let left = analysis.planned - analysis.recorded;
        cautions.push(format!("{left} of {} trials have no result yet.", analysis.planned));
    }
    if analysis.seeds == 1 {
        cautions.push("One seed gives no estimate of training noise, so there are no verdicts.".to_owned());
    }
    if !validity.incomplete_blocks.is_empty() {
        cautions.push(format!(
            "Trials of {} failed; those that are left are a selection, so there is no verdict on them.",
            names(&validity.incomplete_blocks)
        ));
    }
    if !validity.zero_variance_blocks.is_empty() {
        cautions.push(format!(
            "The loss of {} is exactly the same for every seed: does the training use the child's seed?",
            names(&validity.zero_variance_blocks)
        ));
    }
    for control in &validity.collapsed_controls {
        cautions.push(format!(
            "The fine-tuned parent is worse than the parent as it is, by {}: the training does harm on its own, so losses are relative \
             to a weakened control.",
            scale.loss(&control.loss)
        ));
    }
    if analysis.controls.iter().all(|control| control.role != Role::ParentContinued) && analysis.seeds > 0 {
        let what = "The study has no fine-tuned parent, so losses are relative to the parent as it is, which had no further training.";
        cautions.push(what.to_owned());
    }
    let fails = |control: &crate::analysis::MetricControl| {
        control.role == Role::Placebo && control.p_equivalent.is_some_and(|p| p >= 0.05)
    };
    if analysis.controls.iter().any(fails) {
        cautions.push(
            "The placebo, a network with no layer replaced, is not shown to be equivalent to the fine-tuned parent within the margin: \
             more seeds or examples, or a larger margin, are needed."
                .to_owned(),
        );
    }
    cautions
}

/// A finding of the paper.
pub(crate) struct Finding {
    pub name: &'static str,
    pub claim: String,
    pub verdict: String,
    pub reason: String,
}

impl Finding {
    fn line(&self) -> String {
        format!("{} {}: {}. {}", self.name, self.claim, self.verdict, self.reason)
    }
}

/// F1 and F2 in the metric's words.
pub(crate) fn findings(analysis: &MetricAnalysis) -> Vec<Finding> {
    let scale = Scale(&analysis.metric);
    let margin = scale.with_unit(analysis.metric.margin);
    let name = &analysis.metric.name;
    let (verdict, reason) = match &analysis.f1 {
        None => ("not tested", "The study has no two blocks with results to compare.".to_owned()),
        Some(f1) => {
            let spread = format!("The largest difference between two blocks is {}", scale.with_unit(f1.spread));
            let text = |p: Option<f64>| p.map_or("one seed only".to_owned(), p_value);
            match f1.verdict {
                F1Verdict::Equivalent => {
                    ("equivalent", format!("{spread}; every pair is within {margin} (TOST {}).", text(f1.p_equivalent)))
                }
                F1Verdict::Different => ("different", format!("{spread} (permutation {}).", text(f1.p_permutation))),
                F1Verdict::Undecided => (
                    "undecided",
                    format!(
                        "{spread}; neither a difference (permutation {}) nor equivalence within {margin} (TOST {}) is shown.",
                        text(f1.p_permutation),
                        text(f1.p_equivalent)
                    ),
                ),
            }
        }
    };
    let first = Finding {
        name: "F1",
        claim: format!("{name} does not depend on which layer was compressed"),
        verdict: verdict.into(),
        reason,
    };
    let (verdict, reason) = match &analysis.f2 {
        None => ("not tested".to_owned(), "There is no result to test it with.".to_owned()),
        Some(f2) => {
            let mut verdicts: Vec<F2Verdict> = f2.blocks.iter().map(|block| block.verdict).collect();
            verdicts.sort();
            let by_block: Vec<String> =
                verdicts.chunk_by(|a, b| a == b).map(|same| format!("{} {}", same.len(), f2_phrase(same[0]))).collect();
            let against = |gain: &Estimate, what: &str| {
                let word = if gain.mean < 0.0 { "worse" } else { "better" };
                let ends = gain.interval.map(|[low, high]| if gain.mean < 0.0 { [-high, -low] } else { [low, high] });
                let ends = ends.map(|ends| format!(" ({})", scale.interval(ends))).unwrap_or_default();
                format!("{}{ends} {word} than {what}", scale.with_unit(gain.mean.abs()))
            };
            let tuned = f2.overall.to_fine_tuned.as_ref();
            let tuned = tuned.map_or(String::new(), |gain| format!(" and {}", against(gain, "the fine-tuned parent")));
            let reason = format!(
                "Children end {}{tuned}, averaged over blocks; by block: {}.",
                against(&f2.overall.to_parent, "the parent"),
                by_block.join(", ")
            );
            (f2_phrase(f2.overall.verdict).to_owned(), reason)
        }
    };
    let claim = format!("{name} can be recovered or exceeded by training the whole network");
    vec![first, Finding { name: "F2", claim, verdict, reason }]
}

/// How many trials are recorded.
fn progress(analysis: &MetricAnalysis) -> String {
    let failed = if analysis.failed > 0 {
        format!(" ({} failed; counted, not averaged)", analysis.failed)
    } else {
        String::new()
    };
    format!("{} of {} trials recorded{failed}", analysis.recorded, analysis.planned)
}
