//! Finds the PyTorch that tests use.

use std::path::PathBuf;
use std::process::Command;

/// The PyTorch of `NETTRIAGE_TORCH`, else that of the Python of `NETTRIAGE_PYTHON`; prints `SKIPPED` without them.
pub fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("NETTRIAGE_TORCH") {
        return Some(folder.into());
    }
    let Some(python) = std::env::var_os("NETTRIAGE_PYTHON") else {
        use std::io::Write;
        // Directly to standard error, because the test harness captures the output of passing tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: neither NETTRIAGE_TORCH nor NETTRIAGE_PYTHON names a PyTorch");
        return None;
    };
    let script = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])";
    let output = Command::new(python).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "NETTRIAGE_PYTHON has no torch");
    Some(String::from_utf8(output.stdout).unwrap().trim().into())
}
