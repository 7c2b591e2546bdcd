//! Shapes, costs and descriptions of layers.

use nettriage_net::{Axis, Conv, Graph, INPUT, Kind, Layer, Network, Padding, Shape, Window, cost, layer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::reference::{chain, conv, norm, random_network, relu};

fn shape_after(input: Shape, kind: Kind) -> Result<Shape, String> {
    chain(input, vec![("x", kind)]).output_shape().map_err(|error| error.to_string())
}

/// Worked examples of PyTorch's formulas for Conv2d, MaxPool2d and ConvTranspose2d (with floor).
#[test]
fn shapes_follow_pytorchs_formulas() {
    let input = Shape::new(4, 15, 10);
    let strided = Conv { stride: [2, 3], dilation: [2, 1], ..Conv::same(6, 3) };
    // (15 + 2 - 2*2 - 1) / 2 + 1 = 7; (10 + 2 - 2 - 1) / 3 + 1 = 4.
    assert_eq!(shape_after(input, Kind::Conv(strided)), Ok(Shape::new(6, 7, 4)));
    let uneven = Conv { padding: Padding { top: 0, bottom: 1, left: 2, right: 0 }, ..Conv::same(6, 4) };
    assert_eq!(shape_after(input, Kind::Conv(uneven)), Ok(Shape::new(6, 13, 9)));
    let pool = Window { kernel: [3; 2], stride: [2; 2], padding: Padding::all(1) };
    assert_eq!(shape_after(input, Kind::MaxPool(pool)), Ok(Shape::new(4, 8, 5)));
    // (15 - 1) * 2 - 2 * 1 + (3 - 1) + 1 + 1 = 30; (10 - 1) * 2 - 2 + 2 + 1 + 0 = 19.
    let conv = Conv { stride: [2, 2], ..Conv::same(6, 3) };
    assert_eq!(
        shape_after(input, Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding: [1, 0] })),
        Ok(Shape::new(6, 30, 19))
    );
    assert_eq!(shape_after(input, Kind::Flatten), Ok(Shape::new(600, 1, 1)));
    let pad = Kind::Pad(layer::Pad {
        channels: [1, 2],
        padding: Padding { top: 1, bottom: 0, left: 0, right: 3 },
        value: 0.0,
    });
    assert_eq!(shape_after(input, pad), Ok(Shape::new(7, 16, 13)));
    assert_eq!(shape_after(input, Kind::Upsample(layer::Upsample { factor: [2, 3] })), Ok(Shape::new(4, 30, 30)));
    let permute = layer::Permute { extents: vec![4, 15, 10], order: vec![1, 2, 0], shape: Shape::new(150, 1, 4) };
    assert_eq!(shape_after(input, Kind::Permute(permute)), Ok(Shape::new(150, 1, 4)));
    let gather = layer::Gather { axis: Axis::Rows, indices: vec![0, 14, 0] };
    assert_eq!(shape_after(input, Kind::Gather(gather)), Ok(Shape::new(4, 3, 10)));
    let reduce = layer::Reduce { function: layer::Reduction::Max, axes: vec![Axis::Channels, Axis::Columns] };
    assert_eq!(shape_after(input, Kind::Reduce(reduce)), Ok(Shape::new(1, 15, 1)));
    assert_eq!(shape_after(input, Kind::Slice(layer::Slice { start: 1, end: 3 })), Ok(Shape::new(2, 15, 10)));
}

#[test]
fn impossible_layers_are_refused_with_their_name() {
    let input = Shape::new(4, 5, 5);
    let cases = [
        (conv(0, 3), "no elements"),
        (Kind::Conv(Conv { groups: 3, ..Conv::same(6, 3) }), "groups"),
        (Kind::Conv(Conv { groups: 0, ..Conv::same(6, 3) }), "groups"),
        (Kind::Conv(Conv { stride: [0, 1], ..Conv::same(6, 3) }), "at least 1"),
        (Kind::Conv(Conv { padding: Padding::default(), ..Conv::same(6, 7) }), "does not fit"),
        (Kind::Conv(Conv { dilation: [usize::MAX; 2], ..Conv::same(6, 3) }), "overflows"),
        (Kind::Conv(Conv { padding: Padding::all(usize::MAX), ..Conv::same(6, 3) }), "overflows"),
        (conv(1 << 40, 3), "too large"),
        (Kind::Linear(layer::Linear { features: 3, bias: true }), "flatten"),
        (Kind::Linear(layer::Linear { features: usize::MAX, bias: true }), "flatten"),
        (Kind::MaxPool(Window { kernel: [2; 2], stride: [2; 2], padding: Padding::all(2) }), "padding"),
        (Kind::Reshape(layer::Reshape { shape: Shape::new(3, 5, 5) }), "number of elements"),
        (Kind::Reshape(layer::Reshape { shape: Shape::new(usize::MAX, 5, 5) }), "too large"),
        (Kind::ChannelShuffle(layer::ChannelShuffle { groups: 3 }), "groups"),
        (Kind::Slice(layer::Slice { start: 2, end: 5 }), "channels"),
        (Kind::Dropout(layer::Dropout { p: 1.0 }), "probability"),
        (Kind::Upsample(layer::Upsample { factor: [usize::MAX, 2] }), "too many"),
        (Kind::Add, "two inputs"),
        (Kind::MatMul(layer::MatMul { transposed: false }), "two inputs"),
        (Kind::Permute(layer::Permute { extents: vec![4, 5, 5], order: vec![0, 0, 1], shape: input }), "not an order"),
        (Kind::Permute(layer::Permute { extents: vec![4, 5], order: vec![0, 1], shape: input }), "not a tensor"),
        (
            Kind::Permute(layer::Permute { extents: vec![usize::MAX, 5], order: vec![0, 1], shape: input }),
            "not a tensor",
        ),
        (Kind::Gather(layer::Gather { axis: Axis::Columns, indices: vec![5] }), "position 5"),
        (Kind::Gather(layer::Gather { axis: Axis::Columns, indices: vec![] }), "no elements"),
        (Kind::Reduce(layer::Reduce { function: layer::Reduction::Mean, axes: vec![Axis::Rows; 2] }), "twice"),
        (Kind::GroupNorm(layer::GroupNorm { groups: 3, eps: 0.1 }), "groups"),
        (Kind::LayerNorm(layer::LayerNorm { eps: -1.0, centred: true }), "eps"),
        (Kind::Constant(layer::Constant { shape: Shape::new(1 << 40, 1, 1), learned: true }), "too large"),
    ];
    for (kind, part) in cases {
        let message = shape_after(input, kind.clone()).unwrap_err();
        assert!(message.starts_with("layer `x`: ") && message.contains(part), "{kind:?}: {message}");
        assert!(!message.contains('\n'));
    }
}

#[test]
fn inconsistent_graphs_are_refused() {
    let layer = |name: &str, inputs: &[&str], kind: Kind| Layer {
        name: name.into(),
        inputs: inputs.iter().map(|input| input.to_string()).collect(),
        kind,
    };
    let graph = |layers: Vec<Layer>, output: &str| Graph {
        name: "g".into(),
        input: Shape::new(4, 5, 5),
        layers,
        output: output.into(),
    };
    let fails = |graph: Graph, part: &str| {
        let message = graph.check().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    fails(graph(vec![layer("a", &["b"], relu()), layer("b", &[INPUT], relu())], "b"), "`b` is not an earlier layer");
    fails(graph(vec![layer("a", &[INPUT], relu()), layer("a", &["a"], relu())], "a"), "taken");
    fails(graph(vec![layer("input", &[INPUT], relu())], "input"), "taken");
    fails(graph(vec![layer("a b", &[INPUT], relu())], "a b"), "whitespace");
    fails(graph(vec![layer("a", &[INPUT], relu())], "z"), "`z`");
    fails(graph(vec![layer("a", &[INPUT], relu()), layer("b", &[INPUT], relu())], "b"), "nothing uses");
    fails(graph(vec![layer("a", &[INPUT], conv(4, 2)), layer("b", &["a", INPUT], Kind::Add)], "b"), "differ in shape");
    // A (C, 1, 1) tensor is broadcast: squeeze-and-excitation.
    let pooled = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 });
    let excite = graph(vec![layer("a", &[INPUT], pooled), layer("b", &[INPUT, "a"], Kind::Mul)], "b");
    assert_eq!(excite.output_shape().unwrap(), Shape::new(4, 5, 5));
}

#[test]
fn costs_are_counted_by_hand() {
    let grouped = Conv { groups: 2, bias: false, stride: [2, 2], ..Conv::same(6, 3) };
    let layers = vec![
        ("a", conv(8, 3)),
        ("n", norm()),
        ("b", Kind::Conv(grouped)),
        ("f", Kind::Flatten),
        ("l", Kind::Linear(layer::Linear { features: 10, bias: true })),
    ];
    let graph = chain(Shape::new(3, 8, 8), layers);
    let each: Vec<(u64, u64)> = cost::per_layer(&graph).unwrap().iter().map(|c| (c.parameters, c.macs)).collect();
    let (a, b, l) = ((8 * 27 + 8, 8 * 27 * 64), (6 * 4 * 9, 6 * 4 * 9 * 16), (96 * 10 + 10, 960));
    assert_eq!(each, [a, (16, 0), b, (0, 0), l]);
    assert_eq!(cost::total(&graph).unwrap().macs, a.1 + b.1 + l.1);
}

#[test]
fn layers_are_described() {
    let describe = |kind: Kind| Layer { name: "x".into(), inputs: vec![INPUT.into()], kind }.describe();
    assert_eq!(describe(conv(64, 3)), "conv 3x3, 64");
    let odd = Conv { stride: [2, 2], groups: 4, padding: Padding::default(), ..Conv::same(64, 3) };
    assert_eq!(describe(Kind::Conv(odd)), "conv 3x3, 64, stride 2, groups 4, padding 0");
    assert_eq!(describe(Kind::MaxPool(Window::square(2))), "max pool 2x2");
    assert_eq!(describe(relu()), "relu");
    assert_eq!(describe(Kind::Linear(layer::Linear { features: 10, bias: true })), "linear 10");
    assert_eq!(describe(Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })), "global average pool");
}

#[test]
fn weights_must_fit_the_graph() {
    let graph = chain(Shape::new(3, 4, 4), vec![("a", conv(4, 3)), ("n", norm())]);
    let network = random_network(graph, 1);
    network.check().unwrap();
    let mut broken = network.clone();
    let weight = broken.weights.remove("a.weight").unwrap();
    broken.weights.insert("b.weight".into(), weight);
    broken.weights.get_mut("n.bias").unwrap().data.pop();
    let message = broken.check().unwrap_err().to_string();
    for part in ["missing: a.weight", "unexpected: b.weight", "of another shape: n.bias"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn initial_weights_follow_the_seed() {
    let graph = chain(
        Shape::new(16, 4, 4),
        vec![("a", conv(64, 3)), ("f", Kind::Flatten), ("l", Kind::Linear(layer::Linear { features: 50, bias: true }))],
    );
    let make = |seed| Network::initialised(graph.clone(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
    let network = make(1);
    network.check().unwrap();
    assert_eq!(network, make(1));
    assert_ne!(network, make(2));
    let square = |key: &str| {
        let data = &network.weights[key].data;
        data.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / data.len() as f64
    };
    // 9,216 normal weights, variance 2 / 144; 51,200 uniform ones in ±1/32, variance a third of its square.
    assert!((square("a.weight") * 72.0 - 1.0).abs() < 0.06);
    assert!((square("l.weight") * 3072.0 - 1.0).abs() < 0.03);
    assert!(
        network.weights["l.weight"].data.iter().chain(&network.weights["l.bias"].data).all(|w| w.abs() <= 1.0 / 32.0)
    );
    assert!(network.weights["a.bias"].data.iter().all(|&b| b == 0.0));
}
