//! Layers that only reorder the elements of an image: flatten, reshape, channel shuffle.

use nettriage_net::Shape;

use super::for_each_row;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// Flatten or reshape: the same elements in (C, H, W) order under another shape. `None` where no element moves.
pub(super) fn build_reshape(layer: &LayerContext<'_, '_>) -> Option<Permute> {
    // Offsets in H x W x C order, listed in (C, H, W) order.
    let offsets = |shape: Shape| {
        let positions = shape.height * shape.width;
        (0..shape.elements()).map(move |e| (e % positions) * shape.channels + e / positions)
    };
    let mut table = vec![0; layer.input().elements()];
    for (from, to) in offsets(layer.input()).zip(offsets(layer.output())) {
        table[to] = from as u32;
    }
    Permute::unless_identity(table)
}

/// Channel shuffle (Zhang et al., arXiv:1707.01083): the channels as a (groups, channels / groups) matrix, transposed. `None`
/// where no channel moves.
pub(super) fn build_channel_shuffle(layer: &LayerContext<'_, '_>, groups: usize) -> Option<Permute> {
    let channels = layer.input().channels;
    let group = channels / groups;
    Permute::unless_identity((0..channels).map(|c| ((c % groups) * group + c / groups) as u32).collect())
}

/// y[i] = x[table[i]] within each run of `table.len()` elements; `table` is a permutation.
pub(super) struct Permute {
    table: Vec<u32>,
}

impl Permute {
    fn unless_identity(table: Vec<u32>) -> Option<Permute> {
        let moves = table.iter().enumerate().any(|(i, &from)| i != from as usize);
        moves.then_some(Permute { table })
    }
}

impl Operation for Permute {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        for_each_row(y, x.get(0), self.table.len(), cx.pool, |y, x| {
            y.iter_mut().zip(&self.table).for_each(|(y, &from)| *y = x[from as usize]);
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
        for_each_row(gx, gy, self.table.len(), cx.pool, |gx, gy| {
            gy.iter().zip(&self.table).for_each(|(&g, &to)| gx[to as usize] = g);
        });
    }

    fn bytes(&self) -> usize {
        size_of::<u32>() * self.table.len()
    }
}
