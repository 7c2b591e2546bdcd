//! A thread pool for the loops inside one operation.
//!
//! How work is split into tasks depends on the work alone, never on the number of threads, so that no result does either.
//! Tasks receive mutable data as disjoint [`Parts`].

/// The threads that operations run on.
///
/// With one thread, everything runs inline in the caller, and no pool exists.
pub struct Pool {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
}

impl Pool {
    /// A pool of `threads` threads (at least one). Runs inline if the system cannot start threads.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.max(1);
        let workers = (threads > 1)
            .then(|| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|i| format!("kernels-{i}"))
                    .build()
                    .ok()
            })
            .flatten();
        Pool { threads: if workers.is_some() { threads } else { 1 }, workers }
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The index of the current thread, below [`Pool::threads`]; 0 outside the pool.
    ///
    /// Tasks never nest, so while a task runs it may use its thread's scratch memory exclusively.
    pub fn thread_index(&self) -> usize {
        self.workers.as_ref().and_then(|workers| workers.current_thread_index()).unwrap_or(0)
    }

    /// Runs `f` on one of the pool's threads, so that each [`Pool::run`] inside it starts without a thread switch.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.workers {
            Some(workers) => workers.install(f),
            None => f(),
        }
    }

    /// Calls `f(0)` to `f(tasks - 1)`, in any order and on any thread.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        self.each(tasks, (), |task, ()| f(task));
    }

    /// Calls `f(task, part)` for every task below `tasks`, each with its own part of `parts`.
    pub fn each<P: Parts>(&self, tasks: usize, parts: P, f: impl Fn(usize, P::Item) + Sync) {
        if tasks == 0 {
            return;
        }
        match &self.workers {
            Some(workers) if tasks > 1 => {
                if workers.current_thread_index().is_some() {
                    split_in_half(0, tasks, parts, &f);
                } else {
                    workers.install(|| split_in_half(0, tasks, parts, &f));
                }
            }
            _ => inline(tasks, parts, &f),
        }
    }

    /// Calls `f(i, chunk)` for the chunks of `size` elements of `data` (the last may be shorter).
    pub fn chunks<T: Send>(&self, data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let tasks = data.len().div_ceil(size.max(1));
        self.each(tasks, Chunks::new(data, size), f);
    }
}

fn inline<P: Parts>(tasks: usize, mut parts: P, f: &impl Fn(usize, P::Item)) {
    for task in 0..tasks {
        let (first, rest) = parts.split(1);
        parts = rest;
        f(task, first.item());
    }
}

fn split_in_half<P: Parts>(start: usize, tasks: usize, parts: P, f: &(impl Fn(usize, P::Item) + Sync)) {
    if tasks == 1 {
        return f(start, parts.item());
    }
    let half = tasks / 2;
    let (left, right) = parts.split(half);
    rayon::join(|| split_in_half(start, half, left, f), || split_in_half(start + half, tasks - half, right, f));
}

/// Data that can be split between tasks; the parts are disjoint by construction.
pub trait Parts: Sized + Send {
    /// The part of one task.
    type Item;
    /// Splits off the parts of the first `tasks` tasks; returns them and the rest.
    fn split(self, tasks: usize) -> (Self, Self);
    /// The part of a single task.
    fn item(self) -> Self::Item;
}

impl Parts for () {
    type Item = ();
    fn split(self, _: usize) -> ((), ()) {
        ((), ())
    }
    fn item(self) {}
}

impl<A: Parts, B: Parts> Parts for (A, B) {
    type Item = (A::Item, B::Item);
    fn split(self, tasks: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.split(tasks), self.1.split(tasks));
        ((a, b), (c, d))
    }
    fn item(self) -> Self::Item {
        (self.0.item(), self.1.item())
    }
}

impl<A: Parts, B: Parts, C: Parts> Parts for (A, B, C) {
    type Item = (A::Item, B::Item, C::Item);
    fn split(self, tasks: usize) -> (Self, Self) {
        let ((a, d), (b, e), (c, f)) = (self.0.split(tasks), self.1.split(tasks), self.2.split(tasks));
        ((a, b, c), (d, e, f))
    }
    fn item(self) -> Self::Item {
        (self.0.item(), self.1.item(), self.2.item())
    }
}

/// A mutable slice in chunks of equal size, one per task; the last may be shorter or empty.
pub struct Chunks<'a, T> {
    data: &'a mut [T],
    size: usize,
}

impl<'a, T> Chunks<'a, T> {
    /// `data` in chunks of `size` elements.
    pub fn new(data: &'a mut [T], size: usize) -> Chunks<'a, T> {
        Chunks { data, size }
    }
}

impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Item = &'a mut [T];
    fn split(self, tasks: usize) -> (Self, Self) {
        let at = tasks.saturating_mul(self.size).min(self.data.len());
        let (left, right) = self.data.split_at_mut(at);
        (Chunks { data: left, size: self.size }, Chunks { data: right, size: self.size })
    }
    fn item(self) -> &'a mut [T] {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_task_runs_once_with_its_own_part() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 64] {
                let mut a = vec![0usize; tasks * 3];
                let mut b = vec![0usize; tasks];
                let calls = AtomicUsize::new(0);
                pool.each(tasks, (Chunks::new(&mut a, 3), Chunks::new(&mut b, 1)), |task, (a, b)| {
                    assert!(pool.thread_index() < threads);
                    calls.fetch_add(1, Ordering::Relaxed);
                    a.fill(task + 1);
                    b[0] += task;
                });
                assert_eq!(calls.into_inner(), tasks);
                assert_eq!(a, (0..tasks * 3).map(|i| i / 3 + 1).collect::<Vec<_>>());
                assert_eq!(b, (0..tasks).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_last_chunk_may_be_shorter() {
        let pool = Pool::new(2);
        let mut data = vec![0; 10];
        pool.chunks(&mut data, 4, |i, chunk| chunk.iter_mut().for_each(|v| *v = (i + 1) * 10 + chunk_len(i)));
        assert_eq!(data, [14, 14, 14, 14, 24, 24, 24, 24, 32, 32]);
        fn chunk_len(i: usize) -> usize {
            if i == 2 { 2 } else { 4 }
        }
    }
}
