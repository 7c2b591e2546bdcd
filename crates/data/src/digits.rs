//! The embedded data set of handwritten digits.

use std::path::Path;

use crate::{Dataset, Error, Images, idx};

// IDX files, like those of MNIST, with values 0 to 16; `data/SOURCE.md` gives their source.
const IMAGES: &[u8] = include_bytes!("../data/digits-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../data/digits-labels-idx1-ubyte.gz");

/// Number of test images: the last fifth in file order (scikit-learn's `train_test_split(test_size=0.2, shuffle=False)`).
pub(crate) const TEST: usize = 360;

/// The 1,797 grey 8x8 images of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
/// doi 10.24432/C50P49) in scikit-learn's version: 1,437 training images, and the last 360 in file order as test images.
///
/// A value v of 0 to 16 (the number of black pixels in a 4x4 cell of the scanned bitmap) becomes the byte round(255 v / 16).
pub(crate) fn open() -> Result<Dataset, Error> {
    let name = Path::new("the embedded digits");
    let images = idx::read(name, IMAGES, IMAGES.len() as u64, 3)?;
    let labels = idx::read(name, LABELS, LABELS.len() as u64, 1)?;
    let (shape, mut train) = idx::pair((name, images), (name, labels), 10)?;
    let mut pixels: Vec<u8> = train.pixels.iter().map(|&pixel| ((u16::from(pixel) * 255 + 8) / 16) as u8).collect();
    let cut = train.len() - TEST;
    let test = Images { pixels: pixels.split_off(cut * shape.elements()).into(), labels: train.labels.split_off(cut) };
    train.pixels = pixels.into();
    let classes = (0..10).map(|digit| digit.to_string()).collect();
    Ok(Dataset::new("digits", shape, classes, train, test))
}
