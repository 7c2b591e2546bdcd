//! A plan of a hundred thousand trials: `cargo test --release -p nettriage-study --test large -- --ignored --nocapture`.

use std::time::Instant;

use nettriage_records::Run;
use nettriage_study::{Study, StudyContext, plan};

const STUDY: &str = r#"
name = "large"
[data]
name = "digits"
validation = 200
[parent]
arch = "vgg"
plan = [[8, 8], [16, 16], [32, 32]]
[parent.training]
epochs = 1
rate = 0.05
[children]
seeds = 640
images = 640
rate = 0.02
[triage]
inits = ["random", "first", "last", "mean", "collapse", "least-squares"]
"#;

/// Peak memory of this process in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_trials_are_planned_in_seconds() {
    let study = Study::parse(STUDY, "large.toml").unwrap();
    let context = StudyContext::new(study, STUDY.to_owned(), None).unwrap();
    let begin = Instant::now();
    let plan = plan(&context).unwrap();
    let planned = begin.elapsed();
    println!("{} trials planned: {:.2} s, {} MiB peak", plan.trials.len(), planned.as_secs_f64(), peak());
    assert!(plan.trials.len() > 100_000, "{}", plan.trials.len());
    let folder = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    Run::create(folder.path(), &plan).unwrap();
    println!("and written: {:.2} s, {} MiB peak", begin.elapsed().as_secs_f64(), peak());
    assert!(planned.as_secs_f64() < 2.0, "{planned:?}");
    assert!(peak() < 200, "{} MiB", peak());
}
