//! Which tensors may share a buffer: those that are never needed at the same time.

/// A tensor's size and the span of time, both ends included, in which its contents matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// Elements per image.
    pub elements: usize,
    /// First moment.
    pub start: usize,
    /// Last moment.
    pub end: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Slots for tensors.
pub(crate) struct Packing {
    /// The slot of every tensor.
    pub slots: Vec<usize>,
    /// Elements per image of every slot.
    pub sizes: Vec<usize>,
}

/// Gives every tensor a slot that no other one uses in its lifetime: largest first, each in the first slot that is free
/// (greedy by size, Pisarchyk and Lee, arXiv:2001.03288).
pub(crate) fn pack(tensors: &[Lifetime]) -> Packing {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&t| (std::cmp::Reverse(tensors[t].elements), tensors[t].start, t));
    let mut slots = vec![0; tensors.len()];
    let mut sizes = Vec::new();
    let mut held: Vec<Vec<usize>> = Vec::new();
    for t in order {
        let free = held.iter().position(|held| held.iter().all(|&other| !tensors[other].meets(&tensors[t])));
        let slot = free.unwrap_or_else(|| {
            held.push(Vec::new());
            sizes.push(tensors[t].elements);
            held.len() - 1
        });
        held[slot].push(t);
        slots[t] = slot;
    }
    Packing { slots, sizes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_needs_two_buffers_and_no_two_living_tensors_share() {
        let chain: Vec<Lifetime> = (0..10).map(|i| Lifetime { elements: 100, start: i, end: i + 1 }).collect();
        let packing = pack(&chain);
        assert_eq!(packing.sizes.len(), 2);
        let mut state = 1u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        let tensors: Vec<Lifetime> = (0..60)
            .map(|_| {
                let start = random(50);
                Lifetime { elements: 1 + random(1000), start, end: start + random(10) }
            })
            .collect();
        let packing = pack(&tensors);
        for (i, a) in tensors.iter().enumerate() {
            assert!(a.elements <= packing.sizes[packing.slots[i]]);
            for (j, b) in tensors.iter().enumerate().skip(i + 1) {
                assert!(packing.slots[i] != packing.slots[j] || !a.meets(b), "{a:?} and {b:?}");
            }
        }
        let most = (0..70).map(|t| tensors.iter().filter(|x| x.start <= t && t <= x.end).count()).max();
        assert!(packing.sizes.len() <= 2 * most.unwrap());
    }
}
