//! Reading and writing the files of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Error;

/// Writes a file atomically: a reader, and a crash, sees its old content or its new content.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    nettriage_files::write_atomic(path, bytes).map_err(|error| Error::io(path, error))
}

/// Reads a file; `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Renames a damaged file to `<name>.corrupt` (or `.corrupt2`, …), so that it is kept but treated as absent.
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
        // Another process has renamed it first.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(target),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Removes temporary files of killed processes once they are an hour old; a live writer needs milliseconds.
pub(crate) fn remove_old_temporary_files(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let age = || {
            let modified = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            SystemTime::now().duration_since(modified).ok()
        };
        if name.to_string_lossy().ends_with(".tmp") && age().is_some_and(|age| age > Duration::from_secs(3600)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
