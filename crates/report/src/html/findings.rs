//! The three findings with the tests behind each verdict.

use maud::{Markup, html};

use super::{Td, plots, table};
use crate::analysis::{Analysis, Estimate, F1, F2, F3};
use crate::format::{interval, number, p_value, signed};
use crate::sentences::{accuracy_phrase, capitalised, convergence_phrase, f2_phrase, repetitions};

pub(super) fn section(analysis: &Analysis) -> Option<Markup> {
    let recovery = plots::survival(analysis);
    let any = analysis.f1.is_some() || analysis.f2.is_some() || analysis.f3.is_some() || recovery.is_some();
    any.then(|| {
        html! {
            @if let Some(f1) = &analysis.f1 { (f1_tests(analysis, f1)) }
            @if let Some(f2) = &analysis.f2 { (f2_tests(analysis, f2)) }
            @if let Some(f3) = &analysis.f3 { (f3_tests(f3)) }
            @if let Some(recovery) = recovery {
                h3 { "Recovery" }
                p {
                    "The share of children that are not yet within " (number(analysis.recovery_margin, 1)) " pp of their parent's \
                     validation accuracy, by images trained on (Kaplan-Meier). Children that never recover are censored at the end of \
                     their budget (tick)."
                }
                (recovery)
            }
        }
    })
}

fn p(value: Option<f64>) -> Td {
    Td::optional(value, p_value)
}

/// The accuracy drop, with its interval: `estimate` is of a gain.
fn drop_of_gain(estimate: Option<&Estimate>) -> Td {
    estimate.map_or_else(Td::none, |estimate| Td::number(-estimate.mean, drop_with_interval(estimate)))
}

fn drop_with_interval(gain: &Estimate) -> Markup {
    html! {
        (number(-gain.mean, 2))
        @if let Some([low, high]) = gain.interval { " " small { "(" (interval([-high, -low])) ")" } }
    }
}

fn f1_tests(analysis: &Analysis, f1: &F1) -> Markup {
    let margin = number(analysis.options.margin, 2);
    let text = |p: Option<f64>| p.map_or("–".to_owned(), p_value);
    let facts = [
        ("repetitions", repetitions(analysis.unit, f1.units)),
        ("largest difference", format!("{} pp", number(f1.spread, 2))),
        ("equivalence within the margin (TOST, worst pair)", text(f1.p_equivalent)),
        ("no difference (permutation within repetitions)", text(f1.p_permutation)),
        ("no difference (Friedman)", text(f1.p_friedman)),
        ("agreement on the order (Kendall's W)", f1.concordance.map_or("–".to_owned(), |w| number(w, 2))),
        (
            "minimum detectable difference (80% power)",
            f1.detectable.map_or("–".to_owned(), |x| format!("{} pp", number(x, 2))),
        ),
    ];
    let within = format!("within ±{margin}");
    let header = ["pair", "difference of drops, pp", "95% interval", "no difference, Holm", &within, "Hedges' g"];
    let rows = f1.pairs.iter().map(|pair| {
        vec![
            Td::from(format!("{} − {}", pair.first, pair.second)),
            Td::number(pair.difference, signed(pair.difference, 2)),
            Td::number(pair.interval[0], interval(pair.interval)),
            p(Some(pair.p_holm)),
            p(Some(pair.p_equivalent)),
            Td::optional(pair.effect, |g| number(g, 2)),
        ]
    });
    html! {
        h3 { "F1: accuracy does not depend on which layer was compressed" }
        p {
            "Two separate tests: are all pairs of blocks equivalent within ±" (margin) " pp, and do the blocks differ at all?"
        }
        dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
        details { summary { "All pairs of blocks" } (table("plain", &header, rows.collect())) }
    }
}

fn f2_tests(analysis: &Analysis, f2: &F2) -> Markup {
    let rows = f2.blocks.iter().chain([&f2.overall]).map(|block| {
        vec![
            match &block.block {
                Some(name) => Td::from(name),
                None => Td::from(html! { b { "mean over blocks" } }),
            },
            Td::from(capitalised(f2_phrase(block.verdict))),
            drop_of_gain(Some(&block.to_parent)),
            drop_of_gain(block.to_fine_tuned.as_ref()),
        ]
    });
    let header = ["block", "verdict", "drop against the parent, pp", "drop against the fine-tuned parent, pp"];
    html! {
        h3 { "F2: fine-tuning the whole network recovers or exceeds the accuracy" }
        p {
            "Scheme " (f2.headline.scheme) ", init " (f2.headline.init) ". Recovered: not worse than the parent by "
            (number(analysis.options.margin, 2))
            " pp or more. Exceeded: better than the parent and than the fine-tuned parent. A negative drop is a gain."
        }
        (table("plain", &header, rows.collect()))
    }
}

fn f3_tests(f3: &F3) -> Markup {
    let overall = (f3.pairs.len() > 1).then_some((&f3.overall, true));
    let images = |x: Option<f64>| x.map_or("never".to_owned(), |x| format!("{x:.0}"));
    let rows = f3.pairs.iter().map(|pair| (pair, false)).chain(overall).map(|(pair, overall)| {
        let accuracy = |verdict, estimate: Option<&Estimate>| {
            estimate.map_or_else(Td::none, |estimate| {
                Td::number(-estimate.mean, html! { (accuracy_phrase(verdict)) ": " (drop_with_interval(estimate)) })
            })
        };
        vec![
            match overall {
                true => Td::from(html! { b { "all pairs" } }),
                false => Td::from(format!("{} / {}", pair.distilled, pair.plain)),
            },
            Td::from(capitalised(convergence_phrase(pair.convergence))),
            Td::from(format!("{} / {} of {}", pair.recovered[0], pair.recovered[1], pair.pairs)),
            Td::from(format!("{} / {}", images(pair.median[0]), images(pair.median[1]))),
            p(pair.log_rank.map(|test| test.p)),
            p(pair.p_permutation),
            accuracy(pair.against_plain, pair.to_plain.as_ref()),
            accuracy(pair.against_parent, pair.to_parent.as_ref()),
        ]
    });
    let header = [
        "distilled / plain",
        "convergence",
        "recovered",
        "median images until recovery",
        "log-rank",
        "permutation",
        "final drop against plain, pp",
        "final drop against the parent, pp",
    ];
    html! {
        h3 { "F3: distillation hastens convergence but holds accuracy to the base model's" }
        p {
            "Each scheme with soft targets against the same stages without them, trial by trial. Convergence and final accuracy are \
             tested separately. A negative drop is a gain."
        }
        (table("plain", &header, rows.collect()))
    }
}
