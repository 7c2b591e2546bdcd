//! What was submitted, as files in the run's folder.
//!
//! ```text
//! slurm/<n>.tasks     the places of each task's trials, a line a task
//! slurm/<n>.sh        the batch script
//! slurm/<n>.json      the job's number and its tasks, written once it is submitted
//! logs/slurm-<job>_<task>.log
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use nettriage_records::Run;
use serde::{Deserialize, Serialize};

use super::queue::{self, Task};
use super::{Job, Slurm};
use crate::Error;

/// One array job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// Slurm's number of the job.
    pub job: u64,
    /// Places in the plan, task by task.
    pub tasks: Vec<Vec<usize>>,
}

impl Submission {
    /// All that was submitted for a run, in order. A file that is torn is passed over: its trials are submitted again.
    pub fn all(run: &Run) -> Result<Vec<Submission>, Error> {
        let mut found: Vec<(usize, Submission)> = numbers(run)
            .filter_map(|(number, path)| Some((number, serde_json::from_slice(&fs::read(path).ok()?).ok()?)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        Ok(found.into_iter().map(|(_, submission)| submission).collect())
    }
}

fn folder(run: &Run) -> PathBuf {
    run.folder().join("slurm")
}

/// The `.json` files of submissions by number.
fn numbers(run: &Run) -> impl Iterator<Item = (usize, PathBuf)> {
    let entries = fs::read_dir(folder(run)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| {
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        Some((number, path))
    })
}

/// The log of a task so far.
pub fn log(run: &Run, task: Task) -> Result<String, Error> {
    let path = run.logs()?.join(format!("slurm-{task}.log"));
    Ok(String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned())
}

/// Writes an array job's files and submits it.
pub fn submit(slurm: &Slurm, job: &Job<'_>, tasks: Vec<Vec<usize>>, after: Option<u64>) -> Result<Submission, Error> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| Error::Io { path: path.display().to_string(), source })
    };
    let folder = absolute(&folder(job.run))?;
    let logs = absolute(&job.run.logs()?)?;
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|source| Error::Io { path: path.display().to_string(), source })
    };
    fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.display().to_string(), source })?;
    let number = numbers(job.run).map(|(number, _)| number).max().map_or(1, |last| last + 1);
    let lines = folder.join(format!("{number}.tasks"));
    write(&lines, &tasks.iter().map(|trials| ranges(trials) + "\n").collect::<String>())?;
    let script = folder.join(format!("{number}.sh"));
    let until = slurm.until.map_or(String::new(), |until| format!(" --until {until:.0}"));
    let command: Vec<String> = slurm.command.iter().map(|word| quote(word)).collect();
    let text = format!(
        "#!/bin/sh\n# A line of the file of tasks holds the places in the plan of one task's trials.\n\
         index=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {lines})\n\
         # Out of memory inside a backtrace, a process waits for itself for ever.\n\
         export RUST_BACKTRACE=0\n\
         exec {command} --missing --threads \"${{SLURM_CPUS_PER_TASK:-1}}\"{until} --index \"$index\"\n",
        lines = quote(&lines.display().to_string()),
        command = command.join(" "),
    );
    write(&script, &text)?;
    let at_once = slurm.at_once.map_or(String::new(), |n| format!("%{n}"));
    // A percent sign in a path would be Slurm's own.
    let output = logs.display().to_string().replace('%', "%%");
    let mut arguments = vec![
        format!("--job-name=nettriage-{}", job.run.plan().name),
        format!("--array=0-{}{at_once}", tasks.len() - 1),
        format!("--output={output}/slurm-%A_%a.log"),
        "--open-mode=append".to_owned(),
    ];
    // Whatever became of the parents' job: a task that finds no parent trains it.
    arguments.extend(after.map(|after| format!("--dependency=afterany:{after}")));
    // The user's own last, so that they win.
    arguments.extend(slurm.options.iter().cloned());
    arguments.push(script.display().to_string());
    let submission = Submission { job: queue::submit(&arguments)?, tasks };
    let bytes = serde_json::to_string(&submission).expect("plain data");
    let path = folder.join(format!("{number}.json"));
    // Under another name first: whoever reads sees all or nothing.
    let temporary = folder.join(format!("{number}.json.tmp"));
    write(&temporary, &bytes)?;
    fs::rename(&temporary, &path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
    Ok(submission)
}

/// Places as `3,7-9`.
fn ranges(places: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &place in places {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == place => *last = place,
            _ => runs.push((place, place)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A word that the shell takes as it is.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::{quote, ranges};

    #[test]
    fn places_are_written_as_ranges() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 1, 2, 7, 9, 10]), "0-2,7,9-10");
    }

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\ *"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }
}
