//! A reference implementation in f64: every layer directly from its definition, N x C x H x W, one loop per axis.

use std::collections::{BTreeMap, BTreeSet};

use nettriage_net::{Activation, Axis, Conv, Graph, INPUT, Kind, Padding, Shape, Window, layer};

/// Weights in f64.
pub type Weights64 = BTreeMap<String, Vec<f64>>;

/// A tensor, N x C x H x W.
#[derive(Clone, Debug)]
pub struct Batch {
    pub n: usize,
    pub shape: Shape,
    pub data: Vec<f64>,
}

impl Batch {
    pub fn zeros(n: usize, shape: Shape) -> Batch {
        Batch { n, shape, data: vec![0.0; n * shape.elements()] }
    }

    /// Converts from N x H x W x C.
    pub fn from_nhwc(n: usize, shape: Shape, data: &[f32]) -> Batch {
        let mut batch = Batch::zeros(n, shape);
        for (i, c, h, w) in batch.indices() {
            let from = ((i * shape.height + h) * shape.width + w) * shape.channels + c;
            let at = batch.at(i, c, h, w);
            batch.data[at] = f64::from(data[from]);
        }
        batch
    }

    /// Converts to N x H x W x C.
    pub fn nhwc(&self) -> Vec<f64> {
        let s = self.shape;
        let mut data = vec![0.0; self.data.len()];
        for (i, c, h, w) in self.indices() {
            data[((i * s.height + h) * s.width + w) * s.channels + c] = self.data[self.at(i, c, h, w)];
        }
        data
    }

    fn at(&self, i: usize, c: usize, h: usize, w: usize) -> usize {
        ((i * self.shape.channels + c) * self.shape.height + h) * self.shape.width + w
    }

    fn get(&self, i: usize, c: usize, h: usize, w: usize) -> f64 {
        self.data[self.at(i, c, h, w)]
    }

    /// The element, or `None` in the padding.
    fn inside(&self, i: usize, c: usize, h: isize, w: isize) -> Option<f64> {
        let inside = h >= 0 && w >= 0 && (h as usize) < self.shape.height && (w as usize) < self.shape.width;
        inside.then(|| self.get(i, c, h as usize, w as usize))
    }

    fn indices(&self) -> Vec<(usize, usize, usize, usize)> {
        let s = self.shape;
        let mut indices = Vec::with_capacity(self.data.len());
        for i in 0..self.n {
            for c in 0..s.channels {
                for h in 0..s.height {
                    for w in 0..s.width {
                        indices.push((i, c, h, w));
                    }
                }
            }
        }
        indices
    }

    fn map(&self, f: impl Fn(usize, f64) -> f64) -> Batch {
        let mut out = self.clone();
        for (i, c, h, w) in self.indices() {
            let at = self.at(i, c, h, w);
            out.data[at] = f(c, self.data[at]);
        }
        out
    }
}

/// Computes every tensor of the graph. Batch norms of the layers in `training` use the statistics of the batch.
pub fn run(graph: &Graph, weights: &Weights64, input: &Batch, training: &BTreeSet<String>) -> BTreeMap<String, Batch> {
    let shapes = graph.shapes().expect("a sound graph");
    let mut tensors = BTreeMap::from([(INPUT.to_string(), input.clone())]);
    for (layer, &shape) in graph.layers.iter().zip(&shapes) {
        let x: Vec<&Batch> = layer.inputs.iter().map(|name| &tensors[name]).collect();
        let weight = |parameter: &str| weights.get(&format!("{}.{parameter}", layer.name));
        let out = compute(&layer.kind, &x, shape, &weight, training.contains(&layer.name));
        tensors.insert(layer.name.clone(), out);
    }
    tensors
}

fn compute<'w>(
    kind: &Kind,
    x: &[&Batch],
    shape: Shape,
    weight: &dyn Fn(&str) -> Option<&'w Vec<f64>>,
    training: bool,
) -> Batch {
    let first = x[0];
    let mut y = Batch::zeros(first.n, shape);
    match kind {
        Kind::Conv(conv) => conv2d(conv, first, weight("weight").unwrap(), weight("bias"), &mut y),
        Kind::ConvTranspose(layer::ConvTranspose { conv, .. }) => {
            transposed(conv, first, weight("weight").unwrap(), weight("bias"), &mut y)
        }
        Kind::Linear(layer::Linear { features, .. }) => {
            let (w, f) = (weight("weight").unwrap(), first.shape.channels);
            for i in 0..first.n {
                for o in 0..*features {
                    let dot: f64 = (0..f).map(|k| w[o * f + k] * first.data[i * f + k]).sum();
                    y.data[i * features + o] = dot + weight("bias").map_or(0.0, |b| b[o]);
                }
            }
        }
        Kind::BatchNorm(layer::BatchNorm { eps, .. }) => {
            let (mut mean, mut variance) =
                (weight("running_mean").unwrap().clone(), weight("running_var").unwrap().clone());
            if training {
                for c in 0..shape.channels {
                    let values: Vec<f64> = first
                        .indices()
                        .into_iter()
                        .filter(|p| p.1 == c)
                        .map(|(i, c, h, w)| first.get(i, c, h, w))
                        .collect();
                    mean[c] = values.iter().sum::<f64>() / values.len() as f64;
                    variance[c] = values.iter().map(|v| (v - mean[c]).powi(2)).sum::<f64>() / values.len() as f64;
                }
            }
            let (g, b) = (weight("weight").unwrap(), weight("bias").unwrap());
            y = first.map(|c, v| (v - mean[c]) / (variance[c] + f64::from(*eps)).sqrt() * g[c] + b[c]);
        }
        Kind::Affine => {
            let (g, b) = (weight("weight").unwrap(), weight("bias").unwrap());
            y = first.map(|c, v| v * g[c] + b[c]);
        }
        Kind::Activation(Activation::Prelu) => {
            let slopes = weight("weight").unwrap();
            y = first.map(|c, v| if v > 0.0 { v } else { slopes[c] * v });
        }
        Kind::Activation(f) => y = first.map(|_, v| activation(*f, v)),
        Kind::MaxPool(window) => {
            for (i, c, h, w) in y.indices() {
                let seen = taps(window, h, w).into_iter().filter_map(|(h, w)| first.inside(i, c, h, w));
                let at = y.at(i, c, h, w);
                y.data[at] = seen.fold(f64::NEG_INFINITY, f64::max);
            }
        }
        Kind::AvgPool(layer::AvgPool { window, count_padding }) => {
            for (i, c, h, w) in y.indices() {
                let taps = taps(window, h, w);
                let seen: Vec<f64> = taps.iter().filter_map(|&(h, w)| first.inside(i, c, h, w)).collect();
                let count = if *count_padding { taps.len() } else { seen.len() };
                let at = y.at(i, c, h, w);
                y.data[at] = seen.iter().sum::<f64>() / count as f64;
            }
        }
        Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height, width }) => {
            for (i, c, h, w) in y.indices() {
                let rows = h * first.shape.height / height..((h + 1) * first.shape.height).div_ceil(*height);
                let columns = w * first.shape.width / width..((w + 1) * first.shape.width).div_ceil(*width);
                let count = (rows.len() * columns.len()) as f64;
                let sum: f64 =
                    rows.flat_map(|h| columns.clone().map(move |w| (h, w))).map(|(h, w)| first.get(i, c, h, w)).sum();
                let at = y.at(i, c, h, w);
                y.data[at] = sum / count;
            }
        }
        Kind::Add | Kind::Mul => {
            for (i, c, h, w) in y.indices() {
                let values = x.iter().map(|x| {
                    let position = |at: usize, extent: usize| if extent == 1 { 0 } else { at };
                    let s = x.shape;
                    x.get(i, position(c, s.channels), position(h, s.height), position(w, s.width))
                });
                let at = y.at(i, c, h, w);
                y.data[at] = if *kind == Kind::Add { values.sum() } else { values.product() };
            }
        }
        Kind::Concat(layer::Concat { axis }) => {
            let mut start = 0;
            for x in x {
                for (i, c, h, w) in x.indices() {
                    let at = match axis {
                        Axis::Channels => y.at(i, start + c, h, w),
                        Axis::Rows => y.at(i, c, start + h, w),
                        Axis::Columns => y.at(i, c, h, start + w),
                    };
                    y.data[at] = x.get(i, c, h, w);
                }
                start += x.shape.extent(*axis);
            }
        }
        Kind::MatMul(layer::MatMul { transposed }) => {
            let inner = first.shape.channels;
            for (i, n, h, m) in y.indices() {
                let b = |k: usize| if *transposed { x[1].get(i, k, h, n) } else { x[1].get(i, n, h, k) };
                let at = y.at(i, n, h, m);
                y.data[at] = (0..inner).map(|k| first.get(i, k, h, m) * b(k)).sum();
            }
        }
        Kind::Permute(layer::Permute { extents, order, .. }) => {
            let elements = shape.elements();
            for i in 0..first.n {
                // Counts through the output's axes as an odometer.
                let mut position = vec![0; order.len()];
                for e in 0..elements {
                    let mut index = vec![0; order.len()];
                    (0..order.len()).for_each(|axis| index[order[axis]] = position[axis]);
                    let from = index.iter().zip(extents).fold(0, |at, (&index, &extent)| at * extent + index);
                    y.data[i * elements + e] = first.data[i * elements + from];
                    for axis in (0..order.len()).rev() {
                        position[axis] += 1;
                        if position[axis] < extents[order[axis]] {
                            break;
                        }
                        position[axis] = 0;
                    }
                }
            }
        }
        Kind::Gather(layer::Gather { axis, indices }) => {
            for (i, c, h, w) in y.indices() {
                let at = y.at(i, c, h, w);
                y.data[at] = match axis {
                    Axis::Channels => first.get(i, indices[c], h, w),
                    Axis::Rows => first.get(i, c, indices[h], w),
                    Axis::Columns => first.get(i, c, h, indices[w]),
                };
            }
        }
        Kind::Constant(_) => {
            let weight = weight("weight").unwrap();
            y.data.chunks_exact_mut(weight.len()).for_each(|image| image.copy_from_slice(weight));
        }
        Kind::Reduce(layer::Reduce { function, axes }) => {
            let along = |axis: Axis, at: usize| {
                if axes.contains(&axis) { 0..first.shape.extent(axis) } else { at..at + 1 }
            };
            for (i, c, h, w) in y.indices() {
                let mut values = Vec::new();
                for c in along(Axis::Channels, c) {
                    for h in along(Axis::Rows, h) {
                        along(Axis::Columns, w).for_each(|w| values.push(first.get(i, c, h, w)));
                    }
                }
                let at = y.at(i, c, h, w);
                y.data[at] = match function {
                    layer::Reduction::Mean => values.iter().sum::<f64>() / values.len() as f64,
                    layer::Reduction::Max => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
                };
            }
        }
        Kind::Resize(layer::Resize { coordinates, .. }) => {
            let place = |at: usize, from: usize, to: usize| -> f64 {
                let (at, from, to) = (at as f64, from as f64, to as f64);
                let place = match coordinates {
                    layer::Coordinates::AlignCorners if to > 1.0 => at * (from - 1.0) / (to - 1.0),
                    layer::Coordinates::Asymmetric => at * from / to,
                    layer::Coordinates::HalfPixel => (at + 0.5) * from / to - 0.5,
                    layer::Coordinates::PytorchHalfPixel if to > 1.0 => (at + 0.5) * from / to - 0.5,
                    _ => 0.0,
                };
                place.max(0.0).min(from - 1.0)
            };
            // The weight of an input position falls linearly to 0 at a distance of 1.
            let hat = |place: f64, at: usize| (1.0 - (place - at as f64).abs()).max(0.0);
            for (i, c, h, w) in y.indices() {
                let row = place(h, first.shape.height, shape.height);
                let column = place(w, first.shape.width, shape.width);
                let mut sum = 0.0;
                for p in 0..first.shape.height {
                    for q in 0..first.shape.width {
                        sum += hat(row, p) * hat(column, q) * first.get(i, c, p, q);
                    }
                }
                let at = y.at(i, c, h, w);
                y.data[at] = sum;
            }
        }
        Kind::LayerNorm(layer::LayerNorm { eps, centred }) => {
            let count = shape.channels as f64;
            for (i, c, h, w) in y.indices() {
                let row: Vec<f64> = (0..shape.channels).map(|c| first.get(i, c, h, w)).collect();
                let mean = if *centred { row.iter().sum::<f64>() / count } else { 0.0 };
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                let z = (row[c] - mean) / (variance + f64::from(*eps)).sqrt();
                let at = y.at(i, c, h, w);
                y.data[at] = z * weight("weight").unwrap()[c] + weight("bias").map_or(0.0, |bias| bias[c]);
            }
        }
        Kind::GroupNorm(layer::GroupNorm { groups, eps }) => {
            let width = shape.channels / groups;
            for (i, c, h, w) in y.indices() {
                let group = first.indices().into_iter().filter(|p| p.0 == i && p.1 / width == c / width);
                let values: Vec<f64> = group.map(|(i, c, h, w)| first.get(i, c, h, w)).collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
                let z = (first.get(i, c, h, w) - mean) / (variance + f64::from(*eps)).sqrt();
                let at = y.at(i, c, h, w);
                y.data[at] = z * weight("weight").unwrap()[c] + weight("bias").unwrap()[c];
            }
        }
        Kind::Flatten | Kind::Reshape(_) => y.data.clone_from(&first.data),
        Kind::ChannelShuffle(layer::ChannelShuffle { groups }) => {
            let each = shape.channels / groups;
            for g in 0..*groups {
                for k in 0..each {
                    for (i, _, h, w) in y.indices().into_iter().filter(|p| p.1 == 0) {
                        let at = y.at(i, k * groups + g, h, w);
                        y.data[at] = first.get(i, g * each + k, h, w);
                    }
                }
            }
        }
        Kind::Slice(layer::Slice { start, .. }) => {
            for (i, c, h, w) in y.indices() {
                let at = y.at(i, c, h, w);
                y.data[at] = first.get(i, start + c, h, w);
            }
        }
        Kind::Pad(layer::Pad { channels, padding, value }) => {
            y.data.fill(f64::from(*value));
            for (i, c, h, w) in first.indices() {
                let at = y.at(i, c + channels[0], h + padding.top, w + padding.left);
                y.data[at] = first.get(i, c, h, w);
            }
        }
        Kind::Upsample(layer::Upsample { factor }) => {
            for (i, c, h, w) in y.indices() {
                let at = y.at(i, c, h, w);
                y.data[at] = first.get(i, c, h / factor[0], w / factor[1]);
            }
        }
        Kind::LocalResponseNorm(layer::LocalResponseNorm { size, alpha, beta, bias }) => {
            for (i, c, h, w) in y.indices() {
                let mut squares = 0.0;
                for other in 0..shape.channels {
                    let offset = other as isize - c as isize;
                    if offset >= -((*size as isize - 1) / 2) && offset <= *size as isize / 2 {
                        squares += first.get(i, other, h, w).powi(2);
                    }
                }
                let d = f64::from(*bias) + f64::from(*alpha) / *size as f64 * squares;
                let at = y.at(i, c, h, w);
                y.data[at] = first.get(i, c, h, w) / d.powf(f64::from(*beta));
            }
        }
        Kind::Softmax(layer::Softmax { log }) => {
            for (i, c, h, w) in y.indices() {
                let sum: f64 = (0..shape.channels).map(|c| first.get(i, c, h, w).exp()).sum();
                let share = first.get(i, c, h, w).exp() / sum;
                let at = y.at(i, c, h, w);
                y.data[at] = if *log { share.ln() } else { share };
            }
        }
        Kind::Dropout(_) | Kind::Identity => y = first.clone(),
    }
    y
}

/// Rows and columns of the window of an output position, padding included.
fn taps(window: &Window, h: usize, w: usize) -> Vec<(isize, isize)> {
    let Window { kernel, stride, padding } = *window;
    let mut taps = Vec::new();
    for kh in 0..kernel[0] {
        for kw in 0..kernel[1] {
            let row = (h * stride[0] + kh) as isize - padding.top as isize;
            taps.push((row, (w * stride[1] + kw) as isize - padding.left as isize));
        }
    }
    taps
}

fn conv2d(conv: &Conv, x: &Batch, weight: &[f64], bias: Option<&Vec<f64>>, y: &mut Batch) {
    let Conv { kernel: [rows, columns], stride, padding: Padding { top, left, .. }, dilation, groups, .. } = *conv;
    let (inside, outside) = (x.shape.channels / groups, conv.filters / groups);
    for (i, o, h, w) in y.indices() {
        let mut sum = bias.map_or(0.0, |b| b[o]);
        for c in 0..inside {
            for kh in 0..rows {
                for kw in 0..columns {
                    let row = (h * stride[0] + kh * dilation[0]) as isize - top as isize;
                    let column = (w * stride[1] + kw * dilation[1]) as isize - left as isize;
                    if let Some(v) = x.inside(i, o / outside * inside + c, row, column) {
                        sum += v * weight[((o * inside + c) * rows + kh) * columns + kw];
                    }
                }
            }
        }
        let at = y.at(i, o, h, w);
        y.data[at] = sum;
    }
}

/// Each input element adds a multiple of the kernel to the output (PyTorch's definition).
fn transposed(conv: &Conv, x: &Batch, weight: &[f64], bias: Option<&Vec<f64>>, y: &mut Batch) {
    let Conv { kernel: [rows, columns], stride, padding, dilation, groups, .. } = *conv;
    let (inside, outside) = (x.shape.channels / groups, conv.filters / groups);
    for (i, o, h, w) in y.indices() {
        let at = y.at(i, o, h, w);
        y.data[at] = bias.map_or(0.0, |b| b[o]);
    }
    for (i, c, h, w) in x.indices() {
        for o in 0..outside {
            for kh in 0..rows {
                for kw in 0..columns {
                    let row = (h * stride[0] + kh * dilation[0]) as isize - padding.top as isize;
                    let column = (w * stride[1] + kw * dilation[1]) as isize - padding.left as isize;
                    let filter = c / inside * outside + o;
                    if y.inside(i, filter, row, column).is_some() {
                        let at = y.at(i, filter, row as usize, column as usize);
                        y.data[at] += x.get(i, c, h, w) * weight[((c * outside + o) * rows + kh) * columns + kw];
                    }
                }
            }
        }
    }
}

fn activation(f: Activation, x: f64) -> f64 {
    let clip = |x: f64| x.clamp(0.0, 1.0);
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match f {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                f64::from(slope) * x
            }
        }
        Activation::Prelu => unreachable!("it has weights"),
        Activation::Clip { min, max } => x.max(f64::from(min)).min(f64::from(max)),
        Activation::Sigmoid => sigmoid,
        Activation::HardSigmoid { alpha, beta } => clip(f64::from(alpha) * x + f64::from(beta)),
        Activation::HardSwish => x * clip(x / 6.0 + 0.5),
        Activation::Silu => x * sigmoid,
        Activation::Gelu { tanh: false } => x * normal(x),
        Activation::Gelu { tanh: true } => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * (x.exp() - 1.0)
            }
        }
        Activation::Selu if x > 0.0 => 1.0507009873554805 * x,
        Activation::Selu => 1.0507009873554805 * 1.6732632423543772 * (x.exp() - 1.0),
        // PyTorch's definition: max(0, x) + min(0, alpha (exp(x / alpha) - 1)).
        Activation::Celu { alpha } => {
            let alpha = f64::from(alpha);
            x.max(0.0) + (alpha * ((x / alpha).exp() - 1.0)).min(0.0)
        }
        Activation::Softplus => (1.0 + x.exp()).ln(),
        Activation::Abs => (x * x).sqrt(),
        Activation::Atan => x.atan(),
        Activation::Erf => 2.0 * normal(x * std::f64::consts::SQRT_2) - 1.0,
        Activation::Exp => x.exp(),
        Activation::Log => x.ln(),
        Activation::Power { exponent } => x.powf(f64::from(exponent)),
    }
}

/// The cumulative distribution function of the normal distribution, by its series, 1/2 + density(x) (x + x^3/3 + x^5/15 + ...).
fn normal(x: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    for _ in 0..200 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}
