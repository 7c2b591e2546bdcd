//! The three findings with what the data say about each.

use super::escape::text;
use super::{plots, table};
use crate::analysis::{Analysis, Estimate, F1, F2, F3};
use crate::data::RunData;
use crate::format::{interval, number, p_value, points};
use crate::words::{capital, ceiling_word, f2_word, pace_word, units};

pub(crate) fn section(data: &RunData, analysis: &Analysis) -> String {
    let f1 = analysis.f1.as_ref().map(|f1| f1_part(analysis, f1)).unwrap_or_default();
    let f2 = analysis.f2.as_ref().map(|f2| f2_part(analysis, f2)).unwrap_or_default();
    let f3 = analysis.f3.as_ref().map(f3_part).unwrap_or_default();
    let recovery = plots::survival(analysis);
    let recovery = if recovery.is_empty() {
        recovery
    } else {
        format!(
            "<h3>Recovery</h3><p>The share of children not yet within {} points of their parent's validation accuracy, by images trained on \
             (Kaplan and Meier); a child that never got there is censored at the end of its budget (tick), not dropped.</p>{recovery}",
            number(100.0 * data.plan.margin, 1)
        )
    };
    format!("{f1}{f2}{f3}{recovery}")
}

fn p(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |p| text(&p_value(p)))
}

fn with_interval(estimate: &Estimate) -> String {
    let ends = estimate.interval.map(|ends| format!(" <small>({})</small>", interval(ends))).unwrap_or_default();
    format!("{}{ends}", points(estimate.mean))
}

fn f1_part(analysis: &Analysis, f1: &F1) -> String {
    let margin = number(analysis.options.margin, 2);
    let facts = [
        ("units", units(analysis.unit, f1.units)),
        ("largest difference", format!("{} points", number(f1.spread, 2))),
        ("equivalence within the margin (TOST, worst pair)", p(f1.p_equivalent)),
        ("no difference (permutation within units)", p(f1.p_permutation)),
        ("no difference (Friedman)", p(f1.p_friedman)),
        ("agreement on the order (Kendall's W)", f1.concordance.map_or("–".to_owned(), |w| number(w, 2))),
        (
            "could have been shown (80% power)",
            f1.detectable.map_or("–".to_owned(), |x| format!("{} points", number(x, 2))),
        ),
    ];
    let facts: String =
        facts.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).collect();
    let rows: Vec<Vec<String>> = f1
        .pairs
        .iter()
        .map(|pair| {
            vec![
                format!("{} − {}", text(&pair.first), text(&pair.second)),
                points(pair.difference),
                interval(pair.interval),
                p(Some(pair.p_holm)),
                p(Some(pair.p_equivalent)),
                pair.effect.map_or("–".to_owned(), |g| number(g, 2)),
            ]
        })
        .collect();
    let header = [
        "pair",
        "difference, points",
        "95% interval",
        "no difference, Holm",
        &format!("within ±{margin}"),
        "Hedges’ g",
    ];
    format!(
        "<h3>F1: accuracy does not depend on which layer was compressed</h3><p>Two questions, asked apart: are all pairs of blocks \
         equivalent within ±{margin} points, and are the blocks different at all?</p><dl class=\"facts\">{facts}</dl>\
         <details><summary>All pairs of blocks</summary>{}</details>",
        table("plain", &header, &rows)
    )
}

fn f2_part(analysis: &Analysis, f2: &F2) -> String {
    let margin = number(analysis.options.margin, 2);
    let all = f2.blocks.iter().chain(std::iter::once(&f2.overall));
    let rows: Vec<Vec<String>> = all
        .map(|block| {
            vec![
                block.block.as_ref().map_or("<b>mean over blocks</b>".to_owned(), |name| text(name)),
                capital(f2_word(block.verdict)),
                with_interval(&block.to_parent),
                block.to_continued.as_ref().map_or("–".to_owned(), with_interval),
            ]
        })
        .collect();
    let header = ["block", "verdict", "child − parent, points", "child − parent trained on, points"];
    format!(
        "<h3>F2: fine-tuning the whole network recovers or exceeds the accuracy</h3><p>Under scheme {} from init {}. Recovered: not worse than \
         the parent by {margin} points or more; exceeded: better than the parent and than the parent trained on.</p>{}",
        text(&f2.headline.scheme),
        text(&f2.headline.init),
        table("plain", &header, &rows)
    )
}

fn f3_part(f3: &F3) -> String {
    let all = f3.pairs.iter().map(|pair| (pair, false)).chain((f3.pairs.len() > 1).then_some((&f3.overall, true)));
    let examples = |x: Option<f64>| x.map_or("never".to_owned(), |x| format!("{x:.0}"));
    let rows: Vec<Vec<String>> = all
        .map(|(pair, overall)| {
            let name = format!("{} / {}", text(&pair.distilled), text(&pair.plain));
            vec![
                if overall { "<b>all together</b>".to_owned() } else { name },
                capital(pace_word(pair.pace)),
                format!("{} / {} of {}", pair.recovered[0], pair.recovered[1], pair.pairs),
                format!("{} / {}", examples(pair.median[0]), examples(pair.median[1])),
                p(pair.log_rank.map(|test| test.p)),
                p(pair.p_permutation),
                format!(
                    "{}: {}",
                    ceiling_word(pair.ceiling),
                    pair.to_plain.as_ref().map_or("–".to_owned(), with_interval)
                ),
                format!(
                    "{}: {}",
                    ceiling_word(pair.against_parent),
                    pair.to_parent.as_ref().map_or("–".to_owned(), with_interval)
                ),
            ]
        })
        .collect();
    let header = [
        "distilled / plain",
        "pace",
        "within the margin",
        "half by, images",
        "log-rank",
        "permutation",
        "distilled − plain at the end, points",
        "distilled − parent, points",
    ];
    format!(
        "<h3>F3: distillation hastens convergence but holds accuracy to the base model’s</h3><p>Each scheme with soft targets against the same \
         stages without, trial by trial; pace and ceiling are judged apart.</p>{}",
        table("plain", &header, &rows)
    )
}
