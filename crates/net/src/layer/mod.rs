//! Layers: what each kind computes, and everything the rest of the program needs to know of it.
//!
//! One file per kind or small family holds its settings, output shape, parameters, multiply-accumulates, receptive
//! field, role in a block and description. A new kind is one variant of [`Kind`], one arm of `Kind::operation`, and
//! one implementation of `Operation`, which has no default methods: the compiler names what is missing.

mod activation;
mod constant;
mod conv;
mod dropout;
mod gather;
mod layer_norm;
mod linear;
mod local_response_norm;
mod matmul;
mod merge;
mod norm;
mod operation;
mod permute;
mod pool;
mod rearrange;
mod reduce;
mod resize;
mod softmax;

use serde::{Deserialize, Serialize};

pub use activation::Activation;
pub use constant::Constant;
pub use conv::{Conv, ConvTranspose};
pub use dropout::Dropout;
pub use gather::Gather;
pub use layer_norm::{GroupNorm, LayerNorm};
pub use linear::Linear;
pub use local_response_norm::LocalResponseNorm;
pub use matmul::MatMul;
pub use merge::Concat;
pub use norm::BatchNorm;
use operation::Operation;
pub use operation::{Footprint, Initial, Padding, Parameter, Rank, Role};
pub use permute::Permute;
pub use pool::{AdaptiveAvgPool, AvgPool, Window};
pub use rearrange::{ChannelShuffle, Reshape, Slice};
pub use reduce::{Reduce, Reduction};
pub use resize::{Coordinates, Pad, Resize, Upsample};
pub use softmax::Softmax;

use crate::Shape;

/// What a layer computes, with its settings. Shapes are per image, (C, H, W).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// Convolution.
    Conv(Conv),
    /// Transposed convolution.
    ConvTranspose(ConvTranspose),
    /// Fully connected layer.
    Linear(Linear),
    /// Batch normalisation per channel.
    BatchNorm(BatchNorm),
    /// y = x * `weight` + `bias` per channel, not trained unless named as trainable.
    Affine,
    /// Elementwise activation.
    Activation(Activation),
    /// Largest element in the window; padding is never the largest.
    MaxPool(Window),
    /// Mean of the window.
    AvgPool(AvgPool),
    /// Mean over a grid of regions; 1x1 is global average pooling.
    AdaptiveAvgPool(AdaptiveAvgPool),
    /// Sum of all inputs; an axis of extent 1 is broadcast.
    Add,
    /// Product of all inputs; an axis of extent 1 is broadcast, as H and W are in squeeze-and-excitation.
    Mul,
    /// Inputs concatenated along the channels, or another axis.
    Concat(Concat),
    /// One matrix product per row of two feature maps.
    MatMul(MatMul),
    /// (C, H, W) to (C H W, 1, 1), in that order.
    Flatten,
    /// The same elements, in (C, H, W) order, under another shape.
    Reshape(Reshape),
    /// The elements under another order of axes.
    Permute(Permute),
    /// Channel shuffle.
    ChannelShuffle(ChannelShuffle),
    /// A range of channels.
    Slice(Slice),
    /// Positions along an axis, by their indices.
    Gather(Gather),
    /// A tensor that does not depend on the image.
    Constant(Constant),
    /// Mean or maximum over whole axes.
    Reduce(Reduce),
    /// A constant border.
    Pad(Pad),
    /// Nearest-neighbour enlargement by whole factors.
    Upsample(Upsample),
    /// Bilinear interpolation.
    Resize(Resize),
    /// Layer normalisation over the channels of each position.
    LayerNorm(LayerNorm),
    /// Group normalisation.
    GroupNorm(GroupNorm),
    /// Local response normalisation across channels.
    LocalResponseNorm(LocalResponseNorm),
    /// Dropout; the identity in evaluation mode.
    Dropout(Dropout),
    /// Softmax, or its logarithm, over the channels.
    Softmax(Softmax),
    /// The input unchanged.
    Identity,
}

impl Kind {
    fn operation(&self) -> &dyn Operation {
        match self {
            Kind::Conv(conv) => conv,
            Kind::ConvTranspose(conv) => conv,
            Kind::Linear(linear) => linear,
            Kind::BatchNorm(norm) => norm,
            Kind::Affine => &norm::Affine,
            Kind::Activation(activation) => activation,
            Kind::MaxPool(window) => window,
            Kind::AvgPool(pool) => pool,
            Kind::AdaptiveAvgPool(pool) => pool,
            Kind::Add => &merge::Merge::Add,
            Kind::Mul => &merge::Merge::Mul,
            Kind::Concat(concat) => concat,
            Kind::MatMul(product) => product,
            Kind::Flatten => &rearrange::Flatten,
            Kind::Reshape(reshape) => reshape,
            Kind::Permute(permute) => permute,
            Kind::ChannelShuffle(shuffle) => shuffle,
            Kind::Slice(slice) => slice,
            Kind::Gather(gather) => gather,
            Kind::Constant(constant) => constant,
            Kind::Reduce(reduce) => reduce,
            Kind::Pad(pad) => pad,
            Kind::Upsample(upsample) => upsample,
            Kind::Resize(resize) => resize,
            Kind::LayerNorm(norm) => norm,
            Kind::GroupNorm(norm) => norm,
            Kind::LocalResponseNorm(norm) => norm,
            Kind::Dropout(dropout) => dropout,
            Kind::Softmax(softmax) => softmax,
            Kind::Identity => &dropout::Identity,
        }
    }

    /// The output shape (C, H, W) for inputs of these shapes.
    ///
    /// # Errors
    /// A wrong number of inputs; settings or shapes that give no output. In words, without the layer's name.
    pub fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let merges = match self.role() {
            Role::Merge => true,
            Role::Convolution
            | Role::TransposedConvolution
            | Role::Linear
            | Role::Norm
            | Role::CrossChannelNorm
            | Role::Activation
            | Role::Softmax
            | Role::Pooling
            | Role::AdaptivePooling
            | Role::Rearrangement
            | Role::Reshape
            | Role::Upsampling
            | Role::NoOp => false,
        };
        match inputs.len() {
            0 => Err("it has no input".into()),
            1 if merges => Err("it needs two inputs or more".into()),
            count if count > 1 && !merges => Err(format!("it has {count} inputs and takes one")),
            _ => self.operation().output(inputs),
        }
    }

    /// Parameters and buffers for an input of shape (C, H, W): the first, where the layer has several.
    ///
    /// Meaningful for layers of a graph that [`Graph::shapes`](crate::Graph::shapes) accepts.
    pub fn parameters(&self, input: Shape) -> Vec<Parameter> {
        self.operation().parameters(input)
    }

    /// Multiply-accumulates per image, for its first input and its output; see [`cost`](crate::cost) for what counts.
    pub fn macs(&self, input: Shape, output: Shape) -> u64 {
        self.operation().macs(input, output)
    }

    /// The window of input positions behind an output position; `None` where there is no fixed one (global pooling,
    /// linear layers, reshapes, enlargement).
    pub fn footprint(&self) -> Option<Footprint> {
        self.operation().footprint()
    }

    /// What the layer is to the structure of a network.
    pub fn role(&self) -> Role {
        self.operation().role()
    }

    /// Whether the output is a vector (N, F) or a feature map (N, C, H, W) where other programs tell them apart.
    pub fn rank(&self) -> Rank {
        self.operation().rank()
    }

    /// The kind with its settings in words, such as `conv 3x3, 64` or `max pool 2x2`, for tables.
    ///
    /// Settings at their usual values (stride 1, one group, no dilation, padding that keeps the size) are left out.
    pub fn describe(&self) -> String {
        self.operation().describe()
    }

    /// Whether its weights are constants of the network, such as the scale of attention or a mask: neither training from
    /// scratch nor re-initialisation changes them.
    pub fn is_fixed(&self) -> bool {
        match self {
            Kind::Affine | Kind::Constant(Constant { learned: false, .. }) => true,
            Kind::Conv(_)
            | Kind::ConvTranspose(_)
            | Kind::Linear(_)
            | Kind::BatchNorm(_)
            | Kind::Activation(_)
            | Kind::MaxPool(_)
            | Kind::AvgPool(_)
            | Kind::AdaptiveAvgPool(_)
            | Kind::Add
            | Kind::Mul
            | Kind::Concat(_)
            | Kind::MatMul(_)
            | Kind::Permute(_)
            | Kind::Gather(_)
            | Kind::Constant(_)
            | Kind::Reduce(_)
            | Kind::Resize(_)
            | Kind::LayerNorm(_)
            | Kind::GroupNorm(_)
            | Kind::Flatten
            | Kind::Reshape(_)
            | Kind::ChannelShuffle(_)
            | Kind::Slice(_)
            | Kind::Pad(_)
            | Kind::Upsample(_)
            | Kind::LocalResponseNorm(_)
            | Kind::Dropout(_)
            | Kind::Softmax(_)
            | Kind::Identity => false,
        }
    }

    /// The layer as a convolution, a linear layer as one of 1x1; `None` for other kinds.
    pub fn as_convolution(&self) -> Option<Conv> {
        match self {
            Kind::Conv(conv) => Some(*conv),
            Kind::Linear(linear) => Some(Conv { bias: linear.bias, ..Conv::same(linear.features, 1) }),
            Kind::ConvTranspose(_)
            | Kind::BatchNorm(_)
            | Kind::Affine
            | Kind::Activation(_)
            | Kind::MaxPool(_)
            | Kind::AvgPool(_)
            | Kind::AdaptiveAvgPool(_)
            | Kind::Add
            | Kind::Mul
            | Kind::Concat(_)
            | Kind::MatMul(_)
            | Kind::Permute(_)
            | Kind::Gather(_)
            | Kind::Constant(_)
            | Kind::Reduce(_)
            | Kind::Resize(_)
            | Kind::LayerNorm(_)
            | Kind::GroupNorm(_)
            | Kind::Flatten
            | Kind::Reshape(_)
            | Kind::ChannelShuffle(_)
            | Kind::Slice(_)
            | Kind::Pad(_)
            | Kind::Upsample(_)
            | Kind::LocalResponseNorm(_)
            | Kind::Dropout(_)
            | Kind::Softmax(_)
            | Kind::Identity => None,
        }
    }
}

/// A layer of a graph: a unique name, what it computes, and where its inputs come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Unique within the graph, free of whitespace; its weights are named after it.
    pub name: String,
    /// Names of earlier layers, or [`INPUT`](crate::INPUT).
    pub inputs: Vec<String>,
    /// What it computes.
    #[serde(flatten)]
    pub kind: Kind,
}

impl Layer {
    /// [`Kind::describe`] of this layer.
    pub fn describe(&self) -> String {
        self.kind.describe()
    }
}
