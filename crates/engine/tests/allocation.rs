//! Training steps and inference allocate nothing after the first step.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::peers::{images, labels, residual, vgg};
use nettriage_engine::{Model, Optimizer, Options, loss};

struct CountingAllocator;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Allocations of this thread. The test harness has a thread of its own, which may allocate at any time.
    static OWN: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    OWN.set(OWN.get() + 1);
}

// SAFETY: passes every call to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations during ten training steps, each followed by a forward pass, after two such steps.
fn allocations(threads: usize) -> usize {
    let mut total = 0;
    // One thread computes in the calling thread alone.
    let counted = || if threads == 1 { OWN.get() } else { ALLOCATIONS.load(Ordering::SeqCst) };
    let adamw = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
    for (network, optimizer) in [(vgg(&[16, 0, 32, 0], 3, 16, true), Optimizer::sgd()), (residual(8, 16, 3, 12), adamw)]
    {
        let n = 12;
        let mut model = Model::new(&network, &Options { threads, ..Options::training(n, optimizer) }).unwrap();
        let (images, labels) = (images(n, network.graph.input), labels(n));
        let mut gradient = vec![0.0; n * 10];
        let elements = network.graph.input.elements();
        for step in 0..12 {
            let before = counted();
            // Alternate between two batch sizes.
            let n = if step % 2 == 0 { n } else { 7 };
            let gradient = &mut gradient[..n * 10];
            loss::cross_entropy(model.forward_train(&images[..n * elements], step), &labels[..n], 10, gradient);
            model.backward(&images[..n * elements], gradient);
            model.step(0.01, Some(1.0));
            model.forward(&images[..n * elements]);
            if step >= 2 {
                total += counted() - before;
            }
        }
    }
    total
}

#[test]
fn steps_allocate_nothing_after_the_first() {
    assert_eq!(allocations(1), 0);
    // The thread pool's queue allocates a block for every 63 jobs.
    let threaded = allocations(2);
    assert!(threaded <= 8, "{threaded} allocations in 20 steps");
}
