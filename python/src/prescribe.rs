//! Prescriptions.

use std::path::PathBuf;

use nettriage::records::prescription::{Figures, Prescription as Record};
use nettriage::{Bounds, Limit, PrescribeBuilder, Training, Work};
use nettriage_compress::prescribe::Progress;
use pyo3::prelude::*;

use crate::cancel::Callback;
use crate::dataset::Dataset;
use crate::error::raise;
use crate::network::Network;
use crate::scan::{Scan, ScanOptions, subject};

/// A smaller network, and how it was chosen and measured.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Prescription {
    network: Py<Network>,
    record: Record,
}

#[pymethods]
impl Prescription {
    #[getter]
    fn network(&self, py: Python<'_>) -> Py<Network> {
        self.network.clone_ref(py)
    }

    fn json(&self) -> PyResult<String> {
        serde_json::to_string(&self.record).map_err(raise)
    }

    fn text(&self) -> String {
        nettriage_report::prescription::terminal(&self.record)
    }

    fn html(&self) -> String {
        nettriage_report::prescription::html(&self.record)
    }

    fn card(&self, command: &str) -> String {
        nettriage_report::prescription::markdown(&self.record, command)
    }
}

impl Progress for Callback {
    fn timed(&self, _replaced: usize, _ratio: f64) {}

    fn attempt(&self, number: usize, of: usize, _replaced: usize) {
        self.call_or_unwind("attempt", number, of);
    }

    fn training(&self, done: usize, of: usize) {
        self.call_or_unwind("training", done, of);
    }

    fn diverged(&self, _number: usize, _reason: &str) {}

    fn judged(&self, _number: usize, _figures: &Figures) {}
}

/// A bound as Python gives it: (value, whether it is a share of the original's).
type Limited = Option<(f64, bool)>;

fn limit(bound: Limited) -> Option<Limit> {
    bound.map(|(value, share)| if share { Limit::Share(value) } else { Limit::Absolute(value) })
}

/// The bounds and the training of a prescription as Python gives them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PrescribeOptions {
    max_drop_pp: Option<f64>,
    max_latency_ms: Limited,
    max_macs: Limited,
    max_parameters: Limited,
    scheme: Option<String>,
    training_images: Option<usize>,
    epochs: Option<f64>,
    rate: f32,
    recipe: String,
    seed: u64,
    attempts: Option<usize>,
    work: Option<PathBuf>,
}

/// Prescribes a smaller network.
#[pyfunction]
#[pyo3(signature = (network, dataset, options, scan_options, scan=None, progress=None))]
pub fn prescribe(
    py: Python<'_>,
    network: &Network,
    dataset: &Dataset,
    options: PrescribeOptions,
    scan_options: ScanOptions,
    scan: Option<&Scan>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Prescription> {
    let callback = Callback::new(progress);
    let own = scan_options.built()?;
    let bounds = Bounds {
        drop: options.max_drop_pp,
        milliseconds: limit(options.max_latency_ms),
        macs: limit(options.max_macs),
        parameters: limit(options.max_parameters),
        gain: None,
    };
    let prescribed = callback.run(py, || {
        let subject = subject(network, dataset, scan_options.judged())?;
        let passes = options.epochs.map(|epochs| (epochs * subject.train.len() as f64).ceil() as usize);
        let images = options.training_images.or(passes);
        let base = Training { images, rate: options.rate, seed: options.seed, ..Training::default() };
        let of = |scheme| Training { scheme, ..base }.with_recipe(&options.recipe);
        let training = options.scheme.map(of).transpose()?;
        let mut builder = PrescribeBuilder::of(&subject)
            .bounds(bounds)
            .training(training)
            .images(scan_options.images())
            .options(|o| *o = own.clone())
            .scan_progress(&callback)
            .progress(&callback);
        if let Some(attempts) = options.attempts {
            builder = builder.attempts(attempts);
        }
        if let Some(scan) = scan {
            builder = builder.scan(&scan.scan);
        }
        if let Some(folder) = options.work {
            builder = builder.work(Work::inside(folder));
        }
        builder.run()
    })?;
    let smaller = Py::new(py, Network::new(prescribed.network, network.info.clone()))?;
    Ok(Prescription { network: smaller, record: prescribed.prescription })
}
