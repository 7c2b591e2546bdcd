//! Errors of finding PyTorch, and of computing with it: each one line with its remedy.

use std::path::PathBuf;

/// Why PyTorch cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No PyTorch is named, and there is no Python that could find it.
    #[error(
        "no Python found to look for PyTorch: install Python with PyTorch, or name PyTorch's folder with --torch or NETTRIAGE_TORCH"
    )]
    NoPython,
    /// Python has no PyTorch.
    #[error(
        "{python} has no PyTorch: `{python} -m pip install torch`, or name its folder with --torch or NETTRIAGE_TORCH"
    )]
    NoTorch {
        /// The command that was run.
        python: String,
    },
    /// A folder that is not PyTorch's.
    #[error("{}: not the folder of an installed PyTorch (it has no version.py); `python3 -c \"import torch; print(torch.__path__)\"` prints it", path.display())]
    NotTorch {
        /// The folder as given.
        path: PathBuf,
    },
    /// A version that lacks functions that are needed.
    #[error("{}: PyTorch {version} is too old: install version 2.13 or later", path.display())]
    TooOld {
        /// Its folder.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// A library that cannot be loaded.
    #[error("{}: {problem}: reinstall PyTorch{}", path.display(), cuda_hint(path))]
    Library {
        /// The library's file.
        path: PathBuf,
        /// What the loader says.
        problem: String,
    },
    /// A function of the ABI that the library lacks.
    #[error("PyTorch's library lacks a function of its stable ABI: {problem}: install another version, 2.13 or later")]
    Function {
        /// What the loader says.
        problem: String,
    },
    /// A device that cannot be used.
    #[error("device torch:{device} cannot be used: {problem}: choose another --device")]
    Device {
        /// The device's name.
        device: String,
        /// What PyTorch says.
        problem: String,
    },
    /// A name that is no device.
    #[error("unknown device {name:?}: the devices of PyTorch are cpu, cuda, cuda:N and mps")]
    UnknownDevice {
        /// The name as given.
        name: String,
    },
    /// A name that is no precision.
    #[error("unknown precision {name:?}: use f32, tf32 or bf16")]
    UnknownPrecision {
        /// The name as given.
        name: String,
    },
    /// A precision that the device does not have.
    #[error("device {device} does not compute in {precision}: choose f32{}", if *precision == "tf32" { " or bf16" } else { "" })]
    Precision {
        /// The device's name.
        device: String,
        /// The precision's name.
        precision: &'static str,
    },
    /// An operator that this version of PyTorch does not have, or that has other arguments there.
    #[error(
        "PyTorch's operator {operator} is missing or differs ({problem}): install a version from 2.13 to the newest that the documentation names"
    )]
    Operator {
        /// Its name.
        operator: String,
        /// What PyTorch says.
        problem: String,
    },
    /// An operator failed.
    #[error("PyTorch's operator {operator} failed: {problem}")]
    Failed {
        /// Its name.
        operator: String,
        /// What PyTorch says.
        problem: String,
    },
    /// The device has too little memory.
    #[error("the device has too little memory for {operator}: use a smaller batch, or fewer workers ({problem})")]
    Memory {
        /// The operator that needed memory.
        operator: String,
        /// What PyTorch says.
        problem: String,
    },
    /// The model cannot be built, or its weights do not fit.
    #[error(transparent)]
    Model(#[from] nettriage_engine::Error),
}

impl Error {
    /// The error of an operator, by PyTorch's message.
    pub(crate) fn operator(operator: &str, problem: String) -> Error {
        let operator = operator.to_owned();
        let has = |part: &str| problem.contains(part);
        if has("Could not find schema") || has("schema") && has("argument") {
            Error::Operator { operator, problem }
        } else if has("out of memory") || has("not enough memory") || has("can't allocate memory") {
            Error::Memory { operator, problem }
        } else {
            Error::Failed { operator, problem }
        }
    }
}

impl From<nettriage_net::Error> for Error {
    fn from(error: nettriage_net::Error) -> Error {
        Error::Model(error.into())
    }
}

/// What else to check, for a library of CUDA.
fn cuda_hint(path: &std::path::Path) -> &'static str {
    let cuda = path.file_name().is_some_and(|name| name.to_string_lossy().contains("cuda"));
    if cuda { " with support for CUDA" } else { "" }
}
