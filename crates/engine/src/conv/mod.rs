//! Convolution: forward, and the gradients of its input and weight, each by the algorithm that is fastest for the shape.
//!
//! A fully connected layer is the convolution with a 1x1 kernel of a 1x1 picture: its weight `[out, in]` is
//! already `[out, in, 1, 1]`, and it runs on the same kernels.
//!
//! What every algorithm keeps: the bits of an image's output (and input gradient) depend on the image, the weights
//! and the shape alone, not on the batch size, the place in the batch or the number of threads. The
//! weight gradient sums over images in an order that the batch size and the shape fix.

mod plain;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use nettriage_net::Conv;

use crate::pool::Pool;

/// The shapes of one convolution. Pictures are (C, H, W) here and stored as N x H x W x C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// One input image, [C, H, W].
    pub input: [usize; 3],
    /// One output image, [C, H, W].
    pub output: [usize; 3],
    /// Kernel, stride, padding, dilation and groups.
    pub conv: Conv,
}

impl Geometry {
    /// The geometry of `conv` on pictures of shape `input` = [C, H, W].
    #[cfg_attr(not(test), allow(dead_code))]
    pub fn of(input: [usize; 3], conv: Conv) -> Geometry {
        let extent = |axis: usize, size: usize, pad: usize| {
            (size + pad - conv.dilation[axis] * (conv.kernel[axis] - 1) - 1) / conv.stride[axis] + 1
        };
        let p = conv.padding;
        let output =
            [conv.filters, extent(0, input[1], p.top + p.bottom), extent(1, input[2], p.left + p.right)];
        Geometry { input, output, conv }
    }

    /// Elements of one input image.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output image.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.conv.filters * (self.input[0] / self.conv.groups) * self.conv.kernel[0] * self.conv.kernel[1]
    }
}

/// Which gradients will ever be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
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
pub(crate) struct Epilogue<'a> {
    /// Added first, one a filter.
    pub bias: Option<&'a [f32]>,
    /// Multiplied next, one a filter; comes with `shift`.
    pub scale: Option<&'a [f32]>,
    /// Added then, one a filter; comes with `scale`.
    pub shift: Option<&'a [f32]>,
    /// Whether negative values become 0 at last.
    pub relu: bool,
}

/// A convolution with its weights packed and its scratch memory planned.
pub(crate) struct ConvOp {
    geometry: Geometry,
    plain: plain::Plain,
}

impl ConvOp {
    /// Plans `geometry` for batches of at most `batch` images on at most `threads` threads.
    ///
    /// `exact` forbids algorithms whose rounding error is larger than a direct sum's (F(4x4, 3x3)).
    /// The weights are zero until [`ConvOp::set_weights`].
    pub fn new(geometry: &Geometry, batch: usize, threads: usize, exact: bool, needs: Needs) -> ConvOp {
        let _ = (batch, threads, exact, needs);
        ConvOp { geometry: *geometry, plain: plain::Plain::new(geometry) }
    }

    /// Takes over the weights, `[filters, in / groups, kernel rows, kernel columns]`.
    pub fn set_weights(&mut self, oihw: &[f32]) {
        assert_eq!(oihw.len(), self.geometry.weight_len());
        self.plain.set_weights(oihw);
    }

    /// The convolution of the first `n` images of `x` (n x H x W x C) into `y` (n x H x W x C).
    pub fn forward(&mut self, n: usize, x: &[f32], epilogue: Epilogue<'_>, y: &mut [f32], pool: &Pool) {
        let (x, y) = (&x[..n * self.geometry.input_len()], &mut y[..n * self.geometry.output_len()]);
        self.plain.forward(x, epilogue, y, pool);
    }

    /// The gradient of the input from that of the output; overwrites `gx`.
    pub fn grad_input(&mut self, n: usize, gy: &[f32], gx: &mut [f32], pool: &Pool) {
        let (gy, gx) = (&gy[..n * self.geometry.output_len()], &mut gx[..n * self.geometry.input_len()]);
        self.plain.grad_input(gy, gx, pool);
    }

    /// The gradient of the weight (in [`ConvOp::set_weights`]' layout), summed over images; overwrites `gw`.
    pub fn grad_weight(&mut self, n: usize, x: &[f32], gy: &[f32], gw: &mut [f32], pool: &Pool) {
        let (x, gy) = (&x[..n * self.geometry.input_len()], &gy[..n * self.geometry.output_len()]);
        self.plain.grad_weight(n, x, gy, gw, pool);
    }

    /// Bytes of packed weights and scratch that this operation holds.
    pub fn scratch_bytes(&self) -> usize {
        self.plain.bytes()
    }
}
