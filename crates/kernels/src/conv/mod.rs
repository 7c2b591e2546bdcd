//! Convolution: the forward pass and the gradients of the input and the weight, each by the fastest algorithm for the shape.
//!
//! A fully connected layer is a convolution of 1x1 images with a 1x1 kernel: its weight `[out, in]` has the layout of
//! `[out, in, 1, 1]`.
//!
//! Reproducibility: the bits of an image's output (and input gradient) depend on the image, the weights and the shape alone, not
//! on the batch size, the position in the batch or the number of threads. The weight gradient sums over images in an order
//! that the batch size and the shape determine.

mod choice;
mod depthwise;
mod direct;
mod direct_weight;
mod f4_rows;
mod few_channels;
mod geometry;
mod pass;
mod pointwise;
mod pointwise_weight;
pub mod reference;
#[cfg(test)]
mod tests;
mod winograd;

pub use choice::{Algorithm, Direction, TABLED};
pub use geometry::{Conv, Geometry, Padding};
pub use pass::PostOps;

pub use crate::simd::Epilogue;

use crate::memory::Scratch;
use crate::pool::Pool;
use crate::simd::{self, Kernels};
use depthwise::{Depthwise, DepthwiseWeight};
use direct::Direct;
use direct_weight::DirectWeight;
use f4_rows::{F4Rows, F4RowsWeight};
use few_channels::FewChannelsWeight;
use pass::{Pass, PassArgs, WeightPass};
use pointwise::Pointwise;
use pointwise_weight::PointwiseWeight;
use winograd::{Winograd, WinogradWeight};

/// Which gradients a convolution has to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`ConvOp::grad_input`].
    pub grad_input: bool,
    /// [`ConvOp::grad_weight`].
    pub grad_weight: bool,
}

/// Elements that one task of post-ops in a pass of their own works on.
const POST_OPS_CHUNK: usize = 1 << 14;

/// A planned convolution: an algorithm for each direction, and its packed weights.
pub struct ConvOp {
    geometry: Geometry,
    forward: Box<dyn Pass>,
    grad_input: Option<Box<dyn Pass>>,
    grad_weight: Option<Box<dyn WeightPass>>,
}

impl ConvOp {
    /// Plans `geometry` for batches of at most `batch` images on at most `threads` threads.
    ///
    /// `exact` excludes algorithms whose rounding error is larger than a direct sum's (see [`Algorithm::exact`]).
    ///
    /// # Panics
    /// If the shapes of the geometry contradict each other.
    pub fn new(geometry: &Geometry, batch: usize, threads: usize, exact: bool, needs: Needs) -> ConvOp {
        let kernels = simd::kernels();
        ConvOp::with_algorithms(
            kernels,
            |direction| choice::choose(kernels.name, geometry, direction, exact),
            geometry,
            batch,
            threads,
            needs,
        )
    }

    /// As [`ConvOp::new`], with the kernels of a given instruction set and the algorithms that `choose` returns.
    ///
    /// # Panics
    /// If the shapes of the geometry contradict each other, or an algorithm does not cover it.
    pub fn with_algorithms(
        kernels: &'static Kernels,
        choose: impl Fn(Direction) -> Algorithm,
        geometry: &Geometry,
        batch: usize,
        threads: usize,
        needs: Needs,
    ) -> ConvOp {
        geometry.check();
        let threads = threads.max(1);
        let choose = |direction| {
            let algorithm = choose(direction);
            assert!(algorithm.covers(geometry), "{algorithm:?} does not cover {geometry:?}");
            algorithm
        };
        let pass = |direction| -> Box<dyn Pass> {
            let algorithm = choose(direction);
            match algorithm.transforms(kernels) {
                Some(t) => Box::new(Winograd::new(geometry, direction, batch, threads, kernels, t, needs.grad_weight)),
                None if algorithm == Algorithm::Depthwise => Box::new(Depthwise::new(geometry, direction, kernels)),
                None if algorithm == Algorithm::F4Rows && direction == Direction::Forward => {
                    Box::new(F4Rows::new(geometry, threads, kernels))
                }
                None if depthwise::covers_groups(geometry, direction, kernels) => {
                    Box::new(Depthwise::new(geometry, direction, kernels))
                }
                None if pointwise::covers(geometry) => Box::new(Pointwise::new(geometry, direction, kernels)),
                None => Box::new(Direct::new(geometry, direction, threads, kernels)),
            }
        };
        let weight_pass = || -> Box<dyn WeightPass> {
            let algorithm = choose(Direction::GradWeight);
            match algorithm.transforms(kernels) {
                Some(t) => Box::new(WinogradWeight::new(geometry, batch, threads, kernels, t)),
                None if algorithm == Algorithm::Depthwise => Box::new(DepthwiseWeight::new(geometry, kernels)),
                None if algorithm == Algorithm::F4Rows => Box::new(F4RowsWeight::new(geometry, threads, kernels)),
                None if few_channels::suits(geometry) => Box::new(FewChannelsWeight::new(geometry, threads, kernels)),
                None if pointwise::covers(geometry) => {
                    Box::new(PointwiseWeight::new(geometry, batch, threads, kernels))
                }
                None => Box::new(DirectWeight::new(geometry, batch, kernels)),
            }
        };
        ConvOp {
            geometry: *geometry,
            forward: pass(Direction::Forward),
            grad_input: needs.grad_input.then(|| pass(Direction::GradInput)),
            grad_weight: needs.grad_weight.then(weight_pass),
        }
    }

    /// Must be called when the weights differ from those of the previous call: packed weights are then packed again.
    pub fn weights_changed(&mut self) {
        self.forward.weights_changed();
        if let Some(pass) = &mut self.grad_input {
            pass.weights_changed();
        }
    }

    /// Convolves the first `n` images of `x` (N x H x W x C) with `w` (`[filters, channels / groups, kernel rows, kernel
    /// columns]`); overwrites the first `n` of `y` (N x H x W x filters).
    ///
    /// # Panics
    /// If a slice is too short, `w` has another length than the geometry's weight, or `pool` has more threads than planned for.
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
        self.forward_with_post_ops(n, w, x, epilogue, PostOps::default(), y, pool, scratch);
    }

    /// As [`ConvOp::forward`], and then `post_ops`, where possible while the output is in cache.
    ///
    /// # Panics
    /// As [`ConvOp::forward`], and if what is added is shorter than the output.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_with_post_ops(
        &mut self,
        n: usize,
        w: &[f32],
        x: &[f32],
        epilogue: Epilogue<'_>,
        post_ops: PostOps<'_>,
        y: &mut [f32],
        pool: &Pool,
        scratch: &mut Scratch,
    ) {
        assert_eq!(w.len(), self.geometry.weight_len());
        let (x, y) = (&x[..n * self.geometry.input_len()], &mut y[..n * self.geometry.output_len()]);
        let post_ops = PostOps { add: post_ops.add.map(|add| &add[..y.len()]), ..post_ops };
        self.forward.run(PassArgs { n, w, x, epilogue, post_ops, mask: None }, y, pool, scratch);
        if !self.forward.applies_post_ops() && !post_ops.is_none() {
            pool.chunks(y, POST_OPS_CHUNK, |i, y| post_ops.run(i * POST_OPS_CHUNK, y));
        }
    }

    /// Whether [`ConvOp::forward_pooled`] may be called: the forward algorithm supports it, and the output has even extents.
    pub fn supports_pooling(&self) -> bool {
        self.forward.supports_pooling()
    }

    /// As [`ConvOp::forward`], and writes the 2x2 max pooling of the output to `pooled` (N x H/2 x W/2 x filters). The output
    /// itself is not stored if `y` is empty.
    ///
    /// # Panics
    /// As [`ConvOp::forward`], and unless [`ConvOp::supports_pooling`].
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
        self.forward.run_pooled(
            PassArgs { n, w, x, epilogue, post_ops: PostOps::default(), mask: None },
            y,
            pooled,
            pool,
            scratch,
        );
    }

    /// The input gradient from the output gradient `gy` of the first `n` images; overwrites the first `n` of `gx`.
    ///
    /// `mask`, as large as `gx`, fuses the backward pass of a ReLU whose output was this convolution's input: `gx` becomes 0
    /// where the mask is not positive.
    ///
    /// # Panics
    /// As [`ConvOp::forward`], and if it was planned without [`Needs::grad_input`].
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
        let pass = self.grad_input.as_mut().expect("planned with the input gradient");
        pass.run(
            PassArgs { n, w, x, epilogue: Epilogue::default(), post_ops: PostOps::default(), mask },
            y,
            pool,
            scratch,
        );
    }

    /// The weight gradient (in the weight's layout), summed over the first `n` images of `x` and `gy`; overwrites `gw`.
    ///
    /// # Panics
    /// As [`ConvOp::forward`], and if it was planned without [`Needs::grad_weight`].
    pub fn grad_weight(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool, scratch: &mut Scratch) {
        let (x, gy) = (&x[..n * self.geometry.input_len()], &gy[..n * self.geometry.output_len()]);
        let pass = self.grad_weight.as_mut().expect("planned with the weight gradient");
        pass.run(n, x, gy, gw, pool, scratch);
    }

    /// Bytes of [`Scratch`] that the largest batch needs.
    pub fn scratch_bytes(&self) -> usize {
        let grad_input = self.grad_input.as_ref().map_or(0, |p| p.scratch_bytes());
        let grad_weight = self.grad_weight.as_ref().map_or(0, |p| p.scratch_bytes());
        self.forward.scratch_bytes().max(grad_input).max(grad_weight)
    }

    /// Bytes of packed weights that this operation owns.
    pub fn packed_bytes(&self) -> usize {
        self.forward.packed_bytes() + self.grad_input.as_ref().map_or(0, |p| p.packed_bytes())
    }
}
