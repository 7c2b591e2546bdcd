//! The validation split, on which every choice is made.

use crate::Images;
use crate::random::Draws;

/// Indices into a data set's training images, both ascending and without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Images to train on.
    pub train: Vec<u32>,
    /// Images to choose by.
    pub validation: Vec<u32>,
}

/// The first `count` of `indices`; of images that lie [class by class](Images::by_class), going round the classes, so that
/// any first ones are of every class. The first of the first are then the first: a part of a part has the same order.
pub fn first(images: &Images, indices: &[u32], count: usize) -> Vec<u32> {
    if !images.by_class() {
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

/// Carves `validation` images (all, if there are fewer) out of the training images, by seed.
///
/// Stratified: class `c` with `n_c` of the `N` images gives `validation * n_c / N` of them rounded down, and the
/// images still lacking come from the classes with the largest remainders (Hamilton's method; ties go to the
/// lower class). Which images of a class is a shuffle by seed.
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
    let lacking = wanted - shares.iter().sum::<usize>();
    for &class in by_remainder.iter().take(lacking) {
        shares[class] += 1;
    }

    let mut draws = Draws::new(seed, "validation");
    let mut result = Split { train: Vec::new(), validation: Vec::new() };
    for (mut class, share) in members.into_iter().zip(shares) {
        draws.shuffle(&mut class);
        result.train.extend_from_slice(&class[share..]);
        result.validation.extend_from_slice(&class[..share]);
    }
    result.train.sort_unstable();
    result.validation.sort_unstable();
    result
}
