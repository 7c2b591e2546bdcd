//! Convolution: forward, and the gradients of its input and weight, each by the algorithm that is fastest for the shape.
//!
//! A fully connected layer is the convolution with a 1x1 kernel of a 1x1 picture: its weight `[out, in]` is
//! already `[out, in, 1, 1]`, and it runs on the same kernels.
//!
//! What every algorithm keeps: the bits of an image's output (and input gradient) depend on the image, the weights
//! and the shape alone, not on the batch size, the place in the batch or the number of threads. The
//! weight gradient sums over images in an order that the batch size and the shape fix.

mod channelwise;
mod choice;
mod direct;
mod direct_weight;
mod few;
mod geometry;
mod line;
mod pass;
pub mod reference;
#[cfg(test)]
mod tests;
mod winograd;

pub use choice::{Algorithm, Direction, TABLED};
pub use geometry::{Conv, Geometry, Padding};

use crate::memory::Scratch;
use crate::pool::Pool;
use crate::simd::{self, Kernels};
use channelwise::{Channelwise, ChannelwiseWeight};
use direct::Direct;
use direct_weight::DirectWeight;
use line::{Line, LineWeight};
use pass::{Io, Pass, Way, WeightPass};
use winograd::{Winograd, WinogradWeight};

/// Which gradients will ever be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`ConvOp::grad_input`].
    pub grad_input: bool,
    /// [`ConvOp::grad_weight`].
    pub grad_weight: bool,
}

/// What is done to a convolution's sum before it is written: `relu((sum + bias) * scale + shift)`.
///
/// Each step is there only if asked for and rounds on its own (no fused multiply-add), so a network cut between these
/// steps gives the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added first, one a filter.
    pub bias: Option<&'a [f32]>,
    /// Multiplied next, one a filter; comes with `shift`.
    pub scale: Option<&'a [f32]>,
    /// Added then, one a filter; comes with `scale`.
    pub shift: Option<&'a [f32]>,
    /// Whether negative values become 0 at last.
    pub relu: bool,
}

/// A convolution, planned: an algorithm for every direction, with room for packed weights.
pub struct ConvOp {
    geometry: Geometry,
    forward: Box<dyn Pass>,
    grad_input: Option<Box<dyn Pass>>,
    grad_weight: Option<Box<dyn WeightPass>>,
}

impl ConvOp {
    /// Plans `geometry` for batches of at most `batch` images on at most `threads` threads.
    ///
    /// `exact` forbids algorithms whose rounding error is larger than a direct sum's (F(4x4, 3x3)).
    pub fn new(geometry: &Geometry, batch: usize, threads: usize, exact: bool, needs: Needs) -> ConvOp {
        let kernels = simd::kernels();
        ConvOp::with(
            kernels,
            |direction| choice::choose(kernels.name, geometry, direction, exact),
            geometry,
            batch,
            threads,
            needs,
        )
    }

    /// [`ConvOp::new`] with the kernels of a given instruction set and the algorithms that `choose` names.
    pub fn with(
        kernels: &'static Kernels,
        choose: impl Fn(Direction) -> Algorithm,
        geometry: &Geometry,
        batch: usize,
        threads: usize,
        needs: Needs,
    ) -> ConvOp {
        let threads = threads.max(1);
        let pass = |way, algorithm: Algorithm| -> Box<dyn Pass> {
            match algorithm.transforms(kernels) {
                Some(t) => Box::new(Winograd::new(geometry, way, batch, threads, kernels, t, needs.grad_weight)),
                None if algorithm == Algorithm::Depthwise => Box::new(Channelwise::new(geometry, way, kernels)),
                None if algorithm == Algorithm::Line && way == Way::Forward => {
                    Box::new(Line::new(geometry, threads, kernels))
                }
                None => Box::new(Direct::new(geometry, way, threads, kernels)),
            }
        };
        let weight = |algorithm: Algorithm| -> Box<dyn WeightPass> {
            match algorithm.transforms(kernels) {
                Some(t) => Box::new(WinogradWeight::new(geometry, batch, threads, kernels, t)),
                None if algorithm == Algorithm::Depthwise => Box::new(ChannelwiseWeight::new(geometry, kernels)),
                None if algorithm == Algorithm::Line => Box::new(LineWeight::new(geometry, threads, kernels)),
                None if few::suits(geometry) => Box::new(few::FewWeight::new(geometry, threads, kernels)),
                None => Box::new(DirectWeight::new(geometry, batch, kernels)),
            }
        };
        ConvOp {
            geometry: *geometry,
            forward: pass(Way::Forward, choose(Direction::Forward)),
            grad_input: needs.grad_input.then(|| pass(Way::GradInput, choose(Direction::GradInput))),
            grad_weight: needs.grad_weight.then(|| weight(choose(Direction::GradWeight))),
        }
    }

    /// To be called whenever the weights passed to the next call differ from the last call's.
    pub fn weights_changed(&mut self) {
        self.forward.weights_changed();
        if let Some(pass) = &mut self.grad_input {
            pass.weights_changed();
        }
    }

    /// The convolution of the first `n` images of `x` (n x H x W x C) with `w`
    /// (`[filters, in / groups, kernel rows, kernel columns]`) into `y` (n x H x W x C).
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &mut self,
        n: usize,
        w: &[f32],
        x: &[f32],
        epilogue: Epilogue<'_>,
        y: &mut [f32],
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        assert_eq!(w.len(), self.geometry.weight_len());
        let (x, y) = (&x[..n * self.geometry.input_len()], &mut y[..n * self.geometry.output_len()]);
        self.forward.run(Io { n, w, x, epilogue, mask: None }, y, pool, scratch);
    }

    /// Whether [`ConvOp::forward_pooled`] is there for this shape.
    pub fn pools(&self) -> bool {
        self.forward.pools()
    }

    /// As [`ConvOp::forward`], with the largest of every 2x2 pixels into `pooled`; `y` is left out if it is empty.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_pooled(
        &mut self,
        n: usize,
        w: &[f32],
        x: &[f32],
        epilogue: Epilogue<'_>,
        y: &mut [f32],
        pooled: &mut [f32],
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        assert_eq!(w.len(), self.geometry.weight_len());
        let x = &x[..n * self.geometry.input_len()];
        self.forward.run_pooled(Io { n, w, x, epilogue, mask: None }, y, pooled, pool, scratch);
    }

    /// The gradient of the input from that of the output; overwrites `gx`.
    ///
    /// With a `mask` (as large as `gx`), `gx` is 0 wherever that is not positive: the backward pass of a ReLU whose
    /// output was this convolution's input.
    #[allow(clippy::too_many_arguments)]
    pub fn grad_input(
        &mut self,
        n: usize,
        w: &[f32],
        gy: &[f32],
        gx: &mut [f32],
        mask: Option<&[f32]>,
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        assert_eq!(w.len(), self.geometry.weight_len());
        let (x, y) = (&gy[..n * self.geometry.output_len()], &mut gx[..n * self.geometry.input_len()]);
        let pass = self.grad_input.as_mut().expect("planned with the input's gradient");
        pass.run(Io { n, w, x, epilogue: Epilogue::default(), mask }, y, pool, scratch);
    }

    /// The gradient of the weight (in the weight's layout), summed over images; overwrites `gw`.
    pub fn grad_weight(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (x, gy) = (&x[..n * self.geometry.input_len()], &gy[..n * self.geometry.output_len()]);
        let pass = self.grad_weight.as_mut().expect("planned with the weight's gradient");
        pass.run(n, x, gy, gw, pool, scratch);
    }

    /// Bytes that the largest batch takes of the [`Scratch`] that operations share.
    pub fn scratch_bytes(&self) -> usize {
        let grad_input = self.grad_input.as_ref().map_or(0, |p| p.scratch_bytes());
        let grad_weight = self.grad_weight.as_ref().map_or(0, |p| p.scratch_bytes());
        self.forward.scratch_bytes().max(grad_input).max(grad_weight)
    }

    /// Bytes of packed weights that this operation holds itself.
    pub fn packed_bytes(&self) -> usize {
        self.forward.packed_bytes() + self.grad_input.as_ref().map_or(0, |p| p.packed_bytes())
    }
}
