//! Training on the processor and on PyTorch's: losses, gradients, updates, frozen layers, and trainings that are continued. Needs a
//! PyTorch, see `crates/torch/tests/common/mod.rs`.

#[path = "../../engine/tests/common/mod.rs"]
mod common;
#[path = "../../torch/tests/common/mod.rs"]
mod installed;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use common::{chain, hashed, network};
use nettriage_engine::{Optimizer, Options, Trainable};
use nettriage_net::{Activation, Conv, Kind, Network, Shape, Weights, Window, layer};
use nettriage_train::{Arithmetic, Batch, Device, InnerTarget, MixedLabels, Model, Target};

const IMAGES: usize = 6;
const CLASSES: usize = 4;

/// PyTorch's processor, loaded once.
fn torch() -> Option<&'static Device> {
    static TORCH: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        let folder = installed::folder()?;
        Some(Device::open("torch:cpu".parse().unwrap(), Arithmetic::F32, Some(&folder)).unwrap())
    };
    TORCH.get_or_init(open).as_ref()
}

/// Every kind of weight, and dropout.
fn small() -> Network {
    let norm = || Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 });
    // Without bias: before a norm its gradient is zero but for rounding, which AdamW divides by its own size.
    let conv = |filters| Kind::Conv(Conv { bias: false, ..Conv::same(filters, 3) });
    let graph = chain(
        Shape::new(2, 6, 6),
        &[
            ("conv1", conv(6)),
            ("norm1", norm()),
            ("act1", Kind::Activation(Activation::Silu)),
            ("pool", Kind::MaxPool(Window::square(2))),
            ("conv2", conv(8)),
            ("norm2", norm()),
            ("act2", Kind::Activation(Activation::Tanh)),
            ("drop", Kind::Dropout(layer::Dropout { p: 0.3 })),
            ("mean", Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })),
            ("flat", Kind::Flatten),
            ("fc", Kind::Linear(layer::Linear { features: CLASSES, bias: true })),
        ],
    );
    network(graph, 11)
}

fn images() -> Vec<f32> {
    hashed(IMAGES * small().graph.input.elements(), 5, 1.0)
}

const LABELS: [u16; IMAGES] = [0, 3, 1, 2, 1, 0];

/// Relative to the largest element.
#[track_caller]
fn agree(what: &str, one: &[f32], other: &[f32], tolerance: f32) {
    assert_eq!(one.len(), other.len(), "{what}");
    let largest = one.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(worst <= tolerance * largest, "{what}: {worst} of {largest}");
}

#[track_caller]
fn weights_agree(what: &str, one: &Weights, other: &Weights, tolerance: f32) {
    assert!(one.keys().eq(other.keys()));
    for (name, tensor) in one {
        agree(&format!("{what}: {name}"), &tensor.data, &other[name].data, tolerance);
    }
}

fn options(optimizer: Optimizer, decay_all: bool) -> Options {
    Options { decay_all, ..Options::training(IMAGES, optimizer) }
}

fn sgd() -> Optimizer {
    Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.2 }
}

fn adamw() -> Optimizer {
    Optimizer::AdamW { betas: (0.9, 0.99), eps: 1e-3, weight_decay: 0.2 }
}

fn labels(smoothing: f32) -> Target<'static> {
    Target::Labels { labels: &LABELS, smoothing, mixed: None }
}

#[test]
fn the_first_steps_of_every_loss_and_rule_agree() {
    let Some(torch) = torch() else { return };
    let (network, images) = (small(), images());
    let teacher = hashed(IMAGES * CLASSES, 9, 3.0);
    let mixed = MixedLabels { others: &[3, 3, 0, 0, 2, 1], own: &[0.8, 0.1, 1.0, 0.5, 0.6, 0.0] };
    let target = |which: usize| match which {
        0 => labels(0.0),
        1 => labels(0.2),
        4 => Target::Labels { labels: &LABELS, smoothing: 0.2, mixed: Some(mixed) },
        5 => Target::Teacher {
            labels: &LABELS,
            logits: Batch::Host(&teacher),
            temperature: 3.0,
            alpha: 0.7,
            mixed: Some(mixed),
        },
        2 => Target::Teacher {
            labels: &LABELS,
            logits: Batch::Host(&teacher),
            temperature: 3.0,
            alpha: 0.7,
            mixed: None,
        },
        _ => Target::Values(Batch::Host(&teacher)),
    };
    let plain = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.2 };
    for rule in [plain, sgd(), adamw()] {
        for (which, decay_all) in [(0, true), (1, false), (2, true), (3, false), (4, true), (5, true)] {
            let options = options(rule, decay_all);
            let mut own = Device::Cpu.model(&network, &options).unwrap();
            let mut other = torch.model(&network, &options).unwrap();
            for step in 0..3 {
                let what = format!("{rule:?}, loss {which}, step {step}");
                let differentiate = |model: &mut Model| {
                    model.differentiate(Batch::Host(&images), 40 + step, target(which), &[], None).unwrap()
                };
                let losses = [differentiate(&mut own), differentiate(&mut other)];
                assert!((losses[0] - losses[1]).abs() < 1e-5 * losses[0].abs().max(1.0), "{what}: {losses:?}");
                for name in network.weights.keys().filter(|name| own.trains(name)) {
                    assert!(other.trains(name));
                    let [a, b] = [&own, &other].map(|model| model.gradient(name).unwrap().unwrap().data);
                    agree(&format!("{what}: gradient of {name}"), &a, &b, 1e-4);
                }
                // Longer than the limit, so that clipping counts.
                own.step(0.1, Some(0.05)).unwrap();
                other.step(0.1, Some(0.05)).unwrap();
                weights_agree(&what, &own.weights().unwrap(), &other.weights().unwrap(), 1e-4);
            }
        }
    }
}

/// The loss and gradients of ends of blocks, on the processor from their definition, on PyTorch's as there.
#[test]
fn ends_of_blocks_add_their_weighted_squared_errors() {
    let (network, images) = (small(), images());
    let names = ["pool", "act2", "conv1"];
    let compared = names.map(str::to_owned).to_vec();
    let options = Options { compared, ..options(sgd(), true) };
    let sizes = [3 * 3 * 6, 3 * 3 * 8, 6 * 6 * 6];
    let values = [12, 13, 14].map(|stream| hashed(IMAGES * sizes[stream as usize - 12], stream, 1.0));
    let weights = [0.7, 2.0, 0.1];
    let inner = || -> Vec<InnerTarget<'_>> {
        let ends = names.into_iter().zip(&values).zip(weights);
        ends.map(|((layer, values), weight)| InnerTarget { layer, values: Batch::Host(values), weight }).collect()
    };
    let differentiate = |model: &mut Model, inner: &[InnerTarget<'_>]| {
        model.differentiate(Batch::Host(&images), 40, labels(0.0), inner, None).unwrap()
    };
    let mut own = Device::Cpu.model(&network, &options).unwrap();
    let loss = differentiate(&mut own, &inner());
    let mut expected = {
        let mut plain = Device::Cpu.model(&network, &Options { compared: Vec::new(), ..options.clone() }).unwrap();
        differentiate(&mut plain, &[])
    };
    for InnerTarget { layer, values, weight } in inner() {
        let (Batch::Host(values), output) = (values, own.activation(layer).unwrap()) else { unreachable!() };
        let squares = output.iter().zip(values).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        expected += f64::from(weight) * squares.sum::<f64>() / values.len() as f64;
    }
    assert!((loss - expected).abs() < 1e-6, "{loss}, not {expected}");

    let Some(torch) = torch() else { return };
    let mut other = torch.model(&network, &options).unwrap();
    for step in 0..3 {
        let losses = [&mut own, &mut other].map(|model| differentiate(model, &inner()));
        assert!((losses[0] - losses[1]).abs() < 1e-5 * losses[0], "step {step}: {losses:?}");
        for name in network.weights.keys().filter(|name| own.trains(name)) {
            let [a, b] = [&own, &other].map(|model| model.gradient(name).unwrap().unwrap().data);
            agree(&format!("step {step}: gradient of {name}"), &a, &b, 1e-4);
        }
        own.step(0.1, Some(0.05)).unwrap();
        other.step(0.1, Some(0.05)).unwrap();
    }
}

#[test]
fn a_training_continues_from_weights_and_memory_to_the_bit() {
    let Some(torch) = torch() else { return };
    let (network, images) = (small(), images());
    for rule in [sgd(), adamw()] {
        for device in [&Device::Cpu, torch] {
            let options = options(rule, true);
            let train = |model: &mut Model, steps: std::ops::Range<u64>| {
                for step in steps {
                    model.differentiate(Batch::Host(&images), step, labels(0.0), &[], None).unwrap();
                    model.step(0.05, None).unwrap();
                }
            };
            let mut whole = device.model(&network, &options).unwrap();
            train(&mut whole, 0..5);
            let mut first = device.model(&network, &options).unwrap();
            train(&mut first, 0..2);
            let (weights, memory) = (first.weights().unwrap(), first.optimizer_memory().unwrap());
            assert_eq!(memory.steps, 2);
            let mut second = device.model(&Network { weights, ..network.clone() }, &options).unwrap();
            second.set_optimizer_memory(&memory).unwrap();
            train(&mut second, 2..5);
            assert_eq!(second.weights().unwrap(), whole.weights().unwrap(), "{device:?}, {rule:?}");

            let mut wrong = memory.clone();
            wrong.first.remove("fc.bias");
            assert!(second.set_optimizer_memory(&wrong).is_err());
            assert_eq!(second.optimizer_memory().unwrap(), whole.optimizer_memory().unwrap());
        }
    }
}

#[test]
fn frozen_layers_keep_their_bytes_and_others_do_not() {
    let Some(torch) = torch() else { return };
    let (network, images) = (small(), images());
    let trained = BTreeSet::from(["conv2".to_owned(), "norm2".to_owned()]);
    let options = Options { trainable: Trainable::Layers(trained.clone()), ..options(sgd(), true) };
    for device in [&Device::Cpu, torch] {
        let mut model = device.model(&network, &options).unwrap();
        for step in 0..2 {
            model.differentiate(Batch::Host(&images), step, labels(0.1), &[], None).unwrap();
            model.step(0.1, None).unwrap();
        }
        for (name, tensor) in model.weights().unwrap() {
            let same = tensor == network.weights[&name];
            let owner = name.rsplit_once('.').unwrap().0;
            assert_eq!(same, !trained.contains(owner), "{device:?}: {name}");
        }
    }
}
