//! The validation split.

use crate::Images;
use crate::random::SeededRng;

/// Indices into the training images of a data set, both ascending and without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Images to train on.
    pub train: Vec<u32>,
    /// Images for every choice, such as that of the best epoch.
    pub validation: Vec<u32>,
}

/// The first `count` of `indices`. If the images are [sorted by class](Images::is_sorted_by_class), they are taken round-robin
/// over the classes, so that the result is balanced. A prefix of the result equals the result for a smaller `count`.
pub fn first(images: &Images, indices: &[u32], count: usize) -> Vec<u32> {
    if !images.is_sorted_by_class() {
        return indices[..count.min(indices.len())].to_vec();
    }
    let mut seen = vec![0_u32; images.labels.last().map_or(0, |&label| usize::from(label) + 1)];
    let mut rounds = Vec::with_capacity(indices.len());
    for &index in indices {
        let label = images.labels[index as usize];
        let round = &mut seen[usize::from(label)];
        rounds.push((*round, label, index));
        *round += 1;
    }
    rounds.sort_by_key(|&(round, label, _)| (round, label));
    rounds.into_iter().take(count).map(|(_, _, index)| index).collect()
}

/// Takes `validation` images (at most all) at random out of the training images.
///
/// The split is stratified: class `c` with `n_c` of the `N` images gives `validation * n_c / N` of them, rounded down, and
/// the remaining images come from the classes with the largest remainders (Hamilton's method; ties go to the class with
/// the lower label). Within a class the images are chosen by a shuffle with the given seed.
pub fn split(train: &Images, validation: usize, seed: u64) -> Split {
    let total = train.len();
    let wanted = validation.min(total);
    let classes = train.labels.iter().map(|&label| usize::from(label) + 1).max().unwrap_or(0);
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); classes];
    for (index, &label) in train.labels.iter().enumerate() {
        members[usize::from(label)].push(index as u32);
    }

    let mut shares: Vec<usize> = members.iter().map(|m| m.len() * wanted / total.max(1)).collect();
    let mut by_remainder: Vec<usize> = (0..classes).collect();
    by_remainder.sort_by_key(|&class| std::cmp::Reverse(members[class].len() * wanted % total.max(1)));
    let missing = wanted - shares.iter().sum::<usize>();
    for &class in by_remainder.iter().take(missing) {
        shares[class] += 1;
    }

    let mut rng = SeededRng::new(seed, "validation");
    let mut result = Split { train: Vec::new(), validation: Vec::new() };
    for (mut class, share) in members.into_iter().zip(shares) {
        rng.shuffle(&mut class);
        result.train.extend_from_slice(&class[share..]);
        result.validation.extend_from_slice(&class[..share]);
    }
    result.train.sort_unstable();
    result.validation.sort_unstable();
    result
}
