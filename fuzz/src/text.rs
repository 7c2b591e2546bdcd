//! The readers of TOML.

use nettriage_formats::info::ModelInfo;
use nettriage_study::Study;

use crate::one_line;

/// A study file.
pub fn study(bytes: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    if let Err(error) = Study::parse(text, "study.toml") {
        one_line(&error.to_string());
    }
    0
}

/// The TOML file next to a network.
pub fn info(bytes: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    match ModelInfo::parse(text) {
        Ok(info) => assert_eq!(ModelInfo::parse(&info.to_toml()).as_ref(), Ok(&info), "what is written is read back"),
        Err(problem) => one_line(&problem),
    }
    0
}
