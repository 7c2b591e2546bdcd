//! What a reader takes in memory and time, held against what it may.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Bytes that this thread holds now, and the most that it held since the count was set back.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting what each thread holds.
pub struct Counting;

fn count(more: usize, less: usize) {
    // While a thread ends, its count may be gone already.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = (now + more).saturating_sub(less);
        held.set((now, most.max(now)));
    });
}

// SAFETY: every call is handed on unchanged to the system's allocator; the counting allocates nothing.
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
        // Old and new stand side by side while the content moves.
        count(size, 0);
        count(0, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What every reader may take whatever the input: tables, messages, decompressors' windows.
pub const ALLOWANCE: usize = 512 << 10;

/// The longest that a reader may take for one input.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What one call took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The most bytes held at once, beyond what was held before.
    pub bytes: usize,
    /// How long it took.
    pub time: Duration,
}

/// Runs a target on an input.
///
/// # Panics
/// If it holds more at once than four times the input, the tensors that it declared and checked, and [`ALLOWANCE`];
/// if it takes longer than [`PATIENCE`] (three times in a row: the machine may be busy with other things).
pub fn run(target: crate::Target, input: &[u8]) -> Taken {
    let mut taken = once(target, input);
    for _ in 0..2 {
        if taken.time >= PATIENCE {
            taken = once(target, input);
        }
    }
    assert!(taken.time < PATIENCE, "it took {:?} for {} bytes", taken.time, input.len());
    taken
}

fn once(target: crate::Target, input: &[u8]) -> Taken {
    let before = HELD.get().0;
    HELD.set((before, before));
    let start = Instant::now();
    let declared = target(input);
    let time = start.elapsed();
    let bytes = HELD.get().1 - before;
    let allowed = 4 * input.len() + declared + ALLOWANCE;
    assert!(bytes <= allowed, "it held {bytes} bytes for an input of {} and {declared} bytes of tensors", input.len());
    Taken { bytes, time }
}
