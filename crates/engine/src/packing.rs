//! Buffer sharing: tensors whose lifetimes do not overlap use the same buffer.

/// A tensor's size and the interval of time, both ends included, in which its contents are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// Its elements.
    pub elements: usize,
    /// First time step.
    pub start: usize,
    /// Last time step.
    pub end: usize,
}

impl Lifetime {
    fn overlaps(&self, other: &Lifetime) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// The buffers of a list of tensors.
pub(crate) struct Packing {
    /// For each tensor, the index of its buffer.
    pub buffer_of: Vec<usize>,
    /// Elements of each buffer.
    pub sizes: Vec<usize>,
}

/// Assigns a buffer to each tensor so that tensors with overlapping lifetimes never share one: largest tensor first, each into
/// the first buffer that is free during its lifetime ("greedy by size", Pisarchyk and Lee, arXiv:2001.03288, section 5).
pub(crate) fn pack(tensors: &[Lifetime]) -> Packing {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&t| (std::cmp::Reverse(tensors[t].elements), tensors[t].start, t));
    let mut buffer_of = vec![0; tensors.len()];
    let mut sizes = Vec::new();
    let mut tensors_in: Vec<Vec<usize>> = Vec::new();
    for t in order {
        let is_free = |held: &Vec<usize>| held.iter().all(|&other| !tensors[other].overlaps(&tensors[t]));
        let buffer = tensors_in.iter().position(is_free).unwrap_or_else(|| {
            tensors_in.push(Vec::new());
            sizes.push(tensors[t].elements);
            tensors_in.len() - 1
        });
        tensors_in[buffer].push(t);
        buffer_of[t] = buffer;
    }
    Packing { buffer_of, sizes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Lifetime> = (0..10).map(|i| Lifetime { elements: 100, start: i, end: i + 1 }).collect();
        assert_eq!(pack(&chain).sizes.len(), 2);
    }

    #[test]
    fn tensors_with_overlapping_lifetimes_never_share_a_buffer() {
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
            assert!(a.elements <= packing.sizes[packing.buffer_of[i]]);
            for (j, b) in tensors.iter().enumerate().skip(i + 1) {
                assert!(packing.buffer_of[i] != packing.buffer_of[j] || !a.overlaps(b), "{a:?} and {b:?}");
            }
        }
        let most = (0..70).map(|t| tensors.iter().filter(|x| x.start <= t && t <= x.end).count()).max();
        assert!(packing.sizes.len() <= 2 * most.unwrap());
    }
}
