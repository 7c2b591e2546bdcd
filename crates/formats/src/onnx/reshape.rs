//! Operators that move nothing, and what makes a tensor plain where a layer needs it so.

use super::attributes::{Node, axis};
use super::constant::Constant;
use super::import::{Importer, Op, Value};
use super::view::{Atom, Axis, Live};
use nettriage_net::{INPUT, Kind, layer};

impl Importer {
    /// The input at that place as (N, C, H, W), by a layer where it is not.
    pub fn picture(&mut self, node: &Node, index: usize) -> Result<Live, String> {
        let live = self.live(node, index)?;
        if live.is_plain() && live.dims.len() == 4 {
            return Ok(live);
        }
        let kind = if let Some(groups) = live.shuffle() {
            Kind::ChannelShuffle(layer::ChannelShuffle { groups })
        } else if let Some(shape) = live.unflattened() {
            Kind::Reshape(layer::Reshape { shape })
        } else {
            return Err(format!("its input of shape {:?} is no batch of pictures (N, C, H, W)", live.extents()));
        };
        let word = if matches!(kind, Kind::Reshape(_)) { "reshape" } else { "shuffle" };
        let (name, shape) = self.emit(node, &beside(&live, word), Op::Kind(kind), &[&live])?;
        let plain = Live::picture(name, shape, live.batch_size());
        Ok(self.replace(node, index, plain))
    }

    /// The input at that place as (N, F) of a tensor of ours of shape (F, 1, 1), its features perhaps in another order.
    pub fn vector(&mut self, node: &Node, index: usize) -> Result<Live, String> {
        let live = self.live(node, index)?;
        if live.feature_order().is_none() {
            return Err(format!("its input of shape {:?} is no batch of vectors (N, F)", live.extents()));
        }
        let (height, width) = (live.shape.height, live.shape.width);
        if (height, width) == (1, 1) {
            return Ok(live);
        }
        let (name, shape) = self.emit(node, &beside(&live, "flatten"), Op::Kind(Kind::Flatten), &[&live])?;
        let flat = |atom: &Atom| {
            let step = match atom.axis {
                Axis::Row => atom.step * width,
                Axis::Column => atom.step,
                _ => atom.step * height * width,
            };
            Atom { axis: Axis::Channel, step, size: atom.size }
        };
        let features = live.dims[1].iter().map(flat).collect();
        let mut vector = Live::vector(name, shape.channels, live.batch_size());
        let whole = vector.dims[1].clone();
        vector.dims[1] = features;
        // (C, H, W) order is one stretch of the vector; the view would otherwise keep its three atoms.
        if live.feature_order().is_some_and(|order| order.iter().enumerate().all(|(i, &at)| i == at)) {
            vector.dims[1] = whole;
        }
        Ok(self.replace(node, index, vector))
    }

    /// What was made plain once stays so for the tensor's other uses.
    fn replace(&mut self, node: &Node, index: usize, live: Live) -> Live {
        if let Some(name) = node.input(index) {
            self.values.insert(name.to_string(), Value::Live(live.clone()));
        }
        live
    }

    pub fn reshaping(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.live(node, 0)?;
        let extents = live.extents();
        match node.op() {
            "Identity" | "Cast" => Ok(live),
            "Flatten" => {
                let rank = extents.len();
                let at = node.int("axis").unwrap_or(1);
                let at = if at == rank as i64 { rank } else { axis(at, rank)? };
                let sides = [extents[..at].iter().product(), extents[at..].iter().product()];
                live.reshaped(&sides)
            }
            "Reshape" => {
                let target = self.needed(node, 1)?.to_ints()?;
                live.reshaped(&resolve(&target, &extents, node.int("allowzero") == Some(1))?)
            }
            "Transpose" => {
                let reversed: Vec<i64> = (0..extents.len() as i64).rev().collect();
                Ok(live.transposed(&permutation(node.ints("perm").unwrap_or(&reversed), extents.len())?))
            }
            "Expand" => {
                let target = self.needed(node, 1)?.to_ints()?;
                let same = target.len() <= extents.len()
                    && target.iter().rev().zip(extents.iter().rev()).all(|(&t, &e)| t == 1 || t == e as i64);
                if same { Ok(live) } else { Err("only an Expand that changes nothing has a place here".into()) }
            }
            "Squeeze" => {
                let axes = self.axes(node, extents.len())?;
                let mut dims = Vec::new();
                for (at, dim) in live.dims.iter().enumerate() {
                    let chosen = axes.as_ref().map_or(at > 0 && extents[at] == 1, |axes| axes.contains(&at));
                    if chosen && (!dim.is_empty()) {
                        return Err(format!("axis {at} of {extents:?} cannot be taken away"));
                    }
                    if !chosen {
                        dims.push(dim.clone());
                    }
                }
                Ok(Live { dims, ..live })
            }
            _ => {
                let given = self.listed_axes(node)?.ok_or("it has no axes")?;
                let rank = extents.len() + given.len();
                let axes = given.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
                let mut rest = live.dims.iter();
                let dims = (0..rank).map(|at| if axes.contains(&at) { Some(Vec::new()) } else { rest.next().cloned() });
                let dims = dims.collect::<Option<Vec<_>>>().ok_or("its axes repeat")?;
                Ok(Live { dims, ..live })
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

    /// Layer weights that a constant of ONNX's shape gives our tensor's channels, which it must vary over alone.
    pub fn per_channel(&self, live: &Live, constant: &Constant) -> Result<Constant, String> {
        let extents = live.extents();
        let channels = live.shape.channels;
        let fits = super::constant::broadcast(&constant.dims, &extents).is_some_and(|dims| dims == extents);
        let problem = || format!("a constant of {:?} on {extents:?} is not one number a channel", constant.dims);
        if let Some(value) = constant.uniform().filter(|_| fits || constant.len() == 1) {
            return Constant::fill(vec![channels], value, false);
        }
        let missing = extents.len().saturating_sub(constant.dims.len());
        let varying: Vec<usize> =
            (0..constant.dims.len()).filter(|&i| constant.dims[i] != 1).map(|i| i + missing).collect();
        let ([at], true) = (varying.as_slice(), fits) else { return Err(problem()) };
        let atoms = &live.dims[*at];
        if atoms.iter().any(|atom| atom.axis != Axis::Channel) || super::view::size(atoms) != channels {
            return Err(problem());
        }
        let mut order = vec![0];
        for atom in atoms {
            order = order.iter().flat_map(|&base| (0..atom.size).map(move |i| base + i * atom.step)).collect();
        }
        let mut values = vec![0.0; channels];
        order.iter().enumerate().for_each(|(index, &channel)| values[channel] = constant.get(index) as f32);
        Ok(Constant::floats(vec![channels], values))
    }
}

/// A name for a layer that ONNX has not: after the tensor that it works on.
fn beside(live: &Live, word: &str) -> String {
    if live.tensor == INPUT { word.to_string() } else { format!("{}.{word}", live.tensor) }
}

/// The extents that a Reshape asks for: 0 copies, -1 takes what is left.
pub fn resolve(target: &[i64], extents: &[usize], zero_is_zero: bool) -> Result<Vec<usize>, String> {
    let fail = || format!("{extents:?} cannot be reshaped to {target:?}");
    let total = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).ok_or_else(fail)?;
    let mut open = None;
    let mut result = Vec::with_capacity(target.len().min(16));
    for (at, &extent) in target.iter().enumerate() {
        result.push(match extent {
            0 if !zero_is_zero => *extents.get(at).ok_or_else(fail)?,
            -1 if open.is_none() => {
                open = Some(at);
                1
            }
            _ => usize::try_from(extent).map_err(|_| fail())?,
        });
    }
    let known = result.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).ok_or_else(fail)?;
    if let Some(at) = open {
        if known == 0 || !total.is_multiple_of(known) {
            return Err(fail());
        }
        result[at] = total / known;
    } else if known != total {
        return Err(fail());
    }
    Ok(result)
}

pub fn permutation(order: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let axes = order.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = axes.clone();
    seen.sort_unstable();
    if seen.len() != rank || seen.iter().enumerate().any(|(i, &at)| i != at) {
        return Err(format!("{order:?} is no order of {rank} axes"));
    }
    Ok(axes)
}
