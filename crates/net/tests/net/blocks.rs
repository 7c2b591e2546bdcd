//! Blocks: found by default, named as ranges, refused.

use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::block::{self, Block};
use nettriage_net::{Conv, Graph, INPUT, Kind, Layer, Shape, Window, layer};

use crate::reference::{chain, conv, norm, relu};

fn build(name: &str, size: usize) -> Graph {
    arch::build(&ArchSpec::named(name), Shape::new(3, size, size), 10).unwrap()
}

/// First and last layer of every block.
fn ends(graph: &Graph) -> Vec<(String, String)> {
    let blocks = block::find(graph);
    for (index, found) in blocks.iter().enumerate() {
        assert_eq!(found.name, format!("block{}", index + 1));
        let again = block::range(graph, &found.name, &found.layers[0], found.layers.last().unwrap()).unwrap();
        assert_eq!(again, *found);
    }
    blocks.into_iter().map(|b: Block| (b.layers[0].clone(), b.output)).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn vgg_has_a_block_between_two_poolings() {
    for size in [32, 64, 224] {
        let expected = [("0", "5"), ("7", "12"), ("14", "22"), ("24", "32"), ("34", "42")];
        let expected: Vec<_> =
            expected.iter().map(|(a, b)| (format!("features.{a}"), format!("features.{b}"))).collect();
        assert_eq!(ends(&build("vgg16_bn", size)), expected, "{size}");
    }
    // A stage of one convolution is no block: a substitute would be the same.
    assert_eq!(ends(&build("vgg11", 32)).len(), 3);
}

#[test]
fn resnets_have_a_block_a_stage() {
    let stages = |last: [usize; 3]| {
        let ends = last
            .iter()
            .enumerate()
            .map(|(i, last)| (format!("layer{}.0.conv1", i + 1), format!("layer{}.{last}.relu", i + 1)));
        ends.collect::<Vec<_>>()
    };
    assert_eq!(ends(&build("cifar-resnet20", 32)), stages([2, 2, 2]));
    assert_eq!(ends(&build("cifar-resnet44", 32)), stages([6, 6, 6]));
    let four = |graph: &Graph| ends(graph).iter().map(|(_, last)| last.clone()).collect::<Vec<_>>();
    assert_eq!(four(&build("resnet18", 224)), ["layer1.1.relu", "layer2.1.relu", "layer3.1.relu", "layer4.1.relu"]);
    assert_eq!(four(&build("resnet50", 224)), ["layer1.2.relu", "layer2.3.relu", "layer3.5.relu", "layer4.2.relu"]);
    assert_eq!(four(&build("cifar-resnet18", 32)).len(), 4);
}

#[test]
fn inverted_residuals_keep_their_expansion() {
    let depthwise = |channels: usize, stride: usize| {
        Kind::Conv(Conv { groups: channels, stride: [stride; 2], ..Conv::same(channels, 3) })
    };
    let mut graph = chain(
        Shape::new(3, 32, 32),
        vec![
            ("stem", conv(16, 3)),
            ("stem.act", relu()),
            ("dw", depthwise(16, 1)),
            ("dw.act", relu()),
            ("project", conv(8, 1)),
            ("project.norm", norm()),
            ("b.expand", conv(48, 1)),
            ("b.expand.norm", norm()),
            ("b.expand.act", relu()),
            ("b.dw", depthwise(48, 2)),
            ("b.dw.act", relu()),
            ("b.project", conv(12, 1)),
            ("c.expand", conv(72, 1)),
            ("c.dw", depthwise(72, 1)),
            ("c.project", conv(12, 1)),
        ],
    );
    let add = |name: &str, inputs: &[&str], kind| Layer {
        name: name.into(),
        inputs: inputs.iter().map(|i| i.to_string()).collect(),
        kind,
    };
    graph.layers.push(add("c.add", &["c.project", "b.project"], Kind::Add));
    graph.layers.push(add("pool", &["c.add"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })));
    graph.layers.push(add("fc", &["pool"], Kind::Linear(layer::Linear { features: 10, bias: true })));
    graph.output = "fc".into();
    assert_eq!(ends(&graph), pairs(&[("stem", "project.norm"), ("b.expand", "c.add")]));
}

fn joined(name: &str, inputs: &[&str], kind: Kind) -> Layer {
    Layer { name: name.into(), inputs: inputs.iter().map(|i| i.to_string()).collect(), kind }
}

/// MobileNetV3's first unit: the depthwise convolution, its gate and the projection are one unit, after the stem.
#[test]
fn a_gate_stays_with_its_depthwise_convolution() {
    let depthwise = Kind::Conv(Conv { groups: 16, stride: [2; 2], ..Conv::same(16, 3) });
    let mut graph = chain(
        Shape::new(3, 32, 32),
        vec![("stem", conv(16, 3)), ("stem.act", relu()), ("dw", depthwise), ("dw.act", relu())],
    );
    let mean = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 });
    graph.layers.extend([
        joined("se.mean", &["dw.act"], mean.clone()),
        joined("se.down", &["se.mean"], conv(8, 1)),
        joined("se.up", &["se.down"], conv(16, 1)),
        joined("se.mul", &["dw.act", "se.up"], Kind::Mul),
        joined("project", &["se.mul"], conv(16, 1)),
        joined("project.norm", &["project"], norm()),
        joined("pool", &["project.norm"], mean),
        joined("fc", &["pool"], Kind::Linear(layer::Linear { features: 10, bias: true })),
    ]);
    graph.output = "fc".into();
    assert_eq!(ends(&graph), pairs(&[("dw", "project.norm")]));
}

/// Every encoder layer of a transformer is a block: its attention and its MLP.
#[test]
fn encoder_layers_are_blocks() {
    let patches = Kind::Conv(Conv { stride: [8; 2], padding: Default::default(), ..Conv::same(12, 8) });
    let tokens = Kind::Reshape(layer::Reshape { shape: Shape::new(12, 1, 16) });
    let mut graph = chain(Shape::new(3, 32, 32), vec![("patches", patches), ("tokens", tokens)]);
    let mut before = "tokens".to_string();
    for at in 0..3 {
        let norm = Kind::LayerNorm(layer::LayerNorm { eps: 1e-6, centred: true });
        let own = |part: &str| format!("encoder.{at}.{part}");
        let mut add = |part: &str, inputs: &[&str], kind: Kind| graph.layers.push(joined(&own(part), inputs, kind));
        add("norm1", &[&before], norm.clone());
        for part in ["q", "k", "v"] {
            add(part, &[&own("norm1")], conv(12, 1));
        }
        add("scores", &[&own("q"), &own("k")], Kind::MatMul(layer::MatMul { transposed: true }));
        add("softmax", &[&own("scores")], Kind::Softmax(layer::Softmax { log: false }));
        add("heads", &[&own("softmax"), &own("v")], Kind::MatMul(layer::MatMul { transposed: false }));
        add("proj", &[&own("heads")], conv(12, 1));
        add("add1", &[&before, &own("proj")], Kind::Add);
        add("norm2", &[&own("add1")], norm);
        add("fc1", &[&own("norm2")], conv(48, 1));
        add("fc2", &[&own("fc1")], conv(12, 1));
        add("add2", &[&own("add1"), &own("fc2")], Kind::Add);
        before = own("add2");
    }
    graph.layers.push(joined(
        "mean",
        &[&before],
        Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }),
    ));
    graph.layers.push(joined("head", &["mean"], Kind::Linear(layer::Linear { features: 10, bias: true })));
    graph.output = "head".into();
    let encoder = |at: usize| (format!("encoder.{at}.norm1"), format!("encoder.{at}.add2"));
    assert_eq!(ends(&graph), (0..3).map(encoder).collect::<Vec<_>>());
}

#[test]
fn the_classifier_is_in_no_block() {
    let pool = Kind::MaxPool(Window::square(2));
    let last = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 });
    let layers = vec![
        ("lrn", Kind::LocalResponseNorm(layer::LocalResponseNorm { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 })),
        ("relu0", relu()),
        ("a", conv(8, 3)),
        ("b", conv(8, 3)),
        ("b.act", relu()),
        ("drop", Kind::Dropout(layer::Dropout { p: 0.5 })),
        ("pool", pool),
        ("c", conv(8, 3)),
        ("d", conv(8, 3)),
        ("head", conv(10, 1)),
        ("head.act", relu()),
        ("mean", last),
    ];
    assert_eq!(ends(&chain(Shape::new(3, 16, 16), layers)), pairs(&[("a", "b.act"), ("c", "d")]));
}

#[test]
fn a_strided_convolution_begins_a_block() {
    let strided = Kind::Conv(Conv { stride: [2, 2], ..Conv::same(8, 3) });
    let layers = vec![
        ("a", conv(8, 3)),
        ("b", conv(8, 3)),
        ("c", strided.clone()),
        ("d", conv(8, 3)),
        ("e", conv(8, 3)),
        ("f", Kind::Flatten),
        ("g", Kind::Linear(layer::Linear { features: 10, bias: true })),
    ];
    assert_eq!(ends(&chain(Shape::new(3, 16, 16), layers)), pairs(&[("a", "b"), ("c", "e")]));
}

#[test]
fn ranges_are_checked() {
    let graph = build("cifar-resnet20", 32);
    let inner = block::range(&graph, "inner", "layer2.1.conv1", "layer2.1.bn2").unwrap();
    assert_eq!((inner.input.as_str(), inner.output.as_str()), ("layer2.0.relu", "layer2.1.bn2"));
    let first = block::range(&graph, "first", "conv1", "relu").unwrap();
    assert_eq!(first.input, INPUT);

    let fails = |first: &str, last: &str, parts: &[&str]| {
        let message = block::range(&graph, "x", first, last).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    };
    let nearest = "`layer1.1.conv1` to `layer1.1.add`";
    fails("layer1.1.conv2", "layer1.1.add", &["2 tensors enter", "layer1.1.relu1", "layer1.0.relu", nearest]);
    let nearest = "`layer1.0.relu` to `layer1.1.add`";
    fails("layer1.0.relu", "layer1.1.conv1", &["2 tensors leave", nearest]);
    fails("layer1.0.conv1", "layer9", &["no layer `layer9`"]);
    fails("layer2.0.conv1", "layer1.0.conv1", &["swap"]);
    assert!(block::range(&graph, "a b", "conv1", "relu").is_err());
}

#[test]
fn block_numbers_in_use_are_skipped() {
    let mut graph = chain(Shape::new(3, 8, 8), vec![("block1.conv", conv(4, 3)), ("b", conv(4, 3)), ("c", conv(4, 3))]);
    graph.name = "child".into();
    assert_eq!(block::find(&graph)[0].name, "block2");
}
