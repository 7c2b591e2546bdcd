//! Operators that only change how a tensor is viewed (Reshape, Transpose, Squeeze), and the layers that restore (N, C, H,
//! W) or (N, F) order where another layer needs it.

use nettriage_net::{INPUT, Kind, layer};

use super::arrange::Arrangement;
use super::attributes::Node;
use super::axes::{axis, permutation, resolve};
use super::builder::Op;
use super::constant::{Constant, broadcast, element_type, is_integer};
use super::symbolic::{Axis, AxisFactor, SymbolicTensor, size};
use super::translate::{Translator, Value};

impl Translator {
    /// Input `index` as (N, C, H, W); a shuffle or reshape layer is added where it is not.
    pub fn as_feature_map(&mut self, node: &Node, index: usize) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, index)?;
        if x.is_plain() && x.dims.len() == 4 {
            return Ok(x);
        }
        // A batch of sequences (N, C, L) is one of feature maps with one row.
        if x.dims.len() == 3 && x.is_batch(0) {
            let place = Arrangement { channels: vec![1], rows: Vec::new(), columns: vec![2] };
            return self.arranged(node, &x, &place);
        }
        let kind = if let Some(groups) = x.shuffle() {
            Kind::ChannelShuffle(layer::ChannelShuffle { groups })
        } else if let Some(shape) = x.unflattened() {
            Kind::Reshape(layer::Reshape { shape })
        } else if x.dims.len() == 4 && x.is_batch(0) {
            let place = Arrangement { channels: vec![1], rows: vec![2], columns: vec![3] };
            let plain = self.arranged(node, &x, &place)?;
            return Ok(self.replace(node, index, plain));
        } else {
            return Err(format!("its input of shape {:?} is not a batch of feature maps (N, C, H, W)", x.extents()));
        };
        let suffix = if matches!(kind, Kind::Reshape(_)) { "reshape" } else { "shuffle" };
        let (name, shape) = self.add(node, &derived_name(&x, suffix), Op::Kind(kind), &[&x])?;
        let plain = SymbolicTensor::channels_first(name, shape, x.batch_size());
        Ok(self.replace(node, index, plain))
    }

    /// Input `index` as (N, F), a view of a tensor of shape (F, 1, 1) here; its features may be permuted.
    pub fn as_vector(&mut self, node: &Node, index: usize) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, index)?;
        if !x.is_vectors() {
            return Err(format!("its input of shape {:?} is not a batch of vectors (N, F)", x.extents()));
        }
        let (height, width) = (x.shape.height, x.shape.width);
        if (height, width) == (1, 1) {
            return Ok(x);
        }
        let (name, shape) = self.add(node, &derived_name(&x, "flatten"), Op::Kind(Kind::Flatten), &[&x])?;
        let flat = |factor: &AxisFactor| {
            let step = match factor.axis {
                Axis::Row => factor.step * width,
                Axis::Column => factor.step,
                _ => factor.step * height * width,
            };
            AxisFactor { axis: Axis::Channel, step, size: factor.size }
        };
        let features = x.dims[1].iter().map(flat).collect();
        let mut vector = SymbolicTensor::vector(name, shape.channels, x.batch_size());
        let whole = vector.dims[1].clone();
        vector.dims[1] = features;
        // In (C, H, W) order the features are one factor; without this the view would keep three.
        if x.in_feature_order() {
            vector.dims[1] = whole;
        }
        Ok(self.replace(node, index, vector))
    }

    /// Later uses of the tensor take the new layer too.
    fn replace(&mut self, node: &Node, index: usize, x: SymbolicTensor) -> SymbolicTensor {
        if let Some(name) = node.input(index) {
            self.values.insert(name.to_string(), Value::Symbolic(x.clone()));
        }
        x
    }

    pub fn reshaping(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let extents = x.extents();
        match node.op() {
            "Cast" if is_integer(element_type(node.int("to").unwrap_or(1) as i32)) => {
                Err("it rounds a tensor to integers, which is not supported".into())
            }
            "Identity" | "Cast" | "CastLike" => Ok(x),
            "Flatten" => {
                let rank = extents.len();
                let at = node.int("axis").unwrap_or(1);
                let at = if at == rank as i64 { rank } else { axis(at, rank)? };
                let sides = [extents[..at].iter().product(), extents[at..].iter().product()];
                x.reshaped(&sides)
            }
            "Reshape" => {
                let target = self.required(node, 1)?.to_ints()?;
                let target = resolve(&target, &extents, node.int("allowzero") == Some(1))?;
                match x.reshaped(&target) {
                    Ok(view) => Ok(view),
                    // The elements in the order of the ONNX tensor, so that any reshape is a view.
                    Err(problem) => {
                        let channels: Vec<usize> = (0..extents.len()).filter(|&at| !x.is_batch(at)).collect();
                        let place = Arrangement { channels, ..Arrangement::default() };
                        self.arranged(node, &x, &place).map_err(|_| problem)?.reshaped(&target)
                    }
                }
            }
            "Transpose" => {
                let reversed: Vec<i64> = (0..extents.len() as i64).rev().collect();
                Ok(x.transposed(&permutation(node.ints("perm").unwrap_or(&reversed), extents.len())?))
            }
            "Expand" => {
                let target = self.required(node, 1)?.to_ints()?;
                let same = target.len() <= extents.len()
                    && target.iter().rev().zip(extents.iter().rev()).all(|(&t, &e)| t == 1 || t == e as i64);
                if same {
                    return Ok(x);
                }
                let rank = target.len().max(extents.len());
                let view = x.of_rank(rank);
                let mut wanted: Vec<usize> = (0..rank).map(|at| view.own_extent(at)).collect();
                for (at, &extent) in target.iter().rev().enumerate() {
                    let at = rank - 1 - at;
                    let extent = usize::try_from(extent).map_err(|_| "an extent of it is negative")?;
                    if !view.has_batch(at) && wanted[at] == 1 {
                        wanted[at] = extent.max(1);
                    }
                }
                self.expanded(node, &view, &wanted)
            }
            "Squeeze" => {
                let axes = self.axes(node, extents.len())?;
                let mut dims = Vec::new();
                for (at, dim) in x.dims.iter().enumerate() {
                    let chosen = axes.as_ref().map_or(at > 0 && extents[at] == 1, |axes| axes.contains(&at));
                    if chosen && (!dim.is_empty()) {
                        return Err(format!("axis {at} of {extents:?} has an extent above 1 and cannot be squeezed"));
                    }
                    if !chosen {
                        dims.push(dim.clone());
                    }
                }
                Ok(SymbolicTensor { dims, ..x })
            }
            _ => {
                let given = self.listed_axes(node)?.ok_or("it has no axes")?;
                let rank = extents.len() + given.len();
                let axes = given.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
                let mut rest = x.dims.iter();
                let dims = (0..rank).map(|at| if axes.contains(&at) { Some(Vec::new()) } else { rest.next().cloned() });
                let dims = dims.collect::<Option<Vec<_>>>().ok_or("its axes repeat")?;
                Ok(SymbolicTensor { dims, ..x })
            }
        }
    }

    /// Axes by attribute (older operator sets) or by input.
    fn listed_axes(&self, node: &Node) -> Result<Option<Vec<i64>>, String> {
        match node.ints("axes") {
            Some(axes) => Ok(Some(axes.to_vec())),
            None => self.constant(node, 1)?.map(|constant| constant.to_ints()).transpose(),
        }
    }

    pub fn axes(&self, node: &Node, rank: usize) -> Result<Option<Vec<usize>>, String> {
        let listed = self.listed_axes(node)?;
        listed.map(|axes| axes.iter().map(|&at| axis(at, rank)).collect()).transpose()
    }

    /// One number per channel from a constant that is broadcast to `x`; it may vary along the channels only.
    pub fn per_channel(&self, x: &SymbolicTensor, constant: &Constant) -> Result<Constant, String> {
        let extents = x.extents();
        let channels = x.shape.channels;
        let fits = broadcast(&constant.dims, &extents).is_some_and(|dims| dims == extents);
        let problem = || format!("a constant of {:?} on {extents:?} is not one number per channel", constant.dims);
        if let Some(value) = constant.uniform().filter(|_| fits || constant.len() == 1) {
            return Constant::fill(vec![channels], value, false);
        }
        let missing = extents.len().saturating_sub(constant.dims.len());
        let varying: Vec<usize> =
            (0..constant.dims.len()).filter(|&i| constant.dims[i] != 1).map(|i| i + missing).collect();
        let ([at], true) = (varying.as_slice(), fits) else { return Err(problem()) };
        let factors = &x.dims[*at];
        if factors.iter().any(|factor| factor.axis != Axis::Channel) || size(factors) != channels {
            return Err(problem());
        }
        let mut order = vec![0];
        for factor in factors {
            order = order.iter().flat_map(|&base| (0..factor.size).map(move |i| base + i * factor.step)).collect();
        }
        let mut values = vec![0.0; channels];
        order.iter().enumerate().for_each(|(index, &channel)| values[channel] = constant.get(index) as f32);
        Ok(Constant::floats(vec![channels], values))
    }
}

/// A name for a layer without an ONNX node: that of its input with a suffix.
pub fn derived_name(x: &SymbolicTensor, suffix: &str) -> String {
    if x.name == INPUT { suffix.to_string() } else { format!("{}.{suffix}", x.name) }
}
