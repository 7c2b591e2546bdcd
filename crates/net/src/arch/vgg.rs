//! VGG (Simonyan and Zisserman, arXiv:1409.1556, table 1), with the batch-norm variants as in torchvision.
//!
//! Layers are named as in torchvision: `features.N`, counted over convolutions, norms, ReLUs and pooling layers. The
//! head depends on the input. For images of at least 128 x 128 pixels it is the original one: 7x7 adaptive pooling,
//! then `classifier.0`, `.3` and `.6` with ReLU and dropout between, 4096 hidden features (times the width). For
//! smaller images a stage ends with pooling only while there are two rows and columns, and the head is one linear
//! layer, `classifier`.
//!
//! With the original head, convolutions have a bias also before a batch norm, so that torchvision's checkpoints load
//! key by key. With the small head they have none there, since the norm subtracts it; a checkpoint that has them still
//! loads, with the bias subtracted from the running mean.

use super::{Builder, batch_norm};
use crate::{Activation, Conv, Kind, Window, layer};

pub(super) const NAMES: [&str; 8] =
    ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"];

const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];
const ORIGINAL_HEAD_FROM: usize = 128;

/// Number of convolutions in every stage (table 1).
fn depths(name: &str) -> [usize; 5] {
    match name.trim_end_matches("_bn") {
        "vgg11" => [1, 1, 2, 2, 2],
        "vgg13" => [2, 2, 2, 2, 2],
        "vgg16" => [2, 2, 3, 3, 3],
        _ => [2, 2, 4, 4, 4],
    }
}

pub(super) fn check_plan(plan: &[Vec<usize>]) -> Result<(), String> {
    let convolutions: usize = plan.iter().map(Vec::len).sum();
    if plan.iter().any(Vec::is_empty) || plan.iter().flatten().any(|&filters| filters == 0) || plan.is_empty() {
        return Err("every stage of its plan needs at least one convolution of at least one filter".into());
    }
    if convolutions > 1000 || plan.iter().flatten().any(|&filters| filters > 1 << 20) {
        return Err("its plan is beyond 1000 convolutions or a million filters".into());
    }
    Ok(())
}

pub(super) fn build_named(builder: &mut Builder, name: &str, classes: usize) {
    let plan: Vec<Vec<usize>> = depths(name).iter().zip(CHANNELS).map(|(&depth, width)| vec![width; depth]).collect();
    build(builder, &plan, name.ends_with("_bn"), classes);
}

pub(super) fn build(builder: &mut Builder, plan: &[Vec<usize>], norm: bool, classes: usize) {
    let (mut rows, mut columns) = (builder.input.height, builder.input.width);
    let original = rows.min(columns) >= ORIGINAL_HEAD_FROM;
    let mut number = 0;
    let mut add = |builder: &mut Builder, kind: Kind| {
        builder.add(format!("features.{number}"), kind);
        number += 1;
    };
    for stage in plan {
        for &filters in stage {
            let conv = Conv { bias: original || !norm, ..Conv::same(builder.scaled(filters), 3) };
            add(builder, Kind::Conv(conv));
            if norm {
                add(builder, batch_norm());
            }
            add(builder, Kind::Activation(Activation::Relu));
        }
        if rows.min(columns) >= 2 {
            add(builder, Kind::MaxPool(Window::square(2)));
            (rows, columns) = (rows / 2, columns / 2);
        }
    }
    if !original {
        builder.add("flatten", Kind::Flatten);
        builder.add("classifier", Kind::Linear(layer::Linear { features: classes, bias: true }));
        return;
    }
    builder.add("avgpool", Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 7, width: 7 }));
    builder.add("flatten", Kind::Flatten);
    for first in [0, 3] {
        let features = builder.scaled(4096);
        builder.add(format!("classifier.{first}"), Kind::Linear(layer::Linear { features, bias: true }));
        builder.add(format!("classifier.{}", first + 1), Kind::Activation(Activation::Relu));
        builder.add(format!("classifier.{}", first + 2), Kind::Dropout(layer::Dropout { p: 0.5 }));
    }
    builder.add("classifier.6", Kind::Linear(layer::Linear { features: classes, bias: true }));
}
