//! A cache of activations within a budget of memory, shared by the workers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

/// Computed values by key; the least recently used make room for new ones.
///
/// What is computed never depends on whether it was cached, so eviction changes time, not results.
pub struct Cache<K> {
    budget: usize,
    state: Mutex<State<K>>,
}

struct State<K> {
    entries: HashMap<K, Entry>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    values: Cached,
    bytes: usize,
    used: u64,
}

/// Values that are, or are being, computed.
pub type Cached = Arc<OnceLock<Vec<f32>>>;

impl<K: Eq + Hash + Clone> Cache<K> {
    /// A cache of at most `budget` bytes.
    pub fn new(budget: usize) -> Cache<K> {
        Cache { budget, state: Mutex::new(State { entries: HashMap::new(), bytes: 0, clock: 0 }) }
    }

    /// The values of `key`, computed by the first who asks while others wait; `None` if `length` values do not fit.
    pub fn get(&self, key: K, length: usize, compute: impl FnOnce() -> Vec<f32>) -> Option<Cached> {
        let values = self.reserve(key, length * size_of::<f32>())?;
        // Outside the lock: others may compute other keys meanwhile.
        values.get_or_init(compute);
        Some(values)
    }

    fn reserve(&self, key: K, bytes: usize) -> Option<Cached> {
        let mut state = self.state.lock().expect("no holder of the cache's lock panics");
        state.clock += 1;
        let now = state.clock;
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.used = now;
            return Some(entry.values.clone());
        }
        while state.bytes + bytes > self.budget {
            // An entry that somebody still reads would stay in memory anyway, so only idle ones count as room.
            let idle = state.entries.iter().filter(|(_, e)| Arc::strong_count(&e.values) == 1);
            let oldest = idle.min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone())?;
            let removed = state.entries.remove(&oldest).expect("the key was just found");
            state.bytes -= removed.bytes;
        }
        let values = Cached::default();
        state.bytes += bytes;
        state.entries.insert(key, Entry { values: values.clone(), bytes, used: now });
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_once_and_evicts_the_least_recently_used() {
        let cache = Cache::new(8 * size_of::<f32>());
        let mut runs = 0;
        let mut get = |key: u32| {
            let values = cache.get(key, 4, || {
                runs += 1;
                vec![key as f32; 4]
            });
            assert_eq!(values.unwrap().get().unwrap()[0], key as f32);
            runs
        };
        assert_eq!((get(1), get(2), get(1)), (1, 2, 2));
        // 3 takes the place of 2, which was used before 1.
        assert_eq!((get(3), get(1), get(2)), (3, 3, 4));
    }

    #[test]
    fn what_does_not_fit_is_declined() {
        let cache = Cache::new(16);
        assert!(cache.get("large", 5, || unreachable!()).is_none());
        let held = cache.get("held", 4, || vec![0.0; 4]).unwrap();
        assert!(cache.get("other", 1, || unreachable!()).is_none(), "held values are not evicted");
        drop(held);
        assert!(cache.get("other", 1, || vec![0.0]).is_some());
    }
}
