//! Independent work on several threads.

use std::sync::Mutex;

/// The results of `work` for every item, in the items' order, computed on `threads` threads; they must not depend on which thread
/// takes which item.
///
/// # Panics
/// If `work` does, with its message.
pub fn in_parallel<T, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator + Send>,
    threads: usize,
    work: &(dyn Fn(T) -> R + Sync),
) -> Vec<R> {
    let items = items.into_iter();
    let workers = threads.min(items.len());
    let queue = Mutex::new(items.enumerate());
    let worker = || {
        let mut own = Vec::new();
        loop {
            let next = queue.lock().expect("taking an item does not panic").next();
            let Some((place, item)) = next else { break own };
            own.push((place, work(item)));
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<(usize, R)>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(join).collect()
    });
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for threads in [1, 2, 5, 200] {
            // The first items take longest, so that they end last.
            let slow = |item: u64| {
                std::thread::sleep(std::time::Duration::from_micros(if item < 5 { 2000 } else { 10 }));
                item * item
            };
            assert!(
                in_parallel(0..100u32, threads, &|item| slow(u64::from(item))).into_iter().eq((0..100).map(|i| i * i))
            );
        }
        assert_eq!(in_parallel(0..0usize, 3, &|item| item), [0; 0]);
    }

    #[test]
    fn items_may_be_borrowed_mutably() {
        let mut values = vec![1, 2, 3, 4];
        let added = [10, 20, 30, 40];
        in_parallel(values.iter_mut().zip(&added), 2, &|(value, added): (&mut i32, &i32)| *value += added);
        assert_eq!(values, [11, 22, 33, 44]);
    }

    #[test]
    #[should_panic(expected = "item 3")]
    fn a_panic_keeps_its_message() {
        in_parallel(0..8usize, 2, &|item| assert!(item != 3, "item {item}"));
    }
}
