//! Prescriptions.

use std::path::PathBuf;

use nettriage::records::prescription::{Figures, Front as FrontRecord, FrontNetwork, Prescription as Record};
use nettriage::{Bounds, Limit, PrescribeBuilder, Prescribed, PrescribedFront, Training, Work};
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

/// Networks of several sizes.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Front {
    networks: Vec<Py<Prescription>>,
    record: FrontRecord,
}

#[pymethods]
impl Front {
    fn networks(&self, py: Python<'_>) -> Vec<Py<Prescription>> {
        self.networks.iter().map(|network| network.clone_ref(py)).collect()
    }

    /// Of every network, whether another is at least as good in both loss and time.
    fn dominated(&self) -> Vec<bool> {
        (0..self.record.networks.len()).map(|network| self.record.is_dominated(network)).collect()
    }

    fn json(&self) -> PyResult<String> {
        serde_json::to_string(&self.record).map_err(raise)
    }

    fn text(&self) -> String {
        nettriage_report::prescription::front_terminal(&self.record)
    }

    fn html(&self) -> String {
        nettriage_report::prescription::front_html(&self.record)
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
    rate: Option<f32>,
    recipe: String,
    seed: u64,
    attempts: Option<usize>,
    workers: usize,
    work: Option<PathBuf>,
}

impl PrescribeOptions {
    fn bounds(&self) -> Bounds {
        Bounds {
            drop: self.max_drop_pp,
            milliseconds: limit(self.max_latency_ms),
            macs: limit(self.max_macs),
            parameters: limit(self.max_parameters),
            gain: None,
        }
    }

    /// How networks are trained, `images` being the number of training images.
    fn training(&self, images: usize) -> Result<Option<Training>, nettriage::Error> {
        let passes = self.epochs.map(|epochs| (epochs * images as f64).ceil() as usize);
        let images = self.training_images.or(passes);
        let base = Training { images, rate: self.rate, seed: self.seed, ..Training::default() };
        let of = |scheme: &String| Training { scheme: scheme.clone(), ..base }.with_recipe(&self.recipe);
        self.scheme.as_ref().map(of).transpose()
    }
}

/// What a prescription is made from.
struct Request<'a> {
    network: &'a Network,
    dataset: &'a Dataset,
    options: PrescribeOptions,
    scan_options: ScanOptions,
    scan: Option<&'a Scan>,
}

impl Request<'_> {
    /// Calls `make` with the builder, on a thread of its own.
    fn run<T: Send>(
        self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        make: impl FnOnce(PrescribeBuilder<'_>) -> Result<T, nettriage::Error> + Send,
    ) -> PyResult<T> {
        let Request { network, dataset, options, scan_options, scan } = self;
        let callback = Callback::new(progress);
        let own = scan_options.built()?;
        callback.run(py, || {
            let subject = subject(network, dataset, scan_options.judged())?;
            let mut builder = PrescribeBuilder::of(&subject)
                .bounds(options.bounds())
                .training(options.training(subject.train.len())?)
                .images(scan_options.images())
                .options(|o| *o = own.clone())
                .workers(options.workers)
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
            make(builder)
        })
    }
}

/// A prescription of a network, as an object of Python.
fn object(py: Python<'_>, original: &Network, made: Prescribed) -> PyResult<Prescription> {
    let network = Py::new(py, Network::new(made.network, original.info.clone()))?;
    Ok(Prescription { network, record: made.prescription })
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
    let request = Request { network, dataset, options, scan_options, scan };
    let made = request.run(py, progress, |builder| builder.run())?;
    object(py, network, made)
}

/// Prescribes networks of several sizes.
#[pyfunction]
#[pyo3(signature = (network, dataset, count, options, scan_options, scan=None, progress=None))]
#[expect(clippy::too_many_arguments, reason = "the arguments of Python's function")]
pub fn prescribe_front(
    py: Python<'_>,
    network: &Network,
    dataset: &Dataset,
    count: usize,
    options: PrescribeOptions,
    scan_options: ScanOptions,
    scan: Option<&Scan>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Front> {
    let request = Request { network, dataset, options, scan_options, scan };
    let made = request.run(py, progress, |builder| builder.front(count).run_front())?;
    let PrescribedFront { networks, plans } = made;
    let records = networks.iter().map(|made| FrontNetwork { file: None, prescription: made.prescription.clone() });
    let record = FrontRecord { networks: records.collect(), plans };
    let objects = networks.into_iter().map(|made| Py::new(py, object(py, network, made)?));
    Ok(Front { networks: objects.collect::<PyResult<_>>()?, record })
}
