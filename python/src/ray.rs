//! Trials as tasks of a Ray cluster: the executor of the process that runs the study, and the worker of a task.
//!
//! A task has no part of the run's folder: it computes a trial in a folder of its own, and its record travels back as bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};

use nettriage::records::{Run, content_id};
use nettriage_jobs::{BoxError, Error, Executor, RemoteJobs};
use nettriage_study::{Resources, Worker, plan};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::dataset::Dataset;
use crate::error::raise;
use crate::network::Network;
use crate::triage::{parsed_study, prepared};

/// Files of a trial by their paths in the run's folder.
type Files = BTreeMap<String, Vec<u8>>;

/// Submits trials to a Python function and stores what comes back.
///
/// The function takes the places of trials in the plan and the plan's content id, and returns a generator. Its items are pairs of a place and the trial's
/// files, or a place and a reason why it could not be run; or none where nothing has happened for a while.
pub struct Ray {
    submit: Py<PyAny>,
}

impl Ray {
    pub fn new(submit: Py<PyAny>) -> Ray {
        Ray { submit }
    }
}

/// What a task returned.
#[derive(FromPyObject)]
enum Answer {
    Files(Files),
    Reason(String),
}

impl<J: RemoteJobs + ?Sized> Executor<J> for Ray {
    fn run(&self, jobs: &J) -> Result<(), Error> {
        jobs.prepare(std::thread::available_parallelism().map_or(1, usize::from))?;
        Python::attach(|py| -> Result<(), BoxError> {
            let plan = content_id(Run::open(jobs.folder())?.plan());
            let items = self.submit.bind(py).call1((jobs.pending().to_vec(), plan))?;
            let result = (|| {
                for item in items.try_iter()? {
                    let item: Option<(usize, Answer)> = item?.extract()?;
                    if let Some((job, answer)) = item {
                        py.detach(|| store(jobs, job, answer))?;
                    }
                    if jobs.is_over() {
                        break;
                    }
                }
                Ok(())
            })();
            // Tasks that are left are cancelled.
            items.call_method0("close")?;
            result
        })?;
        Ok(())
    }
}

/// Stores the files of a trial, its record last, and reports it.
fn store<J: RemoteJobs + ?Sized>(jobs: &J, job: usize, answer: Answer) -> Result<(), BoxError> {
    let files = match answer {
        Answer::Files(files) => files,
        Answer::Reason(reason) => return jobs.fail(job, reason),
    };
    let is_record = |path: &str| path.starts_with("trials/");
    for records in [false, true] {
        for (path, bytes) in files.iter().filter(|(path, _)| is_record(path) == records) {
            nettriage_files::write_atomic(&jobs.folder().join(path), bytes)?;
        }
    }
    if jobs.finished(job)? { Ok(()) } else { jobs.fail(job, "its task returned no complete record".to_owned()) }
}

/// The place of a trial in the plan, and where its files go.
type Request = (usize, mpsc::Sender<Result<Files, String>>);

/// Runs single trials of a study, in a folder of its own. The parent and shared activations stay in memory between them.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct TrialWorker {
    /// To the thread that runs the trials.
    requests: Mutex<mpsc::Sender<Request>>,
}

#[pymethods]
impl TrialWorker {
    /// Of the study that `triage` runs with these arguments, whose plan has the content id `wanted`, with `threads` threads in a trial.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "the arguments of a study, and where it runs")]
    fn new(
        py: Python<'_>,
        network: &Network,
        dataset: &Dataset,
        name: &str,
        keys: &str,
        wanted: &str,
        folder: std::path::PathBuf,
        threads: usize,
    ) -> PyResult<TrialWorker> {
        let study = parsed_study(name, keys, "triage(…)")?;
        let made = py.detach(|| -> Result<_, nettriage::Error> {
            let context = prepared(network, dataset, study)?.context()?;
            let plan = plan(&context)?;
            Ok((Run::create(&folder, &plan)?, context))
        });
        let (run, context) = made.map_err(raise)?;
        if content_id(run.plan()) != wanted {
            return Err(raise(
                "this node makes another plan of the study: install the same version of nettriage on every node",
            ));
        }
        let (requests, received) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            let resources = Resources { workers: 1, threads: threads.max(1), cache: 1024 << 20 };
            let mut worker = Worker::new(&run, &context, resources, None);
            for (index, answer) in received {
                // A caller that is gone needs no answer.
                let _ = answer.send(trial(&run, &mut worker, index));
            }
        });
        Ok(TrialWorker { requests: Mutex::new(requests) })
    }

    /// Runs the trial at a place of the plan: its files by their paths in a run's folder.
    fn trial<'py>(&self, py: Python<'py>, index: usize) -> PyResult<BTreeMap<String, Bound<'py, PyBytes>>> {
        let files = py.detach(|| {
            let (answer, received) = mpsc::channel();
            let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.send((index, answer)).map_err(|_| "the worker's thread has ended".to_owned())?;
            received.recv().unwrap_or_else(|_| Err("the worker's thread has ended".to_owned()))
        });
        let files: Files = files.map_err(raise)?;
        Ok(files.into_iter().map(|(path, bytes)| (path, PyBytes::new(py, &bytes))).collect())
    }
}

/// Runs a trial and takes its files out of the worker's folder.
fn trial(run: &Run, worker: &mut Worker<'_>, index: usize) -> Result<Files, String> {
    let record = worker.trial(index).map_err(|error| error.to_string())?;
    let id = record.ok_or("the training stopped early")?.spec.id;
    let record = run.folder().join("trials").join(format!("{id}.json"));
    let mut files = Files::new();
    for path in [run.child_weights_path(&id), run.substitute_weights_path(&id), record] {
        if path.exists() {
            files.insert(relative(run.folder(), &path)?, std::fs::read(&path).map_err(|error| error.to_string())?);
            std::fs::remove_file(&path).map_err(|error| error.to_string())?;
        }
    }
    Ok(files)
}

fn relative(folder: &Path, path: &Path) -> Result<String, String> {
    let inside = path.strip_prefix(folder).map_err(|error| error.to_string())?;
    Ok(inside.to_string_lossy().replace('\\', "/"))
}
