//! The plots' places in the page, and the data that the script draws them from.

use serde_json::{Value, json};

use crate::analysis::Analysis;
use crate::data::RunData;

/// The learning curves.
pub(crate) fn curves(analysis: &Analysis) -> String {
    if analysis.curves.is_empty() {
        return String::new();
    }
    "<p>Accuracy on the validation set against the images trained on: the mean over trials, the band from the lowest to the highest. \
     Grey: the parent; dashed: the parent trained on under the same scheme.</p>\
     <figure data-plot=\"curves\"><div class=\"controls\"><label>panels <select name=\"panels\"><option value=\"block\">by block, a line for each scheme</option>\
     <option value=\"scheme\">by scheme, a line for each block</option></select></label>\
     <label>init <select name=\"init\"></select></label></div><div class=\"plot\"></div></figure>"
        .to_owned()
}

/// Accuracy against cost.
pub(crate) fn cost(analysis: &Analysis) -> String {
    if analysis.pareto.len() < 2 {
        return String::new();
    }
    "<p>Every replacement by its mean accuracy and cost. The line joins those that nothing beats in both.</p>\
     <figure data-plot=\"pareto\"><div class=\"controls\"><label>against <select name=\"cost\"><option value=\"parameters\">parameters</option>\
     <option value=\"macs\">multiply-accumulates an image</option><option value=\"latency\">measured inference time, of the parent's</option></select></label>\
     <label>show <select name=\"which\"><option value=\"near\">those within 5 points of the parent</option><option value=\"trained\">all that were trained</option><option value=\"all\">untrained ones too</option></select></label></div>\
     <div class=\"plot\"></div></figure>"
        .to_owned()
}

/// Likeness through the depth.
pub(crate) fn similarity(analysis: &Analysis) -> String {
    let Some(first) = analysis.similarity.first() else { return String::new() };
    format!(
        "<p>Linear CKA of child and parent at the tensors that both have, from the input (left) to the output (right), on {} validation images: \
         1 is alike up to rotation and scale. Dashed: before training; solid: at the end; the mark is the block’s output. The estimator is unbiased \
         and by minibatches (Song et al., 2012; Nguyen et al., 2021).</p>\
         <figure data-plot=\"similarity\"><div class=\"plot\"></div></figure>",
        first.images
    )
}

/// Recovery as survival curves.
pub(crate) fn survival(analysis: &Analysis) -> String {
    if analysis.survival.is_empty() {
        return String::new();
    }
    "<figure data-plot=\"survival\"><div class=\"controls\"><label>block <select name=\"block\"></select></label></div><div class=\"plot\"></div></figure>".to_owned()
}

/// What the script draws from; a copy of the analysis would be larger than the page needs.
pub(crate) fn payload(data: &RunData, analysis: &Analysis) -> Value {
    let round = |x: f64| (x * 1e4).round() / 1e4;
    let schemes: Vec<&str> = data.plan.schemes.iter().map(|scheme| scheme.name.as_str()).collect();
    let curves: Vec<Value> = analysis
        .curves
        .iter()
        .map(|curve| {
            let points: Vec<[f64; 4]> = curve
                .points
                .iter()
                .map(|point| [point.examples as f64, round(point.mean), round(point.low), round(point.high)])
                .collect();
            json!({
                "role": curve.role, "block": curve.block, "substitute": curve.substitute, "init": curve.init,
                "scheme": curve.scheme, "trials": curve.trials, "points": points,
            })
        })
        .collect();
    let cells: Vec<Value> = analysis
        .cells
        .iter()
        .map(|cell| {
            json!({
                "block": cell.block, "substitute": cell.substitute, "init": cell.init, "scheme": cell.scheme,
                "trials": cell.trials, "accuracy": cell.accuracy, "criticality": cell.criticality.as_ref().map(|e| e.mean),
                "low": cell.criticality.as_ref().and_then(|e| e.interval).map(|ends| ends[0]),
                "high": cell.criticality.as_ref().and_then(|e| e.interval).map(|ends| ends[1]),
                "damage": cell.damage, "recovered": cell.recovered, "seconds": cell.seconds,
            })
        })
        .collect();
    json!({
        "name": analysis.name,
        "margin": analysis.options.margin,
        "recovery_margin": 100.0 * data.plan.margin,
        "parent": analysis.parent.as_ref().map(|parent| json!({"accuracy": parent.accuracy, "validation": parent.validation})),
        "headline": analysis.headline,
        "answer": analysis.blocks.iter().map(|block| json!({"block": block.block, "cell": block.cell})).collect::<Vec<_>>(),
        "blocks": data.plan.blocks.iter().map(|block| &block.name).collect::<Vec<_>>(),
        "schemes": schemes,
        "cells": cells,
        "curves": curves,
        "survival": analysis.survival,
        "similarity": analysis.similarity,
        "tensors": data.plan.layers.iter().map(|layer| &layer.name).filter(|name| {
            analysis.similarity.iter().any(|of| of.layers.iter().any(|layer| layer.layer == **name))
        }).collect::<Vec<_>>(),
        "outputs": data.plan.blocks.iter().map(|block| block.layers.last()).collect::<Vec<_>>(),
        "pareto": analysis.pareto,
    })
}
