//! Studies.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nettriage::records::Plan;
use nettriage::records::plan::{ParentSpec, TrialSpec};
use nettriage::records::record::{CurvePoint, Record};
use nettriage::{Device, Progress, RuntimeOptions, Study, Triage};
use nettriage_formats::info::ModelInfo;
use nettriage_jobs::Threads;
use nettriage_study::{Data, StudyContext, context_of, folder_name, recompute};
use pyo3::prelude::*;

use crate::cancel::Callback;
use crate::dataset::Dataset;
use crate::device::DeviceOptions;
use crate::error::raise;
use crate::network::Network;
use crate::ray::Ray;
use crate::scan::normalization;

/// The results of a study, and its folder.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Report {
    report: nettriage::Report,
    /// What the study was made of, so that children can be computed again; none for a run that was opened.
    made_of: Option<Parts>,
}

/// The study of a network in memory.
#[derive(Clone)]
struct Parts {
    study: Study,
    data: nettriage::Dataset,
    network: nettriage::Network,
    device: Device,
}

#[pymethods]
impl Report {
    #[getter]
    fn folder(&self) -> PathBuf {
        self.report.run.folder().to_owned()
    }

    /// The analysis as JSON: the same as `nettriage report --json`.
    fn json(&self) -> String {
        nettriage_report::json(&self.report.analysis)
    }

    /// The trials as CSV: the same as `nettriage report --csv`.
    fn csv(&self) -> String {
        nettriage_report::csv(&self.report.data)
    }

    fn html(&self) -> String {
        self.report.html()
    }

    fn text(&self) -> String {
        self.report.text()
    }

    /// The child of a trial, computed again.
    fn child(&self, py: Python<'_>, trial: &str) -> PyResult<Network> {
        py.detach(|| self.recomputed(trial)).map_err(raise)
    }

    /// The id of the child of `block` with the highest validation accuracy, of the substitute, init and scheme whose mean
    /// is highest.
    fn best(&self, block: &str) -> PyResult<String> {
        nettriage::best_child(&self.report.run, block).map(|(spec, _)| spec.id.clone()).map_err(raise)
    }
}

impl Report {
    fn recomputed(&self, trial: &str) -> Result<Network, nettriage::Error> {
        let run = &self.report.run;
        let spec = run.plan().trials.iter().find(|spec| spec.id == trial).ok_or_else(|| {
            nettriage::Error::Request(format!("{trial}: no trial of {} has this id", run.folder().display()))
        })?;
        let runtime = RuntimeOptions::default();
        let context = match self.made_of.clone() {
            Some(Parts { study, data, network, device }) => {
                StudyContext::in_memory(study, data, network, RuntimeOptions { device, ..runtime })?
            }
            None => context_of(run, None, runtime)?,
        };
        let network = recompute(run, &context, spec)?;
        let data = &run.plan().data;
        let (mean, std, classes) = (data.mean.clone(), data.std.clone(), data.classes.clone());
        Ok(Network::new(network, ModelInfo { mean, std, classes, input: Some(data.shape) }))
    }
}

/// The study as callbacks: one count over all trials.
struct Trials<'a> {
    callback: &'a Callback,
    /// Trials that have a record, of all.
    counts: Mutex<(usize, usize)>,
}

impl Trials<'_> {
    fn counts(&self) -> MutexGuard<'_, (usize, usize)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Trials<'_> {
    fn parent(&self, _spec: &ParentSpec, seen: usize, of: usize, _point: &CurvePoint) {
        self.callback.call("parent", seen, of);
    }

    fn trials(&self, done: usize, of: usize) {
        *self.counts() = (done, of);
        self.callback.call("trials", done, of);
    }

    fn started(&self, _spec: &TrialSpec) {}

    fn ended(&self, _record: &Record) {
        let (done, of) = {
            let mut counts = self.counts();
            counts.0 += 1;
            *counts
        };
        self.callback.call("trials", done, of);
    }

    fn note(&self, _text: &str) {}

    fn is_cancelled(&self) -> bool {
        self.callback.is_cancelled()
    }
}

/// Runs a study, or what is left of it. `keys` are the sections `[children]`, `[triage]`, `[halving]`, `[[scheme]]` and
/// `[data]` of a study file. With `ray`, trials are submitted to it (see [`Ray`]).
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "one per argument of the Python function")]
#[pyo3(signature = (network, dataset, folder, name, keys, device, workers=None, progress=None, ray=None))]
pub fn triage(
    py: Python<'_>,
    network: &Network,
    dataset: &Dataset,
    folder: Option<PathBuf>,
    name: &str,
    keys: &str,
    device: DeviceOptions,
    workers: Option<usize>,
    progress: Option<Py<PyAny>>,
    ray: Option<Py<PyAny>>,
) -> PyResult<Report> {
    let device = device.open()?;
    let study = parsed_study(name, keys, "triage(…)")?;
    let callback = Callback::new(progress);
    let trials = Trials { callback: &callback, counts: Default::default() };
    let (report, study) = callback.run(py, || -> Result<_, nettriage::Error> {
        let mut triage = prepared(network, dataset, study)?.progress(&trials).device(&device);
        if let Some(workers) = workers {
            triage = triage.workers(workers.max(1));
        }
        let mut made = None;
        triage = triage.configure(|own| made = Some(own.clone()));
        let place = |plan: &Plan| folder.unwrap_or_else(|| Path::new("runs").join(folder_name(plan)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let report = match ray {
            Some(submit) => triage.run_where(place, &Ray::new(submit))?,
            None => triage.run_where(place, &Threads { workers: workers.map_or(cores, |workers| workers.max(1)) })?,
        };
        Ok((report, made))
    })?;
    let (data, network) = (dataset.data.clone(), network.network.clone());
    let made_of = study.map(|study| Parts { study, data, network, device });
    Ok(Report { report, made_of })
}

/// The study of a network in memory; `call` names the function in errors.
pub fn parsed_study(name: &str, keys: &str, call: &str) -> PyResult<Study> {
    // The network is given as such, so that the name of an architecture here stands for nothing.
    let text = format!("name = {name:?}\n[parent]\narch = \"vgg16\"\nfile = \"in memory\"\n{keys}");
    Study::parse(&text, call).map_err(raise)
}

/// A study that is ready to run.
pub fn prepared(network: &Network, dataset: &Dataset, study: Study) -> Result<Triage<'static>, nettriage::Error> {
    let mut triage = Triage::new(network.network.clone(), dataset.data.clone()).name(&study.name);
    if !network.info.mean.is_empty() {
        triage = triage.normalization(normalization(network, &dataset.data)?);
    }
    Ok(triage.configure(|own| {
        own.data = Data { name: own.data.name.clone(), size: own.data.size, ..study.data };
        (own.children, own.triage) = (study.children, study.triage);
        (own.halving, own.schemes) = (study.halving, study.schemes);
    }))
}

/// Opens the run in a folder.
#[pyfunction]
pub fn open_run(py: Python<'_>, folder: PathBuf) -> PyResult<Report> {
    Ok(Report { report: py.detach(|| nettriage::Report::open(&folder)).map_err(raise)?, made_of: None })
}
