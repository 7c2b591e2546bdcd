//! Folders and archives of images, made by the tests, and the shared ones where they are.

use std::path::{Path, PathBuf};

use nettriage_data::{contact_sheet, open_folder};

/// `shared/` beside the repository, or the folder that `NETTRIAGE_SHARED` names; a loud line where it is absent.
fn shared(file: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("NETTRIAGE_SHARED").map_or(beside, PathBuf::from);
    let path = root.join("data").join(file);
    if !path.is_file() {
        eprintln!("SKIPPED: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn imagewoof() {
    let Some(path) = shared("imagewoof64.tar.gz") else {
        return;
    };
    let start = std::time::Instant::now();
    let woof = open_folder(&path, 64).unwrap();
    eprintln!("imagewoof in {:?}: {}", start.elapsed(), woof.checksum);
    assert_eq!((woof.train.len(), woof.test.len()), (9025, 3929));
    assert_eq!(
        (woof.shape().to_string().as_str(), woof.classes.len()),
        ("3x64x64", 10)
    );
    assert_eq!(woof.name, "imagewoof64");
    if let Some(out) = std::env::var_os("SHEETS") {
        contact_sheet(&woof, &Path::new(&out).join("woof.png")).unwrap();
    }
}

#[test]
fn tiny_imagenet() {
    let Some(path) = shared("tinyimagenet100_32.tar.gz") else {
        return;
    };
    let start = std::time::Instant::now();
    let tiny = open_folder(&path, 32).unwrap();
    eprintln!("tiny in {:?}: {}", start.elapsed(), tiny.checksum);
    assert_eq!(tiny.train.counts(100), [500; 100]);
    assert_eq!(tiny.test.counts(100), [50; 100]);
    if let Some(out) = std::env::var_os("SHEETS") {
        contact_sheet(&tiny, &Path::new(&out).join("tiny.png")).unwrap();
    }
    for name in ["digits", "mnist", "fashion-mnist", "cifar10"] {
        if let Some(out) = std::env::var_os("SHEETS") {
            contact_sheet(
                &nettriage_data::open(name, None).unwrap(),
                &Path::new(&out).join(format!("{name}.png")),
            )
            .unwrap();
        }
    }
}
