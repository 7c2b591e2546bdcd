//! Stored activations: on the device, in memory or in a file, in f32 or, where a study selects it, in f16.

use std::ops::Range;
use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use nettriage_data::{Pages, Spill};
use nettriage_net::Shape;
use nettriage_torch::Storage;
use serde::{Deserialize, Serialize};

use crate::cache::Tier;
use crate::model::{Batch, extents};
use crate::{Device, Error};

/// Precision of the parent's activations that children start from or regress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As computed.
    #[default]
    F32,
    /// Rounded to IEEE 754 half precision: half the memory, and other results.
    F16,
}

impl Precision {
    /// Whether nothing is rounded.
    pub fn is_full(&self) -> bool {
        *self == Precision::F32
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => size_of::<f32>(),
            Precision::F16 => size_of::<f16>(),
        }
    }

    /// Rounds values as storing them would.
    pub fn round(self, values: &mut [f32]) {
        if self == Precision::F16 {
            for value in values {
                *value = f16::from_f32(*value).to_f32();
            }
        }
    }
}

/// A sequence of activations.
pub struct Values {
    store: Store,
}

enum Store {
    Memory(Pages, Precision),
    File(Spill, Precision),
    Device(Storage),
}

impl Values {
    /// Space for `length` values; those on the disk in a file without a name in `folder`, those on the `device` in f32.
    ///
    /// # Errors
    /// What keeps them from being stored, in a line.
    pub fn new(
        length: usize,
        precision: Precision,
        tier: Tier,
        folder: &Path,
        device: &Device,
    ) -> Result<Values, String> {
        let bytes = length.checked_mul(precision.bytes()).ok_or("more bytes than can be addressed")?;
        let store = match tier {
            Tier::Memory => {
                let pages = Pages::new(bytes).map_err(|error| format!("{bytes} bytes of memory: {error}"))?;
                Store::Memory(pages, precision)
            }
            Tier::Device => match device {
                Device::Torch(torch) => Store::Device(Storage::new(torch, length).map_err(|error| error.to_string())?),
                Device::Cpu => return Err("the processor has no memory of its own".to_owned()),
            },
            Tier::Disk => Store::File(Spill::new(bytes, folder).map_err(|error| error.to_string())?, precision),
        };
        Ok(Values { store })
    }

    /// Overwrites the values from `at` on with a batch of images of `shape`.
    ///
    /// # Errors
    /// The device fails.
    pub fn write_batch(&mut self, at: usize, batch: &Batch<'_>, shape: Shape) -> Result<(), Error> {
        let Store::Device(storage) = &self.store else {
            let mut buffer = Vec::new();
            self.write(at, batch.in_host(shape, &mut buffer)?);
            return Ok(());
        };
        let count = batch.elements() / shape.elements();
        match batch {
            Batch::Torch(tensor) => storage.write(at, count, extents(shape), tensor)?,
            Batch::Host(values) => storage.write_host(at, count, extents(shape), values)?,
        }
        Ok(())
    }

    /// The values of the images of `range`, where they are stored, or in `buffer` if not as f32 in memory.
    ///
    /// # Errors
    /// The device fails.
    pub fn batch<'a>(
        &'a self,
        range: Range<usize>,
        shape: Shape,
        buffer: &'a mut Vec<f32>,
    ) -> Result<Batch<'a>, Error> {
        let at = range.start * shape.elements();
        match &self.store {
            Store::Device(storage) => Ok(Batch::Torch(storage.batch(at, range.len(), extents(shape))?)),
            Store::Memory(..) | Store::File(..) => Ok(Batch::Host(self.read(at..range.end * shape.elements(), buffer))),
        }
    }

    /// Overwrites the values from `at` on, in memory or in a file.
    fn write(&mut self, at: usize, values: &[f32]) {
        let (precision, bytes): (_, &mut [u8]) = match &mut self.store {
            Store::Memory(all, precision) => (*precision, all),
            Store::File(file, precision) => (*precision, file),
            Store::Device(_) => unreachable!("written batch by batch"),
        };
        let range = at..at + values.len();
        match precision {
            Precision::F32 => bytemuck::cast_slice_mut::<u8, f32>(bytes)[range].copy_from_slice(values),
            Precision::F16 => {
                let all: &mut [u16] = bytemuck::cast_slice_mut(bytes);
                all[range].reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
            }
        }
        if let Store::File(file, precision) = &self.store {
            file.used(values.len() * precision.bytes());
        }
    }

    /// The values of `range` in memory or in a file; `buffer` receives them where they are not stored as f32 in memory.
    fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (precision, bytes): (_, &[u8]) = match &self.store {
            Store::Memory(all, Precision::F32) => return &bytemuck::cast_slice(all)[range],
            Store::Memory(all, precision) => (*precision, all),
            Store::File(file, precision) => (*precision, file),
            Store::Device(_) => unreachable!("read batch by batch"),
        };
        buffer.resize(range.len(), 0.0);
        match precision {
            Precision::F32 => buffer.copy_from_slice(&bytemuck::cast_slice::<u8, f32>(bytes)[range.clone()]),
            Precision::F16 => {
                let all: &[u16] = bytemuck::cast_slice(bytes);
                all[range.clone()].reinterpret_cast::<f16>().convert_to_f32_slice(buffer);
            }
        }
        if let Store::File(file, precision) = &self.store {
            file.used(range.len() * precision.bytes());
            let next = range.end * precision.bytes();
            file.prefetch(next..next + range.len() * precision.bytes());
        }
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_are_those_written_or_their_rounding() {
        let folder = tempfile::tempdir().unwrap();
        // Exact in f16, between two of its values, beyond its range, below its smallest.
        let values: Vec<f32> = [0.5, 1.0 / 3.0, 1e6, 1e-9, -2.0].repeat(1000);
        let rounded: Vec<f32> = [0.5, 0.333_251_95, f32::INFINITY, 0.0, -2.0].repeat(1000);
        for tier in [Tier::Memory, Tier::Disk] {
            for (precision, expected) in [(Precision::F32, &values), (Precision::F16, &rounded)] {
                let mut stored = Values::new(values.len(), precision, tier, folder.path(), &Device::Cpu).unwrap();
                for (i, part) in values.chunks(700).enumerate() {
                    stored.write(i * 700, part);
                }
                let mut buffer = Vec::new();
                assert_eq!(stored.read(100..4000, &mut buffer), &expected[100..4000], "{tier:?} {precision:?}");
                let mut streamed = values.clone();
                precision.round(&mut streamed);
                assert_eq!(&streamed, expected);
            }
        }
    }
}
