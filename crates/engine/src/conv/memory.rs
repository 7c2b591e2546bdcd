//! Scratch memory: aligned, shared between operations, cut into disjoint pieces by hand.

/// Floats of one cache line.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Aligned floats, zero at first.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// At least `floats` zeros.
    pub fn new(floats: usize) -> Buffer {
        Buffer { lines: vec![Line([0.0; LINE]); floats.div_ceil(LINE)] }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// The floats.
    pub fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    /// The floats, for tasks that write disjoint parts.
    pub fn raw(&mut self) -> Raw {
        Raw(self.lines.as_mut_ptr().cast())
    }
}

/// Working memory that operations use one after another; nothing in it outlives a call.
#[derive(Default)]
pub(crate) struct Scratch {
    buffer: Buffer,
}

impl Scratch {
    /// Makes room for an operation's [`super::ConvOp::scratch_bytes`].
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > self.buffer.bytes() {
            self.buffer = Buffer::new(bytes.div_ceil(size_of::<f32>()));
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Room for `floats`, of undefined content.
    pub(super) fn take(&mut self, floats: usize) -> Raw {
        self.reserve(floats * size_of::<f32>());
        self.buffer.raw()
    }
}

/// A pointer that several tasks may hold; each writes only what is its own.
#[derive(Clone, Copy)]
pub(super) struct Raw(*mut f32);

// SAFETY: a pointer is only an address; whoever dereferences it answers for the disjointness of the writes.
unsafe impl Send for Raw {}
unsafe impl Sync for Raw {}

impl Raw {
    /// The writable floats of `data`.
    pub fn of(data: &mut [f32]) -> Raw {
        Raw(data.as_mut_ptr())
    }

    /// The address `floats` further on.
    pub fn at(self, floats: usize) -> *mut f32 {
        self.0.wrapping_add(floats)
    }

    /// The same pointer, `floats` further on.
    pub fn skip(self, floats: usize) -> Raw {
        Raw(self.at(floats))
    }
}

/// `floats` rounded up to whole cache lines.
pub(super) fn lines(floats: usize) -> usize {
    floats.next_multiple_of(LINE)
}
