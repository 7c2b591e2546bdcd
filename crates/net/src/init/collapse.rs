//! Collapse init: the block's layers composed to one linear map.

use std::collections::HashMap;

use rand::Rng;

use super::method::{InitMethod, InitProblem, InitialValues, SubstituteLayer};
use super::target::target_tensor;
use crate::block::Block;
use crate::layer::{AvgPool, BatchNorm, ChannelShuffle, Pad, Slice};
use crate::receptive_field::{Rule, fields};
use crate::shape::Axis;
use crate::surgery::locate;
use crate::{Conv, Error, Kind, Layer, Network, Shape, Tensor};

/// The block as one linear map, cut to the substitute's kernel.
pub(super) struct Collapse;

impl InitMethod for Collapse {
    fn name(&self) -> &str {
        "collapse"
    }

    fn describe(&self) -> &str {
        "W = … * F₂ * F₁, the block's convolutions composed with its norms, activations left out, cut to the kernel"
    }

    fn is_random(&self) -> bool {
        false
    }

    fn is_calibrated(&self) -> bool {
        true
    }

    fn values(&self, problem: &InitProblem<'_>, _: &mut dyn Rng) -> Result<InitialValues, Error> {
        let (weight, bias) = affine(problem.parent, problem.block, &problem.layer)?;
        Ok(InitialValues::Affine { weight, bias })
    }
}

/// Weight and bias of the block's linear map, cut to the substitute's kernel.
fn affine(parent: &Network, block: &Block, substitute: &SubstituteLayer) -> Result<(Tensor, Vec<f32>), Error> {
    let graph = &parent.graph;
    let start = locate(graph, block)?;
    let shapes = graph.shapes()?;
    let target = target_tensor(graph, block);
    let layers: Vec<&Layer> = graph.layers[start..start + block.layers.len()].iter().collect();
    let from = graph.shape_of(&block.input)?;
    let to = graph.shape_of(&target)?;
    // How far from its own position (times the strides between) the target looks at each tensor of the block. Taps
    // that can never come into the substitute's kernel are left out as they arise.
    let fields = fields(layers.iter().copied(), &target, Rule::Envelope);
    let window = |name: &str, step: [i64; 2]| {
        let field = fields.get(name).copied().flatten();
        [0, 1].map(|axis| {
            let (low, high) = field.map_or((0, 0), |field| (field[axis].first, field[axis].last()));
            let (padding, kernel) = (substitute.padding[axis] as i64, substitute.kernel[axis] as i64);
            let extent = [from.height, from.width][axis] as i64;
            let first = (-padding).saturating_sub(step[axis].saturating_mul(high)).max(1 - extent);
            let last = (kernel - 1 - padding).saturating_sub(step[axis].saturating_mul(low)).min(extent - 1);
            (first, last)
        })
    };

    let mut maps: HashMap<&str, Map> = HashMap::from([(block.input.as_str(), Map::identity(from.channels))]);
    for layer in layers {
        let inputs: Vec<&Map> = layer.inputs.iter().filter_map(|input| maps.get(input.as_str())).collect();
        let shapes = graph.input_shapes(layer, &shapes);
        let map = step(parent, layer, &inputs, &shapes, |step| window(&layer.name, step)).map_err(|problem| {
            Error::block(
                &block.name,
                format!("it cannot be composed to one linear map: layer `{}` {problem}", layer.name),
            )
        })?;
        maps.insert(&layer.name, map);
        if layer.name == target {
            break;
        }
    }
    let Some(map) = maps.get(target.as_str()) else {
        return Err(Error::block(
            &block.name,
            "it cannot be composed to one linear map: no layer comes before its activation",
        ));
    };
    for (axis, positions) in [to.height, to.width].into_iter().enumerate() {
        // A single output position has no stride to disagree on.
        if positions > 1 && map.stride[axis] != substitute.stride[axis] as i64 {
            let problem =
                format!("its strides compose to {:?}, and its substitute has {:?}", map.stride, substitute.stride);
            return Err(Error::block(&block.name, problem));
        }
    }
    let padding = substitute.padding.map(|padding| padding as i64);
    let weight = substitute.weight(|filter, channel, row, column| {
        map.at(filter, channel, row as i64 - padding[0], column as i64 - padding[1])
    });
    Ok((weight, map.bias.iter().map(|&bias| bias as f32).collect()))
}

/// y[o, p] = bias[o] + Σ taps[u][o, i] x[i, stride p + origin + u].
struct Map {
    filters: usize,
    channels: usize,
    stride: [i64; 2],
    origin: [i64; 2],
    /// Rows and columns of taps.
    extent: [usize; 2],
    /// One matrix `[filters, channels]` a tap, row by row.
    taps: Vec<f32>,
    bias: Vec<f64>,
}

impl Map {
    fn identity(channels: usize) -> Map {
        let mut map = Map::zeros(channels, channels, [1; 2], [(0, 0); 2]);
        (0..channels).for_each(|channel| map.taps[channel * channels + channel] = 1.0);
        map
    }

    /// A map of zeros with taps at the offsets from the first to the last of the window.
    fn zeros(filters: usize, channels: usize, stride: [i64; 2], window: [(i64, i64); 2]) -> Map {
        let extent = window.map(|(first, last)| (last - first + 1).max(0) as usize);
        let taps = vec![0.0; filters * channels * extent[0] * extent[1]];
        let origin = window.map(|(first, _)| first);
        Map { filters, channels, stride, origin, extent, taps, bias: vec![0.0; filters] }
    }

    fn window(&self) -> [(i64, i64); 2] {
        [0, 1].map(|axis| (self.origin[axis], self.origin[axis] + self.extent[axis] as i64 - 1))
    }

    /// Index of the matrix at an offset from the output's position, if there is one.
    fn tap(&self, row: i64, column: i64) -> Option<usize> {
        let row = usize::try_from(row - self.origin[0]).ok().filter(|&row| row < self.extent[0])?;
        let column = usize::try_from(column - self.origin[1]).ok().filter(|&column| column < self.extent[1])?;
        Some(row * self.extent[1] + column)
    }

    fn at(&self, filter: usize, channel: usize, row: i64, column: i64) -> f32 {
        self.tap(row, column).map_or(0.0, |tap| self.taps[(tap * self.filters + filter) * self.channels + channel])
    }

    fn offset(&self, tap: usize) -> [i64; 2] {
        [self.origin[0] + (tap / self.extent[1]) as i64, self.origin[1] + (tap % self.extent[1]) as i64]
    }

    fn count(&self) -> usize {
        self.extent[0] * self.extent[1]
    }

    /// A map whose filters are these filters of the map; `None` is a filter of zeros.
    fn select(&self, rows: &[Option<usize>]) -> Map {
        let mut map = Map::zeros(rows.len(), self.channels, self.stride, self.window());
        for tap in 0..self.count() {
            for (to, from) in rows.iter().enumerate() {
                if let Some(from) = from {
                    let source = (tap * self.filters + from) * self.channels;
                    let target = (tap * rows.len() + to) * self.channels;
                    map.taps[target..target + self.channels]
                        .copy_from_slice(&self.taps[source..source + self.channels]);
                }
            }
        }
        map.bias = rows.iter().map(|from| from.map_or(0.0, |from| self.bias[from])).collect();
        map
    }

    fn scaled(&self, scale: impl Fn(usize) -> f64, shift: impl Fn(usize) -> f64) -> Map {
        let mut map = self.select(&(0..self.filters).map(Some).collect::<Vec<_>>());
        for (index, row) in map.taps.chunks_exact_mut(self.channels).enumerate() {
            let factor = scale(index % self.filters) as f32;
            row.iter_mut().for_each(|value| *value *= factor);
        }
        for (filter, bias) in map.bias.iter_mut().enumerate() {
            *bias = *bias * scale(filter) + shift(filter);
        }
        map
    }

    /// Adds another map's filters to the filters from `first` on.
    fn accumulate(&mut self, other: &Map, first: usize) {
        for tap in 0..other.count() {
            let [row, column] = other.offset(tap);
            let Some(target) = self.tap(row, column) else { continue };
            let from = &other.taps[tap * other.filters * other.channels..][..other.filters * other.channels];
            let to = &mut self.taps[(target * self.filters + first) * self.channels..][..from.len()];
            to.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
        }
        self.bias[first..].iter_mut().zip(&other.bias).for_each(|(sum, value)| *sum += value);
    }
}

type Window = [(i64, i64); 2];

/// The map of a layer's output from those of its inputs. `window` gives the offsets that can matter, for the strides
/// so far.
fn step(
    parent: &Network,
    layer: &Layer,
    inputs: &[&Map],
    shapes: &[Shape],
    window: impl Fn([i64; 2]) -> Window,
) -> Result<Map, String> {
    let x = inputs[0];
    let weight = |name: &str| {
        let found = parent.weights.get(&format!("{}.{name}", layer.name));
        found.map(|tensor| tensor.data.as_slice()).ok_or_else(|| format!("lacks its {name}"))
    };
    let every = || (0..x.filters).map(Some).collect::<Vec<_>>();
    match &layer.kind {
        Kind::Conv(conv) => {
            let bias = if conv.bias { weight("bias")? } else { &[] };
            convolved(conv, weight("weight")?, bias, x, &window)
        }
        Kind::Linear(linear) => {
            let conv = Conv { bias: linear.bias, ..Conv::same(linear.features, 1) };
            convolved(&conv, weight("weight")?, if linear.bias { weight("bias")? } else { &[] }, x, &window)
        }
        Kind::BatchNorm(BatchNorm { eps, .. }) => {
            let [weight, bias, mean, variance] =
                [weight("weight")?, weight("bias")?, weight("running_mean")?, weight("running_var")?];
            let slope = |c: usize| f64::from(weight[c]) / (f64::from(variance[c]) + f64::from(*eps)).sqrt();
            Ok(x.scaled(slope, |c| f64::from(bias[c]) - slope(c) * f64::from(mean[c])))
        }
        Kind::Affine => {
            let (weight, bias) = (weight("weight")?, weight("bias")?);
            Ok(x.scaled(|c| f64::from(weight[c]), |c| f64::from(bias[c])))
        }
        Kind::Activation(_) | Kind::Dropout(_) | Kind::Identity => Ok(x.select(&every())),
        Kind::MaxPool(pool) | Kind::AvgPool(AvgPool { window: pool, .. }) => {
            let filters = shapes[0].channels;
            let share = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
            let conv = Conv {
                filters,
                kernel: pool.kernel,
                stride: pool.stride,
                padding: pool.padding,
                dilation: [1; 2],
                groups: filters,
                bias: false,
            };
            convolved(&conv, &vec![share; filters * pool.kernel[0] * pool.kernel[1]], &[], x, &window)
        }
        Kind::Add => {
            if inputs.iter().any(|map| map.stride != x.stride) || shapes.iter().any(|shape| *shape != shapes[0]) {
                return Err("adds tensors of different strides or shapes".into());
            }
            let mut sum = Map::zeros(x.filters, x.channels, x.stride, union(inputs));
            inputs.iter().for_each(|map| sum.accumulate(map, 0));
            Ok(sum)
        }
        Kind::Concat(merge) if merge.axis == Axis::Channels => {
            if inputs.iter().any(|map| map.stride != x.stride) {
                return Err("concatenates tensors of different strides".into());
            }
            let filters = inputs.iter().map(|map| map.filters).sum();
            let mut all = Map::zeros(filters, x.channels, x.stride, union(inputs));
            let mut first = 0;
            for map in inputs {
                all.accumulate(map, first);
                first += map.filters;
            }
            Ok(all)
        }
        Kind::Slice(Slice { start, end }) => Ok(x.select(&(*start..*end).map(Some).collect::<Vec<_>>())),
        Kind::ChannelShuffle(ChannelShuffle { groups }) => {
            let per_group = x.filters / groups;
            Ok(x.select(&(0..x.filters).map(|c| Some(c % groups * per_group + c / groups)).collect::<Vec<_>>()))
        }
        Kind::Pad(Pad { channels, padding, value }) => {
            let mut rows = vec![None; channels[0]];
            rows.extend(every());
            rows.extend(vec![None; channels[1]]);
            let mut map = x.select(&rows);
            let padded = rows.iter().zip(&mut map.bias).filter(|(row, _)| row.is_none());
            padded.for_each(|(_, bias)| *bias = f64::from(*value));
            map.origin[0] -= map.stride[0] * padding.top as i64;
            map.origin[1] -= map.stride[1] * padding.left as i64;
            Ok(map)
        }
        Kind::Flatten | Kind::Reshape(_) if shapes[0].is_vector() => Ok(x.select(&every())),
        Kind::ConvTranspose(_)
        | Kind::AdaptiveAvgPool(_)
        | Kind::Mul
        | Kind::Flatten
        | Kind::Reshape(_)
        | Kind::Upsample(_)
        | Kind::Concat(_)
        | Kind::MatMul(_)
        | Kind::Permute(_)
        | Kind::Gather(_)
        | Kind::Constant(_)
        | Kind::Reduce(_)
        | Kind::Resize(_)
        | Kind::LayerNorm(_)
        | Kind::GroupNorm(_)
        | Kind::LocalResponseNorm(_)
        | Kind::Softmax(_) => Err(format!(
            "({}) is none of convolution, linear, norm, activation, pooling, sum and concatenation",
            layer.describe()
        )),
    }
}

fn union(maps: &[&Map]) -> Window {
    let windows = maps.iter().map(|map| map.window());
    let both = |a: Window, b: Window| [0, 1].map(|axis| (a[axis].0.min(b[axis].0), a[axis].1.max(b[axis].1)));
    windows.reduce(both).unwrap_or_default()
}

/// A convolution after a map: taps multiply, and offsets add after scaling by the map's stride.
fn convolved(
    conv: &Conv,
    weight: &[f32],
    bias: &[f32],
    x: &Map,
    window: &impl Fn([i64; 2]) -> Window,
) -> Result<Map, String> {
    let padding = [conv.padding.top, conv.padding.left];
    let signed = |value: usize| value as i64;
    let stride = [0, 1].map(|axis| x.stride[axis].saturating_mul(signed(conv.stride[axis])));
    let offset =
        |axis: usize, tap: usize| x.stride[axis] * (signed(tap) * signed(conv.dilation[axis]) - signed(padding[axis]));
    let wanted = window(stride);
    let covered = [0, 1].map(|axis| {
        let (first, last) = x.window()[axis];
        let (first, last) = (offset(axis, 0) + first, offset(axis, conv.kernel[axis] - 1) + last);
        (first.max(wanted[axis].0), last.min(wanted[axis].1))
    });
    let mut map = Map::zeros(conv.filters, x.channels, stride, covered);
    let (per_group, filters_per_group) = (x.filters / conv.groups, conv.filters / conv.groups);
    let taps = conv.kernel[0] * conv.kernel[1];
    if weight.len() != conv.filters * per_group * taps {
        return Err("has weights of another shape than its own".into());
    }
    for (filter, sum) in map.bias.iter_mut().enumerate() {
        let first = filter / filters_per_group * per_group;
        for channel in 0..per_group {
            let kernel = &weight[(filter * per_group + channel) * taps..][..taps];
            *sum += kernel.iter().map(|&w| f64::from(w)).sum::<f64>() * x.bias[first + channel];
        }
        *sum += bias.get(filter).map_or(0.0, |&b| f64::from(b));
    }
    for (row, column) in (0..conv.kernel[0]).flat_map(|row| (0..conv.kernel[1]).map(move |column| (row, column))) {
        let tap = row * conv.kernel[1] + column;
        // This tap's matrix [filters, channels per group], gathered so that its elements are contiguous.
        let matrix: Vec<f32> = (0..conv.filters * per_group).map(|index| weight[index * taps + tap]).collect();
        for inner in 0..x.count() {
            let [from_row, from_column] = x.offset(inner);
            let Some(target) = map.tap(offset(0, row) + from_row, offset(1, column) + from_column) else { continue };
            let source = &x.taps[inner * x.filters * x.channels..][..x.filters * x.channels];
            let target = &mut map.taps[target * conv.filters * x.channels..][..conv.filters * x.channels];
            for (filter, sums) in target.chunks_exact_mut(x.channels).enumerate() {
                let first = filter / filters_per_group * per_group;
                let rows = &source[first * x.channels..][..per_group * x.channels];
                add_product(sums, &matrix[filter * per_group..][..per_group], rows);
            }
        }
    }
    Ok(map)
}

/// sums += row · rows, with `sums` [n], `row` [m] and `rows` [m, n].
///
/// Four rows at a time, so that the sums are loaded and stored a quarter as often.
fn add_product(sums: &mut [f32], row: &[f32], rows: &[f32]) {
    let length = sums.len();
    let mut fours = row.chunks_exact(4);
    let mut rest = rows;
    for four in &mut fours {
        let (block, after) = rest.split_at(4 * length);
        rest = after;
        let (a, block) = block.split_at(length);
        let (b, block) = block.split_at(length);
        let (c, d) = block.split_at(length);
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum += four[0] * a + four[1] * b + four[2] * c + four[3] * d;
        }
    }
    for (factor, row) in fours.remainder().iter().zip(rest.chunks_exact(length)) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
    }
}
