//! The bytes of images: in memory, or in a file where they exceed it.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::room::{Room, Spill};
use crate::{Error, Example};

/// Bytes, read as a slice wherever they are.
#[derive(Clone)]
pub struct Pixels {
    store: Store,
    len: usize,
}

#[derive(Clone)]
enum Store {
    Memory(Vec<u8>),
    File(Arc<Spill>),
}

impl Pixels {
    /// `len` zeros: in memory where `room` has as much, else in a file.
    pub(crate) fn zeros(len: usize, room: &Room) -> Result<Pixels, Error> {
        let store = if len as u64 <= room.memory {
            Store::Memory(vec![0; len])
        } else {
            Store::File(Arc::new(Spill::new(len, &room.folder)?))
        };
        Ok(Pixels { store, len })
    }

    /// The same bytes in a file.
    pub(crate) fn spilled(&self, room: &Room) -> Result<Pixels, Error> {
        let mut to = Pixels::zeros(self.len, &Room { memory: 0, folder: room.folder.clone() })?;
        for start in (0..self.len).step_by(1 << 24) {
            let end = self.len.min(start + (1 << 24));
            to.write(start, &self[start..end]);
        }
        Ok(to)
    }

    /// Whether they are in a file.
    pub fn streamed(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// Overwrites the bytes from `at` on; only while nobody shares them.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        self.exclusive()[at..][..bytes.len()].copy_from_slice(bytes);
        self.used(bytes.len());
    }

    /// Keeps every `step`th byte.
    pub(crate) fn thin(&mut self, step: usize) {
        let len = self.len.div_ceil(step);
        let bytes = self.exclusive();
        for i in 0..len {
            bytes[i] = bytes[i * step];
        }
        self.len = len;
        match &mut self.store {
            Store::Memory(bytes) => {
                bytes.truncate(len);
                bytes.shrink_to_fit();
            }
            Store::File(file) => file.release(),
        }
    }

    fn exclusive(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Memory(bytes) => bytes,
            Store::File(file) => Arc::get_mut(file).expect("bytes are written before they are shared"),
        }
    }

    /// Says that these bytes will be read soon.
    pub(crate) fn prefetch(&self, range: Range<usize>) {
        if let Store::File(file) = &self.store {
            file.prefetch(range);
        }
    }

    /// The bytes of `range`, through `buffer` where they are in a file.
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

    /// Says that so many bytes were read and are not needed for now.
    pub(crate) fn used(&self, bytes: usize) {
        if let Store::File(file) = &self.store {
            file.used(bytes);
        }
    }
}

/// Says that the images of `examples` will be read next, so that those in a file come in meanwhile.
pub fn prefetch(images: &crate::Images, examples: &[Example]) {
    if images.is_empty() || !images.pixels.streamed() {
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
        Pixels { len: bytes.len(), store: Store::Memory(bytes) }
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
        write!(f, "{} bytes{}", self.len, if self.streamed() { " in a file" } else { "" })
    }
}
