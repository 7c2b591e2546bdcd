//! How far a run is.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::envelope::{Header, State};
use crate::{Error, files};

/// How far a run is, in numbers of trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Trials and controls in the plan.
    pub trials: usize,
    /// Ended with readings.
    pub done: usize,
    /// Ended because the loss ceased to be finite.
    pub diverged: usize,
    /// Could not be run.
    pub failed: usize,
    /// Left out by successive halving.
    #[serde(default)]
    pub skipped: usize,
    /// Under way now.
    pub running: usize,
    /// Neither ended, nor left out, nor under way.
    pub left: usize,
    /// Parents in the plan.
    pub parents: usize,
    /// Parents trained or read.
    pub parents_done: usize,
    /// Wall seconds from the end of the parents' training to the last trial's end, summed over sessions.
    ///
    /// A session is one process's time with the run. Its share begins when it took the run on, or when the last
    /// parent that it trained before its first trial was ready, if that is later; it ends with its last trial's end.
    /// So everything that trials share (cached activations, least-squares sums) is counted, the pause between an
    /// interruption and its resumption is not, and a parent trained among trials is.
    pub trials_seconds: f64,
    /// The process that runs the study now, if one does.
    pub runner: Option<u32>,
}

impl Status {
    /// Trials that have ended, however.
    pub fn ended(&self) -> usize {
        self.done + self.diverged + self.failed
    }

    /// Whether nothing is left to do.
    pub fn is_complete(&self) -> bool {
        self.left + self.running == 0
    }

    /// Seconds that the rest will take at the pace so far, where there is one.
    pub fn seconds_left(&self) -> Option<f64> {
        let pace = self.trials_seconds / self.ended() as f64;
        (pace.is_finite() && pace > 0.0).then(|| pace * (self.left + self.running) as f64)
    }
}

/// One line of `sessions.jsonl`.
#[derive(Serialize, Deserialize)]
struct Session {
    started: f64,
    pid: u32,
}

/// Notes that a process has taken the run on. One short write in append mode: lines of two processes do not mix.
pub(crate) fn note_session(folder: &Path) -> Result<(), Error> {
    use std::io::Write;
    let path = folder.join("sessions.jsonl");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut line = serde_json::to_vec(&Session { started, pid: std::process::id() }).expect("plain data");
    line.push(b'\n');
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(&line)).map_err(|error| Error::io(&path, error))
}

/// Adds the sessions of another folder, where runs are merged.
pub(crate) fn add_sessions(folder: &Path, from: &Path) -> Result<(), Error> {
    let known = sessions(folder)?;
    let path = folder.join("sessions.jsonl");
    let mut lines = files::read(&path)?.unwrap_or_default();
    for started in sessions(from)?.into_iter().filter(|started| !known.contains(started)) {
        // The process was another machine's: its number says nothing here.
        lines.extend(serde_json::to_vec(&Session { started, pid: 0 }).expect("plain data"));
        lines.push(b'\n');
    }
    files::write_atomic(&path, &lines)
}

/// Seconds since 1970 at which processes took the run on, in order; torn lines are passed over.
pub(crate) fn sessions(folder: &Path) -> Result<Vec<f64>, Error> {
    let bytes = files::read(&folder.join("sessions.jsonl"))?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    let mut starts: Vec<f64> =
        lines.filter_map(|line| serde_json::from_slice::<Session>(line).ok()).map(|session| session.started).collect();
    starts.sort_by(f64::total_cmp);
    Ok(starts)
}

/// Counts ends by their state.
pub(crate) fn count<'a>(headers: impl Iterator<Item = &'a Header>) -> (usize, usize, usize) {
    headers.fold((0, 0, 0), |(done, diverged, failed), header| match header.state {
        State::Done | State::Plan => (done + 1, diverged, failed),
        State::Diverged => (done, diverged + 1, failed),
        State::Failed => (done, diverged, failed + 1),
    })
}

/// See [`Status::trials_seconds`].
pub(crate) fn trials_seconds(sessions: &[f64], parents: &[Header], trials: &[Header]) -> f64 {
    // Trials that ended before any known session (as when another machine's folder was copied in) form one of their own.
    let session_of = |at: f64| sessions.iter().rposition(|&start| start <= at);
    let mut total = 0.0;
    for session in std::iter::once(None).chain((0..sessions.len()).map(Some)) {
        let own: Vec<&Header> = trials.iter().filter(|trial| session_of(trial.finished) == session).collect();
        let first = own.iter().map(|trial| trial.finished - trial.seconds).fold(f64::INFINITY, f64::min);
        let last = own.iter().map(|trial| trial.finished).fold(f64::NEG_INFINITY, f64::max);
        let ready = parents.iter().map(|parent| parent.finished).filter(|&at| at <= first);
        let start = ready.fold(session.map_or(f64::NEG_INFINITY, |i| sessions[i]), f64::max);
        // In the session of none, a parent of long ago must not count the pause since: begin with the first trial.
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
        Header { version: 1, id: text(), state, finished, seconds, bytes: 0, digest: text(), checksum: text() }
    }

    #[test]
    fn seconds_run_from_the_parents_end_and_leave_out_pauses() {
        // Session at 100: parent ready at 160, two workers, last trial ends at 200: 40 seconds, of which the five
        // between the parent's end and the first trial's start are shared work. Session at 1000: 30 seconds more.
        let parents = [header(160.0, 60.0)];
        let trials = [header(185.0, 20.0), header(200.0, 30.0), header(1030.0, 25.0)];
        assert_eq!(trials_seconds(&[100.0, 1000.0], &parents, &trials), 70.0);
        assert_eq!(trials_seconds(&[100.0, 1000.0], &parents, &[]), 0.0);
    }

    #[test]
    fn a_parent_trained_among_trials_is_counted() {
        let parents = [header(10.0, 10.0), header(30.0, 10.0)];
        let trials = [header(20.0, 9.0), header(40.0, 9.0)];
        assert_eq!(trials_seconds(&[0.0], &parents, &trials), 30.0);
    }

    #[test]
    fn a_clock_set_back_counts_no_negative_time() {
        let parents = [header(160.0, 60.0)];
        let trials = [header(50.0, 20.0)];
        assert_eq!(trials_seconds(&[100.0], &parents, &trials), 20.0);
    }
}
