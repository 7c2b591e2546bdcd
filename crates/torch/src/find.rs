//! Finds an installed PyTorch: by a folder, by the environment, or by asking Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The variable that names PyTorch's folder.
const VARIABLE: &str = "NETTRIAGE_TORCH";

/// The first version whose stable ABI has all that is used here.
const OLDEST: [u32; 2] = [2, 13];

/// An installed PyTorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder of its Python package.
    pub folder: PathBuf,
    /// Its version, such as `2.15.0+cu132`.
    pub version: String,
}

impl Installation {
    /// PyTorch in `folder` or, where none is given, in that of the variable `NETTRIAGE_TORCH` or of the first Python on the path.
    ///
    /// # Errors
    /// No such installation, or one that is too old.
    pub fn find(folder: Option<&Path>) -> Result<Installation, Error> {
        let named = folder
            .map(Path::to_path_buf)
            .or_else(|| std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
        match named {
            Some(folder) => Installation::at(&folder),
            None => Installation::at(&ask_python()?),
        }
    }

    /// PyTorch in its own folder, or in the folder of Python packages that contains it.
    fn at(path: &Path) -> Result<Installation, Error> {
        let candidates = [path.to_path_buf(), path.join("torch")];
        let found = candidates.into_iter().find_map(|folder| {
            let text = std::fs::read_to_string(folder.join("version.py")).ok()?;
            Some((folder, version_in(&text)?))
        });
        let (folder, version) = found.ok_or_else(|| Error::NotTorch { path: path.to_path_buf() })?;
        if numbers(&version).is_none_or(|found| found < OLDEST) {
            return Err(Error::TooOld { path: folder, version });
        }
        Ok(Installation { folder, version })
    }
}

/// The folder of the PyTorch that Python would import, without importing it.
fn ask_python() -> Result<PathBuf, Error> {
    let script =
        "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
    for python in ["python3", "python"] {
        let Ok(output) = Command::new(python).args(["-c", script]).output() else { continue };
        if !output.status.success() {
            continue;
        }
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return if folder.is_empty() { Err(Error::NoTorch { python: python.into() }) } else { Ok(folder.into()) };
    }
    Err(Error::NoPython)
}

/// The version in the text of PyTorch's `version.py`.
fn version_in(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    let version = line.split(['\'', '"']).nth(1)?;
    (!version.is_empty()).then(|| version.to_owned())
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<[u32; 2]> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_package() {
        let text = "from typing import Optional\n__all__ = ['__version__', 'debug']\n__version__ = '2.15.0+cu132'\ndebug = False\n";
        assert_eq!(version_in(text).as_deref(), Some("2.15.0+cu132"));
        assert_eq!(version_in("debug = True"), None);
        assert_eq!(numbers("2.15.0+cu132"), Some([2, 15]));
        assert_eq!(numbers("2.9.1"), Some([2, 9]));
        assert_eq!(numbers("2"), None);
    }
}
