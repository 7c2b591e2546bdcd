//! Residual networks (He et al., arXiv:1512.03385).
//!
//! `resnet18`, 34 and 50 are those of section 4.1, with layers named as in torchvision: the stride is in the 3x3
//! convolution of a bottleneck, and the 1x1 projection is `downsample.0` with its norm `downsample.1`, where shapes
//! change. `cifar-resnet18`, 34 and 50 are the same with a 3x3 stem of stride 1 and no pooling, as is usual for 32x32
//! images. `cifar-resnet20` and so on are those of section 4.2 with option A shortcuts: every second row and column
//! (max-pooling with a 1x1 window), then channels of zeros on both sides. Their layers are named as in Y. Idelbayev's
//! repository.

use super::{Builder, batch_norm};
use crate::{Activation, Conv, Kind, Padding, Window, layer};

pub(super) const NAMES: [&str; 11] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "cifar-resnet18",
    "cifar-resnet34",
    "cifar-resnet50",
    "cifar-resnet20",
    "cifar-resnet32",
    "cifar-resnet44",
    "cifar-resnet56",
    "cifar-resnet110",
];

#[derive(Clone, Copy)]
enum Unit {
    Basic,
    Bottleneck,
}

pub(super) fn build_named(builder: &mut Builder, name: &str, classes: usize) {
    let small = name.starts_with("cifar-");
    let depth: usize =
        name.rsplit("resnet").next().and_then(|digits| digits.parse().ok()).expect("names end in a depth");
    match depth {
        18 => projected(builder, [2, 2, 2, 2], Unit::Basic, small, classes),
        34 => projected(builder, [3, 4, 6, 3], Unit::Basic, small, classes),
        50 => projected(builder, [3, 4, 6, 3], Unit::Bottleneck, small, classes),
        _ => option_a(builder, (depth - 2) / 6, classes),
    }
}

fn convolution(builder: &mut Builder, name: String, filters: usize, kernel: usize, stride: usize) -> String {
    let conv = Conv { stride: [stride; 2], bias: false, ..Conv::same(filters, kernel) };
    builder.add(name, Kind::Conv(conv))
}

fn relu(builder: &mut Builder, name: String) -> String {
    builder.add(name, Kind::Activation(Activation::Relu))
}

/// The convolutions of a residual unit, each with its norm and, except for the last, its ReLU.
fn residual(builder: &mut Builder, unit: &str, convolutions: &[(usize, usize, usize)]) -> String {
    for (index, &(filters, kernel, stride)) in convolutions.iter().enumerate() {
        let number = index + 1;
        convolution(builder, format!("{unit}.conv{number}"), filters, kernel, stride);
        builder.add(format!("{unit}.bn{number}"), batch_norm());
        if number < convolutions.len() {
            relu(builder, format!("{unit}.relu{number}"));
        }
    }
    builder.last()
}

fn projected(builder: &mut Builder, depths: [usize; 4], unit: Unit, small: bool, classes: usize) {
    let mut channels = builder.scaled(64);
    convolution(builder, "conv1".into(), channels, if small { 3 } else { 7 }, if small { 1 } else { 2 });
    builder.add("bn1", batch_norm());
    relu(builder, "relu".into());
    if !small {
        let window = Window { kernel: [3; 2], stride: [2; 2], padding: Padding::all(1) };
        builder.add("maxpool", Kind::MaxPool(window));
    }
    for (stage, depth) in depths.into_iter().enumerate() {
        let width = builder.scaled(64 << stage);
        for index in 0..depth {
            let name = format!("layer{}.{index}", stage + 1);
            let stride = if index == 0 && stage > 0 { 2 } else { 1 };
            let entry = builder.last();
            let (out, body) = match unit {
                Unit::Basic => (width, residual(builder, &name, &[(width, 3, stride), (width, 3, 1)])),
                Unit::Bottleneck => {
                    let out = builder.scaled(256 << stage);
                    (out, residual(builder, &name, &[(width, 1, 1), (width, 3, stride), (out, 1, 1)]))
                }
            };
            let mut shortcut = entry.clone();
            if stride != 1 || out != channels {
                let conv = Conv { stride: [stride; 2], bias: false, ..Conv::same(out, 1) };
                builder.add_to(format!("{name}.downsample.0"), &[&entry], Kind::Conv(conv));
                shortcut = builder.add(format!("{name}.downsample.1"), batch_norm());
            }
            builder.add_to(format!("{name}.add"), &[&body, &shortcut], Kind::Add);
            relu(builder, format!("{name}.relu"));
            channels = out;
        }
    }
    head(builder, "fc", classes);
}

fn option_a(builder: &mut Builder, depth: usize, classes: usize) {
    let mut channels = builder.scaled(16);
    convolution(builder, "conv1".into(), channels, 3, 1);
    builder.add("bn1", batch_norm());
    relu(builder, "relu".into());
    for stage in 0..3 {
        let width = builder.scaled(16 << stage);
        for index in 0..depth {
            let name = format!("layer{}.{index}", stage + 1);
            let stride = if index == 0 && stage > 0 { 2 } else { 1 };
            let entry = builder.last();
            let body = residual(builder, &name, &[(width, 3, stride), (width, 3, 1)]);
            let mut shortcut = entry.clone();
            if stride != 1 || width != channels {
                let window = Window { kernel: [1; 2], stride: [stride; 2], padding: Padding::default() };
                builder.add_to(format!("{name}.shortcut.0"), &[&entry], Kind::MaxPool(window));
                let extra = width - channels;
                let sides = [extra / 2, extra - extra / 2];
                let pad = Kind::Pad(layer::Pad { channels: sides, padding: Padding::default(), value: 0.0 });
                shortcut = builder.add(format!("{name}.shortcut.1"), pad);
            }
            builder.add_to(format!("{name}.add"), &[&body, &shortcut], Kind::Add);
            relu(builder, format!("{name}.relu"));
            channels = width;
        }
    }
    head(builder, "linear", classes);
}

fn head(builder: &mut Builder, name: &str, classes: usize) {
    builder.add("avgpool", Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }));
    builder.add("flatten", Kind::Flatten);
    builder.add(name, Kind::Linear(layer::Linear { features: classes, bias: true }));
}
