//! Room for what may exceed memory: bytes in a file of their own, mapped, that the system brings in and takes out by pages.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, UncheckedAdvice};

use crate::Error;

/// How much memory decoded images may take, and where they go beyond that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of memory.
    pub memory: u64,
    /// The folder for files of what exceeds it. They have no name, so nothing is left behind, whatever ends the program.
    pub folder: PathBuf,
}

impl Default for Room {
    /// 8 GiB, and the system's folder for temporary files.
    fn default() -> Room {
        Room { memory: 8 << 30, folder: std::env::temp_dir() }
    }
}

/// Bytes in memory, zeros at first: on large pages where the system has them, since a small one costs as much to get as to fill.
pub struct Pages {
    map: MmapMut,
}

impl Pages {
    /// `bytes` zeros.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn new(bytes: usize) -> std::io::Result<Pages> {
        let map = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        // A hint: a refusal changes nothing but speed.
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

/// Bytes in a nameless file, mapped into memory; zeros at first.
///
/// What was read or written stays in memory only as long as the system has room for it, and no longer than until
/// [`Spill::release`].
pub struct Spill {
    map: MmapMut,
    file: File,
    /// Bytes used since pages were last let go of.
    used: AtomicUsize,
}

/// Bytes that may be used before pages are let go of.
const WINDOW: usize = 64 << 20;

impl Spill {
    /// `bytes` zeros in `folder`.
    ///
    /// # Errors
    /// If the folder cannot be written to, or its disk has no room for so much.
    pub fn new(bytes: usize, folder: &Path) -> Result<Spill, Error> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("make a file in", folder))?;
        let full = |cause| Error::Spill { folder: folder.to_path_buf(), bytes: bytes as u64, cause };
        reserve(&file, bytes.max(1) as u64).map_err(full)?;
        // SAFETY: the file has no name, so nobody else can change or shorten it.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(full)?;
        Ok(Spill { map, file, used: AtomicUsize::new(0) })
    }

    /// Copies the bytes from `at` on to `out`, past the mapping: of what is read here and there, that would hold far more in
    /// memory than was read, as the system maps what it has around every place, whole megabytes at times.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        #[cfg(unix)]
        if std::os::unix::fs::FileExt::read_exact_at(&self.file, out, at as u64).is_ok() {
            return;
        }
        out.copy_from_slice(&self.map[at..at + out.len()]);
    }

    /// Says that these bytes will be read soon, so that the disk can begin.
    pub fn prefetch(&self, range: Range<usize>) {
        let length = range.end.min(self.map.len()).saturating_sub(range.start);
        // A hint: what is not taken is only slower.
        #[cfg(unix)]
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, range.start, length);
        #[cfg(not(unix))]
        let _ = length;
    }

    /// Counts bytes as used; now and then lets go of the memory that all of them took.
    pub fn used(&self, bytes: usize) {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > WINDOW {
            self.release();
        }
    }

    /// Lets go of the memory; the content stays in the file, and comes back where it is read.
    pub fn release(&self) {
        self.used.store(0, Ordering::Relaxed);
        #[cfg(unix)]
        // SAFETY: a shared mapping of a file: its pages, written ones too, belong to the file and are read from it again.
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

/// Makes the file that long with its blocks on the disk: a mapped page that finds no block ends the program.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

/// Makes the file that long with its blocks on the disk: a mapped page that finds no block ends the program.
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
    fn what_was_written_is_there_after_its_memory_was_let_go() {
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
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file without a name");
    }

    #[test]
    fn memory_is_zeros_and_too_much_of_it_an_error() {
        let mut pages = Pages::new(5 << 20).unwrap();
        assert!(pages.len() == 5 << 20 && pages.iter().all(|&byte| byte == 0));
        pages[4 << 20] = 1;
        assert_eq!(pages.iter().filter(|&&byte| byte == 1).count(), 1);
        assert!(Pages::new(1 << 60).is_err(), "an exabyte does not fit");
    }

    #[test]
    fn a_disk_that_is_too_small_is_an_error_and_no_crash() {
        let folder = tempfile::tempdir().unwrap();
        let message = Spill::new(1 << 50, folder.path()).err().expect("a petabyte does not fit").to_string();
        assert!(message.contains("1125899906842624 bytes"), "{message}");
    }
}
