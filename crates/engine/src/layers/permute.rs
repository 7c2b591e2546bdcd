//! Layers that only reorder the elements of an image: permute, flatten, reshape, channel shuffle.

use nettriage_net::{Shape, layer};

use super::for_each_row;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The elements under another order of axes. `None` where no element moves.
pub(super) fn build(layer: &LayerContext<'_, '_>, permute: &layer::Permute) -> Option<Permute> {
    let (input, output) = (layer.input(), layer.output());
    let mut table = vec![0; input.elements()];
    for (to, from) in permute.sources().enumerate() {
        table[offset(output, to)] = offset(input, from) as u32;
    }
    Permute::unless_identity(table)
}

/// The offset in H x W x C order of element `e` in (C, H, W) order.
fn offset(shape: Shape, e: usize) -> usize {
    let positions = shape.height * shape.width;
    (e % positions) * shape.channels + e / positions
}

/// Flatten or reshape: the same elements in (C, H, W) order under another shape. `None` where no element moves.
pub(super) fn build_reshape(layer: &LayerContext<'_, '_>) -> Option<Permute> {
    let mut table = vec![0; layer.input().elements()];
    for e in 0..table.len() {
        table[offset(layer.output(), e)] = offset(layer.input(), e) as u32;
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

/// y[i] = x[table[i]] within each image; elements that stay neighbours are copied together.
pub(super) struct Permute {
    /// Where each run of `run` elements of the output begins in the input.
    starts: Vec<u32>,
    /// Elements of a run.
    run: usize,
}

impl Permute {
    fn unless_identity(table: Vec<u32>) -> Option<Permute> {
        let moves = table.iter().enumerate().any(|(i, &from)| i != from as usize);
        if !moves {
            return None;
        }
        // The longest run that divides all stretches of neighbours.
        let (mut run, mut start) = (table.len(), 0);
        for at in 1..=table.len() {
            if at == table.len() || table[at] != table[at - 1] + 1 {
                run = greatest_common_divisor(run, at - start);
                start = at;
            }
        }
        Some(Permute { starts: table.iter().step_by(run).copied().collect(), run })
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Operation for Permute {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        for_each_row(y, x.get(0), self.starts.len() * self.run, cx.pool, |y, x| {
            if self.run == 1 {
                return y.iter_mut().zip(&self.starts).for_each(|(y, &from)| *y = x[from as usize]);
            }
            for (y, &from) in y.chunks_exact_mut(self.run).zip(&self.starts) {
                y.copy_from_slice(&x[from as usize..][..self.run]);
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
        for_each_row(gx, gy, self.starts.len() * self.run, cx.pool, |gx, gy| {
            for (gy, &to) in gy.chunks_exact(self.run).zip(&self.starts) {
                gx[to as usize..][..self.run].copy_from_slice(gy);
            }
        });
    }

    fn bytes(&self) -> usize {
        size_of::<u32>() * self.starts.len()
    }
}
