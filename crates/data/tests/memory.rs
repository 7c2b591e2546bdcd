//! Small files that would expand to much memory. There is one test only, because it measures the peak memory of the process.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use nettriage_data::{open, open_folder};

/// The peak memory of this process in MiB (VmHWM of proc(5)).
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

const IMAGE_BYTES: usize = 400 << 20;

/// A compressed file of `start`, then 400 MiB of zeros.
fn bomb(path: &Path, start: &[u8]) {
    let mut encoder = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::fast());
    encoder.write_all(start).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..IMAGE_BYTES >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap();
}

fn tar_header(name: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(IMAGE_BYTES as u64);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn small_files_do_not_expand_to_much_memory() {
    let dir = tempfile::tempdir().unwrap();
    let before = peak();
    let check = |what: &str, words: &str, error: nettriage_data::Error| {
        assert!(error.to_string().contains(words), "{what}: {error}");
        let now = peak();
        assert!(now < before + 100, "{what}: from {before} to {now} MiB");
    };

    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let path: PathBuf = dir.path().join("names.tar.gz");
        bomb(&path, &tar_header("train/a/1.png", kind));
        check("a long name", "holds a file name of", open_folder(&path, 8).unwrap_err());
    }
    // An archive with one huge entry and no image.
    let path = dir.path().join("zeros.tar.gz");
    bomb(&path, &tar_header("notes.txt", tar::EntryType::Regular));
    check("a long entry", "without an end mark", open_folder(&path, 8).unwrap_err());

    let folder = dir.path().join("mnist");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("train-images-idx3-ubyte.gz");
    let labels = [0, 0, 8, 1, 0, 0, 0, 1, 5];
    for name in ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"] {
        std::fs::write(folder.join(name), labels).unwrap();
    }
    let header = |count: u32| -> Vec<u8> { [[0, 0, 8, 3], count.to_be_bytes(), [0, 0, 0, 28], [0, 0, 0, 28]].concat() };
    bomb(&path, &header(1));
    check("more than said", "found more", open("mnist", Some(dir.path())).unwrap_err());
    // Conversely: the header states 3 GiB, but there is little data. In a compressed file the length does not reveal it.
    let mut encoder = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::none());
    encoder.write_all(&header(4_000_000)).unwrap();
    encoder.write_all(&vec![1; 4 << 20]).unwrap();
    encoder.finish().unwrap();
    check("less than said", "expected 3136000016 bytes, found 4194320", open("mnist", Some(dir.path())).unwrap_err());
}
