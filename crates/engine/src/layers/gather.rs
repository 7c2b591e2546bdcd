//! Layers that only reorder elements: flatten, reshape, channel shuffle.

use nettriage_net::Shape;

use crate::op::{Context, Inputs, Op, Prepared, Reads};

/// y[i] = x[table[i]] within every stretch of `table.len()` elements; `table` is a permutation.
pub(crate) struct Gather {
    table: Vec<u32>,
}

impl Gather {
    /// From `input` to `output`, which has as many elements, in (C, H, W) order on both sides; `None` where nothing moves.
    pub fn reshape(input: Shape, output: Shape) -> Option<Gather> {
        let places = |shape: Shape| {
            let positions = shape.height * shape.width;
            (0..shape.elements()).map(move |e| (e % positions) * shape.channels + e / positions)
        };
        let mut table = vec![0; input.elements()];
        for (from, to) in places(input).zip(places(output)) {
            table[to] = from as u32;
        }
        Gather::unless_identity(table)
    }

    /// Channels seen as (groups, channels / groups), transposed; `None` where nothing moves.
    pub fn shuffle(channels: usize, groups: usize) -> Option<Gather> {
        let each = channels / groups;
        Gather::unless_identity((0..channels).map(|c| ((c % groups) * each + c / groups) as u32).collect())
    }

    fn unless_identity(table: Vec<u32>) -> Option<Gather> {
        let moves = table.iter().enumerate().any(|(i, &from)| i != from as usize);
        moves.then_some(Gather { table })
    }
}

impl Op for Gather {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, period) = (x.get(0), self.table.len());
        cx.pool.chunks(y, period * super::CHUNK.div_ceil(period), |i, y| {
            let x = &x[i * period * super::CHUNK.div_ceil(period)..];
            for (y, x) in y.chunks_exact_mut(period).zip(x.chunks_exact(period)) {
                for (y, &from) in y.iter_mut().zip(&self.table) {
                    *y = x[from as usize];
                }
            }
        });
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let period = self.table.len();
        cx.pool.chunks(gx, period * super::CHUNK.div_ceil(period), |i, gx| {
            let gy = &gy[i * period * super::CHUNK.div_ceil(period)..];
            for (gx, gy) in gx.chunks_exact_mut(period).zip(gy.chunks_exact(period)) {
                for (&g, &to) in gy.iter().zip(&self.table) {
                    gx[to as usize] = g;
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        4 * self.table.len()
    }
}
