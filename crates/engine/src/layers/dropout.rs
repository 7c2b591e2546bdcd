//! Dropout (Srivastava et al., "Dropout", JMLR 15, 2014), scaled in training as in PyTorch.

use super::CHUNK;
use crate::lowering::LayerContext;
use crate::operation::{Context, Inputs, Operation, SavedForBackward};
use crate::random::{key, uniform};

/// Dropout with probability `p`; `None` where the layer is frozen or drops nothing.
pub(super) fn build(layer: &LayerContext<'_, '_>, p: f32) -> Option<Dropout> {
    (layer.trains() && p > 0.0).then(|| Dropout { layer: layer.name().to_string(), p })
}

/// In training, sets each element to 0 with probability `p` and multiplies the others by 1 / (1 - p).
///
/// Which elements are dropped follows from the seed, the layer's name and the element's index alone, so no mask is stored.
pub(super) struct Dropout {
    layer: String,
    p: f32,
}

impl Dropout {
    /// The factor of element `index`.
    fn factor(&self, key: u64, index: usize) -> f32 {
        if uniform(key, index as u64) < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

impl Operation for Dropout {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let x = x.get(0);
        if !cx.training {
            return y.copy_from_slice(x);
        }
        let key = key(cx.seed, &self.layer);
        cx.pool.chunks(y, CHUNK, |i, y| {
            for (j, (y, &x)) in y.iter_mut().zip(&x[i * CHUNK..]).enumerate() {
                let factor = self.factor(key, i * CHUNK + j);
                // Not 0 times x, which is NaN for an infinite x.
                *y = if factor == 0.0 { 0.0 } else { x * factor };
            }
        });
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let key = key(cx.seed, &self.layer);
        cx.pool.chunks(gy, CHUNK, |i, g| {
            for (j, g) in g.iter_mut().enumerate() {
                *g *= self.factor(key, i * CHUNK + j);
            }
        });
    }
}
