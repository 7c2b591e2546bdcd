//! The layers. One file holds how a kind of layer computes: its forward pass and its backward pass, in PyTorch's operators.
//!
//! Tensors are N x C x H x W, whatever their order in memory; vectors have one position.

use nettriage_net::{Activation, Kind, Layer, Padding, Shape};

use crate::abi::Tensor;
use crate::parameters::{ParameterId, Parameters};
use crate::{Result, Torch};

mod activation;
mod convolution;
mod dropout;
mod image_norm;
mod linear;
mod local_response_norm;
mod matmul;
mod merge;
mod norm;
mod pool;
mod rearrange;
mod select;
mod softmax;

/// A pass over the layers.
pub(crate) struct Pass<'a> {
    pub torch: &'a Torch,
    pub parameters: &'a Parameters,
    /// Images.
    pub n: usize,
    /// The seed of dropout; none in evaluation mode.
    pub training: Option<u64>,
}

impl Pass<'_> {
    /// Sizes of a tensor of this shape.
    fn sizes(&self, shape: Shape) -> [i64; 4] {
        [self.n, shape.channels, shape.height, shape.width].map(|size| size as i64)
    }
}

/// The result of a forward pass.
pub(crate) struct Output {
    pub value: Tensor,
    /// What the backward pass needs in addition to inputs and output.
    pub saved: Vec<Tensor>,
}

impl From<Tensor> for Output {
    fn from(value: Tensor) -> Output {
        Output { value, saved: Vec::new() }
    }
}

/// dLoss/d of a tensor.
pub(crate) struct Gradient {
    pub value: Tensor,
    /// Whether other tensors have the same elements, so that they may not be overwritten.
    pub shared: bool,
}

impl Gradient {
    /// One that no other tensor shares.
    pub fn own(value: Tensor) -> Gradient {
        Gradient { value, shared: false }
    }

    /// A view of this one, or a tensor that may be one.
    fn view(&self, value: Tensor) -> Gradient {
        Gradient { value, shared: self.shared }
    }
}

/// What a backward pass starts from.
pub(crate) struct Backward<'a> {
    /// The inputs; empty if [`Operation::reads`] leaves them out.
    pub inputs: &'a [Tensor],
    /// The output, if [`Operation::reads`] names it.
    pub output: Option<&'a Tensor>,
    /// Whether the output's elements may be overwritten.
    pub consumable: bool,
    pub saved: &'a [Tensor],
    pub gradient: Gradient,
    /// For each input, whether its gradient is needed.
    pub needed: &'a [bool],
}

impl Backward<'_> {
    fn output(&self) -> &Tensor {
        self.output.expect("the operation reads its output")
    }
}

/// The result of a backward pass.
#[derive(Default)]
pub(crate) struct Gradients {
    /// For each input; `None` where it is not needed.
    pub inputs: Vec<Option<Gradient>>,
    pub weights: Vec<(ParameterId, Tensor)>,
}

impl Gradients {
    /// Of the only input.
    fn of(input: Gradient) -> Gradients {
        Gradients { inputs: vec![Some(input)], weights: Vec::new() }
    }

    /// Of the only input, a tensor that no other shares.
    fn own(input: Tensor) -> Gradients {
        Gradients::of(Gradient::own(input))
    }
}

/// What a backward pass reads, and what a forward pass returns.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traits {
    /// The backward pass reads the inputs.
    pub inputs: bool,
    /// The backward pass reads the output.
    pub output: bool,
    /// The output has memory of its own that the backward pass does not read: the next operation may overwrite it.
    pub overwritable: bool,
}

/// How a layer computes.
pub(crate) trait Operation: Send {
    fn traits(&self) -> Traits;

    fn forward(&self, pass: &Pass<'_>, inputs: &[&Tensor]) -> Result<Output>;

    /// The same, overwriting the only input; `None` where that is not possible.
    fn forward_in_place(&self, _input: &Tensor) -> Option<Result<Output>> {
        None
    }

    fn backward(&self, pass: &Pass<'_>, state: Backward<'_>) -> Result<Gradients>;
}

/// A layer that is being built.
pub(crate) struct Context<'a> {
    pub torch: &'a Torch,
    pub layer: &'a Layer,
    pub inputs: &'a [Shape],
    pub output: Shape,
    /// Whether the layer trains.
    pub trains: bool,
    pub parameters: &'a mut Parameters,
}

impl Context<'_> {
    /// A weight of the layer, which trains if the layer does; `None` if it has no such weight.
    fn weight(&mut self, parameter: &str) -> Option<ParameterId> {
        let id = self.statistic(parameter)?;
        if self.trains {
            self.parameters.set_trainable(id);
        }
        Some(id)
    }

    /// A running statistic of the layer.
    fn statistic(&self, parameter: &str) -> Option<ParameterId> {
        self.parameters.find(&self.layer.name, parameter)
    }
}

/// Why a weight that a layer has by its kind is found: the network was checked.
const CHECKED: &str = "the network was checked";

/// Builds the operation of a layer.
pub(crate) fn build(cx: &mut Context<'_>) -> Box<dyn Operation> {
    match &cx.layer.kind {
        Kind::Conv(conv) => Box::new(convolution::build(cx, *conv)),
        Kind::ConvTranspose(transposed) => Box::new(convolution::build_transposed(cx, *transposed)),
        Kind::Linear(_) => Box::new(linear::build(cx)),
        Kind::BatchNorm(norm) => Box::new(norm::build(cx, *norm)),
        Kind::Affine => Box::new(norm::build_affine(cx)),
        Kind::Activation(Activation::Prelu) => Box::new(activation::build_prelu(cx)),
        Kind::Activation(function) => Box::new(activation::Elementwise { function: *function }),
        Kind::MaxPool(window) => Box::new(pool::MaxPool { window: *window, input: cx.inputs[0] }),
        Kind::AvgPool(pool) => Box::new(pool::AvgPool { pool: *pool, input: cx.inputs[0] }),
        Kind::AdaptiveAvgPool(grid) => Box::new(pool::AdaptivePool { grid: *grid }),
        Kind::Add => Box::new(merge::Add::new(cx)),
        Kind::Mul => Box::new(merge::Mul::new(cx)),
        Kind::Concat(concat) => Box::new(merge::Concat { inputs: cx.inputs.to_vec(), axis: concat.axis }),
        Kind::MatMul(product) => Box::new(matmul::MatMul { transposed: product.transposed }),
        Kind::Permute(permute) => Box::new(select::Permute { permute: permute.clone(), input: cx.inputs[0] }),
        Kind::Gather(gather) => Box::new(select::Gather { gather: gather.clone(), input: cx.inputs[0] }),
        Kind::Constant(_) => Box::new(select::build_constant(cx)),
        Kind::Reduce(reduce) => {
            Box::new(select::Reduce { reduce: reduce.clone(), input: cx.inputs[0], output: cx.output })
        }
        Kind::Resize(resize) => Box::new(matmul::Resize { resize: *resize, input: cx.inputs[0], output: cx.output }),
        Kind::LayerNorm(norm) => Box::new(image_norm::build_layer_norm(cx, *norm)),
        Kind::GroupNorm(norm) => Box::new(image_norm::build_group_norm(cx, *norm)),
        Kind::Flatten | Kind::Reshape(_) => Box::new(rearrange::Reshape { input: cx.inputs[0], output: cx.output }),
        Kind::ChannelShuffle(shuffle) => {
            Box::new(rearrange::Shuffle { groups: shuffle.groups, channels: cx.output.channels })
        }
        Kind::Slice(slice) => Box::new(rearrange::Slice { slice: *slice, channels: cx.inputs[0].channels }),
        Kind::Pad(pad) => Box::new(rearrange::Pad { pad: *pad, input: cx.inputs[0] }),
        Kind::Upsample(_) => Box::new(rearrange::Upsample { input: cx.inputs[0], output: cx.output }),
        Kind::LocalResponseNorm(norm) => {
            Box::new(local_response_norm::LocalResponseNorm { norm: *norm, channels: cx.output.channels })
        }
        Kind::Dropout(dropout) => Box::new(dropout::build(cx, dropout.p)),
        Kind::Softmax(softmax) => Box::new(softmax::Softmax { log: softmax.log }),
        Kind::Identity => Box::new(rearrange::Identity),
    }
}

/// The convolutions' order of elements, from which that of their weights and outputs follows.
pub(crate) fn format(torch: &Torch, input: Shape, output: Shape) -> crate::abi::Format {
    torch.format(input.elements().div_ceil(input.channels.max(1)).max(output.height * output.width))
}

/// The borders of `padding` in the order of [`Tensor::pad`].
fn borders(padding: Padding) -> [i64; 4] {
    [padding.left, padding.right, padding.top, padding.bottom].map(|size| size as i64)
}

/// Whether a padding is the same on opposite sides, which PyTorch's operators take.
fn is_symmetric(padding: Padding) -> bool {
    padding.top == padding.bottom && padding.left == padding.right
}

/// The part of a tensor of spatial extent `shape` plus `padding` that is inside the padding: a view.
fn inside(tensor: &Tensor, padding: Padding, shape: Shape) -> Result<Tensor> {
    tensor.narrow(2, padding.top, shape.height)?.narrow(3, padding.left, shape.width)
}

/// [rows, columns] as PyTorch takes them.
fn pair(values: [usize; 2]) -> [i64; 2] {
    values.map(|value| value as i64)
}
