//! Surgery and slices.

use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::block::{self, Block};
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Network, Padding, Shape, Window, cost, layer, slice};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::reference::{self, Values, chain, conv, norm, random_network, relu};

const CONV3: Substitute = Substitute::Conv { kernel: 3, groups: 1 };

fn build(name: &str, width: f64) -> Network {
    let spec = ArchSpec { width, ..ArchSpec::named(name) };
    random_network(arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap(), 1)
}

#[test]
fn every_block_of_every_architecture_can_be_replaced() {
    for name in arch::names().into_iter().filter(|name| *name != "vgg" && !name.ends_with("110")) {
        let parent = build(name, 0.1);
        let blocks = block::find(&parent.graph);
        assert!(blocks.len() >= 3, "{name}");
        let all: Vec<(Block, Substitute)> = blocks.iter().map(|block| (block.clone(), CONV3)).collect();
        for replacements in all.iter().map(std::slice::from_ref).chain([all.as_slice()]) {
            let child = surgery::compress(&parent, replacements).unwrap();
            child.check().unwrap();
            assert_eq!(child.graph.output_shape().unwrap(), parent.graph.output_shape().unwrap());
            let costs = [&parent, &child].map(|network| cost::total(&network.graph).unwrap().macs);
            // A dense 3x3 convolution may cost more than a bottleneck's thin ones.
            assert!(costs[1] < costs[0] || name.ends_with("50"), "{name}");
            // Kept layers have the parent's weights.
            let kept = |key: &&String| child.weights.contains_key(*key);
            assert!(parent.weights.keys().filter(kept).all(|key| parent.weights[key] == child.weights[key]));
            for (block, _) in replacements {
                let [from, to] = [&block.input, &block.output].map(|tensor| parent.graph.shape_of(tensor).unwrap());
                let names = surgery::substitute_layers(block, &child);
                assert_eq!(
                    child.graph.shape_of(names.last().unwrap()).unwrap(),
                    to,
                    "{name} {} from {from}",
                    block.name
                );
                assert!(block.layers.iter().all(|layer| child.graph.layer(layer).is_none()));
            }
        }
    }
}

#[test]
fn a_substitute_has_the_norm_and_activation_that_close_the_block() {
    let parent = build("vgg16_bn", 0.1);
    let block = block::find(&parent.graph).swap_remove(1);
    let child = surgery::compress(&parent, &[(block.clone(), CONV3)]).unwrap();
    assert_eq!(surgery::substitute_layers(&block, &child), ["block2.conv", "block2.norm", "block2.act"]);
    assert_eq!(child.graph.layer("block2.conv").unwrap().inputs, std::slice::from_ref(&block.input));
    assert!(
        matches!(child.graph.layer("block2.conv").unwrap().kind, Kind::Conv(conv) if !conv.bias && conv.stride == [1, 1])
    );
    assert_eq!(child.weights["block2.norm.running_var"].data, [1.0; 12]);

    let parent = build("vgg16", 0.1);
    let block = block::find(&parent.graph).swap_remove(1);
    let child = surgery::compress(&parent, &[(block.clone(), CONV3)]).unwrap();
    assert_eq!(surgery::substitute_layers(&block, &child), ["block2.conv", "block2.act"]);
    assert!(child.weights.contains_key("block2.conv.bias"));

    // A stage that begins with stride 2.
    let parent = build("cifar-resnet20", 1.0);
    let block = block::find(&parent.graph).swap_remove(2);
    let child = surgery::compress(&parent, &[(block, CONV3)]).unwrap();
    assert!(matches!(child.graph.layer("block3.conv").unwrap().kind, Kind::Conv(conv) if conv.stride == [2, 2]));
}

#[test]
fn names_of_substitutes_are_parsed() {
    let names = [
        "conv3x3",
        "conv1x1g4",
        "linear",
        "drop",
        "separable5x5",
        "conv1x1+skip",
        "linear+skip",
        "separable3x3+skip",
        "attention",
        "mlp",
    ];
    for name in names {
        assert_eq!(name.parse::<Substitute>().unwrap().to_string(), name);
    }
    for name in
        ["drop+skip", "mlp+skip", "conv3x5", "separable3x3g2", "separable", "conv1x1+skip+skip", "+skip", "conv0x0"]
    {
        let message = name.parse::<Substitute>().unwrap_err().to_string();
        assert!(message.contains(&format!("`{name}`")) && message.contains("separable3x3"), "{message}");
    }
}

#[test]
fn separable_substitutes_and_those_with_a_skip() {
    let parent = build("cifar-resnet20", 0.5);
    let blocks = block::find(&parent.graph);
    let replaced = |block: &Block, name: &str| surgery::compress(&parent, &[(block.clone(), name.parse().unwrap())]);
    // A stage that begins with stride 2: the depthwise convolution has it.
    let child = replaced(&blocks[1], "separable3x3").unwrap();
    child.check().unwrap();
    let names = surgery::substitute_layers(&blocks[1], &child);
    assert_eq!(names, ["block2.depthwise", "block2.conv", "block2.norm", "block2.act"]);
    let kind = |name: &str| child.graph.layer(name).unwrap().kind.as_convolution().unwrap();
    let (depthwise, pointwise) = (kind("block2.depthwise"), kind("block2.conv"));
    assert_eq!((depthwise.groups, depthwise.filters, depthwise.stride, depthwise.bias), (8, 8, [2, 2], false));
    assert_eq!((pointwise.kernel, pointwise.filters, pointwise.stride, pointwise.bias), ([1, 1], 16, [1, 1], false));
    let map = surgery::affine_map(&blocks[1], &child).unwrap();
    assert!(map.separable && !map.skip && map.conv.groups == 1 && map.conv.filters == 16 && map.conv.kernel == [3, 3]);
    // 9 for each of 8 channels, 8 for each of 16 filters.
    let weights: usize =
        ["depthwise", "conv"].map(|part| child.weights[&format!("block2.{part}.weight")].data.len()).iter().sum();
    assert_eq!(weights, 9 * 8 + 8 * 16);

    let child = replaced(&blocks[0], "conv3x3+skip").unwrap();
    child.check().unwrap();
    let names = surgery::substitute_layers(&blocks[0], &child);
    assert_eq!(names, ["block1.conv", "block1.norm", "block1.skip", "block1.act"]);
    assert_eq!(child.graph.layer("block1.skip").unwrap().inputs, [blocks[0].input.clone(), "block1.norm".into()]);
    assert!(surgery::affine_map(&blocks[0], &child).unwrap().skip);
    let message = replaced(&blocks[1], "separable3x3+skip").unwrap_err().to_string();
    assert!(
        message.contains("8x32x32") && message.contains("16x16x16") && message.ends_with("use separable3x3"),
        "{message}"
    );

    // The skip begins at what an earlier substitute has made of the block's input.
    let both = [
        (blocks[0].clone(), CONV3),
        (block::range(&parent.graph, "x", "layer2.1.conv1", "layer2.1.relu").unwrap(), "conv1x1+skip".parse().unwrap()),
    ];
    let child = surgery::compress(&parent, &both).unwrap();
    child.check().unwrap();
    assert_eq!(child.graph.layer("x.skip").unwrap().inputs, ["layer2.0.relu", "x.norm"]);
}

#[test]
fn prelu_slopes_are_kept() {
    let prelu = Kind::Activation(Activation::Prelu);
    let parent =
        random_network(chain(Shape::new(2, 6, 6), vec![("a", conv(3, 3)), ("b", conv(3, 3)), ("c", prelu)]), 2);
    let block = block::range(&parent.graph, "x", "a", "c").unwrap();
    let child = surgery::compress(&parent, &[(block, CONV3)]).unwrap();
    child.check().unwrap();
    assert_eq!(child.weights["x.act.weight"], parent.weights["c.weight"]);
}

#[test]
fn geometry_of_substitutes() {
    let valid = |filters, kernel| Kind::Conv(Conv { padding: Padding::default(), ..Conv::same(filters, kernel) });
    let pool = Kind::MaxPool(Window { kernel: [3; 2], stride: [2; 2], padding: Padding::all(1) });
    let parent = random_network(
        chain(Shape::new(2, 13, 14), vec![("a", valid(4, 3)), ("b", valid(4, 3)), ("c", pool), ("d", conv(6, 3))]),
        3,
    );
    let check = |first: &str, last: &str, kernel: usize, groups: usize| {
        let block = block::range(&parent.graph, "x", first, last).unwrap();
        surgery::compress(&parent, &[(block, Substitute::Conv { kernel, groups })]).map(|child| child.check().unwrap())
    };
    check("a", "b", 5, 1).unwrap();
    check("a", "b", 7, 2).unwrap();
    check("a", "d", 3, 2).unwrap();
    check("d", "d", 2, 1).unwrap();
    let message = check("a", "b", 3, 1).unwrap_err().to_string();
    assert!(message.contains("3x3") && message.contains("2x13x14") && message.contains("kernel"), "{message}");
    let message = check("a", "b", 5, 3).unwrap_err().to_string();
    assert!(message.contains("groups"), "{message}");
}

#[test]
fn drop_needs_equal_shapes() {
    let parent = build("cifar-resnet20", 0.5);
    let unit = block::range(&parent.graph, "unit", "layer2.1.conv1", "layer2.1.relu").unwrap();
    let child = surgery::compress(&parent, &[(unit.clone(), Substitute::Drop)]).unwrap();
    child.check().unwrap();
    assert!(surgery::substitute_layers(&unit, &child).is_empty());
    assert_eq!(child.graph.layer("layer2.2.conv1").unwrap().inputs, ["layer2.0.relu"]);
    let stage = block::find(&parent.graph).swap_remove(1);
    let message = surgery::compress(&parent, &[(stage, Substitute::Drop)]).unwrap_err().to_string();
    assert!(message.contains("8x32x32") && message.contains("16x16x16"), "{message}");
    // At the network's end, the output moves.
    let parent = random_network(chain(Shape::new(2, 6, 6), vec![("a", conv(2, 3)), ("b", conv(2, 3))]), 1);
    let block = block::range(&parent.graph, "x", "b", "b").unwrap();
    assert_eq!(surgery::compress(&parent, &[(block, Substitute::Drop)]).unwrap().graph.output, "a");
}

#[test]
fn adjacent_blocks_can_be_replaced_together_and_overlapping_ones_cannot() {
    let layers = vec![("a", conv(4, 3)), ("b", conv(4, 3)), ("c", conv(4, 3)), ("d", conv(4, 3)), ("e", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 1);
    let range = |name, first, last| block::range(&parent.graph, name, first, last).unwrap();
    let child =
        surgery::compress(&parent, &[(range("y", "c", "d"), CONV3), (range("x", "a", "b"), Substitute::Drop)]).unwrap();
    let names: Vec<&str> = child.graph.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["y.conv", "e"]);
    assert_eq!(child.graph.layers[0].inputs, [INPUT]);
    for other in [range("y", "b", "c"), range("y", "a", "a"), range("y", "b", "e")] {
        let message =
            surgery::compress(&parent, &[(range("x", "a", "b"), CONV3), (other, CONV3)]).unwrap_err().to_string();
        assert!(message.contains("overlaps"), "{message}");
    }
    let same = surgery::compress(&parent, &[(range("x", "a", "b"), CONV3), (range("x", "c", "d"), CONV3)]);
    assert!(same.unwrap_err().to_string().contains("x.conv"));
    let mut foreign = range("x", "a", "b");
    foreign.input = "c".into();
    assert!(surgery::compress(&parent, &[(foreign, CONV3)]).is_err());
}

#[test]
fn linear_substitutes() {
    let dense = |features| Kind::Linear(layer::Linear { features, bias: true });
    let layers = vec![("f", Kind::Flatten), ("a", dense(9)), ("b", relu()), ("c", dense(5)), ("d", relu())];
    let parent = random_network(chain(Shape::new(2, 2, 2), layers), 1);
    let block = block::range(&parent.graph, "x", "a", "d").unwrap();
    let child = surgery::compress(&parent, &[(block.clone(), Substitute::Linear)]).unwrap();
    child.check().unwrap();
    assert_eq!(surgery::substitute_layers(&block, &child), ["x.linear", "x.act"]);
    assert_eq!(child.weights["x.linear.weight"].shape, [5, 8]);
    let parent = random_network(chain(Shape::new(2, 6, 6), vec![("a", conv(2, 3)), ("b", norm())]), 1);
    let block = block::range(&parent.graph, "x", "a", "b").unwrap();
    let message = surgery::compress(&parent, &[(block, Substitute::Linear)]).unwrap_err().to_string();
    assert!(message.contains("conv3x3"), "{message}");
}

#[test]
fn a_substitute_for_a_vector_ends_with_flatten() {
    let dense = |features| Kind::Linear(layer::Linear { features, bias: true });
    let layers =
        vec![("a", conv(4, 3)), ("b", relu()), ("f", Kind::Flatten), ("c", dense(9)), ("d", relu()), ("e", dense(5))];
    let parent = random_network(chain(Shape::new(2, 3, 3), layers), 1);
    let one = Substitute::Conv { kernel: 3, groups: 1 };
    for (last, shape, then) in [("e", [5, 1, 1], None), ("d", [9, 1, 1], Some("e"))] {
        let block = block::range(&parent.graph, "x", "a", last).unwrap();
        let child = surgery::compress(&parent, &[(block.clone(), one)]).unwrap();
        child.check().unwrap();
        assert_eq!(surgery::substitute_layers(&block, &child).last().map(String::as_str), Some("x.flatten"));
        assert_eq!(child.graph.shape_of("x.flatten").unwrap(), Shape::new(shape[0], shape[1], shape[2]));
        assert_eq!(child.graph.output, then.unwrap_or("x.flatten"));
    }
    // A feature map stays one, with one position too.
    let parent = random_network(
        chain(
            Shape::new(2, 3, 3),
            vec![("a", conv(2, 3)), ("p", Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }))],
        ),
        1,
    );
    let block = block::range(&parent.graph, "x", "a", "p").unwrap();
    let child = surgery::compress(&parent, &[(block, one)]).unwrap();
    assert_eq!(child.graph.output, "x.conv");
}

#[test]
fn reinit_changes_the_block_alone() {
    let parent = build("vgg16_bn", 0.1);
    let block = block::find(&parent.graph).swap_remove(2);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let child = surgery::reinit(&parent, &block, &mut rng).unwrap();
    child.check().unwrap();
    assert_eq!(child.graph, parent.graph);
    for (key, tensor) in &child.weights {
        let inside = block.layers.iter().any(|layer| key.starts_with(&format!("{layer}.")));
        assert_eq!(*tensor != parent.weights[key], inside, "{key}");
    }
}

/// The scale of attention, for instance, is no weight.
#[test]
fn constants_are_not_re_initialised() {
    let parent = random_network(chain(Shape::new(2, 6, 6), vec![("a", conv(2, 3)), ("scale", Kind::Affine)]), 1);
    let constants = parent.constants();
    assert_eq!(constants.keys().collect::<Vec<_>>(), ["scale.bias", "scale.weight"]);
    let block = block::range(&parent.graph, "x", "a", "scale").unwrap();
    let child = surgery::reinit(&parent, &block, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
    assert_ne!(child.weights["a.weight"], parent.weights["a.weight"]);
    assert_eq!(child.constants(), constants);
}

#[test]
fn slices_compute_the_same_tensors() {
    let parent = build("cifar-resnet20", 0.25);
    let image = Values::random(parent.graph.input, 3);
    let block = block::find(&parent.graph).swap_remove(1);
    let part = slice::between(&parent, &block.input, &block.output).unwrap();
    part.check().unwrap();
    assert_eq!(part.graph.layers.len(), block.layers.len());
    let inside = reference::tensor(&parent, &image, &block.input);
    assert_eq!(reference::run(&part, &inside).data, reference::tensor(&parent, &image, &block.output).data);

    let head = slice::between(&parent, INPUT, &block.input).unwrap();
    head.check().unwrap();
    assert_eq!(head.graph.input, parent.graph.input);
    let error = slice::between(&parent, "layer1.1.conv1", "layer1.1.add").unwrap_err().to_string();
    assert!(error.contains("layer1.1.conv1"), "{error}");
    assert!(slice::between(&parent, "nowhere", "linear").is_err());
    assert!(slice::between(&parent, "linear", "conv1").is_err());
    let same = slice::between(&parent, "relu", "relu").unwrap();
    assert_eq!(
        reference::run(&same, &Values::random(same.graph.input, 1)).shape,
        parent.graph.shape_of("relu").unwrap()
    );
}

#[test]
fn substitutes_as_text() {
    for text in ["conv3x3", "conv1x1", "conv3x3g4", "linear", "drop"] {
        let substitute: Substitute = text.parse().unwrap();
        assert_eq!(substitute.to_string(), text);
        let json = serde_json::to_string(&substitute).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Substitute>(&json).unwrap(), substitute);
    }
    for text in
        ["conv", "conv3", "conv3x5", "conv0x0", "conv3x3g0", "conv3x3g", "Conv3x3", "", "conv99999999999x99999999999"]
    {
        assert!(text.parse::<Substitute>().unwrap_err().to_string().contains("conv3x3"), "{text}");
    }
}

#[test]
fn a_block_of_another_graph_is_refused() {
    let parent = build("vgg11", 0.1);
    let block = block::find(&parent.graph).swap_remove(0);
    let mut other = parent.clone();
    other.graph = Graph { layers: other.graph.layers.split_off(5), ..other.graph };
    assert!(surgery::compress(&other, &[(block, CONV3)]).is_err());
}
