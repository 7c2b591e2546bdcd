//! The answer and the verdicts in sentences, the same in every output.

use crate::analysis::{Analysis, BlockAnswer, Ceiling, Cell, Estimate, F1Verdict, F2Verdict, F3Pair, Pace, Unit};
use crate::data::RunData;
use crate::format::{count, interval, number, p_value, percent};

/// A verdict: one or two words, and a line that says why.
pub(crate) struct Verdict {
    /// The finding, such as `F1`.
    pub name: &'static str,
    /// The finding in words.
    pub claim: &'static str,
    /// The verdict.
    pub verdict: String,
    /// Whether the data agree with the finding: yes, no, or open.
    pub agrees: Option<bool>,
    /// The same in words.
    pub mark: &'static str,
    /// Why.
    pub line: String,
}

/// Whether a finding holds, in words.
fn mark(agrees: Option<bool>) -> &'static str {
    match agrees {
        Some(true) => "✓ holds here",
        Some(false) => "✗ does not hold here",
        None => "? open",
    }
}

/// Repetitions in words, such as `3 seeds`.
pub(crate) fn units(unit: Unit, n: usize) -> String {
    let word = match unit {
        Unit::Seeds => "seed",
        Unit::Parents => "parent",
    };
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// A block with its cell and estimate.
pub(crate) fn answered(analysis: &Analysis) -> Vec<(&BlockAnswer, &Cell, &Estimate)> {
    let blocks = analysis.blocks.iter();
    blocks
        .filter_map(|block| {
            let cell = &analysis.cells[block.cell?];
            Some((block, cell, cell.criticality.as_ref()?))
        })
        .collect()
}

fn cost(estimate: &Estimate) -> String {
    let interval = estimate.interval.map(|ends| format!(" (95% interval {})", interval(ends))).unwrap_or_default();
    format!("{} points{interval}", number(estimate.mean, 2))
}

/// A difference in words, such as `2.50 points (1.43 to 3.57) below`.
fn beside(estimate: &Estimate) -> String {
    let below = estimate.mean < 0.0;
    let ends = estimate.interval.map(|[low, high]| if below { [-high, -low] } else { [low, high] });
    let ends = ends.map(|ends| format!(" ({})", interval(ends))).unwrap_or_default();
    format!("{} points{ends} {}", number(estimate.mean.abs(), 2), if below { "below" } else { "above" })
}

fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// The sentences that answer: which blocks matter, and which could be one layer instead.
pub(crate) fn answer(analysis: &Analysis) -> [String; 2] {
    let blocks = answered(analysis);
    let margin = number(analysis.options.margin, 2);
    let Some(top) = blocks.iter().max_by(|a, b| a.2.mean.total_cmp(&b.2.mean)) else {
        return ["No block has a finished trial yet.".to_owned(), String::new()];
    };
    let verdict = analysis.f1.as_ref().map(|f1| f1.verdict);
    let first = match verdict {
        _ if blocks.len() == 1 => format!("Replacing {} costs {}.", top.0.block, cost(top.2)),
        Some(F1Verdict::Equivalent) => format!(
            "All {} blocks matter alike: no two differ by {margin} points or more; replacing one costs {} points on average.",
            blocks.len(),
            number(blocks.iter().map(|block| block.2.mean).sum::<f64>() / blocks.len() as f64, 2)
        ),
        Some(F1Verdict::Different) => {
            format!("{} matters most: replacing it costs {}.", capital(&top.0.block), cost(top.2))
        }
        _ => format!(
            "Which block matters most is undecided with {}: {} costs most, {}.",
            units(analysis.unit, analysis.units),
            top.0.block,
            cost(top.2)
        ),
    };
    [first, replaceable(&blocks, &margin, analysis.options.margin)]
}

/// Which blocks are shown to cost less than the margin, and what the best of them saves.
fn replaceable(blocks: &[(&BlockAnswer, &Cell, &Estimate)], margin: &str, points: f64) -> String {
    let mut substitutes: Vec<&str> = blocks.iter().map(|block| block.1.substitute.as_str()).collect();
    substitutes.sort_unstable();
    substitutes.dedup();
    let layer = if let [one] = substitutes[..] { format!("one {one}") } else { "a single layer".to_owned() };
    // With one repetition the interval knows nothing of training: it shows no more than that these images were spared.
    let shown = |estimate: &Estimate| estimate.units > 1 && estimate.interval.is_some_and(|ends| ends[1] < points);
    let cheap: Vec<_> = blocks.iter().filter(|block| shown(block.2)).collect();
    let names: Vec<&str> = cheap.iter().map(|block| block.0.block.as_str()).collect();
    let saves = |block: &BlockAnswer| block.saves_macs.unwrap_or(0.0) + block.saves_parameters.unwrap_or(0.0);
    let Some((most, _, _)) = cheap.iter().max_by(|a, b| saves(a.0).total_cmp(&saves(b.0))) else {
        return format!("No block can yet be shown to cost less than {margin} points as {layer}.");
    };
    let each = if cheap.len() > 1 { " each" } else { "" };
    let mut text = format!("{} could{each} be {layer} instead at a cost below {margin} points", capital(&list(&names)));
    if let (Some(parameters), Some(macs)) = (most.saves_parameters, most.saves_macs) {
        let which = if cheap.len() == 1 { "that saves".to_owned() } else { format!("{} saves most,", most.block) };
        text += &format!("; {which} {} of the parameters and {} of the arithmetic", percent(parameters), percent(macs));
    }
    text + "."
}

/// The first letter made large.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The headline's substitute, init, scheme and repetitions in words.
pub(crate) fn conditions(data: &RunData, analysis: &Analysis) -> String {
    let Some(headline) = &analysis.headline else { return String::new() };
    format!(
        "One {}, init {}, scheme {}; {}; {} training images a child, judged on {} test images of {}.",
        headline.substitute_text(),
        headline.init,
        headline.scheme,
        units(analysis.unit, analysis.units),
        count(data.plan.data.budget as u64),
        count(data.plan.data.test as u64),
        data.plan.data.name,
    )
}

/// The three findings.
pub(crate) fn verdicts(analysis: &Analysis) -> [Verdict; 3] {
    [f1(analysis), f2(analysis), f3(analysis)]
}

fn f1(analysis: &Analysis) -> Verdict {
    let margin = number(analysis.options.margin, 2);
    let (verdict, agrees, line) = match &analysis.f1 {
        None => ("not tested", None, "The study has no two blocks with trials to compare.".to_owned()),
        Some(f1) => {
            let detectable = f1
                .detectable
                .map(|points| {
                    format!("; {} could have shown {} points", units(analysis.unit, f1.units), number(points, 2))
                })
                .unwrap_or_default();
            let spread = format!("the largest difference between two blocks is {} points", number(f1.spread, 2));
            let test = f1.p_permutation.map(|p| format!("permutation {}", p_value(p))).unwrap_or_default();
            let within = f1.p_equivalent.map(p_value).unwrap_or_default();
            match f1.verdict {
                F1Verdict::Equivalent => {
                    let also = f1.p_permutation.filter(|&p| p < 0.05).map(|_| ", though a smaller one is detectable");
                    let also = also.unwrap_or_default();
                    (
                        "equivalent",
                        Some(true),
                        format!(
                            "No pair of blocks differs by {margin} points or more (TOST {within}){also}; {spread}."
                        ),
                    )
                }
                F1Verdict::Different => {
                    ("different", Some(false), format!("It does depend on the block ({test}); {spread}{detectable}."))
                }
                F1Verdict::Undecided => {
                    let test = if test.is_empty() { "one repetition only".to_owned() } else { test };
                    (
                        "undecided",
                        None,
                        format!(
                            "Neither a difference ({test}) nor equivalence within {margin} points is shown; {spread}{detectable}."
                        ),
                    )
                }
            }
        }
    };
    Verdict {
        name: "F1",
        claim: "Accuracy does not depend on which layer was compressed",
        verdict: verdict.into(),
        agrees,
        mark: mark(agrees),
        line,
    }
}

/// The five verdicts of F2 in words.
pub(crate) fn f2_word(verdict: F2Verdict) -> &'static str {
    match verdict {
        F2Verdict::Exceeded => "exceeded",
        F2Verdict::ExceededByTraining => "exceeded only because of the extra training",
        F2Verdict::Recovered => "recovered",
        F2Verdict::NotRecovered => "not recovered",
        F2Verdict::Undecided => "undecided",
    }
}

fn f2(analysis: &Analysis) -> Verdict {
    let (verdict, agrees, line) = match &analysis.f2 {
        None => ("not tested".to_owned(), None, "The study has no scheme that trains the whole network.".to_owned()),
        Some(f2) => {
            let mut kinds: Vec<F2Verdict> = f2.blocks.iter().map(|block| block.verdict).collect();
            kinds.sort();
            let each: Vec<String> =
                kinds.chunk_by(|a, b| a == b).map(|group| format!("{} {}", group.len(), f2_word(group[0]))).collect();
            let to_parent = &f2.overall.to_parent;
            let continued = f2
                .overall
                .to_continued
                .as_ref()
                .map_or(String::new(), |estimate| format!(" and {} the parent trained on", beside(estimate)));
            let agrees = match f2.overall.verdict {
                F2Verdict::Exceeded | F2Verdict::Recovered | F2Verdict::ExceededByTraining => Some(true),
                F2Verdict::NotRecovered => Some(false),
                F2Verdict::Undecided => None,
            };
            let line = format!(
                "After {} children end {} the parent{continued}, averaged over blocks; by block: {}.",
                f2.headline.scheme,
                beside(to_parent),
                each.join(", ")
            );
            (f2_word(f2.overall.verdict).to_owned(), agrees, line)
        }
    };
    Verdict {
        name: "F2",
        claim: "Fine-tuning the whole network recovers or exceeds the accuracy",
        verdict,
        agrees,
        mark: mark(agrees),
        line,
    }
}

/// The verdicts of F3's first half in words.
pub(crate) fn pace_word(pace: Pace) -> &'static str {
    match pace {
        Pace::Hastened => "hastened",
        Pace::Slowed => "slowed",
        Pace::Undecided => "pace undecided",
        Pace::NeverReached => "margin never reached",
    }
}

/// How distilled children stand to the parent, in words.
pub(crate) fn against_parent_word(ceiling: Ceiling) -> &'static str {
    match ceiling {
        Ceiling::Equivalent => "held to the parent's accuracy",
        Ceiling::Higher => "above the parent's accuracy",
        Ceiling::Lower => "below the parent's accuracy",
        Ceiling::Undecided => "ceiling undecided",
    }
}

/// How distilled children stand to plain ones, in words.
pub(crate) fn ceiling_word(ceiling: Ceiling) -> &'static str {
    match ceiling {
        Ceiling::Equivalent => "equivalent",
        Ceiling::Higher => "higher",
        Ceiling::Lower => "lower",
        Ceiling::Undecided => "undecided",
    }
}

fn f3(analysis: &Analysis) -> Verdict {
    let (verdict, agrees, line) = match &analysis.f3 {
        None => ("not tested".to_owned(), None, "The study has no scheme with and without distillation.".to_owned()),
        Some(f3) => f3_line(&f3.overall),
    };
    // Two halves: a pace that is shown counts, though children below the parent never tested the ceiling.
    let half = analysis.f3.as_ref().is_some_and(|f3| f3.overall.pace == Pace::Hastened) && agrees.is_none();
    Verdict {
        name: "F3",
        claim: "Distillation hastens convergence but holds accuracy to the base model's",
        verdict,
        agrees,
        mark: if half { "✓ first half holds here, ? second open" } else { mark(agrees) },
        line,
    }
}

fn f3_line(pair: &F3Pair) -> (String, Option<bool>, String) {
    let verdict = format!("{}; {}", pace_word(pair.pace), against_parent_word(pair.against_parent));
    let agrees = match (pair.pace, pair.against_parent) {
        (Pace::Hastened, Ceiling::Equivalent) => Some(true),
        (Pace::Slowed, _) | (_, Ceiling::Higher) => Some(false),
        _ => None,
    };
    let test = pair.log_rank.map(|test| format!(" (log-rank {})", p_value(test.p))).unwrap_or_default();
    let ceiling = pair
        .to_plain
        .as_ref()
        .map_or(String::new(), |estimate| format!(" At the end it is {} the same scheme without.", beside(estimate)));
    let line = format!(
        "{} of {} children came within the margin with distillation, {} without{test}.{ceiling}",
        pair.recovered[0], pair.pairs, pair.recovered[1]
    );
    (verdict, agrees, line)
}
