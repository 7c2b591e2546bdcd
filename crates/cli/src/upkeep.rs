//! `retry`, `gc` and `merge`: what keeps a run's folder in order.

use std::fs;
use std::io::Write;
use std::path::Path;

use indicatif::HumanBytes;
use nettriage_records::Run;

use crate::args;
use crate::fail::Fail;

/// `nettriage retry RUN`.
pub fn retry(args: &args::Retry) -> Result<(), Fail> {
    let run = Run::open(&args.run)?;
    let _lock = run.lock()?;
    let failed = run.failed()?;
    if let Some(id) = args.trial.iter().find(|id| !failed.contains(id)) {
        let known = run.plan().trials.iter().any(|trial| trial.id == *id);
        let problem = if known { "this trial has not failed" } else { "the plan has no trial of this id" };
        return Err(Fail::Message(format!("--trial {id}: {problem}; `nettriage status` tells how many failed")));
    }
    let ids = if args.trial.is_empty() { &failed } else { &args.trial };
    let opened = run.reopen(ids)?;
    println!("{opened} failed trials are open again");
    if opened > 0 {
        println!("resume with: nettriage run STUDY --out {}", args.run.display());
    }
    Ok(())
}

/// `nettriage gc RUN`.
pub fn gc(args: &args::Gc) -> Result<(), Fail> {
    let run = Run::open(&args.run)?;
    // No other process may run while files are removed.
    let _lock = args.yes.then(|| run.lock()).transpose()?;
    let garbage = run.garbage()?;
    let mut out = std::io::stdout().lock();
    for file in &garbage {
        let name = file.path.strip_prefix(&args.run).unwrap_or(&file.path);
        writeln!(out, "{}\t{}\t{}", name.display(), HumanBytes(file.bytes), file.why)?;
        if args.yes {
            remove(&file.path)?;
        }
    }
    let bytes = HumanBytes(garbage.iter().map(|file| file.bytes).sum());
    match (garbage.len(), args.yes) {
        (0, _) => writeln!(out, "nothing to remove")?,
        (n, true) => writeln!(out, "removed {n} files, {bytes}")?,
        (n, false) => writeln!(out, "would remove {n} files, {bytes}; `--yes` removes them")?,
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Fail> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Fail::file(path, error)),
        _ => Ok(()),
    }
}

/// `nettriage merge A B --out C`.
pub fn merge(args: &args::Merge) -> Result<(), Fail> {
    let runs = args.runs.iter().map(|folder| Run::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let (run, merged) = nettriage_records::merge(&runs, &args.out)?;
    println!(
        "{}: {} of {} trials ({} of them in several runs, with the same result), {} left",
        args.out.display(),
        merged.records,
        run.plan().trials.len(),
        merged.shared,
        merged.left
    );
    Ok(())
}
