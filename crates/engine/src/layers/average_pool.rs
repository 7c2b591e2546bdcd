//! Average pooling: over windows, or over a grid of regions (adaptive and global average pooling).

use std::ops::Range;

use nettriage_kernels::simd::vectorised;
use nettriage_net::{Shape, Window, layer};

use super::window_range;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// The mean of each window; with `count_padding`, the padding counts as zeros.
pub(super) fn build(layer: &LayerContext<'_, '_>, pool: layer::AvgPool) -> AveragePool {
    let layer::AvgPool { window: Window { kernel, stride, padding }, count_padding } = pool;
    AveragePool::new(layer, |input, oh, ow| {
        let rows = window_range(oh, stride[0], kernel[0], padding.top, input.height);
        let columns = window_range(ow, stride[1], kernel[1], padding.left, input.width);
        let count = if count_padding { kernel[0] * kernel[1] } else { rows.len() * columns.len() };
        Region { rows, columns, weight: 1.0 / count.max(1) as f32 }
    })
}

/// The mean of each region of a grid, divided as by PyTorch's adaptive pooling: output i of n covers the input's rows (or
/// columns) floor(i extent / n) to ceil((i + 1) extent / n).
pub(super) fn build_adaptive(layer: &LayerContext<'_, '_>) -> AveragePool {
    let range = |i: usize, extent: usize, n: usize| i * extent / n..((i + 1) * extent).div_ceil(n);
    let output = layer.output();
    AveragePool::new(layer, |input, oh, ow| {
        let rows = range(oh, input.height, output.height);
        let columns = range(ow, input.width, output.width);
        let weight = 1.0 / (rows.len() * columns.len()) as f32;
        Region { rows, columns, weight }
    })
}

/// The region of the input that one output position averages.
struct Region {
    rows: Range<usize>,
    columns: Range<usize>,
    /// 1 / the number of elements.
    weight: f32,
}

impl Region {
    /// The offsets of the region's positions in an input image.
    fn offsets(&self, input: Shape) -> impl Iterator<Item = usize> {
        let columns = self.columns.clone();
        self.rows.clone().flat_map(move |h| columns.clone().map(move |w| (h * input.width + w) * input.channels))
    }
}

/// y = the mean of a region of the input, for each output position.
pub(super) struct AveragePool {
    input: Shape,
    regions: Vec<Region>,
}

impl AveragePool {
    fn new(layer: &LayerContext<'_, '_>, region: impl Fn(Shape, usize, usize) -> Region) -> AveragePool {
        let (input, output) = (layer.input(), layer.output());
        let positions = (0..output.height).flat_map(|oh| (0..output.width).map(move |ow| (oh, ow)));
        AveragePool { input, regions: positions.map(|(oh, ow)| region(input, oh, ow)).collect() }
    }
}

impl Operation for AveragePool {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward::default()
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (x, channels) = (x.get(0), self.input.channels);
        cx.pool.chunks(y, channels * self.regions.len(), |i, y| {
            let x = &x[i * self.input.elements()..];
            vectorised(
                #[inline(always)]
                || {
                    for (y, region) in y.chunks_exact_mut(channels).zip(&self.regions) {
                        y.fill(0.0);
                        for at in region.offsets(self.input) {
                            y.iter_mut().zip(&x[at..at + channels]).for_each(|(y, &x)| *y += x);
                        }
                        y.iter_mut().for_each(|y| *y *= region.weight);
                    }
                },
            )
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
            gx.fill(0.0);
            let gy = &gy[i * channels * self.regions.len()..];
            vectorised(
                #[inline(always)]
                || {
                    for (gy, region) in gy.chunks_exact(channels).zip(&self.regions) {
                        for at in region.offsets(self.input) {
                            gx[at..at + channels].iter_mut().zip(gy).for_each(|(gx, &g)| *gx += g * region.weight);
                        }
                    }
                },
            )
        });
    }

    fn bytes(&self) -> usize {
        self.regions.len() * size_of::<Region>()
    }
}
