//! What every engine must compute: the output and gradients of every layer, compared with an f64 reference and its central
//! differences.

use std::collections::BTreeSet;

use nettriage_engine::{Optimizer, Options, Trainable};
use nettriage_net::{
    Activation, Axis, Conv, Graph, INPUT, Kind, Network, Padding, Shape, Tensor, Weights, Window, layer,
};

use super::reference::{Batch, Weights64, run};
use super::{chain, distance, hashed, layer, network};

/// An engine under test.
pub trait Engine {
    /// A model of it, or why there is none.
    fn model(&self, network: &Network, options: &Options) -> Result<Box<dyn Model>, String>;
}

/// A model of any engine.
pub trait Model {
    fn forward(&mut self, images: &[f32]) -> Vec<f32>;
    fn forward_train(&mut self, images: &[f32], seed: u64) -> Vec<f32>;
    fn backward(&mut self, images: &[f32], output_gradient: &[f32]);
    fn backward_with(&mut self, images: &[f32], output_gradient: &[f32], inner: &[Vec<f32>]);
    fn step(&mut self, rate: f32, clip: Option<f32>);
    fn activation(&self, layer: &str) -> Option<Vec<f32>>;
    fn output_gradient(&self, layer: &str) -> Option<Vec<f32>>;
    fn gradient(&self, weight: &str) -> Option<Tensor>;
    fn weights(&self) -> Weights;
}

/// The engine of this workspace's own kernels.
pub struct Own;

impl Engine for Own {
    fn model(&self, network: &Network, options: &Options) -> Result<Box<dyn Model>, String> {
        let model = nettriage_engine::Model::new(network, options).map_err(|error| error.to_string())?;
        Ok(Box::new(model))
    }
}

impl Model for nettriage_engine::Model {
    fn forward(&mut self, images: &[f32]) -> Vec<f32> {
        self.forward(images).to_vec()
    }

    fn forward_train(&mut self, images: &[f32], seed: u64) -> Vec<f32> {
        self.forward_train(images, seed).to_vec()
    }

    fn backward(&mut self, images: &[f32], output_gradient: &[f32]) {
        self.backward(images, output_gradient);
    }

    fn backward_with(&mut self, images: &[f32], output_gradient: &[f32], inner: &[Vec<f32>]) {
        self.backward_with(images, output_gradient, inner);
    }

    fn step(&mut self, rate: f32, clip: Option<f32>) {
        self.step(rate, clip);
    }

    fn activation(&self, layer: &str) -> Option<Vec<f32>> {
        self.activation(layer).map(<[f32]>::to_vec)
    }

    fn output_gradient(&self, layer: &str) -> Option<Vec<f32>> {
        self.output_gradient(layer).map(<[f32]>::to_vec)
    }

    fn gradient(&self, weight: &str) -> Option<Tensor> {
        self.gradient(weight)
    }

    fn weights(&self) -> Weights {
        self.weights()
    }
}

/// The tests of an engine: `$engine` is a `&dyn Engine`, or `None` where the machine does not have it.
#[allow(unused_macros)]
macro_rules! engine_tests {
    ($engine:expr) => {
        common::suite::engine_tests!($engine; convolutions, transposed_convolutions, linear, norms, activations, pooling, sums_products_and_concatenations, layers_that_move_elements, broadcasts_and_joins, matrix_products, norms_of_one_image, layers_that_select_and_reduce, masks_do_not_train, fused_layers, norms_fused_with_pooling, a_residual_unit, layers_on_the_images, output_gradients_of_frozen_layers, losses_of_inner_tensors);
    };
    ($engine:expr; $($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                if let Some(engine) = $engine {
                    common::suite::$name(engine);
                }
            }
        )*
    };
}
#[allow(unused_imports)]
pub(crate) use engine_tests;

const IMAGES: usize = 3;

/// Puts layers that produce the input tensor "x" in front: image i of the batch is row i of the identity, which a linear layer maps
/// to column i of its weight and a reshape to a feature map. So the gradient of that weight is the gradient of x.
fn with_trainable_input(shape: Shape, layers: Vec<nettriage_net::Layer>, output: &str) -> Graph {
    let mut all = vec![
        layer("images", &[INPUT], Kind::Linear(layer::Linear { features: shape.elements(), bias: false })),
        layer("x", &["images"], Kind::Reshape(layer::Reshape { shape })),
    ];
    all.extend(layers);
    Graph { name: "test".into(), input: Shape::new(IMAGES, 1, 1), layers: all, output: output.into() }
}

/// Compares the output, and the gradients of all trainable weights for the loss sum of (coefficient x output).
fn check_training(engine: &dyn Engine, graph: Graph, trainable: Trainable, tolerance: f64) {
    check_weights(engine, graph, trainable, tolerance, |_| ());
}

/// As [`check_training`], with weights that `change` modifies.
fn check_weights(
    engine: &dyn Engine,
    graph: Graph,
    trainable: Trainable,
    tolerance: f64,
    change: impl Fn(&mut Weights),
) {
    check_losses(engine, graph, trainable, &[], tolerance, change);
}

/// As [`check_weights`], where the loss has such sums of the outputs of the layers `compared` too.
fn check_losses(
    engine: &dyn Engine,
    graph: Graph,
    trainable: Trainable,
    compared: &[&str],
    tolerance: f64,
    change: impl Fn(&mut Weights),
) {
    let mut network = network(graph, 7);
    change(&mut network.weights);
    // Elements of x up to 1, whatever the number of images.
    if let Some(images) = network.weights.get_mut("images.weight") {
        images.data = hashed(images.data.len(), 4, 1.0);
    }
    let graph = &network.graph;
    let names: BTreeSet<String> = match &trainable {
        Trainable::Layers(names) => names.clone(),
        _ => graph.layers.iter().filter(|l| l.kind != Kind::Affine).map(|l| l.name.clone()).collect(),
    };
    let n = IMAGES;
    let mut input = vec![0.0; n * graph.input.elements()];
    if graph.input.elements() == n {
        (0..n).for_each(|i| input[i * n + i] = 1.0);
    } else {
        input = hashed(input.len(), 3, 1.0);
    }
    let batch = Batch::from_nhwc(n, graph.input, &input);
    let weights: Weights64 =
        network.weights.iter().map(|(k, t)| (k.clone(), t.data.iter().map(|&v| f64::from(v)).collect())).collect();
    let outputs = |weights: &Weights64| -> Vec<Vec<f64>> {
        let tensors = run(graph, weights, &batch, &names);
        [graph.output.as_str()].iter().chain(compared).map(|&name| tensors[name].nhwc()).collect()
    };

    let owned = compared.iter().map(|&name| name.to_owned()).collect();
    let options = Options { trainable, compared: owned, ..Options::training(n, Optimizer::sgd()) };
    let mut model = engine.model(&network, &options).expect("a model");
    let want = outputs(&weights);
    let got = model.forward_train(&input, 1);
    assert!(distance(&got, &want[0]) < tolerance, "output of {:?}: {}", graph.layers.last(), distance(&got, &want[0]));
    for (name, want) in compared.iter().zip(&want[1..]) {
        assert!(distance(&model.activation(name).unwrap(), want) < tolerance, "{name}");
    }

    let coefficients: Vec<Vec<f32>> =
        want.iter().zip(55..).map(|(want, stream)| hashed(want.len(), stream, 1.0)).collect();
    match compared {
        [] => model.backward(&input, &coefficients[0]),
        _ => model.backward_with(&input, &coefficients[0], &coefficients[1..]),
    }
    let loss = |weights: &Weights64| -> f64 {
        let sum = |(y, c): (&Vec<f64>, &Vec<f32>)| y.iter().zip(c).map(|(y, &c)| y * f64::from(c)).sum::<f64>();
        outputs(weights).iter().zip(&coefficients).map(sum).sum()
    };
    let mut checked = 0;
    for (name, data) in &weights {
        let (owner, parameter) = name.rsplit_once('.').unwrap();
        let Some(gradient) = model.gradient(name) else {
            assert!(!names.contains(owner) || parameter.starts_with("running"), "{name} has no gradient");
            continue;
        };
        let step = 1e-5;
        let mut changed = weights.clone();
        // All elements of a small weight; of a large one, 24 spread over it (the stride is prime).
        let indices: Vec<usize> = (0..data.len().min(24)).map(|k| k * 7919 % data.len()).collect();
        let numeric: Vec<f64> = indices
            .iter()
            .map(|&i| {
                let mut at = |v: f64| {
                    changed.get_mut(name).unwrap()[i] = v;
                    loss(&changed)
                };
                let slope = (at(data[i] + step) - at(data[i] - step)) / (2.0 * step);
                at(data[i]);
                slope
            })
            .collect();
        let computed: Vec<f32> = indices.iter().map(|&i| gradient.data[i]).collect();
        let error = distance(&computed, &numeric);
        assert!(error < tolerance, "gradient of {name} in {:?}: {error}", graph.layers);
        checked += 1;
    }
    assert!(checked > 0);
}

/// Checks one layer of one input of `shape`.
fn check(engine: &dyn Engine, shape: Shape, kind: Kind) {
    check_training(engine, with_trainable_input(shape, vec![layer("y", &["x"], kind)], "y"), Trainable::All, 1e-5);
}

fn conv(
    filters: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
    bias: bool,
) -> Conv {
    let [top, bottom, left, right] = padding;
    Conv { filters, kernel, stride, padding: Padding { top, bottom, left, right }, dilation, groups, bias }
}

pub fn convolutions(engine: &dyn Engine) {
    let shape = Shape::new(4, 6, 5);
    check(engine, shape, Kind::Conv(Conv::same(3, 3)));
    check(engine, shape, Kind::Conv(conv(6, [3, 2], [2, 1], [1, 0, 0, 2], [1, 1], 2, true)));
    check(engine, shape, Kind::Conv(conv(4, [3, 3], [1, 1], [2, 2, 2, 2], [2, 2], 4, false)));
    check(engine, shape, Kind::Conv(conv(5, [1, 1], [1, 1], [0; 4], [1, 1], 1, true)));
    check(engine, shape, Kind::Conv(conv(5, [1, 1], [2, 2], [0; 4], [1, 1], 1, false)));
    check(engine, shape, Kind::Conv(conv(2, [6, 5], [1, 1], [0; 4], [1, 1], 1, true)));
}

pub fn transposed_convolutions(engine: &dyn Engine) {
    let shape = Shape::new(4, 3, 4);
    let transposed = |conv, output_padding| Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding });
    check(engine, shape, transposed(conv(3, [3, 3], [1, 1], [1; 4], [1, 1], 1, true), [0, 0]));
    check(engine, shape, transposed(conv(6, [2, 3], [2, 2], [0, 1, 1, 0], [1, 1], 2, true), [1, 0]));
    check(engine, shape, transposed(conv(2, [3, 3], [3, 2], [1; 4], [2, 1], 1, false), [2, 1]));
}

pub fn linear(engine: &dyn Engine) {
    check(engine, Shape::new(7, 1, 1), Kind::Linear(layer::Linear { features: 5, bias: true }));
    check(engine, Shape::new(7, 1, 1), Kind::Linear(layer::Linear { features: 1, bias: false }));
}

pub fn norms(engine: &dyn Engine) {
    let shape = Shape::new(3, 4, 2);
    let norm = Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 });
    check(engine, shape, norm.clone());
    check(engine, Shape::new(6, 1, 1), norm);
    check(
        engine,
        shape,
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size: 2, alpha: 0.7, beta: 0.75, bias: 1.3 }),
    );
    check(
        engine,
        Shape::new(7, 2, 1),
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size: 3, alpha: 2.0, beta: 0.5, bias: 1.0 }),
    );
    check(
        engine,
        Shape::new(4, 2, 1),
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size: 9, alpha: 2.0, beta: 0.5, bias: 1.0 }),
    );
    let named = ["images", "x", "y", "z"].map(String::from).into();
    let affine = vec![layer("y", &["x"], Kind::Affine), layer("z", &["y"], Kind::Activation(Activation::Relu))];
    check_training(engine, with_trainable_input(shape, affine, "z"), Trainable::Layers(named), 1e-5);
}

pub fn activations(engine: &dyn Engine) {
    use Activation::*;
    let all = [
        Relu,
        LeakyRelu { slope: 0.1 },
        Prelu,
        Clip { min: -0.3, max: 0.6 },
        Sigmoid,
        HardSigmoid { alpha: 0.9, beta: 0.4 },
        HardSwish,
        Silu,
        Gelu { tanh: false },
        Gelu { tanh: true },
        Mish,
        Tanh,
        Elu { alpha: 0.7 },
        Selu,
        Celu { alpha: 0.7 },
        Softplus,
        Abs,
        Atan,
        Erf,
        Exp,
        Power { exponent: 2.0 },
        Power { exponent: 3.0 },
        Power { exponent: 0.0 },
    ];
    for activation in all {
        check(engine, Shape::new(5, 3, 3), Kind::Activation(activation));
    }
    // Functions of positive numbers.
    for activation in [
        Log,
        Power { exponent: 0.5 },
        Power { exponent: -0.5 },
        Power { exponent: -1.0 },
        Power { exponent: -2.0 },
        Power { exponent: 1.7 },
    ] {
        let layers = vec![
            layer("positive", &["x"], Kind::Activation(Exp)),
            layer("y", &["positive"], Kind::Activation(activation)),
        ];
        check_training(engine, with_trainable_input(Shape::new(5, 2, 3), layers, "y"), Trainable::All, 1e-5);
    }
    // Inputs large enough to reach the constant ends of the function.
    let graph = with_trainable_input(
        Shape::new(5, 2, 2),
        vec![layer("wide", &["x"], Kind::Affine), layer("y", &["wide"], Kind::Activation(HardSwish))],
        "y",
    );
    let mut wide = network(graph, 9);
    wide.weights.get_mut("wide.weight").unwrap().data.fill(6.0);
    let mut model = engine.model(&wide, &Options::training(3, Optimizer::sgd())).unwrap();
    let input = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let output = model.forward_train(&input, 0);
    assert!(output.contains(&0.0) && output.iter().any(|&v| v > 3.0));
}

pub fn pooling(engine: &dyn Engine) {
    let window = |kernel, stride, [top, bottom, left, right]: [usize; 4]| Window {
        kernel,
        stride,
        padding: Padding { top, bottom, left, right },
    };
    let shape = Shape::new(20, 5, 6);
    for window in [
        Window::square(2),
        window([3, 3], [2, 2], [1; 4]),
        window([2, 3], [1, 2], [1, 0, 2, 1]),
        window([1, 2], [2, 3], [0; 4]),
        window([5, 6], [1, 1], [0; 4]),
    ] {
        check(engine, shape, Kind::MaxPool(window));
        check(engine, shape, Kind::AvgPool(layer::AvgPool { window, count_padding: true }));
        check(engine, shape, Kind::AvgPool(layer::AvgPool { window, count_padding: false }));
    }
    check(engine, Shape::new(20, 4, 6), Kind::MaxPool(Window::square(2)));
    for (height, width) in [(1, 1), (2, 3), (4, 4), (7, 8)] {
        check(engine, shape, Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height, width }));
    }
}

pub fn sums_products_and_concatenations(engine: &dyn Engine) {
    let shape = Shape::new(3, 4, 2);
    let pooled = || layer("mean", &["x"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }));
    for kind in [Kind::Add, Kind::Mul] {
        let layers = |inputs: &[&str]| {
            let gate = layer("gate", &["x"], Kind::Activation(Activation::Sigmoid));
            vec![
                pooled(),
                gate,
                layer("y", inputs, kind.clone()),
                layer("z", &["y"], Kind::Activation(Activation::Relu)),
            ]
        };
        for inputs in
            [&["x", "gate"][..], &["gate", "mean"], &["mean", "x", "gate"], &["x", "x"], &["gate", "gate", "gate"]]
        {
            let mut layers = layers(inputs);
            layers.retain(|l| inputs.contains(&l.name.as_str()) || l.name == "y" || l.name == "z");
            check_training(engine, with_trainable_input(shape, layers, "z"), Trainable::All, 1e-5);
        }
    }
    let parts = vec![
        layer("gate", &["x"], Kind::Activation(Activation::Tanh)),
        layer("slice", &["x"], Kind::Slice(layer::Slice { start: 1, end: 3 })),
        layer("y", &["gate", "x", "slice", "gate"], Kind::Concat(layer::Concat::default())),
    ];
    check_training(engine, with_trainable_input(shape, parts, "y"), Trainable::All, 1e-5);
}

/// Sums and products that are broadcast along any axes, and concatenation along rows and columns.
pub fn broadcasts_and_joins(engine: &dyn Engine) {
    let shape = Shape::new(3, 4, 2);
    let mean = |name: &str, axes: &[Axis]| {
        layer(name, &["x"], Kind::Reduce(layer::Reduce { function: layer::Reduction::Mean, axes: axes.to_vec() }))
    };
    let parts = [
        mean("channel", &[Axis::Channels]),
        mean("row", &[Axis::Rows]),
        mean("column", &[Axis::Columns]),
        mean("plane", &[Axis::Columns, Axis::Channels]),
    ];
    for kind in [Kind::Add, Kind::Mul] {
        for inputs in [
            &["x", "channel"][..],
            &["row", "x", "x"],
            &["column", "row"],
            &["plane", "row", "channel"],
            &["channel", "channel", "x"],
        ] {
            let mut layers: Vec<_> = parts.iter().filter(|l| inputs.contains(&l.name.as_str())).cloned().collect();
            layers.push(layer("y", inputs, kind.clone()));
            check_training(engine, with_trainable_input(shape, layers, "y"), Trainable::All, 1e-5);
        }
    }
    for (axis, part) in [(Axis::Rows, 1), (Axis::Columns, 2), (Axis::Channels, 0)] {
        let layers =
            vec![parts[part].clone(), layer("y", &["x", &parts[part].name, "x"], Kind::Concat(layer::Concat { axis }))];
        check_training(engine, with_trainable_input(shape, layers, "y"), Trainable::All, 1e-5);
    }
}

pub fn matrix_products(engine: &dyn Engine) {
    // A of 4 x 3 in two rows of the feature map; B of 3 x 5, made from the same input.
    let shape = Shape::new(3, 2, 4);
    for transposed in [false, true] {
        let other = if transposed { Shape::new(3, 2, 4) } else { Shape::new(4, 2, 3) };
        let layers = vec![
            layer("b", &["x"], Kind::Reshape(layer::Reshape { shape: other })),
            layer("bent", &["b"], Kind::Activation(Activation::Tanh)),
            layer("y", &["x", "bent"], Kind::MatMul(layer::MatMul { transposed })),
        ];
        check_training(engine, with_trainable_input(shape, layers, "y"), Trainable::All, 1e-5);
    }
    // Extents beyond a register and beyond a tile, none of them a multiple: A of 19 x 21, B of 21 x 35.
    for transposed in [false, true] {
        let (a, b) = (Shape::new(21, 1, 19), if transposed { Shape::new(21, 1, 35) } else { Shape::new(35, 1, 21) });
        let features = |shape: Shape| Kind::Linear(layer::Linear { features: shape.elements(), bias: false });
        let layers = vec![
            layer("flat_a", &["x"], features(a)),
            layer("a", &["flat_a"], Kind::Reshape(layer::Reshape { shape: a })),
            layer("flat_b", &["x"], features(b)),
            layer("b", &["flat_b"], Kind::Reshape(layer::Reshape { shape: b })),
            layer("y", &["a", "b"], Kind::MatMul(layer::MatMul { transposed })),
        ];
        check_training(engine, with_trainable_input(Shape::new(2, 1, 1), layers, "y"), Trainable::All, 1e-5);
    }
    // Attention (Vaswani et al., arXiv:1706.03762): queries, keys and values from one tensor.
    let conv = |name: &str| layer(name, &["x"], Kind::Conv(Conv::same(6, 1)));
    let heads = |name: &str, input: &str| {
        let shape = Shape::new(3, 2, 5);
        layer(name, &[input], Kind::Permute(layer::Permute { extents: vec![2, 3, 5], order: vec![1, 0, 2], shape }))
    };
    let layers = vec![
        conv("q"),
        conv("k"),
        conv("v"),
        heads("qh", "q"),
        heads("kh", "k"),
        heads("vh", "v"),
        layer("scores", &["qh", "kh"], Kind::MatMul(layer::MatMul { transposed: true })),
        layer("share", &["scores"], Kind::Softmax(layer::Softmax { log: false })),
        layer("y", &["share", "vh"], Kind::MatMul(layer::MatMul { transposed: false })),
    ];
    check_training(engine, with_trainable_input(Shape::new(4, 1, 5), layers, "y"), Trainable::All, 1e-5);
}

pub fn norms_of_one_image(engine: &dyn Engine) {
    for shape in [Shape::new(6, 2, 3), Shape::new(37, 1, 2), Shape::new(8, 1, 1)] {
        for centred in [true, false] {
            check(engine, shape, Kind::LayerNorm(layer::LayerNorm { eps: 1e-3, centred }));
        }
    }
    for groups in [1, 2, 6] {
        check(engine, Shape::new(6, 2, 3), Kind::GroupNorm(layer::GroupNorm { groups, eps: 1e-3 }));
    }
    // Groups wider than a register, and an instance norm of many channels.
    for groups in [2, 38] {
        check(engine, Shape::new(38, 1, 3), Kind::GroupNorm(layer::GroupNorm { groups, eps: 1e-3 }));
    }
}

pub fn layers_that_select_and_reduce(engine: &dyn Engine) {
    let shape = Shape::new(6, 3, 4);
    check(
        engine,
        shape,
        Kind::Permute(layer::Permute {
            extents: vec![2, 3, 3, 2, 2],
            order: vec![3, 0, 2, 4, 1],
            shape: Shape::new(4, 6, 3),
        }),
    );
    check(
        engine,
        shape,
        Kind::Permute(layer::Permute { extents: vec![6, 12], order: vec![0, 1], shape: Shape::new(6, 1, 12) }),
    );
    check(engine, shape, Kind::Gather(layer::Gather { axis: Axis::Channels, indices: vec![5, 0, 0, 3] }));
    check(engine, shape, Kind::Gather(layer::Gather { axis: Axis::Rows, indices: vec![2, 1, 0, 1, 2] }));
    check(engine, shape, Kind::Gather(layer::Gather { axis: Axis::Columns, indices: vec![1] }));
    for function in [layer::Reduction::Mean, layer::Reduction::Max] {
        for axes in [
            vec![Axis::Channels],
            vec![Axis::Rows],
            vec![Axis::Columns],
            vec![Axis::Columns, Axis::Channels],
            Axis::ALL.to_vec(),
        ] {
            check(engine, shape, Kind::Reduce(layer::Reduce { function, axes: axes.clone() }));
            check(engine, Shape::new(37, 2, 1), Kind::Reduce(layer::Reduce { function, axes }));
        }
    }
    for coordinates in [
        layer::Coordinates::HalfPixel,
        layer::Coordinates::PytorchHalfPixel,
        layer::Coordinates::AlignCorners,
        layer::Coordinates::Asymmetric,
    ] {
        for (height, width) in [(6, 8), (1, 1), (2, 7), (3, 4)] {
            check(engine, shape, Kind::Resize(layer::Resize { height, width, coordinates }));
        }
    }
    // A constant beside the image, of its shape and smaller.
    for own in [shape, Shape::new(1, 3, 1)] {
        let layers = vec![
            layer("token", &["x"], Kind::Constant(layer::Constant { shape: own, learned: true })),
            layer("y", &["x", "token"], Kind::Mul),
        ];
        check_training(engine, with_trainable_input(shape, layers, "y"), Trainable::All, 1e-5);
    }
}

/// A mask is no weight: nothing trains it unless it is named.
pub fn masks_do_not_train(engine: &dyn Engine) {
    let shape = Shape::new(2, 1, 3);
    let layers = vec![
        layer("mask", &["x"], Kind::Constant(layer::Constant { shape, learned: false })),
        layer("y", &["x", "mask"], Kind::Add),
    ];
    let network = network(with_trainable_input(shape, layers, "y"), 3);
    let model = engine.model(&network, &Options::training(IMAGES, Optimizer::sgd())).unwrap();
    assert!(model.gradient("mask.weight").is_none() && model.gradient("images.weight").is_some());
}

pub fn layers_that_move_elements(engine: &dyn Engine) {
    let shape = Shape::new(6, 2, 3);
    check(engine, shape, Kind::Flatten);
    check(engine, shape, Kind::Reshape(layer::Reshape { shape: Shape::new(4, 9, 1) }));
    check(engine, shape, Kind::ChannelShuffle(layer::ChannelShuffle { groups: 2 }));
    check(engine, shape, Kind::ChannelShuffle(layer::ChannelShuffle { groups: 3 }));
    check(engine, shape, Kind::Slice(layer::Slice { start: 2, end: 5 }));
    check(
        engine,
        shape,
        Kind::Pad(layer::Pad {
            channels: [1, 2],
            padding: Padding { top: 1, bottom: 0, left: 2, right: 1 },
            value: -0.5,
        }),
    );
    check(engine, shape, Kind::Upsample(layer::Upsample { factor: [2, 3] }));
    check(engine, shape, Kind::Softmax(layer::Softmax { log: false }));
    check(engine, shape, Kind::Softmax(layer::Softmax { log: true }));
    check(engine, Shape::new(37, 1, 2), Kind::Softmax(layer::Softmax { log: false }));
    check(engine, Shape::new(37, 1, 2), Kind::Softmax(layer::Softmax { log: true }));
    check(engine, shape, Kind::Identity);
    check(engine, shape, Kind::Dropout(layer::Dropout { p: 0.0 }));
}

/// Convolution, norm, ReLU and pooling run as one operation: every combination of trainable layers.
pub fn fused_layers(engine: &dyn Engine) {
    let shape = Shape::new(3, 5, 5);
    let relu = Kind::Activation(Activation::Relu);
    let norm = Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 });
    let clip = Kind::Activation(Activation::Clip { min: -0.4, max: 0.5 });
    for (bias, activation) in [(false, &relu), (true, &relu), (false, &clip), (true, &clip)] {
        for (middle, names) in [(Some(norm.clone()), "norm"), (Some(Kind::Affine), "affine"), (None, "none")] {
            for train in [
                &["images"][..],
                &["images", "conv"],
                &["images", "middle"],
                &["images", "conv", "middle"],
                &["conv"],
                &["middle"],
            ] {
                if middle.is_none() && train.contains(&"middle") {
                    continue;
                }
                let mut layers = vec![layer("conv", &["x"], Kind::Conv(Conv { bias, ..Conv::same(4, 3) }))];
                let mut before = "conv";
                if let Some(middle) = &middle {
                    layers.push(layer("middle", &["conv"], middle.clone()));
                    before = "middle";
                }
                layers.push(layer("activation", &[before], activation.clone()));
                layers.push(layer("pool", &["activation"], Kind::MaxPool(Window::square(2))));
                let train: BTreeSet<String> = train.iter().map(ToString::to_string).collect();
                println!("{names} bias {bias} {activation:?} train {train:?}");
                check_training(engine, with_trainable_input(shape, layers, "pool"), Trainable::Layers(train), 2e-5);
            }
        }
    }
    let head = vec![
        layer("flat", &["x"], Kind::Flatten),
        layer("hidden", &["flat"], Kind::Linear(layer::Linear { features: 9, bias: true })),
        layer("norm", &["hidden"], norm),
        layer("act", &["norm"], relu.clone()),
        layer("head", &["act"], Kind::Linear(layer::Linear { features: 4, bias: true })),
        layer("last", &["head"], relu),
    ];
    check_training(engine, with_trainable_input(shape, head, "last"), Trainable::All, 2e-5);
}

/// Pooling after a norm: with positive and negative weights, and weights so small that the norm cannot be inverted.
pub fn norms_fused_with_pooling(engine: &dyn Engine) {
    let shape = Shape::new(3, 6, 4);
    let relu = Kind::Activation(Activation::Relu);
    for with_relu in [false, true] {
        for weight in [[0.7, 0.5, 0.9, 1.1], [0.7, -0.5, 0.9, -1.1], [0.7, 1e-5, -0.5, -2e-5]] {
            let mut layers = vec![
                layer("conv", &["x"], Kind::Conv(Conv { bias: false, ..Conv::same(4, 3) })),
                layer("norm", &["conv"], Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 })),
            ];
            if with_relu {
                layers.push(layer("relu", &["norm"], relu.clone()));
            }
            let before = if with_relu { "relu" } else { "norm" };
            layers.push(layer("pool", &[before], Kind::MaxPool(Window::square(2))));
            check_weights(engine, with_trainable_input(shape, layers, "pool"), Trainable::All, 2e-5, |weights| {
                weights.get_mut("norm.weight").unwrap().data = weight.to_vec();
                weights.get_mut("norm.bias").unwrap().data = vec![0.1, 0.3, -0.2, 0.4];
            });
        }
    }
}

/// A residual unit whose input has three consumers.
pub fn a_residual_unit(engine: &dyn Engine) {
    let relu = || Kind::Activation(Activation::Relu);
    let norm = || Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 });
    let layers = vec![
        layer("c1", &["x"], Kind::Conv(Conv { bias: false, ..Conv::same(4, 3) })),
        layer("n1", &["c1"], norm()),
        layer("r1", &["n1"], relu()),
        layer("c2", &["r1"], Kind::Conv(Conv { bias: false, ..Conv::same(4, 3) })),
        layer("n2", &["c2"], norm()),
        layer("down", &["x"], Kind::Conv(Conv { bias: false, ..Conv::same(4, 1) })),
        layer("sum", &["n2", "down"], Kind::Add),
        layer("r2", &["sum"], relu()),
        layer("c3", &["r2"], Kind::Conv(Conv::same(4, 3))),
        layer("sum2", &["r2", "c3"], Kind::Add),
        layer("sum3", &["sum2", "r2"], Kind::Add),
        layer("mean", &["sum3"], Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })),
        layer("flat", &["mean"], Kind::Flatten),
        layer("head", &["flat"], Kind::Linear(layer::Linear { features: 3, bias: true })),
    ];
    check_training(engine, with_trainable_input(Shape::new(3, 4, 4), layers, "head"), Trainable::All, 1e-4);
}

/// Layers that read the images directly, without [`with_trainable_input`].
pub fn layers_on_the_images(engine: &dyn Engine) {
    let relu = Kind::Activation(Activation::Relu);
    let layers = [
        ("c1", Kind::Conv(Conv::same(5, 3))),
        ("r1", relu.clone()),
        ("p1", Kind::MaxPool(Window::square(2))),
        ("c2", Kind::Conv(Conv::same(6, 3))),
        ("r2", relu),
        ("flat", Kind::Flatten),
        ("head", Kind::Linear(layer::Linear { features: 4, bias: true })),
    ];
    check_training(engine, chain(Shape::new(2, 6, 6), &layers), Trainable::All, 1e-5);
}

/// Gradients of inner tensors of a network in which every layer is frozen, compared with central differences: a bias is added to
/// the tensor.
/// Gradients that enter at inner tensors: behind fused layers, at both sides of a sum, at the output, and at a layer that computes
/// nothing, whose tensor is that of the layer before it.
pub fn losses_of_inner_tensors(engine: &dyn Engine) {
    // Without bias: before a norm its gradient is zero but for rounding.
    let conv3 = |name: &str, input: &str| layer(name, &[input], Kind::Conv(Conv { bias: false, ..Conv::same(4, 3) }));
    let norm =
        |name: &str, input: &str| layer(name, &[input], Kind::BatchNorm(layer::BatchNorm { eps: 1e-3, momentum: 0.1 }));
    let relu = |name: &str, input: &str| layer(name, &[input], Kind::Activation(Activation::Relu));
    let unit = || {
        let layers = vec![
            conv3("a", "x"),
            norm("a_norm", "a"),
            relu("b", "a_norm"),
            conv3("c", "b"),
            norm("c_norm", "c"),
            layer("sum", &["c_norm", "b"], Kind::Add),
            relu("d", "sum"),
            layer("same", &["d"], Kind::Identity),
            layer("pool", &["same"], Kind::MaxPool(Window::square(2))),
            conv3("side", "pool"),
            relu("e", "pool"),
            layer("joined", &["e", "side"], Kind::Add),
            layer("f", &["joined"], Kind::Conv(Conv::same(3, 1))),
        ];
        with_trainable_input(Shape::new(4, 6, 4), layers, "f")
    };
    let cases: [&[&str]; 9] = [
        &["b"],
        &["d"],
        &["b", "d", "pool"],
        &["a", "a_norm", "sum"],
        &["side"],
        &["f", "e"],
        &["d", "same"],
        &["e"],
        &["x", "c_norm", "pool", "side", "f"],
    ];
    for compared in cases {
        check_losses(engine, unit(), Trainable::All, compared, 5e-5, |_| ());
    }
    // Frozen layers pass the gradient on, and end it.
    let trained = |names: &[&str]| Trainable::Layers(names.iter().map(|&name| name.to_owned()).collect());
    check_losses(engine, unit(), trained(&["c"]), &["b", "d", "pool"], 5e-5, |_| ());
    check_losses(engine, unit(), trained(&["side"]), &["side", "b"], 5e-5, |_| ());
    check_losses(engine, unit(), trained(&["a", "f"]), &["sum", "e"], 5e-5, |_| ());
}

pub fn output_gradients_of_frozen_layers(engine: &dyn Engine) {
    let bias = |name: &str, input: &str| layer(name, &[input], Kind::Affine);
    let relu = |name: &str, input: &str| layer(name, &[input], Kind::Activation(Activation::Relu));
    let conv3 = |name: &str, input: &str| layer(name, &[input], Kind::Conv(Conv::same(4, 3)));
    let layers = vec![
        conv3("a", INPUT),
        bias("a1", "a"),
        relu("b", "a1"),
        conv3("c", "b"),
        layer("sum", &["c", "b"], Kind::Add),
        relu("d", "sum"),
        layer("pool", &["d"], Kind::MaxPool(Window::square(2))),
        conv3("e", "pool"),
    ];
    let graph = Graph { name: "frozen".into(), input: Shape::new(3, 6, 4), layers, output: "e".into() };
    let network = network(graph, 5);
    let (n, names) = (2, ["a1", "b", "c", "d", "pool", "e"]);
    let input = hashed(n * 72, 3, 1.0);
    let coefficients = hashed(n * 4 * 6, 55, 1.0);
    let frozen = Trainable::Layers(BTreeSet::new());
    let keep_gradients = names.map(str::to_owned).to_vec();
    let options = Options { trainable: frozen, keep_gradients, ..Options::training(n, Optimizer::sgd()) };
    let mut model = engine.model(&network, &options).unwrap();
    model.forward_train(&input, 0);
    model.backward(&input, &coefficients);
    assert_eq!(model.weights(), network.weights, "nothing trains");
    assert!(model.output_gradient("sum").is_none());

    let batch = Batch::from_nhwc(n, network.graph.input, &input);
    let weights: Weights64 =
        network.weights.iter().map(|(k, t)| (k.clone(), t.data.iter().map(|&v| f64::from(v)).collect())).collect();
    for name in names {
        let found = model.output_gradient(name).unwrap();
        // The gradient of a bias is the sum of the tensor's gradient over images and positions.
        let mut graph = network.graph.clone();
        let at = graph.position(name).unwrap();
        graph
            .layers
            .iter_mut()
            .flat_map(|l| &mut l.inputs)
            .filter(|input| *input == name)
            .for_each(|i| *i = "biased".into());
        graph.layers.insert(at + 1, bias("biased", name));
        if graph.output == name {
            graph.output = "biased".into();
        }
        for channel in 0..4 {
            let loss = |step: f64| -> f64 {
                let mut weights = weights.clone();
                weights.insert("biased.weight".into(), vec![1.0; 4]);
                weights.insert("biased.bias".into(), (0..4).map(|c| if c == channel { step } else { 0.0 }).collect());
                let output = run(&graph, &weights, &batch, &BTreeSet::new())[&graph.output].nhwc();
                output.iter().zip(&coefficients).map(|(y, &c)| y * f64::from(c)).sum()
            };
            let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            let sum: f64 = found.iter().skip(channel).step_by(4).map(|&g| f64::from(g)).sum();
            assert!((slope - sum).abs() < 1e-4 * (1.0 + slope.abs()), "{name}, channel {channel}: {sum} and {slope}");
        }
    }
    let nothing = Options { keep_gradients: vec!["a".into()], ..Options::inference(n) };
    assert!(engine.model(&network, &nothing).is_err());
    let missing = Options { keep_gradients: vec!["missing".into()], ..options };
    assert!(engine.model(&network, &missing).is_err());
}
