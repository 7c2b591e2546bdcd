//! Aligned buffers on huge pages, recycled between models, and the scratch memory that operations share.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use crate::simd::CACHE_LINE;

/// Bytes of a huge page on most systems.
const HUGE_PAGE: usize = 2 << 20;

/// Floats of padding behind each buffer of an allocation. Buffers whose distance is a multiple of the page size map to the
/// same cache sets, and would evict each other when they are read and written side by side.
const CACHE_SET_PADDING: usize = 5 * CACHE_LINE;

/// A slice of `f32`, aligned to a cache line; on huge pages where it is large and the system allows them.
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

    /// One buffer of zeros for each of `sizes` (in floats), all in one allocation, so that small ones lie on huge pages too.
    pub fn several(sizes: &[usize]) -> Vec<Buffer> {
        Buffer::divided(sizes, true)
    }

    /// As [`Buffer::several`], but the elements are arbitrary numbers: no page is touched before its first use, and then by the
    /// thread that uses it.
    pub fn several_undefined(sizes: &[usize]) -> Vec<Buffer> {
        Buffer::divided(sizes, false)
    }

    fn divided(sizes: &[usize], zeros: bool) -> Vec<Buffer> {
        let total = sizes.iter().map(|&floats| whole_lines(floats) + CACHE_SET_PADDING).sum::<usize>();
        if sizes.iter().all(|&floats| floats == 0) {
            return sizes.iter().map(|_| Buffer::default()).collect();
        }
        let memory = Arc::new(Allocation::new(total, zeros));
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

/// Upper bound of the freed memory that is kept for reuse: fresh memory costs page faults, and the system clears its pages.
const RECYCLED_BYTES: usize = 256 << 20;

/// Freed memory that is kept for reuse, the oldest first.
static RECYCLED: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

/// Initialised memory that several buffers share.
struct Allocation(Memory);

/// A block of memory: from half a huge page on, a whole number of huge pages.
struct Memory {
    /// The first float.
    start: NonNull<f32>,
    /// The size in bytes.
    bytes: usize,
    /// What was allocated: the block, and for whole huge pages one more, since allocators that align to as much as that write
    /// zeros themselves, where the system would clear each page only when a thread first touches it.
    allocated: (NonNull<u8>, Layout),
}

// SAFETY: nothing else points to the block; each buffer accesses its own part of it.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// A block of `bytes` zeros, aligned to a cache line, or to huge pages if it consists of them.
    fn new(bytes: usize) -> Memory {
        let whole_pages = bytes.is_multiple_of(HUGE_PAGE);
        let (size, align) =
            if whole_pages { (bytes + HUGE_PAGE, align_of::<f32>()) } else { (bytes, CACHE_LINE * size_of::<f32>()) };
        let layout = Layout::from_size_align(size, align).expect("a size that fits into isize");
        // SAFETY: the layout is not empty.
        let Some(first) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let skipped = if whole_pages { first.addr().get().next_multiple_of(HUGE_PAGE) - first.addr().get() } else { 0 };
        // SAFETY: less than a huge page, which was allocated in addition.
        let start = unsafe { first.add(skipped) }.cast::<f32>();
        advise_huge_pages(start.as_ptr(), bytes);
        Memory { start, bytes, allocated: (first, layout) }
    }

    /// A recycled block of at least `bytes`, and at most twice that.
    fn from_recycled(bytes: usize) -> Option<Memory> {
        let fits = |memory: &Memory| (bytes..=2 * bytes).contains(&memory.bytes);
        let mut recycled = RECYCLED.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recycled.iter().position(fits)?;
        Some(recycled.remove(at))
    }

    /// Keeps a block of huge pages for reuse, and frees the oldest ones beyond [`RECYCLED_BYTES`].
    fn recycle(self) {
        if !(HUGE_PAGE..=RECYCLED_BYTES).contains(&self.bytes) {
            return self.free();
        }
        let mut recycled = RECYCLED.lock().unwrap_or_else(PoisonError::into_inner);
        recycled.push(self);
        while recycled.iter().map(|memory| memory.bytes).sum::<usize>() > RECYCLED_BYTES {
            recycled.remove(0).free();
        }
    }

    fn free(self) {
        let (first, layout) = self.allocated;
        // SAFETY: allocated with this layout, and no longer referenced.
        unsafe { dealloc(first.as_ptr(), layout) }
    }
}

impl Allocation {
    /// `floats` > 0 floats, which are 0 if `zeros`.
    fn new(floats: usize, zeros: bool) -> Allocation {
        let bytes = floats * size_of::<f32>();
        let size = match bytes < HUGE_PAGE / 2 {
            true => bytes,
            // Sizes are rounded up coarsely, so that a slightly larger model can reuse this block. Pages that are never
            // written cost nothing.
            false => bytes.next_multiple_of((bytes.next_power_of_two() / 4).max(HUGE_PAGE)),
        };
        let Some(recycled) = Memory::from_recycled(size) else { return Allocation(Memory::new(size)) };
        if zeros {
            // SAFETY: the block holds at least `floats` floats.
            unsafe { recycled.start.as_ptr().write_bytes(0, floats) };
        }
        Allocation(recycled)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Memory { start, bytes, allocated } = self.0;
        Memory { start, bytes, allocated }.recycle();
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
            self.buffer = Buffer::several_undefined(&[bytes.div_ceil(size_of::<f32>())]).pop().unwrap_or_default();
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
        let limit = RECYCLED_BYTES / HUGE_PAGE;
        Memory::new((limit + 1) * HUGE_PAGE).recycle();
        Memory::new((limit - 3) * HUGE_PAGE).recycle();
        assert!(Memory::from_recycled(HUGE_PAGE).is_none_or(|memory| memory.bytes <= 2 * HUGE_PAGE));
        for _ in 0..8 {
            Memory::new(limit / 4 * HUGE_PAGE).recycle();
            let total: usize = RECYCLED.lock().unwrap().iter().map(|memory| memory.bytes).sum();
            assert!(total <= RECYCLED_BYTES, "{total}");
        }
    }

    #[test]
    fn large_blocks_start_on_huge_pages_and_all_buffers_on_cache_lines() {
        for floats in [1, 1000, 300_000, 5_000_000] {
            for mut buffer in Buffer::several_undefined(&[floats, 1]) {
                assert!(buffer.as_ptr().addr().is_multiple_of(CACHE_LINE * size_of::<f32>()), "{floats}");
                buffer.fill(2.0);
                assert!(buffer.iter().all(|&value| value == 2.0));
            }
        }
        let memory = Memory::new(3 * HUGE_PAGE);
        assert!(memory.start.addr().get().is_multiple_of(HUGE_PAGE));
        memory.free();
    }
}
