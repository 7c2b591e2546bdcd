//! The sequence of training examples that a seed sees.

use serde::{Deserialize, Serialize};

use crate::random::Draws;
use crate::{Error, Shape};

/// How training images are varied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Pixels of border on every side, out of which a window of the image's own size is cropped; at most 127.
    #[serde(default)]
    pub pad: usize,
    /// Whether every other image, by chance, is mirrored left to right.
    #[serde(default)]
    pub flip: bool,
}

impl Augmentation {
    /// The largest border.
    pub const MAX_PAD: usize = i8::MAX as usize;

    /// Refuses a border that could push an image of this shape out of its window.
    ///
    /// # Errors
    /// [`Error::Setting`] if `pad` exceeds 127, or reaches the image's shorter side.
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

/// One training example: an image and how it is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Example {
    /// Index into the training images.
    pub image: u32,
    /// Rows by which the window is moved down, -pad to pad.
    pub dy: i8,
    /// Columns by which the window is moved right, -pad to pad.
    pub dx: i8,
    /// Whether the window's content is mirrored left to right.
    pub flip: bool,
}

impl Example {
    /// The image as it is.
    pub fn plain(image: u32) -> Example {
        Example { image, dy: 0, dx: 0, flip: false }
    }
}

/// The whole sequence of examples that a seed sees. Every trial of a seed sees the same one, so trials pair up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The examples, in order.
    pub examples: Vec<Example>,
}

impl Stream {
    /// Epoch after epoch over the images `train`, each epoch in a fresh order; the last one is cut.
    ///
    /// The order depends on `train` and `seed` alone, so it is the same with and without augmentation; a shorter
    /// stream is the beginning of a longer one. A `pad` above 127 counts as 127. Empty if `train` is.
    pub fn new(train: &[u32], examples: usize, augmentation: &Augmentation, seed: u64) -> Stream {
        if train.is_empty() {
            return Stream { examples: Vec::new() };
        }
        let pad = augmentation.pad.min(Augmentation::MAX_PAD);
        let mut order = Draws::new(seed, "order");
        let mut variation = Draws::new(seed, "augmentation");
        let mut epoch = train.to_vec();
        let mut sequence = Vec::with_capacity(examples);
        while sequence.len() < examples {
            order.shuffle(&mut epoch);
            for &image in epoch.iter().take(examples - sequence.len()) {
                // Three draws whatever is asked for, so that flips do not depend on the border or the reverse.
                let dy = variation.below(2 * pad + 1) as i32 - pad as i32;
                let dx = variation.below(2 * pad + 1) as i32 - pad as i32;
                let flip = variation.below(2) == 1 && augmentation.flip;
                sequence.push(Example { image, dy: dy as i8, dx: dx as i8, flip });
            }
        }
        Stream { examples: sequence }
    }
}
