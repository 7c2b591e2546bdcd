//! Layers that bring a view into a given order of axes: which ONNX axes become channels, rows and columns.
//!
//! Most operators work on a view as it is. Those that read along an axis, or combine two tensors, need that axis in a certain
//! place; then a Permute layer moves the elements. A token sequence (N, T, C) becomes a feature map of one row.

use nettriage_net::{Axis as Side, Kind, Shape, layer};

use super::attributes::Node;
use super::builder::Op;
use super::constant::Constant;
use super::reshape::derived_name;
use super::symbolic::{Axis, AxisFactor, Dim, SymbolicTensor, whole};
use super::translate::{Translator, layer_name};

/// The ONNX axes that become channels, rows and columns, outermost first. Axes of the batch belong to none.
#[derive(Clone, Debug, Default)]
pub struct Arrangement {
    pub channels: Vec<usize>,
    pub rows: Vec<usize>,
    pub columns: Vec<usize>,
}

impl Arrangement {
    fn sides(&self) -> [(Axis, &[usize]); 3] {
        [(Axis::Channel, &self.channels), (Axis::Row, &self.rows), (Axis::Column, &self.columns)]
    }

    /// `channel` as the channels, the last other axis as the columns, the rest as rows.
    pub fn around(x: &SymbolicTensor, channel: usize) -> Arrangement {
        let others = (0..x.dims.len()).filter(|&at| at != channel && !x.is_batch(at));
        let mut rows: Vec<usize> = others.collect();
        // An axis that the batch is a part of cannot be the columns: a matrix would reach over several images.
        let last = rows.iter().rposition(|&at| !x.has_batch(at));
        let columns = last.map(|at| vec![rows.remove(at)]).unwrap_or_default();
        Arrangement { channels: vec![channel], rows, columns }
    }

    /// The axes where `x` has them, if its channels are one ONNX axis. ONNX axes that are only part of an axis here take those that are left,
    /// the last one the columns.
    pub fn beside(x: &SymbolicTensor) -> Option<Arrangement> {
        let own: Vec<usize> = (0..x.dims.len()).filter(|&at| !x.is_batch(at)).collect();
        let place_of = |axis: Axis| own.iter().copied().find(|&at| x.axis(at) == Some(axis));
        place_of(Axis::Channel)?;
        let mut rest: Vec<usize> = own.iter().copied().filter(|&at| x.axis(at).is_none()).collect();
        let mut take = |axis: Axis| place_of(axis).or_else(|| rest.pop()).into_iter().collect::<Vec<usize>>();
        let (columns, rows, channels) = (take(Axis::Column), take(Axis::Row), take(Axis::Channel));
        (rest.is_empty() && !own.iter().any(|&at| x.has_batch(at))).then_some(Arrangement { channels, rows, columns })
    }

    /// The side that consists of this ONNX axis alone.
    pub fn side_of(&self, at: usize) -> Option<Axis> {
        self.sides().into_iter().find(|(_, list)| *list == [at]).map(|(axis, _)| axis)
    }

    /// The last axis as the channels.
    pub fn canonical(x: &SymbolicTensor) -> Arrangement {
        let last = (0..x.dims.len()).rev().find(|&at| !x.has_batch(at));
        last.map_or_else(Arrangement::default, |last| Arrangement::around(x, last))
    }
}

/// The distances between neighbouring elements in row-major order.
fn steps(extents: &[usize]) -> Vec<usize> {
    let mut steps = vec![1; extents.len()];
    for at in (1..extents.len()).rev() {
        steps[at - 1] = steps[at] * extents[at];
    }
    steps
}

impl SymbolicTensor {
    /// Whether ONNX axis `at` is the batch alone.
    pub fn is_batch(&self, at: usize) -> bool {
        !self.dims[at].is_empty() && self.dims[at].iter().all(|factor| factor.axis == Axis::Batch)
    }

    /// Whether the batch is a part of ONNX axis `at`.
    pub fn has_batch(&self, at: usize) -> bool {
        self.dims[at].iter().any(|factor| factor.axis == Axis::Batch)
    }

    /// The extent of ONNX axis `at` within one image.
    pub fn own_extent(&self, at: usize) -> usize {
        self.dims[at].iter().filter(|factor| factor.axis != Axis::Batch).map(|factor| factor.size).product()
    }

    /// Whether ONNX axis `at` covers an axis here, in order.
    pub fn covers(&self, at: usize, axis: Axis) -> bool {
        self.dims[at] == whole(axis, self.extent(axis))
    }

    fn extent(&self, axis: Axis) -> usize {
        match axis {
            Axis::Batch => self.batch_size(),
            Axis::Channel => self.shape.channels,
            Axis::Row => self.shape.height,
            Axis::Column => self.shape.width,
        }
    }

    /// Whether every axis here is covered by the ONNX axes.
    pub fn is_complete(&self) -> bool {
        [Axis::Channel, Axis::Row, Axis::Column].iter().all(|&axis| {
            let mut step = self.extent(axis);
            self.factors(axis).iter().all(|factor| {
                let fits = factor.size * factor.step == step;
                step = factor.step;
                fits
            }) && step == 1
        })
    }

    /// The view with axes of extent 1 before the others, as broadcasting adds them.
    pub fn of_rank(&self, rank: usize) -> SymbolicTensor {
        let mut view = self.clone();
        view.dims.splice(0..0, (self.dims.len()..rank).map(|_| Vec::new()));
        view
    }

    /// A batch of one image, moved to ONNX axis `to`; a larger one stays where it is.
    pub fn with_single_batch(&self, to: usize) -> SymbolicTensor {
        let mut view = self.clone();
        if let Some(at) = (0..self.dims.len()).find(|&at| self.has_batch(at)).filter(|&at| at != to)
            && self.batch_size() == 1
        {
            view.dims[at].retain(|factor| factor.axis != Axis::Batch);
            view.dims[to].insert(0, AxisFactor { axis: Axis::Batch, size: 1, step: 1 });
        }
        view
    }

    /// The factors of an axis here, outermost first.
    fn factors(&self, axis: Axis) -> Vec<AxisFactor> {
        let mut factors: Vec<AxisFactor> = self.dims.iter().flatten().filter(|f| f.axis == axis).copied().collect();
        factors.sort_by_key(|factor| std::cmp::Reverse(factor.step));
        factors
    }
}

impl Translator {
    /// The tensor with its elements in this order; the view of the result has the same ONNX axes.
    pub fn arranged(&mut self, node: &Node, x: &SymbolicTensor, to: &Arrangement) -> Result<SymbolicTensor, String> {
        let own = |at: &usize| x.dims[*at].iter().filter(|factor| factor.axis != Axis::Batch).copied();
        let wanted = to.sides().map(|(axis, list)| (axis, list.iter().flat_map(own).collect::<Vec<_>>()));
        let placed: usize = wanted.iter().flat_map(|(_, list)| list).map(|factor| factor.size).product();
        if placed != x.shape.elements() {
            return Err(format!("the axes of its input of shape {:?} cannot be separated from the batch", x.extents()));
        }
        let in_place = wanted.iter().all(|(axis, list)| {
            let mut step = x.extent(*axis);
            list.iter().all(|factor| {
                let fits = factor.axis == *axis && factor.step * factor.size == step;
                step = factor.step;
                fits
            }) && step == 1
        });
        if in_place {
            return Ok(x.clone());
        }
        let extent = |list: &[AxisFactor]| list.iter().map(|factor| factor.size).product();
        let shape = Shape::new(extent(&wanted[0].1), extent(&wanted[1].1), extent(&wanted[2].1));
        let source: Vec<AxisFactor> =
            [Axis::Channel, Axis::Row, Axis::Column].iter().flat_map(|&axis| x.factors(axis)).collect();
        let place = |factor: &AxisFactor| source.iter().position(|f| (f.axis, f.step) == (factor.axis, factor.step));
        let order: Option<Vec<usize>> = wanted.iter().flat_map(|(_, list)| list).map(place).collect();
        let order = order.ok_or("its view holds an axis twice")?;
        let kind = if order.is_sorted() {
            if shape.is_vector() { Kind::Flatten } else { Kind::Reshape(layer::Reshape { shape }) }
        } else if let Some(groups) = x.shuffle().filter(|_| shape == x.shape) {
            Kind::ChannelShuffle(layer::ChannelShuffle { groups })
        } else {
            let extents = source.iter().map(|factor| factor.size).collect();
            Kind::Permute(layer::Permute { extents, order, shape })
        };
        let (name, shape) = self.add(node, &derived_name(x, "order"), Op::Kind(kind), &[x])?;
        // Every run of an ONNX axis's factors is one factor now.
        let mut dims: Vec<Dim> = x.dims.iter().map(|_| Vec::new()).collect();
        for (at, dim) in x.dims.iter().enumerate() {
            dims[at].extend(dim.iter().filter(|factor| factor.axis == Axis::Batch));
        }
        for (axis, list) in to.sides() {
            let mut step: usize = list.iter().map(|&at| x.own_extent(at)).product();
            for &at in list {
                let extent = x.own_extent(at);
                step /= extent;
                if extent > 1 {
                    dims[at].push(AxisFactor { axis, size: extent, step });
                }
            }
        }
        if x.dims.iter().any(|dim| dim.iter().skip(1).any(|factor| factor.axis == Axis::Batch)) {
            return Err("the batch is not the outermost part of its axis".into());
        }
        Ok(SymbolicTensor { name, shape, dims })
    }

    /// The tensor with ONNX axis `channel` as its channels, moved only if it is not already.
    pub fn along_channels(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        channel: usize,
    ) -> Result<SymbolicTensor, String> {
        if x.covers(channel, Axis::Channel) {
            return Ok(x.clone());
        }
        self.arranged(node, x, &Arrangement::around(x, channel))
    }

    /// A constant as a tensor of its own with its last axis as the channels; the ONNX axis of its batch is that of `beside`.
    pub fn constant_tensor(
        &mut self,
        node: &Node,
        constant: &Constant,
        beside: &SymbolicTensor,
    ) -> Result<SymbolicTensor, String> {
        self.placed_constant(node, constant, beside, None)
    }

    /// As [`Translator::constant_tensor`], with its axes in another arrangement.
    pub fn placed_constant(
        &mut self,
        node: &Node,
        constant: &Constant,
        beside: &SymbolicTensor,
        place: Option<Arrangement>,
    ) -> Result<SymbolicTensor, String> {
        let constant = without_batch(constant, beside)?;
        check_spread(&constant)?;
        if constant.len() == 0 {
            return Err("a constant of it is empty".into());
        }
        let rank = constant.dims.len();
        let mut view = beside.of_rank(rank);
        for (at, dim) in view.dims.iter_mut().enumerate() {
            dim.retain(|factor| factor.axis == Axis::Batch);
            if constant.dims[at] > 1 {
                dim.push(AxisFactor { axis: Axis::Channel, size: constant.dims[at], step: 1 });
            }
        }
        let place = place.unwrap_or_else(|| Arrangement::canonical(&view));
        let extent = |list: &[usize]| list.iter().map(|&at| constant.dims[at]).product::<usize>();
        let shape = Shape::new(extent(&place.channels), extent(&place.rows), extent(&place.columns));
        for (axis, list) in place.sides() {
            let mut step = extent(list);
            for &at in list {
                step /= constant.dims[at];
                view.dims[at].retain(|factor| factor.axis == Axis::Batch);
                if constant.dims[at] > 1 {
                    view.dims[at].push(AxisFactor { axis, size: constant.dims[at], step });
                }
            }
        }
        view.shape = shape;
        let (extents, values) = spread(&view, &constant);
        debug_assert_eq!(extents, shape);
        self.constant_layer(node, beside, shape, values).map(|name| view.renamed(name))
    }

    /// A layer that gives these values for every image.
    pub fn constant_layer(
        &mut self,
        node: &Node,
        beside: &SymbolicTensor,
        shape: Shape,
        values: Vec<f32>,
    ) -> Result<String, String> {
        let first = values[0];
        let second = values.iter().find(|&&value| value != first);
        // Two values are a mask: which positions see each other.
        let learned = values.iter().any(|&value| value != first && Some(&value) != second);
        let kind = Kind::Constant(layer::Constant { shape, learned });
        let name = node.proto.input.iter().find(|name| self.parameter(name.as_str()));
        let wanted = name.map_or_else(|| format!("{}.constant", layer_name(node)), |name| self.readers.source(name));
        let (name, _) = self.add(node, &wanted, Op::Kind(kind), &[beside])?;
        let dims = vec![shape.channels, shape.height, shape.width];
        self.builder.set_weight(&name, "weight", Constant::floats(dims, values))?;
        Ok(name)
    }

    /// The tensor repeated along ONNX axes of extent 1, to these extents within an image.
    pub fn expanded(&mut self, node: &Node, x: &SymbolicTensor, extents: &[usize]) -> Result<SymbolicTensor, String> {
        let own: Vec<usize> = (0..x.dims.len()).map(|at| x.own_extent(at)).collect();
        if own == extents {
            return Ok(x.clone());
        }
        let place = Arrangement::canonical(x);
        let x = self.arranged(node, x, &place)?;
        self.repeated(node, &x, &place, extents)
    }

    /// As [`Translator::expanded`], of a tensor that has this arrangement.
    fn repeated(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        place: &Arrangement,
        extents: &[usize],
    ) -> Result<SymbolicTensor, String> {
        let mut x = x.clone();
        for (axis, list) in place.sides() {
            if list.iter().all(|&at| x.own_extent(at) == extents[at]) {
                continue;
            }
            let to: Vec<usize> = list.iter().map(|&at| extents[at]).collect();
            let from: Vec<usize> = list.iter().map(|&at| x.own_extent(at)).collect();
            let (to_steps, from_steps) = (steps(&to), steps(&from));
            check_positions(to.iter().try_fold(1usize, |all, &extent| all.checked_mul(extent)))?;
            let source = |index: usize| -> usize {
                (0..to.len()).filter(|&k| from[k] > 1).map(|k| index / to_steps[k] % to[k] * from_steps[k]).sum()
            };
            let indices = (0..to.iter().product()).map(source).collect();
            let kind = Kind::Gather(layer::Gather { axis: side(axis), indices });
            let (name, shape) = self.add(node, &format!("{}.repeat", x.name), Op::Kind(kind), &[&x])?;
            for (k, &at) in list.iter().enumerate() {
                x.dims[at].retain(|factor| factor.axis == Axis::Batch);
                if to[k] > 1 {
                    x.dims[at].push(AxisFactor { axis, size: to[k], step: to_steps[k] });
                }
            }
            x = SymbolicTensor { name, shape, dims: x.dims };
        }
        Ok(x)
    }

    /// `small`, whose extents are those of `big` or 1, in the order of `big`, so that the two can be combined element by element.
    pub fn like(
        &mut self,
        node: &Node,
        small: &SymbolicTensor,
        big: &SymbolicTensor,
    ) -> Result<SymbolicTensor, String> {
        let sizes = |at: usize| -> Vec<usize> {
            big.dims[at].iter().filter(|f| f.axis != Axis::Batch).map(|factor| factor.size).collect()
        };
        let split = |small: &SymbolicTensor| -> Option<Vec<Dim>> {
            let mut dims = Vec::new();
            for at in 0..big.dims.len() {
                let own: Dim = small.dims[at].iter().filter(|f| f.axis != Axis::Batch).copied().collect();
                if own.is_empty() {
                    dims.extend(sizes(at).iter().map(|_| Vec::new()));
                } else {
                    dims.extend(split_dim(&own, &sizes(at))?);
                }
            }
            Some(dims)
        };
        for at in 0..big.dims.len() {
            if small.has_batch(at) && !big.has_batch(at) {
                return Err("its inputs have the batch on different axes".into());
            }
        }
        let (small, dims) = match split(small) {
            Some(dims) => (small.clone(), dims),
            None => {
                let small = self.arranged(node, small, &Arrangement::canonical(small))?;
                let dims = split(&small).ok_or("the shapes of its inputs do not fit together")?;
                (small, dims)
            }
        };
        let refined = SymbolicTensor { dims, ..small };
        let factors: Vec<AxisFactor> =
            big.dims.iter().flatten().filter(|factor| factor.axis != Axis::Batch).copied().collect();
        let of = |axis: Axis| -> Vec<usize> {
            let mut list: Vec<usize> = (0..factors.len()).filter(|&at| factors[at].axis == axis).collect();
            list.sort_by_key(|&at| std::cmp::Reverse(factors[at].step));
            list
        };
        let place = Arrangement { channels: of(Axis::Channel), rows: of(Axis::Row), columns: of(Axis::Column) };
        let mut placed = self.arranged(node, &refined, &place)?;
        // Where only a part of an axis is broadcast, the axis is repeated.
        let mut extents: Vec<usize> = (0..factors.len()).map(|at| placed.own_extent(at)).collect();
        for (_, list) in place.sides() {
            if list.iter().any(|&at| extents[at] > 1) {
                list.iter().for_each(|&at| extents[at] = factors[at].size);
            }
        }
        placed = self.repeated(node, &placed, &place, &extents)?;
        Ok(placed)
    }
}

/// The most positions along an axis that are listed one by one.
const MAX_POSITIONS: usize = 1 << 14;

/// Refuses a list of more positions than any layer of a real network has.
pub fn check_positions(count: Option<usize>) -> Result<(), String> {
    match count {
        Some(count) if count <= MAX_POSITIONS => Ok(()),
        _ => Err(format!("it lists more than {MAX_POSITIONS} positions of an axis")),
    }
}

/// A dimension as several of these sizes.
fn split_dim(dim: &Dim, sizes: &[usize]) -> Option<Vec<Dim>> {
    let mut rest: Vec<AxisFactor> = dim.iter().rev().copied().collect();
    let mut result = Vec::new();
    for &size in sizes {
        let (mut wanted, mut part) = (size, Vec::new());
        while wanted > 1 {
            let factor = rest.pop()?;
            if wanted.is_multiple_of(factor.size) {
                wanted /= factor.size;
                part.push(factor);
            } else if factor.size.is_multiple_of(wanted) {
                let inner = factor.size / wanted;
                part.push(AxisFactor { size: wanted, step: factor.step * inner, ..factor });
                rest.push(AxisFactor { size: inner, ..factor });
                wanted = 1;
            } else {
                return None;
            }
        }
        result.push(part);
    }
    rest.is_empty().then_some(result)
}

/// The axis of a shape that this is.
pub fn side(axis: Axis) -> Side {
    match axis {
        Axis::Row => Side::Rows,
        Axis::Column => Side::Columns,
        Axis::Channel | Axis::Batch => Side::Channels,
    }
}

/// The constant for one image, of the rank of `x` or more: where it has an extent along the batch, all images must be the same.
pub fn without_batch(constant: &Constant, x: &SymbolicTensor) -> Result<Constant, String> {
    let rank = constant.dims.len().max(x.dims.len());
    let mut dims = vec![1; rank - constant.dims.len()];
    dims.extend(&constant.dims);
    let mut constant = constant.reshaped(dims)?;
    let missing = rank - x.dims.len();
    for at in missing..rank {
        let batch: usize =
            x.dims[at - missing].iter().filter(|f| f.axis == Axis::Batch).map(|factor| factor.size).product();
        let own = x.own_extent(at - missing);
        if batch == 1 || constant.dims[at] != batch * own {
            continue;
        }
        let first = constant.sliced(at, 0, 1, own);
        for image in 1..batch {
            let other = constant.sliced(at, image * own, 1, own);
            if (0..first.len()).any(|index| first.get(index) != other.get(index)) {
                return Err("its constant differs from image to image of a batch".into());
            }
        }
        constant = first;
    }
    Ok(constant)
}

/// Whether [`spread`] gives no more elements than the constant holds, or few.
pub fn check_spread(constant: &Constant) -> Result<(), String> {
    let few = constant.len() <= MAX_POSITIONS.max(constant.stored());
    if few { Ok(()) } else { Err(format!("a constant of {:?} is too large here", constant.dims)) }
}

/// The constant, which has an image's extents or 1 along every ONNX axis of `x`, in the order of `x`: its shape, 1 along every axis on
/// which it does not depend, and its values (C, H, W).
pub fn spread(x: &SymbolicTensor, constant: &Constant) -> (Shape, Vec<f32>) {
    let constant_steps = steps(&constant.dims);
    let offsets = |axis: Axis| -> Vec<usize> {
        let mut factors: Vec<(AxisFactor, usize)> = Vec::new();
        for (at, dim) in x.dims.iter().enumerate().filter(|(at, _)| constant.dims[*at] > 1) {
            let mut step = constant_steps[at];
            for factor in dim.iter().rev().filter(|factor| factor.axis != Axis::Batch) {
                if factor.axis == axis {
                    factors.push((*factor, step));
                }
                step *= factor.size;
            }
        }
        if factors.is_empty() {
            return vec![0];
        }
        let offset = |at: usize| factors.iter().map(|(factor, step)| at / factor.step % factor.size * step).sum();
        (0..x.extent(axis)).map(offset).collect()
    };
    let [channels, rows, columns] = [Axis::Channel, Axis::Row, Axis::Column].map(offsets);
    let shape = Shape::new(channels.len(), rows.len(), columns.len());
    let mut values = Vec::with_capacity(shape.elements());
    for c in &channels {
        for h in &rows {
            values.extend(columns.iter().map(|w| constant.get(c + h + w) as f32));
        }
    }
    (shape, values)
}

/// The extents of two tensors that are broadcast against each other, within an image.
pub fn common_extents(a: &SymbolicTensor, b: &SymbolicTensor) -> Result<Vec<usize>, String> {
    let extent = |at: usize| match (a.own_extent(at), b.own_extent(at)) {
        (p, q) if p == q || q == 1 => Some(p),
        (1, q) => Some(q),
        _ => None,
    };
    let problem = || format!("its inputs of shapes {:?} and {:?} do not fit together", a.extents(), b.extents());
    (0..a.dims.len()).map(extent).collect::<Option<_>>().ok_or_else(problem)
}

/// The view with ONNX axis `at` replaced by the whole channels of another tensor.
pub fn with_whole_channels(x: &SymbolicTensor, at: usize, name: String, shape: Shape) -> SymbolicTensor {
    let mut dims = x.dims.clone();
    dims[at] = whole(Axis::Channel, shape.channels);
    SymbolicTensor { name, shape, dims }
}
