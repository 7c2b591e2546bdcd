//! A small study on the embedded digits, and ways to run it.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod faults;
pub mod outside;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A study that takes seconds: two blocks, every kind of init, scheme and control.
pub const STUDY: &str = r#"
name = "small"
[data]
name = "digits"
validation = 100
train = 300
test = 100
augment = { pad = 1 }
[parent]
arch = "vgg"
plan = [[6, 6], [8, 8]]
[parent.training]
epochs = 2
batch = 32
rate = 0.05
[children]
seeds = 2
images = 96
batch = 32
rate = 0.02
curve = 2
calibration = 100
keep = "network"
[triage]
inits = ["random", "first", "last", "mean", "collapse", "least-squares"]
schemes = ["none", "local", "hint", "distill-local", "global", "distill-global", "hint-then-distill", "hint-then-global"]
"#;

/// A temporary folder with a study file.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new(study: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("study.toml"), study).unwrap();
        Place { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `nettriage run study.toml --out OUT` with further arguments.
    pub fn run(&self, out: &str, more: &[&str]) -> Command {
        let mut command = nettriage();
        command.arg("run").arg(self.path("study.toml")).arg("--out").arg(self.path(out)).args(more);
        command
    }

    /// Runs to the end and returns the records' digests.
    pub fn complete(&self, out: &str, more: &[&str]) -> BTreeMap<String, String> {
        succeeded(&self.run(out, more).output().unwrap());
        digests(&self.path(out))
    }
}

pub fn nettriage() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nettriage"))
}

#[track_caller]
pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Checks the exit code of a refused command, and returns the line that it prints.
#[track_caller]
pub fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one error line, the last: {text}");
    assert_eq!(text.lines().last(), Some(errors[0]));
    errors[0].to_owned()
}

/// The digest without timings of every record and parent of a run, and the bytes of its weights.
pub fn digests(run: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in ["parents", "rates", "trials", "weights"] {
        // Only studies whose rates are found have that folder.
        if part == "rates" && !run.join(part).exists() {
            continue;
        }
        for entry in std::fs::read_dir(run.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "tmp") {
                // A temporary file of a killed process, which is removed after an hour.
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let value = if part == "weights" {
                // FNV-1a: only equality matters.
                let hash = bytes
                    .iter()
                    .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
                hash.to_string()
            } else if path.extension().is_none_or(|e| e != "json") {
                "set aside".to_owned()
            } else {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                value["digest"].as_str().unwrap().to_owned()
            };
            found.insert(format!("{part}/{}", path.file_name().unwrap().to_string_lossy()), value);
        }
    }
    assert!(!found.is_empty());
    found
}

/// Prints that a test is skipped, directly to standard error, because the test harness captures the output of passing tests.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {why}");
}

/// Asserts that two runs gave the same records, naming the first few that differ.
#[track_caller]
pub fn assert_same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let differing: Vec<&String> = names.filter(|name| one.get(*name) != other.get(*name)).take(5).collect();
    assert!(differing.is_empty(), "these differ, of {}: {differing:?}", one.len());
}
