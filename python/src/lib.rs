//! Python bindings of nettriage: networks, data sets, scans, studies and prescriptions as plain data.
//!
//! Structured results cross the boundary as JSON, tensors as bytes. The Python modules in `nettriage/` make objects of them.

mod cancel;
mod dataset;
mod device;
mod error;
mod metric;
mod network;
mod prescribe;
mod ray;
mod scan;
mod triage;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line, the program's name first; the exit code.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| nettriage_cli::main(arguments))
}

/// The module.
#[pymodule]
fn _nettriage(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("TEXT_COLUMNS", nettriage_report::text_columns())?;
    module.add("NettriageError", module.py().get_type::<error::NettriageError>())?;
    module.add_class::<network::Network>()?;
    module.add_class::<dataset::Dataset>()?;
    module.add_class::<scan::Scan>()?;
    module.add_class::<triage::Report>()?;
    module.add_class::<prescribe::Prescription>()?;
    module.add_class::<prescribe::Front>()?;
    module.add_class::<metric::MetricStudy>()?;
    module.add_class::<ray::TrialWorker>()?;
    module.add_function(wrap_pyfunction!(scan::scan, module)?)?;
    module.add_function(wrap_pyfunction!(triage::triage, module)?)?;
    module.add_function(wrap_pyfunction!(triage::open_run, module)?)?;
    module.add_function(wrap_pyfunction!(prescribe::prescribe, module)?)?;
    module.add_function(wrap_pyfunction!(prescribe::prescribe_front, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    Ok(())
}
