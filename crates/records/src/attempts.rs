//! How often a worker has died of a trial, and trials that are opened again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::envelope::State;
use crate::{Error, Run, files};

const FILE: &str = "attempts.json";

impl Run {
    /// How many workers have died of each trial; those of which none has are left out.
    ///
    /// A damaged file counts as none: at worst a trial is tried a few times more.
    pub fn attempts(&self) -> Result<BTreeMap<String, u32>, Error> {
        let bytes = files::read(&self.folder().join(FILE))?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Notes that a worker has died of a trial; how many have in all. For the holder of the lock.
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

    /// Ids of the trials that are recorded as failed, in the plan's order.
    pub fn failed(&self) -> Result<Vec<String>, Error> {
        let failed = self.trial_headers()?.into_iter().filter(|header| header.state == State::Failed);
        Ok(failed.map(|header| header.id).collect())
    }

    /// Opens failed trials again: their records are set aside as `<id>.json.failed`, and their attempts forgotten.
    ///
    /// For the holder of the lock. Records that do not say failed are left alone.
    pub fn reopen(&self, ids: &[String]) -> Result<usize, Error> {
        let failed = self.failed()?;
        let mut attempts = self.attempts()?;
        let mut opened = 0;
        for id in ids.iter().filter(|id| failed.contains(id)) {
            let path = self.file("trials", id);
            fs::rename(&path, path.with_extension("json.failed")).map_err(|error| Error::io(&path, error))?;
            attempts.remove(id);
            opened += 1;
        }
        self.write_attempts(&attempts)?;
        Ok(opened)
    }

    /// Whether a process began this trial and died of it: its mark is there and nobody holds it.
    ///
    /// On a file system without locks also true of a trial that is under way.
    pub fn was_left(&self, id: &str) -> bool {
        let mark = self.folder().join("running").join(id);
        mark.exists() && !crate::lock::is_under_way(&mark)
    }

    /// Takes a dead process's mark away.
    pub fn clear_mark(&self, id: &str) {
        // Best effort: it is only a mark.
        let _ = fs::remove_file(self.folder().join("running").join(id));
    }

    /// Where the log of a worker goes: one file for each place of each process that has workers.
    pub fn worker_log_path(&self, process: u32, place: usize) -> Result<PathBuf, Error> {
        Ok(self.logs()?.join(format!("worker-{process}-{place}.log")))
    }

    /// The folder of logs, made if it is not there.
    pub fn logs(&self) -> Result<PathBuf, Error> {
        let folder = self.folder().join("logs");
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        Ok(folder)
    }
}
