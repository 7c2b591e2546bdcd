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
        assert!(blocks[..index].iter().all(|other| other.name != found.name), "{}", found.name);
        let again = block::range(graph, &found.name, &found.layers[0], found.layers.last().unwrap()).unwrap();
        assert_eq!(again, *found);
    }
    blocks.into_iter().map(|b: Block| (b.layers[0].clone(), b.output)).collect()
}

fn names(graph: &Graph) -> Vec<String> {
    block::find(graph).into_iter().map(|block| block.name).collect()
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
    assert_eq!(names(&build("vgg16_bn", 32)), ["block1", "block2", "block3", "block4", "block5"]);
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
    // Records of built-in architectures have these names; the same network of others has its author's.
    assert_eq!(names(&build("cifar-resnet20", 32)), ["block1", "block2", "block3"]);
    let of_others = Graph { name: "main_graph".into(), ..build("resnet50", 224) };
    assert_eq!(names(&of_others), ["layer1", "layer2", "layer3", "layer4"]);
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
    assert_eq!(names(&graph), ["encoder.0", "encoder.1", "encoder.2"]);
}

/// MobileNetV2's units as its author wrote them: whole also where they have no skip.
#[test]
fn units_are_the_authors_with_and_without_a_skip() {
    let depthwise = |stride: usize| Kind::Conv(Conv { groups: 8, stride: [stride; 2], ..Conv::same(8, 3) });
    let mut layers = vec![("features.0.0".to_string(), conv(8, 3)), ("features.0.1".to_string(), relu())];
    for (unit, stride) in [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1)] {
        let own = |part: &str| format!("features.{unit}.conv.{part}");
        layers.extend([(own("0.0"), conv(8, 1)), (own("1.0"), depthwise(stride)), (own("2"), conv(8, 1))]);
    }
    let layers: Vec<(&str, Kind)> = layers.iter().map(|(name, kind)| (name.as_str(), kind.clone())).collect();
    let mut graph = chain(Shape::new(3, 32, 32), layers);
    // Units of stride 1 have a skip, but for the first.
    for unit in [3, 5] {
        let (input, own) = (format!("features.{}.conv.2", unit - 1), format!("features.{unit}.conv.2"));
        let at = graph.position(&own).unwrap();
        let sum = format!("add_{unit}");
        for layer in &mut graph.layers[at + 1..] {
            layer.inputs.iter_mut().filter(|name| **name == own).for_each(|name| *name = sum.clone());
        }
        graph.layers.insert(at + 1, joined(&sum, &[&own, &input], Kind::Add));
        graph.output = sum;
    }
    let mean = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 });
    graph.layers.push(joined("mean", &["add_5"], mean));
    graph.layers.push(joined("head", &["mean"], Kind::Linear(layer::Linear { features: 10, bias: true })));
    graph.output = "head".into();
    let units: Vec<String> = block::units(&graph).into_iter().map(|unit| unit.name).collect();
    let expected =
        ["features.0.0", "features.1", "features.2", "features.3", "features.4", "features.5", "mean", "head"];
    assert_eq!(units, expected);
    assert_eq!(names(&graph), ["features.1", "features.2_to_features.3", "features.4_to_features.5"]);
}

/// A U-Net keeps the tensors of its way down until its way up: blocks are the modules between.
#[test]
fn u_nets_and_autoencoders_are_divided_into_their_modules() {
    let pool = || Kind::MaxPool(Window::square(2));
    let up = || Kind::Upsample(layer::Upsample { factor: [2, 2] });
    let concat = || Kind::Concat(layer::Concat::default());
    let layers = vec![
        joined("down.0.0", &[INPUT], conv(4, 3)),
        joined("relu_0", &["down.0.0"], relu()),
        joined("down.0.2", &["relu_0"], conv(4, 3)),
        joined("relu_1", &["down.0.2"], relu()),
        joined("pool", &["relu_1"], pool()),
        joined("down.1.0", &["pool"], conv(8, 3)),
        joined("down.1.2", &["down.1.0"], conv(8, 3)),
        joined("relu_2", &["down.1.2"], relu()),
        joined("up", &["relu_2"], up()),
        joined("cat", &["relu_1", "up"], concat()),
        joined("up.0.0", &["cat"], conv(4, 3)),
        joined("up.0.2", &["up.0.0"], conv(4, 3)),
        joined("relu_3", &["up.0.2"], relu()),
        joined("head", &["relu_3"], conv(2, 1)),
    ];
    let graph = Graph { name: "unet".into(), input: Shape::new(3, 16, 16), layers, output: "head".into() };
    graph.check().unwrap();
    let expected = [("down.0.0", "relu_1"), ("down.1.0", "relu_2"), ("up.0.0", "relu_3")];
    assert_eq!(ends(&graph), pairs(&expected));
    assert_eq!(names(&graph), ["down.0", "down.1", "up.0"]);

    let strided = |filters: usize| Kind::Conv(Conv { stride: [2; 2], ..Conv::same(filters, 3) });
    let layers = vec![
        ("encoder.0", strided(4)),
        ("encoder.2", strided(8)),
        ("relu", relu()),
        ("up", up()),
        ("decoder.0", conv(4, 3)),
        ("up_1", up()),
        ("decoder.2", conv(3, 3)),
    ];
    let graph = chain(Shape::new(3, 16, 16), layers);
    assert_eq!(names(&graph), ["encoder", "decoder"]);
    assert_eq!(ends(&graph), pairs(&[("encoder.0", "relu"), ("decoder.0", "decoder.2")]));
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
