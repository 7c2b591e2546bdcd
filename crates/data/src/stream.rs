//! The sequence of training examples for a seed.

use serde::{Deserialize, Serialize};

use crate::random::SeededRng;
use crate::{Error, Shape};

/// Augmentation of training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Pixels of padding on every side, before a crop of the image's own size; at most 127.
    #[serde(default)]
    pub pad: usize,
    /// Whether each image is flipped left to right with probability 1/2.
    #[serde(default)]
    pub flip: bool,
    /// The smallest share of an image's area that a random crop has, above 0 to 1. The crop, of a ratio of width to height between
    /// 3/4 and 4/3, is resized to the image's size, as torchvision's `RandomResizedCrop` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<f32>,
    /// How far brightness, contrast and saturation change, 0 to 1: each is multiplied by a factor between 1 - `jitter` and
    /// 1 + `jitter`, as by torchvision's `ColorJitter`, in this order.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter: f32,
    /// Side in pixels of a square that is set to the mean colour, at a random place (DeVries and Taylor, arXiv:1708.04552); parts of
    /// it may lie outside the image.
    #[serde(default, skip_serializing_if = "is_none")]
    pub cutout: usize,
    /// Mixup (Zhang et al., arXiv:1710.09412): every example is w times its image and 1 - w times that of the example before it, and
    /// so are their labels; w is drawn from Beta(`mixup`, `mixup`) for each, 0 to 1. 0 mixes nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mixup: f32,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn is_none(pixels: &usize) -> bool {
    *pixels == 0
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
        if let Some(crop) = self.crop.filter(|crop| !(*crop > 0.0 && *crop <= 1.0)) {
            return Err(Error::Setting(format!(
                "augmentation crop = {crop}: a share of the area, above 0 and at most 1"
            )));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let jitter = self.jitter;
            return Err(Error::Setting(format!("augmentation jitter = {jitter}: choose 0 to 1")));
        }
        if !(0.0..=1.0).contains(&self.mixup) {
            let mixup = self.mixup;
            return Err(Error::Setting(format!("augmentation mixup = {mixup}: choose 0 to 1")));
        }
        let (cutout, side) = (self.cutout, shape.height.max(shape.width));
        if cutout > side {
            return Err(Error::Setting(format!(
                "augmentation cutout = {cutout}: at most {side} for images of {shape}"
            )));
        }
        Ok(())
    }

    /// The share of its own image and label in a mixed example, 0 to 1; none without mixup.
    pub fn own_share(&self, example: &Example) -> Option<f32> {
        (self.mixup > 0.0).then(|| SeededRng::new(u64::from(example.variation), "mixup").beta(self.mixup))
    }

    /// Whether images are cropped and resized, recoloured or partly cut out.
    pub(crate) fn varies(&self) -> bool {
        self.crop.is_some() || self.jitter > 0.0 || self.cutout > 0
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
    /// Determines the resized crop, the colours, the cutout and the share in a mixture; 0 if the augmentation has none of them.
    pub variation: u32,
}

impl Example {
    /// The image without augmentation.
    pub fn plain(image: u32) -> Example {
        Example { image, dy: 0, dx: 0, flip: false, variation: 0 }
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
        let mut shifts = SeededRng::new(seed, "augmentation");
        // A stream of its own, so that shifts and flips stay as they are without it.
        let mut photographic = SeededRng::new(seed, "photographic");
        let mut epoch = train.to_vec();
        let mut sequence = Vec::with_capacity(examples);
        while sequence.len() < examples {
            order.shuffle(&mut epoch);
            for &image in epoch.iter().take(examples - sequence.len()) {
                // Always three draws, so that flips do not depend on the padding, nor crops on flips.
                let dy = shifts.below(2 * pad + 1) as i32 - pad as i32;
                let dx = shifts.below(2 * pad + 1) as i32 - pad as i32;
                let flip = shifts.below(2) == 1 && augmentation.flip;
                let variation = match augmentation.varies() || augmentation.mixup > 0.0 {
                    true => photographic.below(u32::MAX as usize) as u32 + 1,
                    false => 0,
                };
                sequence.push(Example { image, dy: dy as i8, dx: dx as i8, flip, variation });
            }
        }
        Stream { examples: sequence }
    }
}
