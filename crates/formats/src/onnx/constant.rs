//! Constants of an ONNX graph: initializers and folded nodes.

use std::path::Path;
use std::rc::Rc;

use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};
use crate::safetensors::half;
use crate::strided::StridedIndices;

/// The most elements of a folded constant: this number, or this multiple of the elements that its inputs hold in memory.
const FEW_ELEMENTS: usize = 1 << 15;
const MAX_GROWTH: usize = 512;
/// The most elements of a folded constant that is more than this multiple of its inputs.
const MAX_FOLDED: usize = 1 << 24;
const SMALL_GROWTH: usize = 4;
/// The most elements of one constant, declared or filled.
const MAX_ELEMENTS: usize = 1 << 30;

/// A constant tensor: floating-point or integer.
#[derive(Clone, Debug)]
pub struct Constant {
    pub dims: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    /// All elements equal, stored once.
    Fill(f64, bool),
    Floats(Rc<[f32]>),
    Ints(Rc<[i64]>),
    /// Integers of 8 bits, as quantised weights are stored.
    Int8(Rc<[i8]>),
    Uint8(Rc<[u8]>),
}

fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_ELEMENTS)
}

impl Constant {
    pub fn ints(dims: Vec<usize>, values: Vec<i64>) -> Constant {
        debug_assert_eq!(count(&dims), Some(values.len()));
        Constant { dims, data: Data::Ints(values.into()) }
    }

    pub fn floats(dims: Vec<usize>, values: Vec<f32>) -> Constant {
        debug_assert_eq!(count(&dims), Some(values.len()));
        Constant { dims, data: Data::Floats(values.into()) }
    }

    pub fn fill(dims: Vec<usize>, value: f64, is_int: bool) -> Result<Constant, String> {
        count(&dims).ok_or_else(|| format!("a constant of {dims:?} is too large"))?;
        Ok(Constant { dims, data: Data::Fill(value, is_int) })
    }

    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Elements in memory that no other constant shares.
    pub fn owned(&self) -> usize {
        let shared = match &self.data {
            Data::Fill(..) => true,
            Data::Floats(values) => Rc::strong_count(values) > 1,
            Data::Ints(values) => Rc::strong_count(values) > 1,
            Data::Int8(values) => Rc::strong_count(values) > 1,
            Data::Uint8(values) => Rc::strong_count(values) > 1,
        };
        if shared { 0 } else { self.len() }
    }

    /// Elements in memory, shared or not.
    pub fn stored(&self) -> usize {
        if matches!(self.data, Data::Fill(..)) { 0 } else { self.len() }
    }

    pub fn is_int(&self) -> bool {
        matches!(self.data, Data::Ints(_) | Data::Int8(_) | Data::Uint8(_) | Data::Fill(_, true))
    }

    /// Element `index` in row-major order.
    pub fn get(&self, index: usize) -> f64 {
        match &self.data {
            Data::Fill(value, _) => *value,
            Data::Floats(values) => f64::from(values[index]),
            Data::Ints(values) => values[index] as f64,
            Data::Int8(values) => f64::from(values[index]),
            Data::Uint8(values) => f64::from(values[index]),
        }
    }

    fn get_int(&self, index: usize) -> i64 {
        match &self.data {
            Data::Ints(values) => values[index],
            _ => self.get(index) as i64,
        }
    }

    /// The elements as numbers of 32 bits.
    pub fn to_floats(&self) -> Vec<f32> {
        match &self.data {
            Data::Fill(value, _) => vec![*value as f32; self.len()],
            Data::Floats(values) => values.to_vec(),
            Data::Ints(values) => values.iter().map(|&v| v as f32).collect(),
            Data::Int8(values) => values.iter().map(|&v| f32::from(v)).collect(),
            Data::Uint8(values) => values.iter().map(|&v| f32::from(v)).collect(),
        }
    }

    /// The elements as integers, at most 2^20.
    pub fn to_ints(&self) -> Result<Vec<i64>, String> {
        if self.len() > 1 << 20 || limited(&self.dims, &[self]).is_err() {
            return Err(format!("a list of {} integers is too long", self.len()));
        }
        Ok((0..self.len()).map(|index| self.get_int(index)).collect())
    }

    /// The only element of a tensor with one.
    pub fn scalar(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.get(0))
    }

    /// The value of all elements if they are equal.
    pub fn uniform(&self) -> Option<f64> {
        if let Data::Fill(value, _) = self.data {
            return Some(value);
        }
        let first = (self.len() > 0).then(|| self.get(0))?;
        (1..self.len()).all(|index| self.get(index) == first).then_some(first)
    }

    pub fn reshaped(&self, dims: Vec<usize>) -> Result<Constant, String> {
        if count(&dims) != Some(self.len()) {
            return Err(format!("{:?} cannot become {dims:?}", self.dims));
        }
        Ok(Constant { dims, data: self.data.clone() })
    }

    pub fn cast(&self, to_int: bool) -> Constant {
        let data = match (&self.data, to_int) {
            (Data::Fill(value, _), true) => Data::Fill(value.trunc(), true),
            (Data::Fill(value, _), false) => Data::Fill(*value, false),
            (Data::Floats(values), true) => Data::Ints(values.iter().map(|&v| v as i64).collect()),
            (Data::Ints(_) | Data::Int8(_) | Data::Uint8(_), false) => Data::Floats(self.to_floats().into()),
            (data, _) => data.clone(),
        };
        Constant { dims: self.dims.clone(), data }
    }

    /// Elements selected by index, in a new shape.
    fn select(&self, dims: Vec<usize>, index: impl Iterator<Item = usize>) -> Constant {
        let data = match &self.data {
            Data::Fill(value, is_int) => Data::Fill(*value, *is_int),
            Data::Floats(values) => Data::Floats(index.map(|i| values[i]).collect()),
            Data::Ints(values) => Data::Ints(index.map(|i| values[i]).collect()),
            Data::Int8(values) => Data::Int8(index.map(|i| values[i]).collect()),
            Data::Uint8(values) => Data::Uint8(index.map(|i| values[i]).collect()),
        };
        Constant { dims, data }
    }

    pub fn transposed(&self, order: &[usize]) -> Constant {
        let strides = strides(&self.dims);
        let dims: Vec<usize> = order.iter().map(|&axis| self.dims[axis]).collect();
        let steps: Vec<isize> = order.iter().map(|&axis| strides[axis]).collect();
        let indices = StridedIndices::new(0, &dims, &steps);
        self.select(dims, indices)
    }

    /// `indices` along `axis` (ONNX `Gather`): a scalar index removes the axis.
    pub fn gathered(&self, axis: usize, indices: &Constant) -> Result<Constant, String> {
        let extent = self.dims[axis];
        let outer: usize = self.dims[..axis].iter().product();
        let inner: usize = self.dims[axis + 1..].iter().product();
        let mut chosen = Vec::new();
        for index in indices.to_ints()? {
            let index = if index < 0 { index + extent as i64 } else { index };
            chosen.push(usize::try_from(index).ok().filter(|&i| i < extent).ok_or("an index lies outside")?);
        }
        let mut dims = self.dims[..axis].to_vec();
        dims.extend(&indices.dims);
        dims.extend(&self.dims[axis + 1..]);
        if !matches!(self.data, Data::Fill(..)) {
            limited(&dims, &[self, indices])?;
        }
        let index = (0..outer).flat_map(|o| {
            let chosen = &chosen;
            chosen.iter().flat_map(move |i| (0..inner).map(move |n| (o * extent + i) * inner + n))
        });
        Ok(self.select(dims, index))
    }

    /// Every `step`-th element from `start` on, `number` of them, along `axis`.
    pub fn sliced(&self, axis: usize, start: usize, step: i64, number: usize) -> Constant {
        let mut dims = self.dims.clone();
        dims[axis] = number;
        let mut steps = strides(&self.dims);
        let first = start.saturating_mul(steps[axis] as usize);
        steps[axis] = steps[axis].saturating_mul(step as isize);
        let indices = StridedIndices::new(first, &dims, &steps);
        self.select(dims, indices)
    }

    pub fn concatenated(parts: &[&Constant], axis: usize) -> Result<Constant, String> {
        let first = parts[0];
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        for part in parts {
            let same =
                part.dims.len() == dims.len() && (0..dims.len()).all(|i| i == axis || part.dims[i] == first.dims[i]);
            if !same || part.is_int() != first.is_int() {
                return Err("the shapes of its constants do not match".into());
            }
            dims[axis] += part.dims[axis];
        }
        limited(&dims, parts)?;
        let outer: usize = dims[..axis].iter().product();
        let runs = (0..outer).flat_map(|o| parts.iter().map(move |part| (o, part)));
        let chunks = runs.flat_map(|(o, part)| {
            let run: usize = part.dims[axis..].iter().product();
            (o * run..(o + 1) * run).map(move |index| (part, index))
        });
        Ok(if first.is_int() {
            Constant::ints(dims.clone(), chunks.map(|(part, index)| part.get_int(index)).collect())
        } else {
            Constant::floats(dims.clone(), chunks.map(|(part, index)| part.get(index) as f32).collect())
        })
    }

    pub fn mapped(&self, function: impl Fn(f64) -> f64) -> Constant {
        let data = match &self.data {
            Data::Fill(value, is_int) => Data::Fill(function(*value), *is_int),
            Data::Floats(values) => Data::Floats(values.iter().map(|&v| function(f64::from(v)) as f32).collect()),
            _ => Data::Ints((0..self.len()).map(|index| function(self.get(index)) as i64).collect()),
        };
        Constant { dims: self.dims.clone(), data }
    }

    /// Elementwise, with NumPy's broadcasting.
    pub fn combined(&self, other: &Constant, function: impl Fn(f64, f64) -> f64) -> Result<Constant, String> {
        let dims = broadcast(&self.dims, &other.dims).ok_or("the shapes of its constants do not match")?;
        let is_int = self.is_int() && other.is_int();
        let single = |constant: &Constant| match constant.data {
            Data::Fill(value, _) => Some(value),
            _ => constant.scalar(),
        };
        if let (Some(a), Some(b)) = (single(self), single(other)) {
            return Constant::fill(dims, function(a, b), is_int);
        }
        // The result may be large only if one of the inputs is as large.
        if ![self, other].iter().any(|constant| constant.dims == dims && !matches!(constant.data, Data::Fill(..))) {
            limited(&dims, &[self, other])?;
        }
        let indices = |constant: &Constant| StridedIndices::new(0, &dims, &broadcast_strides(&constant.dims, &dims));
        let values = indices(self).zip(indices(other)).map(|(i, j)| function(self.get(i), other.get(j)));
        Ok(if is_int {
            Constant::ints(dims.clone(), values.map(|v| v as i64).collect())
        } else {
            Constant::floats(dims.clone(), values.map(|v| v as f32).collect())
        })
    }

    /// Combines the elements along `axes` in f64: `step` takes the intermediate result, starting at `initial`, and the next
    /// element; `finish` takes the result and the number of elements. The axes keep extent 1 if `keep`.
    pub fn reduced(
        &self,
        axes: &[usize],
        keep: bool,
        initial: f64,
        step: impl Fn(f64, f64) -> f64,
        finish: impl Fn(f64, f64) -> f64,
    ) -> Result<Constant, String> {
        if matches!(self.data, Data::Fill(..)) && self.len() > MAX_FOLDED {
            return Err(format!("a reduction of {:?} equal numbers takes too much computation", self.dims));
        }
        let extent = |at: usize| if axes.contains(&at) { 1 } else { self.dims[at] };
        let wide: Vec<usize> = (0..self.dims.len()).map(extent).collect();
        limited(&wide, &[self])?;
        let mut sums = vec![initial; wide.iter().product()];
        let targets = StridedIndices::new(0, &self.dims, &broadcast_strides(&wide, &self.dims));
        for (index, target) in targets.enumerate() {
            sums[target] = step(sums[target], self.get(index));
        }
        let count: usize = axes.iter().map(|&at| self.dims[at]).product();
        let values = sums.into_iter().map(|sum| finish(sum, count as f64));
        let dims: Vec<usize> = (0..wide.len()).filter(|at| keep || !axes.contains(at)).map(|at| wide[at]).collect();
        Ok(if self.is_int() {
            Constant::ints(dims, values.map(|value| value as i64).collect())
        } else {
            Constant::floats(dims, values.map(|value| value as f32).collect())
        })
    }

    /// (x − zero) · scale in one pass, without a copy of the integers; both broadcast to the shape of x.
    pub fn dequantized(&self, scale: &Constant, zero: &Constant) -> Result<Constant, String> {
        for other in [scale, zero] {
            if broadcast(&self.dims, &other.dims).as_ref() != Some(&self.dims) {
                return Err(format!("{:?} does not broadcast to {:?}", other.dims, self.dims));
            }
        }
        if matches!(self.data, Data::Fill(..)) {
            limited(&self.dims, &[self, scale, zero])?;
        }
        let indices =
            |constant: &Constant| StridedIndices::new(0, &self.dims, &broadcast_strides(&constant.dims, &self.dims));
        let values = indices(scale).zip(indices(zero)).enumerate();
        let values = values.map(|(index, (at, z))| ((self.get(index) - zero.get(z)) as f32) * scale.get(at) as f32);
        Ok(Constant::floats(self.dims.clone(), values.collect()))
    }

    /// One number per position of `axis`, or a scalar, in a shape that broadcasts to tensors of this rank.
    pub fn along_axis(&self, axis: usize, rank: usize) -> Result<Constant, String> {
        let mut dims = vec![1; rank];
        if self.len() != 1 {
            dims[axis] = self.len();
        }
        self.reshaped(dims)
    }

    /// From a tensor of the file; `folder` is where its external data are.
    pub fn from_proto(tensor: &TensorProto, folder: Option<&Path>) -> Result<Constant, String> {
        let mut dims = Vec::with_capacity(tensor.dims.len().min(16));
        for &dim in &tensor.dims {
            dims.push(usize::try_from(dim).map_err(|_| format!("an extent of {dim}"))?);
        }
        let len = count(&dims).ok_or_else(|| format!("a constant of {dims:?} is too large"))?;
        let external;
        let raw: &[u8] = if tensor.data_location() == DataLocation::External || !tensor.external_data.is_empty() {
            external = external_data(tensor, folder)?;
            &external
        } else {
            &tensor.raw_data
        };
        let data = if raw.is_empty() { typed(tensor)? } else { from_raw(tensor.data_type, raw)? };
        let held = match &data {
            Data::Floats(values) => values.len(),
            Data::Ints(values) => values.len(),
            Data::Int8(values) => values.len(),
            Data::Uint8(values) => values.len(),
            Data::Fill(..) => len,
        };
        if held != len {
            return Err(format!("it holds {held} elements, not the {len} of its shape {dims:?}"));
        }
        Ok(Constant { dims, data })
    }
}

/// The number of elements of these extents, if they are not too many beside those that the inputs hold in memory. A node's results are
/// checked before they are computed; what all nodes keep is bounded by the budget of [`super::builder::GraphBuilder`].
pub fn limited(dims: &[usize], inputs: &[&Constant]) -> Result<usize, String> {
    let stored = inputs.iter().fold(0usize, |sum, constant| sum.saturating_add(constant.stored()));
    let most = MAX_FOLDED.min(stored.saturating_mul(MAX_GROWTH));
    let most = most.max(FEW_ELEMENTS).max(stored.saturating_mul(SMALL_GROWTH));
    count(dims)
        .filter(|&n| n <= most)
        .ok_or_else(|| format!("folding its constants gives {dims:?}, which is too large"))
}

pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis] as isize);
    }
    strides
}

fn broadcast_strides(dims: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(dims);
    let missing = to.len() - dims.len();
    let step = |axis: usize| if axis < missing || dims[axis - missing] == 1 { 0 } else { own[axis - missing] };
    (0..to.len()).map(step).collect()
}

/// The element type of this number in `TensorProto.data_type`.
pub fn element_type(number: i32) -> DataType {
    DataType::try_from(number).unwrap_or(DataType::Undefined)
}

pub fn is_integer(element: DataType) -> bool {
    use DataType::*;
    matches!(element, Int8 | Uint8 | Int32 | Int64 | Bool)
}

fn typed(tensor: &TensorProto) -> Result<Data, String> {
    use DataType::*;
    Ok(match element_type(tensor.data_type) {
        Float => Data::Floats(tensor.float_data.as_slice().into()),
        Double => Data::Floats(tensor.double_data.iter().map(|&v| v as f32).collect()),
        Int64 => Data::Ints(tensor.int64_data.as_slice().into()),
        Int32 | Int8 | Uint8 | Bool => Data::Ints(tensor.int32_data.iter().map(|&v| i64::from(v)).collect()),
        Float16 => Data::Floats(tensor.int32_data.iter().map(|&v| half(v as u16)).collect()),
        Bfloat16 => Data::Floats(tensor.int32_data.iter().map(|&v| f32::from_bits((v as u32) << 16)).collect()),
        _ => return Err(unknown(tensor.data_type)),
    })
}

fn unknown(number: i32) -> String {
    format!("its element type is number {number}; float, double, half, bfloat16, integers and booleans are read")
}

fn from_raw(number: i32, raw: &[u8]) -> Result<Data, String> {
    fn each<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Result<Rc<[T]>, String> {
        let (chunks, rest) = raw.as_chunks::<N>();
        if !rest.is_empty() {
            return Err("its data end within an element".into());
        }
        Ok(chunks.iter().map(|chunk| read(*chunk)).collect())
    }
    Ok(match element_type(number) {
        DataType::Float => Data::Floats(each(raw, f32::from_le_bytes)?),
        DataType::Double => Data::Floats(each(raw, |b| f64::from_le_bytes(b) as f32)?),
        DataType::Float16 => Data::Floats(each(raw, |b| half(u16::from_le_bytes(b)))?),
        DataType::Bfloat16 => Data::Floats(each(raw, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))?),
        DataType::Int64 => Data::Ints(each(raw, i64::from_le_bytes)?),
        DataType::Int32 => Data::Ints(each(raw, |b| i64::from(i32::from_le_bytes(b)))?),
        DataType::Int8 => Data::Int8(each(raw, i8::from_le_bytes)?),
        DataType::Uint8 | DataType::Bool => Data::Uint8(raw.into()),
        _ => return Err(unknown(number)),
    })
}

/// The bytes of a tensor in a file beside the model, which must be in the model's folder or below.
fn external_data(tensor: &TensorProto, folder: Option<&Path>) -> Result<Vec<u8>, String> {
    use std::io::{Read, Seek, SeekFrom};
    use std::path::Component;
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let location = entry("location").ok_or("its external data have no location")?;
    let folder = folder.ok_or_else(|| {
        format!("its data are in `{location}`; only a model that is read from a file can have external data")
    })?;
    if !Path::new(location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("its external data are outside the model's folder: `{location}`"));
    }
    let number = |key: &str| {
        entry(key).map(|text| text.parse::<u64>().map_err(|_| format!("its external {key} is `{text}`"))).transpose()
    };
    let path = folder.join(location);
    let fail = |error: std::io::Error| format!("its external data `{}`: {error}", path.display());
    let mut file = std::fs::File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "its external data `{}` do not exist: copy that file beside the model, under the same name",
                path.display()
            )
        }
        _ => fail(error),
    })?;
    let size = file.metadata().map_err(fail)?.len();
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(size.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!(
            "its external data `{}` end at {size} bytes, before the {length} from {offset} on",
            path.display()
        ));
    }
    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| "its external data are too large")?];
    file.read_exact(&mut bytes).map_err(fail)?;
    Ok(bytes)
}
