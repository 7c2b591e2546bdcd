//! The summary for a terminal.

use crate::analysis::{Analysis, AtBudget};
use crate::data::RunData;
use crate::format::{count, duration, interval, number, printable, short, signed_percent};
use crate::sentences;

/// The table of blocks, the answer and the findings as plain text of at most 100 columns.
pub fn terminal(data: &RunData, analysis: &Analysis) -> String {
    let mut out = String::new();
    if let Some(parent) = &analysis.parent {
        let cost = &parent.cost;
        out += &format!(
            "{}: parent {}% on {} test images{}, {} parameters, {} MACs\n",
            analysis.name,
            number(parent.accuracy, 2),
            parent.test_images,
            parent.on_trial_images.as_ref().map_or(String::new(), |trials| format!(
                " ({}% on the {} that trials use)",
                number(trials.accuracy, 2),
                trials.images
            )),
            short(cost.parameters as f64),
            short(cost.macs as f64),
        );
    }
    out += &wrap(&sentences::conditions(data, analysis), 96);
    out += "\n\n";
    let header =
        ["rank", "block", "drop (pp)", "95% interval", "control", "child", "params", "MACs", "time", "recovered"];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
    for block in &analysis.blocks {
        let dash = || "-".to_owned();
        let share = |x: Option<f64>| x.map_or_else(dash, |x| signed_percent(-x));
        let cell = block.cell.map(|cell| &analysis.cells[cell]);
        let estimate = cell.and_then(|cell| cell.criticality.as_ref());
        rows.push(vec![
            block.rank.map_or_else(dash, |rank| rank.to_string()),
            block.block.clone(),
            estimate.map_or_else(dash, |estimate| number(estimate.mean, 2)),
            estimate.and_then(|estimate| estimate.interval).map_or_else(dash, interval),
            cell.and_then(|cell| cell.control_accuracy).map_or_else(dash, |x| format!("{}%", number(x, 2))),
            cell.map_or_else(dash, |cell| format!("{}%", number(cell.accuracy, 2))),
            share(block.saves_parameters),
            share(block.saves_macs),
            share(block.saves_time),
            cell.map_or_else(dash, |cell| format!("{}/{}", cell.recovered, cell.trials)),
        ]);
    }
    let mut lines = aligned(&rows, |column| column == 1);
    let width = lines.iter().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
    lines.insert(1, "─".repeat(width) + "\n");
    out += &lines.concat();
    out += "\n";
    out += &by_budget(analysis);
    let answer = sentences::answer(analysis);
    out += &wrap(&answer.action, 96);
    out += "\n";
    out += &wrap(&answer.importance, 96);
    out += "\n";
    for caution in sentences::cautions(analysis) {
        out += &wrap(&format!("note: {caution}"), 96);
        out += "\n";
    }
    out += "\n";
    for finding in sentences::findings(analysis) {
        out += &wrap(&format!("{} {}: {}. {}", finding.name, finding.claim, finding.verdict, finding.reason), 96);
        out += "\n";
    }
    out += &format!("\n{} of {} trials recorded", analysis.recorded, analysis.planned);
    if analysis.diverged + analysis.failed > 0 {
        out += &format!(" ({} diverged, {} failed; counted, not averaged)", analysis.diverged, analysis.failed);
    }
    if let Some(seconds) = analysis.about.trials_seconds.filter(|&seconds| seconds > 0.0) {
        out += &format!(" in {}", duration(seconds));
    }
    out += "\n";
    printable(&out)
}

/// The accuracy drop of every block under every budget, and how many trainings had converged; empty for a study of one budget.
fn by_budget(analysis: &Analysis) -> String {
    let Some(budgets) = &analysis.budgets else { return String::new() };
    let mut rows = vec![vec!["drop (pp) by images".to_owned()]];
    rows[0].extend(budgets.each.iter().map(|at| count(at.images as u64)));
    for block in &analysis.blocks {
        let drop = |at: &AtBudget| {
            at.criticality(&block.block, analysis.headline.as_ref())
                .map_or("-".to_owned(), |estimate| number(estimate.mean, 2))
        };
        rows.push(std::iter::once(block.block.clone()).chain(budgets.each.iter().map(drop)).collect());
    }
    let converged = |at: &AtBudget| match at.judged {
        0 => "-".to_owned(),
        _ => {
            let cells = budgets.convergence.iter().filter(|cell| cell.budget == at.images).count();
            format!("{}/{cells}", at.converged)
        }
    };
    rows.push(std::iter::once("converged".to_owned()).chain(budgets.each.iter().map(converged)).collect());
    aligned(&rows, |column| column == 0).concat() + "\n"
}

/// Text on one line: a line break in a name would break the table.
fn one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\t'], " "))
}

/// One line per row with aligned columns: those in `left` to the left, the others to the right.
pub(crate) fn aligned(rows: &[Vec<String>], left: impl Fn(usize) -> bool) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().map(|cell| one_line(cell)).zip(&widths).enumerate().map(|(column, (text, &width))| {
            if left(column) { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

pub(crate) fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("never empty");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_escape_sequences_are_removed() {
        let rows = [["a", "bb"], ["ccc", "\u{1b}[2J"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows, |column| column == 0), ["a      bb\n", "ccc  \u{FFFD}[2J\n"]);
    }
}
