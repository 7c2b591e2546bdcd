//! Stored activations: in memory or in a file, in f32 or, where a study selects it, in f16.

use std::ops::Range;
use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use nettriage_data::{Pages, Spill};
use serde::{Deserialize, Serialize};

use crate::cache::Tier;

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
}

impl Values {
    /// Space for `length` values; those on the disk in a file without a name in `folder`.
    ///
    /// # Errors
    /// What keeps them from being stored, in a line.
    pub fn new(length: usize, precision: Precision, tier: Tier, folder: &Path) -> Result<Values, String> {
        let bytes = length.checked_mul(precision.bytes()).ok_or("more bytes than can be addressed")?;
        let store = match tier {
            Tier::Memory => {
                let pages = Pages::new(bytes).map_err(|error| format!("{bytes} bytes of memory: {error}"))?;
                Store::Memory(pages, precision)
            }
            Tier::Disk => Store::File(Spill::new(bytes, folder).map_err(|error| error.to_string())?, precision),
        };
        Ok(Values { store })
    }

    /// Overwrites the values from `at` on.
    pub fn write(&mut self, at: usize, values: &[f32]) {
        let (precision, bytes): (_, &mut [u8]) = match &mut self.store {
            Store::Memory(all, precision) => (*precision, all),
            Store::File(file, precision) => (*precision, file),
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

    /// The values of `range`; `buffer` receives them where they are not stored as f32 in memory.
    pub fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (precision, bytes): (_, &[u8]) = match &self.store {
            Store::Memory(all, Precision::F32) => return &bytemuck::cast_slice(all)[range],
            Store::Memory(all, precision) => (*precision, all),
            Store::File(file, precision) => (*precision, file),
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
                let mut stored = Values::new(values.len(), precision, tier, folder.path()).unwrap();
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
