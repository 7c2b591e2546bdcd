//! The interface between a model and its operations (layers, or several layers fused into one).

use std::ops::Range;

use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;

use crate::parameters::Parameters;

/// What an operation computes with.
pub(crate) struct Context<'a> {
    /// Images that are computed.
    pub n: usize,
    /// Threads.
    pub pool: &'a Pool,
    /// Weights and their gradients.
    pub parameters: &'a mut Parameters,
    /// Working memory that all operations share.
    pub scratch: &'a mut Scratch,
    /// Whether trainable layers run in training mode.
    pub training: bool,
    /// Seed of this step's dropout.
    pub seed: u64,
}

/// A tensor in one of the model's buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferView {
    /// Index of the buffer.
    pub buffer: usize,
    /// Elements per image.
    pub elements: usize,
    /// Whether the buffer holds the tensor of the whole batch, and not only that of the part that is being computed.
    pub whole: bool,
}

impl BufferView {
    /// Where the tensor of these images of the batch lies in its buffer.
    pub fn range(&self, images: &Range<usize>) -> Range<usize> {
        let first = if self.whole { images.start } else { 0 };
        first * self.elements..(first + images.len()) * self.elements
    }
}

/// An input tensor of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputView {
    /// The batch that the caller passed, with this number of elements per image.
    Images(usize),
    /// A tensor of the model.
    Buffer(BufferView),
}

/// The input tensors of an operation, n x H x W x C each.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The caller's batch.
    pub images: &'a [f32],
    /// All buffers of the model.
    pub buffers: &'a [Buffer],
    /// The operation's inputs.
    pub views: &'a [InputView],
    /// The images of the batch that are computed.
    pub part: &'a Range<usize>,
}

impl<'a> Inputs<'a> {
    /// Input `k`.
    pub fn get(&self, k: usize) -> &'a [f32] {
        match self.views[k] {
            InputView::Images(elements) => &self.images[self.part.start * elements..self.part.end * elements],
            InputView::Buffer(view) => &self.buffers[view.buffer][view.range(self.part)],
        }
    }

    /// The number of inputs.
    pub fn len(&self) -> usize {
        self.views.len()
    }
}

/// Which tensors of the forward pass the backward pass reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SavedForBackward {
    /// The inputs.
    pub inputs: bool,
    /// The output.
    pub output: bool,
}

/// What [`Operation::backward`] leaves for the gradients of the inputs.
#[derive(Clone, Copy)]
pub(crate) struct BackwardState<'a> {
    /// The output, if it is saved for backward.
    pub y: &'a [f32],
    /// The operation's own saved tensor, as [`Operation::backward`] left it.
    pub saved: &'a [f32],
    /// The gradient of the output, as [`Operation::backward`] left it.
    pub gy: &'a [f32],
}

/// One operation of a model: a layer, or several layers fused into one.
///
/// Tensors are n x H x W x C. The backward pass of an operation has two parts: [`Operation::backward`] once, then
/// [`Operation::backward_input`] for each input whose gradient is needed and is not the output's gradient itself.
pub(crate) trait Operation: Send {
    /// Elements per image of the operation's own tensor that is kept from forward to backward.
    fn saved_elements(&self) -> usize {
        0
    }

    /// Which inputs and outputs [`Operation::backward`] and [`Operation::backward_input`] read.
    fn saved_for_backward(&self) -> SavedForBackward;

    /// Whether [`Operation::backward`] begins with the backward pass of a ReLU: `gy` = 0 where the output is not positive.
    fn applies_relu_backward(&self) -> bool {
        false
    }

    /// Tells the operation that its consumer applies the backward pass of its ReLU.
    fn set_fused_relu_backward(&mut self) {}

    /// Asks the operation to set the gradient of input 0 to 0 where that input is not positive, as it writes it. Returns
    /// whether it can.
    fn fuse_input_relu_backward(&mut self) -> bool {
        false
    }

    /// Computes all of `y`, and `saved`.
    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]);

    /// Whether `gy`, once [`Operation::backward`] has run, is the gradient of input `k`.
    fn passes_gradient_through(&self, k: usize) -> bool;

    /// Writes the gradients of the trainable weights, and prepares `gy` or `saved` for the gradients of the inputs.
    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        let _ = (cx, x, y, saved, gy);
    }

    /// Computes all of `gx`, the gradient of input `k`. Only called where the gradient does not pass through.
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        state: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let _ = (cx, k, x, state, gx);
        unreachable!("the gradient of every input passes through");
    }

    /// Bytes of [`Scratch`] that the largest batch needs.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Bytes held beside the model's buffers, weights and scratch.
    fn bytes(&self) -> usize {
        0
    }
}
