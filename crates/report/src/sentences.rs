//! The answer and the findings as sentences, the same in every output.

use crate::analysis::{
    AccuracyVerdict, Analysis, AtBudget, BlockAnswer, Cell, ChanceTest, Convergence, Estimate, F1Verdict, F2Verdict,
    F3Pair, Unit,
};
use nettriage_records::Plan;

use crate::data::RunData;
use crate::format::{count, interval, number, p_value, percent};

/// A finding of the paper and what the data show about it.
pub(crate) struct Finding {
    /// Its name, such as `F1`.
    pub name: &'static str,
    /// The claim.
    pub claim: &'static str,
    /// The verdict in a few words.
    pub verdict: String,
    /// Whether the data agree with the claim; none if the data do not decide.
    pub agrees: Option<bool>,
    /// The same as text.
    pub mark: &'static str,
    /// A sentence with the numbers behind the verdict.
    pub reason: String,
}

fn mark(agrees: Option<bool>) -> &'static str {
    match agrees {
        Some(true) => "✓ holds here",
        Some(false) => "✗ does not hold here",
        None => "? undecided",
    }
}

/// A number of repetitions, such as `3 seeds`.
pub(crate) fn repetitions(unit: Unit, n: usize) -> String {
    format!("{n} {}{}", unit_name(unit), if n == 1 { "" } else { "s" })
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Seeds => "seed",
        Unit::Parents => "parent",
    }
}

/// The blocks that have a criticality under the headline.
pub(crate) fn answered_blocks(analysis: &Analysis) -> Vec<(&BlockAnswer, &Cell, &Estimate)> {
    let blocks = analysis.blocks.iter();
    blocks
        .filter_map(|block| {
            let cell = &analysis.cells[block.cell?];
            Some((block, cell, cell.criticality.as_ref()?))
        })
        .collect()
}

fn drop(estimate: &Estimate) -> String {
    let interval = estimate.interval.map(|ends| format!(" (95% interval {})", interval(ends))).unwrap_or_default();
    format!("{} pp{interval}", number(estimate.mean, 2))
}

/// A difference of accuracies, such as `2.50 pp (1.43 to 3.57) below`.
fn above_or_below(gain: &Estimate) -> String {
    let below = gain.mean < 0.0;
    let ends = gain.interval.map(|[low, high]| if below { [-high, -low] } else { [low, high] });
    let ends = ends.map(|ends| format!(" ({})", interval(ends))).unwrap_or_default();
    format!("{} pp{ends} {}", number(gain.mean.abs(), 2), if below { "below" } else { "above" })
}

/// Names with commas and `and`.
pub(crate) fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

/// The answer, in the order in which a reader can use it.
pub(crate) struct Answer {
    /// What can be done.
    pub action: String,
    /// Which block matters most, and how certain that is; empty if nothing can be said.
    pub importance: String,
}

/// The answer.
pub(crate) fn answer(analysis: &Analysis) -> Answer {
    let blocks = answered_blocks(analysis);
    if blocks.is_empty() {
        return Answer { action: "No block has a finished trial yet.".to_owned(), importance: String::new() };
    }
    let unconverged = unconverged(analysis, &blocks);
    if let Some(test) = analysis.validity.chance.filter(|_| analysis.validity.parent_at_chance()) {
        return at_chance(test);
    }
    let action = format!("{unconverged}{}", action(analysis, &blocks));
    Answer { action, importance: importance(analysis, &blocks) }
}

/// The blocks whose trainings are not shown to have converged, in a sentence for the beginning of the answer; empty if all are, or
/// if the study has one budget.
fn unconverged(analysis: &Analysis, blocks: &[(&BlockAnswer, &Cell, &Estimate)]) -> String {
    let (Some(budgets), Some(images)) = (&analysis.budgets, analysis.budget) else { return String::new() };
    let had = |cell: &Cell| budgets.of(images, cell).and_then(|cell| cell.converged) == Some(true);
    let names: Vec<&str> = blocks.iter().filter(|block| !had(block.1)).map(|block| block.0.block.as_str()).collect();
    match names.len() {
        0 => String::new(),
        n if n == blocks.len() => "From trainings that had not converged: ".to_owned(),
        _ => format!("From trainings that had not converged for {}: ", list(&names)),
    }
}

/// How many of the cells at the budget that findings are about had converged, for the beginning of a finding's reason; empty if
/// all had, or if the study has one budget.
fn share_converged(analysis: &Analysis) -> String {
    let budgets = analysis.budgets.as_ref();
    let at = budgets.and_then(|budgets| budgets.each.iter().find(|at| Some(at.images) == analysis.budget));
    let trained = |at: &AtBudget| {
        let budgets = budgets.map_or(&[][..], |budgets| &budgets.convergence);
        budgets.iter().filter(|cell| cell.budget == at.images).count()
    };
    match at.map(|at| (at.converged, trained(at))) {
        Some((converged, cells)) if converged < cells => {
            format!("Only {converged} of {cells} combinations had converged. ")
        }
        _ => String::new(),
    }
}

fn at_chance(test: ChanceTest) -> Answer {
    Answer {
        action: "The parent is not shown to be better than chance, so this study cannot tell which blocks matter."
            .to_owned(),
        importance: format!(
            "It classifies {} of {} test images correctly ({}%); always predicting the most frequent class gives {}% (exact \
             binomial {}). Train the parent further, or check its data and normalisation.",
            test.correct,
            test.images,
            number(100.0 * test.correct as f64 / test.images as f64, 2),
            number(100.0 * test.chance, 2),
            p_value(test.p)
        ),
    }
}

/// Whether the block is shown to cost less than the margin. The interval of a single repetition covers test images only, not
/// training noise, and trials that are left after others failed are a selection.
pub(crate) fn replaceable(analysis: &Analysis, block: &BlockAnswer, estimate: &Estimate) -> bool {
    estimate.units > 1
        && estimate.interval.is_some_and(|ends| ends[1] < analysis.options.margin)
        && !analysis.validity.incomplete_blocks.contains(&block.block)
        && !analysis.validity.parent_at_chance()
}

/// Which blocks can be one layer, and what the best of them saves.
fn action(analysis: &Analysis, blocks: &[(&BlockAnswer, &Cell, &Estimate)]) -> String {
    let margin = number(analysis.options.margin, 2);
    let replaceable: Vec<_> = blocks.iter().filter(|block| replaceable(analysis, block.0, block.2)).collect();
    let saves = |block: &BlockAnswer| block.saves_macs.unwrap_or(0.0) + block.saves_parameters.unwrap_or(0.0);
    let Some(best) = replaceable.iter().max_by(|a, b| saves(a.0).total_cmp(&saves(b.0))) else {
        let mut substitutes: Vec<&str> = blocks.iter().map(|block| block.1.substitute.as_str()).collect();
        substitutes.sort_unstable();
        substitutes.dedup();
        let layer = if let [one] = substitutes[..] { format!("one {one}") } else { "a single layer".to_owned() };
        return format!("No block is shown to be replaceable by {layer} at a cost below {margin} pp.");
    };
    let change = |share: f64, what: &str| {
        format!("{} {} {what}", percent(share.abs()), if share < 0.0 { "more" } else { "fewer" })
    };
    let changes: Vec<String> = [(best.0.saves_parameters, "parameters"), (best.0.saves_macs, "MACs")]
        .into_iter()
        .filter_map(|(share, what)| Some(change(share?, what)))
        .collect();
    let others: Vec<&str> =
        replaceable.iter().filter(|other| other.0.block != best.0.block).map(|other| other.0.block.as_str()).collect();
    let others = match others.len() {
        0 => String::new(),
        1 => format!(" {} can be one layer as well.", capitalised(others[0])),
        _ => format!(" {} can each be one layer as well, one block at a time.", capitalised(&list(&others))),
    };
    format!(
        "{} can be one {}: {}, no measurable loss (below {margin} pp).{others}",
        capitalised(&best.0.block),
        best.1.substitute,
        changes.join(", "),
    )
}

/// Which block matters most.
fn importance(analysis: &Analysis, blocks: &[(&BlockAnswer, &Cell, &Estimate)]) -> String {
    let Some(top) = blocks.iter().max_by(|a, b| a.2.mean.total_cmp(&b.2.mean)) else { return String::new() };
    let margin = number(analysis.options.margin, 2);
    match analysis.f1.as_ref().map(|f1| f1.verdict) {
        _ if blocks.len() == 1 => format!("Replacing {} costs {}.", top.0.block, drop(top.2)),
        Some(F1Verdict::Equivalent) => format!(
            "All {} blocks matter equally: no two differ by {margin} pp or more; replacing one costs {} pp on average.",
            blocks.len(),
            number(blocks.iter().map(|block| block.2.mean).sum::<f64>() / blocks.len() as f64, 2)
        ),
        Some(F1Verdict::Different) => {
            format!("{} matters most: replacing it costs {}.", capitalised(&top.0.block), drop(top.2))
        }
        _ => format!(
            "{} looks most important, {}, which {} cannot confirm.",
            capitalised(&top.0.block),
            drop(top.2),
            repetitions(analysis.unit, analysis.units)
        ),
    }
}

/// What limits the answer, a sentence or two each, the most important first.
pub(crate) fn cautions(analysis: &Analysis) -> Vec<String> {
    let validity = &analysis.validity;
    let mut cautions = Vec::new();
    for control in &validity.collapsed_controls {
        cautions.push(format!(
            "The control falls apart: fine-tuning the parent under {} costs {}, so the learning rate is too large for this \
             network. A child that looks better than this control need not be good. Lower the rate of [children].",
            control.scheme,
            drop(&control.loss)
        ));
    }
    if analysis.budgets.is_none() {
        cautions.push(
            "Whether these trainings had converged is unknown: the study has one budget. Add one of at most half its size to \
             [children] budgets."
                .to_owned(),
        );
    }
    if analysis.recorded < analysis.planned {
        cautions
            .push(format!("{} of {} trials are recorded; the answer may change.", analysis.recorded, analysis.planned));
    }
    if analysis.diverged + analysis.failed > 0 {
        cautions.push(format!(
            "{} trials diverged and {} failed. The matrix counts them; no mean includes them.",
            analysis.diverged, analysis.failed
        ));
    }
    let names = |blocks: &[String]| list(&blocks.iter().map(String::as_str).collect::<Vec<_>>());
    if !validity.incomplete_blocks.is_empty() {
        cautions.push(format!(
            "No verdict on {}: trials of the answer's combination diverged or failed, and those that are left are a selection.",
            names(&validity.incomplete_blocks)
        ));
    }
    if validity.validation_seen {
        cautions.push(
            "The parent was read from a file, not trained here. The validation images are carved from the training set, so the \
             parent may have been trained on them; accuracy on them can be too high. The test images decide the answer."
                .to_owned(),
        );
    }
    if !validity.zero_variance_blocks.is_empty() {
        cautions.push(format!(
            "Zero variance: all {} gave exactly the same accuracy drop for {}, so the spread between {}s is unknown.",
            repetitions(analysis.unit, analysis.units),
            names(&validity.zero_variance_blocks),
            unit_name(analysis.unit)
        ));
    }
    if let Some(check) = analysis.timing.filter(|check| !check.passed) {
        cautions.push(format!(
            "No inference times: the controls have the parent's architecture, but took {} times ({} to {}) its time, so the \
             machine was disturbed.",
            number(check.ratio, 2),
            number(check.interval[0], 2),
            number(check.interval[1], 2)
        ));
    }
    cautions
}

/// The text with a capital first letter.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The headline's substitute, init and scheme, and the data.
pub(crate) fn conditions(data: &RunData, analysis: &Analysis) -> String {
    let Some(headline) = &analysis.headline else { return String::new() };
    format!(
        "One {}, init {}, scheme {}; {}; {} training images per child{}, evaluated on {} test images of {}.",
        headline.substitute_text(),
        headline.init,
        headline.scheme,
        repetitions(analysis.unit, analysis.units),
        count(analysis.budget.unwrap_or(0) as u64),
        match &analysis.budgets {
            Some(budgets) => format!(" (the largest of {} budgets)", budgets.each.len()),
            None => String::new(),
        },
        count(data.plan.data.test as u64),
        data.plan.data.name,
    )
}

/// The budgets of a plan in images, such as `2 560 or 45 000 images in all`.
pub(crate) fn budgets(plan: &Plan) -> String {
    let budgets: Vec<String> = plan.budgets.iter().map(|budget| count(budget.images as u64)).collect();
    let budgets: Vec<&str> = budgets.iter().map(String::as_str).collect();
    let images = match &budgets[..] {
        [] => "0".to_owned(),
        [one] => (*one).to_owned(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    };
    format!("{images} in all")
}

/// The three findings under one of several budgets, without the words about convergence.
pub(crate) fn findings_at(analysis: &Analysis, at: &AtBudget) -> [Finding; 3] {
    let AtBudget { f1, f2, f3, cells, blocks, controls, headline, .. } = at.clone();
    findings(&Analysis { f1, f2, f3, cells, blocks, controls, headline, budgets: None, ..analysis.clone() })
}

/// The three findings.
pub(crate) fn findings(analysis: &Analysis) -> [Finding; 3] {
    let converged = share_converged(analysis);
    let findings = [f1(analysis), f2(analysis), f3(analysis)];
    let findings = findings.map(|finding| Finding { reason: format!("{converged}{}", finding.reason), ..finding });
    if !analysis.validity.parent_at_chance() {
        return findings;
    }
    findings.map(|finding| Finding {
        verdict: "no verdict".to_owned(),
        agrees: None,
        mark: mark(None),
        reason: "The parent is not shown to be better than chance.".to_owned(),
        ..finding
    })
}

fn f1(analysis: &Analysis) -> Finding {
    let margin = number(analysis.options.margin, 2);
    let (verdict, agrees, reason) = match &analysis.f1 {
        None => ("not tested", None, "The study has no two blocks with trials to compare.".to_owned()),
        Some(f1) => {
            let detectable = f1.detectable.map(|points| {
                format!("; {} can detect {} pp (80% power)", repetitions(analysis.unit, f1.units), number(points, 2))
            });
            let detectable = detectable.unwrap_or_default();
            let spread = format!("the largest difference between two blocks is {} pp", number(f1.spread, 2));
            let test = f1.p_permutation.map(|p| format!("permutation {}", p_value(p)));
            match f1.verdict {
                F1Verdict::Equivalent => {
                    let tost = f1.p_equivalent.map(p_value).unwrap_or_default();
                    let smaller = f1.p_permutation.is_some_and(|p| p < 0.05);
                    let smaller = if smaller { ", though a smaller difference is significant" } else { "" };
                    let reason =
                        format!("No pair of blocks differs by {margin} pp or more (TOST {tost}){smaller}; {spread}.");
                    ("equivalent", Some(true), reason)
                }
                F1Verdict::Different => {
                    let test = test.unwrap_or_default();
                    ("different", Some(false), format!("Accuracy depends on the block ({test}); {spread}{detectable}."))
                }
                F1Verdict::Undecided if !analysis.validity.incomplete_blocks.is_empty() => {
                    let blocks: Vec<&str> = analysis.validity.incomplete_blocks.iter().map(String::as_str).collect();
                    ("no verdict", None, format!("Trials of {} diverged or failed.", list(&blocks)))
                }
                F1Verdict::Undecided => {
                    let test = test.unwrap_or_else(|| "one repetition only".to_owned());
                    let reason = format!(
                        "Neither a difference ({test}) nor equivalence within {margin} pp is shown; {spread}{detectable}."
                    );
                    ("undecided", None, reason)
                }
            }
        }
    };
    Finding {
        name: "F1",
        claim: "Accuracy does not depend on which layer was compressed",
        verdict: verdict.into(),
        agrees,
        mark: mark(agrees),
        reason,
    }
}

/// A verdict on F2.
pub(crate) fn f2_phrase(verdict: F2Verdict) -> &'static str {
    match verdict {
        F2Verdict::Exceeded => "exceeded",
        F2Verdict::ExceededByTraining => "exceeded only because of the extra training",
        F2Verdict::Recovered => "recovered",
        F2Verdict::NotRecovered => "not recovered",
        F2Verdict::Undecided => "undecided",
    }
}

fn f2(analysis: &Analysis) -> Finding {
    let (verdict, agrees, reason) = match &analysis.f2 {
        None => ("not tested".to_owned(), None, "The study has no scheme that trains the whole network.".to_owned()),
        Some(f2) => {
            let mut verdicts: Vec<F2Verdict> = f2.blocks.iter().map(|block| block.verdict).collect();
            verdicts.sort();
            let per_block: Vec<String> = verdicts
                .chunk_by(|a, b| a == b)
                .map(|group| format!("{} {}", group.len(), f2_phrase(group[0])))
                .collect();
            let fine_tuned = f2.overall.to_fine_tuned.as_ref();
            let fine_tuned = fine_tuned
                .map_or(String::new(), |gain| format!(" and {} the fine-tuned parent (control)", above_or_below(gain)));
            let agrees = match f2.overall.verdict {
                F2Verdict::Exceeded | F2Verdict::Recovered | F2Verdict::ExceededByTraining => Some(true),
                F2Verdict::NotRecovered => Some(false),
                F2Verdict::Undecided => None,
            };
            let reason = format!(
                "After scheme {} children end {} the parent{fine_tuned}, averaged over blocks; by block: {}.",
                f2.headline.scheme,
                above_or_below(&f2.overall.to_parent),
                per_block.join(", ")
            );
            (f2_phrase(f2.overall.verdict).to_owned(), agrees, reason)
        }
    };
    Finding {
        name: "F2",
        claim: "Fine-tuning the whole network recovers or exceeds the accuracy",
        verdict,
        agrees,
        mark: mark(agrees),
        reason,
    }
}

/// A verdict on the convergence claim of F3.
pub(crate) fn convergence_phrase(convergence: Convergence) -> &'static str {
    match convergence {
        Convergence::Faster => "faster convergence",
        Convergence::Slower => "slower convergence",
        Convergence::Undecided => "convergence undecided",
        Convergence::NeverReached => "no child recovered",
    }
}

fn against_parent_phrase(verdict: AccuracyVerdict) -> &'static str {
    match verdict {
        AccuracyVerdict::Equivalent => "accuracy equivalent to the parent's",
        AccuracyVerdict::Higher => "accuracy above the parent's",
        AccuracyVerdict::Lower => "accuracy below the parent's",
        AccuracyVerdict::Undecided => "accuracy undecided",
    }
}

/// A verdict on two final accuracies.
pub(crate) fn accuracy_phrase(verdict: AccuracyVerdict) -> &'static str {
    match verdict {
        AccuracyVerdict::Equivalent => "equivalent",
        AccuracyVerdict::Higher => "higher accuracy",
        AccuracyVerdict::Lower => "lower accuracy",
        AccuracyVerdict::Undecided => "undecided",
    }
}

fn f3(analysis: &Analysis) -> Finding {
    let (verdict, agrees, reason) = match &analysis.f3 {
        None => ("not tested".to_owned(), None, "The study has no scheme with and without distillation.".to_owned()),
        Some(f3) => f3_verdict(&f3.overall),
    };
    // The claim has two parts. Faster convergence counts even if children below the parent never tested the second part.
    let faster = analysis.f3.as_ref().is_some_and(|f3| f3.overall.convergence == Convergence::Faster);
    Finding {
        name: "F3",
        claim: "Distillation hastens convergence but holds accuracy to the base model's",
        verdict,
        agrees,
        mark: if faster && agrees.is_none() { "✓ first part holds here, ? second undecided" } else { mark(agrees) },
        reason,
    }
}

fn f3_verdict(pair: &F3Pair) -> (String, Option<bool>, String) {
    let verdict = format!("{}; {}", convergence_phrase(pair.convergence), against_parent_phrase(pair.against_parent));
    let agrees = match (pair.convergence, pair.against_parent) {
        (Convergence::Faster, AccuracyVerdict::Equivalent) => Some(true),
        (Convergence::Slower, _) | (_, AccuracyVerdict::Higher) => Some(false),
        _ => None,
    };
    let test = pair.log_rank.map(|test| format!(" (log-rank {})", p_value(test.p))).unwrap_or_default();
    let end = pair.to_plain.as_ref().map_or(String::new(), |gain| {
        format!(" Distilled children end {} those of the same scheme without distillation.", above_or_below(gain))
    });
    let reason = format!(
        "{} of {} children recovered with distillation, {} without{test}.{end}",
        pair.recovered[0], pair.pairs, pair.recovered[1]
    );
    (verdict, agrees, reason)
}
