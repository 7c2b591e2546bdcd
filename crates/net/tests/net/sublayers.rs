//! Attention and MLPs as substitutes.

use nettriage_net::block::{self, Block};
use nettriage_net::init::{self, Init};
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Layer, Network, Shape, Tensor, layer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::reference::{conv, random_network, relu};

/// Three encoder layers on five tokens of four channels; the hidden layers of their MLPs have 4, 8 and 8 channels.
fn transformer() -> Network {
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |name: String, inputs: &[&str], kind: Kind| {
        layers.push(Layer { name, inputs: inputs.iter().map(|&input| input.into()).collect(), kind });
    };
    let norm = || Kind::LayerNorm(layer::LayerNorm { eps: 1e-6, centred: true });
    let mut before = INPUT.to_owned();
    for (at, hidden) in [4, 8, 8].into_iter().enumerate() {
        let own = |part: &str| format!("blocks.{at}.{part}");
        add(own("norm1"), &[&before], norm());
        for part in ["q", "k", "v"] {
            add(own(&format!("attn.{part}")), &[&own("norm1")], conv(4, 1));
        }
        add(own("attn.scaled"), &[&own("attn.q")], Kind::Affine);
        add(
            own("attn.scores"),
            &[&own("attn.scaled"), &own("attn.k")],
            Kind::MatMul(layer::MatMul { transposed: true }),
        );
        add(own("attn.softmax"), &[&own("attn.scores")], Kind::Softmax(layer::Softmax { log: false }));
        add(
            own("attn.mixed"),
            &[&own("attn.softmax"), &own("attn.v")],
            Kind::MatMul(layer::MatMul { transposed: false }),
        );
        add(own("attn.proj"), &[&own("attn.mixed")], conv(4, 1));
        add(own("add1"), &[&before, &own("attn.proj")], Kind::Add);
        add(own("norm2"), &[&own("add1")], norm());
        add(own("mlp.fc1"), &[&own("norm2")], conv(hidden, 1));
        add(own("mlp.act"), &[&own("mlp.fc1")], Kind::Activation(Activation::Gelu { tanh: false }));
        add(own("mlp.fc2"), &[&own("mlp.act")], conv(4, 1));
        add(own("add2"), &[&own("add1"), &own("mlp.fc2")], Kind::Add);
        before = own("add2");
    }
    random_network(Graph { name: "t".into(), input: Shape::new(4, 1, 5), layers, output: before }, 1)
}

fn range(parent: &Network, first: &str, last: &str) -> Block {
    block::range(&parent.graph, "x", first, last).unwrap()
}

fn replaced(parent: &Network, block: &Block, name: &str) -> Result<Network, nettriage_net::Error> {
    surgery::compress(parent, &[(block.clone(), name.parse::<Substitute>().unwrap())])
}

fn kinds<'g>(graph: &'g Graph, first: &str, last: &str) -> Vec<&'g Kind> {
    let at = |name: &str| graph.position(name).unwrap();
    graph.layers[at(first)..=at(last)].iter().map(|layer| &layer.kind).collect()
}

#[test]
fn an_attention_or_an_mlp_is_a_copy_of_the_blocks_first_one() {
    let parent = transformer();
    let block = range(&parent, "blocks.1.norm1", "blocks.2.add2");
    for (name, first, last) in [("attention", "norm1", "add1"), ("mlp", "norm2", "add2")] {
        let mut child = replaced(&parent, &block, name).unwrap();
        child.check().unwrap();
        let [first, last] = [first, last].map(|part| format!("blocks.1.{part}"));
        let own = surgery::substitute_layers(&block, &child);
        let expected = kinds(&parent.graph, &first, &last);
        assert_eq!(own.len(), expected.len());
        assert_eq!(kinds(&child.graph, &own[0], &own[own.len() - 1]), expected);
        assert_eq!(child.graph.layer(&own[0]).unwrap().inputs, ["blocks.0.add2"]);
        assert_eq!(child.graph.output, own[own.len() - 1]);
        assert_eq!(surgery::affine_map(&block, &child), None);
        // Constants keep their values.
        if name == "attention" {
            assert_eq!(child.weights["x.attention.5.weight"], parent.weights["blocks.1.attn.scaled.weight"]);
        }
        init::apply(Init::First, &mut child, &parent, &block, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let from = parent.graph.position(&first).unwrap();
        for (name, source) in own.iter().zip(&parent.graph.layers[from..]) {
            for part in ["weight", "bias"] {
                let weight = |network: &Network, layer: &str| network.weights.get(&format!("{layer}.{part}")).cloned();
                assert_eq!(weight(&child, name), weight(&parent, &source.name), "{name}");
            }
        }
    }
}

#[test]
fn inits_of_a_copied_mlp() {
    let parent = transformer();
    let block = range(&parent, "blocks.1.norm1", "blocks.2.add2");
    let of = |init: Init, seed: u64| {
        let mut child = replaced(&parent, &block, "mlp").unwrap();
        init::apply(init, &mut child, &parent, &block, &mut ChaCha8Rng::seed_from_u64(seed)).map(|()| child)
    };
    let weight = |network: &Network, name: &str| network.weights[&format!("{name}.weight")].clone();
    assert_eq!(weight(&of(Init::Last, 1).unwrap(), "x.mlp.2"), weight(&parent, "blocks.2.mlp.fc1"));
    let mean = weight(&of(Init::Mean, 1).unwrap(), "x.mlp.4");
    let [one, two] = [1, 2].map(|at| weight(&parent, &format!("blocks.{at}.mlp.fc2")));
    for (at, mean) in mean.data.iter().enumerate() {
        assert!((mean - (one.data[at] + two.data[at]) / 2.0).abs() < 1e-6);
    }
    for init in [Init::He, Init::Xavier] {
        let child = of(init, 1).unwrap();
        child.check().unwrap();
        assert_eq!(child, of(init, 1).unwrap());
        assert_ne!(child, of(init, 2).unwrap());
        assert_eq!(child.weights["x.mlp.1.weight"].data, [1.0; 4]);
        assert!(child.weights["x.mlp.2.weight"].data.iter().all(|w| *w != 0.0));
        assert_eq!(child.weights["x.mlp.2.bias"].data, [0.0; 8]);
    }
    for init in [Init::Collapse, Init::LeastSquares, Init::Identity] {
        let message = of(init, 1).unwrap_err().to_string();
        assert!(message.contains(&format!("init {init} gives one affine map, which mlp is not")), "{message}");
    }
    // The first and the last MLP of a block may differ.
    let block = range(&parent, "blocks.0.norm1", "blocks.2.add2");
    let mut child = replaced(&parent, &block, "mlp").unwrap();
    let error = init::apply(Init::Last, &mut child, &parent, &block, &mut ChaCha8Rng::seed_from_u64(1));
    assert!(error.unwrap_err().to_string().contains("different structures"));
}

#[test]
fn a_block_without_a_sublayer_takes_the_networks_and_a_network_without_one_is_refused() {
    let parent = transformer();
    let attention = range(&parent, "blocks.2.norm1", "blocks.2.add1");
    let mut child = replaced(&parent, &attention, "mlp").unwrap();
    child.check().unwrap();
    let own = surgery::substitute_layers(&attention, &child);
    assert_eq!(kinds(&child.graph, &own[0], &own[4]), kinds(&parent.graph, "blocks.0.norm2", "blocks.0.add2"));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let message = init::apply(Init::First, &mut child, &parent, &attention, &mut rng).unwrap_err().to_string();
    assert!(message.contains("init first needs mlp in it"), "{message}");
    init::apply(Init::He, &mut child, &parent, &attention, &mut rng).unwrap();
    child.check().unwrap();

    let layers = ["a", "b", "c"].map(|name| Layer { name: name.into(), inputs: vec![INPUT.into()], kind: conv(4, 3) });
    let mut graph = Graph { name: "c".into(), input: Shape::new(4, 6, 6), layers: layers.to_vec(), output: "c".into() };
    graph.layers[1] = Layer { name: "b".into(), inputs: vec!["a".into()], kind: relu() };
    graph.layers[2].inputs = vec!["b".into()];
    let parent = random_network(graph.clone(), 1);
    let block = range(&parent, "a", "c");
    for name in ["attention", "mlp"] {
        let message = replaced(&parent, &block, name).unwrap_err().to_string();
        assert!(message.contains(&format!("there is no {name} from 4x6x6 to 4x6x6 in the network")), "{message}");
    }
    graph.layers[2].kind = Kind::Conv(Conv::same(5, 3));
    let parent = random_network(graph, 1);
    let message = replaced(&parent, &range(&parent, "a", "c"), "mlp").unwrap_err().to_string();
    assert!(message.contains("mlp keeps its input's shape, 4x6x6, and the block's output is 5x6x6"), "{message}");
}

#[test]
fn the_usual_substitute_follows_the_blocks() {
    let usual = |parent: &Network| surgery::usual(&parent.graph, &block::find(&parent.graph)).unwrap().to_string();
    let mut parent = transformer();
    assert_eq!(usual(&parent), "conv1x1+skip");
    // The last block changes its shape.
    parent.graph.layers.push(Layer {
        name: "wider".into(),
        inputs: vec![parent.graph.output.clone()],
        kind: conv(8, 1),
    });
    let mut blocks = vec![range(&parent, "blocks.0.norm1", "blocks.0.add2")];
    parent.graph.output = "wider".into();
    parent.weights.insert("wider.weight".into(), Tensor::zeros(&[8, 4, 1, 1]));
    blocks.push(range(&parent, "blocks.2.norm1", "wider"));
    assert_eq!(surgery::usual(&parent.graph, &blocks).unwrap().to_string(), "conv1x1");
    let depthwise = |groups: usize| {
        let kind = Kind::Conv(Conv { groups, ..Conv::same(4, 3) });
        let layers = vec![("a", conv(4, 1)), ("b", kind), ("c", conv(4, 1))];
        let parent = random_network(crate::reference::chain(Shape::new(4, 6, 6), layers), 1);
        surgery::usual(&parent.graph, &[range(&parent, "a", "c")]).unwrap().to_string()
    };
    assert_eq!([4, 2, 1].map(depthwise), ["separable3x3", "conv3x3", "conv3x3"]);
}
