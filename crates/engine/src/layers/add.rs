//! Sum of all inputs, with the ReLU that may follow.

use nettriage_kernels::simd::vectorised;

use super::{is_broadcast, relu_backward};
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Sum of the inputs; fuses a ReLU.
pub(super) fn build(layer: &mut LayerContext<'_, '_>) -> Add {
    let output = layer.output();
    Add {
        channels: output.channels,
        image: output.elements(),
        broadcast: is_broadcast(layer.inputs(), output),
        relu: layer.fuse_relu(),
        fused_relu_backward: false,
    }
}

/// y = relu(x_0 + x_1 + ...). An input of shape (C, 1, 1) is broadcast over all positions.
pub(super) struct Add {
    channels: usize,
    /// Elements per output image.
    image: usize,
    /// Which inputs are broadcast.
    broadcast: Vec<bool>,
    relu: bool,
    /// Whether the consumer applies the backward pass of the ReLU.
    fused_relu_backward: bool,
}

impl Operation for Add {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: false, output: self.applies_relu_backward() }
    }

    fn applies_relu_backward(&self) -> bool {
        self.relu && !self.fused_relu_backward
    }

    fn set_fused_relu_backward(&mut self) {
        self.fused_relu_backward = true;
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (channels, image) = (self.channels, self.image);
        cx.pool.chunks(y, image, |i, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (k, &broadcast) in self.broadcast.iter().enumerate() {
                        let x = x.get(k);
                        if broadcast {
                            let x = &x[i * channels..][..channels];
                            for y in y.chunks_exact_mut(channels) {
                                for (y, &x) in y.iter_mut().zip(x) {
                                    *y = if k == 0 { x } else { *y + x };
                                }
                            }
                        } else {
                            let x = &x[i * image..][..image];
                            if k == 0 {
                                y.copy_from_slice(x);
                            } else {
                                y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
                            }
                        }
                    }
                    if self.relu {
                        y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y });
                    }
                },
            )
        });
    }

    fn passes_gradient_through(&self, k: usize) -> bool {
        !self.broadcast[k]
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, y: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.applies_relu_backward() {
            relu_backward(gy, y, cx.pool);
        }
    }

    /// The gradient of a broadcast input: the sum over all positions.
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (channels, image) = (self.channels, self.image);
        cx.pool.chunks(gx, channels, |i, gx| {
            gx.fill(0.0);
            for g in gy[i * image..][..image].chunks_exact(channels) {
                gx.iter_mut().zip(g).for_each(|(gx, &g)| *gx += g);
            }
        });
    }
}
