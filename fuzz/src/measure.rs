//! Measures the memory and time that a reader takes, and compares them with their limits.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Bytes that this thread holds, and the peak since the last reset.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting what each thread holds.
pub struct Counting;

fn count(more: usize, less: usize) {
    // The counter of a thread that is ending may have been dropped.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = (now + more).saturating_sub(less);
        held.set((now, most.max(now)));
    });
}

// SAFETY: every call is passed unchanged to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new allocation exist at the same time while the content is copied.
        count(size, 0);
        count(0, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Memory that a reader may take for any input: tables, messages, windows of decompressors.
pub const FIXED_MEMORY: usize = 512 << 10;

/// The longest time that a reader may take for one input.
pub const TIME_LIMIT: Duration = Duration::from_secs(1);

/// The memory and time of one call.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Peak of the bytes allocated, above those allocated before the call.
    pub bytes: usize,
    /// How long it took.
    pub time: Duration,
}

/// Runs a target on an input.
///
/// # Panics
/// If it holds more at once than four times the input, the tensors that it declared and checked, and [`FIXED_MEMORY`];
/// if it takes longer than [`TIME_LIMIT`] (three times in a row, because other programs may be running).
pub fn run(target: crate::Target, input: &[u8]) -> Taken {
    let mut taken = once(target, input);
    for _ in 0..2 {
        if taken.time >= TIME_LIMIT {
            taken = once(target, input);
        }
    }
    assert!(taken.time < TIME_LIMIT, "it took {:?} for {} bytes", taken.time, input.len());
    taken
}

fn once(target: crate::Target, input: &[u8]) -> Taken {
    let before = HELD.get().0;
    HELD.set((before, before));
    let start = Instant::now();
    let declared = target(input);
    let time = start.elapsed();
    let bytes = HELD.get().1 - before;
    let allowed = 4 * input.len() + declared + FIXED_MEMORY;
    assert!(bytes <= allowed, "it held {bytes} bytes for an input of {} and {declared} bytes of tensors", input.len());
    Taken { bytes, time }
}
