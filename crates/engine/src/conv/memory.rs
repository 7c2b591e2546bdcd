//! Scratch memory: aligned, shared between operations, cut into disjoint pieces by hand.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::simd::LINE;

/// Bytes of a large page on most systems.
const LARGE_PAGE: usize = 2 << 20;

/// Floats between buffers of one allocation beyond their content: were their distances whole pages, what is read and
/// written side by side would share the sets of a cache.
const APART: usize = 5 * LINE;

/// Aligned floats, zero at first, on large pages where they fill any and the system allows it.
///
/// Transforms write to some forty streams at once, more than a translation buffer holds of small pages.
pub(crate) struct Buffer {
    start: NonNull<f32>,
    floats: usize,
    /// Keeps what the floats are a part of; none only if there are none.
    _memory: Option<Arc<Allocation>>,
}

// SAFETY: its floats are its own, and it hands out shared access only to pointers.
unsafe impl Send for Buffer {}
unsafe impl Sync for Buffer {}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer { start: NonNull::dangling(), floats: 0, _memory: None }
    }
}

impl Buffer {
    /// `floats` zeros.
    pub fn new(floats: usize) -> Buffer {
        Buffer::several(&[floats]).pop().unwrap_or_default()
    }

    /// A buffer for each of `sizes`, all in one allocation, so that small ones lie on large pages too.
    pub fn several(sizes: &[usize]) -> Vec<Buffer> {
        let total = sizes.iter().map(|&floats| lines(floats) + APART).sum::<usize>();
        if sizes.iter().all(|&floats| floats == 0) {
            return sizes.iter().map(|_| Buffer::default()).collect();
        }
        let memory = Arc::new(Allocation::new(total));
        let mut start = 0;
        let mut buffer = |&floats: &usize| {
            // SAFETY: within the allocation, whose size is the sum of all.
            let buffer = Buffer { start: unsafe { memory.start.add(start) }, floats, _memory: Some(memory.clone()) };
            start += lines(floats) + APART;
            buffer
        };
        sizes.iter().map(&mut buffer).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.floats * size_of::<f32>()
    }

    /// The floats, for tasks that write disjoint parts.
    pub(super) fn raw(&mut self) -> Raw {
        Raw(self.start.as_ptr())
    }
}

/// Memory of zeros that buffers share.
struct Allocation {
    start: NonNull<f32>,
    floats: usize,
}

// SAFETY: it owns its memory, which only buffers touch, each its own part.
unsafe impl Send for Allocation {}
unsafe impl Sync for Allocation {}

impl Allocation {
    /// `floats` > 0 zeros.
    fn new(floats: usize) -> Allocation {
        let layout = Allocation::layout(floats);
        // SAFETY: the layout is not empty; all of it is written before it is read.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout).cast::<f32>()) else { handle_alloc_error(layout) };
            advise_large_pages(start.as_ptr(), layout.size());
            start.as_ptr().write_bytes(0, floats);
            Allocation { start, floats }
        }
    }

    /// Half a large page and more is rounded up to whole ones.
    fn layout(floats: usize) -> Layout {
        let bytes = floats * size_of::<f32>();
        let (bytes, align) = match bytes < LARGE_PAGE / 2 {
            true => (bytes, LINE * size_of::<f32>()),
            false => (bytes.next_multiple_of(LARGE_PAGE), LARGE_PAGE),
        };
        Layout::from_size_align(bytes, align).expect("sizes are checked when a model is planned")
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Allocation::layout(self.floats)) }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: owned and written; dangling only if empty.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.floats) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.floats) }
    }
}

/// Asks Linux to back the memory with large pages; a refusal changes nothing but speed.
fn advise_large_pages(start: *mut f32, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= LARGE_PAGE {
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, bytes: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
        }
        const MADV_HUGEPAGE: std::ffi::c_int = 14;
        // SAFETY: the C library's own signature; the range is ours and starts on a page.
        unsafe { madvise(start.cast(), bytes, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
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
