//! Dropout in training (Srivastava et al., 2014): the kept elements follow from seed, layer and place, so no mask is stored.

use crate::layers::CHUNK;
use crate::op::{Context, Inputs, Op, Reads};
use crate::random::{key, uniform};

/// Zeroes each element with probability `p` and scales the rest by 1 / (1 - p).
pub(crate) struct Dropout {
    name: String,
    p: f32,
}

impl Dropout {
    /// The dropout layer of that name, which trains.
    pub fn new(name: &str, p: f32) -> Dropout {
        Dropout { name: name.to_string(), p }
    }

    /// The factor of an element.
    fn factor(&self, key: u64, index: usize) -> f32 {
        if uniform(key, index as u64) < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

impl Op for Dropout {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let x = x.get(0);
        if !cx.train {
            return y.copy_from_slice(x);
        }
        let key = key(cx.seed, &self.name);
        cx.pool.chunks(y, CHUNK, |i, y| {
            for (j, (y, &x)) in y.iter_mut().zip(&x[i * CHUNK..]).enumerate() {
                let factor = self.factor(key, i * CHUNK + j);
                *y = if factor == 0.0 { 0.0 } else { x * factor };
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        true
    }

    fn backward(&mut self, cx: &mut Context<'_>, _: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        let key = key(cx.seed, &self.name);
        cx.pool.chunks(gy, CHUNK, |i, g| {
            for (j, g) in g.iter_mut().enumerate() {
                *g *= self.factor(key, i * CHUNK + j);
            }
        });
    }
}
