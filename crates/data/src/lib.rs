//! Image data sets: reading, checksums, splits, batches, augmentation.
//!
//! A [`Dataset`] holds images as bytes, N x H x W x C, and their labels. [`open`] reads a known set, [`open_folder`] a folder or
//! archive of images. [`split()`] takes the validation images out of the training images, [`Stream`] is the sequence of
//! augmented examples for a seed, and [`fill`] writes a batch of them as normalised f32. All random draws are fixed by the seed
//! and do not change with the version of a library. A data set that exceeds its [`MemoryBudget`] is read from a temporary file.
//!
//! ```
//! use nettriage_data::{Augmentation, Normalization, Stream, fill, open, split};
//!
//! let digits = open("digits", None)?;
//! let split = split(&digits.train, 300, 1);
//! let normalization = Normalization::of(&digits.train, digits.shape(), &split.train);
//! let augmentation = Augmentation { pad: 1, flip: true, ..Augmentation::default() };
//! let stream = Stream::new(&split.train, 1000, &augmentation, 1);
//!
//! // The first batch of 32 images, N x H x W x C.
//! let mut batch = vec![0.0; 32 * 8 * 8];
//! fill(&digits.train, digits.shape(), &stream.examples[..32], &augmentation, &normalization, &mut batch);
//! # Ok::<(), nettriage_data::Error>(())
//! ```

mod batch;
mod cifar;
mod classes;
mod contact_sheet;
mod dataset;
mod digits;
#[cfg(feature = "download")]
mod download;
mod error;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod idx;
mod list;
mod memory;
mod pixels;
mod random;
mod sets;
mod split;
mod stream;
mod variation;

pub use batch::{Normalization, fill, fill_plain};
pub use classes::match_classes;
pub use contact_sheet::{ClassCount, class_counts, contact_sheet};
pub use dataset::{Dataset, Images, Shape};
#[cfg(feature = "download")]
pub use download::{DownloadProgress, get, get_from};
pub use error::Error;
pub use folder::{FolderOptions, ImageSize, Interpolation, open_folder, open_folder_with, open_unlabelled};
pub use list::{KnownSet, is_original, list};
pub use memory::{MemoryBudget, Pages, Spill};
pub use pixels::{Pixels, prefetch};
pub use sets::{open, open_within};
pub use split::{Split, first, split};
pub use stream::{Augmentation, Example, Stream};
