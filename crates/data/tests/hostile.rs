//! Thousands of randomly damaged inputs: every reader returns an error or a consistent result and never panics.
//! `fuzz/` holds the coverage-guided fuzzers.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use nettriage_data::fuzzing;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Boundary values of bytes and integers.
const EDGES: [u32; 10] = [0, 1, 7, 127, 128, 255, 256, 65_535, i32::MAX as u32, u32::MAX];

struct Mutator(ChaCha8Rng);

impl Mutator {
    fn new(seed: u8) -> Mutator {
        Mutator(ChaCha8Rng::from_seed([seed; 32]))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// One to four changes: a bit, a byte, a number in either byte order, a cut, a gap, a repetition.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let length = self.below(64).min(bytes.len() - at.min(bytes.len()));
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(0),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = EDGES[self.below(6)] as u8,
                2 | 3 => {
                    let edge = EDGES[self.below(EDGES.len())];
                    let number = if self.below(2) == 0 { edge.to_be_bytes() } else { edge.to_le_bytes() };
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
                4 => bytes.truncate(at),
                5 => drop(bytes.drain(at..at + length)),
                _ => {
                    let copy = bytes[at..at + length].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
        }
        bytes
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx_images(count: u8) -> Vec<u8> {
    let header = [0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 4, 0, 0, 0, 5];
    header.into_iter().chain((0..usize::from(count) * 20).map(|i| i as u8)).collect()
}

fn idx_labels(count: u8) -> Vec<u8> {
    [0, 0, 8, 1, 0, 0, 0, count].into_iter().chain((0..count).map(|i| i % 10)).collect()
}

/// Whether the reader accepts the files; checks that its result is consistent.
fn idx(images: &[u8], labels: &[u8]) -> bool {
    match fuzzing::idx(images, labels) {
        Ok((shape, read)) => {
            assert_eq!(read.pixels.len(), read.len() * shape.elements());
            assert!(read.labels.iter().all(|&label| label < 10));
            true
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            false
        }
    }
}

#[test]
fn idx_files() {
    let (images, labels) = (idx_images(12), idx_labels(12));
    let (packed_images, packed_labels) = (gzip(&images), gzip(&labels));
    assert!(idx(&images, &labels) && idx(&packed_images, &packed_labels));
    for length in 0..images.len() {
        assert!(!idx(&images[..length], &labels), "{length}");
    }
    for length in 0..labels.len() {
        assert!(!idx(&images, &labels[..length]), "{length}");
    }
    let mut mutator = Mutator::new(1);
    let mut read = 0;
    for _ in 0..10_000 {
        read += u32::from(idx(&mutator.mutate(&images), &labels));
        read += u32::from(idx(&images, &mutator.mutate(&labels)));
        idx(&mutator.mutate(&packed_images), &packed_labels);
        idx(&packed_images, &mutator.mutate(&packed_labels));
    }
    // A changed pixel or label (below 10) cannot be detected; all other changes must be.
    assert!((1000..15_000).contains(&read), "{read}");
}

#[test]
fn cifar_files() {
    for (fine, record) in [(false, 3073), (true, 3074)] {
        let batch: Vec<u8> = (0..3 * record).map(|i| if i % record < 2 { 1 } else { i as u8 }).collect();
        let images = fuzzing::cifar(&batch, 3, fine).unwrap();
        // The red, green and blue values of a pixel are 1,024 bytes apart in the file.
        let start = record - 3072;
        assert_eq!(images.pixels[..3], [batch[start], batch[start + 1024], batch[start + 2048]]);
        for length in (0..batch.len()).step_by(97) {
            assert!(fuzzing::cifar(&batch[..length], 3, fine).is_err());
        }
        let mut mutator = Mutator::new(2);
        for _ in 0..2000 {
            if let Ok(images) = fuzzing::cifar(&mutator.mutate(&batch), 3, fine) {
                assert_eq!((images.len(), images.pixels.len()), (3, 3 * 3072));
                assert!(images.labels.iter().all(|&label| label < if fine { 100 } else { 10 }));
            }
        }
    }
}

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "long".repeat(40);
    for name in ["train/a/1.png", "train/b/1.png", &format!("train/b/{long}.png"), "test/a/2.png"] {
        let content = name.repeat(9);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        builder.append_pax_extensions([("comment", name.as_bytes())]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    builder.append_data(&mut header, "notes.txt", &b"end"[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Corrects the checksums of headers, so that damage is not detected by them.
fn correct_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn archives() {
    let plain = tar();
    let packed = gzip(&plain);
    for bytes in [&plain, &packed] {
        let (names, train, test) = fuzzing::archive(bytes).unwrap();
        assert_eq!((names.len(), train, test), (5, 3, 1));
    }
    for length in 0..packed.len() {
        assert!(fuzzing::archive(&packed[..length]).is_err(), "{length}");
    }
    let mut mutator = Mutator::new(3);
    let mut read = 0;
    for round in 0..20_000 {
        let mut bytes = mutator.mutate(if round % 4 == 0 { &packed } else { &plain });
        if round % 2 == 1 {
            correct_checksums(&mut bytes);
        }
        match fuzzing::archive(&bytes) {
            Ok((names, train, test)) => {
                assert!(train > 0 && test > 0 && train + test <= names.len());
                for name in names {
                    assert!(!name.starts_with('/') && name.split('/').all(|part| part != ".."), "{name}");
                }
                read += 1;
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    assert!((1000..19_000).contains(&read), "{read}");
}

#[test]
fn encoded_images() {
    let image = RgbImage::from_fn(24, 17, |x, y| Rgb([(x * 9) as u8, (y * 13) as u8, (x * y) as u8]));
    let mut mutator = Mutator::new(4);
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let mut encoded = Cursor::new(Vec::new());
        image.write_to(&mut encoded, format).unwrap();
        let encoded = encoded.into_inner();
        assert!(fuzzing::image(&encoded).is_ok());
        for length in 0..encoded.len() {
            // Some decoders accept truncated files; none may panic.
            let _ = fuzzing::image(&encoded[..length]);
        }
        let mut bad = 0;
        for _ in 0..4000 {
            if let Err(reason) = fuzzing::image(&mutator.mutate(&encoded)) {
                assert!(!reason.contains('\n'), "{reason:?}");
                bad += 1;
            }
        }
        assert!(bad > 100, "{format:?}: {bad}");
    }
}
