//! Studies of a user-defined metric: children as networks, values as records.

use std::path::PathBuf;
use std::sync::Mutex;

use nettriage::MetricReport;
use nettriage::records::Run;
use nettriage::records::metric::{Better, Metric};
use nettriage::records::plan::TrialSpec;
use nettriage_formats::info::ModelInfo;
use nettriage_report::metric;
use nettriage_study::{MetricStudy as Plan, record_failure, record_values};
use pyo3::prelude::*;

use crate::dataset::Dataset;
use crate::error::raise;
use crate::network::Network;
use crate::scan::normalization;
use crate::triage::parsed_study;

/// A study in a folder: its plan, and the records that exist.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct MetricStudy {
    run: Run,
    /// What its networks are made of; none for a run that was opened.
    plan: Option<Plan>,
    info: ModelInfo,
    /// Held while a record is written.
    writing: Mutex<()>,
}

/// The metric as Python gives it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct MetricOptions {
    name: String,
    unit: String,
    better: String,
    margin: f64,
    examples: usize,
}

impl MetricOptions {
    fn metric(self) -> PyResult<Metric> {
        let better = match self.better.as_str() {
            "higher" => Better::Higher,
            "lower" => Better::Lower,
            other => return Err(raise(format!("better={other:?}: use \"higher\" or \"lower\""))),
        };
        let MetricOptions { name, unit, margin, examples, .. } = self;
        Ok(Metric { name, unit, better, margin, examples })
    }
}

#[pymethods]
impl MetricStudy {
    /// Plans a study in a folder, or opens the same study there. `keys` are the sections `[children]` and `[triage]` of a study file.
    #[staticmethod]
    #[pyo3(signature = (network, folder, name, keys, metric, images=None))]
    fn create(
        py: Python<'_>,
        network: &Network,
        folder: PathBuf,
        name: &str,
        keys: &str,
        metric: MetricOptions,
        images: Option<&Dataset>,
    ) -> PyResult<MetricStudy> {
        let metric = metric.metric()?;
        let study = parsed_study(name, keys, "own_training(…)")?;
        let made = py.detach(|| -> Result<_, nettriage::Error> {
            let images = match images {
                Some(images) => Some((images.data.clone(), normalization(network, &images.data)?)),
                None => None,
            };
            let plan = Plan::new(study, metric, network.network.clone(), images)?;
            Ok((Run::create(&folder, plan.plan())?, plan))
        });
        let (run, plan) = made.map_err(raise)?;
        Ok(MetricStudy { run, plan: Some(plan), info: network.info.clone(), writing: Mutex::default() })
    }

    /// Opens the study in a folder; none if the run there is one of accuracy.
    #[staticmethod]
    fn open(folder: PathBuf) -> PyResult<Option<MetricStudy>> {
        let run = Run::open(&folder).map_err(raise)?;
        let of_metric = run.plan().metric.is_some();
        Ok(of_metric.then(|| MetricStudy { run, plan: None, info: ModelInfo::default(), writing: Mutex::default() }))
    }

    #[getter]
    fn folder(&self) -> PathBuf {
        self.run.folder().to_owned()
    }

    /// Every trial as JSON, in the plan's order, with `state`: none, `done` or `failed`.
    fn trials_json(&self, py: Python<'_>) -> PyResult<String> {
        let states = || -> Result<Vec<serde_json::Value>, nettriage::Error> {
            let mut trials = Vec::new();
            for spec in &self.run.plan().trials {
                let record = self.run.record(&spec.id)?;
                let state = record.map(|record| if record.measured.is_some() { "done" } else { "failed" });
                trials.push(serde_json::json!({ "spec": spec, "state": state }));
            }
            Ok(trials)
        };
        serde_json::to_string(&py.detach(states).map_err(raise)?).map_err(raise)
    }

    /// The network that a trial starts from.
    fn network(&self, py: Python<'_>, trial: &str) -> PyResult<Network> {
        let folder = self.run.folder().display();
        let plan = self.plan.as_ref().ok_or_else(|| {
            raise(format!("{folder}: its networks are made of the parent: call own_training(…) with this folder again"))
        })?;
        let spec = self.spec(trial)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let network = py.detach(|| plan.network(spec, threads)).map_err(raise)?;
        Ok(Network::new(network, self.info.clone()))
    }

    /// Stores one value per test example.
    fn record(&self, py: Python<'_>, trial: &str, values: Vec<f64>) -> PyResult<()> {
        py.detach(|| {
            let _alone = self.writing.lock();
            record_values(&self.run, trial, values)
        })
        .map_err(raise)
    }

    /// Stores why a trial could not be trained.
    fn fail(&self, py: Python<'_>, trial: &str, reason: &str) -> PyResult<()> {
        py.detach(|| {
            let _alone = self.writing.lock();
            record_failure(&self.run, trial, reason)
        })
        .map_err(raise)
    }

    /// The values of a trial; none if it has none.
    fn values(&self, trial: &str) -> PyResult<Option<Vec<f64>>> {
        let spec = self.spec(trial)?;
        let record = self.run.record(&spec.id).map_err(raise)?;
        Ok(record.and_then(|record| record.measured).map(|measured| measured.values))
    }

    /// The analysis as JSON, the table of trials as CSV, the page, and the text for a terminal.
    fn results(&self, py: Python<'_>) -> PyResult<[String; 4]> {
        let report = py.detach(|| MetricReport::open(self.run.folder())).map_err(raise)?;
        let analysis = &report.analysis;
        Ok([metric::json(analysis), metric::csv(&report.data), report.html(), metric::terminal(analysis)])
    }
}

impl MetricStudy {
    fn spec(&self, trial: &str) -> PyResult<&TrialSpec> {
        let found = self.run.plan().trials.iter().find(|spec| spec.id == trial);
        found.ok_or_else(|| raise(format!("{trial}: no trial of {} has this id", self.run.folder().display())))
    }
}
