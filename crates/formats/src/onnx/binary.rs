//! Binary operators (arithmetic of two tensors, or of a tensor and a constant), concatenation, slices and splits.

use nettriage_net::{Activation, Kind, Padding, Shape, Window, layer};

use super::arrange::{Arrangement, check_positions, check_spread, common_extents, side, spread, without_batch};
use super::attributes::Node;
use super::axes::{axis, slices};
use super::builder::Op;
use super::constant::Constant;
use super::symbolic::{Axis, AxisFactor, Dim, SymbolicTensor, whole};
use super::translate::{Translator, Value, layer_name};

/// The activation with these bounds: ReLU where they are 0 and none.
pub fn clip(min: f32, max: f32) -> Activation {
    if min == 0.0 && max == f32::MAX { Activation::Relu } else { Activation::Clip { min, max } }
}

impl Translator {
    pub fn arithmetic(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        if node.op() == "Neg" {
            let x = self.symbolic(node, 0)?;
            return self.scale_and_shift(node, &x, Some(Constant::floats(Vec::new(), vec![-1.0])), None);
        }
        let count = node.proto.input.len();
        if count == 0 {
            return Err("it has no inputs".into());
        }
        let mut left = self.operand(node, 0)?;
        for index in 1..count {
            let right = self.operand(node, index)?;
            left = self.binary_operator(node, left, right)?;
        }
        match left {
            Value::Symbolic(x) => Ok(x),
            Value::Constant(_) => Err("it does not depend on the image".into()),
        }
    }

    fn operand(&mut self, node: &Node, index: usize) -> Result<Value, String> {
        let value = node.input(index).and_then(|name| self.values.get(name)).cloned();
        value.ok_or_else(|| format!("its input {index} is missing"))
    }

    fn binary_operator(&mut self, node: &Node, left: Value, right: Value) -> Result<Value, String> {
        let result = match (node.op(), left, right) {
            ("Add" | "Sum", Value::Symbolic(x), Value::Constant(c))
            | ("Add" | "Sum", Value::Constant(c), Value::Symbolic(x)) => self.scale_and_shift(node, &x, None, Some(c)),
            ("Mul", Value::Symbolic(x), Value::Constant(c)) | ("Mul", Value::Constant(c), Value::Symbolic(x)) => {
                self.scale_and_shift(node, &x, Some(c), None)
            }
            ("Sub", Value::Symbolic(x), Value::Constant(c)) => {
                self.scale_and_shift(node, &x, None, Some(c.mapped(|v| -v)))
            }
            ("Sub", Value::Constant(c), Value::Symbolic(x)) => {
                self.scale_and_shift(node, &x, Some(Constant::floats(Vec::new(), vec![-1.0])), Some(c))
            }
            ("Div", Value::Symbolic(x), Value::Constant(c)) => {
                self.scale_and_shift(node, &x, Some(c.cast(false).mapped(f64::recip)), None)
            }
            ("Max", Value::Symbolic(x), Value::Constant(c)) | ("Max", Value::Constant(c), Value::Symbolic(x)) => {
                let bound = c.scalar().ok_or("its bound is not a scalar")? as f32;
                self.clipped(node, &x, bound.max(f32::MIN), f32::MAX)
            }
            ("Min", Value::Symbolic(x), Value::Constant(c)) | ("Min", Value::Constant(c), Value::Symbolic(x)) => {
                let bound = c.scalar().ok_or("its bound is not a scalar")? as f32;
                self.clipped(node, &x, f32::MIN, bound.min(f32::MAX))
            }
            ("Add" | "Sum", Value::Symbolic(a), Value::Symbolic(b)) => self.sum_or_product(node, Kind::Add, &a, &b),
            ("Mul", Value::Symbolic(a), Value::Symbolic(b)) => self.sum_or_product(node, Kind::Mul, &a, &b),
            ("Div", Value::Symbolic(a), Value::Symbolic(b)) => {
                let b = self.reciprocal(node, &b)?;
                self.sum_or_product(node, Kind::Mul, &a, &b)
            }
            ("Div", Value::Constant(c), Value::Symbolic(x)) => {
                let x = self.reciprocal(node, &x)?;
                self.scale_and_shift(node, &x, Some(c), None)
            }
            ("Sub", Value::Symbolic(a), Value::Symbolic(b)) => {
                let minus = self.scaled(node, &format!("{}.negative", layer_name(node)), &b, -1.0)?;
                self.sum_or_product(node, Kind::Add, &a, &minus)
            }
            _ => Err("this use of it is not supported; replace it in the model, or cut the model before it".into()),
        };
        result.map(Value::Symbolic)
    }

    fn reciprocal(&mut self, node: &Node, x: &SymbolicTensor) -> Result<SymbolicTensor, String> {
        let kind = Kind::Activation(Activation::Power { exponent: -1.0 });
        self.add_named(node, &format!("{}.reciprocal", layer_name(node)), kind, x)
    }

    /// x * scale + shift with constants: an affine layer if they have one number per channel, otherwise a sum or product with a tensor
    /// that does not depend on the image.
    fn scale_and_shift(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        scale: Option<Constant>,
        shift: Option<Constant>,
    ) -> Result<SymbolicTensor, String> {
        let one = |value: f64| Constant::fill(vec![x.shape.channels], value, false);
        let vector = |given: &Option<Constant>, usual: f64| match given {
            Some(constant) => self.per_channel(x, &constant.cast(false)),
            None => one(usual),
        };
        if let (Ok(scale), Ok(shift)) = (vector(&scale, 1.0), vector(&shift, 0.0)) {
            let (name, _) = self.add(node, &layer_name(node), Op::Kind(Kind::Affine), &[x])?;
            self.builder.set_weight(&name, "weight", scale)?;
            self.builder.set_weight(&name, "bias", shift)?;
            return Ok(x.renamed(name));
        }
        let mut x = x.clone();
        for (kind, constant) in [(Kind::Mul, scale), (Kind::Add, shift)] {
            if let Some(constant) = constant {
                x = self.combine_with_constant(node, kind, &x, &constant.cast(false))?;
            }
        }
        Ok(x)
    }

    fn combine_with_constant(
        &mut self,
        node: &Node,
        kind: Kind,
        x: &SymbolicTensor,
        constant: &Constant,
    ) -> Result<SymbolicTensor, String> {
        let constant = without_batch(constant, x)?;
        let x = x.of_rank(constant.dims.len());
        let fits = (0..x.dims.len()).all(|at| [1, x.own_extent(at)].contains(&constant.dims[at]));
        if !fits {
            let other = self.constant_tensor(node, &constant, &x)?;
            return self.sum_or_product(node, kind, &x, &other);
        }
        check_spread(&constant)?;
        let (shape, values) = spread(&x, &constant);
        let other = self.constant_layer(node, &x, shape, values)?;
        let other = SymbolicTensor { name: other, shape, dims: Vec::new() };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x, &other])?;
        Ok(SymbolicTensor { name, shape, dims: x.dims })
    }

    fn clipped(&mut self, node: &Node, x: &SymbolicTensor, min: f32, max: f32) -> Result<SymbolicTensor, String> {
        self.add_elementwise(node, Kind::Activation(clip(min, max)), x)
    }

    /// A sum or product of two tensors, broadcast against each other.
    pub fn sum_or_product(
        &mut self,
        node: &Node,
        kind: Kind,
        a: &SymbolicTensor,
        b: &SymbolicTensor,
    ) -> Result<SymbolicTensor, String> {
        let rank = a.dims.len().max(b.dims.len());
        let (mut a, mut b) = (a.of_rank(rank), b.of_rank(rank));
        // A batch of one image may be on any axis: it joins the axis that is the other tensor's batch alone.
        if let Some(at) = (0..rank).find(|&at| a.is_batch(at)) {
            b = b.with_single_batch(at);
        } else if let Some(at) = (0..rank).find(|&at| b.is_batch(at)) {
            a = a.with_single_batch(at);
        }
        let extents = common_extents(&a, &b)?;
        let dims: Option<Vec<Dim>> = a
            .dims
            .iter()
            .zip(&b.dims)
            .map(|(p, q)| match (p.is_empty(), q.is_empty()) {
                (true, _) => Some(q.clone()),
                (_, true) => Some(p.clone()),
                _ => (p == q).then(|| p.clone()),
            })
            .collect();
        // The same factors on the same ONNX axes: the elements correspond.
        if let Some(dims) = dims
            && let Ok(shape) = kind.output_shape(&[a.shape, b.shape])
            && (SymbolicTensor { name: String::new(), shape, dims: dims.clone() }).is_complete()
        {
            let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&a, &b])?;
            return Ok(SymbolicTensor { name, shape, dims });
        }
        let own = |x: &SymbolicTensor| (0..rank).map(|at| x.own_extent(at)).collect::<Vec<_>>();
        if own(&a) != extents && own(&b) != extents {
            a = self.expanded(node, &a, &extents)?;
        }
        let mut whole = if own(&a) == extents {
            b = self.like(node, &b, &a)?;
            a.clone()
        } else {
            a = self.like(node, &a, &b)?;
            b.clone()
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&a, &b])?;
        (whole.name, whole.shape) = (name, shape);
        Ok(whole)
    }

    pub fn concat(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut parts = Vec::new();
        let beside = (0..node.proto.input.len()).find_map(|index| self.symbolic(node, index).ok());
        let beside = beside.ok_or("it has no inputs")?;
        let at = axis(node.int("axis").unwrap_or(1), beside.dims.len())?;
        let own_place = Arrangement::beside(&beside).filter(|place| place.side_of(at).is_some());
        for index in 0..node.proto.input.len() {
            if let Value::Constant(constant) = self.operand(node, index)? {
                // Extents of the axes other than the batch, which each image has alike.
                let mut constant = constant.cast(false);
                if constant.dims.len() != beside.dims.len() {
                    return Err("its inputs differ in rank".into());
                }
                for (axis, dim) in beside.dims.iter().enumerate() {
                    if !dim.is_empty() && beside.is_batch(axis) && constant.dims[axis] > 1 {
                        constant = without_batch(&constant, &beside)?;
                    }
                }
                parts.push(self.placed_constant(node, &constant, &beside, own_place.clone())?);
                continue;
            }
            let mut x = self.symbolic(node, index)?;
            if x.dims.len() == 2 && x.is_batch(0) && x.is_vectors() {
                x = self.as_vector(node, index)?;
            }
            parts.push(x);
        }
        if beside.is_batch(at) && !beside.dims[at].is_empty() || parts.iter().any(|part| part.has_batch(at)) {
            return Err("it joins images of the batch".into());
        }
        let first = parts.first().ok_or("it has no inputs")?.clone();
        if let [only] = parts.as_slice() {
            return Ok(only.clone());
        }
        for axis in [Axis::Channel, Axis::Row, Axis::Column] {
            let others =
                |part: &SymbolicTensor| (0..first.dims.len()).all(|i| i == at || part.dims[i] == first.dims[i]);
            let along = |part: &SymbolicTensor| {
                part.dims.len() == first.dims.len() && part.covers(at, axis) && others(part) && {
                    let extent = |shape: Shape| shape.with_extent(side(axis), 1);
                    extent(part.shape) == extent(first.shape)
                }
            };
            if parts.iter().all(along) {
                return self.joined(node, &parts, at, axis);
            }
        }
        // Elements in a common order: the channels where they are, or the last axis as channels.
        let place = own_place.unwrap_or_else(|| apart(&beside, at));
        let mut arranged = Vec::new();
        for part in &parts {
            if part.dims.len() != beside.dims.len() {
                return Err("its inputs differ in rank".into());
            }
            arranged.push(self.arranged(node, part, &place)?);
        }
        let axis = place.side_of(at).ok_or("it joins along an axis of several parts")?;
        self.joined(node, &arranged, at, axis)
    }

    fn joined(
        &mut self,
        node: &Node,
        parts: &[SymbolicTensor],
        at: usize,
        axis: Axis,
    ) -> Result<SymbolicTensor, String> {
        let inputs: Vec<&SymbolicTensor> = parts.iter().collect();
        let kind = Kind::Concat(layer::Concat { axis: side(axis) });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &inputs)?;
        let mut dims = parts[0].dims.clone();
        dims[at] = whole(axis, shape.extent(side(axis)));
        Ok(SymbolicTensor { name, shape, dims })
    }

    pub fn slice(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && x.is_batch(0) && x.is_vectors() {
            x = self.as_vector(node, 0)?;
        }
        if x.shuffle().is_some() {
            x = self.as_feature_map(node, 0)?;
        }
        let extents = x.extents();
        let listed = |name: &str, index: usize| match node.ints(name) {
            Some(list) => Ok(Some(list.to_vec())),
            None => self.constant(node, index)?.map(|constant| constant.to_ints()).transpose(),
        };
        let ranges = slices(&extents, listed)?;
        let mut stride = [1, 1];
        for (at, range) in ranges {
            if range.step == 1 && range.start == 0 && range.number == extents[at] {
                continue;
            }
            if range.number == 0 {
                return Err("it selects nothing".into());
            }
            let from_first =
                range.start == 0 && range.step > 1 && range.number == extents[at].div_ceil(range.step as usize);
            match x.axis(at) {
                Some(Axis::Row) if from_first && x.is_plain() => stride[0] = range.step as usize,
                Some(Axis::Column) if from_first && x.is_plain() => stride[1] = range.step as usize,
                _ => {
                    if range.step == 1 && x.axis(at) == Some(Axis::Channel) {
                        x = self.channels(node, &x, at, range.start, range.number)?;
                        continue;
                    }
                    check_positions(Some(range.number))?;
                    let position = |index: usize| range.start as i64 + index as i64 * range.step;
                    let chosen: Vec<usize> = (0..range.number).map(|index| position(index) as usize).collect();
                    x = self.select(node, &x, at, &chosen)?;
                }
            }
        }
        if stride == [1, 1] {
            return Ok(x);
        }
        // Every n-th pixel: max pooling with a 1x1 window.
        let window = Window { kernel: [1, 1], stride, padding: Padding::default() };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(Kind::MaxPool(window)), &[&x])?;
        Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
    }

    /// These positions of ONNX axis `at`, in this order.
    pub fn select(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        at: usize,
        chosen: &[usize],
    ) -> Result<SymbolicTensor, String> {
        if chosen.len() == x.extents()[at] && chosen.iter().enumerate().all(|(index, &position)| index == position) {
            return Ok(x.clone());
        }
        if x.has_batch(at) {
            return Err("it selects images of the batch".into());
        }
        if x.dims[at].is_empty() {
            // An axis of extent 1. A feature map repeats it where it is: that is how such a layer is written.
            if x.dims.len() == 4 && x.is_batch(0) {
                let place = Arrangement { channels: vec![1], rows: vec![2], columns: vec![3] };
                let x = self.arranged(node, x, &place)?;
                let axis = [Axis::Channel, Axis::Row, Axis::Column][at - 1];
                let kind = Kind::Gather(layer::Gather { axis: side(axis), indices: vec![0; chosen.len()] });
                let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
                let mut result = SymbolicTensor { name, shape, dims: x.dims };
                result.dims[at] = whole(axis, chosen.len());
                return Ok(result);
            }
            let mut extents: Vec<usize> = (0..x.dims.len()).map(|at| x.own_extent(at)).collect();
            extents[at] = chosen.len();
            return self.expanded(node, x, &extents);
        }
        if x.axis(at) == Some(Axis::Channel) {
            return self.select_channels(node, x, at, chosen);
        }
        let single = x.dims[at].len() == 1;
        let x = if single { x.clone() } else { self.arranged(node, x, &apart(x, at))? };
        let [factor] = x.dims[at].as_slice() else { return Err("it selects along an axis of several parts".into()) };
        let factor = *factor;
        let extent = x.shape.extent(side(factor.axis));
        // Positions along the axis here: the factor's chosen ones within all outer and inner ones.
        let (block, step) = (factor.size * factor.step, factor.step);
        check_positions((extent / factor.size).checked_mul(chosen.len()))?;
        let mut positions = Vec::with_capacity(extent / factor.size * chosen.len());
        for outer in 0..extent / block {
            positions
                .extend(chosen.iter().map(|index| outer * block + index * step).flat_map(|first| first..first + step));
        }
        let run = positions.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let kind = if factor.axis == Axis::Channel && run {
            Kind::Slice(layer::Slice { start: positions[0], end: positions[0] + positions.len() })
        } else {
            Kind::Gather(layer::Gather { axis: side(factor.axis), indices: positions })
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        let mut result = SymbolicTensor { name, shape, dims: x.dims };
        for other in result.dims.iter_mut().flatten() {
            if other.axis == factor.axis && other.step >= block {
                other.step = other.step / factor.size * chosen.len();
            }
        }
        result.dims[at] =
            if chosen.len() == 1 { Vec::new() } else { vec![AxisFactor { size: chosen.len(), ..factor }] };
        Ok(result)
    }

    /// Gather with a constant index, or a list of them, along an axis.
    pub fn gather(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && x.is_batch(0) && x.is_vectors() {
            x = self.as_vector(node, 0)?;
        }
        let at = axis(node.int("axis").unwrap_or(0), x.dims.len())?;
        let indices = self.required(node, 1)?;
        if indices.len() == 0 {
            return Err("it selects nothing".into());
        }
        check_positions(Some(indices.len()))?;
        // All elements of a batch of one image as one axis, as PyTorch exports a view by strides.
        if at == 0 && x.has_batch(0) && !x.is_batch(0) && x.batch_size() == 1 {
            let mut flat = x.clone();
            flat.dims[0].retain(|factor| factor.axis != Axis::Batch);
            let chosen = positions(&indices, flat.extents()[0])?;
            let mut result = self.select(node, &flat, 0, &chosen)?;
            result.dims[0].insert(0, AxisFactor { axis: Axis::Batch, size: 1, step: 1 });
            let mut extents = indices.dims.clone();
            extents.extend(&x.extents()[1..]);
            return result.reshaped(&extents);
        }
        let chosen = positions(&indices, x.extents()[at])?;
        let mut result = self.select(node, &x, at, &chosen)?;
        if indices.dims.is_empty() {
            result.dims.remove(at);
        } else if indices.dims.len() > 1 {
            let mut extents = x.extents();
            extents.splice(at..=at, indices.dims.iter().copied());
            return result.reshaped(&extents);
        }
        Ok(result)
    }

    /// Tile: the tensor repeated along axes.
    pub fn tile(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        let repeats = self.required(node, 1)?.to_ints()?;
        if repeats.len() != x.dims.len() {
            return Err("it has another number of repeats than of axes".into());
        }
        for (at, repeat) in repeats.into_iter().enumerate().filter(|(_, repeat)| *repeat != 1) {
            let repeat = usize::try_from(repeat)
                .ok()
                .filter(|&repeat| repeat > 0)
                .ok_or("a number of repeats is not positive")?;
            let extent = x.extents()[at];
            check_positions(extent.checked_mul(repeat))?;
            let chosen: Vec<usize> = (0..extent * repeat).map(|index| index % extent).collect();
            x = self.select(node, &x, at, &chosen)?;
        }
        Ok(x)
    }

    /// GatherND along its first axes: PyTorch's exporter writes indexing by lists so, of channels, or of rows and columns in adaptive pooling.
    pub fn gather_nd(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        let indices = self.required(node, 1)?;
        let depth = indices.dims.last().copied().unwrap_or(0);
        let supported = node.int("batch_dims").unwrap_or(0) == 0
            && (1..=x.dims.len()).contains(&depth)
            && (0..depth).all(|at| !x.has_batch(at));
        let lists = if supported { lists_of_tuples(&indices)? } else { None };
        let Some(lists) = lists else {
            return Err(
                "only a GatherND of constant positions within an image, a list along each axis, is supported".into()
            );
        };
        for (at, list) in lists.iter().enumerate() {
            let chosen = positions(list, x.extents()[at])?;
            check_positions(Some(chosen.len()))?;
            x = self.select(node, &x, at, &chosen)?;
        }
        // The indexed axes take the shape of the indices.
        let rest = x.dims.split_off(depth);
        let mut result = x.reshaped(&indices.dims[..indices.dims.len() - 1])?;
        result.dims.extend(rest);
        Ok(result)
    }

    /// Where with a constant condition, one of whose choices is a constant: a mask, and what it replaces. Also `Where` that replaces NaN
    /// after a softmax, as PyTorch guards attention against rows that see nothing: no row of a constant mask is empty, so there is nothing
    /// to replace.
    pub fn choice(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let tested = node.input(0).and_then(|name| self.not_a_number.get(name));
        if tested.is_some_and(|tested| node.input(2) == Some(tested)) {
            return self.symbolic(node, 2);
        }
        let supported = "only a choice by a constant condition between a tensor and a constant is supported";
        let condition = self.constant(node, 0).map_err(|_| supported)?.ok_or("it has no condition")?;
        let (x, constant, kept) = match (self.operand(node, 1)?, self.operand(node, 2)?) {
            (Value::Symbolic(x), Value::Constant(constant)) => (x, constant, 1.0),
            (Value::Constant(constant), Value::Symbolic(x)) => (x, constant, 0.0),
            _ => return Err(supported.into()),
        };
        let is_kept = |choice: f64| (choice != 0.0) == (kept != 0.0);
        let mask = condition.cast(false).mapped(|choice| f64::from(u8::from(is_kept(choice))));
        let other = mask.combined(&constant.cast(false), |mask, value| if mask == 0.0 { value } else { 0.0 })?;
        if other.uniform().is_some_and(|value| value != 0.0 && !value.is_finite()) {
            return Err("it replaces every element by a number that is not finite".into());
        }
        let shift = (other.uniform() != Some(0.0)).then_some(other);
        self.scale_and_shift(node, &x, Some(mask), shift)
    }

    /// These channels, in this order; `at` is the ONNX axis of the channels. One slice for each run of channels, or one selection of
    /// positions if there are many.
    fn select_channels(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        at: usize,
        chosen: &[usize],
    ) -> Result<SymbolicTensor, String> {
        let runs = 1 + chosen.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        if runs > MAX_RUNS {
            check_positions(Some(chosen.len()))?;
            let kind = Kind::Gather(layer::Gather { axis: side(Axis::Channel), indices: chosen.to_vec() });
            let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[x])?;
            return Ok(with_channels(x, at, name, shape));
        }
        let mut parts = Vec::new();
        let mut rest = chosen;
        while let Some(&start) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(offset, channel)| **channel == start + offset).count();
            parts.push(self.channels(node, x, at, start, run)?);
            rest = &rest[run..];
        }
        if let [part] = parts.as_slice() {
            return Ok(part.clone());
        }
        let inputs: Vec<&SymbolicTensor> = parts.iter().collect();
        let (name, shape) =
            self.add(node, &layer_name(node), Op::Kind(Kind::Concat(layer::Concat::default())), &inputs)?;
        Ok(with_channels(x, at, name, shape))
    }

    /// Channels `start..start + number`; `at` is the ONNX axis of the channels.
    fn channels(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        at: usize,
        start: usize,
        number: usize,
    ) -> Result<SymbolicTensor, String> {
        if (start, number) == (0, x.shape.channels) {
            return Ok(x.clone());
        }
        let kind = Kind::Slice(layer::Slice { start, end: start + number });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[x])?;
        Ok(with_channels(x, at, name, shape))
    }

    pub fn split(&mut self, node: &Node) -> Result<Vec<Value>, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && x.is_batch(0) && x.is_vectors() {
            x = self.as_vector(node, 0)?;
        }
        // A channel shuffle before a split (ShuffleNetV2) must become a layer of its own first.
        if x.shuffle().is_some() {
            x = self.as_feature_map(node, 0)?;
        }
        let at = axis(node.int("axis").unwrap_or(0), x.dims.len())?;
        let outputs = node.proto.output.len();
        let extent = x.extents()[at];
        let sizes = match node.ints("split") {
            Some(sizes) => sizes.to_vec(),
            None => match self.constant(node, 1)? {
                Some(sizes) => sizes.to_ints()?,
                None => {
                    let each = extent.div_ceil(outputs.max(1));
                    (0..outputs).map(|index| each.min(extent.saturating_sub(index * each)) as i64).collect()
                }
            },
        };
        if sizes.len() != outputs {
            return Err("only a split into as many parts as it has outputs is supported".into());
        }
        let mut start = 0usize;
        let mut parts = Vec::new();
        for size in sizes {
            let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("a part of it is empty")?;
            let end = start.checked_add(size).filter(|&end| end <= extent).ok_or("its parts exceed its input")?;
            let part = if x.axis(at) == Some(Axis::Channel) {
                self.channels(node, &x, at, start, size)?
            } else {
                check_positions(Some(size))?;
                self.select(node, &x, at, &(start..end).collect::<Vec<_>>())?
            };
            parts.push(Value::Symbolic(part));
            start = end;
        }
        Ok(parts)
    }
}

/// ONNX axis `at` as one axis here: the columns, or the channels if it is the last.
pub fn apart(x: &SymbolicTensor, at: usize) -> Arrangement {
    let mut place = Arrangement::canonical(x);
    if place.channels != [at] {
        place.rows.extend(std::mem::take(&mut place.columns));
        place.rows.retain(|&other| other != at);
        place.columns = vec![at];
    }
    place
}

/// The most runs of channels that are sliced one by one.
const MAX_RUNS: usize = 512;

/// Constant index tuples (…, depth) as one list for each of `depth` axes, if they are all combinations of these lists, in order.
fn lists_of_tuples(indices: &Constant) -> Result<Option<Vec<Constant>>, String> {
    let Some((&depth, outer)) = indices.dims.split_last() else { return Ok(None) };
    let values = indices.to_ints()?;
    let count: usize = outer.iter().product();
    let steps: Vec<usize> = (0..outer.len()).map(|axis| outer[axis + 1..].iter().product()).collect();
    // Which part of the tuples depends on an axis of the indices; on an axis on which none depends, the part before it repeats.
    let mut parts = Vec::new();
    for (&extent, &step) in outer.iter().zip(&steps) {
        let depends = |part: usize| {
            (0..count).any(|at| values[at * depth + part] != values[(at - at / step % extent * step) * depth + part])
        };
        let before = parts.last().copied().unwrap_or(0);
        match (0..depth).find(|&part| depends(part)) {
            Some(part) if part < before => return Ok(None),
            part => parts.push(part.unwrap_or(before)),
        }
    }
    let mut lists = Vec::new();
    for part in 0..depth {
        let own: Vec<usize> = (0..outer.len()).filter(|&axis| parts[axis] == part).collect();
        let length: usize = own.iter().map(|&axis| outer[axis]).product();
        let step = own.last().map_or(1, |&axis| steps[axis]);
        let list: Vec<i64> = (0..length).map(|index| values[index * step * depth + part]).collect();
        if (0..count).any(|at| values[at * depth + part] != list[at / step % length]) {
            return Ok(None);
        }
        lists.push(Constant::ints(vec![length], list));
    }
    Ok(Some(lists))
}

/// Positions along an axis; negative ones count from the end.
fn positions(indices: &Constant, extent: usize) -> Result<Vec<usize>, String> {
    let resolved = indices.to_ints()?.into_iter().map(|index| {
        let index = if index < 0 { index.checked_add(extent as i64)? } else { index };
        usize::try_from(index).ok().filter(|&index| index < extent)
    });
    resolved.collect::<Option<_>>().ok_or_else(|| format!("an index is outside its {extent} positions"))
}

/// The view of a tensor with other channels; `at` is the ONNX axis of the channels.
fn with_channels(x: &SymbolicTensor, at: usize, name: String, shape: Shape) -> SymbolicTensor {
    let mut dims = x.dims.clone();
    dims[at] = SymbolicTensor::vector(String::new(), shape.channels, 1).dims[1].clone();
    SymbolicTensor { name, shape, dims }
}
