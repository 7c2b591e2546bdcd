//! Convolution, transposed convolution and fully connected layers, with the bias, norm and ReLU that follow.

use nettriage_net::Conv;

use crate::conv::{ConvOp, Epilogue, Geometry, Needs};
use crate::layers::activation::mask;
use crate::layers::columns::{Columns, add_rows};
use crate::layers::norm::Norm;
use crate::op::{Context, Inputs, Op, Reads};
use crate::params::{Param, ParamId, Params};
use crate::pool::Pool;

/// The weight's elements, once `op` knows whether they have changed since it saw them last.
fn current<'p>(op: &mut ConvOp, seen: &mut u64, weight: &'p Param) -> &'p [f32] {
    if *seen != weight.version {
        *seen = weight.version;
        op.weights_changed();
    }
    &weight.value
}

/// How a convolution is built: what it trains and what is asked of it.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    /// Largest batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Whether less accurate algorithms are ruled out.
    pub exact: bool,
    /// Whether its own weights train.
    pub trains: bool,
    /// Whether something below it trains.
    pub below: bool,
}

/// y = relu(norm(conv(x) + bias)); norm and ReLU only where they follow.
pub(crate) struct ConvLayer {
    op: ConvOp,
    weight: ParamId,
    packed: u64,
    bias: Option<Bias>,
    norm: Option<Norm>,
    relu: bool,
    trains: bool,
    elements: usize,
}

/// A bias and the sums of its gradient.
struct Bias {
    param: ParamId,
    columns: Columns<1>,
}

impl Bias {
    fn new(param: Option<ParamId>, channels: usize, trains: bool) -> Option<Bias> {
        param.map(|param| Bias { param, columns: Columns::new(if trains { channels } else { 0 }) })
    }

    /// The gradient is the sum of `g` (rows x channels), which a ReLU with output `y` masks first, in the same pass.
    fn gradient(&mut self, g: &mut [f32], y: Option<&[f32]>, params: &mut Params, pool: &Pool) {
        let gradient = &mut params.get_mut(self.param).gradient;
        let channels = gradient.len();
        let rows = g.len() / channels;
        let sums = self.columns.sum(pool, rows, g, |range, g, sums| {
            if let Some(y) = y {
                mask(g, &y[range.start * channels..range.end * channels]);
            }
            add_rows(g, sums);
        });
        for (gradient, &sum) in gradient.iter_mut().zip(sums) {
            *gradient = sum as f32;
        }
    }
}

impl ConvLayer {
    /// A convolution of that geometry; `relu` if one follows without a norm (a norm has its own).
    pub fn new(
        geometry: &Geometry,
        weight: ParamId,
        bias: Option<ParamId>,
        norm: Option<Norm>,
        relu: bool,
        setting: Setting,
    ) -> ConvLayer {
        let needs = Needs { grad_input: setting.below, grad_weight: setting.trains };
        let [channels, height, width] = geometry.output;
        ConvLayer {
            op: ConvOp::new(geometry, setting.batch, setting.threads, setting.exact, needs),
            weight,
            packed: 0,
            bias: Bias::new(bias, channels, setting.trains),
            norm,
            relu,
            trains: setting.trains,
            elements: channels * height * width,
        }
    }

    fn norm_trains(&self) -> bool {
        self.norm.as_ref().is_some_and(Norm::trains)
    }
}

impl Op for ConvLayer {
    fn saved(&self) -> usize {
        if self.norm_trains() { self.elements } else { 0 }
    }

    fn reads(&self) -> Reads {
        let masked = match &self.norm {
            Some(norm) => norm.relu() && !norm.trains(),
            None => self.relu,
        };
        Reads { inputs: self.trains, output: masked }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]) {
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        let bias = self.bias.as_ref().map(|bias| cx.params.value(bias.param));
        match &mut self.norm {
            Some(norm) if cx.train && norm.trains() => {
                let epilogue = Epilogue { bias, ..Epilogue::default() };
                self.op.forward(cx.n, weight, x.get(0), epilogue, saved, cx.pool, cx.scratch);
                norm.forward(true, saved, y, cx.params, cx.pool);
            }
            Some(norm) => {
                let relu = norm.relu();
                let (scale, shift) = norm.fold(cx.params);
                let epilogue = Epilogue { bias, scale: Some(scale), shift: Some(shift), relu };
                self.op.forward(cx.n, weight, x.get(0), epilogue, y, cx.pool, cx.scratch);
            }
            None => {
                let epilogue = Epilogue { bias, relu: self.relu, ..Epilogue::default() };
                self.op.forward(cx.n, weight, x.get(0), epilogue, y, cx.pool, cx.scratch);
            }
        }
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], saved: &[f32], gy: &mut [f32]) {
        if let Some(norm) = &mut self.norm {
            norm.backward(saved, y, gy, cx.params, cx.pool);
        }
        let output = self.relu.then_some(y);
        match &mut self.bias {
            Some(bias) if self.trains => bias.gradient(gy, output, cx.params, cx.pool),
            _ => {
                if let Some(y) = output {
                    cx.pool.chunks(gy, super::CHUNK, |i, g| mask(g, &y[i * super::CHUNK..][..g.len()]));
                }
            }
        }
        if self.trains {
            let gradient = &mut cx.params.get_mut(self.weight).gradient;
            self.op.grad_weight(cx.n, x.get(0), gy, gradient, cx.pool, cx.scratch);
        }
    }

    fn backward_input(&mut self, cx: &mut Context<'_>, _: usize, _: Inputs<'_>, _: &[f32], gy: &[f32], gx: &mut [f32]) {
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        self.op.grad_input(cx.n, weight, gy, gx, cx.pool, cx.scratch);
    }

    fn scratch_bytes(&self) -> usize {
        self.op.scratch_bytes()
    }

    fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, |bias| bias.columns.bytes());
        self.op.packed_bytes() + bias + self.norm.as_ref().map_or(0, Norm::bytes)
    }
}

/// Transposed convolution: the gradient of a convolution from this layer's output to its input.
pub(crate) struct ConvTransposeLayer {
    op: ConvOp,
    weight: ParamId,
    packed: u64,
    bias: Option<Bias>,
    trains: bool,
    below: bool,
}

impl ConvTransposeLayer {
    /// From pictures `input` to pictures `output`, both [C, H, W]; `conv` as the layer states it.
    pub fn new(
        input: [usize; 3],
        output: [usize; 3],
        conv: &Conv,
        weight: ParamId,
        bias: Option<ParamId>,
        setting: Setting,
    ) -> ConvTransposeLayer {
        let conv = Conv { filters: input[0], bias: false, ..*conv };
        let geometry = Geometry { input: output, output: input, conv };
        let needs = Needs { grad_input: true, grad_weight: setting.trains };
        ConvTransposeLayer {
            op: ConvOp::new(&geometry, setting.batch, setting.threads, setting.exact, needs),
            weight,
            packed: 0,
            bias: Bias::new(bias, output[0], setting.trains),
            trains: setting.trains,
            below: setting.below,
        }
    }
}

impl Op for ConvTransposeLayer {
    fn reads(&self) -> Reads {
        Reads { inputs: self.trains, output: false }
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], _: &mut [f32]) {
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        self.op.grad_input(cx.n, weight, x.get(0), y, cx.pool, cx.scratch);
        if let Some(bias) = &self.bias {
            let bias = cx.params.value(bias.param);
            let size = super::CHUNK.div_ceil(bias.len()) * bias.len();
            cx.pool.chunks(y, size, |_, y| {
                for y in y.chunks_exact_mut(bias.len()) {
                    for (y, &b) in y.iter_mut().zip(bias) {
                        *y += b;
                    }
                }
            });
        }
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], _: &[f32], gy: &mut [f32]) {
        if !self.trains {
            return;
        }
        if let Some(bias) = &mut self.bias {
            bias.gradient(gy, None, cx.params, cx.pool);
        }
        let gradient = &mut cx.params.get_mut(self.weight).gradient;
        self.op.grad_weight(cx.n, gy, x.get(0), gradient, cx.pool, cx.scratch);
    }

    fn backward_input(&mut self, cx: &mut Context<'_>, _: usize, _: Inputs<'_>, _: &[f32], gy: &[f32], gx: &mut [f32]) {
        debug_assert!(self.below);
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        self.op.forward(cx.n, weight, gy, Epilogue::default(), gx, cx.pool, cx.scratch);
    }

    fn scratch_bytes(&self) -> usize {
        self.op.scratch_bytes()
    }

    fn bytes(&self) -> usize {
        self.op.packed_bytes() + self.bias.as_ref().map_or(0, |bias| bias.columns.bytes())
    }
}
