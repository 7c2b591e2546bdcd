//! Slurm's own commands: `sbatch`, `squeue`, `scontrol`, `scancel`, and `sacct` where there is accounting.

use std::collections::{HashMap, HashSet};
use std::fmt::{Display, Formatter};
use std::process::Command;

use crate::Error;

/// One task of an array job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// Slurm's number of the array job.
    pub array: u64,
    /// The task's number in the array.
    pub number: usize,
}

impl Display for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.array, self.number)
    }
}

/// Tasks in the queue, with their states, such as `PENDING` or `RUNNING`.
pub type Tasks = HashMap<Task, String>;

/// Runs one of Slurm's commands; its standard output.
fn slurm(program: &str, arguments: &[String]) -> Result<String, Error> {
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        Error::Slurm(format!("{program}: {error}; --on slurm needs Slurm's commands on this machine"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let own = format!("{program}: error: ");
        let said: Vec<&str> =
            said.lines().map(|line| line.trim().trim_start_matches(&own)).filter(|line| !line.is_empty()).collect();
        return Err(Error::Slurm(format!("{program}: {} ({})", said.join("; "), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Submits a batch script; the job's number.
pub fn submit(arguments: &[String]) -> Result<u64, Error> {
    let said = slurm("sbatch", &[&["--parsable".to_owned()], arguments].concat())?;
    // `number` or `number;cluster`.
    let number = said.trim().split(';').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::Slurm(format!("sbatch: `{}` is not a job number", said.trim())))
}

/// The tasks of these array jobs that wait or run.
pub fn in_queue(jobs: &HashSet<u64>) -> Result<Tasks, Error> {
    if jobs.is_empty() {
        return Ok(Tasks::new());
    }
    // All of the user's jobs: naming one that the controller has forgotten is an error.
    let arguments = ["--me", "--noheader", "--array", "--format=%F %K %T"].map(str::to_owned);
    Ok(parse(&slurm("squeue", &arguments)?, jobs))
}

fn parse(text: &str, jobs: &HashSet<u64>) -> Tasks {
    let task = |line: &str| {
        let mut words = line.split_whitespace();
        let (array, number, state) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
        Some((Task { array, number }, state.to_owned()))
    };
    text.lines().filter_map(task).filter(|(task, _)| jobs.contains(&task.array)).collect()
}

/// Cancels array jobs.
pub fn cancel(jobs: &HashSet<u64>) -> Result<(), Error> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut numbers: Vec<String> = jobs.iter().map(u64::to_string).collect();
    numbers.sort();
    slurm("scancel", &numbers).map(drop)
}

/// Most tasks that one array may have; 1,000, Slurm's default, if the controller does not say.
pub fn largest_array() -> usize {
    const DEFAULT: usize = 1000;
    let Ok(text) = slurm("scontrol", &["show".to_owned(), "config".to_owned()]) else { return DEFAULT };
    let value = |key: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(key))?;
        line.split_once('=')?.1.trim().parse::<usize>().ok()
    };
    // Task numbers are below MaxArraySize, and an array may not have more tasks than there may be jobs.
    let array = value("MaxArraySize").unwrap_or(DEFAULT + 1).saturating_sub(1);
    array.min(value("MaxJobCount").unwrap_or(usize::MAX)).max(1)
}

/// How a task that has left the queue ended, in Slurm's words, if it still knows.
pub fn why(task: Task) -> String {
    let name = task.to_string();
    let shown = slurm("scontrol", &["--oneliner".to_owned(), "show".to_owned(), "job".to_owned(), name.clone()]);
    let state = shown.ok().and_then(|text| {
        let field = |key: &str| text.split_whitespace().find_map(|word| word.strip_prefix(key).map(str::to_owned));
        let state = field("JobState=")?;
        let reason = field("Reason=").filter(|reason| reason != "None").map_or(String::new(), |r| format!(", {r}"));
        Some(format!("{state}{reason}"))
    });
    let accounted = || {
        let fields = ["--noheader", "--allocations", "--format=State", "--jobs", &name].map(str::to_owned);
        slurm("sacct", &fields).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    state.or_else(accounted).unwrap_or_else(|| "no longer known to Slurm".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_queue_are_tasks() {
        // `%F %K %T` of squeue 22.05: array job, task, state; N/A for a job that is no array.
        let text = "17 3 RUNNING\n17 4 PENDING\n16 N/A RUNNING\n9 0 RUNNING\n\n";
        let tasks = parse(text, &HashSet::from([16, 17]));
        assert_eq!(tasks.len(), 2);
        assert_eq!(tasks[&Task { array: 17, number: 3 }], "RUNNING");
        assert_eq!(tasks[&Task { array: 17, number: 4 }], "PENDING");
    }
}
