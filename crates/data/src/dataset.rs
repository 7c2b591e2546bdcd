//! A data set: decoded pixels and labels.

use sha2::{Digest, Sha256};

use crate::{Error, MemoryBudget, Pixels};

/// The shape of one image. Pixels are stored row by row with channels innermost (H x W x C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Channels, C: 1 for grey, 3 for red, green, blue.
    pub channels: usize,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
}

impl Shape {
    /// Elements of one image: H x W x C. As decoded, an element is a byte.
    pub fn elements(self) -> usize {
        self.channels * self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Labelled images of one shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// N x H x W x C bytes, 0 to 255.
    pub pixels: Pixels,
    /// N class indices, each below the number of classes.
    pub labels: Vec<u16>,
}

impl Images {
    /// Number of images, N.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of image `index`, H x W x C.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.pixels.len() / self.labels.len();
        &self.pixels[index * size..][..size]
    }

    /// As [`Images::image`], but images on the disk are copied to `buffer`, so that reading all of them keeps none in memory.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn read<'a>(&'a self, index: usize, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let size = self.pixels.len() / self.labels.len();
        self.pixels.read(index * size..(index + 1) * size, buffer)
    }

    /// Whether the images are sorted by class, as those of an image folder are: the first ones are then all of the first class.
    pub fn is_sorted_by_class(&self) -> bool {
        self.labels.is_sorted()
    }

    /// The number of images of each of the first `classes` classes.
    pub fn counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for &label in &self.labels {
            if let Some(count) = counts.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        counts
    }
}

/// A data set: its classes, its training images and its test images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name: that of a known set, or of the folder or archive.
    pub name: String,
    /// Channels, C.
    pub channels: usize,
    /// Rows, H.
    pub height: usize,
    /// Columns, W.
    pub width: usize,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// The training images, from which a validation split is carved by [`crate::split`].
    pub train: Images,
    /// The test images.
    pub test: Images,
    /// SHA-256, in lower-case hexadecimal, over the decoded content: the text `nettriage-data 1\n`, then C, H, W
    /// and the number of classes, then for the training and again for the test images N, all pixels
    /// (N x H x W x C bytes) and all labels. The numbers are unsigned 64-bit, the labels unsigned 16-bit, little-endian.
    /// It does not depend on file names or compression.
    pub checksum: String,
    /// What a user should know of the files, one line each: images that were skipped, classes without test images.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Assembles a data set and computes its checksum.
    pub(crate) fn new(name: &str, shape: Shape, classes: Vec<String>, train: Images, test: Images) -> Dataset {
        let checksum = checksum(shape, classes.len(), &train, &test);
        let Shape { channels, height, width } = shape;
        Dataset { name: name.to_string(), channels, height, width, classes, train, test, checksum, notes: Vec::new() }
    }

    /// A data set from arrays: for the training and the test images N x H x W x C bytes, and N labels that are indices into
    /// `classes`.
    ///
    /// # Errors
    /// Arrays of other lengths, a label beyond the classes, or no images.
    pub fn from_arrays(
        name: &str,
        shape: Shape,
        classes: Vec<String>,
        train: (Vec<u8>, Vec<u16>),
        test: (Vec<u8>, Vec<u16>),
    ) -> Result<Dataset, Error> {
        let [train, test] = [("training", train), ("test", test)].map(|(what, (pixels, labels))| {
            let (found, wanted) = (pixels.len(), labels.len() * shape.elements());
            if labels.is_empty() || found != wanted {
                let count = labels.len();
                return Err(Error::Setting(format!(
                    "{name}: {found} bytes of {what} images for {count} labels; images of {shape} need {wanted}, and at least one"
                )));
            }
            match labels.iter().find(|label| usize::from(**label) >= classes.len()) {
                Some(label) => {
                    let count = classes.len();
                    let problem = format!("{name}: a {what} image has the label {label}; there are {count} classes, from 0");
                    Err(Error::Setting(problem))
                }
                None => Ok(Images { pixels: pixels.into(), labels }),
            }
        });
        Ok(Dataset::new(name, shape, classes, train?, test?))
    }

    /// The same set, with its pixels in temporary files if they exceed the budget.
    pub(crate) fn within(mut self, budget: &MemoryBudget) -> Result<Dataset, Error> {
        if (self.train.pixels.len() + self.test.pixels.len()) as u64 > budget.memory {
            for images in [&mut self.train, &mut self.test] {
                images.pixels = images.pixels.spilled(budget)?;
            }
        }
        Ok(self)
    }

    /// The same images with three equal channels, for a network that takes RGB; images of three channels are unchanged.
    ///
    /// # Errors
    /// [`Error::Setting`] if the images have neither one nor three channels; [`Error::Spill`].
    pub fn into_rgb(self, budget: &MemoryBudget) -> Result<Dataset, Error> {
        if self.channels == 3 {
            return Ok(self);
        }
        if self.channels != 1 {
            return Err(Error::Setting(format!("{}: images of {} channels are not grey", self.name, self.channels)));
        }
        let Dataset { name, height, width, classes, train, test, mut notes, .. } = self;
        let bytes = 3 * (train.pixels.len() + test.pixels.len()) as u64;
        let memory = if bytes > budget.memory { 0 } else { bytes };
        let budget = MemoryBudget { memory, folder: budget.folder.clone() };
        let repeated = |images: Images| -> Result<Images, Error> {
            let mut pixels = Pixels::zeros(3 * images.pixels.len(), &budget)?;
            for (number, grey) in images.pixels.chunks(CHUNK).enumerate() {
                let rgb: Vec<u8> = grey.iter().flat_map(|&byte| [byte; 3]).collect();
                pixels.write(3 * CHUNK * number, &rgb);
                images.pixels.used(grey.len());
            }
            Ok(Images { pixels, labels: images.labels })
        };
        notes.push(format!("{name}: grey images for a network that takes RGB: the channel is repeated"));
        let shape = Shape { channels: 3, height, width };
        Ok(Dataset { notes, ..Dataset::new(&name, shape, classes, repeated(train)?, repeated(test)?) })
    }

    /// The shape of one image.
    pub fn shape(&self) -> Shape {
        Shape { channels: self.channels, height: self.height, width: self.width }
    }
}

/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 22;

/// See [`Dataset::checksum`].
fn checksum(shape: Shape, classes: usize, train: &Images, test: &Images) -> String {
    let mut hash = Sha256::new();
    hash.update(b"nettriage-data 1\n");
    for number in [shape.channels, shape.height, shape.width, classes] {
        hash.update((number as u64).to_le_bytes());
    }
    for images in [train, test] {
        hash.update((images.len() as u64).to_le_bytes());
        for part in images.pixels.chunks(1 << 24) {
            hash.update(part);
            images.pixels.used(part.len());
        }
        let labels: Vec<u8> = images.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        hash.update(&labels);
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
