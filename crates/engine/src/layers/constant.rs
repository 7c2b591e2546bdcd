//! A tensor that does not depend on the image.

use nettriage_net::Shape;

use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};
use crate::parameters::ParameterId;

/// The weight of the current layer, for every image.
pub(super) fn build(layer: &mut LayerContext<'_, '_>) -> Result<Constant, Error> {
    Ok(Constant { weight: layer.weight("weight")?, shape: layer.output(), trains: layer.trains() })
}

/// y = weight, whatever x.
pub(super) struct Constant {
    weight: ParameterId,
    shape: Shape,
    trains: bool,
}

impl Constant {
    /// Calls `f(offset in H x W x C order, offset in the weight)` for every element.
    fn for_each_element(&self, mut f: impl FnMut(usize, usize)) {
        let positions = self.shape.height * self.shape.width;
        for c in 0..self.shape.channels {
            (0..positions).for_each(|p| f(p * self.shape.channels + c, c * positions + p));
        }
    }
}

impl Operation for Constant {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let weight = cx.parameters.value(self.weight);
        let (first, rest) = y.split_at_mut(self.shape.elements());
        self.for_each_element(|to, from| first[to] = weight[from]);
        rest.chunks_exact_mut(first.len()).for_each(|y| y.copy_from_slice(first));
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if self.trains {
            let gradient = &mut cx.parameters.get_mut(self.weight).gradient;
            self.for_each_element(|from, to| {
                let sum: f64 = gy[from..].iter().step_by(self.shape.elements()).map(|&g| f64::from(g)).sum();
                gradient[to] = sum as f32;
            });
        }
    }

    fn backward_input(&mut self, _: &mut Context<'_>, _: usize, _: Inputs<'_>, _: BackwardState<'_>, gx: &mut [f32]) {
        gx.fill(0.0);
    }
}
