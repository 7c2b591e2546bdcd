//! The summary as Markdown, for a pull request.

use crate::analysis::Analysis;
use crate::data::RunData;
use crate::format::{count, duration, interval, number, printable, signed_percent};
use crate::sentences;

/// The answer, the table of blocks and the findings as Markdown (GitHub's dialect).
pub fn markdown(data: &RunData, analysis: &Analysis) -> String {
    let mut out = format!("## Which blocks of {} matter\n\n", escape(&analysis.name));
    let answer = sentences::answer(analysis);
    out += &format!("**{}** {}\n\n", escape(&answer.action), escape(&answer.importance));
    for caution in sentences::cautions(analysis) {
        out += &format!("> {}\n>\n", escape(&caution));
    }
    out += &format!("\n{}\n\n", escape(&sentences::conditions(data, analysis)));
    out += "| | block | drop (pp) | 95% interval | control | child | parameters | MACs | time |\n";
    out += "|--:|:--|--:|:--:|--:|--:|--:|--:|--:|\n";
    for block in &analysis.blocks {
        let cell = block.cell.map(|cell| &analysis.cells[cell]);
        let estimate = cell.and_then(|cell| cell.criticality.as_ref());
        let share = |x: Option<f64>| x.map(|x| signed_percent(-x)).unwrap_or_default();
        let row = [
            block.rank.map(|rank| rank.to_string()).unwrap_or_default(),
            escape(&block.block),
            estimate.map(|estimate| number(estimate.mean, 2)).unwrap_or_default(),
            estimate.and_then(|estimate| estimate.interval).map(interval).unwrap_or_default(),
            cell.and_then(|cell| cell.control_accuracy).map(|x| format!("{}%", number(x, 2))).unwrap_or_default(),
            cell.map(|cell| format!("{}%", number(cell.accuracy, 2))).unwrap_or_default(),
            share(block.saves_parameters),
            share(block.saves_macs),
            share(block.saves_time),
        ];
        out += &format!("| {} |\n", row.join(" | "));
    }
    out += "\n";
    out += &by_budget(analysis);
    for finding in sentences::findings(analysis) {
        out += &format!(
            "- **{}, {}: {}.** {}\n",
            finding.name,
            escape(&finding.claim.to_lowercase()),
            escape(&finding.verdict),
            escape(&finding.reason)
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

/// The accuracy drop of every block under every budget; empty for a study of one.
fn by_budget(analysis: &Analysis) -> String {
    let Some(budgets) = &analysis.budgets else { return String::new() };
    let mut out = "| drop (pp) by images |".to_owned();
    budgets.each.iter().for_each(|at| out += &format!(" {} |", count(at.images as u64)));
    out += &format!("\n|:--|{}\n", "--:|".repeat(budgets.each.len()));
    for block in &analysis.blocks {
        out += &format!("| {} |", escape(&block.block));
        for at in &budgets.each {
            let estimate = at.criticality(&block.block, analysis.headline.as_ref());
            out += &format!(" {} |", estimate.map(|estimate| number(estimate.mean, 2)).unwrap_or_default());
        }
        out.push('\n');
    }
    out + "\n"
}

/// Text in which nothing is Markdown or HTML markup.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\t' => out.push(' '),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Text as inline code.
pub(crate) fn code(text: &str) -> String {
    format!("`{}`", printable(text).replace('`', "'").replace(['\n', '\t'], " "))
}

/// Text as a block of code in a language.
pub(crate) fn code_block(language: &str, text: &str) -> String {
    format!("```{language}\n{}\n```\n", printable(text.trim_end()).replace("```", "'''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("</b>\u{1b}[1m|*x*\n# y"), "&lt;/b&gt;\u{FFFD}\\[1m\\|\\*x\\* \\# y");
        assert_eq!(code("a`b\u{1b}\nc"), "`a'b\u{FFFD} c`");
        assert_eq!(code_block("toml", "x\n```\n<y>\n"), "```toml\nx\n'''\n<y>\n```\n");
    }
}
