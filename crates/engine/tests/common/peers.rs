//! The networks, images and labels of the PyTorch scripts, with the same hashed numbers.

use super::{hashed, layer};
use nettriage_net::{
    Activation, Conv, Graph, INPUT, Kind, Layer, Network, Padding, Shape, Tensor, Weights, Window, layer,
};

/// Builds a network layer by layer; each weight tensor comes from the next stream.
pub struct Builder {
    layers: Vec<Layer>,
    weights: Weights,
    stream: u32,
    last: String,
}

impl Builder {
    fn push(&mut self, name: String, inputs: &[&str], kind: Kind) {
        self.layers.push(layer(&name, inputs, kind));
        self.last = name;
    }

    fn push_next(&mut self, name: String, kind: Kind) {
        let last = self.last.clone();
        self.push(name, &[&last], kind);
    }

    fn weight(&mut self, name: &str, shape: &[usize], scale: f64) {
        let data = hashed(shape.iter().product(), self.stream, scale as f32);
        self.weights.insert(format!("{name}.weight"), Tensor::new(shape, data));
        self.stream += 1;
    }

    fn conv(&mut self, name: &str, from: &str, inputs: usize, conv: Conv) {
        let fan = (inputs * conv.kernel[0] * conv.kernel[1]) as f64;
        self.weight(name, &[conv.filters, inputs, conv.kernel[0], conv.kernel[1]], (6.0 / fan).sqrt());
        if conv.bias {
            self.weights.insert(format!("{name}.bias"), Tensor::zeros(&[conv.filters]));
        }
        self.push(name.into(), &[from], Kind::Conv(conv));
    }

    fn norm(&mut self, name: String, channels: usize) {
        for (parameter, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            self.weights.insert(format!("{name}.{parameter}"), Tensor::full(&[channels], value));
        }
        self.push_next(name, Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 }));
    }

    fn relu(&mut self, name: String) {
        self.push_next(name, Kind::Activation(Activation::Relu));
    }

    fn head(mut self, input: Shape, features: usize) -> Network {
        self.push_next("flatten".into(), Kind::Flatten);
        self.weight("head", &[10, features], (3.0 / features as f64).sqrt());
        self.weights.insert("head.bias".into(), Tensor::zeros(&[10]));
        self.push_next("head".into(), Kind::Linear(layer::Linear { features: 10, bias: true }));
        let graph = Graph { name: "peer".into(), input, layers: self.layers, output: "head".into() };
        let network = Network { graph, weights: self.weights };
        network.check().expect("a sound network");
        network
    }
}

fn builder() -> Builder {
    Builder { layers: Vec::new(), weights: Weights::new(), stream: 1, last: INPUT.into() }
}

/// A VGG: in `plan`, 0 is 2x2 max pooling, n > 0 a 3x3 convolution with n filters.
pub fn vgg(plan: &[usize], mut channels: usize, size: usize, batch_norm: bool) -> Network {
    let input = Shape::new(channels, size, size);
    let (mut net, mut side) = (builder(), size);
    for (i, &width) in plan.iter().enumerate() {
        if width == 0 {
            net.push_next(format!("pool{i}"), Kind::MaxPool(Window::square(2)));
            side /= 2;
            continue;
        }
        let from = net.last.clone();
        net.conv(&format!("conv{i}"), &from, channels, Conv::same(width, 3));
        if batch_norm {
            net.norm(format!("norm{i}"), width);
        }
        net.relu(format!("relu{i}"));
        channels = width;
    }
    net.head(input, channels * side * side)
}

/// The network `Residual` of `torch_losses.py`.
pub fn residual(narrow: usize, wide: usize, channels: usize, size: usize) -> Network {
    let mut net = builder();
    let conv = |filters, kernel, stride: usize| Conv {
        stride: [stride; 2],
        bias: false,
        padding: Padding::all(kernel / 2),
        ..Conv::same(filters, kernel)
    };
    net.conv("stem", INPUT, channels, conv(narrow, 3, 1));
    net.norm("stem_norm".into(), narrow);
    net.relu("stem_relu".into());
    net.conv("a1", "stem_relu", narrow, conv(narrow, 3, 1));
    net.norm("an1".into(), narrow);
    net.relu("ar1".into());
    net.conv("a2", "ar1", narrow, conv(narrow, 3, 1));
    net.norm("an2".into(), narrow);
    net.push("a_sum".into(), &["an2", "stem_relu"], Kind::Add);
    net.relu("ar2".into());
    net.conv("b1", "ar2", narrow, conv(wide, 3, 2));
    net.norm("bn1".into(), wide);
    net.relu("br1".into());
    net.conv("b2", "br1", wide, conv(wide, 3, 1));
    net.norm("bn2".into(), wide);
    net.conv("down", "ar2", narrow, conv(wide, 1, 2));
    net.norm("down_norm".into(), wide);
    net.push("b_sum".into(), &["bn2", "down_norm"], Kind::Add);
    net.relu("br2".into());
    net.push_next("mean".into(), Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }));
    net.head(Shape::new(channels, size, size), wide)
}

/// The scripts' images: hashed in N x C x H x W order, returned as N x H x W x C.
pub fn images(batch: usize, shape: Shape) -> Vec<f32> {
    hashed_images(batch, shape, 1000, 1.0)
}

/// The first elements of a stream as a batch of one tensor, likewise.
pub fn hashed_images(batch: usize, shape: Shape, stream: u32, scale: f32) -> Vec<f32> {
    let nchw = hashed(batch * shape.elements(), stream, scale);
    let mut nhwc = vec![0.0; nchw.len()];
    let positions = shape.height * shape.width;
    for (at, value) in nchw.into_iter().enumerate() {
        let (image, c, p) = (at / shape.elements(), at / positions % shape.channels, at % positions);
        nhwc[(image * positions + p) * shape.channels + c] = value;
    }
    nhwc
}

/// The scripts' labels.
pub fn labels(batch: usize) -> Vec<u16> {
    (0..batch).map(|i| (i % 10) as u16).collect()
}
