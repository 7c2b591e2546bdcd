//! The summary for a pull request.

use crate::analysis::Analysis;
use crate::data::RunData;
use crate::format::{duration, interval, number, percent};
use crate::words;

/// The answer, the table of blocks and the findings as Markdown (GitHub's dialect).
pub fn markdown(data: &RunData, analysis: &Analysis) -> String {
    let mut out = format!("## Which blocks of {} matter\n\n", escape(&analysis.name));
    let [first, second] = words::answer(analysis);
    out += &format!("**{}** {}\n\n", escape(&first), escape(&second));
    out += &format!("{}\n\n", escape(&words::conditions(data, analysis)));
    out += "| | block | costs (points) | 95% interval | accuracy | parameters | MACs | time |\n";
    out += "|--:|:--|--:|:--:|--:|--:|--:|--:|\n";
    for block in &analysis.blocks {
        let cell = block.cell.map(|cell| &analysis.cells[cell]);
        let estimate = cell.and_then(|cell| cell.criticality.as_ref());
        let share = |x: Option<f64>| x.map(|x| percent(-x)).unwrap_or_default();
        let row = [
            block.rank.map(|rank| rank.to_string()).unwrap_or_default(),
            escape(&block.block),
            estimate.map(|estimate| number(estimate.mean, 2)).unwrap_or_default(),
            estimate.and_then(|estimate| estimate.interval).map(interval).unwrap_or_default(),
            cell.map(|cell| format!("{}%", number(cell.accuracy, 2))).unwrap_or_default(),
            share(block.saves_parameters),
            share(block.saves_macs),
            share(block.saves_time),
        ];
        out += &format!("| {} |\n", row.join(" | "));
    }
    out += "\n";
    for verdict in words::verdicts(analysis) {
        out += &format!(
            "- **{}, {}: {}.** {}\n",
            verdict.name,
            escape(&verdict.claim.to_lowercase()),
            escape(&verdict.verdict),
            escape(&verdict.line)
        );
    }
    let parent =
        analysis.parent.as_ref().map(|parent| format!("Parent {}%. ", number(parent.accuracy, 2))).unwrap_or_default();
    let time =
        analysis.about.trials_seconds.filter(|&s| s > 0.0).map(|s| format!(" in {}", duration(s))).unwrap_or_default();
    out += &format!(
        "\n<sub>{parent}{} of {} trials recorded{time}. {}</sub>\n",
        analysis.recorded,
        analysis.planned,
        escape(&analysis.about.program)
    );
    out
}

/// Keeps names from being taken for markup.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}
