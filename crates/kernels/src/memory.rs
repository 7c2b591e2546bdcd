//! Scratch memory: aligned, shared between operations, cut into disjoint pieces by hand.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::simd::LINE;

/// Bytes of a large page on most systems.
const LARGE_PAGE: usize = 2 << 20;

/// Floats between buffers of one allocation beyond their content: were their distances whole pages, what is read and
/// written side by side would share the sets of a cache.
const APART: usize = 5 * LINE;

/// Aligned floats, zero at first, on large pages where they fill any and the system allows it.
///
/// Transforms write to some forty streams at once, more than a translation buffer holds of small pages.
pub struct Buffer {
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
            let buffer = Buffer { start: unsafe { memory.0.start.add(start) }, floats, _memory: Some(memory.clone()) };
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
    pub(crate) fn raw(&mut self) -> Raw {
        Raw(self.start.as_ptr())
    }
}

/// Bytes of models that are gone which are kept, at most, for the next ones: to clear them takes less than to have pages of
/// the system, which clears them too.
const SPARE_BYTES: usize = 256 << 20;

/// What is kept, the oldest first.
static SPARE: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

/// Memory of zeros that buffers share.
struct Allocation(Memory);

/// Floats of the system's memory: half a large page and more in whole ones.
struct Memory {
    start: NonNull<f32>,
    layout: Layout,
}

// SAFETY: it is memory that nobody else knows of; buffers touch each their own part of it.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    fn new(layout: Layout) -> Memory {
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }.cast::<f32>()) else { handle_alloc_error(layout) };
        advise_large_pages(start.as_ptr(), layout.size());
        Memory { start, layout }
    }

    /// One that is kept, large enough and not much too large.
    fn spare(layout: Layout) -> Option<Memory> {
        let fits = |spare: &Memory| (layout.size()..=2 * layout.size()).contains(&spare.layout.size());
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let at = spare.iter().position(fits)?;
        Some(spare.remove(at))
    }

    /// Keeps it, where it has large pages and there is room.
    fn keep(self) {
        if !(LARGE_PAGE..=SPARE_BYTES).contains(&self.layout.size()) {
            return self.free();
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(self);
        while spare.iter().map(|spare| spare.layout.size()).sum::<usize>() > SPARE_BYTES {
            spare.remove(0).free();
        }
    }

    fn free(self) {
        // SAFETY: allocated with this layout, and nobody knows of it any more.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

impl Allocation {
    /// `floats` > 0 zeros.
    fn new(floats: usize) -> Allocation {
        let bytes = floats * size_of::<f32>();
        let (size, align) = match bytes < LARGE_PAGE / 2 {
            true => (bytes, LINE * size_of::<f32>()),
            // Coarser than need be: a model a little larger than the last finds room in its memory. The system gives no
            // pages for what is never written.
            false => (bytes.next_multiple_of((bytes.next_power_of_two() / 4).max(LARGE_PAGE)), LARGE_PAGE),
        };
        let layout = Layout::from_size_align(size, align).expect("sizes are checked when a model is planned");
        let memory = Memory::spare(layout).unwrap_or_else(|| Memory::new(layout));
        // SAFETY: as large as that at least; all of it is written before it is read.
        unsafe { memory.start.as_ptr().write_bytes(0, floats) };
        Allocation(memory)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Memory { start, layout } = self.0;
        Memory { start, layout }.keep();
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
pub struct Scratch {
    buffer: Buffer,
}

impl Scratch {
    /// Makes room for an operation's [`ConvOp::scratch_bytes`](crate::conv::ConvOp::scratch_bytes).
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
    pub(crate) fn take(&mut self, floats: usize) -> Raw {
        self.reserve(floats * size_of::<f32>());
        self.buffer.raw()
    }
}

/// A pointer that several tasks may hold; each writes only what is its own.
#[derive(Clone, Copy)]
pub(crate) struct Raw(*mut f32);

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
pub(crate) fn lines(floats: usize) -> usize {
    floats.next_multiple_of(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeros_even_where_a_model_that_is_gone_wrote() {
        for floats in [3, 100_000, 1_000_000, 1_500_000] {
            for _ in 0..3 {
                let mut buffers = Buffer::several(&[floats, 0, 17]);
                let lengths: Vec<usize> = buffers.iter().map(|buffer| buffer.len()).collect();
                assert_eq!(lengths, [floats, 0, 17]);
                for buffer in &mut buffers {
                    assert!(buffer.iter().all(|&value| value == 0.0));
                    buffer.fill(1.0);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_not_much_too_large() {
        let layout = |pages: usize| Layout::from_size_align(pages * LARGE_PAGE, LARGE_PAGE).unwrap();
        let most = SPARE_BYTES / LARGE_PAGE;
        Memory::new(layout(most + 1)).keep();
        Memory::new(layout(most - 3)).keep();
        assert!(Memory::spare(layout(1)).is_none_or(|spare| spare.layout.size() <= 2 * LARGE_PAGE));
        for _ in 0..8 {
            Memory::new(layout(most / 4)).keep();
            let kept: usize = SPARE.lock().unwrap().iter().map(|spare| spare.layout.size()).sum();
            assert!(kept <= SPARE_BYTES, "{kept}");
        }
    }
}
