//! Selection of positions along one axis.

use nettriage_net::{Axis, layer};

use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Position i along the axis is position `indices[i]` of the input.
pub(super) fn build(layer: &LayerContext<'_, '_>, gather: &layer::Gather) -> Gather {
    let input = layer.input();
    // In H x W x C order: the elements of one position along the axis.
    let inner = match gather.axis {
        Axis::Rows => input.width * input.channels,
        Axis::Columns => input.channels,
        Axis::Channels => 1,
    };
    Gather { indices: gather.indices.clone(), extent: input.extent(gather.axis), inner }
}

/// y[outer][i][inner] = x[outer][indices[i]][inner].
pub(super) struct Gather {
    indices: Vec<usize>,
    /// Positions of the input along the axis.
    extent: usize,
    /// Elements of one position along the axis.
    inner: usize,
}

impl Operation for Gather {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, inner) = (x.get(0), self.inner);
        let (from, to) = (self.extent * inner, self.indices.len() * inner);
        // Tasks of many outer positions, where each has few elements.
        let size = super::row_chunk(to);
        cx.pool.chunks(y, size, |task, y| {
            for (o, y) in y.chunks_exact_mut(to).enumerate() {
                let x = &x[(task * (size / to) + o) * from..][..from];
                if inner == 1 {
                    y.iter_mut().zip(&self.indices).for_each(|(y, &index)| *y = x[index]);
                    continue;
                }
                for (y, &index) in y.chunks_exact_mut(inner).zip(&self.indices) {
                    y.copy_from_slice(&x[index * inner..][..inner]);
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
        _: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let inner = self.inner;
        let (from, to) = (self.extent * inner, self.indices.len() * inner);
        let size = super::row_chunk(from);
        cx.pool.chunks(gx, size, |task, gx| {
            for (o, gx) in gx.chunks_exact_mut(from).enumerate() {
                let gy = &gy[(task * (size / from) + o) * to..][..to];
                gx.fill(0.0);
                for (gy, &index) in gy.chunks_exact(inner).zip(&self.indices) {
                    gx[index * inner..][..inner].iter_mut().zip(gy).for_each(|(gx, &g)| *gx += g);
                }
            }
        });
    }

    fn bytes(&self) -> usize {
        size_of::<usize>() * self.indices.len()
    }
}
