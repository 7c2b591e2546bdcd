//! Product of all inputs, such as the gate of a squeeze-and-excitation block (Hu et al., arXiv:1709.01507).

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
    /// Calls `f(index in the output image, element of input k)` for all elements of image `i`.
    fn for_each_element(&self, x: Inputs<'_>, k: usize, i: usize, mut f: impl FnMut(usize, f32)) {
        let (channels, image) = (self.channels, self.image);
        if self.broadcast[k] {
            let x = &x.get(k)[i * channels..][..channels];
            (0..image / channels).for_each(|p| x.iter().enumerate().for_each(|(c, &x)| f(p * channels + c, x)));
        } else {
            x.get(k)[i * image..][..image].iter().enumerate().for_each(|(e, &x)| f(e, x));
        }
    }
}

impl Operation for Mul {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: true, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        cx.pool.chunks(y, self.image, |i, y| {
            self.for_each_element(x, 0, i, |e, x| y[e] = x);
            for k in 1..x.len() {
                self.for_each_element(x, k, i, |e, x| y[e] *= x);
            }
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
        cx.pool.chunks(gx, size, |i, gx| {
            let gy = &gy[i * image..][..image];
            if self.broadcast[k] {
                gx.fill(0.0);
            }
            for (e, &g) in gy.iter().enumerate() {
                // g times the other inputs, in their order.
                let mut product = g;
                for (other, &broadcast) in self.broadcast.iter().enumerate() {
                    if other != k {
                        let x = x.get(other);
                        product *= if broadcast { x[i * channels + e % channels] } else { x[i * image + e] };
                    }
                }
                if self.broadcast[k] {
                    gx[e % channels] += product;
                } else {
                    gx[e] = product;
                }
            }
        });
    }
}
