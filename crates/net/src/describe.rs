//! Layers in words, for tables.

use crate::{Activation, Conv, Kind, Layer, Padding, Window};

impl Layer {
    /// The layer's kind with its settings, such as `conv 3x3, 64` or `max pool 2x2`.
    ///
    /// Settings at their usual values (stride 1, one group, no dilation, padding that keeps the size) are left out.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Conv(conv) => convolution("conv", conv),
            Kind::ConvTranspose { conv, .. } => convolution("transposed conv", conv),
            Kind::Linear { features, .. } => format!("linear {features}"),
            Kind::BatchNorm { .. } => "batch norm".into(),
            Kind::Affine => "affine".into(),
            Kind::Activation(activation) => function(activation),
            Kind::MaxPool(window) => pool("max pool", window),
            Kind::AvgPool { window, .. } => pool("average pool", window),
            Kind::AdaptiveAvgPool { height: 1, width: 1 } => "global average pool".into(),
            Kind::AdaptiveAvgPool { height, width } => format!("adaptive average pool to {height}x{width}"),
            Kind::Add => "add".into(),
            Kind::Mul => "multiply".into(),
            Kind::Concat => "concat".into(),
            Kind::Flatten => "flatten".into(),
            Kind::Reshape { shape } => format!("reshape to {shape}"),
            Kind::ChannelShuffle { groups } => format!("channel shuffle, {groups} groups"),
            Kind::Slice { start, end } => format!("channels {start}..{end}"),
            Kind::Pad { channels, padding, value } => {
                let mut text = String::from("pad");
                if channels != &[0, 0] {
                    text += &format!(" channels {}+{}", channels[0], channels[1]);
                }
                if padding != &Padding::default() {
                    text += &format!(" {}", around(padding));
                }
                if *value != 0.0 {
                    text += &format!(" with {value}");
                }
                text
            }
            Kind::Upsample { factor } => format!("upsample {}x{}", factor[0], factor[1]),
            Kind::LocalResponseNorm { size, .. } => format!("local response norm, {size}"),
            Kind::Dropout { p } => format!("dropout {p}"),
            Kind::Softmax { log: false } => "softmax".into(),
            Kind::Softmax { log: true } => "log softmax".into(),
            Kind::Identity => "identity".into(),
        }
    }
}

fn around(padding: &Padding) -> String {
    let Padding { top, bottom, left, right } = padding;
    if top == bottom && top == left && top == right {
        top.to_string()
    } else {
        format!("{top},{bottom},{left},{right}")
    }
}

fn pair(values: [usize; 2]) -> String {
    if values[0] == values[1] { values[0].to_string() } else { format!("{}x{}", values[0], values[1]) }
}

fn convolution(word: &str, conv: &Conv) -> String {
    let mut text = format!("{word} {}x{}, {}", conv.kernel[0], conv.kernel[1], conv.filters);
    if conv.stride != [1, 1] {
        text += &format!(", stride {}", pair(conv.stride));
    }
    if conv.dilation != [1, 1] {
        text += &format!(", dilation {}", pair(conv.dilation));
    }
    if conv.groups != 1 {
        text += &format!(", groups {}", conv.groups);
    }
    let same = |axis: usize| conv.dilation[axis].saturating_mul(conv.kernel[axis] / 2);
    let usual = Padding { top: same(0), bottom: same(0), left: same(1), right: same(1) };
    if conv.padding != usual {
        text += &format!(", padding {}", around(&conv.padding));
    }
    text
}

fn pool(word: &str, window: &Window) -> String {
    let mut text = format!("{word} {}x{}", window.kernel[0], window.kernel[1]);
    if window.stride != window.kernel {
        text += &format!(", stride {}", pair(window.stride));
    }
    if window.padding != Padding::default() {
        text += &format!(", padding {}", around(&window.padding));
    }
    text
}

fn function(activation: &Activation) -> String {
    match activation {
        Activation::Relu => "relu".into(),
        Activation::LeakyRelu { slope } => format!("leaky relu {slope}"),
        Activation::Prelu => "prelu".into(),
        Activation::Clip { min: 0.0, max: 6.0 } => "relu6".into(),
        Activation::Clip { min, max } => format!("clip {min} to {max}"),
        Activation::Sigmoid => "sigmoid".into(),
        Activation::HardSigmoid { .. } => "hard sigmoid".into(),
        Activation::HardSwish => "hard swish".into(),
        Activation::Silu => "silu".into(),
        Activation::Gelu { .. } => "gelu".into(),
        Activation::Tanh => "tanh".into(),
        Activation::Elu { alpha } => format!("elu {alpha}"),
    }
}
