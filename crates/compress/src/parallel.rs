//! Independent work on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work` for 0 to `count` on `threads` threads; results must not depend on which thread runs which index.
pub fn in_parallel(count: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < count) {
                    work(index);
                }
            });
        }
    });
}
