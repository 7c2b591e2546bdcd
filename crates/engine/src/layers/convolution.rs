//! Convolutions and fully connected layers, with the norm, activation and max pooling that may follow.

use nettriage_kernels::activation::Activation;
use nettriage_kernels::conv::{self, ConvOp, Epilogue, Geometry, Needs, PostOps};
use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::Simd;
use nettriage_net::{Conv, Padding, Shape, layer};

use super::channel_reduction::{ChannelReduction, ChannelSpan, Elements, Summand};
use super::max_pool_2x2::{BiasGradient, MaxPool2x2};
use super::norm::{self, Norm};
use super::{Fusion, relu_backward};
use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};
use crate::parameters::{Parameter, ParameterId, Parameters};

/// A convolution; fuses a norm, the norm's activation or a ReLU, and 2x2 max pooling, in this order. Where it has no backward pass, it
/// fuses a residual sum and any activation with a vectorised loop instead of the ReLU.
pub(super) fn build(layer: &mut LayerContext<'_, '_>, conv: Conv) -> Result<Convolution, Error> {
    let geometry = geometry(layer.input(), layer.output(), &conv);
    let (trains, input_needs_gradient) = (layer.trains(), layer.input_needs_gradient());
    let options = layer.options();
    let needs = Needs { grad_input: input_needs_gradient, grad_weight: trains };
    let op = ConvOp::new(&geometry, options.batch, options.threads, options.exact, needs);
    let weight = layer.weight("weight")?;
    let bias = if conv.bias { Some(Bias::build(layer)?) } else { None };

    let output = layer.output();
    let norm = if layer.next_fusion() == Some(Fusion::Norm) {
        layer.fuse_next();
        Some(norm::build(layer)?)
    } else {
        None
    };
    let has_relu = norm.as_ref().is_some_and(Norm::relu) || (norm.is_none() && layer.fuse_relu());
    let relu = norm.is_none() && has_relu;
    let mut post_ops = FusedPostOps::default();
    if layer.is_frozen() && !has_relu {
        post_ops.adds = layer.fuse_add();
        post_ops.activation = match layer.next_fusion() {
            Some(Fusion::Activation(function)) => Some(function),
            Some(Fusion::Relu) if post_ops.adds => Some(Activation::Relu),
            _ => None,
        };
        if post_ops.activation.is_some() {
            layer.fuse_next();
        }
    }
    let clip = norm.as_ref().and_then(Norm::clip);
    let max_pool = match layer.next_fusion() {
        Some(Fusion::MaxPool(window)) if post_ops == FusedPostOps::default() && clip.is_none() => {
            MaxPool2x2::matching(output, window, options.batch)
        }
        _ => None,
    };
    if max_pool.is_some() {
        layer.fuse_next();
    }
    Ok(Convolution {
        conv: PackedConv { op, weight, packed_version: 0 },
        bias,
        norm,
        relu,
        post_ops,
        max_pool,
        trains,
        may_run_backward: trains || input_needs_gradient,
        elements: output.elements(),
        fused_relu_backward: false,
        fuses_input_relu_backward: false,
    })
}

/// A fully connected layer: a 1x1 convolution of an image of one pixel.
pub(super) fn build_linear(layer: &mut LayerContext<'_, '_>, linear: layer::Linear) -> Result<Convolution, Error> {
    let conv = Conv {
        filters: linear.features,
        kernel: [1; 2],
        stride: [1; 2],
        padding: Padding::default(),
        dilation: [1; 2],
        groups: 1,
        bias: linear.bias,
    };
    build(layer, conv)
}

/// The geometry of the convolution `conv` from `input` to `output`.
pub(super) fn geometry(input: Shape, output: Shape, conv: &Conv) -> Geometry {
    let extents = |shape: Shape| [shape.channels, shape.height, shape.width];
    let Padding { top, bottom, left, right } = conv.padding;
    let conv = conv::Conv {
        filters: output.channels,
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv::Padding { top, bottom, left, right },
        dilation: conv.dilation,
        groups: conv.groups,
    };
    Geometry { input: extents(input), output: extents(output), conv }
}

/// A convolution kernel and its weight.
pub(super) struct PackedConv {
    pub op: ConvOp,
    pub weight: ParameterId,
    /// Version of the weight that `op` has packed.
    pub packed_version: u64,
}

impl PackedConv {
    /// The kernel and the elements of the weight, after telling the kernel if they have changed since its last call.
    pub fn current<'p>(&mut self, parameters: &'p Parameters) -> (&mut ConvOp, &'p [f32]) {
        let Parameter { value, version, .. } = parameters.get(self.weight);
        if self.packed_version != *version {
            self.packed_version = *version;
            self.op.weights_changed();
        }
        (&mut self.op, value)
    }

    /// Writes the gradient of the weight, from the input `x` and the output's gradient `gy`.
    pub fn write_gradient(&mut self, cx: &mut Context<'_>, x: &[f32], gy: &[f32]) {
        let gradient = &mut cx.parameters.get_mut(self.weight).gradient;
        self.op.grad_weight(cx.n, x, gy, gradient, cx.pool, cx.scratch);
    }
}

/// What a convolution without a backward pass fuses instead of a ReLU.
#[derive(Clone, Copy, Default, PartialEq)]
struct FusedPostOps {
    /// Whether the second input is added.
    adds: bool,
    /// Applied last.
    activation: Option<Activation>,
}

/// y = max_pool(relu(norm(conv(x) + bias))); norm, ReLU and 2x2 max pooling only where they follow. Or, without a backward pass,
/// y = activation(norm(conv(x) + bias) + x_1).
///
/// The saved tensor is the input of a norm on batch statistics, or of the pooling. In the backward pass its gradient replaces it.
pub(super) struct Convolution {
    conv: PackedConv,
    bias: Option<Bias>,
    norm: Option<Norm>,
    /// Whether a ReLU follows without a norm (a norm has its own).
    relu: bool,
    post_ops: FusedPostOps,
    max_pool: Option<MaxPool2x2>,
    trains: bool,
    /// Whether the backward pass may visit this operation.
    may_run_backward: bool,
    /// Elements per image before the pooling.
    elements: usize,
    /// Whether the consumer applies the backward pass of the ReLU.
    fused_relu_backward: bool,
    /// Whether the input is the output of a ReLU, whose backward pass is applied here.
    fuses_input_relu_backward: bool,
}

impl Convolution {
    /// Turns `gy`, the gradient of the output, into that of conv(x), and writes the gradient of the bias.
    fn backward_unpooled(&mut self, cx: &mut Context<'_>, y: &[f32], saved: &[f32], gy: &mut [f32]) {
        let y = (!self.fused_relu_backward).then_some(y);
        if let Some(norm) = &mut self.norm {
            norm.backward(saved, y, gy, cx.parameters, cx.pool);
        }
        let y = y.filter(|_| self.relu);
        match self.bias.as_mut().filter(|_| self.trains) {
            Some(bias) if self.norm.as_ref().is_some_and(Norm::on_batch) => bias.clear(cx.parameters),
            Some(bias) => bias.write_gradient(gy, y, cx.parameters, cx.pool),
            None => {
                if let Some(y) = y {
                    relu_backward(gy, y, cx.pool);
                }
            }
        }
    }

    /// Turns `saved`, the pooled tensor, into the gradient of conv(x), from the gradient `gy` of the output, and writes the gradient
    /// of the bias.
    fn backward_pooled(&mut self, shape: MaxPool2x2, cx: &mut Context<'_>, y: &[f32], saved: &mut [f32], gy: &[f32]) {
        let bias = self.bias.as_mut().filter(|_| self.trains);
        match &mut self.norm {
            Some(norm) if norm.trains() => {
                norm.backward_pooled(shape, saved, y, gy, cx.parameters, cx.pool);
                match bias {
                    Some(bias) if norm.on_batch() => bias.clear(cx.parameters),
                    Some(bias) => bias.write_gradient(saved, None, cx.parameters, cx.pool),
                    None => {}
                }
            }
            Some(norm) => {
                let relu = norm.relu();
                let (scale, _) = norm.fold(cx.parameters);
                shape.backward(y, gy, Some(scale), relu, saved, cx.pool);
                if let Some(bias) = bias {
                    bias.write_gradient(saved, None, cx.parameters, cx.pool);
                }
            }
            None => {
                shape.backward(y, gy, None, self.relu, saved, cx.pool);
                if let Some(bias) = bias {
                    bias.write_pooled_gradient(y, gy, self.relu, cx.parameters, cx.pool);
                }
            }
        }
    }
}

impl Operation for Convolution {
    fn saved_elements(&self) -> usize {
        let pooled = self.max_pool.is_some() && (self.may_run_backward || !self.conv.op.supports_pooling());
        if self.norm.as_ref().is_some_and(Norm::trains) || pooled { self.elements } else { 0 }
    }

    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward {
            inputs: self.trains || self.fuses_input_relu_backward,
            output: self.applies_relu_backward() || self.max_pool.is_some(),
        }
    }

    fn applies_relu_backward(&self) -> bool {
        let relu = match &self.norm {
            Some(norm) => norm.relu() && !norm.trains(),
            None => self.relu,
        };
        relu && self.max_pool.is_none() && !self.fused_relu_backward
    }

    fn set_fused_relu_backward(&mut self) {
        self.fused_relu_backward = true;
    }

    fn fuse_input_relu_backward(&mut self) -> bool {
        self.fuses_input_relu_backward = true;
        true
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]) {
        let (op, weight) = self.conv.current(cx.parameters);
        let bias = self.bias.as_ref().map(|bias| cx.parameters.value(bias.parameter));
        // A norm that trains runs after the convolution; any other is part of the convolution's epilogue.
        let separate_norm = cx.training && self.norm.as_ref().is_some_and(Norm::trains);
        let clip = self.norm.as_ref().filter(|_| !separate_norm).and_then(Norm::clip);
        let epilogue = match &mut self.norm {
            Some(_) if separate_norm => Epilogue { bias, ..Epilogue::default() },
            Some(norm) => {
                let relu = norm.relu();
                let (scale, shift) = norm.fold(cx.parameters);
                Epilogue { bias, scale: Some(scale), shift: Some(shift), relu }
            }
            None => Epilogue { bias, relu: self.relu, ..Epilogue::default() },
        };
        if self.max_pool.is_some() && !separate_norm && op.supports_pooling() {
            // Only the backward pass reads the tensor before the pooling.
            let unpooled = if cx.training { saved } else { &mut [] };
            op.forward_pooled(cx.n, weight, x.get(0), epilogue, unpooled, y, cx.pool, cx.scratch);
            return;
        }
        let direct = if separate_norm || self.max_pool.is_some() { &mut *saved } else { &mut *y };
        let post_ops =
            PostOps { add: self.post_ops.adds.then(|| x.get(1)), activation: self.post_ops.activation.or(clip) };
        op.forward_with_post_ops(cx.n, weight, x.get(0), epilogue, post_ops, direct, cx.pool, cx.scratch);
        match (&mut self.norm, self.max_pool) {
            (Some(norm), max_pool) if separate_norm => {
                norm.forward(true, saved, y, max_pool, cx.parameters, cx.pool);
            }
            (_, Some(shape)) => shape.forward(saved, None, y, cx.pool),
            _ => {}
        }
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        match self.max_pool {
            Some(shape) => self.backward_pooled(shape, cx, y, saved, gy),
            None => self.backward_unpooled(cx, y, saved, gy),
        }
        if self.trains {
            let g = if self.max_pool.is_some() { &*saved } else { &*gy };
            self.conv.write_gradient(cx, x.get(0), g);
        }
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        state: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (op, weight) = self.conv.current(cx.parameters);
        let g = if self.max_pool.is_some() { state.saved } else { state.gy };
        let mask = self.fuses_input_relu_backward.then(|| x.get(0));
        op.grad_input(cx.n, weight, g, gx, mask, cx.pool, cx.scratch);
    }

    fn scratch_bytes(&self) -> usize {
        self.conv.op.scratch_bytes()
    }

    fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Bias::bytes);
        self.conv.op.packed_bytes() + bias + self.norm.as_ref().map_or(0, Norm::bytes)
    }
}

/// A bias and the sums of its gradient.
pub(super) struct Bias {
    pub parameter: ParameterId,
    channels: usize,
    reduction: ChannelReduction<1>,
}

impl Bias {
    /// The bias of the current layer.
    pub fn build(layer: &mut LayerContext<'_, '_>) -> Result<Bias, Error> {
        let channels = layer.output().channels;
        let reduction = ChannelReduction::new(if layer.trains() { channels } else { 0 });
        Ok(Bias { parameter: layer.weight("bias")?, channels, reduction })
    }

    /// Writes the gradient: the sum of `g` (rows x channels). With `y`, the output of a ReLU, first applies the ReLU's backward
    /// pass to `g`, in the same loop.
    pub fn write_gradient(&mut self, g: &mut [f32], y: Option<&[f32]>, parameters: &mut Parameters, pool: &Pool) {
        let (channels, rows) = (self.channels, g.len() / self.channels);
        let sums = match y {
            Some(y) => self.reduction.sum(pool, rows, g, &ReluBackward { y, channels }),
            None => self.reduction.sum(pool, rows, &mut [], &Elements { data: g, channels }),
        };
        parameters.write_gradient(self.parameter, sums);
    }

    /// Writes the gradient, from that of the pooled output `y`.
    fn write_pooled_gradient(&mut self, y: &[f32], gy: &[f32], relu: bool, parameters: &mut Parameters, pool: &Pool) {
        let channels = self.channels;
        let summand = BiasGradient { y, gy, channels, relu };
        parameters.write_gradient(self.parameter, self.reduction.sum(pool, gy.len() / channels, &mut [], &summand));
    }

    /// Sets the gradient to 0: a norm on batch statistics subtracts the bias again, so the loss does not depend on it.
    fn clear(&self, parameters: &mut Parameters) {
        parameters.get_mut(self.parameter).gradient.fill(0.0);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.reduction.bytes()
    }
}

/// The sum of a gradient after the backward pass of a ReLU with output `y`, which is applied to the data.
struct ReluBackward<'a> {
    y: &'a [f32],
    channels: usize,
}

impl Summand<1> for ReluBackward<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.y.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, span: ChannelSpan, g: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe {
            let y = span.load::<S>(self.y, row * self.channels);
            let masked = S::where_positive(y, S::load_up_to(g, span.count));
            S::store_up_to(g, masked, span.count);
            *sum = S::add(*sum, masked);
        }
    }
}
