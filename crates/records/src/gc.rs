//! Files in a run's folder that are no longer needed.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::id::is_content_id;
use crate::{Error, Run, files};

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

impl Run {
    /// Files that are not needed: leftovers of killed processes, damaged or reopened records, records and weights of trials
    /// that are not in the plan.
    ///
    /// Nothing is removed here. Only names in the exact forms that nettriage writes are listed, and nothing behind a symbolic
    /// link. Valid records and weights of trials in the plan are never listed.
    pub fn garbage(&self) -> Result<Vec<Garbage>, Error> {
        let plan = self.plan();
        let known: HashSet<&str> =
            plan.trials.iter().map(|t| t.id.as_str()).chain(plan.parents.iter().map(|p| p.id.as_str())).collect();
        let mut found = Vec::new();
        for part in ["", "trials", "parents", "weights", "running", "logs"] {
            for (path, metadata) in files::list(self.folder(), part)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(why) = why(part, &name, files::is_old(&metadata), &known)
                    && !(part == "running" && crate::lock::is_locked(&path))
                {
                    found.push(Garbage { path, bytes: metadata.len(), why });
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// Why a file can be removed; `None` if it cannot, or is not ours.
fn why(part: &str, name: &str, old: bool, known: &HashSet<&str>) -> Option<&'static str> {
    if files::is_temporary(part, name) {
        return old.then_some("partly written by a process that was killed");
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match part {
        "trials" | "parents" => {
            let (id, state) = name.split_once(".json").filter(|(id, _)| is_content_id(id))?;
            match state {
                "" => (!known.contains(id)).then_some("record of a trial that is not in the plan"),
                ".failed" => (part == "trials").then_some("failure of a reopened trial"),
                _ => {
                    let number = state.strip_prefix(".corrupt")?;
                    (number.is_empty() || is_number(number)).then_some("truncated or altered")
                }
            }
        }
        "weights" => {
            let unknown = !known.contains(files::weights_id(name)?);
            unknown.then_some("weights of a trial that is not in the plan")
        }
        "running" => (old && is_content_id(name)).then_some("marker of a process that has ended"),
        "logs" => {
            let (kind, numbers) = name.strip_suffix(".log")?.split_once('-')?;
            let ours = matches!(kind, "worker" | "slurm") && numbers.split(['-', '_']).all(is_number);
            (old && ours).then_some("log of a worker that has ended")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_forms_are_removed() {
        let known = HashSet::from(["00000000000000aa"]);
        let removed = |part: &str, name: &str| why(part, name, true, &known).is_some();
        for (part, name) in [
            ("", ".plan.json.12.0.tmp"),
            ("trials", ".00000000000000aa.json.12.0.tmp"),
            ("trials", "00000000000000bb.json"),
            ("trials", "00000000000000aa.json.failed"),
            ("parents", "00000000000000aa.json.corrupt2"),
            ("weights", "child-00000000000000bb.safetensors"),
            ("weights", "child-00000000000000aa.safetensors.12-0.tmp"),
            ("running", "00000000000000aa"),
            ("logs", "worker-12-0.log"),
            ("logs", "slurm-12_3.log"),
        ] {
            assert!(removed(part, name), "{part}/{name}");
        }
        for (part, name) in [
            ("", "notes.tmp"),
            ("", ".notes.12.0.tmp"),
            ("trials", "notes.tmp"),
            ("trials", "notes.json"),
            ("trials", "00000000000000aa.json"),
            ("trials", "00000000000000bb.json.bak"),
            ("trials", "00000000000000BB.json"),
            ("trials", "notes.json.corrupt"),
            ("parents", "00000000000000aa.json.corrupt-mine"),
            ("weights", "my-model.safetensors"),
            ("weights", "child-00000000000000aa.safetensors"),
            ("weights", "child-best.safetensors"),
            ("weights", "my-00000000000000bb.safetensors"),
            ("running", "notes"),
            ("logs", "training.log"),
            ("logs", "worker-mine.log"),
        ] {
            assert!(!removed(part, name), "{part}/{name}");
        }
    }
}
