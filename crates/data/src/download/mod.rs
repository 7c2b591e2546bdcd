//! Download of the known sets from their official addresses, with resumption and checksums.

mod transfer;

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::folder::Archive;
use crate::sets::{Format, Known, Origin, places};
use crate::{Error, cifar};

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadProgress<'a> {
    /// The file being fetched.
    pub file: &'a str,
    /// Bytes of it received so far, including those of an earlier, interrupted download.
    pub done: u64,
    /// Length of the file in bytes.
    pub total: u64,
}

/// Downloads a known set unless it is already complete, and returns its folder.
///
/// The set goes to the folder that [`crate::open`] searches first. A file is downloaded as `<file>.part`, which resumes an
/// interrupted download, and renamed once its length and MD5 sum are right. An archive is unpacked into a temporary folder,
/// which is then renamed. `progress` is called a few times per second.
/// `$NETTRIAGE_MIRROR`, if set, replaces the official address.
///
/// # Errors
/// An unknown name; a server that does not respond, or sends another file; a full disk; another download of the same set
/// in progress.
pub fn get(name: &str, dir: Option<&Path>, progress: &mut dyn FnMut(DownloadProgress)) -> Result<PathBuf, Error> {
    let mirror = std::env::var("NETTRIAGE_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    get_from(name, dir, mirror.as_deref(), progress)
}

/// As [`get`], from the address `base` (`http://` or `https://`), or the official one if `None`.
///
/// # Errors
/// As [`get`].
pub fn get_from(
    name: &str,
    dir: Option<&Path>,
    base: Option<&str>,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<PathBuf, Error> {
    let known = Known::named(name)?;
    let Some(origin) = &known.origin else {
        return Err(Error::Setting(format!(
            "'{}' is embedded in the program: there is nothing to download",
            known.name
        )));
    };
    let places = places(known, dir);
    fetch(known, origin, &places, base.unwrap_or(origin.base), progress)
}

/// Downloads to the first of `places`, unless one of them has the complete set.
fn fetch(
    known: &Known,
    origin: &Origin,
    places: &[PathBuf],
    base: &str,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<PathBuf, Error> {
    if let Some(folder) = known.locate(places).filter(|folder| known.read(folder).is_ok()) {
        return Ok(folder);
    }
    let target = places.first().ok_or_else(|| Error::Missing {
        what: "folder to put data sets in".into(),
        places: "the environment".into(),
        remedy: "set NETTRIAGE_DATA".into(),
    })?;
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    let _lock = lock(target)?;
    for file in origin.files {
        transfer::fetch_file(base, file, target, progress)?;
    }
    if let Format::Cifar(layout) = &known.format {
        let archive = target.join(origin.files[0].name);
        unpack(&archive, layout, target, known.folders[known.folders.len() - 1])?;
        fs::remove_file(&archive).map_err(Error::io("remove", &archive))?;
    }
    // Older, damaged files in a folder searched earlier may hide the new ones; reading reports them.
    let folder = known.locate(&places[..1]).unwrap_or_else(|| target.clone());
    known.read(&folder)?;
    Ok(folder)
}

/// The lock of a folder during a download. The system releases it when the process ends.
fn lock(target: &Path) -> Result<File, Error> {
    let path = target.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::content(target, "another download to this folder is in progress", "wait for it to end"))
        }
        Err(TryLockError::Error(cause)) => Err(Error::Io { action: "lock", path, cause }),
    }
}

/// Unpacks the batches of a CIFAR archive to `target/folder`, by renaming a complete folder.
fn unpack(archive: &Path, layout: &cifar::Layout, target: &Path, folder: &str) -> Result<(), Error> {
    let (fresh, place, old) = (target.join(".fresh"), target.join(folder), target.join(".old"));
    for leftover in [&fresh, &old] {
        remove_folder(leftover)?;
    }
    fs::create_dir(&fresh).map_err(Error::io("create", &fresh))?;
    let wanted = |name: &str| name == layout.names || layout.files().any(|(file, _)| file == name);
    Archive::open(archive)?.for_each(|mut entry| {
        // Only known names are written, and only the last component of the path is used.
        let name = entry.name.rsplit('/').next().unwrap_or_default();
        if !wanted(name) {
            return Ok(());
        }
        let path = fresh.join(name);
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        entry.copy_to(&path, &mut file)?;
        file.sync_all().map_err(Error::io("write", &path))
    })?;
    cifar::read(&fresh, layout)?;
    if place.exists() {
        fs::rename(&place, &old).map_err(Error::io("move", &place))?;
    }
    fs::rename(&fresh, &place).map_err(Error::io("move", &fresh))?;
    remove_folder(&old)
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: path.to_path_buf(), cause })
        }
        _ => Ok(()),
    }
}
