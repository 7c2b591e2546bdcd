//! After the first step nothing is allocated any more.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::peers::{images, labels, residual, vgg};
use nettriage_engine::{Model, Optimizer, Options, loss};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations in ten steps and evaluations after the first two.
fn steady(threads: usize) -> usize {
    let mut total = 0;
    let adamw = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
    for (network, optimizer) in [(vgg(&[16, 0, 32, 0], 3, 16, true), Optimizer::sgd()), (residual(8, 16, 3, 12), adamw)]
    {
        let n = 12;
        let mut model = Model::new(&network, &Options { threads, ..Options::training(n, optimizer) }).unwrap();
        let (images, labels) = (images(n, network.graph.input), labels(n));
        let mut gradient = vec![0.0; n * 10];
        let each = network.graph.input.elements();
        for step in 0..12 {
            let before = COUNT.load(Ordering::SeqCst);
            // Batches of two sizes, in turn.
            let n = if step % 2 == 0 { n } else { 7 };
            let gradient = &mut gradient[..n * 10];
            loss::cross_entropy(model.forward_train(&images[..n * each], step), &labels[..n], 10, gradient);
            model.backward(&images[..n * each], gradient);
            model.step(0.01, Some(1.0));
            model.forward(&images[..n * each]);
            if step >= 2 {
                total += COUNT.load(Ordering::SeqCst) - before;
            }
        }
    }
    total
}

#[test]
fn nothing_is_allocated_in_the_steady_state() {
    assert_eq!(steady(1), 0);
    // The thread pool itself takes a block for its queue now and then: every 63 hand-overs.
    let threaded = steady(2);
    assert!(threaded <= 8, "{threaded} allocations in 20 steps");
}
