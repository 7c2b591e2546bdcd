//! What was submitted, as files in the run's folder.
//!
//! ```text
//! slurm/<n>.tasks     the job numbers of each task, one line per task
//! slurm/<n>.sh        the batch script
//! slurm/<n>.json      the array job's number and its tasks, written once it is submitted
//! logs/slurm-<array>_<task>.log
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Slurm;
use super::queue::{self, Task};
use crate::{Error, RemoteJobs};

/// One array job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// Slurm's number of the array job.
    #[serde(rename = "job")]
    pub array: u64,
    /// Job numbers, task by task.
    pub tasks: Vec<Vec<usize>>,
}

impl Submission {
    /// Everything submitted from a folder, in order. An incomplete file is skipped: its jobs are submitted again.
    pub fn all(folder: &Path) -> Vec<Submission> {
        let mut found: Vec<(usize, Submission)> = numbers(folder)
            .filter_map(|(number, path)| Some((number, serde_json::from_slice(&fs::read(path).ok()?).ok()?)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, submission)| submission).collect()
    }
}

/// The `.json` files of submissions by number.
fn numbers(folder: &Path) -> impl Iterator<Item = (usize, PathBuf)> {
    let entries = fs::read_dir(folder.join("slurm")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| {
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        Some((number, path))
    })
}

/// The log of a task so far.
pub fn log(logs: &Path, task: Task) -> String {
    let path = logs.join(format!("slurm-{task}.log"));
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// How long before its time limit a task gets the signal to save its training. Slurm may be up to a minute early.
const SECONDS_TO_SAVE: u32 = 60;

/// Writes an array job's files and submits it.
pub fn submit<J: RemoteJobs + ?Sized>(
    slurm: &Slurm,
    jobs: &J,
    tasks: Vec<Vec<usize>>,
    after: Option<u64>,
) -> Result<Submission, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|source| Error::io(path, source));
    let folder = absolute(&jobs.folder().join("slurm"))?;
    let logs = absolute(&jobs.logs()?)?;
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|source| Error::io(path, source));
    fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
    let number = numbers(jobs.folder()).map(|(number, _)| number).max().map_or(1, |last| last + 1);
    let lines = folder.join(format!("{number}.tasks"));
    write(&lines, &tasks.iter().map(|jobs| ranges(jobs) + "\n").collect::<String>())?;
    let script = folder.join(format!("{number}.sh"));
    let until = slurm.until.map_or(String::new(), |until| format!(" --until {until:.0}"));
    let command: Vec<String> = slurm.command.iter().map(|word| quote(word)).collect();
    let text = format!(
        "#!/bin/sh\n# Each line of the tasks file holds the job numbers of one task.\n\
         index=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {lines})\n\
         # A process that runs out of memory inside a backtrace deadlocks.\n\
         export RUST_BACKTRACE=0\n\
         exec {command} --missing --threads \"${{SLURM_CPUS_PER_TASK:-1}}\"{until} --index \"$index\"\n",
        lines = quote(&lines.display().to_string()),
        command = command.join(" "),
    );
    write(&script, &text)?;
    let at_once = slurm.at_once.map_or(String::new(), |n| format!("%{n}"));
    // Slurm would expand a percent sign in a path.
    let output = logs.display().to_string().replace('%', "%%");
    let mut arguments = vec![
        format!("--job-name=nettriage-{}", jobs.name()),
        format!("--array=0-{}{at_once}", tasks.len() - 1),
        format!("--output={output}/slurm-%A_%a.log"),
        "--open-mode=append".to_owned(),
    ];
    // To the program itself: it saves its job, and what is left is submitted again.
    arguments.extend(slurm.saves.then(|| format!("--signal=B:TERM@{SECONDS_TO_SAVE}")));
    // afterany: a task whose prerequisites are missing computes them itself.
    arguments.extend(after.map(|after| format!("--dependency=afterany:{after}")));
    // The user's own options last, so that they take precedence.
    arguments.extend(slurm.options.iter().cloned());
    arguments.push(script.display().to_string());
    let submission = Submission { array: queue::submit(&arguments)?, tasks };
    let bytes = serde_json::to_string(&submission).expect("plain data");
    let path = folder.join(format!("{number}.json"));
    nettriage_files::write_atomic(&path, bytes.as_bytes()).map_err(|source| Error::io(&path, source))?;
    Ok(submission)
}

/// Job numbers as `3,7-9`.
fn ranges(jobs: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &job in jobs {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == job => *last = job,
            _ => runs.push((job, job)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A word quoted for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::{quote, ranges};

    #[test]
    fn job_numbers_are_written_as_ranges() {
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 1, 2, 7, 9, 10]), "0-2,7,9-10");
    }

    #[test]
    fn quoted_words_pass_the_shell_unchanged() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\ *"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }
}
