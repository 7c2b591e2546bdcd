//! Damaged, missing and wrong files of known sets: each gives an error of one line that names the file.

use std::fs::File;
use std::path::{Path, PathBuf};

use nettriage_data::{Dataset, Error, open};
use tempfile::TempDir;

/// Four files of a set of 6 and 4 images of 2 x 3.
fn idx_set() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mnist");
    std::fs::create_dir(&folder).unwrap();
    for (stem, count) in [("train", 6), ("t10k", 4)] {
        std::fs::write(folder.join(format!("{stem}-images-idx3-ubyte")), images(count)).unwrap();
        std::fs::write(folder.join(format!("{stem}-labels-idx1-ubyte")), labels(count)).unwrap();
    }
    (dir, folder)
}

fn images(count: u8) -> Vec<u8> {
    let header = [0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 3];
    header.into_iter().chain((0..count * 6).map(|i| 2 * i)).collect()
}

fn labels(count: u8) -> Vec<u8> {
    [0, 0, 8, 1, 0, 0, 0, count].into_iter().chain((0..count).map(|i| i % 3)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// The error of opening `mnist` under `dir`.
fn refused(dir: &Path) -> String {
    let error = open("mnist", Some(dir)).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Opens the set with one file replaced, and checks that the error names it and says `words`.
fn replaced(file: &str, content: &[u8], words: &str) {
    let (dir, folder) = idx_set();
    std::fs::write(folder.join(file), content).unwrap();
    let error = refused(dir.path());
    assert!(error.contains(file) && error.contains(words), "{file}: {error} has no '{words}'");
}

fn small(dataset: &Dataset) {
    assert_eq!(dataset.shape().to_string(), "1x2x3");
    assert_eq!(dataset.train.pixels[..], (0..36).map(|i| 2 * i).collect::<Vec<u8>>());
    assert_eq!(dataset.test.labels, [0, 1, 2, 0]);
}

#[test]
fn both_spellings_compressed_or_not_in_all_usual_folders() {
    for place in ["mnist", ".", "mnist/raw", "MNIST/raw"] {
        for (joint, end) in [("-", ""), (".", ""), ("-", ".gz"), (".", ".gz")] {
            let (_source, folder) = idx_set();
            let dir = tempfile::tempdir().unwrap();
            let place = dir.path().join(place);
            std::fs::create_dir_all(&place).unwrap();
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().replace("-idx", &format!("{joint}idx"));
                let bytes = std::fs::read(&path).unwrap();
                let bytes = if end.is_empty() { bytes } else { gzip(&bytes) };
                std::fs::write(place.join(name + end), bytes).unwrap();
            }
            small(&open("mnist", Some(dir.path())).unwrap());
            small(&open("MNIST", Some(dir.path())).unwrap());
        }
    }
}

#[test]
fn a_set_that_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let error = open("cifar10", Some(dir.path())).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
    let error = error.to_string();
    assert!(error.contains(dir.path().to_str().unwrap()) && error.contains("`nettriage data get cifar10`"), "{error}");
}

#[test]
fn a_missing_file() {
    for file in ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "train-images-idx3-ubyte"] {
        let (dir, folder) = idx_set();
        std::fs::remove_file(folder.join(file)).unwrap();
        let error = refused(dir.path());
        assert!(error.starts_with(&format!("no {file} (or .gz) found in {}", folder.display())), "{error}");
    }
}

#[test]
fn short_and_long_files() {
    let whole = images(6);
    for length in [0, 3, 4, 15] {
        replaced("train-images-idx3-ubyte", &whole[..length], &format!("expected 16 bytes, found {length}"));
    }
    for length in [16, 17, 51] {
        replaced("train-images-idx3-ubyte", &whole[..length], &format!("expected 52 bytes, found {length}"));
    }
    replaced("train-images-idx3-ubyte", &[&whole[..], &[0]].concat(), "expected 52 bytes, found 53");
    replaced("t10k-labels-idx1-ubyte", &labels(4)[..11], "expected 12 bytes, found 11");
    replaced("t10k-labels-idx1-ubyte", b"", "expected 8 bytes, found 0");
    replaced("t10k-labels-idx1-ubyte", b"", "delete it and fetch the set again");
}

#[test]
fn compressed_files_that_are_short_long_or_damaged() {
    let whole = gzip(&images(6));
    // A compressed file under the plain name: the content decides.
    let (dir, folder) = idx_set();
    std::fs::write(folder.join("train-images-idx3-ubyte"), &whole).unwrap();
    small(&open("mnist", Some(dir.path())).unwrap());

    for length in [2, 5, 10, 20, whole.len() / 2, whole.len() - 9, whole.len() - 8, whole.len() - 1] {
        replaced("train-images-idx3-ubyte", &whole[..length], "");
    }
    replaced("train-images-idx3-ubyte", &gzip(&images(6)[..51]), "expected 52 bytes, found 51");
    replaced("train-images-idx3-ubyte", &gzip(&[&images(6)[..], &[0]].concat()), "expected 52 bytes, found more");
    let trailer = whole[..whole.len() - 3].to_vec();
    replaced("train-images-idx3-ubyte", &trailer, "ends within gzip's checksum, after all its content");
    // Every flipped bit gives an error that names the file, unless the bit has no meaning (unused bits of the last byte).
    let mut harmless = 0;
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(folder.join("train-images-idx3-ubyte"), damaged).unwrap();
            match open("mnist", Some(dir.path())) {
                Ok(set) => {
                    small(&set);
                    harmless += 1;
                }
                Err(error) => assert!(error.to_string().contains("train-images-idx3-ubyte"), "{error}"),
            }
        }
    }
    // gzip's header has 6 bytes of time, level and system, and some of its flags announce fields that are skipped.
    assert!(harmless <= 6 * 8 + 8 + 7, "{harmless}");
}

#[test]
fn files_of_another_kind() {
    replaced("train-images-idx3-ubyte", b"<html>not found</html>", "begins with 3c68746d");
    replaced(
        "train-images-idx3-ubyte",
        &labels(6),
        "begins with 00000801, where an IDX file of bytes with 3 axes has 00000803",
    );
    let mut floats = images(6);
    floats[2] = 0x0d;
    replaced("train-images-idx3-ubyte", &floats, "begins with 00000d03");
    replaced("train-labels-idx1-ubyte", &images(6), "begins with 00000803");
}

#[test]
fn headers_with_false_sizes() {
    let header = |extents: [u32; 3]| -> Vec<u8> {
        [0u8, 0, 8, 3].into_iter().chain(extents.iter().flat_map(|extent| extent.to_be_bytes())).collect()
    };
    let file = "train-images-idx3-ubyte";
    replaced(file, &header([u32::MAX; 3]), "more than 8 GiB");
    replaced(file, &header([u32::MAX, 1, 1]), "expected 4294967311 bytes, found 16");
    replaced(file, &gzip(&header([u32::MAX, 1, 1])), "expected 4294967311 bytes, found at most");
    replaced(file, &header([0, 2, 3]), "0 images");
    replaced(file, &header([6, 0, 3]), "holds no pixels");
}

#[test]
fn files_that_do_not_belong_together() {
    replaced("train-labels-idx1-ubyte", &labels(5), "5 labels for the 6 images of");
    let mut wild = labels(6);
    wild[8 + 4] = 10;
    replaced("train-labels-idx1-ubyte", &wild, "label 4 is 10, but the set has 10 classes");
    let (dir, folder) = idx_set();
    let mut turned = images(4);
    turned.swap(11, 15);
    std::fs::write(folder.join("t10k-images-idx3-ubyte"), turned).unwrap();
    let error = refused(dir.path());
    assert!(error.contains("training images are 1x2x3, test images 1x3x2"), "{error}");
}

#[test]
fn a_folder_where_a_file_should_be() {
    let (dir, folder) = idx_set();
    let path = folder.join("train-labels-idx1-ubyte");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(refused(dir.path()).starts_with("no train-labels-idx1-ubyte"));
}

/// The six files of CIFAR-10 at full length, all zeros (sparse files).
fn cifar_set() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cifar10/cifar-10-batches-bin");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        File::create(folder.join(format!("{name}.bin"))).unwrap().set_len(30_730_000).unwrap();
    }
    (dir, folder)
}

#[test]
fn damaged_cifar_batches() {
    let (dir, folder) = cifar_set();
    let refused = || open("cifar10", Some(dir.path())).unwrap_err().to_string();
    let resize = |name: &str, length: u64| {
        File::options().write(true).open(folder.join(name)).unwrap().set_len(length).unwrap();
    };
    for length in [0, 3073, 30_729_999, 30_730_001] {
        resize("data_batch_1.bin", length);
        let error = refused();
        let words = format!("data_batch_1.bin: expected 30730000 bytes, found {length}; the file is damaged");
        assert!(error.contains(&words), "{error}");
    }
    std::fs::remove_file(folder.join("data_batch_1.bin")).unwrap();
    let error = refused();
    assert!(error.starts_with(&format!("no data_batch_1.bin found in {}", folder.display())), "{error}");

    resize_new(&folder.join("data_batch_1.bin"), 30_730_000);
    let wild = File::options().write(true).open(folder.join("data_batch_1.bin")).unwrap();
    std::io::Write::write_all(&mut &wild, &[10]).unwrap();
    assert!(refused().contains("record 0 has label 10, but the set has 10 classes"), "{}", refused());
}

fn resize_new(path: &Path, length: u64) {
    File::create(path).unwrap().set_len(length).unwrap();
}

#[test]
fn cifar_class_names() {
    let (dir, folder) = cifar_set();
    let names = folder.join("batches.meta.txt");
    assert_eq!(open("cifar10", Some(dir.path())).unwrap().classes[9], "truck");
    std::fs::write(&names, "a\nb\n\nc\nd\ne\nf\ng\nh\ni\nlast\n\n").unwrap();
    assert_eq!(open("cifar10", Some(dir.path())).unwrap().classes[9], "last");
    for (text, words) in [(&b"a\nb\n"[..], "names 2 classes, expected 10"), (&b"\xff\xfe"[..], "is not text")] {
        std::fs::write(&names, text).unwrap();
        let error = open("cifar10", Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("batches.meta.txt") && error.contains(words), "{error}");
    }
}
