//! Archives that are damaged or hostile.

use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use nettriage_data::open_folder;
use tar::{Builder, EntryType, Header};

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(4, 4, Rgb([9, 8, 7])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// One entry; the name is written to the header unchecked.
fn entry(name: &str, kind: EntryType, content: &[u8]) -> Vec<u8> {
    entry_of(name.as_bytes(), kind, content)
}

fn entry_of(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    entry(name, EntryType::Regular, &png())
}

const END: [u8; 1024] = [0; 1024];

/// Two classes, three images.
fn good() -> Vec<u8> {
    [file("train/a/1.png"), file("train/b/1.png"), file("test/a/2.png"), END.to_vec()].concat()
}

fn opened(bytes: &[u8]) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.tar");
    std::fs::write(&path, bytes).unwrap();
    match open_folder(&path, 4) {
        Ok(set) => Ok(set.train.len() + set.test.len()),
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with(&path.display().to_string()) && !error.contains('\n'), "{error}");
            Err(error)
        }
    }
}

fn refused(bytes: &[u8], words: &str) {
    let error = opened(bytes).unwrap_err();
    assert!(error.contains(words), "{error} has no '{words}'");
}

#[test]
fn gnu_and_pax_archives_are_read() {
    assert_eq!(opened(&good()), Ok(3));
    let long = format!("{}/train/a/1.png", "wrapped".repeat(30));
    for gnu in [true, false] {
        let mut builder = Builder::new(Vec::new());
        for name in [long.clone(), long.replace("/a/", "/b/"), long.replace("train", "test")] {
            if gnu {
                let mut header = Header::new_gnu();
                header.set_size(png().len() as u64);
                builder.append_data(&mut header, &name, &png()[..]).unwrap();
            } else {
                let size = png().len().to_string();
                let records = [("path", name.as_bytes()), ("size", size.as_bytes())];
                builder.append_pax_extensions(records).unwrap();
                let mut header = Header::new_ustar();
                header.set_size(png().len() as u64);
                header.set_path("short.png").unwrap();
                header.set_cksum();
                builder.append(&header, &png()[..]).unwrap();
            }
        }
        let bytes = builder.into_inner().unwrap();
        assert_eq!(opened(&bytes), Ok(3), "GNU {gnu}");
        assert_eq!(opened(&gzip(&bytes)), Ok(3), "GNU {gnu}");
    }
}

#[test]
fn truncation_is_always_detected() {
    let whole = good();
    for length in (0..whole.len() - 1024).step_by(64) {
        assert!(opened(&whole[..length]).is_err(), "{length} bytes");
    }
    refused(&whole[..whole.len() - 1024], "ends after 3 entries without an end mark");
    let packed = gzip(&whole);
    for length in 1..packed.len() {
        assert!(opened(&packed[..length]).is_err(), "{length} of {} compressed bytes", packed.len());
    }
}

#[test]
fn files_of_another_kind() {
    refused(b"", "ends after 0 entries");
    refused(&[7; 100], "is neither a folder nor a tar archive");
    refused(&[b"PK\x03\x04".as_slice(), &[7; 2000]].concat(), "is neither a folder nor a tar archive");
    refused(&gzip(&[7; 2000]), "is neither a folder nor a tar archive");
    refused(&png(), "is neither a folder nor a tar archive");
    refused(&END, "holds no images");
}

#[test]
fn names_that_lead_out_of_the_archive_or_occur_twice() {
    for name in ["../train/a/1.png", "train/../../a/1.png", "/etc/a/1.png", "train/.."] {
        refused(&[file(name), good()].concat(), "leads out of the archive");
    }
    refused(&[entry_of(b"train/a/\xff.png", EntryType::Regular, b""), good()].concat(), "is not UTF-8");
    refused(&[file("train/a/1.png"), good()].concat(), "holds train/a/1.png twice");
    refused(&[file("./train//a/1.png"), good()].concat(), "holds train/a/1.png twice");
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo, EntryType::GNUSparse] {
        refused(&[entry("train/a/l.png", kind, b""), good()].concat(), "is a link or a special file");
    }
    // Links and special files whose names are not those of images are ignored.
    assert_eq!(opened(&[entry("latest", EntryType::Symlink, b""), good()].concat()), Ok(3));
}

#[test]
fn false_lengths() {
    let mut header = Header::new_gnu();
    header.set_path("train/a/0.png").unwrap();
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    refused(&[header.as_bytes().as_slice(), &good()].concat(), "");
    header.set_size(1 << 40);
    header.set_cksum();
    refused(&[header.as_bytes().as_slice(), &good()].concat(), "");
    refused(&[entry("", EntryType::GNULongName, &[b'x'; 70_000]), good()].concat(), "a file name of 70000 bytes");
    refused(&[entry("", EntryType::XHeader, &[b'x'; 70_000]), good()].concat(), "a file name of 70000 bytes");
    refused(&[entry("", EntryType::XHeader, b"12 size=17\n\n"), good()].concat(), "");
    refused(&[entry("", EntryType::XHeader, b"11 size=17\n"), good()].concat(), "states two lengths of one file");
    refused(&[entry("", EntryType::XHeader, b"nonsense\n"), good()].concat(), "in an extended header");
}

#[test]
fn a_file_too_large_to_be_an_image() {
    // 100 MB of zeros compress to 100 kB; the error names the entry, which is not read into memory.
    let zeros = entry("train/a/zeros.png", EntryType::Regular, &vec![0; 100_000_000]);
    let bytes = gzip(&[zeros, good()].concat());
    assert!(bytes.len() < 200_000);
    refused(&bytes, "train/a/zeros.png (95 MiB is more than the 64 MiB that an image file may have)");
}

#[test]
fn images_whose_headers_claim_huge_sizes() {
    // A PNG header of 60,000 x 60,000 pixels with the right checksum, and no pixels.
    let mut header = b"IHDR".to_vec();
    header.extend_from_slice(&60_000u32.to_be_bytes());
    header.extend_from_slice(&60_000u32.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    let claim =
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0d".as_slice(), &header, &crc.sum().to_be_bytes(), b"\0\0\0\0IDAT\x35\xaf\x06\x1e"]
            .concat();
    let bytes = [entry("train/a/huge.png", EntryType::Regular, &claim), good()].concat();
    refused(
        &bytes,
        "1 of 4 images cannot be decoded: train/a/huge.png (60000x60000 pixels in 45 bytes take more than the 16 MiB that such a file may)",
    );
}

#[test]
fn a_path_without_a_file() {
    let error = open_folder(Path::new("/no/such/archive.tar"), 8).unwrap_err().to_string();
    assert!(error.starts_with("cannot open /no/such/archive.tar: "), "{error}");
}
