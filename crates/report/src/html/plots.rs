//! The plots' places in the page. `assets/page/` draws them from the serialised analysis.

use maud::{Markup, html};

use crate::analysis::Analysis;

/// The learning curves.
pub(super) fn curves(analysis: &Analysis) -> Option<Markup> {
    if analysis.curves.is_empty() {
        return None;
    }
    Some(html! {
        p {
            "Validation accuracy against images trained on: the mean over trials, with a band from the lowest to the highest. Grey: \
             the parent. Dashed grey: the fine-tuned parent (control) under the same scheme."
        }
        figure data-plot="curves" {
            div.controls {
                label {
                    "panels "
                    select name="panels" {
                        option value="block" { "one per block, a line per scheme" }
                        option value="scheme" { "one per scheme, a line per block" }
                    }
                }
                label { "init " select name="init" {} }
            }
            div.plot {}
        }
    })
}

/// Accuracy against cost.
pub(super) fn pareto(analysis: &Analysis) -> Option<Markup> {
    if analysis.pareto.len() < 2 {
        return None;
    }
    Some(html! {
        p { "Mean accuracy and cost of every replacement. The line is the Pareto front." }
        figure data-plot="pareto" {
            div.controls {
                label {
                    "cost "
                    select name="cost" {
                        option value="parameters" { "parameters" }
                        option value="macs" { "multiply-accumulates per image" }
                        option value="latency" { "measured inference time, relative to the parent" }
                    }
                }
                label {
                    "show "
                    select name="which" {
                        option value="near" { "within 5 pp of the parent" }
                        option value="trained" { "all trained" }
                        option value="all" { "all, untrained included" }
                    }
                }
            }
            div.plot {}
        }
    })
}

/// CKA similarity layer by layer.
pub(super) fn similarity(analysis: &Analysis) -> Option<Markup> {
    let first = analysis.similarity.first()?;
    Some(html! {
        p {
            "Linear CKA of child and parent at the layers that both have, from the input (left) to the output (right), on "
            (first.images) " validation images: 1 means equal up to rotation and scale. Dashed: before training. Solid: after \
            training. Mark: the block's output. The estimator is the minibatch form of unbiased HSIC (Song et al., 2012; Nguyen et \
            al., 2021)."
        }
        figure data-plot="similarity" { div.plot {} }
    })
}

/// Kaplan-Meier curves of recovery.
pub(super) fn survival(analysis: &Analysis) -> Option<Markup> {
    if analysis.survival.is_empty() {
        return None;
    }
    Some(html! {
        figure data-plot="survival" {
            div.controls { label { "block " select name="block" {} } }
            div.plot {}
        }
    })
}
