//! The readers, over bytes in memory, for fuzzing and for tests with damaged files. Not part of the public interface.

use std::path::Path;

use crate::cifar::{CIFAR10, CIFAR100};
use crate::folder::{Archive, Layout, decode_image};
use crate::{Error, FolderOptions, ImageSize, Images, Shape, idx};

const NAME: &str = "bytes";

/// The most memory that [`image`] takes: the limit of the decoder, and the decoded image as RGB bytes.
pub const MAX_IMAGE_BYTES: usize = 2 * crate::folder::MAX_DECODED_BYTES as usize;

/// Images and labels in IDX format, compressed or not.
pub fn idx(images: &[u8], labels: &[u8]) -> Result<(Shape, Images), Error> {
    let name = Path::new(NAME);
    let images = idx::read(name, images, images.len() as u64, 3)?;
    let labels = idx::read(name, labels, labels.len() as u64, 1)?;
    idx::pair((name, images), (name, labels), 10)
}

/// `records` records of CIFAR-10 or (`fine`) CIFAR-100.
pub fn cifar(bytes: &[u8], records: usize, fine: bool) -> Result<Images, Error> {
    let layout = if fine { CIFAR100 } else { CIFAR10 };
    let mut images = crate::cifar::Records::default();
    crate::cifar::decode(Path::new(NAME), bytes, &layout, records, &mut images)?;
    Ok(images.into())
}

/// The names of the image files in an archive, and the numbers of training and test images.
pub fn archive(bytes: &[u8]) -> Result<(Vec<String>, usize, usize), Error> {
    let (name, mut names) = (Path::new(NAME), Vec::new());
    Archive::new(name, bytes)?.for_each(|mut entry| {
        if entry.size <= 1 << 20 {
            entry.bytes()?;
        }
        names.push(entry.name.to_string());
        Ok(())
    })?;
    let layout = Layout::of(name, &names)?;
    Ok((names, layout.train.len(), layout.test.len()))
}

/// An encoded image, brought to 16 x 16 x 3 bytes.
pub fn image(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = vec![0; 16 * 16 * 3];
    decode_image(bytes, &FolderOptions::new(ImageSize::square(16)), &mut out)?;
    Ok(out)
}
