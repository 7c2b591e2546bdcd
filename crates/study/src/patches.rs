//! The patches of validation images that activate a substitute's filters most, and its dead filters.

use nettriage_net::receptive_field::Field;
use nettriage_net::{Activation, Kind};
use nettriage_records::record::Patch;

/// Patches shown of a filter.
const SHOWN: usize = 4;

/// The positions of the largest activations of each of the first filters of a tensor, image by image.
pub(crate) struct LargestActivations {
    channels: usize,
    width: usize,
    shown: usize,
    /// Whether a filter's output was ever other than 0.
    alive: Vec<bool>,
    /// For each filter shown: (value, image, row, column), strongest first.
    strongest: Vec<Vec<(f32, usize, usize, usize)>>,
}

impl LargestActivations {
    /// No image yet, of a tensor with `channels` channels and `width` columns; patches are kept of the first `shown` filters.
    pub fn new(channels: usize, width: usize, shown: usize) -> LargestActivations {
        let shown = shown.min(channels);
        LargestActivations { channels, width, shown, alive: vec![false; channels], strongest: vec![Vec::new(); shown] }
    }

    /// Adds one image's values (H x W x C).
    pub fn add(&mut self, image: usize, values: &[f32]) {
        let mut best = vec![(f32::NEG_INFINITY, 0); self.shown];
        for (place, row) in values.chunks_exact(self.channels).enumerate() {
            self.alive.iter_mut().zip(row).for_each(|(alive, value)| *alive |= *value != 0.0);
            for (best, value) in best.iter_mut().zip(row) {
                if *value > best.0 {
                    *best = (*value, place);
                }
            }
        }
        for (list, (value, place)) in self.strongest.iter_mut().zip(best) {
            if value.is_finite() {
                let at = list.partition_point(|(other, ..)| *other >= value);
                list.insert(at, (value, image, place / self.width, place % self.width));
                list.truncate(SHOWN);
            }
        }
    }

    /// Filters whose output is always 0.
    pub fn dead(&self) -> u64 {
        self.alive.iter().filter(|alive| !**alive).count() as u64
    }

    /// The patches of each filter shown, in images of `extents` rows and columns.
    pub fn patches(&self, field: Option<[Field; 2]>, extents: [usize; 2]) -> Vec<Vec<Patch>> {
        let whole = |axis: usize| Field { first: 0, size: extents[axis], jump: 0 };
        let field = field.unwrap_or([whole(0), whole(1)]);
        let stretch = |axis: usize, place: usize| {
            let start = field[axis].first + (place * field[axis].jump) as i64;
            let end = start + field[axis].size as i64;
            let clamped = |at: i64| at.clamp(0, extents[axis] as i64) as usize;
            (clamped(start), clamped(end) - clamped(start))
        };
        let patch = |&(value, image, row, column): &(f32, usize, usize, usize)| {
            let ((top, height), (left, width)) = (stretch(0, row), stretch(1, column));
            Patch { image, top, left, height, width, value }
        };
        let alive = |filter: usize| if self.alive[filter] { self.strongest[filter].as_slice() } else { &[] };
        (0..self.shown).map(|filter| alive(filter).iter().map(patch).collect()).collect()
    }
}

/// Whether a filter whose output is 0 everywhere is dead: it is if its activation is 0 for all negative inputs.
pub(crate) fn cuts_at_zero(kind: &Kind) -> bool {
    matches!(kind, Kind::Activation(Activation::Relu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_activations_are_found_and_their_patches_cropped_to_the_image() {
        let mut watch = LargestActivations::new(2, 2, 2);
        // 2 x 2 places of 2 channels; the second channel is silent.
        watch.add(0, &[0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]);
        watch.add(1, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0]);
        assert_eq!(watch.dead(), 1);
        let patches = watch.patches(Some([Field { first: -1, size: 3, jump: 2 }; 2]), [4, 4]);
        assert_eq!(patches[0][0], Patch { image: 1, top: 1, left: 1, height: 3, width: 3, value: 0.9 });
        assert_eq!(patches[0][1], Patch { image: 0, top: 0, left: 1, height: 2, width: 3, value: 0.2 });
        assert!(patches[1].is_empty());
        assert_eq!(watch.patches(None, [4, 4])[0][0].height, 4);
    }
}
