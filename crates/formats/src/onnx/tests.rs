//! Operators and patterns, each in a small model: which layers they become. That the layers compute the same values is
//! checked against onnxruntime elsewhere.

use prost::Message;

use nettriage_net::{Activation, Axis, Kind, Padding, Shape, layer};

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use super::{Layout, Model, ReadOptions, from_bytes};

/// Builds a model: nodes in order, constants by name.
#[derive(Default)]
struct Build {
    graph: GraphProto,
    opset: i64,
}

fn dims(list: &[i64]) -> TypeProto {
    let dim = |&extent: &i64| Dimension { value: (extent > 0).then_some(dimension::Value::DimValue(extent)) };
    let shape = TensorShapeProto { dim: list.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: DataType::Float.into(), shape: Some(shape) };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }
}

fn model(input: &[i64]) -> Build {
    let graph = GraphProto {
        name: "test".into(),
        input: vec![ValueInfoProto { name: "x".into(), r#type: Some(dims(input)) }],
        ..Default::default()
    };
    Build { graph, opset: 13 }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), ..Default::default() }
}

fn word(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: s.into(), ..Default::default() }
}

impl Build {
    fn opset(mut self, opset: i64) -> Build {
        self.opset = opset;
        self
    }

    fn floats(mut self, name: &str, dims: &[i64], data: &[f32]) -> Build {
        let float_data = data.to_vec();
        let (name, dims) = (name.into(), dims.to_vec());
        let tensor = TensorProto { name, dims, data_type: DataType::Float.into(), float_data, ..Default::default() };
        self.graph.initializer.push(tensor);
        self
    }

    fn counted(self, name: &str, dims: &[i64]) -> Build {
        let count: i64 = dims.iter().product();
        let data: Vec<f32> = (0..count).map(|i| i as f32).collect();
        self.floats(name, dims, &data)
    }

    fn number(self, name: &str, value: f32) -> Build {
        self.floats(name, &[], &[value])
    }

    fn list(mut self, name: &str, data: &[i64]) -> Build {
        self.graph.initializer.push(TensorProto {
            name: name.into(),
            dims: vec![data.len() as i64],
            data_type: DataType::Int64.into(),
            int64_data: data.to_vec(),
            ..Default::default()
        });
        self
    }

    fn node(mut self, op: &str, inputs: &str, output: &str, attribute: Vec<AttributeProto>) -> Build {
        self.graph.node.push(NodeProto {
            op_type: op.into(),
            input: inputs.split(' ').map(str::to_string).collect(),
            output: output.split(' ').map(str::to_string).collect(),
            attribute,
            ..Default::default()
        });
        self
    }

    fn read(mut self) -> Result<Model, String> {
        let last = self.graph.node.last().and_then(|node| node.output.first()).cloned().unwrap_or_default();
        self.graph.output = vec![ValueInfoProto { name: last, r#type: None }];
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: self.opset }];
        let model = ModelProto { graph: Some(self.graph), opset_import, ..Default::default() };
        from_bytes(&model.encode_to_vec(), &ReadOptions::default()).map_err(|error| error.to_string())
    }

    fn words(self) -> Vec<String> {
        let network = self.read().unwrap().into_network().unwrap();
        network.graph.layers.iter().map(|layer| layer.describe()).collect()
    }

    fn fails(self, parts: &[&str]) {
        let message = self.read().unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }
}

fn constants(model: &Model, key: &str) -> Vec<f32> {
    model.weights[key].to_floats()
}

#[test]
fn activations_are_recognised_by_their_values() {
    let x = || model(&[1, 2, 4, 4]);
    assert_eq!(x().node("Sigmoid", "x", "s", vec![]).node("Mul", "x s", "y", vec![]).words(), ["silu"]);
    let gelu = x().number("a", std::f32::consts::SQRT_2).number("one", 1.0).number("half", 0.5);
    let erf = gelu.node("Div", "x a", "d", vec![]).node("Erf", "d", "e", vec![]).node("Add", "e one", "f", vec![]);
    assert_eq!(erf.node("Mul", "x f", "g", vec![]).node("Mul", "g half", "y", vec![]).words(), ["gelu"]);
    let tanh =
        x().number("three", 3.0).number("c", 0.044715).number("r", 0.797_884_6).number("one", 1.0).number("half", 0.5);
    let tanh = tanh.node("Pow", "x three", "p", vec![]).node("Mul", "p c", "q", vec![]).node("Add", "x q", "s", vec![]);
    let tanh = tanh.node("Mul", "s r", "t", vec![]).node("Tanh", "t", "u", vec![]).node("Add", "u one", "v", vec![]);
    let tanh = tanh.node("Mul", "x half", "w", vec![]).node("Mul", "w v", "y", vec![]).read().unwrap();
    let [layer] = tanh.graph.layers.as_slice() else { panic!("{:?}", tanh.graph.layers) };
    assert_eq!(layer.kind, Kind::Activation(Activation::Gelu { tanh: true }));
    let mish = x().node("Softplus", "x", "s", vec![]).node("Tanh", "s", "t", vec![]);
    assert_eq!(mish.node("Mul", "x t", "y", vec![]).words(), ["mish"]);
    assert_eq!(x().opset(18).node("Mish", "x", "y", vec![]).words(), ["mish"]);
    let swish = x().number("three", 3.0).number("zero", 0.0).number("six", 6.0);
    let swish = swish.node("Add", "x three", "a", vec![]).node("Clip", "a zero six", "b", vec![]);
    let swish = swish.node("Mul", "x b", "c", vec![]).node("Div", "c six", "y", vec![]);
    assert_eq!(swish.words(), ["hard swish"]);
    let relu6 = x().number("zero", 0.0).number("six", 6.0);
    assert_eq!(relu6.node("Max", "x zero", "a", vec![]).node("Min", "a six", "y", vec![]).words(), ["relu6"]);
    let bound = |name: &str, f: f32| AttributeProto { name: name.into(), f, ..Default::default() };
    let older = vec![bound("min", 0.0), bound("max", 6.0)];
    assert_eq!(x().opset(7).node("Clip", "x", "y", older).words(), ["relu6"]);
    // x · sigmoid(1.7 x) is not SiLU.
    let near = x().number("f", 1.7).node("Mul", "x f", "b", vec![]).node("Sigmoid", "b", "s", vec![]);
    assert_eq!(near.node("Mul", "x s", "y", vec![]).words(), ["affine", "sigmoid", "multiply"]);
    assert_eq!(x().node("Exp", "x", "y", vec![]).words(), ["exp"]);
    x().node("Sin", "x", "y", vec![]).fails(&["(Sin)", "not supported"]);
    let selu = x().node("Selu", "x", "y", vec![]);
    assert_eq!(selu.words(), ["selu"]);
    assert_eq!(x().node("Celu", "x", "y", vec![bound("alpha", 0.5)]).words(), ["celu 0.5"]);
    assert_eq!(
        x().node("Abs", "x", "a", vec![]).node("Atan", "a", "y", vec![]).words(),
        ["absolute value", "arc tangent"]
    );
    assert_eq!(x().number("two", 2.0).node("Pow", "x two", "y", vec![]).words(), ["square"]);
}

/// However many elementwise operators come before an activation, it is found.
#[test]
fn activations_are_recognised_in_long_chains() {
    let mut chain = model(&[1, 2, 4, 4]).counted("w", &[2, 2, 1, 1]);
    let mut before = "x".to_string();
    for unit in 0..12 {
        let name = |part: &str| format!("{part}{unit}");
        chain = chain
            .node("Sigmoid", &before, &name("s"), vec![])
            .node("Mul", &format!("{before} {}", name("s")), &name("m"), vec![])
            .node("Conv", &format!("{} w", name("m")), &name("c"), vec![])
            .node("Add", &format!("{before} {}", name("c")), &name("a"), vec![]);
        before = name("a");
    }
    let words = chain.words();
    assert_eq!(words.iter().filter(|word| *word == "silu").count(), 12);
    assert_eq!(words.len(), 36);
}

fn kinds(build: Build) -> Vec<Kind> {
    build.read().unwrap().graph.layers.into_iter().map(|layer| layer.kind).collect()
}

#[test]
fn norms_of_one_image_are_read_as_operators_and_in_parts() {
    let tokens = || model(&[1, 6, 2, 2]).list("tokens", &[0, 6, 4]).node("Reshape", "x tokens", "r", vec![]);
    let tokens = || tokens().node("Transpose", "r", "t", vec![ints("perm", &[0, 2, 1])]);
    let eps = AttributeProto { name: "epsilon".into(), f: 0.25, ..Default::default() };
    let whole = tokens().opset(17).counted("n.weight", &[6]).counted("n.bias", &[6]);
    let whole = whole.node("LayerNormalization", "t n.weight n.bias", "n", vec![eps.clone()]);
    let norm = Kind::LayerNorm(layer::LayerNorm { eps: 0.25, centred: true });
    let back = |build: Build, from: &str| build.node("Transpose", from, "y", vec![ints("perm", &[0, 2, 1])]);
    assert_eq!(kinds(back(whole, "n"))[0], norm);
    // Mean, difference, square, mean, root, quotient, scale and offset, as older operator sets write it.
    let parts = || tokens().number("two", 2.0).number("eps", 0.25).counted("w", &[6]).counted("b", &[6]);
    let mean = |build: Build, from: &str, to: &str| build.node("ReduceMean", from, to, vec![ints("axes", &[-1])]);
    let centred = mean(parts(), "t", "m").node("Sub", "t m", "d", vec![]).node("Pow", "d two", "q", vec![]);
    let centred = mean(centred, "q", "v").node("Add", "v eps", "e", vec![]).node("Sqrt", "e", "s", vec![]);
    let centred =
        centred.node("Div", "d s", "z", vec![]).node("Mul", "z w", "u", vec![]).node("Add", "u b", "o", vec![]);
    let read = back(centred, "o").read().unwrap();
    assert_eq!(read.graph.layers[0].kind, norm);
    let key = |part: &str| format!("{}.{part}", read.graph.layers[0].name);
    assert_eq!(constants(&read, &key("weight")), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(constants(&read, &key("bias")), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let rms = mean(parts().node("Mul", "t t", "q", vec![]), "q", "v").node("Add", "v eps", "e", vec![]);
    let rms = rms.node("Sqrt", "e", "s", vec![]).node("Reciprocal", "s", "i", vec![]).node("Mul", "t i", "z", vec![]);
    let rms = back(rms.node("Mul", "z w", "o", vec![]), "o");
    assert_eq!(kinds(rms)[0], Kind::LayerNorm(layer::LayerNorm { eps: 0.25, centred: false }));
    // A group norm as PyTorch writes it.
    let group = model(&[1, 6, 2, 2]).list("split", &[0, 3, -1]).list("back", &[0, 6, 2, 2]).counted("w", &[6, 1, 1]);
    let group = group.floats("one", &[3], &[1.0; 3]).floats("zero", &[3], &[0.0; 3]);
    let group = group.node("Reshape", "x split", "r", vec![]);
    let group = group.node("InstanceNormalization", "r one zero", "i", vec![eps.clone()]);
    let group = group.node("Reshape", "i back", "b", vec![]).node("Mul", "b w", "y", vec![]);
    assert_eq!(kinds(group), [Kind::GroupNorm(layer::GroupNorm { groups: 3, eps: 0.25 })]);
    let wrong = model(&[1, 6, 2, 2]).counted("w", &[4]).counted("b", &[4]);
    wrong.node("InstanceNormalization", "x w b", "y", vec![eps]).fails(&["(InstanceNormalization)", "4 numbers"]);
}

#[test]
fn attention_is_read_as_matrix_products_of_permuted_tensors() {
    // A class token, a position embedding, and a head for every two of six channels.
    let tokens = model(&[1, 6, 2, 2]).list("flat", &[0, 6, 4]).counted("cls", &[1, 1, 6]).counted("pos", &[1, 5, 6]);
    let tokens =
        tokens.node("Reshape", "x flat", "r", vec![]).node("Transpose", "r", "t", vec![ints("perm", &[0, 2, 1])]);
    let tokens = tokens.node("Concat", "cls t", "j", vec![int("axis", 1)]).node("Add", "j pos", "e", vec![]);
    let heads = tokens.list("heads", &[0, 5, 3, 2]).node("Reshape", "e heads", "h", vec![]);
    let heads = heads.node("Transpose", "h", "q", vec![ints("perm", &[0, 2, 1, 3])]);
    let heads = heads.node("Transpose", "h", "k", vec![ints("perm", &[0, 2, 3, 1])]);
    let scores = heads.node("MatMul", "q k", "s", vec![]).node("Softmax", "s", "p", vec![int("axis", -1)]);
    // PyTorch replaces what is not a number after a softmax.
    let scores = scores.number("zero", 0.0).node("IsNaN", "p", "n", vec![]).node("Where", "n zero p", "f", vec![]);
    let joined =
        scores.node("MatMul", "f q", "o", vec![]).node("Transpose", "o", "u", vec![ints("perm", &[0, 2, 1, 3])]);
    let read = joined.list("join", &[0, 5, 6]).node("Reshape", "u join", "y", vec![]).read().unwrap();
    let shapes = read.graph.shapes().unwrap();
    let at =
        |kind: &Kind| read.graph.layers.iter().position(|layer| layer.kind == *kind).expect("a layer of this kind");
    assert_eq!(shapes[at(&Kind::Concat(layer::Concat { axis: Axis::Columns }))], Shape::new(6, 1, 5));
    assert_eq!(shapes[at(&Kind::MatMul(layer::MatMul { transposed: true }))], Shape::new(5, 3, 5));
    assert_eq!(shapes[at(&Kind::MatMul(layer::MatMul { transposed: false }))], Shape::new(2, 3, 5));
    let learned = |shape| Kind::Constant(layer::Constant { shape, learned: true });
    at(&learned(Shape::new(6, 1, 1)));
    at(&learned(Shape::new(6, 1, 5)));
    let product = model(&[1, 2, 3, 4]).node("MatMul", "x x", "y", vec![]);
    product.fails(&["`y` (MatMul)", "cannot be multiplied"]);
    let einsum = model(&[1, 2, 3, 4]).node("Einsum", "x x", "y", vec![word("equation", "bhik,bhjk->bhij")]);
    assert!(einsum.words().contains(&"matrix product".to_string()));
    model(&[1, 2, 3, 4]).node("Einsum", "x x", "y", vec![word("equation", "bhii,bhjk->bhij")]).fails(&["Einsum"]);
    model(&[1, 2, 3, 4]).node("ReduceMean", "x", "y", vec![ints("axes", &[0])]).fails(&["reduces the batch"]);
}

#[test]
fn resolutions_change_by_any_factor() {
    let resize = |mode: &str, coordinates: &str, factor: f32| {
        let build = model(&[1, 1, 4, 4]).floats("f", &[4], &[1.0, 1.0, factor, factor]);
        let attributes = vec![word("mode", mode), word("coordinate_transformation_mode", coordinates)];
        build.node("Resize", "x  f", "y", attributes)
    };
    let bilinear = layer::Resize { height: 6, width: 6, coordinates: layer::Coordinates::AlignCorners };
    assert_eq!(kinds(resize("linear", "align_corners", 1.5)), [Kind::Resize(bilinear)]);
    assert_eq!(resize("nearest", "half_pixel", 2.0).words(), ["upsample 2x2"]);
    let rows = layer::Gather { axis: Axis::Rows, indices: vec![0, 0, 1, 2, 2, 3] };
    assert_eq!(kinds(resize("nearest", "half_pixel", 1.5))[0], Kind::Gather(rows));
    resize("cubic", "half_pixel", 2.0).fails(&["(Resize)", "cubic"]);
    resize("linear", "tf_crop_and_resize", 2.0).fails(&["(Resize)", "tf_crop_and_resize"]);
    let border = |mode: &str, by: i64| {
        let pads = model(&[1, 1, 4, 4]).list("p", &[0, 0, by, 0, 0, 0, 0, 0]);
        pads.node("Pad", "x p", "y", vec![word("mode", mode)])
    };
    let rows = |indices: &[usize]| vec![Kind::Gather(layer::Gather { axis: Axis::Rows, indices: indices.to_vec() })];
    assert_eq!(kinds(border("reflect", 2)), rows(&[2, 1, 0, 1, 2, 3]));
    assert_eq!(kinds(border("edge", 2)), rows(&[0, 0, 0, 1, 2, 3]));
    assert_eq!(kinds(border("constant", -1)), rows(&[1, 2, 3]));
    border("reflect", 9).fails(&["(Pad)", "wider"]);
    let deep = model(&[1, 4, 2, 2]).node("DepthToSpace", "x", "y", vec![int("blocksize", 2)]).read().unwrap();
    assert_eq!(deep.graph.output_shape().unwrap(), Shape::new(1, 4, 4));
    model(&[1, 3, 2, 2]).node("DepthToSpace", "x", "y", vec![int("blocksize", 2)]).fails(&["does not divide"]);
    let ceil = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])];
    let ceil = [ceil, vec![int("ceil_mode", 1), int("count_include_pad", 1)]].concat();
    assert_eq!(model(&[1, 1, 6, 6]).node("AveragePool", "x", "y", ceil).words()[0], "pad 1");
}

#[test]
fn masks_and_position_tables_are_folded() {
    // Ones scattered into zeros, multiplied by a matrix, through a sigmoid; then added to the image.
    let build = model(&[1, 1, 2, 2]).floats("zeros", &[2, 2], &[0.0; 4]).floats("ones", &[1], &[1.0]);
    let mut build = build.floats("m", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    build.graph.initializer.push(TensorProto {
        name: "at".into(),
        dims: vec![1, 2],
        data_type: DataType::Int64.into(),
        int64_data: vec![0, 1],
        ..Default::default()
    });
    let build = build.node("ScatterND", "zeros at ones", "s", vec![]).node("MatMul", "s m", "p", vec![]);
    let read = build.node("Sigmoid", "p", "g", vec![]).node("Add", "x g", "y", vec![]).read().unwrap();
    let Kind::Constant(constant) = &read.graph.layers[0].kind else { panic!("{:?}", read.graph.layers) };
    assert_eq!((constant.shape, constant.learned), (Shape::new(1, 2, 2), true));
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let found = constants(&read, &format!("{}.weight", read.graph.layers[0].name));
    let close = found.iter().zip([sigmoid(3.0), sigmoid(4.0), 0.5, 0.5]).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close, "{found:?}");
    // Elements replaced along an axis, then a 1x1 convolution with two filters. One of them is selected.
    let build = || {
        let build = model(&[1, 1, 2, 2]).counted("c", &[4]).list("at", &[-1, 0]).floats("new", &[2], &[9.0, 8.0]);
        let build = build.node("ScatterElements", "c at new", "s", vec![]).list("shape", &[1, 1, 2, 2]);
        let build = build.floats("w", &[2, 1, 1, 1], &[5.0, 2.0]).floats("b", &[2], &[0.0, 1.0]);
        build.node("Reshape", "s shape", "r", vec![])
    };
    let both = build().node("Conv", "r w b", "v", vec![]).list("second", &[1]);
    let read =
        both.node("Gather", "v second", "g", vec![int("axis", 1)]).node("Add", "x g", "y", vec![]).read().unwrap();
    let found = constants(&read, &format!("{}.weight", read.graph.layers[0].name));
    assert_eq!(found, [17.0, 3.0, 5.0, 19.0]);
    let wide = build().counted("k", &[1, 1, 3, 3]).node("Conv", "r k", "v", vec![]).node("Add", "x v", "y", vec![]);
    wide.fails(&["`v` (Conv)", "1x1"]);
    let far = model(&[1, 1, 2, 2]).counted("c", &[4]).list("at", &[4]).number("zero", 0.0).list("one", &[1]);
    let far = far.node("Reshape", "zero one", "new", vec![]).node("ScatterElements", "c at new", "s", vec![]);
    far.node("Add", "x s", "y", vec![]).fails(&["`s` (ScatterElements)", "outside"]);
    // One-hot columns (numpy.eye(2)[[1, 0]].T scaled), the last index from the end, and one outside.
    let hot = |indices: &[i64], depth: f32, at: i64| {
        let build = model(&[1, 1, 2, 2]).list("i", indices).number("d", depth).floats("v", &[2], &[-1.0, 3.0]);
        build.node("OneHot", "i d v", "h", vec![int("axis", at)]).node("Add", "x h", "y", vec![])
    };
    let of = |indices: &[i64], at: i64| {
        let read = hot(indices, 2.0, at).read().unwrap();
        constants(&read, &format!("{}.weight", read.graph.layers[0].name))
    };
    assert_eq!(of(&[1, 1], 0), [-1.0, -1.0, 3.0, 3.0]);
    assert_eq!(of(&[1, 1], -1), [-1.0, 3.0, -1.0, 3.0]);
    assert_eq!(of(&[-1, 5], 1), [-1.0, 3.0, -1.0, -1.0]);
    hot(&[0, 1], 0.0, 0).fails(&["`h` (OneHot)", "depth"]);
    hot(&[0, 1], 2.0, 2).fails(&["`h` (OneHot)", "axis"]);
    let outside = model(&[1, 1, 2, 2]).list("i", &[4]).counted("c", &[2]);
    outside.node("Gather", "c i", "g", vec![]).node("Add", "x g", "y", vec![]).fails(&["(Gather)", "outside"]);
}

#[test]
fn constants_after_a_layer_are_folded_into_it() {
    let conv = || {
        let weight = model(&[1, 1, 4, 4]).counted("c.weight", &[2, 1, 1, 1]).counted("s", &[2, 1, 1]);
        weight.floats("b", &[1, 2, 1, 1], &[5.0, 7.0]).node("Conv", "x c.weight", "c", vec![])
    };
    let fused = conv()
        .node("Mul", "c s", "d", vec![])
        .node("Add", "b d", "e", vec![])
        .node("Relu", "e", "y", vec![])
        .read()
        .unwrap();
    assert_eq!(fused.graph.layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["c", "y"]);
    // Weights 0 and 1, times 0 and 1; then 5 and 7 added.
    assert_eq!((constants(&fused, "c.weight"), constants(&fused, "c.bias")), (vec![0.0, 1.0], vec![5.0, 7.0]));
    // Not where the convolution's own output is used elsewhere.
    let shared = conv().node("Mul", "c s", "d", vec![]).node("Add", "c d", "y", vec![]);
    assert_eq!(shared.words(), ["conv 1x1, 2", "affine", "add"]);
    let linear = model(&[1, 3]).counted("w", &[3, 2]).floats("b", &[2], &[1.0, 2.0]);
    let linear = linear.node("MatMul", "x w", "m", vec![]).node("Add", "m b", "y", vec![]).read().unwrap();
    assert_eq!(linear.graph.layers.len(), 1);
    assert_eq!(constants(&linear, "m.weight"), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(constants(&linear, "m.bias"), [1.0, 2.0]);
    let norm = model(&[1, 2, 3, 3]).counted("g", &[2]).counted("h", &[2, 1, 1]);
    let norm =
        norm.node("BatchNormalization", "x g g g g", "n", vec![]).node("Sub", "n h", "y", vec![]).read().unwrap();
    assert_eq!(constants(&norm, "n.bias"), [0.0, 0.0]);
    // A constant minus, and one over, the image.
    let minus = model(&[1, 2, 3, 3]).number("c", 3.0).node("Sub", "c x", "y", vec![]).read().unwrap();
    assert_eq!((constants(&minus, "y.weight"), constants(&minus, "y.bias")), (vec![-1.0; 2], vec![3.0; 2]));
    let quotient = model(&[1, 2, 3, 3]).number("c", 3.0).node("Div", "c x", "y", vec![]).words();
    assert_eq!(quotient, ["reciprocal", "affine"]);
    let per_pixel = model(&[1, 2, 3, 3]).counted("c", &[3, 3]).node("Add", "c x", "y", vec![]).words();
    assert_eq!(per_pixel, ["parameter 1x3x3", "add"]);
    model(&[1, 2, 3, 3]).counted("c", &[5, 3]).node("Add", "c x", "y", vec![]).fails(&["do not fit together"]);
}

#[test]
fn layouts_are_tracked() {
    // NHWC in, a convolution, flattened in (H, W, C) order: the matrix's columns are permuted to (C, H, W) order.
    let tf = model(&[-1, 2, 3, 2]).counted("w", &[2, 2, 1, 1]).counted("m", &[12, 1]).list("flat", &[-1, 12]);
    let tf = tf.node("Transpose", "x", "a", vec![ints("perm", &[0, 3, 1, 2])]).node("Conv", "a w", "b", vec![]);
    let tf = tf.node("Transpose", "b", "c", vec![ints("perm", &[0, 2, 3, 1])]).node("Reshape", "c flat", "d", vec![]);
    let tf = tf.node("MatMul", "d m", "y", vec![]).read().unwrap();
    assert_eq!((tf.layout, tf.graph.input), (Layout::ChannelsLast, Shape::new(2, 2, 3)));
    // Element (c, h, w) is ONNX's (h * 3 + w) * 2 + c.
    let expected: Vec<f32> = (0..2).flat_map(|c| (0..6).map(move |pixel| (pixel * 2 + c) as f32)).collect();
    assert_eq!(constants(&tf, "y.weight"), expected);
    // A matrix on the channels of an NHWC feature map is a 1x1 convolution.
    let dense =
        model(&[1, 4, 5, 3]).counted("m", &[3, 6]).node("MatMul", "x m", "a", vec![]).node("Relu", "a", "b", vec![]);
    let dense = dense.node("Transpose", "b", "y", vec![ints("perm", &[0, 3, 1, 2])]).read().unwrap();
    assert_eq!(dense.graph.output_shape().unwrap(), Shape::new(6, 4, 5));
    assert_eq!(dense.graph.layers[0].describe(), "conv 1x1, 6");
    // Shapes computed from the image, as PyTorch writes `view(x.size(0), -1)`.
    let view = model(&[-1, 2, 3, 3]).list("zero", &[0]).list("rest", &[-1]).counted("m", &[18, 2]);
    let view = view.node("Shape", "x", "s", vec![]).node("Gather", "s zero", "n", vec![]);
    let view = view.node("Concat", "n rest", "t", vec![int("axis", 0)]).node("Reshape", "x t", "f", vec![]);
    assert_eq!(view.node("MatMul", "f m", "y", vec![]).words(), ["flatten", "linear 2"]);
    let mean = model(&[1, 4, 3, 3]).node("ReduceMean", "x", "a", vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
    assert_eq!(
        mean.counted("m", &[4, 2]).node("MatMul", "a m", "y", vec![]).words(),
        ["global average pool", "linear 2"]
    );
    let mean = model(&[1, 4, 3, 3]).node("ReduceMean", "x", "y", vec![ints("axes", &[1])]).words();
    assert_eq!(mean, ["mean over channels"]);
    model(&[1, 2, 3, 3]).node("Transpose", "x", "y", vec![ints("perm", &[0, 1, 1, 2])]).fails(&["not a permutation"]);
    let wrong = model(&[1, 2, 3, 3]).list("t", &[1, 17]).node("Reshape", "x t", "y", vec![]);
    wrong.fails(&["`y` (Reshape)", "[1, 2, 3, 3]", "[1, 17]"]);
}

#[test]
fn channels_are_sliced_shuffled_and_split() {
    let shuffle = model(&[1, 6, 2, 2]).list("a", &[0, 3, 2, 2, 2]).list("b", &[0, 6, 2, 2]);
    let shuffle =
        shuffle.node("Reshape", "x a", "r", vec![]).node("Transpose", "r", "t", vec![ints("perm", &[0, 2, 1, 3, 4])]);
    let shuffle =
        shuffle.node("Reshape", "t b", "s", vec![]).counted("w", &[1, 6, 1, 1]).node("Conv", "s w", "y", vec![]);
    assert_eq!(shuffle.words(), ["channel shuffle, 3 groups", "conv 1x1, 1"]);
    let split = model(&[1, 6, 2, 2]).node("Split", "x", "a b", vec![int("axis", 1)]).node(
        "Concat",
        "b a",
        "y",
        vec![int("axis", 1)],
    );
    let split = split.read().unwrap();
    assert_eq!(split.graph.layers[0].kind, Kind::Slice(layer::Slice { start: 0, end: 3 }));
    assert_eq!(split.graph.layers[1].kind, Kind::Slice(layer::Slice { start: 3, end: 6 }));
    let [first, second] = [0, 1].map(|index| split.graph.layers[index].name.clone());
    assert_eq!(split.graph.layers[2].inputs, [second, first]);
    // CIFAR ResNets' option A: every second pixel, then channels of zeros.
    let sliced = model(&[1, 2, 5, 5])
        .list("start", &[0, 0])
        .list("end", &[9, i64::MAX])
        .list("axes", &[2, 3])
        .list("step", &[2, 2]);
    let sliced = sliced.list("pads", &[0, 1, 0, 0, 0, 1, 0, 0]).node("Slice", "x start end axes step", "s", vec![]);
    assert_eq!(sliced.node("Pad", "s pads", "y", vec![]).words(), ["max pool 1x1, stride 2", "pad channels 1+1"]);
    let cropped = model(&[1, 2, 5, 5]).list("start", &[1]).list("end", &[4]).list("axes", &[2]);
    assert_eq!(cropped.node("Slice", "x start end axes", "y", vec![]).words(), ["rows 1..4"]);
    // Many separate channels are one layer.
    let tiled = |times: i64| model(&[1, 2, 3, 3]).list("times", &[1, times, 1, 1]).node("Tile", "x times", "y", vec![]);
    assert_eq!(kinds(tiled(512)), [Kind::Concat(layer::Concat::default())]);
    assert_eq!(kinds(tiled(513)), [Kind::Gather(layer::Gather { axis: Axis::Channels, indices: [0, 1].repeat(513) })]);
}

#[test]
fn windows() {
    let conv = || model(&[1, 1, 6, 7]).counted("w", &[1, 1, 4, 3]);
    let padding = |build: Build| match build.read().unwrap().graph.layers[0].kind {
        Kind::Conv(conv) => conv.padding,
        _ => panic!("no convolution"),
    };
    let same = |mode| conv().node("Conv", "x w", "y", vec![word("auto_pad", mode), ints("strides", &[1, 2])]);
    // 6 rows, 4 taps: 3 zeros; 7 columns at stride 2 give 4 positions, which need 9: 2.
    assert_eq!(padding(same("SAME_UPPER")), Padding { top: 1, bottom: 2, left: 1, right: 1 });
    assert_eq!(padding(same("SAME_LOWER")), Padding { top: 2, bottom: 1, left: 1, right: 1 });
    let zeros =
        conv().list("p", &[0, 0, 1, 2, 0, 0, 3, 4]).node("Pad", "x p", "a", vec![]).node("Conv", "a w", "y", vec![]);
    assert_eq!(padding(zeros), Padding { top: 1, bottom: 3, left: 2, right: 4 });
    let ceil = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
    let pool = model(&[1, 1, 7, 6]).node("MaxPool", "x", "y", ceil).read().unwrap();
    assert_eq!(pool.graph.output_shape().unwrap(), Shape::new(1, 4, 3));
    conv().node("Conv", "x w", "y", vec![ints("kernel_shape", &[3, 3])]).fails(&["`y` (Conv)", "kernel"]);
    model(&[1, 2, 6, 6]).counted("w", &[1, 1, 3, 3]).node("Conv", "x w", "y", vec![]).fails(&["2"]);
    conv().node("Conv", "x x", "y", vec![]).fails(&["depends on the image"]);
}

#[test]
fn unsupported_models_are_refused() {
    model(&[1, 2, 3, 3])
        .node("NonMaxSuppression", "x", "y", vec![])
        .fails(&["`y` (NonMaxSuppression)", "not supported"]);
    model(&[1, 2, 3, 3]).node("Relu", "z", "y", vec![]).fails(&["no node gives its input `z`"]);
    model(&[1, 2, 3, 3]).opset(6).node("Relu", "x", "y", vec![]).fails(&["operator set is 6", "version_converter"]);
    model(&[1, 2, -1, 3]).node("Relu", "x", "y", vec![]).fails(&["input `x`", "--input"]);
    let mut two = model(&[1, 2, 3, 3]);
    two.graph.input.push(ValueInfoProto { name: "z".into(), r#type: Some(dims(&[1, 2])) });
    two.node("Relu", "x", "y", vec![]).fails(&["2 inputs (x, z)"]);
    let mut foreign = model(&[1, 2, 3, 3]).node("Relu", "x", "y", vec![]);
    foreign.graph.node[0].domain = "com.example".into();
    foreign.fails(&["com.example.Relu", "standard operators"]);
    let mut outside = model(&[1, 2, 3, 3]).counted("w", &[2]).node("Add", "x w", "y", vec![]);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    outside.graph.initializer[0].external_data = vec![entry("location", "../secret")];
    outside.fails(&["initializer `w`", "../secret"]);
    let mut short = model(&[1, 2, 3, 3]).counted("w", &[2]).node("Add", "x w", "y", vec![]);
    short.graph.initializer[0].dims = vec![1 << 40, 1 << 40];
    short.fails(&["initializer `w`", "too large"]);
}

#[test]
fn external_data_are_read_only_from_the_models_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut build = model(&[1, 2, 3, 3]).floats("w", &[1, 2, 1, 1], &[]).node("Mul", "x w", "y", vec![]);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let write = |build: &Build, location: &str, offset: &str| {
        let mut graph = build.graph.clone();
        graph.output = vec![ValueInfoProto { name: "y".into(), r#type: None }];
        graph.initializer[0].data_location = DataLocation::External.into();
        graph.initializer[0].external_data =
            vec![entry("location", location), entry("offset", offset), entry("length", "8")];
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
        let model = ModelProto { graph: Some(graph), opset_import, ..Default::default() };
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        super::read(&path, &ReadOptions::default()).map_err(|error| error.to_string())
    };
    build.graph.name = "external".into();
    let data: Vec<u8> = [9.0f32, 2.5, 3.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.path().join("weights.bin"), data).unwrap();
    assert_eq!(constants(&write(&build, "weights.bin", "4").unwrap(), "y.weight"), [2.5, 3.5]);
    assert!(write(&build, "weights.bin", "8").unwrap_err().contains("end at 12 bytes"));
    let missing = write(&build, "lost.bin", "0").unwrap_err();
    assert!(missing.contains("lost.bin") && missing.contains("copy that file beside the model"), "{missing}");
    for location in ["/etc/passwd", "../weights.bin", "a/../../weights.bin"] {
        assert!(write(&build, location, "0").unwrap_err().contains("outside the model's folder"));
    }
}

/// One convolution four times, and one matrix in two products, once transposed for each.
#[test]
fn weights_that_layers_share_are_named_and_counted_as_copies() {
    let mut build = model(&[1, 2, 4, 4]).counted("c.weight", &[2, 2, 3, 3]).floats("c.bias", &[2], &[1.0, 2.0]);
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    for (input, output) in [("x", "a"), ("a", "b"), ("b", "d"), ("d", "e")] {
        build = build.node("Conv", &format!("{input} c.weight c.bias"), output, pads());
    }
    let read = build.node("Relu", "e", "y", vec![]).read().unwrap();
    let layers: Vec<&str> = read.graph.layers[..4].iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(read.shared.len(), 1);
    assert_eq!(read.shared[0].layers, layers);
    assert_eq!((read.shared[0].elements, read.shared[0].added()), (38, 3 * 38));
    let note = read.shared[0].note();
    assert!(note.contains("share weights") && note.contains("separately") && !note.contains('\n'), "{note}");
    assert_eq!(nettriage_net::cost::total(&read.graph).unwrap().parameters, 4 * 38);

    let twice = model(&[1, 3]).counted("w", &[3, 3]).node("Transpose", "w", "t", vec![]);
    let twice = twice.node("Transpose", "w", "u", vec![]).node("MatMul", "x t", "a", vec![]);
    let read = twice.node("MatMul", "a u", "y", vec![]).read().unwrap();
    assert_eq!((read.shared.len(), read.shared[0].layers.len(), read.shared[0].elements), (1, 2, 9));
}

/// Exporters store equal constants once: that is not a weight that layers share.
#[test]
fn equal_scalars_and_zero_vectors_are_no_shared_weights() {
    let build =
        model(&[1, 2, 4, 4]).counted("v", &[2, 2, 1, 1]).counted("w", &[2, 2, 1, 1]).floats("zero", &[2], &[0.0; 2]);
    let build = build.node("Conv", "x v zero", "a", vec![]).node("Conv", "a w zero", "b", vec![]).number("two", 2.0);
    let read = build.node("Mul", "b two", "c", vec![]).node("Relu", "c", "d", vec![]).node("Mul", "d two", "y", vec![]);
    assert_eq!(read.read().unwrap().shared, []);
}

/// PyTorch exports a classifier that ends with global pooling as (N, C, 1, 1), and with softmax as the same.
#[test]
fn outputs_of_one_position_are_class_vectors() {
    let pooled = || model(&[1, 2, 4, 4]).node("GlobalAveragePool", "x", "p", vec![]);
    assert_eq!(pooled().read().unwrap().graph.output_shape().unwrap(), Shape::new(2, 1, 1));
    for opset in [11, 17] {
        let softmax = pooled().opset(opset).node("Softmax", "p", "y", vec![int("axis", 1)]);
        assert_eq!(softmax.read().unwrap().graph.output_shape().unwrap(), Shape::new(2, 1, 1), "{opset}");
    }
}

/// A 1x1 convolution to one output with the weights 10, 20 and 30.
fn weighted(build: Build, input: &str) -> Build {
    build.floats("w", &[1, 3, 1, 1], &[10.0, 20.0, 30.0]).node("Conv", &format!("{input} w"), "conv", vec![])
}

#[test]
fn input_arithmetic_becomes_an_affine_layer_and_a_permutation() {
    // Inception's transform_input: each channel scaled and shifted alone.
    let mut build = model(&[1, 3, 2, 2]).list("axis", &[1]);
    for (channel, scale) in [("0", 2.0), ("1", 3.0), ("2", 4.0)] {
        let index: i64 = channel.parse().unwrap();
        build.graph.initializer.push(TensorProto {
            name: format!("i{channel}"),
            data_type: DataType::Int64.into(),
            int64_data: vec![index],
            ..Default::default()
        });
        build = build.number(&format!("s{channel}"), scale).number(&format!("b{channel}"), -scale);
        build = build.node("Gather", &format!("x i{channel}"), &format!("g{channel}"), vec![int("axis", 1)]);
        build = build.node("Unsqueeze", &format!("g{channel} axis"), &format!("u{channel}"), vec![]);
        build = build.node("Mul", &format!("u{channel} s{channel}"), &format!("m{channel}"), vec![]);
        build = build.node("Add", &format!("m{channel} b{channel}"), &format!("a{channel}"), vec![]);
    }
    let join = |order: &str| build_clone(&build).node("Concat", order, "c", vec![int("axis", 1)]);
    let same = weighted(join("a0 a1 a2"), "c").read().unwrap();
    assert_eq!(same.graph.layers.iter().map(|l| l.describe()).collect::<Vec<_>>(), ["affine", "conv 1x1, 1"]);
    assert_eq!(
        (constants(&same, "c.weight"), constants(&same, "c.bias")),
        (vec![2.0, 3.0, 4.0], vec![-2.0, -3.0, -4.0])
    );
    assert_eq!(constants(&same, "conv.weight"), [10.0, 20.0, 30.0]);
    // In another order: the affine layer keeps the order of the image, the convolution's weights change theirs.
    let other = weighted(join("a2 a0 a1"), "c").read().unwrap();
    assert_eq!(constants(&other, "c.weight"), [2.0, 3.0, 4.0]);
    assert_eq!(constants(&other, "conv.weight"), [20.0, 30.0, 10.0]);

    // BGR by Gather, and by a reversed slice, then a normalisation.
    let gather = || model(&[1, 3, 2, 2]).list("bgr", &[2, 1, 0]).node("Gather", "x bgr", "y", vec![int("axis", 1)]);
    let swapped = weighted(gather(), "y").read().unwrap();
    assert_eq!(swapped.graph.layers.len(), 1, "{:?}", swapped.graph.layers);
    assert_eq!(constants(&swapped, "conv.weight"), [30.0, 20.0, 10.0]);
    let flipped = model(&[1, 3, 2, 2]).list("from", &[-1]).list("to", &[i64::MIN]).list("at", &[1]).list("step", &[-1]);
    let flipped = flipped.node("Slice", "x from to at step", "f", vec![]).floats("s", &[3, 1, 1], &[1.0, 2.0, 3.0]);
    let flipped = weighted(flipped.node("Mul", "f s", "y", vec![]), "y").read().unwrap();
    assert_eq!(flipped.graph.layers.len(), 2);
    assert_eq!(
        (constants(&flipped, "y.weight"), constants(&flipped, "conv.weight")),
        (vec![3.0, 2.0, 1.0], vec![30.0, 20.0, 10.0])
    );
    // Where nothing can take the permutation, it stays as slices and a concatenation.
    assert_eq!(gather().words().last().unwrap(), "concat");
    gather().list("far", &[3]).node("Gather", "x far", "z", vec![int("axis", 1)]).fails(&["(Gather)", "outside its 3"]);
    let row = model(&[1, 3, 2, 2]).list("r", &[0]).node("Gather", "x r", "y", vec![int("axis", 2)]);
    assert_eq!(row.words(), ["rows 0..1"]);
}

fn build_clone(build: &Build) -> Build {
    Build { graph: build.graph.clone(), opset: build.opset }
}

#[test]
fn computed_weights_are_folded() {
    let conv = |build: Build| build.node("Conv", "x weight", "conv", vec![]).read().unwrap();
    // Quantised weights, one scale and zero point per filter.
    let mut quantised = model(&[1, 2, 2, 2]).floats("scale", &[2], &[0.5, 0.25]);
    let bytes = |name: &str, dims: &[i64], data: &[i8]| TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Int8.into(),
        raw_data: data.iter().map(|&v| v as u8).collect(),
        ..Default::default()
    };
    quantised.graph.initializer.push(bytes("q", &[2, 2, 1, 1], &[-128, 127, 3, -3]));
    quantised.graph.initializer.push(bytes("zero", &[2], &[0, 1]));
    let quantised = conv(quantised.node("DequantizeLinear", "q scale zero", "weight", vec![int("axis", 0)]));
    assert_eq!(constants(&quantised, "conv.weight"), [-64.0, 63.5, 0.5, -1.0]);
    model(&[1, 2, 2, 2])
        .number("s", 0.1)
        .node("QuantizeLinear", "x s", "y", vec![])
        .fails(&["(QuantizeLinear)", "activations are quantised"]);

    // Weight normalisation: g v / |v|, per filter.
    let normed =
        model(&[1, 2, 2, 2]).floats("v", &[2, 2, 1, 1], &[3.0, 4.0, 6.0, 8.0]).floats("g", &[2, 1, 1, 1], &[5.0, 2.0]);
    let normed = normed.node("ReduceL2", "v", "n", vec![ints("axes", &[1, 2, 3])]).node("Div", "v n", "u", vec![]);
    let normed = conv(normed.node("Mul", "u g", "weight", vec![]));
    let expected = [3.0, 4.0, 1.2, 1.6];
    assert!(constants(&normed, "conv.weight").iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));

    // Weight standardisation, written out and by batch norm in training mode.
    let v = || model(&[1, 2, 2, 2]).floats("v", &[1, 2, 1, 1], &[1.0, 5.0]);
    let written = v().node("ReduceMean", "v", "m", vec![ints("axes", &[1, 2, 3])]).node("Sub", "v m", "d", vec![]);
    let written = written.number("two", 2.0).node("Pow", "d two", "p", vec![]);
    let written =
        written.node("ReduceMean", "p", "var", vec![ints("axes", &[1, 2, 3])]).node("Sqrt", "var", "s", vec![]);
    assert_eq!(constants(&conv(written.node("Div", "d s", "weight", vec![])), "conv.weight"), [-1.0, 1.0]);
    let norm = v().list("flat", &[1, 1, 2]).list("back", &[1, 2, 1, 1]).floats("one", &[1], &[1.0]).floats(
        "zero",
        &[1],
        &[0.0],
    );
    let epsilon = AttributeProto { name: "epsilon".into(), f: 0.0, ..Default::default() };
    let norm = norm.node("Reshape", "v flat", "r", vec![]).opset(15).node(
        "BatchNormalization",
        "r one zero zero one",
        "n mean variance",
        vec![int("training_mode", 1), epsilon],
    );
    assert_eq!(constants(&conv(norm.node("Reshape", "n back", "weight", vec![])), "conv.weight"), [-1.0, 1.0]);

    // PyTorch's exporter without its optimiser casts constants to the type of a tensor.
    let cast =
        model(&[1, 2, 2, 2]).list("two", &[2]).node("CastLike", "two x", "c", vec![]).node("Mul", "x c", "y", vec![]);
    assert_eq!(constants(&cast.read().unwrap(), "y.weight"), [2.0, 2.0]);
    let part = vec![int("start", 0), int("end", 1)];
    let zeros = model(&[1, 2, 2, 2]).counted("weight", &[3, 2, 1, 1]).opset(18).node("Shape", "weight", "s", part);
    let zeros = zeros.number("zero", 0.0).node("Expand", "zero s", "b", vec![]).node("Conv", "x weight b", "c", vec![]);
    assert_eq!(constants(&zeros.read().unwrap(), "c.bias"), [0.0; 3]);
    let like =
        model(&[1, 2, 2, 2]).number("one", 1.0).node("CastLike", "x one", "c", vec![]).node("Relu", "c", "y", vec![]);
    assert_eq!(like.words(), ["relu"]);
    model(&[1, 2, 2, 2]).node("Cast", "x", "y", vec![int("to", 3)]).fails(&["(Cast)", "rounds"]);
}

#[test]
fn one_of_several_outputs_is_chosen_by_name() {
    let bytes = || {
        let mut graph = model(&[1, 2, 3, 3]).node("Relu", "x", "features", vec![]).graph;
        let more = model(&[1, 2, 3, 3]).node("GlobalAveragePool", "features", "scores", vec![]).graph;
        graph.node.extend(more.node);
        graph.output = ["features", "scores"].map(|name| ValueInfoProto { name: name.into(), r#type: None }).to_vec();
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
        ModelProto { graph: Some(graph), opset_import, ..Default::default() }.encode_to_vec()
    };
    let read = |output: Option<&str>| {
        from_bytes(&bytes(), &ReadOptions { output: output.map(str::to_string), ..ReadOptions::default() })
    };
    let message = read(None).unwrap_err().to_string();
    for part in ["2 outputs: `features` [1, 2, 3, 3], `scores` [1, 2, 1, 1]", "--graph-output features"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(read(Some("scores")).unwrap().graph.output_shape().unwrap(), Shape::new(2, 1, 1));
    assert_eq!(read(Some("features")).unwrap().graph.layers.len(), 1);
    let message = read(Some("logits")).unwrap_err().to_string();
    assert!(message.contains("no output `logits`") && message.contains("`scores`"), "{message}");
}

/// Adaptive pooling of 2 rows and 2 columns to 3 by 3 as PyTorch writes it: windows by index, masked, added and divided.
#[test]
fn positions_of_rows_and_columns_are_gathered_and_masked() {
    let windows = |row: [i64; 6], column: [i64; 6]| -> Vec<i64> {
        let pair = move |r: i64| column.into_iter().flat_map(move |c| [r, c]);
        row.into_iter().flat_map(pair).collect()
    };
    let gathered = |row: [i64; 6], column: [i64; 6]| {
        let mut build = model(&[1, 5, 2, 2]);
        build.graph.initializer.push(TensorProto {
            name: "places".into(),
            dims: vec![3, 2, 3, 2, 2],
            data_type: DataType::Int64.into(),
            int64_data: windows(row, column),
            ..Default::default()
        });
        let build = build.node("Transpose", "x", "t", vec![ints("perm", &[2, 3, 0, 1])]);
        let build = build.node("GatherND", "t places", "g", vec![]);
        build.node("Transpose", "g", "w", vec![ints("perm", &[4, 5, 0, 1, 2, 3])])
    };
    let places = [0, 1, 0, 1, 1, 1];
    let mean = gathered(places, places).node("ReduceMean", "w", "y", vec![ints("axes", &[3, 5]), int("keepdims", 0)]);
    let read = mean.read().unwrap();
    assert_eq!(read.graph.output_shape().unwrap(), Shape::new(5, 3, 3));
    let gather =
        |axis: Axis| Kind::Gather(layer::Gather { axis, indices: places.map(|place| place as usize).to_vec() });
    for axis in [Axis::Rows, Axis::Columns] {
        assert!(read.graph.layers.iter().any(|layer| layer.kind == gather(axis)));
    }
    // The second position of every window counts as zero: a mask of ones and zeros, and nothing to add.
    let masked = || gathered(places, places).number("zero", 0.0).floats("last", &[2, 1, 1], &[0.0, 1.0]);
    let read = masked().node("Where", "last zero w", "y", vec![]).node(
        "ReduceMax",
        "y",
        "z",
        vec![ints("axes", &[3, 5]), int("keepdims", 0)],
    );
    let read = read.read().unwrap();
    let mask = &read.weights["y.constant.weight"];
    assert_eq!(mask.to_floats(), [1.0, 0.0].repeat(3));
    assert!(!read.graph.layers.iter().any(|layer| layer.kind == Kind::Add));
    let other = masked().number("seven", 7.0).node("Where", "last w seven", "y", vec![]);
    let other = other.node("ReduceMax", "y", "z", vec![ints("axes", &[3, 5]), int("keepdims", 0)]).read().unwrap();
    let constants: Vec<Vec<f32>> =
        other.weights.iter().filter(|(name, _)| name.contains("constant")).map(|(_, c)| c.to_floats()).collect();
    assert!(constants.contains(&[0.0, 1.0].repeat(3)) && constants.contains(&[7.0, 0.0].repeat(3)), "{constants:?}");
    masked().node("Where", "w w zero", "y", vec![]).fails(&["`y` (Where)", "constant condition"]);
    // Tuples that are not all combinations of two lists.
    let diagonal = model(&[1, 5, 2, 2]).node("Transpose", "x", "t", vec![ints("perm", &[2, 3, 0, 1])]);
    let mut diagonal = diagonal.node("GatherND", "t places", "y", vec![]);
    diagonal.graph.initializer.push(TensorProto {
        name: "places".into(),
        dims: vec![2, 2],
        data_type: DataType::Int64.into(),
        int64_data: vec![0, 0, 1, 1],
        ..Default::default()
    });
    diagonal.fails(&["`y` (GatherND)", "a list along each axis"]);
}

/// A repeated row of a permuted tensor, as multi-query attention has for its heads, is written and read as the same layers.
#[test]
fn repeated_rows_survive_a_round_trip() {
    let build = model(&[1, 6, 2, 2]).list("tokens", &[1, 1, 6, 4]).node("Reshape", "x tokens", "t", vec![]);
    let build = build.node("Transpose", "t", "k", vec![ints("perm", &[0, 3, 1, 2])]).list("heads", &[1, 4, 3, 6]);
    let build = build.node("Expand", "k heads", "e", vec![]);
    let first =
        build.node("MatMul", "e x6", "y", vec![]).counted("x6", &[6, 5]).read().unwrap().into_network().unwrap();
    let again = from_bytes(&super::to_bytes(&first).unwrap(), &ReadOptions::default()).unwrap().into_network().unwrap();
    let kinds = |network: &nettriage_net::Network| -> Vec<Kind> {
        network.graph.layers.iter().map(|layer| layer.kind.clone()).collect()
    };
    assert!(kinds(&first).iter().any(|kind| matches!(kind, Kind::Gather(_))), "{:?}", kinds(&first));
    assert_eq!(kinds(&again), kinds(&first));
}

/// A class token and the mean over tokens: tokens stay columns of a feature map of one row, so that what replaces layers of a
/// written transformer is a linear map of tokens again.
#[test]
fn tokens_survive_a_round_trip() {
    let build = model(&[1, 6, 2, 2]).list("flat", &[0, 6, 4]).counted("cls", &[1, 1, 6]).counted("pos", &[1, 5, 6]);
    let build =
        build.node("Reshape", "x flat", "r", vec![]).node("Transpose", "r", "t", vec![ints("perm", &[0, 2, 1])]);
    let build = build.node("Concat", "cls t", "j", vec![int("axis", 1)]).node("Add", "j pos", "e", vec![]);
    let build = build.counted("w", &[6, 6]).node("MatMul", "e w", "m", vec![]);
    let build = build.node("ReduceMean", "m", "y", vec![ints("axes", &[1]), int("keepdims", 0)]);
    let first = build.read().unwrap().into_network().unwrap();
    let again = from_bytes(&super::to_bytes(&first).unwrap(), &ReadOptions::default()).unwrap().into_network().unwrap();
    let layers = |network: &nettriage_net::Network| -> Vec<(Kind, Shape)> {
        let shapes = network.graph.shapes().unwrap();
        network.graph.layers.iter().map(|layer| layer.kind.clone()).zip(shapes).collect()
    };
    assert!(layers(&first).iter().any(|(_, shape)| *shape == Shape::new(6, 1, 5)), "{:?}", layers(&first));
    assert_eq!(layers(&again), layers(&first));
}

/// PyTorch's module for attention computes tokens before the batch (T, N, C), and flattens both.
#[test]
fn a_batch_of_one_image_may_be_on_any_axis() {
    let build = model(&[1, 6, 1, 5]).list("sequence", &[1, 6, 5]).node("Reshape", "x sequence", "s", vec![]);
    let build = build.node("Transpose", "s", "t", vec![ints("perm", &[2, 0, 1])]);
    let build = build.list("heads", &[5, 1, 3, 2]).node("Reshape", "t heads", "h", vec![]);
    let build = build.list("flat", &[5, 6]).node("Reshape", "h flat", "f", vec![]).counted("weight", &[6, 6]);
    let build = build.node("Gemm", "f weight", "g", vec![]).list("apart", &[5, 1, 6]);
    let build = build.node("Reshape", "g apart", "a", vec![]);
    let build = build.node("Transpose", "a", "b", vec![ints("perm", &[1, 2, 0])]).node("Add", "s b", "y", vec![]);
    let read = build.read().unwrap();
    assert_eq!(read.graph.output_shape().unwrap(), Shape::new(6, 1, 5));
    assert!(read.graph.layers.iter().any(|layer| matches!(layer.kind, Kind::Conv(_))));
}

/// A slice of no elements, backwards too.
#[test]
fn empty_constants_are_sliced() {
    for step in [1, -1] {
        let build = model(&[1, 2, 1, 1]).list("v", &[1, 2, 3]).list("from", &[0]).list("to", &[0]).list("axis", &[0]);
        let build = build.list("last", &[9]).list("step", &[step]).node("Slice", "v from to axis", "none", vec![]);
        let build = build.node("Slice", "none from last axis step", "still", vec![]);
        let build = build.list("shape", &[1, 2]).node("Concat", "still shape", "all", vec![int("axis", 0)]);
        assert_eq!(build.node("Reshape", "x all", "y", vec![]).words(), Vec::<String>::new());
    }
}

/// A chain of operators on a large constant computes many times more than the file holds.
#[test]
fn folding_is_bounded_by_the_size_of_the_file() {
    let mut build = model(&[1, 1, 2, 2]).counted("v0", &[1 << 20]);
    for step in 0..200 {
        build = build.node("Neg", &format!("v{step}"), &format!("v{}", step + 1), vec![]);
    }
    build.node("Add", "x v200", "y", vec![]).fails(&["many times more computation"]);

    // Constants of few bytes: a long matrix product, and many short ones.
    let filled = |extent: i64| {
        let build = model(&[1, 1, 1, 1]).list("row", &[1, extent]).list("column", &[extent, 1]);
        build.node("ConstantOfShape", "row", "a", vec![]).node("ConstantOfShape", "column", "b", vec![])
    };
    filled(1 << 30).node("MatMul", "a b", "p", vec![]).node("Add", "x p", "y", vec![]).fails(&["too much computation"]);
    let mut build = filled(1 << 24);
    for round in 0..20 {
        build = build.node("MatMul", "a b", &format!("p{round}"), vec![]);
    }
    build.node("Add", "x p0", "y", vec![]).fails(&["many times more computation"]);
    // Lists that three numbers, or one, describe.
    let range = model(&[1, 1, 2, 2]).number("from", 0.0).number("to", 1e5).number("by", 1.0);
    range.node("Range", "from to by", "r", vec![]).fails(&["`r` (Range)", "too long"]);
    let indices = model(&[1, 1, 2, 2]).list("extent", &[1 << 18]).counted("v", &[2]);
    let indices =
        indices.node("ConstantOfShape", "extent", "zeros", vec![]).node("Cast", "zeros", "i", vec![int("to", 7)]);
    indices.node("Gather", "v i", "g", vec![]).fails(&["`g` (Gather)", "too long"]);
    // A node of few bytes lists many positions.
    let mut build =
        model(&[1, 1, 1, 4]).list("most", &[0, 0, 0, 0, 0, 0, 0, 16_000]).list("one", &[0, 0, 0, 0, 0, 0, 0, 1]);
    build = build.node("Pad", "x most", "p0", vec![word("mode", "edge")]);
    for step in 0..200 {
        build = build.node("Pad", &format!("p{step} one"), &format!("p{}", step + 1), vec![word("mode", "edge")]);
    }
    build.node("Relu", "p200", "y", vec![]).fails(&["(Pad)", "many times larger than the file"]);
    let long = model(&[1, 1, 1, 4]).list("most", &[0, 0, 0, 0, 0, 0, 0, 1 << 14]);
    long.node("Pad", "x most", "y", vec![word("mode", "edge")]).fails(&["`y` (Pad)", "positions of an axis"]);
    // A few operators per weight are usual, and intermediate results are freed.
    let mut build = model(&[1, 1, 2, 2]).counted("v0", &[1 << 20]);
    for step in 0..20 {
        build = build.node("Neg", &format!("v{step}"), &format!("v{}", step + 1), vec![]);
    }
    build.node("ReduceMean", "v20", "m", vec![int("keepdims", 0)]).node("Add", "x m", "y", vec![]).read().unwrap();
}
