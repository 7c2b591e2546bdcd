//! Whole files or none.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::Error;

/// Writes a file so that every reader, and every crash, sees the old content or the new, never a part.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary =
        path.with_file_name(format!(".{name}.{}.{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(path, error));
    }
    // The rename itself must reach the disk; some file systems cannot sync a folder, which costs only durability.
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Reads a file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Renames a damaged file to `<name>.corrupt` (or `.corrupt2`, …) so that it is kept but counts as absent.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut target = path.with_file_name(format!("{name}.corrupt"));
    let mut n = 2;
    while target.exists() {
        target = path.with_file_name(format!("{name}.corrupt{n}"));
        n += 1;
    }
    match fs::rename(path, &target) {
        Ok(()) => Ok(target),
        // Another process has set it aside first.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(target),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Removes temporary files that a killed process left, once they are an hour old (a live writer takes milliseconds).
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let old = || {
            let modified = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            SystemTime::now().duration_since(modified).ok()
        };
        if name.to_string_lossy().ends_with(".tmp") && old().is_some_and(|age| age > Duration::from_secs(3600)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
