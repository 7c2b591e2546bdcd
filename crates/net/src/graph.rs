//! The network graph: layers known at run time, in topological order, joined by name.

use serde::{Deserialize, Serialize};

/// The name by which layers refer to the network's input.
pub const INPUT: &str = "input";

/// The shape of one image's tensor: (C, H, W). A vector of F features is (F, 1, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Channels, C.
    pub channels: usize,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
}

impl Shape {
    /// The shape (C, H, W).
    pub fn new(channels: usize, height: usize, width: usize) -> Shape {
        Shape { channels, height, width }
    }

    /// Elements per image.
    pub fn elements(self) -> usize {
        self.channels * self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Zeros (or, for max-pooling, absent pixels) around a picture, per side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub fn all(amount: usize) -> Padding {
        Padding { top: amount, bottom: amount, left: amount, right: amount }
    }
}

/// A two-dimensional convolution (cross-correlation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Output channels.
    pub filters: usize,
    /// Kernel extent, [rows, columns].
    pub kernel: [usize; 2],
    /// Stride, [rows, columns].
    pub stride: [usize; 2],
    /// Zero padding.
    pub padding: Padding,
    /// Distance between kernel taps, [rows, columns]; 1 is dense.
    pub dilation: [usize; 2],
    /// Groups; input and output channels are divisible by it.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv {
    /// A dense `kernel` x `kernel` convolution, stride 1, padded so that an odd kernel keeps the picture's size.
    pub fn same(filters: usize, kernel: usize) -> Conv {
        Conv {
            filters,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: Padding::all(kernel / 2),
            dilation: [1; 2],
            groups: 1,
            bias: true,
        }
    }
}

/// The window of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Extent, [rows, columns].
    pub kernel: [usize; 2],
    /// Stride, [rows, columns].
    pub stride: [usize; 2],
    /// Padding; never counted by max-pooling.
    pub padding: Padding,
}

impl Window {
    /// A `size` x `size` window that moves by its own size, without padding.
    pub fn square(size: usize) -> Window {
        Window { kernel: [size; 2], stride: [size; 2], padding: Padding::default() }
    }
}

/// Elementwise activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x where x > 0, `slope` x elsewhere.
    LeakyRelu {
        /// Slope below zero.
        slope: f32,
    },
    /// Leaky ReLU with one learned slope a channel.
    Prelu,
    /// min(max(x, `min`), `max`); ReLU6 is 0 to 6.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// min(max(`alpha` x + `beta`, 0), 1).
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// x * min(max(x / 6 + 1/2, 0), 1).
    HardSwish,
    /// x * sigmoid(x).
    Silu,
    /// x * Phi(x), with Phi exact (erf) or by its tanh approximation.
    Gelu {
        /// Whether the tanh approximation is meant.
        tanh: bool,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// x where x > 0, `alpha` (exp(x) - 1) elsewhere.
    Elu {
        /// Scale below zero.
        alpha: f32,
    },
}

/// What a layer computes. Shapes are per image, (C, H, W).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// Convolution. Weights: `weight`, and `bias` if asked for.
    Conv(Conv),
    /// Transposed convolution: the gradient of a convolution as a layer. `weight` is `[in, out / groups, kh, kw]`.
    ConvTranspose {
        /// The convolution whose transpose this is; `filters` are the output channels of this layer.
        conv: Conv,
        /// Extra rows and columns at the end of the output.
        output_padding: [usize; 2],
    },
    /// Fully connected layer on a (F, 1, 1) input. Weights: `weight` `[features, F]`, and `bias`.
    Linear {
        /// Output features.
        features: usize,
        /// Whether a bias is added.
        bias: bool,
    },
    /// Batch normalisation per channel (Ioffe and Szegedy, arXiv:1502.03167).
    /// Weights: `weight`, `bias`, `running_mean`, `running_var`.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
        /// Share of the batch's statistics in the running ones, as in PyTorch.
        momentum: f32,
    },
    /// y = x * `weight` + `bias` per channel, not trained unless asked for.
    Affine,
    /// Elementwise activation.
    Activation(Activation),
    /// Largest element in the window.
    MaxPool(Window),
    /// Mean of the window.
    AvgPool {
        /// The window.
        window: Window,
        /// Whether padding counts as zeros in the mean.
        count_padding: bool,
    },
    /// Mean over a grid of regions; 1x1 is global average pooling.
    AdaptiveAvgPool {
        /// Output rows.
        height: usize,
        /// Output columns.
        width: usize,
    },
    /// Sum of all inputs; an input of shape (C, 1, 1) is spread over H and W.
    Add,
    /// Product of all inputs; an input of shape (C, 1, 1) is spread over H and W (squeeze-excite).
    Mul,
    /// Inputs joined along the channels.
    Concat,
    /// (C, H, W) to (C H W, 1, 1), in that order.
    Flatten,
    /// The same elements, in (C, H, W) order, under another shape.
    Reshape {
        /// The new shape.
        shape: Shape,
    },
    /// Channel shuffle (Zhang et al., arXiv:1707.01083): (groups, C / groups) transposed.
    ChannelShuffle {
        /// Number of groups.
        groups: usize,
    },
    /// Channels `start..end`.
    Slice {
        /// First channel.
        start: usize,
        /// One past the last channel.
        end: usize,
    },
    /// A constant border. Channels too, as CIFAR ResNets' parameter-free shortcuts need.
    Pad {
        /// Channels before and after.
        channels: [usize; 2],
        /// Rows and columns.
        padding: Padding,
        /// The value.
        value: f32,
    },
    /// Nearest-neighbour enlargement by whole factors.
    Upsample {
        /// Factors, [rows, columns].
        factor: [usize; 2],
    },
    /// Local response normalisation across channels (Krizhevsky et al., 2012).
    LocalResponseNorm {
        /// Channels in the window.
        size: usize,
        /// Scale.
        alpha: f32,
        /// Exponent.
        beta: f32,
        /// Additive constant k.
        bias: f32,
    },
    /// Zeroes each element with probability `p` in training and scales the rest by 1 / (1 - p).
    Dropout {
        /// Probability.
        p: f32,
    },
    /// Softmax over the channels.
    Softmax {
        /// Whether its logarithm is meant.
        log: bool,
    },
    /// The input unchanged.
    Identity,
}

/// One layer: a stable name, what it computes, and where its inputs come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Unique within the graph, free of whitespace; its weights are named after it.
    pub name: String,
    /// Names of earlier layers, or [`INPUT`].
    pub inputs: Vec<String>,
    /// What it computes.
    #[serde(flatten)]
    pub kind: Kind,
}

/// A network's structure: layers in topological order, one input and one output tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The network's name, such as `vgg16_bn`.
    pub name: String,
    /// Shape of one input image.
    pub input: Shape,
    /// The layers; every input of a layer stands before it.
    pub layers: Vec<Layer>,
    /// Name of the layer (or [`INPUT`]) whose output is the network's.
    pub output: String,
}
