//! What every layer of a model can do.

use nettriage_kernels::memory::{Buffer, Scratch};
use nettriage_kernels::pool::Pool;

use crate::params::Params;

/// What an operation works in: the batch, the threads and the weights.
pub(crate) struct Context<'a> {
    /// Images in this batch.
    pub n: usize,
    /// Threads.
    pub pool: &'a Pool,
    /// Weights and their gradients.
    pub params: &'a mut Params,
    /// Memory that convolutions share.
    pub scratch: &'a mut Scratch,
    /// Whether trainable layers are in training mode.
    pub train: bool,
    /// Seed of this step's dropout.
    pub seed: u64,
}

/// Where a tensor is: in a buffer, so many elements per image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Index of the buffer, or [`IMAGES`].
    pub slot: usize,
    /// Elements per image.
    pub elements: usize,
}

/// The slot of the batch that the caller handed in.
pub(crate) const IMAGES: usize = usize::MAX;

/// A node's input tensors, n x H x W x C each.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The caller's batch, where it is at hand.
    pub images: &'a [f32],
    /// All buffers.
    pub buffers: &'a [Buffer],
    /// The node's inputs.
    pub places: &'a [Place],
    /// Images in this batch.
    pub n: usize,
}

impl<'a> Inputs<'a> {
    /// The node's input `k`.
    pub fn get(&self, k: usize) -> &'a [f32] {
        let place = self.places[k];
        let buffer = if place.slot == IMAGES { self.images } else { &self.buffers[place.slot] };
        &buffer[..self.n * place.elements]
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

/// What a backward pass reads again of the forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    /// The inputs.
    pub inputs: bool,
    /// The output.
    pub output: bool,
}

/// What a node's backward pass has at hand for its inputs' gradients.
#[derive(Clone, Copy)]
pub(crate) struct Prepared<'a> {
    /// The node's output, if it reads that.
    pub y: &'a [f32],
    /// What it saved, as [`Op::backward`] left it.
    pub saved: &'a [f32],
    /// The gradient of its output, as [`Op::backward`] left it.
    pub gy: &'a [f32],
}

/// One node of a model: a layer, or a few that run as one.
pub(crate) trait Op: Send {
    /// Elements per image of a tensor that is kept from forward to backward beside inputs and output.
    fn saved(&self) -> usize {
        0
    }

    /// What [`Op::backward`] and [`Op::backward_input`] read.
    fn reads(&self) -> Reads;

    /// Whether the first thing that [`Op::backward`] does is to zero `gy` where the output is not above 0.
    fn masks(&self) -> bool {
        false
    }

    /// Says that `gy` will come with that done.
    fn comes_masked(&mut self) {}

    /// Asks to zero the gradient of input 0 where that input is not above 0 as it is written; `false` where the node cannot.
    fn mask_input(&mut self) -> bool {
        false
    }

    /// Computes all of `y` (n x H x W x C).
    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]);

    /// Whether, once [`Op::backward`] has run, `gy` itself is the gradient of input `k`.
    fn passes(&self, k: usize) -> bool;

    /// Writes the gradients of the weights that train, and prepares `gy` or `saved` for the inputs' gradients.
    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        let _ = (cx, x, y, saved, gy);
    }

    /// Computes all of `gx`, the gradient of input `k`, from what is prepared; only called where `gy` does not pass.
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        prepared: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let _ = (cx, k, x, prepared, gx);
        unreachable!("the gradient of every input passes");
    }

    /// Bytes taken of the [`Scratch`] that convolutions share.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Bytes held beside the model's buffers, weights and scratch.
    fn bytes(&self) -> usize {
        0
    }
}
