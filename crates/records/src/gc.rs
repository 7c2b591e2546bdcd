//! What a run's folder holds that nobody needs any more.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::{Error, Run};

/// A file that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Why it may go.
    pub why: &'static str,
}

/// What is younger may belong to a process that is at work.
const GRACE: Duration = Duration::from_secs(3600);

impl Run {
    /// Files that nobody needs: what killed processes left, what was set aside, what the plan does not know.
    ///
    /// Nothing is removed; whole records and weights of the plan's trials are never among them.
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
                // Not followed: a link is not ours to judge.
                let Ok(meta) = path.symlink_metadata() else { continue };
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                // A file from the future (a clock that was set back) has no age: it waits.
                let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                let old = age.is_some_and(|age| age > GRACE);
                if let Some(why) = why(part, &name, old, &known).filter(|_| meta.is_file())
                    && !(part == "running" && crate::lock::is_under_way(&path))
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
        _ if name.ends_with(".tmp") => old.then_some("half-written by a process that was killed"),
        "trials" | "parents" if name.contains(".json.corrupt") => Some("torn or altered, set aside"),
        "trials" if name.ends_with(".json.failed") => Some("a failure that was opened again"),
        "trials" | "parents" if name.ends_with(".json") && unknown(&stem) => Some("of no trial of this plan"),
        "weights" if name.ends_with(".safetensors") && stem.split_once('-').is_some_and(|(_, id)| unknown(id)) => {
            Some("weights of no trial of this plan")
        }
        "running" => old.then_some("mark of a process that is gone"),
        "logs" => old.then_some("log of a worker that is gone"),
        _ => None,
    }
}
