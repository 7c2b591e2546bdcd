//! File writing: atomic replacement, and the outputs that a user names.
//!
//! With [`write_atomic`] a reader, and a crash, sees a file's old content or its new content, never a part. [`write_output`] does
//! the same for a path that may also be a link, a device or standard output.
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("plan.json");
//! nettriage_files::write_atomic(&path, b"{}")?;
//! assert_eq!(std::fs::read(&path)?, b"{}");
//! # Ok::<(), std::io::Error>(())
//! ```

mod atomic;
mod output;

pub use atomic::{temporary_target, write_atomic, write_atomic_with};
pub use output::{check_outputs, is_standard_output, write_output, write_output_with};
