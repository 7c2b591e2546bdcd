//! Operators on several tensors, and their parts: arithmetic, joining, splitting.

use super::attributes::{Node, axis};
use super::constant::Constant;
use super::fold::slices;
use super::import::{Function, Importer, Op, Value, hint};
use super::view::{Axis, Dim, Live};
use nettriage_net::{Kind, Padding, Window, layer};

impl Importer {
    pub fn arithmetic(&mut self, node: &Node) -> Result<Live, String> {
        if node.op() == "Neg" {
            let live = self.live(node, 0)?;
            return self.scaled(node, &live, Some(Constant::floats(Vec::new(), vec![-1.0])), None);
        }
        let count = node.proto.input.len();
        if count == 0 {
            return Err("it has no inputs".into());
        }
        let mut left = self.operand(node, 0)?;
        for index in 1..count {
            let right = self.operand(node, index)?;
            left = self.combined(node, left, right)?;
        }
        match left {
            Value::Live(live) => Ok(live),
            Value::Constant(_) => Err("it does not depend on the image".into()),
        }
    }

    fn operand(&mut self, node: &Node, index: usize) -> Result<Value, String> {
        let value = node.input(index).and_then(|name| self.values.get(name)).cloned();
        value.ok_or_else(|| format!("its input {index} is missing"))
    }

    fn combined(&mut self, node: &Node, left: Value, right: Value) -> Result<Value, String> {
        let live = match (node.op(), left, right) {
            ("Add" | "Sum", Value::Live(live), Value::Constant(c))
            | ("Add" | "Sum", Value::Constant(c), Value::Live(live)) => self.scaled(node, &live, None, Some(c)),
            ("Mul", Value::Live(live), Value::Constant(c)) | ("Mul", Value::Constant(c), Value::Live(live)) => {
                self.scaled(node, &live, Some(c), None)
            }
            ("Sub", Value::Live(live), Value::Constant(c)) => self.scaled(node, &live, None, Some(c.mapped(|v| -v))),
            ("Sub", Value::Constant(c), Value::Live(live)) => {
                self.scaled(node, &live, Some(Constant::floats(Vec::new(), vec![-1.0])), Some(c))
            }
            ("Div", Value::Live(live), Value::Constant(c)) => {
                self.scaled(node, &live, Some(c.cast(false).mapped(f64::recip)), None)
            }
            ("Max", Value::Live(live), Value::Constant(c)) | ("Max", Value::Constant(c), Value::Live(live)) => {
                let bound = c.scalar().ok_or("its bound is no single number")? as f32;
                self.clipped(node, &live, bound.max(f32::MIN), f32::MAX)
            }
            ("Min", Value::Live(live), Value::Constant(c)) | ("Min", Value::Constant(c), Value::Live(live)) => {
                let bound = c.scalar().ok_or("its bound is no single number")? as f32;
                self.clipped(node, &live, f32::MIN, bound.min(f32::MAX))
            }
            ("Add" | "Sum", Value::Live(a), Value::Live(b)) => self.join(node, Kind::Add, &a, &b),
            ("Mul", Value::Live(a), Value::Live(b)) => self.join(node, Kind::Mul, &a, &b),
            ("Div", Value::Live(a), Value::Live(b)) if a.shape == b.shape && a.dims == b.dims => {
                let divide = Op::Function(Function::Divide);
                self.emit(node, &hint(node), divide, &[&a, &b]).map(|(name, _)| a.with(name))
            }
            ("Sub", Value::Live(a), Value::Live(b)) => {
                let minus = self.scaled(node, &b, Some(Constant::floats(Vec::new(), vec![-1.0])), None)?;
                self.join(node, Kind::Add, &a, &minus)
            }
            _ => Err("this use of it has no layer here; replace it in the model, or cut the model before it".into()),
        };
        live.map(Value::Live)
    }

    /// live * scale + shift, constants of one number a channel.
    fn scaled(
        &mut self,
        node: &Node,
        live: &Live,
        scale: Option<Constant>,
        shift: Option<Constant>,
    ) -> Result<Live, String> {
        let one = |value: f64| Constant::fill(vec![live.shape.channels], value, false);
        let vector = |given: Option<Constant>, usual: f64| match given {
            Some(constant) => self.per_channel(live, &constant.cast(false)),
            None => one(usual),
        };
        let (scale, shift) = (vector(scale, 1.0)?, vector(shift, 0.0)?);
        self.affine(node, live, scale, shift)
    }

    /// A sum or product of two tensors of which one may be (N, C, 1, 1).
    fn join(&mut self, node: &Node, kind: Kind, a: &Live, b: &Live) -> Result<Live, String> {
        let problem = || format!("its inputs of shapes {:?} and {:?} do not lie alike", a.extents(), b.extents());
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
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[a, b])?;
        Ok(Live { tensor: name, shape, dims })
    }

    pub fn concat(&mut self, node: &Node) -> Result<Live, String> {
        let mut parts = Vec::new();
        for index in 0..node.proto.input.len() {
            let mut live = self.live(node, index)?;
            if live.dims.len() == 2 {
                live = self.vector(node, index)?;
            }
            parts.push(live);
        }
        let first = parts.first().ok_or("it has no inputs")?.clone();
        let at = axis(node.int("axis").unwrap_or(1), first.dims.len())?;
        for part in &parts {
            let alike = part.dims.len() == first.dims.len()
                && (0..first.dims.len()).all(|i| i == at || part.dims[i] == first.dims[i])
                && super::view::size(&part.dims[at]) == part.shape.channels
                && part.axis(at).is_none_or(|axis| axis == Axis::Channel);
            if !alike {
                return Err("only tensors that lie alike, joined along their channels, have a layer here".into());
            }
        }
        if parts.len() == 1 {
            return Ok(first);
        }
        let inputs: Vec<&Live> = parts.iter().collect();
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(Kind::Concat), &inputs)?;
        let mut dims = first.dims.clone();
        dims[at] = Live::vector(String::new(), shape.channels, 1).dims[1].clone();
        Ok(Live { tensor: name, shape, dims })
    }

    pub fn slice(&mut self, node: &Node) -> Result<Live, String> {
        let mut live = self.live(node, 0)?;
        if live.dims.len() == 2 {
            live = self.vector(node, 0)?;
        }
        if live.shuffle().is_some() {
            live = self.picture(node, 0)?;
        }
        let extents = live.extents();
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
            match live.axis(at) {
                Some(Axis::Channel) if range.step == 1 && range.number > 0 => {
                    live = self.channels(node, &live, at, range.start, range.number)?;
                }
                Some(Axis::Row) if from_first => stride[0] = range.step as usize,
                Some(Axis::Column) if from_first => stride[1] = range.step as usize,
                _ => {
                    return Err(
                        "only a run of channels, or every n-th row and column from the first on, has a layer here"
                            .into(),
                    );
                }
            }
        }
        if stride == [1, 1] {
            return Ok(live);
        }
        // Every n-th pixel: max-pooling whose window is that pixel alone.
        let window = Window { kernel: [1, 1], stride, padding: Padding::default() };
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(Kind::MaxPool(window)), &[&live])?;
        let plain = Live::picture(String::new(), live.shape, live.batch_size());
        let last = Live::channels_last(String::new(), live.shape, live.batch_size());
        if live.dims == plain.dims {
            Ok(Live::picture(name, shape, live.batch_size()))
        } else if live.dims == last.dims {
            Ok(Live::channels_last(name, shape, live.batch_size()))
        } else {
            Err("its input is no batch of pictures".into())
        }
    }

    /// Channels `start..start + number`, which the ONNX axis `at` runs over.
    fn channels(&mut self, node: &Node, live: &Live, at: usize, start: usize, number: usize) -> Result<Live, String> {
        let kind = Kind::Slice(layer::Slice { start, end: start + number });
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[live])?;
        let mut dims = live.dims.clone();
        dims[at] = Live::vector(String::new(), shape.channels, 1).dims[1].clone();
        Ok(Live { tensor: name, shape, dims })
    }

    pub fn split(&mut self, node: &Node) -> Result<Vec<Value>, String> {
        let mut live = self.live(node, 0)?;
        if live.dims.len() == 2 {
            live = self.vector(node, 0)?;
        }
        // A shuffle before a split, as in ShuffleNetV2, must have happened by then.
        if live.shuffle().is_some() {
            live = self.picture(node, 0)?;
        }
        let at = axis(node.int("axis").unwrap_or(0), live.dims.len())?;
        let outputs = node.proto.output.len();
        let sizes = match node.ints("split") {
            Some(sizes) => sizes.to_vec(),
            None => match self.constant(node, 1)? {
                Some(sizes) => sizes.to_ints()?,
                None => {
                    let each = live.extents()[at].div_ceil(outputs.max(1));
                    let mut rest = live.extents()[at];
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
        if live.axis(at) != Some(Axis::Channel) || sizes.len() != outputs {
            return Err("only a split of the channels into as many parts as it has outputs has a layer here".into());
        }
        let mut start = 0usize;
        let mut parts = Vec::new();
        for size in sizes {
            let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("a part of it is empty")?;
            parts.push(Value::Live(self.channels(node, &live, at, start, size)?));
            start = start.checked_add(size).ok_or("its parts overflow")?;
        }
        Ok(parts)
    }
}
