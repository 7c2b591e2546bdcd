//! Locks of a run's folder and of its running trials.
//!
//! Both are advisory file locks of the operating system, which releases them when the process ends, however it ends. So there
//! are no stale locks, which process ids could not identify reliably since they are reused.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// The lock of the process that runs a study in a folder; released on drop or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The marker of a running trial; removed on drop, unlocked when the process ends.
#[derive(Debug)]
pub struct Running {
    path: PathBuf,
    _file: Option<File>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).map_err(|error| Error::io(path, error))
}

/// Tries for a quarter of a second, because a status query holds the lock for a moment.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..25 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    file.try_lock()
}

pub(crate) fn acquire(folder: &Path) -> Result<Lock, Error> {
    let path = folder.join("run.lock");
    let mut file = open(&path)?;
    match try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked { path: folder.into(), pid: holder(&mut file) });
        }
        // A file system without locks: two processes would repeat work, but not corrupt records.
        Err(TryLockError::Error(_)) => {}
    }
    let id = format!("{}\n", std::process::id());
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(id.as_bytes())
    };
    write(&mut file).map_err(|error| Error::io(&path, error))?;
    Ok(Lock { _file: file })
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The id of the process that is running the study, if there is one.
pub(crate) fn runner(folder: &Path) -> Option<u32> {
    let mut file = File::open(folder.join("run.lock")).ok()?;
    is_held(&file).then(|| holder(&mut file)).flatten()
}

fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

pub(crate) fn begin(folder: &Path, id: &str) -> Result<Running, Error> {
    let path = folder.join("running").join(id);
    let file = open(&path)?;
    let file = try_lock(&file).is_ok().then_some(file);
    Ok(Running { path, _file: file })
}

pub(crate) fn try_begin(folder: &Path, id: &str) -> Result<Option<Running>, Error> {
    let path = folder.join("running").join(id);
    let file = open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Running { path, _file: Some(file) })),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: two processes would repeat work, but not corrupt records.
        Err(TryLockError::Error(_)) => Ok(Some(Running { path, _file: None })),
    }
}

/// Whether a live process holds the lock of this marker.
pub(crate) fn is_locked(marker: &Path) -> bool {
    File::open(marker).is_ok_and(|file| is_held(&file))
}

/// Ids of the running trials.
pub(crate) fn running(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder.join("running")) else {
        return Vec::new();
    };
    let mut ids: Vec<String> = entries
        .flatten()
        .filter(|entry| is_locked(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    ids.sort();
    ids
}
