//! A hundred thousand trials: `cargo test --release -p nettriage-records --test large -- --ignored --nocapture`.

use std::time::Instant;

use nettriage_records::plan::*;
use nettriage_records::record::{Clock, Outcome, Record};
use nettriage_records::{Run, content_id};

#[test]
#[ignore = "writes 100,000 files, 2 GB; takes a minute or more"]
fn status_over_a_hundred_thousand_records_takes_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let trial = |i: u64| TrialSpec {
        id: content_id(&i),
        role: Role::Child,
        parent: "p".into(),
        block: Some("block1".into()),
        substitute: Some("conv3x3".into()),
        init: Some("random".into()),
        scheme: "global".into(),
        budget: None,
        seed: i,
    };
    let data = DataSummary {
        name: "digits".into(),
        checksum: "0".into(),
        classes: vec![],
        shape: [1, 8, 8],
        mean: vec![0.5],
        std: vec![0.25],
        train: 1,
        validation: 1,
        test: 1,
    };
    let plan = Plan {
        engine: None,
        version: VERSION,
        name: "large".into(),
        study: String::new(),
        data,
        budgets: vec![BudgetSummary { name: "20 images".into(), images: 20 }],
        layers: vec![],
        blocks: vec![],
        schemes: vec![],
        parents: vec![],
        trials: (0..100_000).map(trial).collect(),
        margin: 0.01,
        metric: None,
        range_tests: vec![],
    };
    let started = Instant::now();
    let run = Run::create(folder.path(), &plan).unwrap();
    println!("create: {:?}", started.elapsed());
    // One record is written with `write`; the others are copies under their own names, since one sync per file would take minutes.
    let outcome = Outcome::Failed { reason: "x".repeat(20_000) };
    let record = Record {
        version: VERSION,
        spec: plan.trials[0].clone(),
        outcome,
        readings: None,
        measured: None,
        clock: Clock::default(),
    };
    run.write(&record).unwrap();
    let file = |id: &str| folder.path().join("trials").join(format!("{id}.json"));
    let text = std::fs::read_to_string(file(&plan.trials[0].id)).unwrap();
    for trial in &plan.trials[1..] {
        std::fs::write(file(&trial.id), text.replace(&plan.trials[0].id, &trial.id)).unwrap();
    }
    for read in ["first", "second"] {
        let started = Instant::now();
        let run = Run::open(folder.path()).unwrap();
        let status = run.status().unwrap();
        let took = started.elapsed();
        println!("open and status, {read} read: {took:?}");
        assert_eq!((status.failed, status.left), (100_000, 0));
        assert!(read == "first" || took.as_secs_f64() < 5.0, "{took:?}");
    }
}
