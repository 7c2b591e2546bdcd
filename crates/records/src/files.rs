//! Reading and writing the files of a run.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::run::RATES;
use crate::{Error, checkpoint, id};

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

/// Files younger than this may belong to a running process.
pub(crate) const GRACE: Duration = Duration::from_secs(3600);

/// Removes temporary files of killed processes from a part of a run's folder, once they are older than [`GRACE`].
pub(crate) fn remove_old_temporary_files(run: &Path, part: &str) {
    for (path, metadata) in list(run, part).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_temporary(part, &name) && is_old(&metadata) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The regular files in a part of a run's folder. Symbolic links are not followed: neither files nor the part itself.
pub(crate) fn list(run: &Path, part: &str) -> Result<Vec<(PathBuf, Metadata)>, Error> {
    let folder = run.join(part);
    if !part.is_empty() && !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| Error::io(&folder, error))? {
        let path = entry.map_err(|error| Error::io(&folder, error))?.path();
        if let Ok(metadata) = path.symlink_metadata()
            && metadata.is_file()
        {
            files.push((path, metadata));
        }
    }
    Ok(files)
}

/// Whether a file is older than [`GRACE`]. A modification time in the future (the clock was set back) gives no age.
pub(crate) fn is_old(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age > GRACE)
}

/// Whether a name is that of a temporary file for a file of this part of a run.
pub(crate) fn is_temporary(part: &str, name: &str) -> bool {
    let Some(target) = nettriage_files::temporary_target(name) else { return false };
    match part {
        "" => ["plan.json", "pictures.json", "attempts.json", "halving.json", "sessions.jsonl", "report.html"]
            .contains(&target),
        "trials" | "parents" | RATES => target.strip_suffix(".json").is_some_and(id::is_content_id),
        "weights" => weights_id(target).is_some(),
        checkpoint::FOLDER => checkpoint::id_in(target).is_some(),
        _ => false,
    }
}

/// The id in the name of a file of weights, `{parent,child,substitute}-<id>.safetensors`.
pub(crate) fn weights_id(name: &str) -> Option<&str> {
    let (kind, id) = name.strip_suffix(".safetensors")?.split_once('-')?;
    (matches!(kind, "parent" | "child" | "substitute") && id::is_content_id(id)).then_some(id)
}
