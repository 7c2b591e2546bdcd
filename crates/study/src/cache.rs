//! A cache of activations within budgets of memory and of disk, shared by the workers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

/// Where values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory,
    /// In a file.
    Disk,
}

/// Computed values by key; the least recently used make room for new ones.
///
/// What is computed never depends on whether it was cached, so eviction changes time, not results.
pub struct Cache<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Memory, then disk.
    tiers: [Tier; 2],
    clock: u64,
}

struct Tier {
    place: Place,
    budget: usize,
    bytes: usize,
}

struct Entry<V> {
    values: Cached<V>,
    tier: usize,
    bytes: usize,
    used: u64,
}

/// Values that are, or are being, computed.
pub type Cached<V> = Arc<OnceLock<V>>;

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    /// A cache of at most `memory` bytes in memory, and of at most `disk` bytes in files of what does not fit there.
    pub fn new(memory: usize, disk: usize) -> Cache<K, V> {
        let tier = |place, budget| Tier { place, budget, bytes: 0 };
        let tiers = [tier(Place::Memory, memory), tier(Place::Disk, disk)];
        Cache { state: Mutex::new(State { entries: HashMap::new(), tiers, clock: 0 }) }
    }

    /// The values of `key`, computed by the first who asks while others wait; `None` if `bytes` do not fit.
    pub fn get(&self, key: K, bytes: usize, compute: impl FnOnce(Place) -> V) -> Option<Cached<V>> {
        let (values, place) = self.reserve(key, bytes)?;
        // Outside the lock: others may compute other keys meanwhile.
        values.get_or_init(|| compute(place));
        Some(values)
    }

    /// The values of `key`, if they are there already.
    pub fn there(&self, key: &K) -> Option<Cached<V>> {
        let state = self.state.lock().expect("no holder of the cache's lock panics");
        state.entries.get(key).map(|entry| entry.values.clone()).filter(|values| values.get().is_some())
    }

    /// Room for the values of `key`, for whoever comes by them without having asked; `None` if `bytes` do not fit.
    ///
    /// Who asks for them before they are there computes them.
    pub fn reserve(&self, key: K, bytes: usize) -> Option<(Cached<V>, Place)> {
        let mut state = self.state.lock().expect("no holder of the cache's lock panics");
        let State { entries, tiers, clock } = &mut *state;
        *clock += 1;
        if let Some(entry) = entries.get_mut(&key) {
            entry.used = *clock;
            return Some((entry.values.clone(), tiers[entry.tier].place));
        }
        let tier = (0..tiers.len()).find(|&tier| make_room(entries, &mut tiers[tier], tier, bytes))?;
        let values = Cached::default();
        tiers[tier].bytes += bytes;
        entries.insert(key, Entry { values: values.clone(), tier, bytes, used: *clock });
        Some((values, tiers[tier].place))
    }
}

/// Removes what was used longest ago until there is room; whether there is then.
fn make_room<K: Eq + Hash + Clone, V>(
    entries: &mut HashMap<K, Entry<V>>,
    tier: &mut Tier,
    number: usize,
    bytes: usize,
) -> bool {
    // An entry that somebody still reads would stay in memory anyway, so only idle ones count as room.
    let idle = |e: &Entry<V>| e.tier == number && Arc::strong_count(&e.values) == 1;
    let movable: usize = entries.values().filter(|e| idle(e)).map(|e| e.bytes).sum();
    if tier.bytes - movable + bytes > tier.budget {
        return false;
    }
    while tier.bytes + bytes > tier.budget {
        let oldest = entries.iter().filter(|(_, e)| idle(e)).min_by_key(|(_, e)| e.used).map(|(k, _)| k.clone());
        let removed = oldest.and_then(|key| entries.remove(&key)).expect("there is enough to remove");
        tier.bytes -= removed.bytes;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_once_and_evicts_the_least_recently_used() {
        let cache = Cache::new(32, 0);
        let mut runs = 0;
        let mut get = |key: u32| {
            let values = cache.get(key, 16, |_| {
                runs += 1;
                key
            });
            assert_eq!(values.unwrap().get(), Some(&key));
            runs
        };
        assert_eq!((get(1), get(2), get(1)), (1, 2, 2));
        // 3 takes the place of 2, which was used before 1.
        assert_eq!((get(3), get(1), get(2)), (3, 3, 4));
    }

    #[test]
    fn what_does_not_fit_is_declined() {
        let cache = Cache::new(16, 0);
        assert!(cache.get("large", 17, |_| unreachable!()).is_none());
        let held = cache.get("held", 16, |_| ()).unwrap();
        assert!(cache.get("other", 1, |_| unreachable!()).is_none(), "held values are not evicted");
        drop(held);
        assert!(cache.get("other", 1, |_| ()).is_some());
    }

    #[test]
    fn what_exceeds_memory_goes_to_the_disk() {
        let cache = Cache::new(10, 30);
        let place = |key: &'static str, bytes: usize| cache.get(key, bytes, |place| place);
        let small = place("small", 10).unwrap();
        assert_eq!(small.get(), Some(&Place::Memory));
        assert_eq!(place("large", 25).unwrap().get(), Some(&Place::Disk));
        // Memory is held, and the disk's only entry idle.
        assert_eq!(place("other", 8).unwrap().get(), Some(&Place::Disk));
        assert!(place("larger", 31).is_none());
        drop(small);
        assert_eq!(place("next", 9).unwrap().get(), Some(&Place::Memory));
    }
}
