//! `status`: how far a run is.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::HumanDuration;
use nettriage_jobs::slurm;
use nettriage_records::{Run, Status};

use crate::args;
use crate::fail::Fail;

/// How often a watched run is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// `nettriage status RUN`.
pub fn status(args: &args::Status) -> Result<(), Fail> {
    let run = Run::open(&args.run)?;
    let mut out = std::io::stdout().lock();
    if !args.watch {
        let status = run.status()?;
        let text = if args.json { pretty(&status)? + "\n" } else { table(&run, &status) };
        out.write_all(text.as_bytes())?;
        return Ok(());
    }
    let terminal = std::io::stdout().is_terminal() && !args.json;
    let mut shown: Option<Status> = None;
    loop {
        let status = run.status()?;
        let news = shown.as_ref().is_none_or(|shown| counts(shown) != counts(&status));
        if terminal {
            // Home, and clear what is below.
            write!(out, "\x1b[H\x1b[J{}", table(&run, &status))?;
        } else if news && args.json {
            writeln!(out, "{}", serde_json::to_string(&status).map_err(|e| Fail::Message(e.to_string()))?)?;
        } else if news {
            writeln!(out, "{}", line(&status))?;
        }
        out.flush()?;
        if status.is_complete() {
            return Ok(());
        }
        shown = Some(status);
        std::thread::sleep(EVERY);
    }
}

fn counts(status: &Status) -> [usize; 6] {
    [status.done, status.diverged, status.failed, status.running, status.left, status.parents_done]
}

fn pretty(status: &Status) -> Result<String, Fail> {
    serde_json::to_string_pretty(status).map_err(|e| Fail::Message(e.to_string()))
}

fn left(status: &Status) -> String {
    let seconds = status.seconds_left().filter(|_| !status.is_complete());
    seconds.map_or(String::new(), |s| format!("{:#}", HumanDuration(Duration::from_secs_f64(s))))
}

fn line(status: &Status) -> String {
    let Status { trials, failed, running, .. } = status;
    let left =
        Some(left(status)).filter(|left| !left.is_empty()).map_or(String::new(), |left| format!(", {left} left"));
    format!("{} of {trials} trials ended, {failed} failed, {running} running{left}", status.ended())
}

fn table(run: &Run, status: &Status) -> String {
    let mut text = format!("{}: {} trials and controls\n", run.plan().name, status.trials);
    let mut row = |name: &str, value: String| text += &format!("{name:<8} {value}\n");
    row("parents", format!("{} of {}", status.parents_done, status.parents));
    row("done", status.done.to_string());
    row("diverged", status.diverged.to_string());
    row("failed", status.failed.to_string());
    if status.skipped > 0 {
        row("skipped", format!("{} by successive halving", status.skipped));
    }
    row("running", status.running.to_string());
    row("left", status.left.to_string());
    if status.checkpoints > 0 {
        row("saved", format!("{} trainings in progress have a checkpoint", status.checkpoints));
    }
    for (of, rate) in &status.rates {
        row("rate", format!("{rate} for {of}, by a range test"));
    }
    row("seconds", format!("{:.1} on trials so far", status.trials_seconds));
    let left = left(status);
    if !left.is_empty() {
        row("time", format!("about {left} left at this rate"));
    }
    if !status.is_complete()
        && let Some(queue) = slurm::queue_state(run.folder())
    {
        row("slurm", format!("{} tasks running, {} waiting", queue.running, queue.waiting));
    }
    if let Some(runner) = status.runner {
        row("runner", format!("process {runner}"));
    }
    text
}
