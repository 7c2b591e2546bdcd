//! Transposed convolutions.

use nettriage_kernels::conv::{ConvOp, Epilogue, Needs};
use nettriage_net::Conv;

use super::convolution::{Bias, PackedConv, geometry};
use super::row_chunk;
use crate::Error;
use crate::lowering::LayerContext;
use crate::operation::{BackwardState, Context, Inputs, Operation, SavedForBackward};

/// A transposed convolution: the input gradient of the convolution from this layer's output to its input.
pub(super) fn build(layer: &mut LayerContext<'_, '_>, conv: Conv) -> Result<TransposedConvolution, Error> {
    let geometry = geometry(layer.output(), layer.input(), &conv);
    let trains = layer.trains();
    let needs = Needs { grad_input: true, grad_weight: trains };
    let options = layer.options();
    let op = ConvOp::new(&geometry, options.batch, options.threads, options.exact, needs);
    Ok(TransposedConvolution {
        conv: PackedConv { op, weight: layer.weight("weight")?, packed_version: 0 },
        bias: if conv.bias { Some(Bias::build(layer)?) } else { None },
        trains,
    })
}

/// y = transposed conv(x) + bias.
pub(super) struct TransposedConvolution {
    /// From y to x.
    conv: PackedConv,
    bias: Option<Bias>,
    trains: bool,
}

impl Operation for TransposedConvolution {
    fn saved_for_backward(&self) -> SavedForBackward {
        SavedForBackward { inputs: self.trains, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let (op, weight) = self.conv.current(cx.parameters);
        op.grad_input(cx.n, weight, x.get(0), y, None, cx.pool, cx.scratch);
        if let Some(bias) = &self.bias {
            let bias = cx.parameters.value(bias.parameter);
            cx.pool.chunks(y, row_chunk(bias.len()), |_, y| {
                for y in y.chunks_exact_mut(bias.len()) {
                    y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                }
            });
        }
    }

    fn passes_gradient_through(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if !self.trains {
            return;
        }
        if let Some(bias) = &mut self.bias {
            bias.write_gradient(gy, None, cx.parameters, cx.pool);
        }
        self.conv.write_gradient(cx, gy, x.get(0));
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        BackwardState { gy, .. }: BackwardState<'_>,
        gx: &mut [f32],
    ) {
        let (op, weight) = self.conv.current(cx.parameters);
        op.forward(cx.n, weight, gy, Epilogue::default(), gx, cx.pool, cx.scratch);
    }

    fn scratch_bytes(&self) -> usize {
        self.conv.op.scratch_bytes()
    }

    fn bytes(&self) -> usize {
        self.conv.op.packed_bytes() + self.bias.as_ref().map_or(0, Bias::bytes)
    }
}
