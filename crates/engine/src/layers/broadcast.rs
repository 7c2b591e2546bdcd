//! Sums and products whose inputs are broadcast along any axes.

use nettriage_net::Shape;

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The sum of the inputs, or their product.
pub(super) fn build(layer: &LayerContext<'_, '_>, product: bool) -> Broadcast {
    Broadcast { inputs: layer.inputs().to_vec(), output: layer.output(), product }
}

/// y = x_0 + x_1 + ... or x_0 x_1 ...; an axis of extent 1 of an input is broadcast.
pub(super) struct Broadcast {
    inputs: Vec<Shape>,
    output: Shape,
    product: bool,
}

/// One row of the output (all columns and channels) at a time, so that the inner loops run over neighbouring elements.
fn row_of(shape: Shape, h: usize) -> usize {
    if shape.height == 1 { 0 } else { h * shape.width * shape.channels }
}

/// Calls `f(element of the output row, element of the input row)` for all elements of an output row.
#[inline(always)]
fn for_each_pair(output: Shape, input: Shape, mut f: impl FnMut(usize, usize)) {
    let width = if input.width == 1 { 0 } else { input.channels };
    for w in 0..output.width {
        let (to, from) = (w * output.channels, w * width);
        if input.channels == 1 {
            (0..output.channels).for_each(|c| f(to + c, from));
        } else {
            (0..output.channels).for_each(|c| f(to + c, from + c));
        }
    }
}

impl Operation for Broadcast {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: self.product, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (output, height) = (self.output, self.output.height);
        cx.pool.chunks(y, output.width * output.channels, |row, y| {
            let (i, h) = (row / height, row % height);
            for (k, &input) in self.inputs.iter().enumerate() {
                let x = &x.get(k)[i * input.elements() + row_of(input, h)..];
                for_each_pair(output, input, |to, from| match (k, self.product) {
                    (0, _) => y[to] = x[from],
                    (_, true) => y[to] *= x[from],
                    (_, false) => y[to] += x[from],
                });
            }
        });
    }

    fn passes_gradient_through(&self, k: usize) -> bool {
        !self.product && self.inputs[k] == self.output
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        k: usize,
        x: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (output, own) = (self.output, self.inputs[k]);
        let row = output.width * output.channels;
        cx.pool.chunks(gx, own.elements(), |i, gx| {
            gx.fill(0.0);
            let mut gradient = vec![0.0; row];
            for h in 0..output.height {
                // The gradient of the output times the other inputs, then summed over what is broadcast.
                gradient.copy_from_slice(&gy[i * output.elements() + h * row..][..row]);
                for (other, &input) in self.inputs.iter().enumerate().filter(|(other, _)| self.product && *other != k) {
                    let x = &x.get(other)[i * input.elements() + row_of(input, h)..];
                    for_each_pair(output, input, |to, from| gradient[to] *= x[from]);
                }
                let gx = &mut gx[row_of(own, h)..];
                for_each_pair(output, own, |to, from| gx[from] += gradient[to]);
            }
        });
    }
}
