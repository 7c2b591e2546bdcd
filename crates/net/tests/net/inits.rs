//! The defining property of every init.

use nettriage_net::block::{self, Block};
use nettriage_net::init::{self, Init, InitMethod, InitProblem, InitialValues};
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{Conv, Error, INPUT, Kind, Layer, Network, Padding, Shape, Tensor, Window, layer, slice};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::reference::{self, Values, chain, conv, norm, random_network, relu};

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

fn child_of(parent: &Network, block: &Block, substitute: Substitute, init: Init) -> Network {
    let mut child = surgery::compress(parent, &[(block.clone(), substitute)]).unwrap();
    init::apply(init, &mut child, parent, block, &mut rng()).unwrap();
    child.check().unwrap();
    child
}

fn convolution(kernel: usize) -> Substitute {
    Substitute::Conv { kernel, groups: 1 }
}

/// The largest difference over the largest value, `border` rows and columns left out on each side.
fn difference(a: &Values, b: &Values, border: usize) -> f64 {
    assert_eq!(a.shape, b.shape);
    let (mut largest, mut scale) = (0.0f64, 0.0f64);
    for c in 0..a.shape.channels {
        for y in border..a.shape.height - border {
            for x in border..a.shape.width - border {
                let (p, q) = (a.at(c, y as i64, x as i64), b.at(c, y as i64, x as i64));
                largest = largest.max((p - q).abs());
                scale = scale.max(q.abs());
            }
        }
    }
    largest / scale
}

/// A linear block followed by a ReLU, which the substitute keeps.
fn assert_collapse_is_exact(parent: &Network, block: &Block, kernel: usize, border: usize) {
    let child = child_of(parent, block, convolution(kernel), Init::Collapse);
    let image = Values::random(parent.graph.input, 3);
    let error = difference(&reference::run(&child, &image), &reference::run(parent, &image), border);
    assert!(error < 1e-5, "relative difference {error} with kernel {kernel}");
}

#[test]
fn collapse_equals_a_linear_block() {
    let layers = vec![
        ("a", conv(4, 3)),
        ("b", norm()),
        ("c", Kind::Conv(Conv { groups: 2, ..Conv::same(6, 3) })),
        ("d", norm()),
        ("e", relu()),
    ];
    let parent = random_network(chain(Shape::new(3, 9, 10), layers), 1);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    assert_collapse_is_exact(&parent, &block, 5, 2);
    assert_collapse_is_exact(&parent, &block, 7, 2);
    // A kernel that is too small leaves taps out and is no longer exact.
    let child = child_of(&parent, &block, convolution(3), Init::Collapse);
    let image = Values::random(parent.graph.input, 3);
    assert!(difference(&reference::run(&child, &image), &reference::run(&parent, &image), 2) > 1e-2);
}

#[test]
fn collapse_without_inner_padding_is_exact_to_the_border() {
    let valid = |filters, kernel| Kind::Conv(Conv { padding: Padding::default(), ..Conv::same(filters, kernel) });
    let layers = vec![("a", valid(4, 3)), ("b", valid(5, 2)), ("c", Kind::Affine)];
    let parent = random_network(chain(Shape::new(2, 8, 9), layers), 2);
    let block = block::range(&parent.graph, "x", "a", "c").unwrap();
    assert_collapse_is_exact(&parent, &block, 4, 0);
    // Also where the first layer alone pads: its zeros are the substitute's own.
    let layers = vec![("a", conv(4, 5)), ("b", conv(3, 1)), ("c", norm())];
    let parent = random_network(chain(Shape::new(2, 8, 9), layers), 3);
    let block = block::range(&parent.graph, "x", "a", "c").unwrap();
    assert_collapse_is_exact(&parent, &block, 5, 0);
}

#[test]
fn collapse_follows_strides_and_dilations() {
    let layers = vec![
        ("a", Kind::Conv(Conv { stride: [2, 2], ..Conv::same(4, 3) })),
        (
            "b",
            Kind::Conv(Conv {
                dilation: [2, 1],
                padding: Padding { top: 2, bottom: 2, left: 1, right: 1 },
                ..Conv::same(3, 3)
            }),
        ),
        ("c", relu()),
    ];
    let parent = random_network(chain(Shape::new(2, 21, 22), layers), 4);
    let block = block::range(&parent.graph, "x", "a", "c").unwrap();
    // Rows: 3 taps, then 3 taps 4 apart: 11; padded by 5 on both sides.
    assert_collapse_is_exact(&parent, &block, 11, 3);
}

#[test]
fn collapse_follows_sums_and_concatenations() {
    let layer = |name: &str, inputs: &[&str], kind: Kind| Layer {
        name: name.into(),
        inputs: inputs.iter().map(|input| input.to_string()).collect(),
        kind,
    };
    let halved = Window { kernel: [1; 2], stride: [2; 2], padding: Padding::default() };
    let strided = Kind::Conv(Conv { stride: [2, 2], ..Conv::same(6, 3) });
    let graph = nettriage_net::Graph {
        name: "unit".into(),
        input: Shape::new(4, 12, 12),
        layers: vec![
            layer("stem", &[INPUT], conv(4, 1)),
            layer("conv", &["stem"], strided),
            layer("norm", &["conv"], norm()),
            layer("cut", &["stem"], Kind::MaxPool(halved)),
            layer("pad", &["cut"], Kind::Pad(layer::Pad { channels: [1, 1], padding: Padding::default(), value: 0.0 })),
            layer("add", &["norm", "pad"], Kind::Add),
            layer("left", &["add"], conv(2, 3)),
            layer("right", &["add"], conv(3, 1)),
            layer("join", &["left", "right"], Kind::Concat(layer::Concat::default())),
        ],
        output: "join".into(),
    };
    let parent = random_network(graph, 5);
    let block = block::range(&parent.graph, "x", "conv", "join").unwrap();
    assert_eq!((block.input.as_str(), block.output.as_str()), ("stem", "join"));
    assert_collapse_is_exact(&parent, &block, 7, 1);
}

#[test]
fn collapse_of_linear_layers() {
    let dense = |features| Kind::Linear(layer::Linear { features, bias: true });
    let layers = vec![("a", dense(7)), ("b", dense(5)), ("c", norm()), ("d", relu())];
    let parent = random_network(chain(Shape::new(6, 1, 1), layers), 6);
    let block = block::range(&parent.graph, "x", "a", "d").unwrap();
    let child = child_of(&parent, &block, Substitute::Linear, Init::Collapse);
    let image = Values::random(parent.graph.input, 4);
    assert!(difference(&reference::run(&child, &image), &reference::run(&parent, &image), 0) < 1e-5);
}

#[test]
fn collapse_refuses_products_of_tensors() {
    let layer = |name: &str, inputs: &[&str], kind: Kind| Layer {
        name: name.into(),
        inputs: inputs.iter().map(|input| input.to_string()).collect(),
        kind,
    };
    let graph = nettriage_net::Graph {
        name: "se".into(),
        input: Shape::new(4, 6, 6),
        layers: vec![
            layer("a", &[INPUT], conv(4, 3)),
            layer("b", &["a"], conv(4, 3)),
            layer("c", &["a", "b"], Kind::Mul),
        ],
        output: "c".into(),
    };
    let parent = random_network(graph, 1);
    let block = block::range(&parent.graph, "x", "a", "c").unwrap();
    let mut child = surgery::compress(&parent, &[(block.clone(), convolution(3))]).unwrap();
    let error = init::apply(Init::Collapse, &mut child, &parent, &block, &mut rng()).unwrap_err().to_string();
    assert!(error.contains("`c`") && error.contains("multiply"), "{error}");
}

#[test]
fn set_affine_is_exact_and_calibrate_keeps_the_function() {
    let layers = vec![("a", conv(4, 3)), ("b", norm()), ("c", conv(5, 3)), ("d", norm()), ("e", relu())];
    let parent = random_network(chain(Shape::new(3, 6, 6), layers), 8);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    let mut child = surgery::compress(&parent, &[(block.clone(), convolution(3))]).unwrap();
    let weight = Values::random(Shape::new(5 * 3, 3, 3), 9).data.iter().map(|&w| w as f32).collect();
    let bias = [0.5, -0.25, 2.0, 0.0, -3.0];
    init::set_affine(&mut child, &block, Tensor::new(&[5, 3, 3, 3], weight), &bias).unwrap();
    child.check().unwrap();

    let image = Values::random(parent.graph.input, 10);
    let plain = reference::tensor(&child, &image, "x.conv");
    let normed = reference::tensor(&child, &image, "x.norm");
    for (index, (before, after)) in plain.data.iter().zip(&normed.data).enumerate() {
        let expected = before + f64::from(bias[index / 36]);
        assert!((after - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{after} for {expected}");
    }

    // With the statistics of the convolution's own output, the norm's output has mean `bias` in training mode, as in
    // evaluation mode.
    let statistics = |values: &Values, c: usize| {
        let part = &values.data[c * 36..(c + 1) * 36];
        let mean = part.iter().sum::<f64>() / 36.0;
        (mean, part.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 36.0)
    };
    let mean: Vec<f32> = (0..5).map(|c| statistics(&plain, c).0 as f32).collect();
    let variance: Vec<f32> = (0..5).map(|c| statistics(&plain, c).1 as f32).collect();
    init::calibrate(&mut child, &block, &mean, &variance).unwrap();
    assert_eq!(child.weights["x.norm.running_mean"].data, mean);
    assert_eq!(child.weights["x.norm.running_var"].data, variance);
    let again = reference::tensor(&child, &image, "x.norm");
    assert!(difference(&again, &normed, 0) < 1e-6);
    assert!(init::calibrate(&mut child, &block, &mean, &[-1.0; 5]).is_err());
    assert!(init::set_affine(&mut child, &block, Tensor::zeros(&[5, 3, 1, 1]), &bias).is_err());
}

#[test]
fn identity_outputs_its_input() {
    let layers = vec![("a", conv(4, 3)), ("b", norm()), ("c", conv(4, 3)), ("d", norm())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 11);
    let block = block::range(&parent.graph, "x", "a", "d").unwrap();
    let image = Values::random(parent.graph.input, 12);
    for substitute in [convolution(3), convolution(1), Substitute::Conv { kernel: 3, groups: 4 }] {
        let child = child_of(&parent, &block, substitute, Init::Identity);
        assert!(difference(&reference::run(&child, &image), &image, 0) < 1e-6, "{substitute}");
    }
    // A dropped block has no weight to set: its input is the input of the next layer.
    let inner = block::range(&parent.graph, "x", "b", "c").unwrap();
    let child = child_of(&parent, &inner, Substitute::Drop, Init::Identity);
    let kept = slice::between(&parent, INPUT, "a").unwrap();
    let (before, after) = (reference::run(&kept, &image), reference::tensor(&child, &image, "a"));
    assert_eq!(before.data, after.data);
    assert_eq!(child.graph.layer("d").unwrap().inputs, ["a"]);
}

#[test]
fn inits_in_closed_form_are_those_of_the_whole_where_a_skip_is_kept() {
    let layers = vec![("a", conv(6, 3)), ("b", norm()), ("c", conv(4, 3)), ("d", norm()), ("e", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 21);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    let image = Values::random(parent.graph.input, 22);
    for init in [Init::Identity, Init::Collapse] {
        for substitute in ["conv3x3", "conv1x1", "conv3x3g2", "separable3x3"] {
            let whole = child_of(&parent, &block, substitute.parse().unwrap(), init);
            let branch = child_of(&parent, &block, format!("{substitute}+skip").parse().unwrap(), init);
            let differs = difference(&reference::run(&branch, &image), &reference::run(&whole, &image), 0);
            // The nearest separable kernel of W is not that of W - 1.
            let nearest = substitute == "separable3x3" && init == Init::Collapse;
            assert!((differs < 1e-5) != nearest, "{substitute} {init}: {differs}");
        }
    }
    // The other inits are those of the branch.
    for init in [Init::First, Init::Last, Init::Mean, Init::He, Init::Xavier] {
        let whole = child_of(&parent, &block, convolution(3), init);
        let branch = child_of(&parent, &block, "conv3x3+skip".parse().unwrap(), init);
        assert_eq!(whole.weights, branch.weights, "{init}");
    }
}

/// A depthwise convolution with stride, then one of 1x1.
fn separable_block(shape: Shape) -> (Network, Block) {
    let depthwise = Conv { groups: 4, stride: [2; 2], bias: false, ..Conv::same(4, 3) };
    let layers = vec![("a", Kind::Conv(depthwise)), ("b", norm()), ("c", conv(6, 1)), ("d", norm()), ("e", relu())];
    let parent = random_network(chain(shape, layers), 23);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    (parent, block)
}

#[test]
fn a_separable_substitute_collapses_a_separable_block_exactly() {
    let (parent, block) = separable_block(Shape::new(4, 7, 8));
    let child = child_of(&parent, &block, "separable3x3".parse().unwrap(), Init::Collapse);
    let image = Values::random(parent.graph.input, 24);
    let outputs = [&child, &parent].map(|network| reference::run(network, &image));
    assert!(difference(&outputs[0], &outputs[1], 0) < 1e-5);
    assert!(outputs[0].data.iter().filter(|y| **y > 0.0).count() > 10);
}

#[test]
fn separable_substitutes_are_initialised_layer_by_layer() {
    let (parent, block) = separable_block(Shape::new(4, 7, 8));
    let separable = "separable3x3".parse().unwrap();
    let child = child_of(&parent, &block, separable, Init::First);
    assert_eq!(child.weights["x.depthwise.weight"], parent.weights["a.weight"]);
    assert_eq!(child.weights["x.conv.weight"], parent.weights["c.weight"]);
    assert_eq!(child.weights["x.norm.running_mean"].shape, [6]);
    let child = child_of(&parent, &block, separable, Init::He);
    assert!(
        ["depthwise", "conv"]
            .iter()
            .all(|part| child.weights[&format!("x.{part}.weight")].data.iter().any(|w| *w != 0.0))
    );
    // A block without a depthwise convolution has none to take.
    let layers = vec![("a", conv(4, 3)), ("b", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 25);
    let block = block::range(&parent.graph, "x", "a", "b").unwrap();
    let mut child = surgery::compress(&parent, &[(block.clone(), separable)]).unwrap();
    let message = init::apply(Init::First, &mut child, &parent, &block, &mut rng()).unwrap_err().to_string();
    assert!(message.contains("needs a depthwise convolution"), "{message}");
}

#[test]
fn separated_weights_are_the_nearest_product() {
    // Two filters over two channels with three taps; channel 1 is a product already.
    let weight = [3.0, 0.0, 0.0, 2.0, 4.0, 6.0, 0.0, 1.0, 0.0, -1.0, -2.0, -3.0];
    let (depthwise, pointwise) = init::separated(&weight, 2, 2, 3);
    let product =
        |filter: usize, channel: usize, tap: usize| pointwise[filter * 2 + channel] * depthwise[channel * 3 + tap];
    for tap in 0..3 {
        assert!((product(0, 1, tap) - weight[3 + tap]).abs() < 1e-6);
        assert!((product(1, 1, tap) - weight[9 + tap]).abs() < 1e-6);
    }
    // Of channel 0, the larger of two orthogonal filters stays.
    assert_eq!([0, 1, 2].map(|tap| product(0, 0, tap)), [3.0, 0.0, 0.0]);
    assert!((0..3).all(|tap| product(1, 0, tap).abs() < 1e-6));
    let (depthwise, pointwise) = init::separated(&[0.0; 12], 2, 2, 3);
    assert!(depthwise.iter().all(|w| w.is_finite()) && pointwise == [0.0; 4]);
}

#[test]
fn first_and_last_are_the_blocks_own_layers() {
    let layers = vec![("a", conv(4, 3)), ("b", norm()), ("c", conv(4, 3)), ("d", norm()), ("e", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 13);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    let image = Values::random(parent.graph.input, 14);
    for (init, from, to, conv, norm) in [(Init::First, INPUT, "b", "a", "b"), (Init::Last, "b", "d", "c", "d")] {
        let child = child_of(&parent, &block, convolution(3), init);
        assert_eq!(child.weights["x.conv.weight"], parent.weights[&format!("{conv}.weight")]);
        assert_eq!(child.weights["x.norm.running_var"], parent.weights[&format!("{norm}.running_var")]);
        // With channels and kernels equal, the substitute computes what that layer and its norm do, biases included.
        let own = slice::between(&parent, from, to).unwrap();
        let made = slice::between(&child, INPUT, "x.norm").unwrap();
        assert!(difference(&reference::run(&made, &image), &reference::run(&own, &image), 0) < 1e-6, "{init}");
    }
}

#[test]
fn first_is_adapted_where_shapes_differ() {
    let layers = vec![("a", conv(2, 5)), ("c", conv(3, 3)), ("e", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 15);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    let own = &parent.weights["a.weight"].data;
    let child = child_of(&parent, &block, convolution(3), Init::First);
    let weight = &child.weights["x.conv.weight"];
    assert_eq!(weight.shape, [3, 4, 3, 3]);
    // Filter 2 is filter 0 again; the 3x3 centre of the 5x5 kernel.
    for (filter, from) in [(0, 0), (1, 1), (2, 0)] {
        for (y, x) in [(0, 0), (1, 2), (2, 1)] {
            assert_eq!(weight.data[((filter * 4 + 3) * 3 + y) * 3 + x], own[((from * 4 + 3) * 5 + y + 1) * 5 + x + 1]);
        }
    }
    assert_eq!(child.weights["x.conv.bias"].data[2], parent.weights["a.bias"].data[0]);

    // `last` has 2 channels for 4: each is repeated, divided by the square root of 2.
    let child = child_of(&parent, &block, convolution(3), Init::Last);
    let (weight, own) = (&child.weights["x.conv.weight"].data, &parent.weights["c.weight"].data);
    let expected = own[9] * 0.5f32.sqrt();
    assert!((weight[9] - expected).abs() < 1e-6 && (weight[27] - expected).abs() < 1e-6);
}

#[test]
fn mean_is_the_mean() {
    let layers = vec![("a", conv(4, 3)), ("c", conv(4, 3)), ("d", conv(4, 3)), ("e", relu())];
    let parent = random_network(chain(Shape::new(4, 6, 6), layers), 16);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    let child = child_of(&parent, &block, convolution(3), Init::Mean);
    for part in ["weight", "bias"] {
        let own = |name: &str, index: usize| f64::from(parent.weights[&format!("{name}.{part}")].data[index]);
        for (index, &value) in child.weights[&format!("x.conv.{part}")].data.iter().enumerate() {
            let expected = ["a", "c", "d"].iter().map(|name| own(name, index)).sum::<f64>() / 3.0;
            assert!((f64::from(value) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn random_inits_have_their_variances() {
    let layers = vec![("a", conv(64, 3)), ("b", norm()), ("c", conv(64, 3)), ("d", norm()), ("e", relu())];
    let parent = random_network(chain(Shape::new(32, 4, 4), layers), 17);
    let block = block::range(&parent.graph, "x", "a", "e").unwrap();
    for (init, expected) in [(Init::He, 2.0 / (32.0 * 9.0)), (Init::Xavier, 2.0 / (96.0 * 9.0))] {
        let child = child_of(&parent, &block, convolution(3), init);
        let data = &child.weights["x.conv.weight"].data;
        let square = data.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / data.len() as f64;
        // 18,432 weights: the mean square of normal ones has a standard error of 1%.
        assert!((square / expected - 1.0).abs() < 0.05, "{init}: {square} for {expected}");
        assert_eq!(child.weights["x.norm.weight"].data, [1.0; 64]);
        if init == Init::Xavier {
            let bound = (6.0f32 / (96.0 * 9.0)).sqrt();
            assert!(data.iter().all(|w| w.abs() <= bound));
        }
    }
}

#[test]
fn names_are_parsed() {
    for name in ["xavier", "first", "last", "mean", "collapse", "least-squares", "identity"] {
        assert_eq!(name.parse::<Init>().unwrap().to_string(), name);
    }
    assert_eq!("random".parse::<Init>().unwrap(), Init::He);
    assert_eq!("he".parse::<Init>().unwrap(), Init::He);
    assert!("median".parse::<Init>().unwrap_err().to_string().contains("least-squares"));
    let parent = random_network(chain(Shape::new(4, 6, 6), vec![("a", conv(4, 3)), ("b", conv(4, 3))]), 1);
    let block = block::range(&parent.graph, "x", "a", "b").unwrap();
    let mut child = surgery::compress(&parent, &[(block.clone(), convolution(3))]).unwrap();
    assert!(init::apply(Init::LeastSquares, &mut child, &parent, &block, &mut rng()).is_err());
    assert_eq!(init::target_tensor(&parent.graph, &block), "b");
}

/// Every weight the filter's number, every bias half of it.
struct Numbered;

impl InitMethod for Numbered {
    fn name(&self) -> &str {
        "numbered"
    }

    fn describe(&self) -> &str {
        "W[o] = o, b[o] = o / 2"
    }

    fn is_random(&self) -> bool {
        false
    }

    fn is_calibrated(&self) -> bool {
        true
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
        if problem.layer.filters > 100 {
            return Err(problem.error("too many filters to number"));
        }
        let bias = (0..problem.layer.filters).map(|filter| filter as f32 / 2.0).collect();
        Ok(InitialValues::Affine { weight: problem.layer.weight(|filter, _, _, _| filter as f32), bias })
    }
}

#[test]
fn a_registered_init_is_one_like_the_others() {
    assert!("numbered".parse::<Init>().is_err());
    let init = init::register(Numbered).unwrap();
    assert_eq!("numbered".parse::<Init>().unwrap(), init);
    assert_eq!(serde_json::to_string(&init).unwrap(), "\"numbered\"");
    assert_eq!(serde_json::from_str::<Init>("\"numbered\"").unwrap(), init);
    assert!(init::names().contains(&"numbered") && init::names().contains(&"least-squares"));
    assert!("median".parse::<Init>().unwrap_err().to_string().contains("numbered"));
    assert!(init::register(Numbered).unwrap_err().to_string().contains("already"));

    let parent = random_network(chain(Shape::new(4, 6, 6), vec![("a", conv(3, 3)), ("b", conv(3, 3))]), 1);
    let block = block::range(&parent.graph, "x", "a", "b").unwrap();
    let child = child_of(&parent, &block, convolution(3), init);
    assert_eq!(child.weights["x.conv.bias"].data, [0.0, 0.5, 1.0]);
    assert_eq!(child.weights["x.conv.weight"].data[35..37], [0.0, 1.0]);

    let parent = random_network(chain(Shape::new(1, 2, 2), vec![("a", conv(101, 1)), ("b", conv(101, 1))]), 1);
    let block = block::range(&parent.graph, "x", "a", "b").unwrap();
    let mut child = surgery::compress(&parent, &[(block.clone(), convolution(1))]).unwrap();
    let error = init::apply(init, &mut child, &parent, &block, &mut rng()).unwrap_err().to_string();
    assert_eq!(error, "block `x`: too many filters to number");
}

#[test]
fn names_of_registered_inits_are_checked() {
    struct Named(&'static str);
    impl InitMethod for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn describe(&self) -> &str {
            ""
        }
        fn is_random(&self) -> bool {
            true
        }
        fn is_calibrated(&self) -> bool {
            false
        }
        fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
            Err(problem.error("none"))
        }
    }
    for name in ["", "a b", "he", "random", "collapse", "x/y"] {
        assert!(init::register(Named(name)).is_err(), "{name}");
    }
}
