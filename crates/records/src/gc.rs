//! Files in a run's folder that are no longer needed.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::id::is_content_id;
use crate::run::RATES;
use crate::{Error, Run, checkpoint, files};

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
        let known = plan.trials.iter().map(|t| t.id.as_str()).chain(plan.parents.iter().map(|p| p.id.as_str()));
        let known: HashSet<&str> = known.chain(plan.range_tests.iter().map(|t| t.id.as_str())).collect();
        let open = self.open_checkpoints()?;
        let mut found = Vec::new();
        for part in ["", "trials", "parents", RATES, "weights", checkpoint::FOLDER, "running", "logs"] {
            for (path, metadata) in files::list(self.folder(), part)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(why) = why(part, &name, files::is_old(&metadata), &Known { planned: &known, open: &open })
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

/// What the plan and the records say of ids.
struct Known<'a> {
    /// Those of the plan.
    planned: &'a HashSet<&'a str>,
    /// Those whose training continues from a checkpoint.
    open: &'a HashSet<String>,
}

/// Why a file can be removed; `None` if it cannot, or is not ours.
fn why(part: &str, name: &str, old: bool, known: &Known<'_>) -> Option<&'static str> {
    if files::is_temporary(part, name) {
        return old.then_some("partly written by a process that was killed");
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match part {
        "trials" | "parents" | RATES => {
            let (id, state) = name.split_once(".json").filter(|(id, _)| is_content_id(id))?;
            match state {
                "" => (!known.planned.contains(id)).then_some("record of a trial that is not in the plan"),
                ".failed" => (part == "trials").then_some("failure of a reopened trial"),
                _ => {
                    let number = state.strip_prefix(".corrupt")?;
                    (number.is_empty() || is_number(number)).then_some("truncated or altered")
                }
            }
        }
        "weights" => {
            let unknown = !known.planned.contains(files::weights_id(name)?);
            unknown.then_some("weights of a trial that is not in the plan")
        }
        checkpoint::FOLDER => {
            if let Some((id, state)) = name.split_once(".bin.corrupt") {
                let ours = is_content_id(id) && (state.is_empty() || is_number(state));
                return ours.then_some("damaged checkpoint");
            }
            let id = checkpoint::id_in(name)?;
            let needed = known.planned.contains(id) && known.open.contains(id);
            (!needed).then_some("checkpoint of a training that has ended or is not in the plan")
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
        let planned = HashSet::from(["00000000000000aa", "00000000000000cc"]);
        let open = HashSet::from(["00000000000000aa".to_owned(), "00000000000000bb".to_owned()]);
        let known = Known { planned: &planned, open: &open };
        let removed = |part: &str, name: &str| why(part, name, true, &known).is_some();
        for (part, name) in [
            ("", ".plan.json.12.0.tmp"),
            ("trials", ".00000000000000aa.json.12.0.tmp"),
            ("trials", "00000000000000bb.json"),
            ("trials", "00000000000000aa.json.failed"),
            ("parents", "00000000000000aa.json.corrupt2"),
            ("weights", "child-00000000000000bb.safetensors"),
            ("weights", "child-00000000000000aa.safetensors.12-0.tmp"),
            ("checkpoints", "00000000000000bb.bin"),
            ("checkpoints", "00000000000000cc.bin"),
            ("checkpoints", "00000000000000aa.bin.corrupt2"),
            ("checkpoints", ".00000000000000aa.bin.12.0.tmp"),
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
            ("checkpoints", "00000000000000aa.bin"),
            ("checkpoints", "best.bin"),
            ("checkpoints", "00000000000000aa.bin.corrupt-mine"),
            ("running", "notes"),
            ("logs", "training.log"),
            ("logs", "worker-mine.log"),
        ] {
            assert!(!removed(part, name), "{part}/{name}");
        }
    }
}
