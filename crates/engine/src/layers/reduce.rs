//! Mean or maximum over whole axes.

use nettriage_net::{Shape, layer};

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Mean or maximum over the axes of `reduce`.
pub(super) fn build(layer: &LayerContext<'_, '_>, reduce: &layer::Reduce) -> Reduce {
    Reduce { input: layer.input(), output: layer.output(), function: reduce.function }
}

/// y = mean of x, or its maximum, over the axes along which the output has an extent of 1.
pub(super) struct Reduce {
    input: Shape,
    output: Shape,
    function: layer::Reduction,
}

impl Reduce {
    /// Calls `f(element of the input, element of the output)` for all elements of an image.
    #[inline(always)]
    fn for_each_element(&self, mut f: impl FnMut(usize, usize)) {
        let (input, output) = (self.input, self.output);
        let step = |reduced: bool, step: usize| if reduced { 0 } else { step };
        let row = step(output.height == 1, output.width * output.channels);
        let column = step(output.width == 1, output.channels);
        for h in 0..input.height {
            for w in 0..input.width {
                let (from, to) = ((h * input.width + w) * input.channels, h * row + w * column);
                if output.channels == 1 {
                    (0..input.channels).for_each(|c| f(from + c, to));
                } else {
                    (0..input.channels).for_each(|c| f(from + c, to + c));
                }
            }
        }
    }

    /// Elements that become one.
    fn count(&self) -> usize {
        self.input.elements() / self.output.elements()
    }
}

impl Operation for Reduce {
    fn saved_for_backward(&self) -> SavedForBackward {
        let max = self.function == layer::Reduction::Max;
        SavedForBackward { inputs: max, output: max }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let x = x.get(0);
        cx.pool.chunks(y, self.output.elements(), |i, y| {
            let x = &x[i * self.input.elements()..];
            match self.function {
                layer::Reduction::Mean => {
                    let mut sums = vec![0f64; y.len()];
                    self.for_each_element(|from, to| sums[to] += f64::from(x[from]));
                    let count = self.count() as f64;
                    y.iter_mut().zip(sums).for_each(|(y, sum)| *y = (sum / count) as f32);
                }
                layer::Reduction::Max => {
                    y.fill(f32::NEG_INFINITY);
                    // NaN stays NaN.
                    self.for_each_element(|from, to| {
                        if x[from] > y[to] || x[from].is_nan() {
                            y[to] = x[from];
                        }
                    });
                }
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    /// The gradient of a maximum is divided among equal elements, as PyTorch's `amax` does.
    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        BackwardState { y, gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (elements, own) = (self.output.elements(), self.input.elements());
        let (function, x) = (self.function, if self.function == layer::Reduction::Max { x.get(0) } else { &[] });
        cx.pool.chunks(gx, own, |i, gx| {
            let gy = &gy[i * elements..][..elements];
            match function {
                layer::Reduction::Mean => {
                    let share = 1.0 / self.count() as f32;
                    self.for_each_element(|to, from| gx[to] = gy[from] * share);
                }
                layer::Reduction::Max => {
                    let (x, y) = (&x[i * own..], &y[i * elements..]);
                    let mut equal = vec![0f32; elements];
                    self.for_each_element(|at, of| equal[of] += if x[at] == y[of] { 1.0 } else { 0.0 });
                    self.for_each_element(|to, of| gx[to] = if x[to] == y[of] { gy[of] / equal[of] } else { 0.0 });
                }
            }
        });
    }
}
