//! Fetching the known sets from their official addresses: resumed, checked, and never half there.

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

/// How far a download has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file being fetched.
    pub file: &'a str,
    /// Its bytes that are here, including those of an earlier, interrupted download.
    pub done: u64,
    /// All its bytes.
    pub total: u64,
}

/// Fetches a known set, unless it is already there whole, and tells in which folder it lies.
///
/// It is put where [`crate::open`] looks first. A file is fetched under the name `<file>.part`, goes on where an
/// interrupted download stopped, and gets its own name only once its length and MD5 sum are right; an archive is
/// unpacked beside its place and moved there whole. `progress` is called a few times a second.
/// `$NETTRIAGE_MIRROR`, where it is set, is the address used in place of the official one.
///
/// # Errors
/// An unknown name; an address that does not answer, or answers with something else than the set; a full disk;
/// another download of the same set under way.
pub fn get(name: &str, dir: Option<&Path>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, Error> {
    let mirror = std::env::var("NETTRIAGE_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    get_from(name, dir, mirror.as_deref(), progress)
}

/// As [`get`], from the folder at address `base` (`http://` or `https://`), or the official one.
///
/// # Errors
/// As [`get`].
pub fn get_from(
    name: &str,
    dir: Option<&Path>,
    base: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, Error> {
    let known = Known::named(name)?;
    let Some(origin) = &known.origin else {
        return Err(Error::Setting(format!("'{}' is part of the program: nothing to fetch", known.name)));
    };
    let places = places(known, dir);
    fetch(known, origin, &places, base.unwrap_or(origin.base), progress)
}

/// Fetches to the first of `places`, unless one of them has the set whole.
fn fetch(
    known: &Known,
    origin: &Origin,
    places: &[PathBuf],
    base: &str,
    progress: &mut dyn FnMut(Progress),
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
    // Older, damaged files may still stand in front of the new ones; reading names them.
    let folder = known.locate(&places[..1]).unwrap_or_else(|| target.clone());
    known.read(&folder)?;
    Ok(folder)
}

/// Held while a folder is being filled. The system lets go of it when the process ends, however it ends.
fn lock(target: &Path) -> Result<File, Error> {
    let path = target.join(".lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::content(target, "another download to this folder is under way", "wait for it to end"))
        }
        Err(TryLockError::Error(cause)) => Err(Error::Io { action: "lock", path, cause }),
    }
}

/// Writes the batches in a CIFAR archive to `target/folder`, which appears whole or not at all.
fn unpack(archive: &Path, layout: &cifar::Layout, target: &Path, folder: &str) -> Result<(), Error> {
    let (fresh, place, old) = (target.join(".fresh"), target.join(folder), target.join(".old"));
    for leftover in [&fresh, &old] {
        remove_folder(leftover)?;
    }
    fs::create_dir(&fresh).map_err(Error::io("create", &fresh))?;
    let wanted = |name: &str| name == layout.names || layout.files().any(|(file, _)| file == name);
    Archive::open(archive)?.for_each(|mut entry| {
        // Only names that we know are ever written, and only their last part counts.
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
