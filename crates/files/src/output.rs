//! Output files that a user names: regular files, streams, links, standard output.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::atomic::{replace, temporary_path};

/// What an output path leads to.
enum Destination {
    /// Standard output, or standard error.
    Standard(bool),
    /// A regular file, which exists or will be created. Symbolic links are resolved.
    Regular(PathBuf),
    /// A device, a FIFO, a terminal.
    Stream(PathBuf),
}

/// Symbolic links to follow before they count as a loop.
const MAX_LINKS: usize = 40;

fn destination(path: &Path) -> io::Result<Destination> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match path.to_str() {
            Some("-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => return Ok(Destination::Standard(true)),
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => return Ok(Destination::Standard(false)),
            _ => {}
        }
        // Links to open files lead to what may have no path.
        if path.starts_with("/dev/fd") || path.starts_with("/proc") {
            return Ok(Destination::Stream(path));
        }
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Destination::Regular(path)),
            metadata => metadata?,
        };
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if !metadata.is_symlink() {
            return Ok(if metadata.is_file() { Destination::Regular(path) } else { Destination::Stream(path) });
        }
        let target = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

/// Writes an output that a user named.
///
/// A regular file is replaced atomically, and keeps its permissions. A symbolic link is followed: its target is written, the link
/// stays. Devices, FIFOs and terminals are written to directly. `-` and `/dev/stdout` are standard output.
///
/// # Errors
/// A file that is read-only or cannot be written. A regular file is then as it was.
pub fn write_output(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_output_with(path, |file| file.write_all(bytes))
}

/// As [`write_output`], with a function that writes the content piece by piece, through a buffer.
///
/// # Errors
/// Those of `write`, and as [`write_output`].
pub fn write_output_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    match destination(path)? {
        Destination::Standard(true) => through(io::stdout().lock(), write),
        Destination::Standard(false) => through(io::stderr().lock(), write),
        Destination::Stream(path) => through(OpenOptions::new().append(true).open(path)?, write),
        Destination::Regular(path) => {
            // Opened for writing, though not written: a read-only file must not be replaced.
            let permissions = match OpenOptions::new().write(true).open(&path) {
                Ok(file) => Some(file.metadata()?.permissions()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            replace(&temporary_path(&path), &path, |file| {
                write(file)?;
                Ok(permissions)
            })
        }
    }
}

fn through(stream: impl Write, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = BufWriter::new(stream);
    write(&mut buffer)?;
    buffer.flush()
}

/// Whether an output path means standard output.
pub fn is_standard_output(path: &Path) -> bool {
    matches!(destination(path), Ok(Destination::Standard(true)))
}

/// Checks output paths before anything is computed: none may be a folder, be in a folder that does not exist, occur twice, or be
/// an input. An input folder protects the files in it.
///
/// # Errors
/// The path and what is wrong with it, in one line.
pub fn check_outputs(outputs: &[&Path], inputs: &[&Path]) -> Result<(), String> {
    for (number, output) in outputs.iter().enumerate() {
        let named = output.display();
        match destination(output) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                return Err(format!("{named}: is a folder; name a file in it"));
            }
            Err(error) => return Err(format!("{named}: {error}")),
            Ok(Destination::Regular(path)) => {
                let folder = folder_of(&path);
                if !folder.is_dir() {
                    return Err(format!("{named}: there is no folder {}; create it first", folder.display()));
                }
            }
            Ok(_) => continue,
        }
        if outputs[..number].iter().any(|other| is_same_file(output, other)) {
            return Err(format!("{named}: two outputs have this name; name another file for one of them"));
        }
        for input in inputs {
            if is_same_file(output, input) || (input.is_dir() && output.exists() && is_below(output, input)) {
                return Err(format!("{named}: the output would overwrite an input; name another file"));
            }
        }
    }
    Ok(())
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of the file itself, which need not exist: all links resolved.
fn resolved(path: &Path) -> Option<PathBuf> {
    match destination(path).ok()? {
        Destination::Regular(path) => Some(folder_of(&path).canonicalize().ok()?.join(path.file_name()?)),
        _ => None,
    }
}

/// Whether two paths lead to the same file, by whatever links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(one), Ok(other)) = (one.metadata(), other.metadata()) {
        use std::os::unix::fs::MetadataExt;
        return (one.dev(), one.ino()) == (other.dev(), other.ino());
    }
    matches!((resolved(one), resolved(other)), (Some(one), Some(other)) if one == other)
}

fn is_below(path: &Path, folder: &Path) -> bool {
    matches!((path.canonicalize(), folder.canonicalize()), (Ok(path), Ok(folder)) if path.starts_with(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/real"), "old").unwrap();
        fs::set_permissions(at("sub/real"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("sub/real", at("link")).unwrap();
        symlink("link", at("link to link")).unwrap();
        symlink("sub/not yet", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        write_output(&at("link to link"), b"new").unwrap();
        assert!(at("link").is_symlink() && at("link to link").is_symlink());
        assert_eq!(fs::read(at("sub/real")).unwrap(), b"new");
        assert_eq!(at("sub/real").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        write_output(&at("dangling"), b"new").unwrap();
        assert!(at("dangling").is_symlink());
        assert_eq!(fs::read(at("sub/not yet")).unwrap(), b"new");
        assert!(write_output(&at("loop"), b"").is_err());
        assert!(write_output(&at("sub"), b"").is_err());
        assert_eq!(fs::read_dir(at("sub")).unwrap().count(), 2, "no temporary file");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_fifos_are_written_through() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        write_output(Path::new("/dev/null"), b"text").unwrap();
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
        let full = write_output(Path::new("/dev/full"), b"text").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let fifo = folder.path().join("fifo");
        if !std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()) {
            return;
        }
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write_output(&fifo, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
        assert!(is_standard_output(Path::new("-")) && is_standard_output(Path::new("/dev/stdout")));
        assert!(!is_standard_output(Path::new("./-")));
    }

    #[test]
    fn inputs_and_other_outputs_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("data")).unwrap();
        fs::write(at("data/1.png"), "").unwrap();
        fs::write(at("input"), "").unwrap();
        let check = |outputs: &[&str], inputs: &[&str]| {
            let paths = |names: &[&str]| names.iter().map(|name| at(name)).collect::<Vec<_>>();
            let (outputs, inputs) = (paths(outputs), paths(inputs));
            let outputs: Vec<&Path> = outputs.iter().map(PathBuf::as_path).collect();
            let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
            check_outputs(&outputs, &inputs)
        };
        check(&["new", "other"], &["input", "data"]).unwrap();
        check(&["data/new"], &["data"]).unwrap();
        for (outputs, inputs, words) in [
            (&["input"][..], &["input"][..], "overwrite an input"),
            (&["data/../input"], &["input"], "overwrite an input"),
            (&["data/1.png"], &["data"], "overwrite an input"),
            (&["new", "data/../new"], &[], "two outputs"),
            (&["data"], &[], "is a folder"),
            (&["none/new"], &[], "there is no folder"),
        ] {
            let error = check(outputs, inputs).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("input"), at("link")).unwrap();
            fs::hard_link(at("input"), at("second name")).unwrap();
            for output in ["link", "second name"] {
                assert!(check(&[output], &["input"]).unwrap_err().contains("overwrite an input"));
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn read_only_files_are_not_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        // A privileged user may write any file.
        if OpenOptions::new().write(true).open(&path).is_ok() {
            return;
        }
        assert_eq!(write_output(&path, b"new").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
