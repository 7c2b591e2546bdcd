//! Tensors as a pickle describes them, and the storages that hold their elements.

use std::collections::HashMap;

use super::pickle::{Machine, Value};
use super::{number, text};
use crate::safetensors::half;
use crate::strided::StridedIndices;
use nettriage_net::Tensor;

/// A tensor as the pickle describes it.
#[derive(Debug)]
pub struct Found {
    pub name: String,
    pub shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    storage: String,
    element: Element,
}

impl Found {
    /// Storage, first element, shape and strides: two tensors with the same are the same elements.
    pub fn place(&self) -> (&str, usize, &[usize], &[usize]) {
        (&self.storage, self.offset, &self.shape, &self.strides)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
}

impl Element {
    fn of(storage: &str) -> Option<Element> {
        Some(match storage.strip_prefix("torch.")?.strip_suffix("Storage")? {
            "Double" => Element::F64,
            "Float" => Element::F32,
            "Half" => Element::F16,
            "BFloat16" => Element::Bf16,
            "Long" => Element::I64,
            "Int" => Element::I32,
            "Short" => Element::I16,
            "Char" => Element::I8,
            "Byte" | "Bool" => Element::U8,
            _ => return None,
        })
    }

    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 => 1,
        }
    }

    fn read(self, bytes: &[u8], index: usize) -> f32 {
        fn at<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
            bytes.as_chunks::<N>().0[index]
        }
        match self {
            Element::F64 => f64::from_le_bytes(at(bytes, index)) as f32,
            Element::F32 => f32::from_le_bytes(at(bytes, index)),
            Element::F16 => half(u16::from_le_bytes(at(bytes, index))),
            Element::Bf16 => f32::from_bits(u32::from(u16::from_le_bytes(at(bytes, index))) << 16),
            Element::I64 => i64::from_le_bytes(at(bytes, index)) as f32,
            Element::I32 => i32::from_le_bytes(at(bytes, index)) as f32,
            Element::I16 => f32::from(i16::from_le_bytes(at(bytes, index))),
            Element::I8 => f32::from(bytes[index] as i8),
            Element::U8 => f32::from(bytes[index]),
        }
    }
}

/// The raw bytes of every storage, by its key.
#[derive(Debug, Default)]
pub struct Storages<'a>(pub HashMap<String, &'a [u8]>);

impl<'a> Storages<'a> {
    pub fn bytes(&self) -> usize {
        self.0.values().map(|bytes| bytes.len()).sum()
    }

    /// Whether two tensors of one shape hold the same elements; `None` if one of them cannot be read.
    pub fn equal(&self, a: &Found, b: &Found) -> Option<bool> {
        if (&a.storage, a.offset, &a.strides) == (&b.storage, b.offset, &b.strides) {
            return Some(true);
        }
        let (left, right) = (self.elements(a).ok()?, self.elements(b).ok()?);
        Some(left.map(f32::to_bits).eq(right.map(f32::to_bits)))
    }

    pub fn read(&self, found: &Found) -> Result<Tensor, String> {
        Ok(Tensor { shape: found.shape.clone(), data: self.elements(found)?.collect() })
    }

    fn elements(&self, found: &Found) -> Result<impl Iterator<Item = f32> + use<'a>, String> {
        let bytes: &'a [u8] =
            self.0.get(&found.storage).ok_or_else(|| format!("its storage `{}` is not in the file", found.storage))?;
        let held = bytes.len() / found.element.size();
        let mut count = 1usize;
        let mut last = found.offset;
        for (&extent, &stride) in found.shape.iter().zip(&found.strides) {
            count = count.checked_mul(extent).ok_or("its shape overflows")?;
            let reach = extent.saturating_sub(1).checked_mul(stride);
            last = reach.and_then(|reach| last.checked_add(reach)).ok_or("its shape overflows")?;
        }
        // A tensor with stride 0 repeats elements and could have any size; at most the storage's size is read.
        if count > 0 && (last >= held || count > held) {
            return Err(format!("its shape {:?} does not fit into the {held} elements of its storage", found.shape));
        }
        // The indices are in bounds by the check above; an empty tensor has none.
        let steps: Vec<isize> = found.strides.iter().map(|&stride| stride as isize).collect();
        let indices = StridedIndices::new(found.offset, &found.shape, &steps);
        let element = found.element;
        Ok(indices.map(move |index| element.read(bytes, index)))
    }
}

pub fn is_named_tensor(machine: &Machine, key: u32, value: u32) -> bool {
    text(machine, key).is_some() && matches!(machine.get(value), Value::Tensor(_))
}

/// (storage, offset, size, stride, …) of `_rebuild_tensor` and `_rebuild_tensor_v2`.
pub fn tensor(machine: &Machine, name: &str, arguments: u32) -> Result<Found, String> {
    let problem = || "it is not described as PyTorch describes tensors".to_string();
    let items = |id: u32| match machine.get(id) {
        Value::Tuple(items) => Some(items.as_ref()),
        Value::List(items) => Some(items.as_slice()),
        _ => None,
    };
    let natural = |id: u32| number(machine, id).and_then(|value| usize::try_from(value).ok());
    let Some(&[storage, offset, size, stride, ..]) = items(arguments) else { return Err(problem()) };
    let Value::Persistent(id) = machine.get(storage) else { return Err(problem()) };
    // ("storage", type, key, device, number of elements, …)
    let Some(&[_, kind, key, ..]) = items(*id) else { return Err(problem()) };
    let Value::Global(kind) = machine.get(kind) else { return Err(problem()) };
    let element = Element::of(kind).ok_or_else(|| format!("its elements are of `{kind}`, which is not read"))?;
    let extents =
        |id: u32| items(id).and_then(|items| items.iter().map(|&item| natural(item)).collect::<Option<Vec<_>>>());
    let (shape, strides) = extents(size).zip(extents(stride)).ok_or_else(problem)?;
    if shape.len() != strides.len() || shape.len() > 16 {
        return Err(problem());
    }
    let key = text(machine, key).ok_or_else(problem)?;
    Ok(Found {
        name: name.into(),
        shape,
        strides,
        offset: natural(offset).ok_or_else(problem)?,
        storage: key.into(),
        element,
    })
}

/// Bytes per element of the storage types that a legacy file's persistent ids name.
pub fn element_size(storage: &str) -> Option<usize> {
    Element::of(storage).map(Element::size)
}

/// Element size and key of every storage that the values refer to.
pub fn storages(machine: &Machine) -> HashMap<String, usize> {
    let mut sizes = HashMap::new();
    for id in 0..machine.len() as u32 {
        let Value::Persistent(id) = machine.get(id) else { continue };
        if let Value::Tuple(items) = machine.get(*id)
            && let &[_, kind, key, ..] = items.as_ref()
            && let (Value::Global(kind), Some(key)) = (machine.get(kind), text(machine, key))
            && let Some(size) = element_size(kind)
        {
            sizes.insert(key.to_string(), size);
        }
    }
    sizes
}
