//! Files that are not part of the repository.

use std::io::Write;
use std::path::PathBuf;

/// A file under `networks` in the folder that `NETTRIAGE_SHARED` names, or in `../shared` beside the repository.
/// `None`, with a warning, if there is no such folder.
pub fn network(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NETTRIAGE_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let file = root.join("networks").join(path);
    if !root.join("networks").is_dir() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no networks in {}; set NETTRIAGE_SHARED to the folder that holds them",
            root.display()
        );
        return None;
    }
    assert!(file.is_file(), "{} is missing", file.display());
    Some(file)
}
