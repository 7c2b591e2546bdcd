//! What executors need of jobs, and what an executor is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::Error;

/// An error of the jobs' own.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Independent jobs, each with a number and a result that outlives the process.
///
/// An error of a method ends the whole run: a disk that is full, a folder that cannot be written. A problem of one job is
/// its result.
pub trait Jobs: Sync {
    /// The jobs to run, in the order in which they are started.
    fn pending(&self) -> &[usize];

    /// Computes what all jobs need, with `threads` threads. Called once, before the first job that runs in this process.
    ///
    /// # Errors
    /// Those that end the run.
    fn prepare(&self, threads: usize) -> Result<(), BoxError>;

    /// Runs a job in this process and stores its result.
    ///
    /// # Errors
    /// Those that end the run.
    fn run(&self, job: usize) -> Result<(), BoxError>;

    /// Whether no further job may start: a time limit has been reached.
    fn is_over(&self) -> bool {
        false
    }

    /// Reports something worth a line: a worker that died, an array job that was submitted.
    fn note(&self, _text: &str) {}
}

/// Jobs that other processes run. They are identified by the same numbers there, and their results are files.
pub trait RemoteJobs: Jobs {
    /// A name for the queue of a cluster.
    fn name(&self) -> &str;

    /// Folder for the executor's files.
    fn folder(&self) -> &Path;

    /// Folder for logs.
    ///
    /// # Errors
    /// If it cannot be created.
    fn logs(&self) -> Result<PathBuf, BoxError>;

    /// The pending jobs whose results are stored. Cheap: the results need not be read.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn stored(&self) -> Result<HashSet<usize>, BoxError>;

    /// Reports that jobs start, where another process prepares them.
    fn begin(&self);

    /// Reports that a job has started.
    fn started(&self, job: usize);

    /// Reads the stored result of a job and reports it; false if there is no complete result.
    ///
    /// # Errors
    /// If a result cannot be read.
    fn finished(&self, job: usize) -> Result<bool, BoxError>;

    /// Stores a result that says why the job could not be run, and reports it.
    ///
    /// # Errors
    /// If it cannot be stored.
    fn fail(&self, job: usize, reason: String) -> Result<(), BoxError>;

    /// Counts a worker's death during the job; how often that has happened. A job that continues where it was interrupted, and
    /// has got further since the last death, has none counted.
    ///
    /// # Errors
    /// If the count cannot be stored.
    fn count_attempt(&self, job: usize) -> Result<u32, BoxError>;

    /// Whether a process that is gone had started the job and left no result.
    fn was_interrupted(&self, job: usize) -> bool;

    /// Clears that mark.
    fn clear_interruption(&self, job: usize);

    /// The pending jobs that have to run before the others, because they compute what these need.
    fn prerequisites(&self) -> Vec<usize>;

    /// Seconds that a job takes, the mean.
    ///
    /// # Errors
    /// If it cannot be measured.
    fn seconds_per_job(&self) -> Result<f64, BoxError>;
}

/// Runs the pending jobs of a set of jobs `J`.
pub trait Executor<J: ?Sized> {
    /// Runs the jobs; returns when all have a result, or when their time is over.
    ///
    /// # Errors
    /// Those that end the run, and those of a queue that refuses jobs.
    fn run(&self, jobs: &J) -> Result<(), Error>;

    /// Whether all jobs run in this process, so that they share what is cached in memory.
    fn shares_memory(&self) -> bool {
        false
    }
}
