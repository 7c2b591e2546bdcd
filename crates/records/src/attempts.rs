//! Failed attempts at trials, and trials that are reopened.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::envelope::State;
use crate::{Error, Run, files};

const FILE: &str = "attempts.json";

impl Run {
    /// The number of worker processes that died during each trial, for trials with at least one.
    ///
    /// A damaged file is treated as empty: at worst a trial is tried a few more times.
    pub fn attempts(&self) -> Result<BTreeMap<String, u32>, Error> {
        let bytes = files::read(&self.folder().join(FILE))?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Counts a worker process that died during a trial, and returns the new count. For the holder of the lock.
    pub fn note_attempt(&self, id: &str) -> Result<u32, Error> {
        let mut attempts = self.attempts()?;
        let count = attempts.entry(id.to_owned()).or_default();
        *count += 1;
        let count = *count;
        self.write_attempts(&attempts)?;
        Ok(count)
    }

    fn write_attempts(&self, attempts: &BTreeMap<String, u32>) -> Result<(), Error> {
        let bytes = serde_json::to_vec(attempts).expect("plain data");
        files::write_atomic(&self.folder().join(FILE), &bytes)
    }

    /// Ids of the trials that are recorded as failed, in plan order.
    pub fn failed(&self) -> Result<Vec<String>, Error> {
        let failed = self.trial_headers()?.into_iter().filter(|header| header.state == State::Failed);
        Ok(failed.map(|header| header.id).collect())
    }

    /// Reopens failed trials: renames their records to `<id>.json.failed` and clears their attempts. Returns how many.
    ///
    /// For the holder of the lock. Records of other states are unchanged.
    pub fn reopen(&self, ids: &[String]) -> Result<usize, Error> {
        let failed = self.failed()?;
        let mut attempts = self.attempts()?;
        let mut reopened = 0;
        for id in ids.iter().filter(|id| failed.contains(id)) {
            let path = self.file("trials", id);
            fs::rename(&path, path.with_extension("json.failed")).map_err(|error| Error::io(&path, error))?;
            attempts.remove(id);
            reopened += 1;
        }
        self.write_attempts(&attempts)?;
        Ok(reopened)
    }

    /// Whether a process started this trial and died: its marker file exists and is not locked.
    ///
    /// On a file system without locks this is also true of a running trial.
    pub fn was_abandoned(&self, id: &str) -> bool {
        let marker = self.folder().join("running").join(id);
        marker.exists() && !crate::lock::is_locked(&marker)
    }

    /// Removes the marker of a process that died.
    pub fn clear_marker(&self, id: &str) {
        // Best effort.
        let _ = fs::remove_file(self.folder().join("running").join(id));
    }

    /// The log file of a worker, by the process that started it and its place among the workers of that process.
    pub fn worker_log_path(&self, process: u32, place: usize) -> Result<PathBuf, Error> {
        Ok(self.logs()?.join(format!("worker-{process}-{place}.log")))
    }

    /// The folder of logs; created if it does not exist.
    pub fn logs(&self) -> Result<PathBuf, Error> {
        let folder = self.folder().join("logs");
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        Ok(folder)
    }
}
