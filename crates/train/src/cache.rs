//! A cache of activations within budgets of the device's memory, of memory and of disk, shared by the workers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Where values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// On the device that models run on.
    Device,
    /// In memory.
    Memory,
    /// In a file.
    Disk,
}

/// Computed values by key, evicted in least-recently-used order.
///
/// An entry that is visible to a reader holds values: a computation that fails, or values that cannot be stored, leave no
/// entry. What is computed never depends on whether it was cached, so eviction changes time, not results.
pub struct Cache<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// In the order in which they are filled.
    budgets: Vec<Budget>,
    clock: u64,
}

struct Budget {
    tier: Tier,
    limit: usize,
    used: usize,
}

struct Entry<V> {
    slot: Slot<V>,
    budget: usize,
    bytes: usize,
    last_use: u64,
}

/// Values that are, or are being, computed; `None` once it is known that they cannot be had.
type Slot<V> = Arc<OnceLock<Option<Arc<V>>>>;

/// Space in a cache for values that are computed as a by-product.
pub struct Reserved<V> {
    slot: Slot<V>,
    /// Where the values must be stored.
    pub tier: Tier,
}

impl<V> Reserved<V> {
    /// Stores the values, unless another thread has computed the same meanwhile.
    pub fn store(self, values: V) {
        let _ = self.slot.set(Some(Arc::new(values)));
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    /// A cache of at most `memory` bytes in memory, and of at most `disk` bytes in files of what exceeds that.
    pub fn new(memory: usize, disk: usize) -> Cache<K, V> {
        Cache::with_device(0, memory, disk)
    }

    /// The same, with at most `device` bytes before these on the device that models run on.
    pub fn with_device(device: usize, memory: usize, disk: usize) -> Cache<K, V> {
        let limits = [(Tier::Device, device), (Tier::Memory, memory), (Tier::Disk, disk)];
        // Without a budget a tier takes not even values of no bytes.
        let limits = limits.into_iter().filter(|&(tier, limit)| tier != Tier::Device || limit > 0);
        let budgets = limits.map(|(tier, limit)| Budget { tier, limit, used: 0 }).collect();
        Cache { state: Mutex::new(State { entries: HashMap::new(), budgets, clock: 0 }) }
    }

    /// The values of `key`. The first caller computes them while others wait.
    ///
    /// `None` if `bytes` exceed every budget, or if `compute` returned `None`: the entry is removed then, and the next
    /// caller tries again.
    pub fn get(&self, key: K, bytes: usize, compute: impl FnOnce(Tier) -> Option<V>) -> Option<Arc<V>> {
        self.get_from(&[Tier::Device, Tier::Memory, Tier::Disk], key, bytes, compute)
    }

    /// The same, stored nowhere but in one of `tiers`.
    pub fn get_from(
        &self,
        tiers: &[Tier],
        key: K,
        bytes: usize,
        compute: impl FnOnce(Tier) -> Option<V>,
    ) -> Option<Arc<V>> {
        let Reserved { slot, tier } = self.reserve_in(tiers, key.clone(), bytes)?;
        // Without the lock, so that other threads can compute other keys meanwhile.
        let values = slot.get_or_init(|| compute(tier).map(Arc::new)).clone();
        if values.is_none() {
            self.remove(&key, &slot);
        }
        values
    }

    /// The values of `key`, if they are stored already.
    pub fn stored(&self, key: &K) -> Option<Arc<V>> {
        self.lock().entries.get(key).and_then(|entry| entry.slot.get().cloned().flatten())
    }

    /// Reserves space for the values of `key`; `None` if `bytes` exceed every budget.
    ///
    /// A thread that calls [`Cache::get`] before they are stored computes them itself.
    pub fn reserve(&self, key: K, bytes: usize) -> Option<Reserved<V>> {
        self.reserve_in(&[Tier::Device, Tier::Memory, Tier::Disk], key, bytes)
    }

    fn reserve_in(&self, tiers: &[Tier], key: K, bytes: usize) -> Option<Reserved<V>> {
        let mut state = self.lock();
        let State { entries, budgets, clock } = &mut *state;
        *clock += 1;
        if let Some(entry) = entries.get_mut(&key) {
            entry.last_use = *clock;
            return Some(Reserved { slot: entry.slot.clone(), tier: budgets[entry.budget].tier });
        }
        let allowed = |budgets: &[Budget], number: usize| tiers.contains(&budgets[number].tier);
        let budget = (0..budgets.len())
            .find(|&number| allowed(budgets, number) && evict(entries, &mut budgets[number], number, bytes))?;
        let slot = Slot::default();
        budgets[budget].used += bytes;
        entries.insert(key, Entry { slot: slot.clone(), budget, bytes, last_use: *clock });
        Some(Reserved { slot, tier: budgets[budget].tier })
    }

    /// Removes the entry whose values could not be had, unless another has taken its place.
    fn remove(&self, key: &K, slot: &Slot<V>) {
        let mut state = self.lock();
        let State { entries, budgets, .. } = &mut *state;
        if entries.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.slot, slot)) {
            let entry = entries.remove(key).expect("the entry was found above");
            budgets[entry.budget].used -= entry.bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().expect("no holder of the cache's lock panics")
    }
}

/// Evicts the least recently used entries until `bytes` more fit the budget; whether they fit then.
fn evict<K: Eq + Hash + Clone, V>(
    entries: &mut HashMap<K, Entry<V>>,
    budget: &mut Budget,
    number: usize,
    bytes: usize,
) -> bool {
    // Evicting an entry that is still read would free no memory, so only idle entries count.
    let unread = |entry: &Entry<V>| {
        let values = entry.slot.get().and_then(Option::as_ref);
        Arc::strong_count(&entry.slot) == 1 && values.is_none_or(|values| Arc::strong_count(values) == 1)
    };
    let idle = |entry: &Entry<V>| entry.budget == number && unread(entry);
    let evictable: usize = entries.values().filter(|e| idle(e)).map(|e| e.bytes).sum();
    if (budget.used - evictable).checked_add(bytes).is_none_or(|total| total > budget.limit) {
        return false;
    }
    while budget.used + bytes > budget.limit {
        let oldest = entries.iter().filter(|(_, e)| idle(e)).min_by_key(|(_, e)| e.last_use).map(|(k, _)| k.clone());
        let removed = oldest.and_then(|key| entries.remove(&key)).expect("enough entries are evictable");
        budget.used -= removed.bytes;
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
                Some(key)
            });
            assert_eq!(*values.unwrap(), key);
            runs
        };
        assert_eq!((get(1), get(2), get(1)), (1, 2, 2));
        // 3 evicts 2, which was used before 1.
        assert_eq!((get(3), get(1), get(2)), (3, 3, 4));
    }

    #[test]
    fn values_beyond_the_budget_are_declined() {
        let cache = Cache::new(16, 0);
        assert!(cache.get("large", 17, |_| unreachable!()).is_none());
        assert!(cache.get("overflow", usize::MAX, |_| unreachable!()).is_none());
        let held = cache.get("held", 16, |_| Some(())).unwrap();
        assert!(cache.get("other", 1, |_| unreachable!()).is_none(), "values that are read are not evicted");
        drop(held);
        assert!(cache.get("other", 1, |_| Some(())).is_some());
    }

    #[test]
    fn values_beyond_the_memory_budget_go_to_the_disk() {
        let cache = Cache::new(10, 30);
        let tier = |key: &'static str, bytes: usize| cache.get(key, bytes, Some);
        let small = tier("small", 10).unwrap();
        assert_eq!(*small, Tier::Memory);
        assert_eq!(*tier("large", 25).unwrap(), Tier::Disk);
        // Memory is in use, and the disk's only entry idle.
        assert_eq!(*tier("other", 8).unwrap(), Tier::Disk);
        assert!(tier("larger", 31).is_none());
        drop(small);
        assert_eq!(*tier("next", 9).unwrap(), Tier::Memory);
    }

    #[test]
    fn the_device_comes_first_and_takes_nothing_without_a_budget() {
        let cache = Cache::with_device(10, 20, 0);
        let tier = |key: &'static str, bytes: usize| cache.get(key, bytes, Some);
        let held = tier("first", 10).unwrap();
        assert_eq!(*held, Tier::Device);
        assert_eq!(*tier("second", 10).unwrap(), Tier::Memory);
        assert!(cache.get_from(&[Tier::Device], "third", 5, Some).is_none(), "another tier is not used");
        drop(held);
        assert_eq!(*cache.get_from(&[Tier::Device], "third", 5, Some).unwrap(), Tier::Device);
        let none: Cache<&str, Tier> = Cache::with_device(0, 10, 0);
        assert!(none.get_from(&[Tier::Device], "a", 0, Some).is_none());
        assert_eq!(*none.get("b", 0, Some).unwrap(), Tier::Memory);
    }

    #[test]
    fn values_that_cannot_be_stored_leave_no_entry() {
        for (memory, disk) in [(10, 0), (0, 10)] {
            let cache: Cache<&str, u32> = Cache::new(memory, disk);
            assert!(cache.get("a", 10, |_| None).is_none());
            assert!(cache.stored(&"a").is_none());
            // The space is free again, and the next caller tries again.
            assert_eq!(cache.get("b", 10, |_| Some(1)).as_deref(), Some(&1));
            assert_eq!(cache.get("a", 10, |_| Some(2)).as_deref(), Some(&2));
        }
    }

    #[test]
    fn reserved_space_is_invisible_until_values_are_stored() {
        let cache = Cache::new(10, 0);
        let reserved = cache.reserve("a", 10).unwrap();
        assert!(cache.stored(&"a").is_none());
        reserved.store(7);
        assert_eq!(cache.stored(&"a").as_deref(), Some(&7));
        assert_eq!(cache.get("a", 10, |_| unreachable!()).as_deref(), Some(&7));
    }
}
