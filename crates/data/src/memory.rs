//! The memory budget of a data set, anonymous memory on huge pages, and temporary files mapped into memory.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, UncheckedAdvice};

use crate::Error;

/// How much memory decoded images may take, and the folder for temporary files if they exceed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// Bytes of memory.
    pub memory: u64,
    /// The folder for temporary files. They are unlinked at once, so nothing remains however the program ends.
    pub folder: PathBuf,
}

impl Default for MemoryBudget {
    /// 8 GiB and the system's temporary folder.
    fn default() -> MemoryBudget {
        MemoryBudget { memory: 8 << 30, folder: std::env::temp_dir() }
    }
}

/// Anonymous memory, zero-filled, on huge pages where the system offers them: page faults on small pages cost as much time as
/// filling them.
pub struct Pages {
    map: MmapMut,
}

impl Pages {
    /// Allocates `bytes` zeros.
    ///
    /// # Errors
    /// If the system does not have that much memory.
    pub fn new(bytes: usize) -> std::io::Result<Pages> {
        let map = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        // Only a hint: on failure small pages are used.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Pages { map })
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

/// Bytes in an unlinked temporary file that is mapped into memory; zeros at first.
///
/// Pages that were read or written stay in memory until the system evicts them, at the latest until [`Spill::release`].
pub struct Spill {
    map: MmapMut,
    file: File,
    /// Bytes used since the last release.
    used: AtomicUsize,
}

/// Bytes that may be used before pages are released.
const WINDOW: usize = 64 << 20;

impl Spill {
    /// Creates a file of `bytes` zeros in `folder`.
    ///
    /// # Errors
    /// If the folder cannot be written to, or its disk has too little free space.
    pub fn new(bytes: usize, folder: &Path) -> Result<Spill, Error> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("create a file in", folder))?;
        let full = |cause| Error::Spill { folder: folder.to_path_buf(), bytes: bytes as u64, cause };
        reserve(&file, bytes.max(1) as u64).map_err(full)?;
        // SAFETY: the file is unlinked, so no other process can change or truncate it.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(full)?;
        Ok(Spill { map, file, used: AtomicUsize::new(0) })
    }

    /// Copies the bytes from `at` on to `out` by a file read, not through the mapping. With random access the mapping would
    /// keep much more in memory than is read, since the system maps neighbouring pages, at times megabytes.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        #[cfg(unix)]
        if std::os::unix::fs::FileExt::read_exact_at(&self.file, out, at as u64).is_ok() {
            return;
        }
        out.copy_from_slice(&self.map[at..at + out.len()]);
    }

    /// Asks the system to load these bytes from the disk.
    pub fn prefetch(&self, range: Range<usize>) {
        let length = range.end.min(self.map.len()).saturating_sub(range.start);
        // Only a hint.
        #[cfg(unix)]
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start, length);
        #[cfg(not(unix))]
        let _ = length;
    }

    /// Counts bytes as used, and releases the memory when 64 MiB were used since the last release.
    pub fn used(&self, bytes: usize) {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > WINDOW {
            self.release();
        }
    }

    /// Releases the memory of the mapping. The content stays in the file and is loaded again when read.
    pub fn release(&self) {
        self.used.store(0, Ordering::Relaxed);
        #[cfg(unix)]
        // SAFETY: this is a shared file mapping: all pages, modified ones included, belong to the file and are read again from it.
        unsafe {
            let _ = self.map.unchecked_advise(UncheckedAdvice::DontNeed);
        }
    }
}

impl Deref for Spill {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for Spill {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

/// Extends the file with allocated blocks: a write to a mapped page without a block would kill the process (SIGBUS).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

/// Extends the file with allocated blocks: a write to a mapped page without a block would kill the process (SIGBUS).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(mut file: &File, bytes: u64) -> std::io::Result<()> {
    use std::io::Write;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let some = left.min(zeros.len() as u64) as usize;
        file.write_all(&zeros[..some])?;
        left -= some as u64;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_a_release_of_its_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(3 << 20, folder.path()).unwrap();
        assert!(spill.iter().all(|&byte| byte == 0));
        for (i, byte) in spill.iter_mut().enumerate() {
            *byte = (i % 251) as u8;
        }
        spill.release();
        spill.prefetch(1 << 20..5 << 20);
        assert!(spill.iter().enumerate().all(|(i, &byte)| byte == (i % 251) as u8));
        let mut some = [0; 1000];
        spill.read(2_000_000, &mut some);
        assert!(some.iter().enumerate().all(|(i, &byte)| byte == ((2_000_000 + i) % 251) as u8));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file is unlinked");
    }

    #[test]
    fn memory_is_zero_filled_and_too_much_is_an_error() {
        let mut pages = Pages::new(5 << 20).unwrap();
        assert!(pages.len() == 5 << 20 && pages.iter().all(|&byte| byte == 0));
        pages[4 << 20] = 1;
        assert_eq!(pages.iter().filter(|&&byte| byte == 1).count(), 1);
        assert!(Pages::new(1 << 60).is_err(), "an exabyte does not fit");
    }

    #[test]
    fn a_disk_without_enough_space_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let message = Spill::new(1 << 50, folder.path()).err().expect("a petabyte does not fit").to_string();
        assert!(message.contains("1125899906842624 bytes"), "{message}");
    }
}
