//! The progress of a run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::envelope::{Header, State};
use crate::plan::Trainings;
use crate::record::unix_time;
use crate::{Error, files};

/// The progress of a run, in numbers of trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Trials and controls in the plan.
    pub trials: usize,
    /// Completed.
    pub done: usize,
    /// Ended because the loss became non-finite.
    pub diverged: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped by successive halving.
    #[serde(default)]
    pub skipped: usize,
    /// Running now.
    pub running: usize,
    /// Neither ended, nor skipped, nor running.
    pub left: usize,
    /// Parents in the plan.
    pub parents: usize,
    /// Parents that are trained or read from a file.
    pub parents_done: usize,
    /// Wall-clock seconds from the end of the training of parents to the end of the last trial, summed over sessions.
    ///
    /// A session is the time during which one process runs the study. It starts when the process takes the lock or, if that
    /// is later, at the end of the last parent that it trained before its first trial; it ends with its last trial.
    /// This includes work shared by trials (cached activations, least-squares sums) and parents trained between trials, but
    /// not the pauses between sessions.
    pub trials_seconds: f64,
    /// Trials and parents without a record whose training continues from a checkpoint.
    #[serde(default)]
    pub checkpoints: usize,
    /// The largest learning rates that range tests have found so far.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<Trainings, f64>,
    /// The id of the process that is running the study, if there is one.
    pub runner: Option<u32>,
}

impl Status {
    /// Trials that have ended: completed, diverged or failed.
    pub fn ended(&self) -> usize {
        self.done + self.diverged + self.failed
    }

    /// Whether no trial is left or running.
    pub fn is_complete(&self) -> bool {
        self.left + self.running == 0
    }

    /// Estimated seconds for the remaining trials at the rate so far; `None` before the first trial has ended.
    pub fn seconds_left(&self) -> Option<f64> {
        let seconds_per_trial = self.trials_seconds / self.ended() as f64;
        (seconds_per_trial.is_finite() && seconds_per_trial > 0.0)
            .then(|| seconds_per_trial * (self.left + self.running) as f64)
    }
}

/// One line of `sessions.jsonl`.
#[derive(Serialize, Deserialize)]
struct Session {
    started: f64,
    pid: u32,
}

/// Appends a session that starts now. One short write in append mode: lines of two processes are not interleaved.
pub(crate) fn append_session(folder: &Path) -> Result<(), Error> {
    use std::io::Write;
    let path = folder.join("sessions.jsonl");
    let mut line = serde_json::to_vec(&Session { started: unix_time(), pid: std::process::id() }).expect("plain data");
    line.push(b'\n');
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(&line)).map_err(|error| Error::io(&path, error))
}

/// Adds the sessions of another folder, when runs are merged.
pub(crate) fn add_sessions(folder: &Path, from: &Path) -> Result<(), Error> {
    let known = sessions(folder)?;
    let path = folder.join("sessions.jsonl");
    let mut lines = files::read(&path)?.unwrap_or_default();
    for started in sessions(from)?.into_iter().filter(|started| !known.contains(started)) {
        // The process id belongs to another machine and has no meaning here.
        lines.extend(serde_json::to_vec(&Session { started, pid: 0 }).expect("plain data"));
        lines.push(b'\n');
    }
    files::write_atomic(&path, &lines)
}

/// Start times of all sessions in ascending order, as [`unix_time`]; damaged lines are skipped.
pub(crate) fn sessions(folder: &Path) -> Result<Vec<f64>, Error> {
    let bytes = files::read(&folder.join("sessions.jsonl"))?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    let mut starts: Vec<f64> =
        lines.filter_map(|line| serde_json::from_slice::<Session>(line).ok()).map(|session| session.started).collect();
    starts.sort_by(f64::total_cmp);
    Ok(starts)
}

/// Counts records by state: done, diverged, failed.
pub(crate) fn count<'a>(headers: impl Iterator<Item = &'a Header>) -> (usize, usize, usize) {
    headers.fold((0, 0, 0), |(done, diverged, failed), header| match header.state {
        State::Done | State::Plan => (done + 1, diverged, failed),
        State::Diverged => (done, diverged + 1, failed),
        State::Failed => (done, diverged, failed + 1),
    })
}

/// See [`Status::trials_seconds`].
pub(crate) fn trials_seconds(sessions: &[f64], parents: &[Header], trials: &[Header]) -> f64 {
    // Trials that ended before any known session (as when a folder was copied from another machine) form a session of their own.
    let session_of = |at: f64| sessions.iter().rposition(|&start| start <= at);
    let mut total = 0.0;
    for session in std::iter::once(None).chain((0..sessions.len()).map(Some)) {
        let own: Vec<&Header> = trials.iter().filter(|trial| session_of(trial.finished) == session).collect();
        let first = own.iter().map(|trial| trial.finished - trial.seconds).fold(f64::INFINITY, f64::min);
        let last = own.iter().map(|trial| trial.finished).fold(f64::NEG_INFINITY, f64::max);
        let ready = parents.iter().map(|parent| parent.finished).filter(|&at| at <= first);
        let start = ready.fold(session.map_or(f64::NEG_INFINITY, |i| sessions[i]), f64::max);
        // The time of trials without a session starts with the first trial, since their parent may be much older.
        let start = if session.is_none() || start > first { first } else { start };
        if last > start {
            total += last - start;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(finished: f64, seconds: f64) -> Header {
        let text = String::new;
        let state = State::Done;
        Header {
            version: 1,
            id: text(),
            state,
            finished,
            seconds,
            bytes: 0,
            digest: text(),
            checksum: text(),
            weights: Default::default(),
        }
    }

    #[test]
    fn seconds_start_at_the_end_of_the_parent_and_exclude_pauses() {
        // Session at 100: parent ready at 160, two workers, last trial ends at 200: 40 seconds; the first
        // five, before the first trial starts, are shared work. Session at 1000: 30 seconds more.
        let parents = [header(160.0, 60.0)];
        let trials = [header(185.0, 20.0), header(200.0, 30.0), header(1030.0, 25.0)];
        assert_eq!(trials_seconds(&[100.0, 1000.0], &parents, &trials), 70.0);
        assert_eq!(trials_seconds(&[100.0, 1000.0], &parents, &[]), 0.0);
    }

    #[test]
    fn a_parent_trained_between_trials_is_counted() {
        let parents = [header(10.0, 10.0), header(30.0, 10.0)];
        let trials = [header(20.0, 9.0), header(40.0, 9.0)];
        assert_eq!(trials_seconds(&[0.0], &parents, &trials), 30.0);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_negative_time() {
        let parents = [header(160.0, 60.0)];
        let trials = [header(50.0, 20.0)];
        assert_eq!(trials_seconds(&[100.0], &parents, &trials), 20.0);
    }
}
