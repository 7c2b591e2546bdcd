//! Bilinear interpolation.

use nettriage_net::{Shape, layer};

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The input at another resolution.
pub(super) fn build(layer: &LayerContext<'_, '_>, resize: layer::Resize) -> Resize {
    let (input, output) = (layer.input(), layer.output());
    let rows = resize.taps(input.height, output.height);
    Resize { input, output, rows, columns: resize.taps(input.width, output.width) }
}

/// y(h, w) = the weighted mean of the four elements of x around its position.
pub(super) struct Resize {
    input: Shape,
    output: Shape,
    /// For each output row: two input rows, and the weight of the second.
    rows: Vec<(usize, usize, f32)>,
    /// The same for columns.
    columns: Vec<(usize, usize, f32)>,
}

impl Resize {
    /// Calls `f(offset in the output image, offset in the input image, weight)` for the first channel of each of the four inputs of
    /// each output position.
    #[inline(always)]
    fn for_each_tap(&self, mut f: impl FnMut(usize, usize, f32)) {
        let channels = self.input.channels;
        for (h, &(top, bottom, down)) in self.rows.iter().enumerate() {
            for (w, &(left, right, aside)) in self.columns.iter().enumerate() {
                let to = (h * self.output.width + w) * channels;
                for (row, row_weight) in [(top, 1.0 - down), (bottom, down)] {
                    for (column, column_weight) in [(left, 1.0 - aside), (right, aside)] {
                        f(to, (row * self.input.width + column) * channels, row_weight * column_weight);
                    }
                }
            }
        }
    }
}

impl Operation for Resize {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, self.output.elements(), |i, y| {
            let x = &x[i * self.input.elements()..];
            y.fill(0.0);
            self.for_each_tap(|to, from, weight| {
                y[to..to + channels].iter_mut().zip(&x[from..from + channels]).for_each(|(y, &x)| *y += weight * x);
            });
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let channels = self.input.channels;
        cx.pool.chunks(gx, self.input.elements(), |i, gx| {
            let gy = &gy[i * self.output.elements()..];
            gx.fill(0.0);
            self.for_each_tap(|from, to, weight| {
                gx[to..to + channels].iter_mut().zip(&gy[from..from + channels]).for_each(|(gx, &g)| *gx += weight * g);
            });
        });
    }

    fn bytes(&self) -> usize {
        size_of::<(usize, usize, f32)>() * (self.rows.len() + self.columns.len())
    }
}
