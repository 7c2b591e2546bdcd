//! Executors: who runs the trials of a plan, and where.
//!
//! Every executor ends in the same call, [`Worker::trial`], and a trial is a pure function of the plan and its index:
//! the records are the same whoever ran them, in which order, and however often.

mod processes;
pub mod slurm;
mod threads;
mod worker;

pub use processes::Processes;
pub use slurm::Slurm;
pub use threads::Threads;
pub use worker::Worker;
pub(crate) use worker::{one, parent_of};

use std::time::Instant;

use nettriage_records::Run;
use nettriage_records::plan::{ParentSpec, TrialSpec, VERSION};
use nettriage_records::record::{Clock, CurvePoint, Outcome, Record};

use crate::Error;
use crate::setting::Setting;
use crate::trial::now;

/// Brings the trials of a job to an end.
///
/// Afterwards each has a record, of its readings or of why it could not be run, unless the job's deadline came first.
pub trait Executor {
    /// Runs the job; returns when it is over.
    ///
    /// # Errors
    /// What ends the whole run: a disk that is full, a folder that cannot be written, a queue that refuses. What is
    /// wrong with one trial ends in its record.
    fn run(&self, job: &Job<'_>) -> Result<(), Error>;
}

/// Trials to run.
pub struct Job<'a> {
    /// Where records go; the caller holds its lock.
    pub run: &'a Run,
    /// The study's setting.
    pub setting: &'a Setting,
    /// Places in the plan of the trials to run.
    pub pending: &'a [usize],
    /// Trials that have records already, of all that are to have one.
    pub done: (usize, usize),
    /// No trial is begun after this.
    pub deadline: Option<Instant>,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Whether no further trial may begin.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Tells that the parents are there and the trials begin.
    pub fn begin(&self) {
        self.progress.trials(self.done.0, self.done.1);
    }

    /// The trial at a place in the plan.
    pub fn spec(&self, index: usize) -> &TrialSpec {
        &self.run.plan().trials[index]
    }
}

/// How a study is run on this machine; nothing here changes a record.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Trials at a time, one thread each; parents train with as many threads.
    pub workers: usize,
    /// Bytes for activations that trials share; 0 computes everything anew.
    pub cache: usize,
}

/// What the user is told while a study runs.
pub trait Progress: Sync {
    /// A parent has so many of its images behind it.
    fn parent(&self, spec: &ParentSpec, seen: usize, of: usize, point: &CurvePoint);
    /// All parents are there; so many trials have records already, of so many.
    fn trials(&self, done: usize, of: usize);
    /// A trial has begun.
    fn started(&self, spec: &TrialSpec);
    /// A trial has ended and its record is written.
    fn ended(&self, record: &Record);
    /// Something worth a line: a worker that died, a job that was submitted.
    fn note(&self, text: &str);
}

/// The record of a trial that could not be run.
pub(crate) fn failed(spec: &TrialSpec, reason: String) -> Record {
    Record {
        version: VERSION,
        spec: spec.clone(),
        outcome: Outcome::Failed { reason },
        readings: None,
        clock: Clock { finished: now(), ..Clock::default() },
    }
}

/// The last lines of a log, for a message.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 20;
    const BYTES: usize = 4000;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let cut = text.char_indices().map(|(i, _)| i).find(|i| text.len() - i <= BYTES).unwrap_or(text.len());
    text[cut..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_within_bounds() {
        assert_eq!(tail("\n\na\n\nb\n"), "a\nb");
        assert_eq!(tail(""), "");
        let many: String = (0..100).map(|i| format!("line {i}\n")).collect();
        assert!(tail(&many).starts_with("line 80\n") && tail(&many).ends_with("line 99"));
        // A cut never falls inside a character.
        assert!(tail(&"é".repeat(10_000)).len() <= 4000);
    }
}
