//! Guarantees that hold for any numbers: reproducible bits, unchanged frozen layers, errors for invalid options.

mod common;

use std::collections::BTreeSet;

use common::peers::{images, labels, residual, vgg};
use common::{chain, hashed, layer, network};
use nettriage_engine::{Error, Model, Optimizer, Options, Trainable, first_non_finite, loss};
use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Network, Shape, Tensor, Weights, Window, layer, slice};

fn samples() -> Vec<Network> {
    let mut biased = vgg(&[8, 16, 0, 24, 24, 0], 3, 12, true);
    // Non-zero biases before the norms, so that an error in splitting between the two is visible.
    for (name, tensor) in &mut biased.weights {
        if name.ends_with(".bias") || name.ends_with("running_mean") {
            tensor.data = hashed(tensor.data.len(), 5, 0.3);
        }
    }
    vec![biased, vgg(&[16, 0, 16, 0], 1, 10, false), residual(8, 12, 3, 8), inverted_residuals()]
}

/// Inverted residual units (Sandler et al., arXiv:1801.04381) with a gate, grouped convolutions and all activations that
/// convolutions fuse.
fn inverted_residuals() -> Network {
    let conv = |filters, kernel, stride: usize, groups| {
        Kind::Conv(Conv { stride: [stride; 2], groups, bias: groups == 1, ..Conv::same(filters, kernel) })
    };
    let act = Kind::Activation;
    let layers = vec![
        layer("stem", &[INPUT], conv(12, 3, 2, 1)),
        layer("stem_act", &["stem"], act(Activation::HardSwish)),
        layer("expand", &["stem_act"], conv(40, 1, 1, 1)),
        layer("expand_norm", &["expand"], Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })),
        layer("expand_act", &["expand_norm"], act(Activation::Clip { min: 0.0, max: 6.0 })),
        layer("depthwise", &["expand_act"], conv(40, 5, 1, 40)),
        layer("depthwise_norm", &["depthwise"], Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })),
        layer("depthwise_act", &["depthwise_norm"], act(Activation::Silu)),
        layer("mean", &["depthwise_act"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })),
        layer("squeeze", &["mean"], conv(5, 1, 1, 1)),
        layer("squeeze_act", &["squeeze"], act(Activation::LeakyRelu { slope: 0.2 })),
        layer("excite", &["squeeze_act"], conv(40, 1, 1, 1)),
        layer("gate", &["excite"], act(Activation::Sigmoid)),
        layer("gated", &["depthwise_act", "gate"], Kind::Mul),
        layer("project", &["gated"], conv(12, 1, 1, 1)),
        layer("sum", &["stem_act", "project"], Kind::Add),
        layer("grouped", &["sum"], conv(12, 3, 1, 3)),
        layer("grouped_sum", &["grouped", "sum"], Kind::Add),
        layer("grouped_act", &["grouped_sum"], act(Activation::Gelu { tanh: false })),
        layer("wide", &["grouped_act"], conv(12, 3, 1, 1)),
        layer("wide_sum", &["wide", "sum"], Kind::Add),
        layer("wide_act", &["wide_sum"], act(Activation::Relu)),
        layer("strided", &["wide_act"], conv(20, 3, 2, 4)),
        layer("strided_act", &["strided"], act(Activation::Gelu { tanh: true })),
        layer("pool", &["strided_act"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })),
        layer("head", &["pool"], Kind::Linear(layer::Linear { features: 10, bias: true })),
    ];
    let graph = Graph { name: "inverted".into(), input: Shape::new(3, 13, 13), layers, output: "head".into() };
    network(graph, 11)
}

/// Batches whose tensors do not fit into cache run in parts, which changes neither outputs nor kept activations.
#[test]
fn large_batches_run_in_parts_with_the_same_bits() {
    let conv = |filters, kernel, stride: usize| Kind::Conv(Conv { stride: [stride; 2], ..Conv::same(filters, kernel) });
    let layers = vec![
        layer("a", &[INPUT], conv(48, 3, 1)),
        layer("b", &["a"], conv(48, 1, 1)),
        layer("sum", &["b", "a"], Kind::Add),
        layer("c", &["sum"], conv(32, 3, 2)),
        layer("d", &["c"], conv(32, 3, 2)),
        layer("concat", &["d", "d"], Kind::Concat(layer::Concat { axis: nettriage_net::Axis::Channels })),
        layer("pool", &["concat"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })),
        layer("head", &["pool"], Kind::Linear(layer::Linear { features: 10, bias: true })),
    ];
    let graph = Graph { name: "large".into(), input: Shape::new(3, 96, 96), layers, output: "head".into() };
    let network = network(graph, 13);
    let n = 23;
    let all = images(n, network.graph.input);
    let keep = vec!["b".to_string(), "d".to_string()];
    let of = |batch: usize, threads: usize, trainable: Trainable| {
        let options = Options { threads, keep: keep.clone(), trainable, ..Options::inference(batch) };
        Model::new(&network, &options).unwrap()
    };
    let mut small = of(1, 1, Trainable::Nothing);
    let mut want = [Vec::new(), Vec::new(), Vec::new()];
    for image in all.chunks_exact(network.graph.input.elements()) {
        want[0].extend_from_slice(small.forward(image));
        keep.iter().zip(&mut want[1..]).for_each(|(k, want)| want.extend_from_slice(small.activation(k).unwrap()));
    }
    let held = of(n, 2, Trainable::Nothing).memory_bytes();
    assert!(held < of(n, 2, Trainable::All).memory_bytes() / 2, "{held}: most tensors are those of a part");
    for (batch, threads) in [(n, 1), (n, 2), (64, 2)] {
        let mut model = of(batch, threads, Trainable::Nothing);
        assert!(model.forward(&all) == want[0], "batch {batch}, {threads} threads");
        for (k, want) in keep.iter().zip(&want[1..]) {
            assert!(model.activation(k) == Some(want), "{k}, batch {batch}, {threads} threads");
        }
    }
}

/// Trains for some steps; returns the weights after them, and the bits of the losses.
fn train(network: &Network, options: &Options, n: usize, steps: usize) -> (Weights, Vec<u64>) {
    let mut model = Model::new(network, options).expect("a model");
    let (images, labels) = (images(n, network.graph.input), labels(n));
    let mut gradient = vec![0.0; n * 10];
    let mut losses = Vec::new();
    for step in 0..steps {
        let logits = model.forward_train(&images, step as u64);
        losses.push(loss::cross_entropy(logits, &labels, 10, &mut gradient).to_bits());
        model.backward(&images, &gradient);
        model.step(0.05, Some(1.0));
    }
    (model.weights(), losses)
}

#[test]
fn outputs_do_not_depend_on_batch_size_or_threads() {
    for network in samples() {
        let n = 11;
        let all = images(n, network.graph.input);
        let elements = network.graph.input.elements();
        let mut reference: Option<Vec<f32>> = None;
        for (batch, threads) in [(n, 1), (n, 2), (n, 5), (1, 1), (1, 2), (4, 2), (3, 1), (32, 3)] {
            let options = Options { threads, ..Options::inference(batch) };
            let mut model = Model::new(&network, &options).unwrap();
            let output: Vec<f32> = all.chunks(batch * elements).flat_map(|part| model.forward(part).to_vec()).collect();
            let reference = reference.get_or_insert_with(|| output.clone());
            assert_eq!(reference, &output, "batch {batch}, {threads} threads");
        }
        // A training model gives the same bits in evaluation mode.
        let mut model = Model::new(&network, &Options::training(n, Optimizer::sgd())).unwrap();
        assert_eq!(Some(model.forward(&all).to_vec()), reference);
    }
}

#[test]
fn training_does_not_depend_on_threads_or_batch_capacity() {
    for network in samples() {
        let optimizer = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
        for optimizer in [Optimizer::sgd(), optimizer] {
            let one = train(&network, &Options::training(20, optimizer), 20, 4);
            for threads in [2, 3] {
                let options = Options { threads, ..Options::training(20, optimizer) };
                assert_eq!(one, train(&network, &options, 20, 4), "{threads} threads");
            }
            // The same with a larger maximum batch.
            assert_eq!(one, train(&network, &Options::training(64, optimizer), 20, 4));
        }
    }
}

#[test]
fn a_training_continues_to_the_bit_in_another_model() {
    let adam = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
    let nesterov = Optimizer::Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-3 };
    let plain = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 1e-3 };
    for network in samples() {
        for optimizer in [adam, nesterov, plain] {
            let options = Options::training(20, optimizer);
            let (images, labels) = (images(20, network.graph.input), labels(20));
            let mut gradient = vec![0.0; 200];
            let mut step = |model: &mut Model, step: u64| {
                loss::cross_entropy(model.forward_train(&images, step), &labels, 10, &mut gradient);
                model.backward(&images, &gradient);
                model.step(0.05, Some(1.0));
            };
            let mut whole = Model::new(&network, &options).unwrap();
            (0..3).for_each(|number| step(&mut whole, number));
            let left = Network { weights: whole.weights(), ..network.clone() };
            let mut other = Model::new(&left, &options).unwrap();
            other.set_optimizer_memory(&whole.optimizer_memory()).unwrap();
            for model in [&mut whole, &mut other] {
                (3..6).for_each(|number| step(model, number));
            }
            assert_eq!(whole.weights(), other.weights(), "{optimizer:?}");
            assert_eq!(whole.optimizer_memory(), other.optimizer_memory());
            // Without the memory the steps differ, except where the rule has none.
            let mut forgetful = Model::new(&left, &options).unwrap();
            (3..6).for_each(|number| step(&mut forgetful, number));
            assert_eq!(whole.weights() == forgetful.weights(), optimizer == plain, "{optimizer:?}");
        }
    }
    let [first, second, ..] = &samples()[..] else { unreachable!() };
    let model = |network, optimizer| Model::new(network, &Options::training(4, optimizer)).unwrap();
    let memory = model(first, adam).optimizer_memory();
    for mut other in [model(second, adam), model(first, nesterov)] {
        let before = other.optimizer_memory();
        assert!(matches!(other.set_optimizer_memory(&memory), Err(Error::Weight { .. })));
        assert_eq!(other.optimizer_memory(), before);
    }
}

#[test]
fn a_split_network_gives_the_bits_of_the_whole() {
    let n = 5;
    let mut splits = 0;
    for network in samples() {
        let input = images(n, network.graph.input);
        let mut whole = Model::new(&network, &Options::inference(n)).unwrap();
        let want = whole.forward(&input).to_vec();
        for split in &network.graph.layers {
            let name = split.name.as_str();
            let (Ok(below), Ok(above)) =
                (slice::between(&network, INPUT, name), slice::between(&network, name, &network.graph.output))
            else {
                continue;
            };
            if name == network.graph.output {
                continue;
            }
            let mut below = Model::new(&below, &Options::inference(n)).unwrap();
            let mut above = Model::new(&above, &Options { threads: 2, ..Options::inference(n) }).unwrap();
            assert_eq!(above.forward(below.forward(&input)), want, "split at {name}");
            splits += 1;
        }
    }
    assert!(splits > 20, "only {splits} splits were possible");
}

#[test]
fn kept_activations_are_correct_and_change_no_output() {
    for network in samples() {
        let n = 3;
        let input = images(n, network.graph.input);
        let want = Model::new(&network, &Options::inference(n)).unwrap().forward(&input).to_vec();
        let keep: Vec<String> = network.graph.layers.iter().map(|l| l.name.clone()).collect();
        for trainable in [Trainable::Nothing, Trainable::All] {
            let options = Options { keep: keep.clone(), trainable, ..Options::inference(n) };
            let mut model = Model::new(&network, &options).unwrap();
            assert_eq!(model.forward(&input), want);
            assert_eq!(model.activation(&network.graph.output), Some(&want[..]));
            assert!(model.activation("missing").is_none());
            for layer in &network.graph.layers {
                let Ok(slice) = slice::between(&network, INPUT, &layer.name) else { continue };
                let mut part = Model::new(&slice, &Options::inference(n)).unwrap();
                assert_eq!(model.activation(&layer.name), Some(part.forward(&input)), "{}", layer.name);
            }
        }
    }
}

#[test]
fn frozen_layers_keep_their_bits_and_trainable_ones_change() {
    for network in samples() {
        let names: Vec<&str> = network.graph.layers.iter().map(|l| l.name.as_str()).collect();
        let sets: [BTreeSet<String>; 3] = [
            names.iter().filter(|n| n.contains('2') || n.starts_with("bn")).map(ToString::to_string).collect(),
            BTreeSet::from(["head".to_string()]),
            names.iter().filter(|n| n.contains("norm") || n.contains('n')).map(ToString::to_string).collect(),
        ];
        for set in sets {
            let options =
                Options { trainable: Trainable::Layers(set.clone()), ..Options::training(16, Optimizer::sgd()) };
            let (after, _) = train(&network, &options, 16, 3);
            for (name, before) in &network.weights {
                let owner = name.rsplit_once('.').unwrap().0;
                if set.contains(owner) && name.ends_with("bias") {
                    continue; // The gradient of a bias before a batch norm is 0.
                }
                if set.contains(owner) {
                    assert_ne!(&after[name], before, "{name} trains");
                } else {
                    assert_eq!(&after[name], before, "{name} is frozen");
                }
            }
            let model = Model::new(&network, &options).unwrap();
            for name in network.weights.keys() {
                let owner = name.rsplit_once('.').unwrap().0;
                let running = name.contains("running");
                assert_eq!(model.gradient(name).is_some(), set.contains(owner) && !running, "{name}");
            }
        }
        // With an inference model, no step changes anything.
        let options = Options { trainable: Trainable::Nothing, ..Options::training(16, Optimizer::sgd()) };
        assert_eq!(train(&network, &options, 16, 2).0, network.weights);
    }
}

#[test]
fn frozen_layers_run_in_evaluation_mode_while_others_train() {
    // With only the head trainable, a training pass gives the output of an evaluation pass.
    let network = &samples()[0];
    let options = Options {
        trainable: Trainable::Layers(BTreeSet::from(["head".to_string()])),
        ..Options::training(6, Optimizer::sgd())
    };
    let mut model = Model::new(network, &options).unwrap();
    let input = images(6, network.graph.input);
    let train = model.forward_train(&input, 3).to_vec();
    assert_eq!(train, model.forward(&input));
    // Its backward pass needs far less memory than one through all layers.
    let all = Model::new(network, &Options::training(6, Optimizer::sgd())).unwrap();
    assert!(
        2 * model.memory_bytes() < all.memory_bytes() + (1 << 20),
        "{} {}",
        model.memory_bytes(),
        all.memory_bytes()
    );
}

#[test]
fn dropout_depends_on_its_seed_and_scales_the_kept_elements() {
    let shape = Shape::new(8, 6, 6);
    let graph =
        chain(shape, &[("a", Kind::Conv(Conv::same(8, 1))), ("drop", Kind::Dropout(layer::Dropout { p: 0.3 }))]);
    let mut network = network(graph, 3);
    let mut identity = vec![0.0; 64];
    (0..8).for_each(|i| identity[i * 9] = 1.0);
    network.weights.insert("a.weight".into(), Tensor::new(&[8, 8, 1, 1], identity));
    network.weights.insert("a.bias".into(), Tensor::zeros(&[8]));
    let n = 50;
    let input: Vec<f32> = hashed(n * shape.elements(), 8, 1.0).iter().map(|v| v + 2.0).collect();
    let mut model = Model::new(&network, &Options { threads: 2, ..Options::training(n, Optimizer::sgd()) }).unwrap();
    assert_eq!(model.forward(&input), input, "nothing is dropped in evaluation");
    let first = model.forward_train(&input, 1).to_vec();
    assert_ne!(first, model.forward_train(&input, 2).to_vec());
    assert_eq!(first, model.forward_train(&input, 1).to_vec());
    let dropped = first.iter().filter(|v| **v == 0.0).count();
    // Five standard deviations of a binomial count.
    let (mean, deviation) = (0.3 * input.len() as f64, (0.3 * 0.7 * input.len() as f64).sqrt());
    assert!((dropped as f64 - mean).abs() < 5.0 * deviation, "{dropped} of {}", input.len());
    for (&y, &x) in first.iter().zip(&input) {
        assert!(y == 0.0 || (y - x / 0.7).abs() < 1e-5, "{y} from {x}");
    }
    // The gradient is multiplied by the same factors: that of the bias is their sum.
    model.backward(&input, &vec![1.0; input.len()]);
    let bias = model.gradient("a.bias").unwrap();
    let factors: f64 = first.iter().map(|&y| if y == 0.0 { 0.0 } else { 1.0 / 0.7 }).sum();
    let total: f64 = bias.data.iter().map(|&v| f64::from(v)).sum();
    assert!((total - factors).abs() < 1e-3 * factors, "{total} {factors}");
    // A frozen layer drops nothing.
    let only = Trainable::Layers(BTreeSet::from(["a".to_string()]));
    let mut model =
        Model::new(&network, &Options { trainable: only, ..Options::training(n, Optimizer::sgd()) }).unwrap();
    assert_eq!(model.forward_train(&input, 1), input);
}

#[test]
fn running_statistics_are_updated_as_in_pytorch() {
    let shape = Shape::new(2, 3, 3);
    let mut network =
        network(chain(shape, &[("norm", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 }))]), 1);
    network.weights.insert("norm.running_mean".into(), Tensor::new(&[2], vec![0.5, -1.0]));
    network.weights.insert("norm.running_var".into(), Tensor::new(&[2], vec![2.0, 3.0]));
    let n = 4;
    // A mean far above the deviation: the sum of squares alone would lose all digits of the variance.
    let input: Vec<f32> = hashed(n * shape.elements(), 2, 1.0).iter().map(|v| v + 1000.0).collect();
    let mut model = Model::new(&network, &Options::training(n, Optimizer::sgd())).unwrap();
    model.forward_train(&input, 0);
    let after = model.weights();
    for c in 0..2 {
        let values: Vec<f64> = input.iter().skip(c).step_by(2).map(|&v| f64::from(v)).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let expected = [0.9 * [0.5, -1.0][c] + 0.1 * mean, 0.9 * [2.0, 3.0][c] + 0.1 * variance];
        let got = [after["norm.running_mean"].data[c], after["norm.running_var"].data[c]].map(f64::from);
        assert!((got[0] - expected[0]).abs() < 1e-5 * expected[0].abs(), "{got:?} {expected:?}");
        assert!((got[1] - expected[1]).abs() < 1e-5 * expected[1], "{got:?} {expected:?}");
    }
}

#[test]
fn clipping_scales_the_gradient_to_the_given_norm() {
    let network = &samples()[1];
    let plain = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let mut model = Model::new(network, &Options::training(8, plain)).unwrap();
    let (images, labels) = (images(8, network.graph.input), labels(8));
    let mut gradient = vec![0.0; 80];
    loss::cross_entropy(model.forward_train(&images, 0), &labels, 10, &mut gradient);
    model.backward(&images, &gradient);
    let squares: f64 = network
        .weights
        .keys()
        .filter_map(|name| model.gradient(name))
        .flat_map(|g| g.data)
        .map(|v| f64::from(v).powi(2))
        .sum();
    let norm = f64::from(model.step(1.0, Some(0.25)).unwrap());
    assert!((norm - squares.sqrt()).abs() < 1e-5 * norm);
    assert!(norm > 0.25, "the case must clip");
    let after = model.weights();
    let distance: f64 = network
        .weights
        .iter()
        .flat_map(|(name, before)| before.data.iter().zip(&after[name].data))
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    assert!((distance.sqrt() - 0.25).abs() < 1e-4, "{}", distance.sqrt());
}

#[test]
fn weights_can_be_replaced_and_read_back() {
    let (a, b) = (&samples()[0], vgg(&[8, 16, 0, 24, 24, 0], 3, 12, true));
    let input = images(4, a.graph.input);
    let want = Model::new(a, &Options::inference(4)).unwrap().forward(&input).to_vec();
    let mut model = Model::new(&b, &Options::inference(4)).unwrap();
    assert_ne!(model.forward(&input), want);
    model.set_weights(&a.weights).unwrap();
    assert_eq!(model.forward(&input), want);
    assert_eq!(model.weights(), a.weights);
    let mut wrong = a.weights.clone();
    wrong.insert("conv0.weight".into(), Tensor::zeros(&[1]));
    let message = model.set_weights(&wrong).unwrap_err().to_string();
    assert!(message.contains("conv0.weight") && !message.contains('\n'), "{message}");
    assert_eq!(model.weights(), a.weights, "nothing changes on an error");
}

#[test]
fn invalid_options_are_errors() {
    let network = &samples()[1];
    let base = Options::training(2, Optimizer::sgd());
    let keep = Options { keep: vec!["missing".into()], ..base.clone() };
    assert!(matches!(Model::new(network, &keep), Err(Error::Layer { .. })));
    let train = Options { trainable: Trainable::Layers(BTreeSet::from(["missing".into()])), ..base.clone() };
    assert!(matches!(Model::new(network, &train), Err(Error::Layer { .. })));
    assert!(matches!(Model::new(network, &Options { batch: 0, ..base.clone() }), Err(Error::Option { .. })));
    assert!(matches!(Model::new(network, &Options { threads: 0, ..base.clone() }), Err(Error::Option { .. })));
    assert!(matches!(Model::new(network, &Options { threads: 4097, ..base.clone() }), Err(Error::Option { .. })));
    assert!(matches!(Model::new(network, &Options { threads: usize::MAX, ..base.clone() }), Err(Error::Option { .. })));
    assert!(matches!(
        Model::new(network, &Options { batch: usize::MAX / 2, ..base.clone() }),
        Err(Error::Memory { .. })
    ));
    let mut broken = network.clone();
    broken.weights.remove("conv0.weight");
    assert!(matches!(Model::new(&broken, &base), Err(Error::Network(_))));
}

#[test]
fn the_input_can_be_the_output_of_layers_that_compute_nothing() {
    let mut graph = chain(Shape::new(3, 1, 1), &[("flat", Kind::Flatten), ("same", Kind::Identity)]);
    graph.layers.push(layer("pool", &["same"], Kind::MaxPool(Window::square(1))));
    graph.output = "pool".into();
    let network = network(graph, 1);
    let options = Options { keep: vec!["flat".into(), "same".into()], ..Options::inference(2) };
    let mut model = Model::new(&network, &options).unwrap();
    let input = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(model.forward(&input), input);
    assert_eq!(model.activation("flat"), Some(&input[..]));
    assert_eq!(model.activation("same"), Some(&input[..]));
}

/// A batch norm on features sees one value per channel where the last batch of an epoch has one image.
#[test]
fn a_batch_norm_with_one_value_per_channel_uses_running_statistics() {
    let layers = [
        ("hidden", Kind::Linear(layer::Linear { features: 5, bias: true })),
        ("norm", Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 })),
        ("relu", Kind::Activation(Activation::Relu)),
        ("second", Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 })),
        ("head", Kind::Linear(layer::Linear { features: 3, bias: true })),
    ];
    let network = network(chain(Shape::new(4, 1, 1), &layers), 21);
    let mut model = Model::new(&network, &Options::training(8, Optimizer::sgd())).unwrap();
    let (image, coefficients) = (hashed(4, 6, 1.0), [1.0, -0.5, 0.25]);
    let want = model.forward(&image).to_vec();
    assert_eq!(model.forward_train(&image, 0), want);
    let after = model.weights();
    for name in ["norm.running_mean", "norm.running_var", "second.running_mean", "second.running_var"] {
        assert_eq!(after[name], network.weights[name], "{name} is unchanged");
    }
    // The gradients are those of the evaluation mode.
    model.backward(&image, &coefficients);
    let loss = |name: &str, index: usize, step: f32| -> f64 {
        let mut changed = network.clone();
        changed.weights.get_mut(name).unwrap().data[index] += step;
        let mut model = Model::new(&changed, &Options::inference(1)).unwrap();
        model.forward(&image).iter().zip(coefficients).map(|(&y, c)| f64::from(y) * f64::from(c)).sum()
    };
    for name in
        ["hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "second.weight", "second.bias", "head.bias"]
    {
        let gradient = model.gradient(name).unwrap();
        for (i, &g) in gradient.data.iter().enumerate() {
            let numeric = (loss(name, i, 1e-2) - loss(name, i, -1e-2)) / 2e-2;
            assert!((numeric - f64::from(g)).abs() < 1e-3, "{name}[{i}]: {g}, not {numeric}");
        }
    }
    // A full batch after it has the results of one without it.
    let mut fresh = Model::new(&network, &Options::training(8, Optimizer::sgd())).unwrap();
    let images = hashed(8 * 4, 7, 1.0);
    assert_eq!(model.forward_train(&images, 1), fresh.forward_train(&images, 1));
    assert_eq!(model.weights(), fresh.weights());
}

#[test]
fn the_first_layer_with_a_non_finite_output_is_named() {
    let layers = [
        ("conv", Kind::Conv(Conv::same(4, 3))),
        ("norm", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })),
        ("relu", Kind::Activation(Activation::Relu)),
        ("pool", Kind::MaxPool(Window::square(2))),
        ("flat", Kind::Flatten),
        ("head", Kind::Linear(layer::Linear { features: 2, bias: true })),
    ];
    let shape = Shape::new(3, 4, 4);
    let sound = network(chain(shape, &layers), 3);
    let images = hashed(20 * shape.elements(), 5, 1.0);
    assert_eq!(first_non_finite(&sound, &images).unwrap(), None);
    let find = |network: &Network, images: &[f32]| first_non_finite(network, images).unwrap().expect("not finite");

    // A NaN weight, in the middle of layers that run as one operation.
    let mut broken = sound.clone();
    broken.weights.get_mut("norm.bias").unwrap().data[2] = f32::NAN;
    let found = find(&broken, &images);
    assert_eq!((&found.layer[..], found.image, found.weight.as_deref()), ("norm", 0, Some("norm.bias")));
    assert!(found.to_string().contains("\"norm\"") && !found.to_string().contains('\n'), "{found}");
    // A variance whose root is not a number: every weight is finite.
    let mut broken = sound.clone();
    broken.weights.get_mut("norm.running_var").unwrap().data.fill(-1.0);
    assert_eq!((find(&broken, &images).layer.as_str(), find(&broken, &images).weight), ("norm", None));
    // Overflow: minus infinity before a ReLU, which hides it.
    let mut broken = sound.clone();
    broken.weights.get_mut("conv.bias").unwrap().data[1] = -f32::MAX;
    broken.weights.get_mut("conv.weight").unwrap().data.fill(-f32::MAX);
    assert_eq!(find(&broken, &vec![1.0; shape.elements()]).layer, "conv");
    // One image of many.
    let mut broken = images.clone();
    broken[17 * shape.elements() + 3] = f32::INFINITY;
    let found = find(&sound, &broken);
    assert_eq!((&found.layer[..], found.image, found.value), (INPUT, 17, f32::INFINITY));
}
