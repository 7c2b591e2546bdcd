//! Atomic writing: a reader, and a crash, sees a file's old content or its new content, never a part.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` to a temporary file in the same folder, syncs it and renames it to `path`.
///
/// # Errors
/// If the file cannot be written. The temporary file is then removed, and `path` is as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], with a function that writes the content piece by piece, through a buffer.
///
/// # Errors
/// Those of `write`, and as [`write_atomic`].
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    replace(&temporary_path(path), path, |file| write(file).map(|()| None))
}

/// Writes `temporary` and renames it to `path`; `write` may return permissions for the file.
pub(crate) fn replace(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<Option<Permissions>>,
) -> io::Result<()> {
    let written = (|| {
        let mut file = BufWriter::new(File::create_new(temporary)?);
        let permissions = write(&mut file)?;
        let file = file.into_inner()?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        fs::rename(temporary, path)
    })();
    if let Err(error) = written {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(temporary);
        return Err(error);
    }
    // The rename must reach the disk, too. Some file systems cannot sync a folder, which costs only durability.
    if let Ok(folder) = File::open(crate::output::folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// `.<name>.<process>.<count>.tmp` in the folder of `path`; a very long name is cut, since file systems limit names to 255 bytes.
pub(crate) fn temporary_path(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name: String = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end = (0..=name.len().min(200)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{}.{process}.{count}.tmp", &name[..end]))
}

/// The name of the file that a temporary file was to become; none for any other file's name.
///
/// Two forms are known: [`write_atomic`]'s `.<name>.<process>.<count>.tmp`, and `<name>.<process>-<count>.tmp`, in which
/// older versions wrote weights.
pub fn temporary_target(name: &str) -> Option<&str> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let stem = name.strip_suffix(".tmp")?;
    let (target, process) = if let Some(hidden) = stem.strip_prefix('.') {
        let (rest, count) = hidden.rsplit_once('.').filter(|(_, count)| number(count))?;
        debug_assert!(number(count));
        rest.rsplit_once('.')?
    } else {
        let (rest, numbers) = stem.rsplit_once('.')?;
        (rest, numbers.split_once('-').filter(|(_, count)| number(count))?.0)
    };
    (number(process) && !target.is_empty()).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |file| {
            file.write_all(&[1; 100_000])?;
            Err(io::Error::other("stop"))
        });
        assert_eq!(error.unwrap_err().to_string(), "stop");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(write_atomic(&folder.path().join("no/such/folder"), b"").is_err());
    }

    #[test]
    fn the_longest_names_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        write_atomic(&folder.path().join("ä".repeat(127)), b"").unwrap();
    }

    #[test]
    fn temporary_files_are_recognised_by_their_exact_form() {
        let ours = temporary_path(Path::new("trials/0a.json"));
        assert_eq!(temporary_target(ours.file_name().unwrap().to_str().unwrap()), Some("0a.json"));
        assert_eq!(temporary_target("child-0a.safetensors.123-4.tmp"), Some("child-0a.safetensors"));
        for name in [
            "notes.tmp",
            ".notes.tmp",
            ".notes.1.tmp",
            "notes.1.2.tmp",
            ".1.2.tmp",
            ".a.1.b.tmp",
            ".a.b.1.tmp",
            ".a.1.2",
        ] {
            assert_eq!(temporary_target(name), None, "{name}");
        }
        for name in ["notes.1-.tmp", "notes.-1.tmp", "notes.1-2", ".1-2.tmp", "notes.1-2-3.tmp", ".tmp", ""] {
            assert_eq!(temporary_target(name), None, "{name}");
        }
    }
}
