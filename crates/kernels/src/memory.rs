//! Aligned buffers on huge pages, recycled between models, and the scratch memory that operations share.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::simd::CACHE_LINE;

/// Bytes of a huge page on most systems.
const HUGE_PAGE: usize = 2 << 20;

/// Floats of padding behind each buffer of an allocation. Buffers whose distance is a multiple of the page size map to the
/// same cache sets, and would evict each other when they are read and written side by side.
const CACHE_SET_PADDING: usize = 5 * CACHE_LINE;

/// A zero-initialised slice of `f32`, aligned to a cache line; on huge pages where it is large and the system allows them.
///
/// Winograd transforms write about forty streams at once, more than a TLB has entries for small pages.
pub struct Buffer {
    start: NonNull<f32>,
    floats: usize,
    /// Keeps the memory alive; `None` only for an empty buffer.
    _memory: Option<Arc<Allocation>>,
}

// SAFETY: a buffer owns its floats, and shared access to them is read-only.
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

    /// One buffer for each of `sizes` (in floats), all in one allocation, so that small ones lie on huge pages too.
    pub fn several(sizes: &[usize]) -> Vec<Buffer> {
        let total = sizes.iter().map(|&floats| whole_lines(floats) + CACHE_SET_PADDING).sum::<usize>();
        if sizes.iter().all(|&floats| floats == 0) {
            return sizes.iter().map(|_| Buffer::default()).collect();
        }
        let memory = Arc::new(Allocation::new(total));
        let mut start = 0;
        let mut buffer = |&floats: &usize| {
            // SAFETY: inside the allocation, whose size is the sum over all buffers.
            let buffer = Buffer { start: unsafe { memory.0.start.add(start) }, floats, _memory: Some(memory.clone()) };
            start += whole_lines(floats) + CACHE_SET_PADDING;
            buffer
        };
        sizes.iter().map(&mut buffer).collect()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.floats * size_of::<f32>()
    }

    /// The floats, for tasks that write disjoint parts.
    pub(crate) fn as_shared(&mut self) -> SharedPtr {
        SharedPtr(self.start.as_ptr())
    }
}

/// Upper bound of the freed memory that is kept for reuse: clearing it is cheaper than page faults on fresh memory, which
/// the system clears too.
const RECYCLED_BYTES: usize = 256 << 20;

/// Freed memory that is kept for reuse, the oldest first.
static RECYCLED: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

/// Zero-initialised memory that several buffers share.
struct Allocation(Memory);

/// A block of memory: from half a huge page on, a whole number of huge pages.
struct Memory {
    start: NonNull<f32>,
    layout: Layout,
}

// SAFETY: nothing else points to the block; each buffer accesses its own part of it.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    fn new(layout: Layout) -> Memory {
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }.cast::<f32>()) else { handle_alloc_error(layout) };
        advise_huge_pages(start.as_ptr(), layout.size());
        Memory { start, layout }
    }

    /// A recycled block of at least the size of `layout`, and at most twice that.
    fn from_recycled(layout: Layout) -> Option<Memory> {
        let fits = |memory: &Memory| (layout.size()..=2 * layout.size()).contains(&memory.layout.size());
        let mut recycled = RECYCLED.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recycled.iter().position(fits)?;
        Some(recycled.remove(at))
    }

    /// Keeps a block of huge pages for reuse, and frees the oldest ones beyond [`RECYCLED_BYTES`].
    fn recycle(self) {
        if !(HUGE_PAGE..=RECYCLED_BYTES).contains(&self.layout.size()) {
            return self.free();
        }
        let mut recycled = RECYCLED.lock().unwrap_or_else(PoisonError::into_inner);
        recycled.push(self);
        while recycled.iter().map(|memory| memory.layout.size()).sum::<usize>() > RECYCLED_BYTES {
            recycled.remove(0).free();
        }
    }

    fn free(self) {
        // SAFETY: allocated with this layout, and no longer referenced.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

impl Allocation {
    /// `floats` > 0 zeros.
    fn new(floats: usize) -> Allocation {
        let bytes = floats * size_of::<f32>();
        let (size, align) = match bytes < HUGE_PAGE / 2 {
            true => (bytes, CACHE_LINE * size_of::<f32>()),
            // Sizes are rounded up coarsely, so that a slightly larger model can reuse this block. Pages that are never
            // written cost nothing.
            false => (bytes.next_multiple_of((bytes.next_power_of_two() / 4).max(HUGE_PAGE)), HUGE_PAGE),
        };
        let layout = Layout::from_size_align(size, align).expect("a size that fits into isize");
        let memory = Memory::from_recycled(layout).unwrap_or_else(|| Memory::new(layout));
        // SAFETY: the block holds at least `floats` floats.
        unsafe { memory.start.as_ptr().write_bytes(0, floats) };
        Allocation(memory)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Memory { start, layout } = self.0;
        Memory { start, layout }.recycle();
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    #[inline]
    fn deref(&self) -> &[f32] {
        // SAFETY: owned and initialised; dangling only if empty.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.floats) }
    }
}

impl std::ops::DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.floats) }
    }
}

/// Asks Linux to back the memory with huge pages. A refusal affects speed alone, so it is ignored.
fn advise_huge_pages(start: *mut f32, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= HUGE_PAGE {
        // SAFETY: the range is ours, starts on a page, and the advice does not change its contents.
        let _ = unsafe { rustix::mm::madvise(start.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// Working memory that operations use one after the other. Its contents are undefined between calls.
#[derive(Default)]
pub struct Scratch {
    buffer: Buffer,
}

impl Scratch {
    /// Grows to at least `bytes`, such as an operation's [`ConvOp::scratch_bytes`](crate::conv::ConvOp::scratch_bytes), so
    /// that calls need not allocate.
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > self.buffer.bytes() {
            self.buffer = Buffer::new(bytes.div_ceil(size_of::<f32>()));
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// `floats` floats of undefined contents.
    pub(crate) fn take(&mut self, floats: usize) -> SharedPtr {
        self.reserve(floats * size_of::<f32>());
        self.buffer.as_shared()
    }
}

/// A pointer that several tasks share; each writes to its own part of the memory.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr(*mut f32);

// SAFETY: a pointer is only an address; code that dereferences it guarantees that writes are disjoint.
unsafe impl Send for SharedPtr {}
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    /// A pointer to the first float of `data`.
    pub fn of(data: &mut [f32]) -> SharedPtr {
        SharedPtr(data.as_mut_ptr())
    }

    /// The address `floats` after this one.
    pub fn at(self, floats: usize) -> *mut f32 {
        self.0.wrapping_add(floats)
    }

    /// A shared pointer to the address `floats` after this one.
    pub fn skip(self, floats: usize) -> SharedPtr {
        SharedPtr(self.at(floats))
    }
}

/// `floats` rounded up to whole cache lines.
pub(crate) fn whole_lines(floats: usize) -> usize {
    floats.next_multiple_of(CACHE_LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_even_in_recycled_memory() {
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
    fn recycled_memory_is_bounded_and_at_most_twice_the_requested_size() {
        let layout = |pages: usize| Layout::from_size_align(pages * HUGE_PAGE, HUGE_PAGE).unwrap();
        let limit = RECYCLED_BYTES / HUGE_PAGE;
        Memory::new(layout(limit + 1)).recycle();
        Memory::new(layout(limit - 3)).recycle();
        assert!(Memory::from_recycled(layout(1)).is_none_or(|memory| memory.layout.size() <= 2 * HUGE_PAGE));
        for _ in 0..8 {
            Memory::new(layout(limit / 4)).recycle();
            let total: usize = RECYCLED.lock().unwrap().iter().map(|memory| memory.layout.size()).sum();
            assert!(total <= RECYCLED_BYTES, "{total}");
        }
    }
}
