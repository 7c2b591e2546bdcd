//! Which operation computes each kind of layer, and what the operations share. One file holds everything about how a kind of
//! layer computes: how it is built from the graph and what it fuses, its buffers, its forward pass and its backward pass.
//!
//! Tensors are N x H x W x C. Matrices of "rows x channels" have one row for each image and position.

use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::vectorised;
use nettriage_net::{Activation, Kind, Shape, Window};

use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::Operation;

mod activation;
mod add;
mod average_pool;
mod broadcast;
mod channel_reduction;
mod concat;
mod constant;
mod convolution;
pub(crate) mod copy;
mod dropout;
mod gather;
mod group_norm;
mod layer_norm;
mod local_response_norm;
mod matmul;
mod max_pool;
mod max_pool_2x2;
mod mul;
mod norm;
mod norm_loops;
mod pad;
mod permute;
mod prelu;
mod reduce;
mod resize;
mod slice;
mod softmax;
mod transposed_convolution;
mod upsample;

/// Builds the operation of a layer, with the layers that it fuses; `None` if the output is the input.
pub(crate) fn build(layer: &mut LayerContext<'_, '_>) -> Result<Option<Box<dyn Operation>>, Error> {
    Ok(match layer.kind() {
        Kind::Conv(conv) => boxed(convolution::build(layer, *conv)?),
        Kind::Linear(linear) => boxed(convolution::build_linear(layer, *linear)?),
        Kind::ConvTranspose(transposed) => boxed(transposed_convolution::build(layer, transposed.conv)?),
        Kind::BatchNorm(_) | Kind::Affine => boxed(norm::build(layer)?),
        Kind::Activation(Activation::Prelu) => boxed(prelu::build(layer)?),
        Kind::Activation(function) => boxed(activation::build(*function)),
        Kind::MaxPool(window) => boxed(max_pool::build(layer, *window)),
        Kind::AvgPool(pool) => boxed(average_pool::build(layer, *pool)),
        Kind::AdaptiveAvgPool(_) => boxed(average_pool::build_adaptive(layer)),
        Kind::Add if !broadcasts_vectors_alone(layer.inputs(), layer.output()) => boxed(broadcast::build(layer, false)),
        Kind::Mul if !broadcasts_vectors_alone(layer.inputs(), layer.output()) => boxed(broadcast::build(layer, true)),
        Kind::Add => boxed(add::build(layer)),
        Kind::Mul => boxed(mul::build(layer)),
        Kind::Concat(concat) => boxed(concat::build(layer, concat.axis)),
        Kind::MatMul(product) => boxed(matmul::build(layer, product.transposed)),
        Kind::Flatten | Kind::Reshape(_) => permute::build_reshape(layer).and_then(boxed),
        Kind::Permute(permute) => permute::build(layer, permute).and_then(boxed),
        Kind::ChannelShuffle(shuffle) => permute::build_channel_shuffle(layer, shuffle.groups).and_then(boxed),
        Kind::Slice(slice) => boxed(slice::build(layer, *slice)),
        Kind::Gather(gather) => boxed(gather::build(layer, gather)),
        Kind::Constant(_) => boxed(constant::build(layer)?),
        Kind::Reduce(reduce) => boxed(reduce::build(layer, reduce)),
        Kind::Pad(pad) => boxed(pad::build(layer, *pad)),
        Kind::Upsample(upsample) => boxed(upsample::build(layer, upsample.factor)),
        Kind::Resize(resize) => boxed(resize::build(layer, *resize)),
        Kind::LayerNorm(norm) => boxed(layer_norm::build(layer, *norm)?),
        Kind::GroupNorm(norm) => boxed(group_norm::build(layer, *norm)?),
        Kind::LocalResponseNorm(norm) => boxed(local_response_norm::build(layer, *norm)),
        Kind::Dropout(dropout) => dropout::build(layer, dropout.p).and_then(boxed),
        Kind::Softmax(softmax) => boxed(softmax::build(layer, softmax.log)),
        Kind::Identity => None,
    })
}

fn boxed(operation: impl Operation + 'static) -> Option<Box<dyn Operation>> {
    Some(Box::new(operation))
}

/// How a layer can be fused into the operation that computes its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fusion {
    /// Batch norm or affine: into a convolution.
    Norm,
    /// ReLU: into a convolution, a norm or a sum.
    Relu,
    /// Another activation with a vectorised loop: into a convolution without a backward pass.
    Activation(nettriage_kernels::activation::Activation),
    /// Max pooling: into a convolution, where the windows are 2x2 without remainder.
    MaxPool(Window),
}

impl Fusion {
    /// That of a layer of this kind.
    pub fn of(kind: &Kind) -> Option<Fusion> {
        match kind {
            Kind::BatchNorm(_) | Kind::Affine => Some(Fusion::Norm),
            Kind::Activation(Activation::Relu) => Some(Fusion::Relu),
            Kind::MaxPool(window) => Some(Fusion::MaxPool(*window)),
            Kind::Activation(function) => activation::vectorised(*function).map(Fusion::Activation),
            Kind::Conv(_)
            | Kind::ConvTranspose(_)
            | Kind::Linear(_)
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

/// Elements that one task of an elementwise operation works on.
const CHUNK: usize = 1 << 14;

/// Elements of whole rows that one task works on: [`CHUNK`], rounded up to whole rows of `channels` elements.
fn row_chunk(channels: usize) -> usize {
    CHUNK.div_ceil(channels) * channels
}

/// Calls `f(y, x)` for each element of `y` and the same element of `x`, in parallel.
fn for_each_element(y: &mut [f32], x: &[f32], pool: &Pool, f: impl Fn(&mut f32, f32) + Sync) {
    pool.chunks(y, CHUNK, |i, y| y.iter_mut().zip(&x[i * CHUNK..]).for_each(|(y, &x)| f(y, x)));
}

/// Calls `f(y, x)` for each row of `channels` elements of `y` and the same row of `x`, in parallel.
fn for_each_row(y: &mut [f32], x: &[f32], channels: usize, pool: &Pool, f: impl Fn(&mut [f32], &[f32]) + Sync) {
    let size = row_chunk(channels);
    pool.chunks(y, size, |i, y| {
        y.chunks_exact_mut(channels).zip(x[i * size..].chunks_exact(channels)).for_each(|(y, x)| f(y, x));
    });
}

/// to += from.
pub(crate) fn accumulate(to: &mut [f32], from: &[f32], pool: &Pool) {
    pool.chunks(to, CHUNK, |i, to| {
        let from = &from[i * CHUNK..];
        vectorised(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
        );
    });
}

/// The backward pass of a ReLU with output `y`: g = 0 where y is not positive.
fn relu_backward(g: &mut [f32], y: &[f32], pool: &Pool) {
    pool.chunks(g, CHUNK, |i, g| nettriage_kernels::activation::relu_backward(&y[i * CHUNK..], g));
}

/// Which inputs of a sum or product with this output are broadcast: those of shape (C, 1, 1), where the output's differs.
fn is_broadcast(inputs: &[Shape], output: Shape) -> Vec<bool> {
    inputs.iter().map(|&input| input != output).collect()
}

/// Whether every input of a sum or product has the output's shape or is (C, 1, 1).
fn broadcasts_vectors_alone(inputs: &[Shape], output: Shape) -> bool {
    inputs.iter().all(|&input| input == output || input == Shape::new(output.channels, 1, 1))
}

/// The input rows (or columns) in the window of output row (or column) `o`, without padding.
fn window_range(o: usize, stride: usize, kernel: usize, padding: usize, extent: usize) -> std::ops::Range<usize> {
    let start = o * stride;
    start.saturating_sub(padding).min(extent)..(start + kernel).saturating_sub(padding).min(extent)
}
