//! The sequence of training examples for a seed.

use serde::{Deserialize, Serialize};

use crate::random::SeededRng;
use crate::{Error, Shape};

/// Augmentation of training images: random crop with padding, and random horizontal flip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Pixels of padding on every side, before a crop of the image's own size; at most 127.
    #[serde(default)]
    pub pad: usize,
    /// Whether each image is flipped left to right with probability 1/2.
    #[serde(default)]
    pub flip: bool,
}

impl Augmentation {
    /// The largest padding.
    pub const MAX_PAD: usize = i8::MAX as usize;

    /// Refuses a padding with which a crop could miss an image of this shape.
    ///
    /// # Errors
    /// [`Error::Setting`] if `pad` exceeds 127 or is not below the shorter side of the image.
    pub fn check(&self, shape: Shape) -> Result<(), Error> {
        let most = shape.height.min(shape.width).saturating_sub(1).min(Self::MAX_PAD);
        if self.pad > most {
            let pad = self.pad;
            return Err(Error::Setting(format!(
                "augmentation pad = {pad}: at most {most} for images of {shape}; lower it"
            )));
        }
        Ok(())
    }
}

/// One training example: an image and its augmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Example {
    /// Index into the training images.
    pub image: u32,
    /// Rows by which the crop is moved down, -pad to pad.
    pub dy: i8,
    /// Columns by which the crop is moved right, -pad to pad.
    pub dx: i8,
    /// Whether the crop is flipped left to right.
    pub flip: bool,
}

impl Example {
    /// The image without augmentation.
    pub fn plain(image: u32) -> Example {
        Example { image, dy: 0, dx: 0, flip: false }
    }
}

/// The sequence of training examples for a seed. All trials of a seed use the same one, so their results are paired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The examples, in order.
    pub examples: Vec<Example>,
}

impl Stream {
    /// `examples` examples: epochs over the images `train`, each in a new random order; the last epoch is truncated.
    ///
    /// The order depends on `train` and `seed` alone, so it is the same with and without augmentation, and a shorter stream is a
    /// prefix of a longer one. A `pad` above 127 is treated as 127. The stream is empty if `train` is.
    pub fn new(train: &[u32], examples: usize, augmentation: &Augmentation, seed: u64) -> Stream {
        if train.is_empty() {
            return Stream { examples: Vec::new() };
        }
        let pad = augmentation.pad.min(Augmentation::MAX_PAD);
        let mut order = SeededRng::new(seed, "order");
        let mut variation = SeededRng::new(seed, "augmentation");
        let mut epoch = train.to_vec();
        let mut sequence = Vec::with_capacity(examples);
        while sequence.len() < examples {
            order.shuffle(&mut epoch);
            for &image in epoch.iter().take(examples - sequence.len()) {
                // Always three draws, so that flips do not depend on the padding, nor crops on flips.
                let dy = variation.below(2 * pad + 1) as i32 - pad as i32;
                let dx = variation.below(2 * pad + 1) as i32 - pad as i32;
                let flip = variation.below(2) == 1 && augmentation.flip;
                sequence.push(Example { image, dy: dy as i8, dx: dx as i8, flip });
            }
        }
        Stream { examples: sequence }
    }
}
