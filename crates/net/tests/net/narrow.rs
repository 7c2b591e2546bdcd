//! Units with fewer inner channels.

use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::block::{self, Block};
use nettriage_net::narrow::{self, Chain, Narrow};
use nettriage_net::{Conv, Graph, INPUT, Kind, Layer, Shape, cost};

use crate::reference::{self, Values, chain, conv, norm, random_network, relu};

/// All layers of a graph as one block.
fn whole(graph: &Graph) -> Block {
    block::range(graph, "all", &graph.layers[0].name, &graph.output).unwrap()
}

#[test]
fn channels_that_nothing_reads_can_be_left_out() {
    let depthwise = Conv { groups: 6, bias: false, ..Conv::same(6, 3) };
    let layers = vec![
        ("a", conv(6, 1)),
        ("an", norm()),
        ("ar", relu()),
        ("b", Kind::Conv(depthwise)),
        ("bn", norm()),
        ("c", conv(4, 3)),
        ("cn", norm()),
    ];
    let mut parent = random_network(chain(Shape::new(3, 5, 4), layers), 3);
    let [found] = narrow::chains(&parent.graph, &whole(&parent.graph)).try_into().unwrap();
    let through = ["an", "ar", "b", "bn"].map(str::to_owned).to_vec();
    let expected = Chain { producer: "a".into(), through, consumer: "c".into(), channels: 6 };
    assert_eq!((found.tensor(), &found), ("bn", &expected));
    let kept = [0, 2, 5];
    let weight = parent.weights.get_mut("c.weight").unwrap();
    for (at, value) in weight.data.iter_mut().enumerate() {
        // [filters, channels, 3, 3].
        if !kept.contains(&(at / 9 % 6)) {
            *value = 0.0;
        }
    }
    let child = narrow::narrow(&parent, &found, &kept).unwrap();
    child.check().unwrap();
    assert_eq!(child.graph.shape_of("bn").unwrap(), Shape::new(3, 5, 4));
    let image = Values::random(Shape::new(3, 5, 4), 9);
    let [before, after] = [&parent, &child].map(|network| reference::run(network, &image).data);
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-12), "{before:?} {after:?}");
    for wrong in [&[][..], &[1, 6], &[2, 1], &[1, 1]] {
        assert!(narrow::narrow(&parent, &found, wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_inner_channels_of_residual_units_are_found() {
    for (name, per_unit) in [("cifar-resnet20", 1), ("resnet18", 1), ("resnet50", 2)] {
        let spec = ArchSpec { width: 0.25, ..ArchSpec::named(name) };
        let network = random_network(arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap(), 1);
        let graph = &network.graph;
        let (mut units, mut macs) = (0, 0);
        for unit in block::units(graph) {
            let [first, last] = [unit.start, unit.end - 1].map(|at| graph.layers[at].name.clone());
            let block = block::range(graph, &unit.name, &first, &last).unwrap();
            let found = narrow::chains(graph, &block);
            if unit.products > 1 {
                assert_eq!(found.len(), per_unit, "{name} {}", unit.name);
                let child = narrow::narrowed_shape(&network, &block, Narrow { percent: 50 }).unwrap();
                child.check().unwrap();
                macs += cost::total(graph).unwrap().macs - cost::total(&child.graph).unwrap().macs;
                units += 1;
            } else {
                assert!(found.is_empty(), "{name} {}", unit.name);
                assert!(narrow::narrowed_shape(&network, &block, Narrow { percent: 50 }).is_err());
            }
        }
        assert!(units >= 8 && macs > 0, "{name}");
    }
}

#[test]
fn a_tensor_with_two_readers_is_no_chain() {
    let mut graph = chain(Shape::new(2, 4, 4), vec![("a", conv(3, 3)), ("r", relu()), ("b", conv(3, 3))]);
    graph.layers.push(Layer { name: "sum".into(), inputs: vec!["b".into(), "r".into()], kind: Kind::Add });
    graph.output = "sum".into();
    assert!(narrow::chains(&graph, &whole(&graph)).is_empty());
    assert_eq!(graph.layers[0].inputs, [INPUT]);
}

#[test]
fn names_of_narrower_units_are_parsed() {
    let narrow: Narrow = "narrow38".parse().unwrap();
    assert_eq!((narrow.percent, narrow.to_string()), (38, "narrow38".to_owned()));
    assert_eq!([1, 2, 16, 64].map(|channels| narrow.of(channels)), [1, 1, 6, 24]);
    for wrong in ["narrow", "narrow0", "narrow100", "narrow5x", "narrow-3", "narro50"] {
        assert!(wrong.parse::<Narrow>().unwrap_err().to_string().contains("narrow50"), "{wrong}");
    }
}
