//! Product of all inputs, such as the gate of a squeeze-and-excitation block (Hu et al., arXiv:1709.01507).

use nettriage_kernels::simd::vectorised;

use super::is_broadcast;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Product of the inputs.
pub(super) fn build(layer: &LayerContext<'_, '_>) -> Mul {
    let output = layer.output();
    Mul { channels: output.channels, image: output.elements(), broadcast: is_broadcast(layer.inputs(), output) }
}

/// y = x_0 x_1 ... An input of shape (C, 1, 1) is broadcast over all positions.
pub(super) struct Mul {
    channels: usize,
    /// Elements per output image.
    image: usize,
    /// Which inputs are broadcast.
    broadcast: Vec<bool>,
}

impl Mul {
    /// Input `k` of image `i`.
    fn input<'a>(&self, x: Inputs<'a>, k: usize, i: usize) -> &'a [f32] {
        let elements = if self.broadcast[k] { self.channels } else { self.image };
        &x.get(k)[i * elements..][..elements]
    }

    /// y = y x, where x may be broadcast.
    #[inline(always)]
    fn multiply(&self, y: &mut [f32], x: &[f32]) {
        y.chunks_exact_mut(x.len().max(1)).for_each(|y| y.iter_mut().zip(x).for_each(|(y, x)| *y *= x));
    }
}

impl Operation for Mul {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        cx.pool.chunks(y, self.image, |i, y| {
            vectorised(
                #[inline(always)]
                || {
                    let first = self.input(x, 0, i);
                    y.chunks_exact_mut(first.len().max(1)).for_each(|y| y.copy_from_slice(first));
                    (1..x.len()).for_each(|k| self.multiply(y, self.input(x, k, i)));
                },
            )
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (channels, image) = (self.channels, self.image);
        let size = if self.broadcast[k] { channels } else { image };
        // g times the other inputs, in their order.
        let others = || (0..self.broadcast.len()).filter(|&other| other != k);
        cx.pool.chunks(gx, size, |i, gx| {
            let gy = &gy[i * image..][..image];
            vectorised(
                #[inline(always)]
                || {
                    if !self.broadcast[k] {
                        gx.copy_from_slice(gy);
                        return others().for_each(|other| self.multiply(gx, self.input(x, other, i)));
                    }
                    gx.fill(0.0);
                    for (position, gy) in gy.chunks_exact(channels).enumerate() {
                        let row = |other: usize| {
                            let x = self.input(x, other, i);
                            if self.broadcast[other] { x } else { &x[position * channels..][..channels] }
                        };
                        match (others().next(), others().count()) {
                            (Some(other), 1) => {
                                let x = row(other);
                                gx.iter_mut().zip(gy).zip(x).for_each(|((gx, g), x)| *gx += g * x);
                            }
                            _ => {
                                for (c, (gx, &g)) in gx.iter_mut().zip(gy).enumerate() {
                                    *gx += others().fold(g, |product, other| product * row(other)[c]);
                                }
                            }
                        }
                    }
                },
            )
        });
    }
}
