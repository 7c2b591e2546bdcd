//! Inference times by onnxruntime, in the user's Python.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use nettriage_compress::Timing;
use nettriage_formats::onnx;
use nettriage_net::Network;
use serde::Deserialize;

use crate::Error;

const SCRIPT: &str = include_str!("onnxruntime.py");

/// A Python with onnxruntime, in which networks are timed.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    python: OsString,
    version: String,
}

/// What the script prints.
#[derive(Deserialize)]
struct Answer {
    version: Option<String>,
    missing: Option<String>,
    pairs: Option<Vec<[f64; 2]>>,
}

impl OnnxRuntime {
    /// The Python that `NETTRIAGE_PYTHON` names, else `python3`.
    ///
    /// # Errors
    /// There is no such Python, or it has no onnxruntime.
    pub fn find() -> Result<OnnxRuntime, Error> {
        let python =
            std::env::var_os("NETTRIAGE_PYTHON").filter(|path| !path.is_empty()).unwrap_or_else(|| "python3".into());
        let mut found = OnnxRuntime { python, version: String::new() };
        let folder = tempfile::tempdir().map_err(|error| found.problem(&error.to_string()))?;
        found.version = found.run(folder.path(), &[])?.version.unwrap_or_default();
        Ok(found)
    }

    /// The version of onnxruntime.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Times two networks in `pairs` pairs of passes of `batch` images on one thread.
    ///
    /// # Errors
    /// Networks that onnxruntime refuses, with its last line.
    pub fn time(&self, networks: [&Network; 2], batch: usize, pairs: usize) -> Result<Timing, Error> {
        let folder = tempfile::tempdir().map_err(|error| self.problem(&error.to_string()))?;
        let mut arguments = Vec::new();
        for (network, name) in networks.into_iter().zip(["first.onnx", "second.onnx"]) {
            let path = folder.path().join(name);
            onnx::write(network, &path)?;
            arguments.push(path.into_os_string());
        }
        arguments.extend([batch, pairs].map(|number| number.to_string().into()));
        let answer = self.run(folder.path(), &arguments)?;
        match answer.pairs.filter(|pairs| !pairs.is_empty()) {
            Some(pairs) => Ok(Timing::of(&pairs)),
            None => Err(self.problem("it measured nothing")),
        }
    }

    fn run(&self, folder: &Path, arguments: &[OsString]) -> Result<Answer, Error> {
        let script = folder.join("nettriage_latency.py");
        std::fs::write(&script, SCRIPT).map_err(|error| self.problem(&error.to_string()))?;
        let output = Command::new(&self.python).arg(&script).args(arguments).output().map_err(|error| {
            self.problem(&format!(
                "it cannot be started ({error}); name a Python that has onnxruntime by NETTRIAGE_PYTHON"
            ))
        })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let answer = said.lines().last().and_then(|line| serde_json::from_str::<Answer>(line).ok());
        match answer {
            Some(Answer { missing: Some(missing), .. }) => Err(self.problem(&format!(
                "{missing}; `{} -m pip install onnxruntime`, or name another Python by NETTRIAGE_PYTHON",
                self.python.display()
            ))),
            Some(answer) if output.status.success() => Ok(answer),
            _ => {
                let errors = String::from_utf8_lossy(&output.stderr);
                Err(self.problem(errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed")))
            }
        }
    }

    fn problem(&self, problem: &str) -> Error {
        Error::Request(format!("--latency-in onnxruntime, by {}: {problem}", self.python.display()))
    }
}
