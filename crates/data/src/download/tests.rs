//! Downloads from a local server: complete, resumed, interrupted, damaged, refused; and the files on the disk afterwards.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};

use super::server::{Behaviour, Server};
use super::{DownloadProgress, fetch};
use crate::cifar::Layout;
use crate::dataset::hex;
use crate::sets::{Format, Known, Origin, RemoteFile};
use crate::{Dataset, Error};

const CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// 2 training batches of 3 records and one test batch of 2.
const SMALL_CIFAR: Layout = Layout {
    train: &["data_batch_1.bin", "data_batch_2.bin"],
    test: "test_batch.bin",
    train_records: 3,
    test_records: 2,
    label_bytes: 1,
    names: "batches.meta.txt",
    classes: 10,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Incompressible bytes, the same on every call.
fn noise(length: usize) -> Vec<u8> {
    let mut rng = crate::random::SeededRng::new(1, "noise");
    (0..length).map(|_| rng.below(256) as u8).collect()
}

/// The four files of a set of 40 and 10 images of 28x28.
fn idx_files() -> Vec<(&'static str, Vec<u8>)> {
    let images = |count: usize| {
        let header = [0, 0, 8, 3, 0, 0, 0, count as u8, 0, 0, 0, 28, 0, 0, 0, 28];
        gzip(&[&header[..], &noise(count * 28 * 28)].concat())
    };
    let labels = |count: usize| {
        let header = [0, 0, 8, 1, 0, 0, 0, count as u8];
        gzip(&[&header[..], &(0..count).map(|i| i as u8 % 10).collect::<Vec<_>>()].concat())
    };
    vec![
        ("train-images-idx3-ubyte.gz", images(40)),
        ("train-labels-idx1-ubyte.gz", labels(40)),
        ("t10k-images-idx3-ubyte.gz", images(10)),
        ("t10k-labels-idx1-ubyte.gz", labels(10)),
    ]
}

/// A batch of incompressible records; another `seed` gives other records.
fn batch(seed: u64, records: usize) -> Vec<u8> {
    let mut rng = crate::random::SeededRng::new(seed, "batch");
    let mut record =
        |i: usize| -> Vec<u8> { (0..3073).map(|at| if at == 0 { i as u8 } else { rng.below(256) as u8 }).collect() };
    (0..records).flat_map(&mut record).collect()
}

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("small-batches/{name}"), &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn cifar_files() -> Vec<(&'static str, Vec<u8>)> {
    let archive = gzip(&tar(&[
        ("batches.meta.txt", CLASSES.join("\n").into_bytes()),
        ("data_batch_1.bin", batch(1, 3)),
        ("data_batch_2.bin", batch(2, 3)),
        ("readme.html", b"not wanted".to_vec()),
        ("test_batch.bin", batch(3, 2)),
    ]));
    vec![("small.tar.gz", archive)]
}

/// A known set made of these files.
fn known(format: Format, files: &[(&'static str, Vec<u8>)]) -> Known {
    let remote = |(name, bytes): &(&'static str, Vec<u8>)| RemoteFile {
        name,
        bytes: bytes.len() as u64,
        md5: hex(&Md5::digest(bytes)).leak(),
    };
    let files: Vec<RemoteFile> = files.iter().map(remote).collect();
    Known {
        name: "small",
        about: "a small set for tests",
        format,
        folders: &["", "small-batches"],
        checksum: None,
        origin: Some(Origin { base: "http://127.0.0.1:9/", files: files.leak() }),
    }
}

fn small_idx() -> (Known, Vec<(&'static str, Vec<u8>)>) {
    let files = idx_files();
    (known(Format::Idx { classes: CLASSES }, &files), files)
}

fn small_cifar() -> (Known, Vec<(&'static str, Vec<u8>)>) {
    let files = cifar_files();
    (known(Format::Cifar(SMALL_CIFAR), &files), files)
}

fn fetched(known: &Known, server: &Server, dir: &Path) -> Result<Dataset, Error> {
    let places = [dir.join("small")];
    let origin = known.origin.as_ref().unwrap();
    let folder = fetch(known, origin, &places, &server.base, &mut |_| {})?;
    known.read(&folder)
}

/// Names in the set's folder, without the lock.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("small")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

#[test]
fn complete_files_are_not_fetched_twice() {
    let (known, files) = small_idx();
    let server = Server::start(files, &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let places = [dir.path().join("small")];
    let origin = known.origin.as_ref().unwrap();
    let mut seen: Vec<(String, u64, u64)> = Vec::new();
    let mut note = |at: DownloadProgress| seen.push((at.file.to_string(), at.done, at.total));
    fetch(&known, origin, &places, &server.base, &mut note).unwrap();
    for file in origin.files {
        assert!(seen.contains(&(file.name.into(), file.bytes, file.bytes)), "{seen:?}");
    }
    let small = known.read(&places[0]).unwrap();
    assert_eq!((small.train.len(), small.test.len()), (40, 10));
    assert_eq!(small.train.pixels[..3], noise(3));
    assert_eq!(names(dir.path()).len(), 4, "{:?}", names(dir.path()));

    assert_eq!(server.requests().len(), 4);
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests().len(), 4, "nothing is fetched again");
    std::fs::remove_file(places[0].join("t10k-labels-idx1-ubyte.gz")).unwrap();
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests()[4..], ["t10k-labels-idx1-ubyte.gz"], "only what is missing");
}

#[test]
fn an_archive_is_unpacked_and_removed() {
    let (known, files) = small_cifar();
    let server = Server::start(files, &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let small = fetched(&known, &server, dir.path()).unwrap();
    assert_eq!((small.train.len(), small.test.len(), small.classes.len()), (6, 2, 10));
    assert_eq!(names(dir.path()), ["small-batches"]);
    let mut inside: Vec<_> = std::fs::read_dir(dir.path().join("small/small-batches"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    inside.sort();
    assert_eq!(inside, ["batches.meta.txt", "data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"]);

    // A damaged batch is replaced, with everything beside it.
    let batch = dir.path().join("small/small-batches/test_batch.bin");
    std::fs::write(&batch, b"short").unwrap();
    assert_eq!(fetched(&known, &server, dir.path()).unwrap(), small);
    assert_eq!(names(dir.path()), ["small-batches"]);
}

#[test]
fn a_broken_connection_is_resumed() {
    let (known, files) = small_cifar();
    let behaviours = [Behaviour::Stops(5000), Behaviour::Stops(7000), Behaviour::Correct];
    let server = Server::start(files, &behaviours);
    let dir = tempfile::tempdir().unwrap();
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests(), ["small.tar.gz", "small.tar.gz from 5000", "small.tar.gz from 12000"]);
}

#[test]
fn an_interrupted_download_is_resumed_by_the_next_call() {
    let (known, files) = small_cifar();
    let server = Server::start(files.clone(), &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("small");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("small.tar.gz.part"), &files[0].1[..9000]).unwrap();
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests(), ["small.tar.gz from 9000"]);

    // A part of another file is detected by its sum, and everything is fetched again, once.
    let server = Server::start(files.clone(), &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("small");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("small.tar.gz.part"), vec![7; 9000]).unwrap();
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests(), ["small.tar.gz from 9000", "small.tar.gz"]);

    // A complete part needs no request; one that is too long is fetched again.
    for (part, requests) in [(files[0].1.clone(), 0), (vec![7; files[0].1.len() + 1], 1)] {
        let server = Server::start(files.clone(), &[Behaviour::Correct]);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("small");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("small.tar.gz.part"), part).unwrap();
        fetched(&known, &server, dir.path()).unwrap();
        assert_eq!(server.requests().len(), requests);
    }
}

#[test]
fn a_connection_that_always_breaks_is_one_error_and_keeps_the_received_bytes() {
    let (known, files) = small_cifar();
    let total = files[0].1.len();
    let server = Server::start(files, &[Behaviour::Stops(100)]);
    let dir = tempfile::tempdir().unwrap();
    let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}small.tar.gz: ended after 500 of {total} bytes", server.base)), "{error}");
    assert!(error.ends_with("run the same command again: it resumes the download"), "{error}");
    assert_eq!(names(dir.path()), ["small.tar.gz.part"]);
    let part = dir.path().join("small/small.tar.gz.part");
    assert_eq!(part.metadata().unwrap().len(), 500);
}

#[test]
fn a_damaged_file_is_never_renamed_to_its_final_name() {
    for (known, files) in [small_cifar(), small_idx()] {
        let server = Server::start(files.clone(), &[Behaviour::Damaged(600.min(files[0].1.len() - 1))]);
        let dir = tempfile::tempdir().unwrap();
        let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
        let expected = hex(&Md5::digest(&files[0].1));
        assert!(error.contains("its MD5 sum is") && error.contains(&expected), "{error}");
        assert_eq!(server.requests().len(), 1);
        let name = format!("{}.part", files[0].0);
        assert_eq!(names(dir.path()), std::slice::from_ref(&name));
        assert_eq!(dir.path().join("small").join(name).metadata().unwrap().len(), 0);
    }
}

#[test]
fn servers_that_ignore_ranges_or_send_others_are_handled() {
    for behaviour in [Behaviour::NoRanges, Behaviour::WrongRange] {
        let (known, files) = small_cifar();
        let server = Server::start(files, &[Behaviour::Stops(5000), behaviour, Behaviour::Correct]);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(fetched(&known, &server, dir.path()).unwrap().train.len(), 6, "{behaviour:?}");
    }
}

#[test]
fn files_of_another_length_are_refused() {
    let expected = [
        (Behaviour::TooLong, "bytes there, expected"),
        (Behaviour::TooLongWithoutLength, "is longer than the expected"),
    ];
    for (behaviour, words) in expected {
        let (known, files) = small_cifar();
        let server = Server::start(files, &[behaviour]);
        let dir = tempfile::tempdir().unwrap();
        let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{behaviour:?}: {error}");
        assert_eq!(server.requests().len(), 1, "{behaviour:?}");
    }
}

#[test]
fn refusals_are_permanent_and_overloads_transient() {
    let (known, files) = small_cifar();
    let server = Server::start(files.clone(), &[Behaviour::Status(403)]);
    let dir = tempfile::tempdir().unwrap();
    let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
    assert!(error.contains("status 403") && server.requests().len() == 1, "{error}");
    let server = Server::start(files, &[Behaviour::Status(503), Behaviour::Status(429), Behaviour::Correct]);
    fetched(&known, &server, dir.path()).unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn an_archive_with_the_right_sum_but_the_wrong_content_leaves_the_old_set_alone() {
    let archive = gzip(&tar(&[("data_batch_1.bin", batch(1, 3)), ("test_batch.bin", batch(3, 2))]));
    let files = vec![("small.tar.gz", archive)];
    let known = known(Format::Cifar(SMALL_CIFAR), &files);
    let server = Server::start(files, &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("small/small-batches");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("test_batch.bin"), b"old").unwrap();
    let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("no data_batch_2.bin found"), "{error}");
    assert_eq!(std::fs::read(old.join("test_batch.bin")).unwrap(), b"old");
}

#[test]
fn two_downloads_to_one_folder_exclude_each_other() {
    let (known, files) = small_cifar();
    let server = Server::start(files, &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("small")).unwrap();
    let held = super::lock(&dir.path().join("small")).unwrap();
    let error = fetched(&known, &server, dir.path()).unwrap_err().to_string();
    assert!(error.contains("another download to this folder is in progress"), "{error}");
    drop(held);
    fetched(&known, &server, dir.path()).unwrap();
}

#[test]
fn a_server_that_does_not_respond() {
    let (known, _) = small_cifar();
    // A port that is very probably free.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let places = [dir.path().join("small")];
    let base = format!("http://127.0.0.1:{port}");
    let origin = known.origin.as_ref().unwrap();
    let error = fetch(&known, origin, &places, &base, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("check the network connection"), "{error}");
}

/// A write to `/dev/full` fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let (known, files) = small_cifar();
    let server = Server::start(files, &[Behaviour::Correct]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("small");
    std::fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink("/dev/full", target.join("small.tar.gz.part")).unwrap();
    let error = fetched(&known, &server, dir.path()).unwrap_err();
    let Error::Io { action: "write", path, cause } = &error else { panic!("{error}") };
    assert_eq!(path, &target.join("small.tar.gz.part"));
    assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(server.requests().len(), 1, "no further attempt");
}
