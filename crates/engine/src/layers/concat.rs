//! Concatenation along an axis.

use nettriage_net::{Axis, Shape};

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The inputs along `axis`, one after the other.
pub(super) fn build(layer: &LayerContext<'_, '_>, axis: Axis) -> Concat {
    // In H x W x C order, an axis is a number of elements within each of the positions outside it.
    let elements = |shape: Shape| match axis {
        Axis::Channels => shape.channels,
        Axis::Columns => shape.width * shape.channels,
        Axis::Rows => shape.elements(),
    };
    let output = layer.output();
    let mut first = 0;
    let parts = layer.inputs().iter().map(|&input| {
        let part = (first, elements(input));
        first += part.1;
        part
    });
    Concat { parts: parts.collect(), width: elements(output), positions: output.elements() / elements(output) }
}

/// y = [x_0, x_1, ...] along an axis.
pub(super) struct Concat {
    /// Elements of the output per position outside the axis.
    width: usize,
    /// Positions per image outside the axis.
    positions: usize,
    /// For each input, its first element in the output's and its number of elements, per position.
    parts: Vec<(usize, usize)>,
}

impl Operation for Concat {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        cx.pool.chunks(y, self.width * self.positions, |i, y| {
            for (k, &(first, count)) in self.parts.iter().enumerate() {
                let x = &x.get(k)[i * count * self.positions..];
                for (y, x) in y.chunks_exact_mut(self.width).zip(x.chunks_exact(count)) {
                    y[first..first + count].copy_from_slice(x);
                }
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
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (first, count) = self.parts[k];
        cx.pool.chunks(gx, count * self.positions, |i, gx| {
            let gy = &gy[i * self.width * self.positions..];
            for (gx, gy) in gx.chunks_exact_mut(count).zip(gy.chunks_exact(self.width)) {
                gx.copy_from_slice(&gy[first..first + count]);
            }
        });
    }
}
