//! The memory that a model needs is known before it is allocated.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use common::peers::{residual, vgg};
use nettriage_engine::{Error, Model, Optimizer, Options, Trainable};

/// Counts the bytes that are allocated now, and their largest number.
struct CountingAllocator;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes every call to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
            PEAK.fetch_max(now, Ordering::Relaxed);
        }
        pointer
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The counters are shared, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn options() -> Vec<Options> {
    let adamw = Optimizer::AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 };
    let plain = Optimizer::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    let head = Trainable::Layers(["head".to_string()].into());
    let keep = vec!["head".to_string(), "flatten".to_string()];
    vec![
        Options::inference(1),
        Options { threads: 3, keep: keep.clone(), ..Options::inference(64) },
        Options::training(32, Optimizer::sgd()),
        Options { threads: 2, exact: true, ..Options::training(128, adamw) },
        Options { trainable: head, keep_gradients: keep, ..Options::training(48, plain) },
    ]
}

#[test]
fn the_memory_needed_is_what_the_model_allocates() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for network in [vgg(&[32, 0, 64, 64, 0], 3, 32, true), residual(16, 32, 3, 24)] {
        for options in options() {
            let needed = Model::memory_needed(&network, &options).unwrap();
            let before = NOW.load(Ordering::SeqCst);
            let model = Model::new(&network, &options).unwrap();
            let allocated = (NOW.load(Ordering::SeqCst) - before) as f64;
            assert_eq!(needed, model.memory_bytes() as u64, "{options:?}");
            // Beside the tensors: names, the plan, and allocations rounded up to huge pages, by at most a quarter each. The large
            // ones (weights, activations, scratch, packed weights) have one more page of addresses, for
            // alignment. Memory of the model before may serve again, and is then not allocated.
            let most = 1.25 * needed as f64 + (1 << 20) as f64 + 4.0 * (2 << 20) as f64;
            assert!(allocated <= most, "{allocated} bytes allocated, {needed} needed: {options:?}");
            drop(model);
        }
    }
    // With a model that no other's memory fits, all of it is allocated.
    let network = vgg(&[48, 0, 96, 96, 0], 3, 64, true);
    let options = Options::training(96, Optimizer::sgd());
    let needed = Model::memory_needed(&network, &options).unwrap();
    assert!(needed > 256 << 20, "{needed}: more than is kept of models that were dropped");
    let before = NOW.load(Ordering::SeqCst);
    let model = Model::new(&network, &options).unwrap();
    let allocated = (NOW.load(Ordering::SeqCst) - before) as u64;
    assert!(allocated >= needed - (needed >> 4), "{allocated} bytes allocated, {needed} needed");
    drop(model);
}

#[test]
fn knowing_the_memory_needed_takes_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let network = vgg(&[32, 0, 64, 64, 0], 3, 32, true);
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let needed = Model::memory_needed(&network, &Options::training(1 << 20, Optimizer::sgd()));
    let peak = PEAK.load(Ordering::SeqCst) - before;
    match needed {
        // The request that checks whether the system provides the memory is returned at once and never written.
        Ok(needed) => assert!(peak as u64 <= needed + (64 << 20), "{peak}"),
        Err(Error::Memory { bytes, .. }) => {
            assert!(bytes > 1 << 35 && peak as u64 <= bytes + (64 << 20), "{bytes} {peak}")
        }
        Err(other) => panic!("{other}"),
    }
    // The memory of the packed weights stays allocated, for the next model.
    let kept = NOW.load(Ordering::SeqCst) - before;
    assert!(kept < 16 << 20, "{kept} bytes stay allocated");
}

#[test]
fn models_that_no_memory_holds_are_errors() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for network in [vgg(&[8, 0, 16, 0], 3, 16, true), vgg(&[8, 0, 16, 0], 3, 16, false), residual(8, 12, 3, 8)] {
        for batch in [1 << 44, 1_000_000_000_000, usize::MAX / 2, usize::MAX] {
            for options in [Options::inference(batch), Options::training(batch, Optimizer::sgd())] {
                let error = Model::new(&network, &options).err().expect("no memory");
                assert!(matches!(error, Error::Memory { .. }), "{error}");
                assert!(Model::memory_needed(&network, &options).is_err());
            }
        }
    }
}
