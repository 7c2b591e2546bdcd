//! Binary operators (arithmetic of two tensors, or of a tensor and a constant), concatenation, slices and splits.

use nettriage_net::{Activation, Kind, Padding, Shape, Window, layer};

use super::attributes::Node;
use super::axes::{axis, slices};
use super::builder::{Function, Op};
use super::constant::Constant;
use super::symbolic::{Axis, Dim, SymbolicTensor, size};
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
            ("Div", Value::Symbolic(a), Value::Symbolic(b)) if a.shape == b.shape && a.dims == b.dims => {
                let divide = Op::Function(Function::Divide);
                self.add(node, &layer_name(node), divide, &[&a, &b]).map(|(name, _)| a.renamed(name))
            }
            ("Sub", Value::Symbolic(a), Value::Symbolic(b)) => {
                let minus = self.scale_and_shift(node, &b, Some(Constant::floats(Vec::new(), vec![-1.0])), None)?;
                self.sum_or_product(node, Kind::Add, &a, &minus)
            }
            _ => Err("this use of it is not supported; replace it in the model, or cut the model before it".into()),
        };
        result.map(Value::Symbolic)
    }

    /// x * scale + shift, with constants of one number per channel.
    fn scale_and_shift(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        scale: Option<Constant>,
        shift: Option<Constant>,
    ) -> Result<SymbolicTensor, String> {
        let one = |value: f64| Constant::fill(vec![x.shape.channels], value, false);
        let vector = |given: Option<Constant>, usual: f64| match given {
            Some(constant) => self.per_channel(x, &constant.cast(false)),
            None => one(usual),
        };
        let (scale, shift) = (vector(scale, 1.0)?, vector(shift, 0.0)?);
        let (name, _) = self.add(node, &layer_name(node), Op::Kind(Kind::Affine), &[x])?;
        self.builder.set_weight(&name, "weight", scale)?;
        self.builder.set_weight(&name, "bias", shift)?;
        Ok(x.renamed(name))
    }

    fn clipped(&mut self, node: &Node, x: &SymbolicTensor, min: f32, max: f32) -> Result<SymbolicTensor, String> {
        self.add_elementwise(node, Kind::Activation(clip(min, max)), x)
    }

    /// A sum or product of two tensors; one may be (N, C, 1, 1), which is broadcast.
    fn sum_or_product(
        &mut self,
        node: &Node,
        kind: Kind,
        a: &SymbolicTensor,
        b: &SymbolicTensor,
    ) -> Result<SymbolicTensor, String> {
        let problem = || {
            format!("its inputs of shapes {:?} and {:?} have their axes in different orders", a.extents(), b.extents())
        };
        if a.dims.len() != b.dims.len() {
            return Err(problem());
        }
        let mut dims: Vec<Dim> = Vec::new();
        for (p, q) in a.dims.iter().zip(&b.dims) {
            if p != q && !p.is_empty() && !q.is_empty() {
                return Err(problem());
            }
            dims.push(if p.is_empty() { q.clone() } else { p.clone() });
        }
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[a, b])?;
        Ok(SymbolicTensor { name, shape, dims })
    }

    pub fn concat(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut parts = Vec::new();
        for index in 0..node.proto.input.len() {
            let mut x = self.symbolic(node, index)?;
            if x.dims.len() == 2 {
                x = self.as_vector(node, index)?;
            }
            parts.push(x);
        }
        let first = parts.first().ok_or("it has no inputs")?.clone();
        let at = axis(node.int("axis").unwrap_or(1), first.dims.len())?;
        for part in &parts {
            let compatible = part.dims.len() == first.dims.len()
                && (0..first.dims.len()).all(|i| i == at || part.dims[i] == first.dims[i])
                && size(&part.dims[at]) == part.shape.channels
                && part.axis(at).is_none_or(|axis| axis == Axis::Channel);
            if !compatible {
                return Err(
                    "only a concatenation along the channels, of tensors with the same order of axes, is supported"
                        .into(),
                );
            }
        }
        if parts.len() == 1 {
            return Ok(first);
        }
        let inputs: Vec<&SymbolicTensor> = parts.iter().collect();
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(Kind::Concat), &inputs)?;
        let mut dims = first.dims.clone();
        dims[at] = SymbolicTensor::vector(String::new(), shape.channels, 1).dims[1].clone();
        Ok(SymbolicTensor { name, shape, dims })
    }

    pub fn slice(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 {
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
            let from_first =
                range.start == 0 && range.step > 0 && range.number == extents[at].div_ceil(range.step as usize);
            match x.axis(at) {
                Some(Axis::Channel) if range.number > 0 => {
                    let position = |index: usize| range.start as i64 + index as i64 * range.step;
                    let chosen: Vec<usize> = (0..range.number).map(|index| position(index) as usize).collect();
                    x = self.select_channels(node, &x, at, &chosen)?;
                }
                Some(Axis::Row) if from_first => stride[0] = range.step as usize,
                Some(Axis::Column) if from_first => stride[1] = range.step as usize,
                _ => {
                    return Err(
                        "only a range of channels, channels in reverse, or every n-th row and column from the first, is supported".into()
                    );
                }
            }
        }
        if stride == [1, 1] {
            return Ok(x);
        }
        // Every n-th pixel: max pooling with a 1x1 window.
        let window = Window { kernel: [1, 1], stride, padding: Padding::default() };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(Kind::MaxPool(window)), &[&x])?;
        let plain = SymbolicTensor::channels_first(String::new(), x.shape, x.batch_size());
        let last = SymbolicTensor::channels_last(String::new(), x.shape, x.batch_size());
        if x.dims == plain.dims {
            Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
        } else if x.dims == last.dims {
            Ok(SymbolicTensor::channels_last(name, shape, x.batch_size()))
        } else {
            Err("its input is not a batch of feature maps".into())
        }
    }

    /// Gather along the channels, such as a change from RGB to BGR.
    pub fn gather(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 {
            x = self.as_vector(node, 0)?;
        }
        let at = axis(node.int("axis").unwrap_or(0), x.dims.len())?;
        let indices = self.required(node, 1)?;
        if x.channel_axis() != Some(at) || indices.dims.len() > 1 || indices.len() == 0 {
            return Err(
                "only a Gather along the channels, with a constant index or list of indices, is supported".into()
            );
        }
        let chosen = channel_indices(&indices, x.shape.channels)?;
        let mut result = self.select_channels(node, &x, at, &chosen)?;
        if indices.dims.is_empty() {
            result.dims.remove(at);
        }
        Ok(result)
    }

    /// GatherND along its first axis, the channels of a transposed tensor: PyTorch's exporter writes indexing by a list so.
    pub fn gather_nd(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let indices = self.required(node, 1)?;
        let supported = x.channel_axis() == Some(0)
            && node.int("batch_dims").unwrap_or(0) == 0
            && matches!(indices.dims.as_slice(), &[count, 1] if count > 0);
        if !supported {
            return Err("only a GatherND along the channels, with a constant list of indices, is supported".into());
        }
        self.select_channels(node, &x, 0, &channel_indices(&indices, x.shape.channels)?)
    }

    /// These channels, in this order; `at` is the ONNX axis of the channels. One slice for each run of channels.
    fn select_channels(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        at: usize,
        chosen: &[usize],
    ) -> Result<SymbolicTensor, String> {
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
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(Kind::Concat), &inputs)?;
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
        if x.dims.len() == 2 {
            x = self.as_vector(node, 0)?;
        }
        // A channel shuffle before a split (ShuffleNetV2) must become a layer of its own first.
        if x.shuffle().is_some() {
            x = self.as_feature_map(node, 0)?;
        }
        let at = axis(node.int("axis").unwrap_or(0), x.dims.len())?;
        let outputs = node.proto.output.len();
        let sizes = match node.ints("split") {
            Some(sizes) => sizes.to_vec(),
            None => match self.constant(node, 1)? {
                Some(sizes) => sizes.to_ints()?,
                None => {
                    let each = x.extents()[at].div_ceil(outputs.max(1));
                    let mut rest = x.extents()[at];
                    (0..outputs)
                        .map(|_| {
                            let size = each.min(rest);
                            rest -= size;
                            size as i64
                        })
                        .collect()
                }
            },
        };
        if x.axis(at) != Some(Axis::Channel) || sizes.len() != outputs {
            return Err("only a split of the channels into as many parts as it has outputs is supported".into());
        }
        let mut start = 0usize;
        let mut parts = Vec::new();
        for size in sizes {
            let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("a part of it is empty")?;
            parts.push(Value::Symbolic(self.channels(node, &x, at, start, size)?));
            start = start.checked_add(size).ok_or("its parts overflow")?;
        }
        Ok(parts)
    }
}

/// Indices of channels; negative ones count from the end.
fn channel_indices(indices: &Constant, channels: usize) -> Result<Vec<usize>, String> {
    let resolved = indices.to_ints()?.into_iter().map(|index| {
        let index = if index < 0 { index.checked_add(channels as i64)? } else { index };
        usize::try_from(index).ok().filter(|&index| index < channels)
    });
    resolved.collect::<Option<_>>().ok_or_else(|| format!("an index is outside its {channels} channels"))
}

/// The view of a tensor with other channels; `at` is the ONNX axis of the channels.
fn with_channels(x: &SymbolicTensor, at: usize, name: String, shape: Shape) -> SymbolicTensor {
    let mut dims = x.dims.clone();
    dims[at] = SymbolicTensor::vector(String::new(), shape.channels, 1).dims[1].clone();
    SymbolicTensor { name, shape, dims }
}
