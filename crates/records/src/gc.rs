//! Files in a run's folder that are no longer needed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::{Error, Run};

/// A file that can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it can be removed.
    pub why: &'static str,
}

/// Younger files may belong to a running process.
const GRACE: Duration = Duration::from_secs(3600);

impl Run {
    /// Files that are not needed: leftovers of killed processes, damaged or reopened records, records and weights of trials
    /// that are not in the plan.
    ///
    /// Nothing is removed here. Valid records and weights of trials in the plan are never listed.
    pub fn garbage(&self) -> Result<Vec<Garbage>, Error> {
        let plan = self.plan();
        let known: HashSet<&str> =
            plan.trials.iter().map(|t| t.id.as_str()).chain(plan.parents.iter().map(|p| p.id.as_str())).collect();
        let mut found = Vec::new();
        for part in ["", "trials", "parents", "weights", "running", "logs"] {
            let folder = self.folder().join(part);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(&folder, error)),
            };
            for entry in entries {
                let path = entry.map_err(|error| Error::io(&folder, error))?.path();
                // Symbolic links are not followed and never removed.
                let Ok(meta) = path.symlink_metadata() else { continue };
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                // A modification time in the future (the clock was set back) gives no age: such a file is kept.
                let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                let old = age.is_some_and(|age| age > GRACE);
                if let Some(why) = why(part, &name, old, &known).filter(|_| meta.is_file())
                    && !(part == "running" && crate::lock::is_locked(&path))
                {
                    found.push(Garbage { path, bytes: meta.len(), why });
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

fn why(part: &str, name: &str, old: bool, known: &HashSet<&str>) -> Option<&'static str> {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    let unknown = |id: &str| !known.contains(id);
    match part {
        _ if name.ends_with(".tmp") => old.then_some("partly written by a process that was killed"),
        "trials" | "parents" if name.contains(".json.corrupt") => Some("truncated or altered"),
        "trials" if name.ends_with(".json.failed") => Some("failure of a reopened trial"),
        "trials" | "parents" if name.ends_with(".json") && unknown(&stem) => {
            Some("record of a trial that is not in the plan")
        }
        "weights" if name.ends_with(".safetensors") && stem.split_once('-').is_some_and(|(_, id)| unknown(id)) => {
            Some("weights of a trial that is not in the plan")
        }
        "running" => old.then_some("marker of a process that has ended"),
        "logs" => old.then_some("log of a worker that has ended"),
        _ => None,
    }
}
