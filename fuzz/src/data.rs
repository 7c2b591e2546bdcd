//! The readers of data sets.

use nettriage_data::fuzzing;

use crate::one_line;

/// The first two bytes say where the images end and the labels begin.
pub fn idx(bytes: &[u8]) -> usize {
    let Some((cut, rest)) = bytes.split_first_chunk::<2>() else { return 0 };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(rest.len());
    let (images, labels) = rest.split_at(cut);
    match fuzzing::idx(images, labels) {
        Ok((shape, read)) => {
            assert_eq!(read.pixels.len(), read.len() * shape.elements());
            assert!(read.labels.iter().all(|&label| label < 10));
            read.pixels.len() + 2 * read.labels.len()
        }
        Err(error) => {
            one_line(&error.to_string());
            0
        }
    }
}

/// As many records as fit into the length, of either set.
pub fn cifar(bytes: &[u8]) -> usize {
    for (fine, record, classes) in [(false, 3073, 10), (true, 3074, 100)] {
        let records = bytes.len() / record;
        match fuzzing::cifar(bytes, records, fine) {
            Ok(read) => {
                assert_eq!(bytes.len(), records * record);
                assert_eq!((read.len(), read.pixels.len()), (records, records * 3072));
                assert!(read.labels.iter().all(|&label| label < classes));
            }
            Err(error) => one_line(&error.to_string()),
        }
    }
    0
}

/// A tar archive.
pub fn archive(bytes: &[u8]) -> usize {
    match fuzzing::archive(bytes) {
        Ok((names, train, test)) => {
            assert!(train > 0 && test > 0 && train + test <= names.len());
            let inside = |name: &String| !name.starts_with('/') && name.split('/').all(|part| part != "..");
            assert!(names.iter().all(inside), "{names:?}");
        }
        Err(error) => one_line(&error.to_string()),
    }
    // A compressed archive may hold a file of a megabyte, read whole.
    1 << 20
}

/// An image file.
pub fn image(bytes: &[u8]) -> usize {
    match fuzzing::image(bytes) {
        Ok(pixels) => assert_eq!(pixels.len(), 16 * 16 * 3),
        Err(reason) => one_line(&reason),
    }
    // The most that an image may declare, in the decoder and as eight-bit RGB.
    fuzzing::MAX_IMAGE_BYTES
}
