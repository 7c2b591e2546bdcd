//! Layers in files: the JSON of every kind, which graphs kept on disk depend on.

use nettriage_net::{Activation, Axis, Conv, INPUT, Kind, Layer, Padding, Shape, Window, layer};

fn padding(top: usize, bottom: usize, left: usize, right: usize) -> Padding {
    Padding { top, bottom, left, right }
}

#[test]
fn the_json_of_every_kind_is_fixed() {
    let conv = Conv { stride: [2, 1], padding: padding(1, 0, 1, 2), groups: 2, bias: false, ..Conv::same(8, 3) };
    let conv_json = r#""filters":8,"kernel":[3,3],"stride":[2,1],"padding":{"top":1,"bottom":0,"left":1,"right":2},"dilation":[1,1],"groups":2,"bias":false"#;
    let window = Window::square(2);
    let window_json = r#""kernel":[2,2],"stride":[2,2],"padding":{"top":0,"bottom":0,"left":0,"right":0}"#;
    let pad = layer::Pad { channels: [1, 2], padding: padding(1, 0, 0, 3), value: 0.5 };
    let norm = layer::LocalResponseNorm { size: 5, alpha: 0.5, beta: 0.75, bias: 1.0 };
    let cases = [
        (Kind::Conv(conv), format!(r#""kind":"conv",{conv_json}"#)),
        (
            Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding: [1, 0] }),
            format!(r#""kind":"conv-transpose","conv":{{{conv_json}}},"output_padding":[1,0]"#),
        ),
        (
            Kind::Linear(layer::Linear { features: 10, bias: true }),
            r#""kind":"linear","features":10,"bias":true"#.into(),
        ),
        (
            Kind::BatchNorm(layer::BatchNorm { eps: 0.5, momentum: 0.25 }),
            r#""kind":"batch-norm","eps":0.5,"momentum":0.25"#.into(),
        ),
        (Kind::Affine, r#""kind":"affine""#.into()),
        (Kind::Activation(Activation::Relu), r#""kind":"activation","function":"relu""#.into()),
        (
            Kind::Activation(Activation::LeakyRelu { slope: 0.5 }),
            r#""kind":"activation","function":"leaky-relu","slope":0.5"#.into(),
        ),
        (
            Kind::Activation(Activation::Gelu { tanh: true }),
            r#""kind":"activation","function":"gelu","tanh":true"#.into(),
        ),
        (Kind::Activation(Activation::Mish), r#""kind":"activation","function":"mish""#.into()),
        (Kind::MaxPool(window), format!(r#""kind":"max-pool",{window_json}"#)),
        (
            Kind::AvgPool(layer::AvgPool { window, count_padding: true }),
            format!(r#""kind":"avg-pool","window":{{{window_json}}},"count_padding":true"#),
        ),
        (
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 2, width: 3 }),
            r#""kind":"adaptive-avg-pool","height":2,"width":3"#.into(),
        ),
        (Kind::Add, r#""kind":"add""#.into()),
        (Kind::Mul, r#""kind":"mul""#.into()),
        (Kind::Concat(layer::Concat::default()), r#""kind":"concat""#.into()),
        (Kind::Flatten, r#""kind":"flatten""#.into()),
        (
            Kind::Reshape(layer::Reshape { shape: Shape::new(1, 2, 3) }),
            r#""kind":"reshape","shape":{"channels":1,"height":2,"width":3}"#.into(),
        ),
        (Kind::ChannelShuffle(layer::ChannelShuffle { groups: 2 }), r#""kind":"channel-shuffle","groups":2"#.into()),
        (Kind::Slice(layer::Slice { start: 1, end: 3 }), r#""kind":"slice","start":1,"end":3"#.into()),
        (
            Kind::Pad(pad),
            r#""kind":"pad","channels":[1,2],"padding":{"top":1,"bottom":0,"left":0,"right":3},"value":0.5"#.into(),
        ),
        (Kind::Upsample(layer::Upsample { factor: [2, 3] }), r#""kind":"upsample","factor":[2,3]"#.into()),
        (
            Kind::LocalResponseNorm(norm),
            r#""kind":"local-response-norm","size":5,"alpha":0.5,"beta":0.75,"bias":1.0"#.into(),
        ),
        (Kind::Dropout(layer::Dropout { p: 0.5 }), r#""kind":"dropout","p":0.5"#.into()),
        (Kind::Softmax(layer::Softmax { log: true }), r#""kind":"softmax","log":true"#.into()),
        (Kind::Concat(layer::Concat { axis: Axis::Columns }), r#""kind":"concat","axis":"columns""#.into()),
        (Kind::MatMul(layer::MatMul { transposed: true }), r#""kind":"mat-mul","transposed":true"#.into()),
        (
            Kind::Permute(layer::Permute { extents: vec![2, 3], order: vec![1, 0], shape: Shape::new(1, 2, 3) }),
            r#""kind":"permute","extents":[2,3],"order":[1,0],"shape":{"channels":1,"height":2,"width":3}"#.into(),
        ),
        (
            Kind::Gather(layer::Gather { axis: Axis::Rows, indices: vec![1, 0] }),
            r#""kind":"gather","axis":"rows","indices":[1,0]"#.into(),
        ),
        (
            Kind::Constant(layer::Constant { shape: Shape::new(1, 2, 3), learned: true }),
            r#""kind":"constant","shape":{"channels":1,"height":2,"width":3},"learned":true"#.into(),
        ),
        (
            Kind::Reduce(layer::Reduce { function: layer::Reduction::Mean, axes: vec![Axis::Channels] }),
            r#""kind":"reduce","function":"mean","axes":["channels"]"#.into(),
        ),
        (
            Kind::Resize(layer::Resize { height: 2, width: 3, coordinates: layer::Coordinates::AlignCorners }),
            r#""kind":"resize","height":2,"width":3,"coordinates":"align-corners""#.into(),
        ),
        (
            Kind::LayerNorm(layer::LayerNorm { eps: 0.5, centred: true }),
            r#""kind":"layer-norm","eps":0.5,"centred":true"#.into(),
        ),
        (
            Kind::GroupNorm(layer::GroupNorm { groups: 2, eps: 0.5 }),
            r#""kind":"group-norm","groups":2,"eps":0.5"#.into(),
        ),
        (
            Kind::Activation(Activation::Power { exponent: 2.0 }),
            r#""kind":"activation","function":"power","exponent":2.0"#.into(),
        ),
        (Kind::Activation(Activation::Selu), r#""kind":"activation","function":"selu""#.into()),
        (Kind::Identity, r#""kind":"identity""#.into()),
    ];
    for (kind, fields) in cases {
        let layer = Layer { name: "x".into(), inputs: vec![INPUT.into()], kind };
        let json = format!(r#"{{"name":"x","inputs":["input"],{fields}}}"#);
        assert_eq!(serde_json::to_string(&layer).unwrap(), json);
        assert_eq!(serde_json::from_str::<Layer>(&json).unwrap(), layer);
    }
}
