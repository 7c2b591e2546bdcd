//! Scans.

use nettriage::records::scan::Scan as Record;
use nettriage::{Choice, Method, Normalization, Scope, Subject};
use nettriage_compress::scan::{Options, Phase, Progress};
use pyo3::prelude::*;

use crate::cancel::Callback;
use crate::dataset::Dataset;
use crate::device::DeviceOptions;
use crate::error::raise;
use crate::network::Network;

/// A finished scan.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Scan {
    pub scan: Record,
}

#[pymethods]
impl Scan {
    /// Reads what [`Scan::json`] wrote.
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<Scan> {
        Ok(Scan { scan: serde_json::from_str(text).map_err(raise)? })
    }

    fn json(&self) -> PyResult<String> {
        serde_json::to_string(&self.scan).map_err(raise)
    }

    fn text(&self) -> String {
        nettriage_report::scan::terminal(&self.scan)
    }

    fn html(&self) -> String {
        nettriage_report::scan::html(&self.scan)
    }
}

impl Progress for Callback {
    fn phase(&self, phase: Phase, done: usize, of: usize) {
        let name = match phase {
            Phase::Fitting => "fitting",
            Phase::Judging => "judging",
            Phase::Timing => "timing",
        };
        self.call_or_unwind(name, done, of);
    }
}

/// The network with the images of a data set, normalised as the network was trained with, if that is known.
pub fn subject(network: &Network, dataset: &Dataset, judged: Option<usize>) -> Result<Subject, nettriage::Error> {
    let data = dataset.data.clone();
    let normalization = normalization(network, &data)?;
    let mut subject = Subject::new(network.network.clone(), data, normalization, judged, dataset.labelled)?;
    subject.source = network.network.graph.name.clone();
    Ok(subject)
}

/// The normalisation that the network was trained with; the training images' own statistics if that is unknown.
pub fn normalization(network: &Network, data: &nettriage::Dataset) -> Result<Normalization, nettriage::Error> {
    if network.info.mean.is_empty() {
        let all: Vec<u32> = (0..data.train.len() as u32).collect();
        return Ok(Normalization::of(&data.train, data.shape(), &all));
    }
    Normalization::new(network.info.mean.clone(), network.info.std.clone(), data.channels)
        .map_err(|problem| nettriage::Error::Request(format!("mean and std: {problem}")))
}

/// The options of a scan as Python gives them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct ScanOptions {
    images: usize,
    judged: Option<usize>,
    ranges: String,
    substitutes: Option<Vec<String>>,
    methods: Option<Vec<String>>,
    threads: Option<usize>,
    device: DeviceOptions,
}

impl ScanOptions {
    pub fn judged(&self) -> Option<usize> {
        self.judged
    }

    pub fn images(&self) -> usize {
        self.images
    }

    /// The options of the library.
    pub fn built(&self) -> PyResult<Options> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let mut options =
            Options { threads: self.threads.map_or_else(cores, |threads| threads.max(1)), ..Options::default() };
        options.scope = match self.ranges.as_str() {
            "blocks" => Scope::Blocks,
            "stages" => Scope::Stages,
            "all" => Scope::All,
            other => return Err(raise(format!("ranges={other:?}: use \"blocks\", \"stages\" or \"all\""))),
        };
        if let Some(substitutes) = &self.substitutes {
            options.choices = parsed::<Choice>(substitutes, "substitutes")?;
        }
        if let Some(methods) = &self.methods {
            options.methods = parsed::<Method>(methods, "methods")?;
        }
        options.device = self.device.open()?;
        Ok(options)
    }
}

/// Names as values; `key` names the argument in errors.
pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(names: &[String], key: &str) -> PyResult<Vec<T>> {
    names.iter().map(|name| name.parse().map_err(|error| raise(format!("{key}={name:?}: {error}")))).collect()
}

/// Scans a network.
#[pyfunction]
pub fn scan(
    py: Python<'_>,
    network: &Network,
    dataset: &Dataset,
    options: ScanOptions,
    progress: Option<Py<PyAny>>,
) -> PyResult<Scan> {
    let callback = Callback::new(progress);
    let own = options.built()?;
    let scan = callback.run(py, || {
        let subject = subject(network, dataset, options.judged)?;
        let builder = nettriage::ScanBuilder::of(&subject).images(options.images).options(|o| *o = own.clone());
        builder.progress(&callback).run()
    })?;
    Ok(Scan { scan })
}
