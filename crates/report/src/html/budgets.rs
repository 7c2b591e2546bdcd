//! The budgets: criticality against budget, rankings, verdicts and convergence.

use maud::{Markup, html};

use super::{Td, table};
use crate::analysis::{Analysis, AtBudget, Budgets, Estimate};
use crate::format::{count, interval, number, p_value};
use crate::sentences;

pub(super) fn section(analysis: &Analysis) -> Option<Markup> {
    let budgets = analysis.budgets.as_ref()?;
    Some(html! {
        p {
            "Every trial was trained with each of " (budgets.each.len()) " budgets, each time from its beginning and with its schedule run \
             once over the budget. The other sections are about " (analysis.budget.map_or(String::new(), |images| count(images as u64)))
            " images."
        }
        figure data-plot="budgets" { div.plot {} }
        h3 { "Accuracy drop by budget" }
        p { "In percentage points with its 95% interval, under the combination that the answer compares blocks by." }
        (drops(analysis, budgets))
        @if !budgets.rankings.is_empty() {
            h3 { "Does the ranking hold?" }
            p { "Kendall's tau of the blocks' rankings under two budgets: 1 is the same order, −1 the reverse." }
            (rankings(budgets))
        }
        h3 { "The findings at every budget" }
        (findings(analysis, budgets))
        h3 { "Which trainings had converged?" }
        p {
            "A combination of block, substitute, init and scheme has converged at a budget if its mean test accuracy is equivalent, \
             within " (number(analysis.options.margin, 2)) " pp (TOST), to its mean at the next smaller budget of at most half the size. \
             Learning curves cannot tell: the learning rate falls towards the end of every training, and accuracy rises with it."
        }
        (shares(budgets))
        (open_cells(analysis, budgets))
    })
}

/// What a budget is called.
fn title(at: &AtBudget) -> String {
    let images = format!("{} images", count(at.images as u64));
    if at.name == format!("{} images", at.images) { images } else { format!("{} ({images})", at.name) }
}

fn estimated(estimate: Option<&Estimate>) -> Td {
    estimate.map_or_else(Td::none, |estimate| {
        let text = html! {
            (number(estimate.mean, 2))
            @if let Some(ends) = estimate.interval { " " small { "(" (interval(ends)) ")" } }
        };
        Td::number(estimate.mean, text)
    })
}

fn drops(analysis: &Analysis, budgets: &Budgets) -> Markup {
    let titles: Vec<String> = budgets.each.iter().map(title).collect();
    let header: Vec<&str> = std::iter::once("block").chain(titles.iter().map(String::as_str)).collect();
    let rows = analysis.blocks.iter().map(|block| {
        let at = |at: &AtBudget| estimated(at.criticality(&block.block, analysis.headline.as_ref()));
        std::iter::once(Td::from(&block.block)).chain(budgets.each.iter().map(at)).collect()
    });
    table("plain", &header, rows.collect())
}

fn rankings(budgets: &Budgets) -> Markup {
    let rows = budgets.rankings.iter().map(|ranking| {
        let ends = ranking.interval.map_or("–".to_owned(), interval);
        vec![
            Td::from(format!("{} and {}", count(ranking.smaller as u64), count(ranking.larger as u64))),
            Td::optional(ranking.tau, |tau| number(tau, 2)),
            Td::from(ends),
            Td::number(ranking.blocks as f64, ranking.blocks),
        ]
    });
    table("plain", &["images", "tau", "95% interval", "blocks"], rows.collect())
}

fn findings(analysis: &Analysis, budgets: &Budgets) -> Markup {
    let all: Vec<(String, [sentences::Finding; 3])> =
        budgets.each.iter().map(|at| (title(at), sentences::findings_at(analysis, at))).collect();
    let rows = all.iter().map(|(title, findings)| {
        let verdict = |finding: &sentences::Finding| Td::from(format!("{}: {}", finding.mark, finding.verdict));
        std::iter::once(Td::from(title)).chain(findings.iter().map(verdict)).collect()
    });
    html! {
        (table("plain", &["budget", "F1", "F2", "F3"], rows.collect()))
        details {
            summary { "The numbers behind them" }
            @for (title, findings) in &all {
                p { b { (title) } @for finding in findings { br; (finding.name) ": " (finding.reason) } }
            }
        }
    }
}

fn shares(budgets: &Budgets) -> Markup {
    let rows = budgets.each.iter().map(|at| {
        let cells = budgets.convergence.iter().filter(|cell| cell.budget == at.images).count();
        let share = if at.judged == 0 {
            "not known: no budget of at most half the size, or one repetition".to_owned()
        } else {
            format!("{} of {cells} combinations", at.converged)
        };
        vec![Td::number(at.images as f64, title(at)), Td::from(share)]
    });
    table("plain", &["budget", "converged"], rows.collect())
}

/// The combinations that had not converged at the largest budget.
fn open_cells(analysis: &Analysis, budgets: &Budgets) -> Markup {
    let open = budgets.convergence.iter();
    let open: Vec<_> = open.filter(|c| Some(c.budget) == analysis.budget && c.converged != Some(true)).collect();
    if open.is_empty() {
        return html! {};
    }
    let rows = open.iter().map(|cell| {
        vec![
            Td::from(&cell.block),
            Td::from(&cell.substitute),
            Td::from(&cell.init),
            Td::from(&cell.scheme),
            estimated(cell.gain.as_ref()),
            Td::from(cell.smaller.map_or("–".to_owned(), |images| count(images as u64))),
            Td::optional(cell.p_equivalent, p_value),
        ]
    });
    let header = ["block", "substitute", "init", "scheme", "gained, pp", "over images", "equivalence"];
    html! {
        details {
            summary { (open.len()) " combinations that are not shown to have converged" }
            (table("plain", &header, rows.collect()))
        }
    }
}
