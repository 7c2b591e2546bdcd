//! Reductions, norms over axes, softmax and matrix products: operators that read along ONNX axes.

use nettriage_net::{Activation, Axis as Side, Conv, Kind, layer};

use super::arrange::{Arrangement, check_positions, common_extents, with_whole_channels};
use super::attributes::Node;
use super::axes::axis;
use super::builder::Op;
use super::constant::Constant;
use super::symbolic::{Axis, AxisFactor, SymbolicTensor, whole};
use super::translate::{Translator, Value, layer_name};

impl Translator {
    /// ReduceMean, ReduceSum, ReduceMax, ReduceMin, ReduceL1, ReduceL2 and ReduceSumSquare over any axes but the batch.
    pub fn reduction(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let rank = x.dims.len();
        let axes = self.axes(node, rank)?.ok_or("a reduction over all axes is not supported")?;
        let part = |name: &str| format!("{}.{name}", layer_name(node));
        let power = |exponent: f32| Kind::Activation(Activation::Power { exponent });
        let count: f64 = axes.iter().map(|&at| x.own_extent(at) as f64).product();
        let inner = match node.op() {
            "ReduceL2" | "ReduceSumSquare" => self.add_named(node, &part("square"), power(2.0), &x)?,
            "ReduceL1" => self.add_named(node, &part("absolute"), Kind::Activation(Activation::Abs), &x)?,
            "ReduceMin" => self.scaled(node, &part("negative"), &x, -1.0)?,
            _ => x,
        };
        let function = match node.op() {
            "ReduceMax" | "ReduceMin" => layer::Reduction::Max,
            _ => layer::Reduction::Mean,
        };
        let result = self.reduced(node, &inner, &axes, function)?;
        let result = match node.op() {
            "ReduceSum" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" => {
                self.scaled(node, &part("sum"), &result, count)?
            }
            "ReduceMin" => self.scaled(node, &part("least"), &result, -1.0)?,
            _ => result,
        };
        let result =
            if node.op() == "ReduceL2" { self.add_named(node, &part("root"), power(0.5), &result)? } else { result };
        let keep = node.int("keepdims").unwrap_or(1) != 0;
        let dims = result.dims.iter().enumerate().filter(|(at, _)| keep || !axes.contains(at));
        Ok(SymbolicTensor { dims: dims.map(|(_, dim)| dim.clone()).collect(), ..result })
    }

    /// The mean or maximum along ONNX axes, which keep an extent of 1.
    fn reduced(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        axes: &[usize],
        function: layer::Reduction,
    ) -> Result<SymbolicTensor, String> {
        if axes.iter().any(|&at| x.has_batch(at)) {
            return Err("it reduces the batch".into());
        }
        // The axes here that the reduction covers, if it covers each wholly or not at all.
        let over: Vec<_> = axes.iter().flat_map(|&at| &x.dims[at]).collect();
        let covered = |side: Axis| over.iter().filter(|f| f.axis == side).map(|f| f.size).product::<usize>();
        let sides = [
            (Axis::Channel, Side::Channels, x.shape.channels),
            (Axis::Row, Side::Rows, x.shape.height),
            (Axis::Column, Side::Columns, x.shape.width),
        ];
        let all = sides.iter().all(|&(axis, _, extent)| [1, extent].contains(&covered(axis)));
        let (x, sides) = if all {
            let sides = sides.iter().filter(|&&(axis, _, _)| covered(axis) > 1);
            (x.clone(), sides.map(|&(_, side, _)| side).collect::<Vec<_>>())
        } else {
            let mut place = Arrangement { columns: axes.to_vec(), ..Arrangement::default() };
            let mut rest: Vec<usize> = (0..x.dims.len()).filter(|at| !axes.contains(at) && !x.is_batch(*at)).collect();
            if let Some(last) = rest.iter().rposition(|&at| !x.has_batch(at)) {
                place.channels = vec![rest.remove(last)];
            }
            place.rows = rest;
            (self.arranged(node, x, &place)?, vec![Side::Columns])
        };
        let mut result = x.clone();
        axes.iter().for_each(|&at| result.dims[at].clear());
        if sides.is_empty() {
            return Ok(result);
        }
        let kind = match function {
            layer::Reduction::Mean if sides == [Side::Rows, Side::Columns] => {
                Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })
            }
            _ => Kind::Reduce(layer::Reduce { function, axes: sides }),
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        Ok(SymbolicTensor { name, shape, ..result })
    }

    /// A layer that keeps its input's shape, under another name than its node's.
    pub fn add_named(
        &mut self,
        node: &Node,
        name: &str,
        kind: Kind,
        x: &SymbolicTensor,
    ) -> Result<SymbolicTensor, String> {
        let (name, _) = self.add(node, name, Op::Kind(kind), &[x])?;
        Ok(x.renamed(name))
    }

    /// Every element times a number.
    pub fn scaled(&mut self, node: &Node, name: &str, x: &SymbolicTensor, by: f64) -> Result<SymbolicTensor, String> {
        let result = self.add_named(node, name, Kind::Affine, x)?;
        let channels = vec![x.shape.channels];
        self.builder.set_weight(&result.name, "weight", Constant::fill(channels.clone(), by, false)?)?;
        self.builder.set_weight(&result.name, "bias", Constant::fill(channels, 0.0, false)?)?;
        Ok(result)
    }

    pub fn softmax(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && x.is_batch(0) {
            x = self.as_vector(node, 0)?;
        }
        let rank = x.dims.len();
        let at = axis(node.int("axis").unwrap_or(if node.opset < 13 { 1 } else { -1 }), rank)?;
        // Before operator set 13, the softmax is over this axis and all later ones together.
        let last = if node.opset < 13 { rank } else { at + 1 };
        let over: Vec<_> = x.dims[at..last].iter().flatten().collect();
        let channels: usize = over.iter().map(|factor| factor.size).product();
        if over.iter().any(|factor| factor.axis == Axis::Batch) {
            return Err("it is over the batch".into());
        }
        if over.iter().any(|factor| factor.axis != Axis::Channel) || channels != x.shape.channels {
            let mut place = Arrangement::around(&x, at);
            for more in at + 1..last {
                place.rows.retain(|&other| other != more);
                place.columns.retain(|&other| other != more);
                place.channels.push(more);
            }
            x = self.arranged(node, &x, &place)?;
        }
        self.add_elementwise(node, Kind::Softmax(layer::Softmax { log: node.op() == "LogSoftmax" }), &x)
    }

    /// LayerNormalization and RMSNormalization over the last axes.
    pub fn layer_norm(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let rank = x.dims.len();
        let at = axis(node.int("axis").unwrap_or(-1), rank)?;
        let axes: Vec<usize> = (at..rank).filter(|&at| x.own_extent(at) > 1 || at + 1 == rank).collect();
        let x = if let [only] = axes.as_slice() {
            self.along_channels(node, &x, *only)?
        } else {
            let mut place = Arrangement::around(&x, axes[0]);
            for &more in &axes[1..] {
                place.rows.retain(|&other| other != more);
                place.columns.retain(|&other| other != more);
                place.channels.push(more);
            }
            self.arranged(node, &x, &place)?
        };
        let centred = node.op() == "LayerNormalization";
        let eps = node.float("epsilon").unwrap_or(1e-5);
        let channels = x.shape.channels;
        let vector = |constant: Option<Constant>, usual: f64| match constant {
            Some(constant) if constant.len() == channels => constant.reshaped(vec![channels]),
            Some(constant) if constant.len() == 1 => Constant::fill(vec![channels], constant.get(0), false),
            Some(constant) => Err(format!("its {:?} weights are not one number per channel", constant.dims)),
            None => Constant::fill(vec![channels], usual, false),
        };
        let weight = vector(self.constant(node, 1)?, 1.0)?;
        let bias = vector(self.constant(node, 2)?, 0.0)?;
        let kind = Kind::LayerNorm(layer::LayerNorm { eps, centred });
        let (name, _) = self.add(node, &self.name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if centred {
            self.builder.set_weight(&name, "bias", bias)?;
        }
        Ok(x.renamed(name))
    }

    /// InstanceNormalization over all axes but the first two, and GroupNormalization.
    pub fn group_norm(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        if !x.is_batch(0) || x.dims.len() < 3 {
            return Err(format!("its input of shape {:?} is not a batch of feature maps (N, C, ...)", x.extents()));
        }
        let eps = node.float("epsilon").unwrap_or(1e-5);
        // A group is the outer part of the channels; it holds all the rest.
        let outer =
            matches!(x.dims[1].as_slice(), [f] if f.axis == Axis::Channel && f.size * f.step == x.shape.channels);
        let x = if outer { x } else { self.arranged(node, &x, &Arrangement::around(&x, 1))? };
        let parts = x.own_extent(1);
        let groups = match node.op() {
            "GroupNormalization" => {
                let groups = node.int("num_groups").and_then(|groups| usize::try_from(groups).ok());
                groups.filter(|groups| *groups > 0).ok_or("it has no number of groups")?
            }
            _ => parts,
        };
        let channels = x.shape.channels;
        let kind = Kind::GroupNorm(layer::GroupNorm { groups, eps });
        let parameters = [self.required(node, 1)?, self.required(node, 2)?];
        let (name, _) = self.add(node, &self.name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
        for (part, constant) in ["weight", "bias"].into_iter().zip(parameters) {
            // One number per channel, or one for each of the parts that the channels are divided into.
            if constant.len() == 0 || !channels.is_multiple_of(constant.len()) {
                return Err(format!("its {part} has {} numbers for {channels} channels", constant.len()));
            }
            let values = match constant.uniform() {
                Some(value) => Constant::fill(vec![channels], value, false)?,
                None => {
                    let width = channels / constant.len();
                    check_positions(Some(width))?;
                    Constant::floats(vec![channels], (0..channels).map(|c| constant.get(c / width) as f32).collect())
                }
            };
            self.builder.set_weight(&name, part, values)?;
        }
        Ok(x.renamed(name))
    }

    /// A matrix product with a constant: a linear map along one ONNX axis. `weight` is `[outputs, inputs]`.
    pub fn linear_along(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        at: usize,
        weight: Constant,
        bias: Option<Constant>,
    ) -> Result<SymbolicTensor, String> {
        let [features, inputs] = [weight.dims[0], weight.dims[1]];
        // A view can hold a batch of one image on either of two neighbouring axes.
        let x = if x.has_batch(at) { &x.with_single_batch(usize::from(at == 0)) } else { x };
        if x.has_batch(at) || x.own_extent(at) != inputs {
            return Err(format!("its weight takes {inputs} features and its input has {}", x.extents()[at]));
        }
        let x = self.along_channels(node, x, at)?;
        let conv = Conv { bias: bias.is_some(), ..Conv::same(features, 1) };
        let weight = weight.reshaped(vec![features, inputs, 1, 1])?;
        let index =
            usize::from(matches!(node.input(0).and_then(|name| self.values.get(name)), Some(Value::Symbolic(_))));
        let (name, shape) = self.add(node, &self.name_from_weight(node, index), Op::Kind(Kind::Conv(conv)), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.builder.set_weight(&name, "bias", bias)?;
        }
        Ok(with_whole_channels(&x, at, name, shape))
    }

    pub fn matmul(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        if let Some(x) = self.regions(node)? {
            return Ok(x);
        }
        let operand = |translator: &Translator, index: usize| {
            node.input(index).and_then(|name| translator.values.get(name)).cloned().ok_or("an input of it is missing")
        };
        let matrix = |constant: &Constant| -> Option<Constant> {
            let rank = constant.dims.len();
            let flat = rank >= 2 && constant.dims[..rank - 2].iter().all(|&extent| extent == 1);
            flat.then(|| constant.reshaped(constant.dims[rank - 2..].to_vec()).ok()).flatten()
        };
        let (a, b) = (operand(self, 0)?, operand(self, 1)?);
        match (a, b) {
            (Value::Symbolic(x), Value::Constant(constant)) => match matrix(&constant) {
                Some(weight) if x.dims.len() == 2 && x.is_batch(0) => {
                    self.linear(node, weight.transposed(&[1, 0]), None)
                }
                Some(weight) => self.linear_along(node, &x, x.dims.len() - 1, weight.transposed(&[1, 0]), None),
                None if constant.dims.len() < 2 => Err(format!("its weight is {:?}, not a matrix", constant.dims)),
                None => {
                    let b = self.constant_tensor(node, &constant, &x)?;
                    self.product(node, &x, &b)
                }
            },
            (Value::Constant(constant), Value::Symbolic(x)) => match matrix(&constant) {
                Some(weight) if x.dims.len() >= 2 => self.linear_along(node, &x, x.dims.len() - 2, weight, None),
                _ => {
                    let a = self.constant_tensor(node, &constant, &x)?;
                    self.product(node, &a, &x)
                }
            },
            (Value::Symbolic(a), Value::Symbolic(b)) => self.product(node, &a, &b),
            (Value::Constant(_), Value::Constant(_)) => Err("it does not depend on the image".into()),
        }
    }

    /// The batched matrix product of two tensors.
    fn product(&mut self, node: &Node, a: &SymbolicTensor, b: &SymbolicTensor) -> Result<SymbolicTensor, String> {
        let rank = a.dims.len().max(b.dims.len());
        let (a, b) = (a.of_rank(rank), b.of_rank(rank));
        if rank < 2 {
            return Err("it multiplies vectors".into());
        }
        let [m, k] = [rank - 2, rank - 1];
        for tensor in [&a, &b] {
            if [m, k].iter().any(|&at| tensor.has_batch(at)) {
                return Err("it multiplies along the batch".into());
            }
        }
        let (mut a_view, mut b_view) = (a.clone(), b.clone());
        for at in [m, k] {
            a_view.dims[at].clear();
            b_view.dims[at].clear();
        }
        let common = common_extents(&a_view, &b_view)?;
        let wanted = |x: &SymbolicTensor| -> Vec<usize> {
            (0..rank).map(|at| if at < m { common[at] } else { x.own_extent(at) }).collect()
        };
        let (a, b) = (self.expanded(node, &a, &wanted(&a))?, self.expanded(node, &b, &wanted(&b))?);
        let outer: Vec<usize> = (0..m).filter(|&at| !a.is_batch(at) && !b.is_batch(at)).collect();
        let left = Contraction { outer: outer.clone(), kept: vec![m], summed: vec![k] };
        let right = Contraction { outer, kept: vec![k], summed: vec![m] };
        let (a, b, mut result) = self.contracted(node, &a, &left, &b, &right)?;
        result.dims =
            (0..m).map(|at| if a.dims[at].is_empty() { b.dims[at].clone() } else { a.dims[at].clone() }).collect();
        result.dims.push(a.dims[m].clone());
        result.dims.push(whole(Axis::Channel, result.shape.channels));
        Ok(result)
    }

    /// Sums of products of two tensors: the two as they were arranged, and the result without a view, (kept of b; outer; kept of a).
    fn contracted(
        &mut self,
        node: &Node,
        a: &SymbolicTensor,
        left: &Contraction,
        b: &SymbolicTensor,
        right: &Contraction,
    ) -> Result<(SymbolicTensor, SymbolicTensor, SymbolicTensor), String> {
        let place = Arrangement { channels: left.summed.clone(), rows: left.outer.clone(), columns: left.kept.clone() };
        let a = self.arranged(node, a, &place)?;
        // The second matrix is transposed if its summed axis is what lies side by side in memory.
        let neighbours = |factor: &AxisFactor| factor.axis == Axis::Channel && factor.step == 1;
        let transposed = right.summed.iter().any(|&at| b.dims[at].iter().any(neighbours));
        let (channels, columns) = if transposed { (&right.summed, &right.kept) } else { (&right.kept, &right.summed) };
        let place = Arrangement { channels: channels.clone(), rows: right.outer.clone(), columns: columns.clone() };
        let b = self.arranged(node, b, &place)?;
        let kind = Kind::MatMul(layer::MatMul { transposed });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&a, &b])?;
        Ok((a, b, SymbolicTensor { name, shape, dims: Vec::new() }))
    }

    /// Einsum of two operands, each label once in an operand.
    pub fn einsum(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let text: String = node.text("equation").ok_or("it has no equation")?.split_whitespace().collect();
        let parsed = || {
            let (inputs, output) = text.split_once("->")?;
            let (a, b) = inputs.split_once(',')?;
            Some([a, b, output].map(|labels| labels.chars().collect::<Vec<char>>()))
        };
        let supported = "only an Einsum of two operands without repeated labels or an ellipsis is supported";
        let [a_labels, b_labels, output] = parsed().ok_or(supported)?;
        let unique =
            |labels: &[char]| labels.iter().enumerate().all(|(at, c)| c.is_alphabetic() && !labels[..at].contains(c));
        if node.proto.input.len() != 2 || ![&a_labels, &b_labels, &output].iter().all(|labels| unique(labels)) {
            return Err(supported.into());
        }
        let beside =
            (0..2).find_map(|index| self.symbolic(node, index).ok()).ok_or("it does not depend on the image")?;
        let mut operands = Vec::new();
        for (index, labels) in [&a_labels, &b_labels].into_iter().enumerate() {
            let x = match node.input(index).and_then(|name| self.values.get(name)).cloned() {
                Some(Value::Symbolic(x)) => x,
                Some(Value::Constant(constant)) => {
                    let without_view = SymbolicTensor { dims: Vec::new(), ..beside.clone() };
                    self.constant_tensor(node, &constant, &without_view)?
                }
                None => return Err(format!("its input {index} is missing")),
            };
            if x.dims.len() != labels.len() {
                return Err(format!("its input {index} has another number of axes than its equation"));
            }
            operands.push(x);
        }
        let [a, b] = operands.as_slice() else { return Err(supported.into()) };
        let axes = |labels: &[char], x: &SymbolicTensor, chosen: &dyn Fn(char) -> bool| -> Vec<usize> {
            (0..labels.len()).filter(|&at| !x.is_batch(at) && chosen(labels[at])).collect()
        };
        let outer = |c: char| a_labels.contains(&c) && b_labels.contains(&c) && output.contains(&c);
        let summed = |c: char| a_labels.contains(&c) && b_labels.contains(&c) && !output.contains(&c);
        // The same order of labels in both operands.
        let sorted = |labels: &[char], list: Vec<usize>| -> Vec<usize> {
            let mut list = list;
            list.sort_by_key(|&at| a_labels.iter().position(|&c| c == labels[at]));
            list
        };
        let left = Contraction {
            outer: axes(&a_labels, a, &outer),
            summed: axes(&a_labels, a, &summed),
            kept: axes(&a_labels, a, &|c| !b_labels.contains(&c)),
        };
        let right = Contraction {
            outer: sorted(&b_labels, axes(&b_labels, b, &outer)),
            summed: sorted(&b_labels, axes(&b_labels, b, &summed)),
            kept: axes(&b_labels, b, &|c| !a_labels.contains(&c)),
        };
        let dropped =
            |labels: &[char], other: &[char]| labels.iter().any(|c| !output.contains(c) && !other.contains(c));
        let extents = |x: &SymbolicTensor, list: &[usize]| list.iter().map(|&at| x.own_extent(at)).collect::<Vec<_>>();
        if dropped(&a_labels, &b_labels)
            || dropped(&b_labels, &a_labels)
            || extents(a, &left.outer) != extents(b, &right.outer)
            || extents(a, &left.summed) != extents(b, &right.summed)
            || (0..a_labels.len()).any(|at| a.has_batch(at) && summed(a_labels[at]))
        {
            return Err(supported.into());
        }
        let (arranged, _, mut result) = self.contracted(node, a, &left, b, &right)?;
        let mut step: usize = right.kept.iter().map(|&at| b.own_extent(at)).product();
        let mut new = Vec::new();
        for &at in &right.kept {
            step /= b.own_extent(at);
            new.push((b_labels[at], AxisFactor { axis: Axis::Channel, size: b.own_extent(at), step }));
        }
        for label in output {
            let from_a = a_labels.iter().position(|&c| c == label).map(|at| arranged.dims[at].clone());
            let dim = from_a.unwrap_or_else(|| match new.iter().find(|(c, _)| *c == label) {
                Some((_, factor)) if factor.size > 1 => vec![*factor],
                Some(_) => Vec::new(),
                None => vec![AxisFactor { axis: Axis::Batch, size: b.batch_size(), step: 1 }],
            });
            result.dims.push(dim);
        }
        Ok(result)
    }
}

/// The parts that the axes of an operand have in a sum of products.
struct Contraction {
    /// Axes of both operands and the result.
    outer: Vec<usize>,
    /// Axes of this operand and the result.
    kept: Vec<usize>,
    /// Axes of both operands that are summed over.
    summed: Vec<usize>,
}
