//! The bytes of images: in memory, or in a temporary file if they exceed the memory budget.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::memory::{MemoryBudget, Spill};
use crate::{Error, Example};

/// The bytes of N images, N x H x W x C, in memory or in a mapped file; read as a slice in both cases. Clones share them.
#[derive(Clone)]
pub struct Pixels {
    store: Store,
    len: usize,
}

#[derive(Clone)]
enum Store {
    Memory(Arc<Vec<u8>>),
    File(Arc<Spill>),
}

impl Pixels {
    /// `len` zeros: in memory if the budget allows it, else in a file.
    pub(crate) fn zeros(len: usize, budget: &MemoryBudget) -> Result<Pixels, Error> {
        let store = if len as u64 <= budget.memory {
            Store::Memory(Arc::new(vec![0; len]))
        } else {
            Store::File(Arc::new(Spill::new(len, &budget.folder)?))
        };
        Ok(Pixels { store, len })
    }

    /// The same bytes in a file.
    pub(crate) fn spilled(&self, budget: &MemoryBudget) -> Result<Pixels, Error> {
        let mut to = Pixels::zeros(self.len, &MemoryBudget { memory: 0, folder: budget.folder.clone() })?;
        for start in (0..self.len).step_by(1 << 24) {
            let end = self.len.min(start + (1 << 24));
            to.write(start, &self[start..end]);
        }
        Ok(to)
    }

    /// Whether the bytes are in a file.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// Overwrites the bytes from `at` on. Only before the pixels are cloned.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.exclusive()[at..][..bytes.len()].copy_from_slice(bytes);
        self.used(bytes.len());
    }

    /// Keeps bytes 0, `step`, 2 `step`, …
    pub(crate) fn keep_every(&mut self, step: usize) {
        let len = self.len.div_ceil(step);
        let bytes = self.exclusive();
        for i in 0..len {
            bytes[i] = bytes[i * step];
        }
        self.len = len;
        match &mut self.store {
            Store::Memory(bytes) => {
                let bytes = Arc::make_mut(bytes);
                bytes.truncate(len);
                bytes.shrink_to_fit();
            }
            Store::File(file) => file.release(),
        }
    }

    /// Drops the bytes from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if let Store::Memory(bytes) = &mut self.store {
            Arc::make_mut(bytes).truncate(len);
        }
    }

    fn exclusive(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Memory(bytes) => Arc::make_mut(bytes).as_mut_slice(),
            Store::File(file) => Arc::get_mut(file).expect("bytes are written before they are shared"),
        }
    }

    /// Asks the system to load these bytes from the disk.
    pub(crate) fn prefetch(&self, range: Range<usize>) {
        if let Store::File(file) = &self.store {
            file.prefetch(range);
        }
    }

    /// The bytes of `range`, copied to `buffer` if they are in a file.
    pub(crate) fn read<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        match &self.store {
            Store::Memory(bytes) => &bytes[range],
            Store::File(file) => {
                assert!(range.end <= self.len, "bytes {range:?} of {}", self.len);
                buffer.resize(range.len(), 0);
                file.read(range.start, buffer);
                buffer
            }
        }
    }

    /// Counts bytes that were read and may be evicted from memory.
    pub(crate) fn used(&self, bytes: usize) {
        if let Store::File(file) = &self.store {
            file.used(bytes);
        }
    }
}

/// Prefetches the images of `examples` from the disk, if they are on the disk.
pub fn prefetch(images: &crate::Images, examples: &[Example]) {
    if images.is_empty() || !images.pixels.is_on_disk() {
        return;
    }
    let size = images.pixels.len() / images.len();
    for example in examples {
        let start = example.image as usize * size;
        images.pixels.prefetch(start..start + size);
    }
}

impl Deref for Pixels {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.store {
            Store::Memory(bytes) => bytes,
            Store::File(file) => &file[..self.len],
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Pixels {
        Pixels { len: bytes.len(), store: Store::Memory(Arc::new(bytes)) }
    }
}

impl Default for Pixels {
    fn default() -> Pixels {
        Vec::new().into()
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Pixels) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Pixels {}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes{}", self.len, if self.is_on_disk() { " in a file" } else { "" })
    }
}
