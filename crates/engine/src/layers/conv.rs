//! Convolution, transposed convolution and fully connected layers, with the bias, norm and ReLU that follow.

use nettriage_kernels::conv::{self, ConvOp, Epilogue, Geometry, Needs};
use nettriage_kernels::pool::Pool;
use nettriage_kernels::simd::Simd;
use nettriage_net::{Conv, Padding};

use crate::layers::activation::mask_all;
use crate::layers::columns::{Columns, Plain, Span, Terms};
use crate::layers::norm::Norm;
use crate::layers::tiles::{Passed, Tiles};
use crate::op::{Context, Inputs, Op, Prepared, Reads};
use crate::params::{Param, ParamId, Params};

/// `conv` as the kernels take it, from images `input` to images `output`, both [C, H, W].
pub(crate) fn geometry(input: [usize; 3], output: [usize; 3], conv: &Conv) -> Geometry {
    let Padding { top, bottom, left, right } = conv.padding;
    let conv = conv::Conv {
        filters: output[0],
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv::Padding { top, bottom, left, right },
        dilation: conv.dilation,
        groups: conv.groups,
    };
    Geometry { input, output, conv }
}

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

/// y = pool(relu(norm(conv(x) + bias))); norm, ReLU and 2x2 max-pooling only where they follow.
///
/// What is saved for the backward pass is what a norm on batch statistics or the pooling starts from; the gradient of
/// that takes its place.
pub(crate) struct ConvLayer {
    op: ConvOp,
    weight: ParamId,
    packed: u64,
    bias: Option<Bias>,
    norm: Option<Norm>,
    relu: bool,
    tiles: Option<Tiles>,
    trains: bool,
    /// Whether the backward sweep may come by.
    swept: bool,
    elements: usize,
    /// Whether the gradient of the output comes with ReLU's mask on.
    masked: bool,
    /// Whether the input is a ReLU's output whose mask goes onto its gradient.
    mask_input: bool,
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
        let channels = params.value(self.param).len();
        let rows = g.len() / channels;
        let sums = match y {
            Some(y) => self.columns.sum(pool, rows, g, &Masked { y, channels }),
            None => self.columns.sum(pool, rows, &mut [], &Plain { data: g, channels }),
        };
        write(sums, &mut params.get_mut(self.param).gradient);
    }

    /// The gradient from that of the pooled output `y`.
    fn pooled(&mut self, y: &[f32], gy: &[f32], relu: bool, params: &mut Params, pool: &Pool) {
        let channels = params.value(self.param).len();
        let sums = self.columns.sum(pool, gy.len() / channels, &mut [], &Passed { y, gy, channels, relu });
        write(sums, &mut params.get_mut(self.param).gradient);
    }

    /// A norm on batch statistics takes every constant off again: whatever the bias is, the loss is the same.
    fn vanish(&self, params: &mut Params) {
        params.get_mut(self.param).gradient.fill(0.0);
    }
}

fn write(sums: &[f64], gradient: &mut [f32]) {
    for (gradient, &sum) in gradient.iter_mut().zip(sums) {
        *gradient = sum as f32;
    }
}

/// The sum of a gradient that passes a ReLU with output `y`, and the mask put onto it.
struct Masked<'a> {
    y: &'a [f32],
    channels: usize,
}

impl Terms<1> for Masked<'_> {
    fn check(&self, rows: usize, channels: usize) {
        assert!(channels == self.channels && self.y.len() >= rows * channels);
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(&self, row: usize, at: Span, g: *mut f32, [sum]: &mut [S::V; 1]) {
        unsafe {
            let y = at.load::<S>(self.y, row * self.channels);
            let masked = S::where_positive(y, S::load_up_to(g, at.count));
            S::store_up_to(g, masked, at.count);
            *sum = S::add(*sum, masked);
        }
    }
}

impl ConvLayer {
    /// A convolution of that geometry; `relu` if one follows without a norm (a norm has its own).
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        geometry: &Geometry,
        weight: ParamId,
        bias: Option<ParamId>,
        norm: Option<Norm>,
        relu: bool,
        tiles: Option<Tiles>,
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
            tiles,
            trains: setting.trains,
            swept: setting.trains || setting.below,
            elements: channels * height * width,
            masked: false,
            mask_input: false,
        }
    }

    /// From the gradient of the output to that of the convolution's sum, in `gy`; with the bias's.
    fn backward_whole(&mut self, cx: &mut Context<'_>, y: &[f32], saved: &[f32], gy: &mut [f32]) {
        if let Some(norm) = &mut self.norm {
            norm.backward(saved, (!self.masked).then_some(y), gy, cx.params, cx.pool);
        }
        let output = (self.relu && !self.masked).then_some(y);
        match self.bias.as_mut().filter(|_| self.trains) {
            Some(bias) if self.norm.as_ref().is_some_and(Norm::centres) => bias.vanish(cx.params),
            Some(bias) => bias.gradient(gy, output, cx.params, cx.pool),
            None => {
                if let Some(y) = output {
                    mask_all(gy, y, cx.pool);
                }
            }
        }
    }

    /// From the gradient `gy` of the pooled output to that of the convolution's sum, in `saved`; with the bias's.
    fn backward_pooled(&mut self, tiles: Tiles, cx: &mut Context<'_>, y: &[f32], saved: &mut [f32], gy: &[f32]) {
        let bias = self.bias.as_mut().filter(|_| self.trains);
        match &mut self.norm {
            Some(norm) if norm.trains() => {
                norm.backward_pooled(tiles, saved, y, gy, cx.params, cx.pool);
                match bias {
                    Some(bias) if norm.centres() => bias.vanish(cx.params),
                    Some(bias) => bias.gradient(saved, None, cx.params, cx.pool),
                    None => {}
                }
            }
            Some(norm) => {
                let relu = norm.relu();
                let (scale, _) = norm.fold(cx.params);
                tiles.backward(y, gy, Some(scale), relu, saved, cx.pool);
                if let Some(bias) = bias {
                    bias.gradient(saved, None, cx.params, cx.pool);
                }
            }
            None => {
                tiles.backward(y, gy, None, self.relu, saved, cx.pool);
                if let Some(bias) = bias {
                    bias.pooled(y, gy, self.relu, cx.params, cx.pool);
                }
            }
        }
    }

    fn norm_trains(&self) -> bool {
        self.norm.as_ref().is_some_and(Norm::trains)
    }
}

impl Op for ConvLayer {
    fn saved(&self) -> usize {
        let pooled = self.tiles.is_some() && (self.swept || !self.op.supports_pooling());
        if self.norm_trains() || pooled { self.elements } else { 0 }
    }

    fn reads(&self) -> Reads {
        Reads { inputs: self.trains || self.mask_input, output: self.masks() || self.tiles.is_some() }
    }

    fn masks(&self) -> bool {
        let relu = match &self.norm {
            Some(norm) => norm.relu() && !norm.trains(),
            None => self.relu,
        };
        relu && self.tiles.is_none() && !self.masked
    }

    fn comes_masked(&mut self) {
        self.masked = true;
    }

    fn mask_input(&mut self) -> bool {
        self.mask_input = true;
        true
    }

    fn forward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &mut [f32], saved: &mut [f32]) {
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        let bias = self.bias.as_ref().map(|bias| cx.params.value(bias.param));
        let on_batch = cx.train && self.norm.as_ref().is_some_and(Norm::trains);
        let epilogue = match &mut self.norm {
            Some(_) if on_batch => Epilogue { bias, ..Epilogue::default() },
            Some(norm) => {
                let relu = norm.relu();
                let (scale, shift) = norm.fold(cx.params);
                Epilogue { bias, scale: Some(scale), shift: Some(shift), relu }
            }
            None => Epilogue { bias, relu: self.relu, ..Epilogue::default() },
        };
        if self.tiles.is_some() && !on_batch && self.op.supports_pooling() {
            // Only the backward pass reads what was pooled.
            let whole = if cx.train { saved } else { &mut [] };
            self.op.forward_pooled(cx.n, weight, x.get(0), epilogue, whole, y, cx.pool, cx.scratch);
            return;
        }
        let direct = if on_batch || self.tiles.is_some() { &mut *saved } else { &mut *y };
        self.op.forward(cx.n, weight, x.get(0), epilogue, direct, cx.pool, cx.scratch);
        match (&mut self.norm, self.tiles) {
            (Some(norm), tiles) if on_batch => norm.forward(true, saved, y, tiles, cx.params, cx.pool),
            (_, Some(tiles)) => tiles.forward(saved, None, y, cx.pool),
            _ => {}
        }
    }

    fn passes(&self, _: usize) -> bool {
        false
    }

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, y: &[f32], saved: &mut [f32], gy: &mut [f32]) {
        match self.tiles {
            Some(tiles) => self.backward_pooled(tiles, cx, y, saved, gy),
            None => self.backward_whole(cx, y, saved, gy),
        }
        if self.trains {
            let g = if self.tiles.is_some() { &*saved } else { &*gy };
            let gradient = &mut cx.params.get_mut(self.weight).gradient;
            self.op.grad_weight(cx.n, x.get(0), g, gradient, cx.pool, cx.scratch);
        }
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        x: Inputs<'_>,
        prepared: Prepared<'_>,
        gx: &mut [f32],
    ) {
        let weight = current(&mut self.op, &mut self.packed, cx.params.get(self.weight));
        let g = if self.tiles.is_some() { prepared.saved } else { prepared.gy };
        let mask = self.mask_input.then(|| x.get(0));
        self.op.grad_input(cx.n, weight, g, gx, mask, cx.pool, cx.scratch);
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
        let geometry = geometry(output, input, conv);
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
        self.op.grad_input(cx.n, weight, x.get(0), y, None, cx.pool, cx.scratch);
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

    fn backward(&mut self, cx: &mut Context<'_>, x: Inputs<'_>, _: &[f32], _: &mut [f32], gy: &mut [f32]) {
        if !self.trains {
            return;
        }
        if let Some(bias) = &mut self.bias {
            bias.gradient(gy, None, cx.params, cx.pool);
        }
        let gradient = &mut cx.params.get_mut(self.weight).gradient;
        self.op.grad_weight(cx.n, gy, x.get(0), gradient, cx.pool, cx.scratch);
    }

    fn backward_input(
        &mut self,
        cx: &mut Context<'_>,
        _: usize,
        _: Inputs<'_>,
        Prepared { gy, .. }: Prepared<'_>,
        gx: &mut [f32],
    ) {
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
