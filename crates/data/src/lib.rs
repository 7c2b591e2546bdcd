//! Image data sets: reading, checksums, splits, batches, augmentation.
//!
//! A [`Dataset`] is bytes in memory, N x H x W x C, and labels. [`open`] reads a known set, [`open_folder`] a folder or
//! archive of images. [`split()`] carves out the validation images, [`Stream`] is the sequence of examples that a seed
//! sees, and [`fill`] turns some of them into the numbers that a network takes. Everything random is drawn from a seed
//! in a way that no library's update changes. A data set that exceeds its [`Room`] in memory is streamed from a file.

mod batch;
mod cifar;
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
mod pixels;
mod random;
mod room;
mod sets;
mod sheet;
mod split;
mod stream;

pub use batch::{Normalization, fill, fill_plain};
pub use dataset::{Dataset, Images, Shape};
#[cfg(feature = "download")]
pub use download::{Progress, get, get_from};
pub use error::Error;
pub use folder::{open_folder, open_folder_within, open_unlabelled};
pub use list::{Listed, is_original, list};
pub use pixels::{Pixels, prefetch};
pub use room::{Pages, Room, Spill};
pub use sets::{open, open_within};
pub use sheet::{ClassCount, class_counts, contact_sheet};
pub use split::{Split, first, split};
pub use stream::{Augmentation, Example, Stream};
