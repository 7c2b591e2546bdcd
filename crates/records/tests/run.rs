//! A run's folder: writing, reading, damaged files, other versions.

use std::fs;
use std::path::Path;

use nettriage_records::plan::*;
use nettriage_records::record::*;
use nettriage_records::{Error, Run, SampleImages, content_id, digest, merge};

fn plan() -> Plan {
    let parent = content_id(&"parent");
    let trial = |seed: u64, role, block: Option<&str>| TrialSpec {
        id: content_id(&(seed, role, block)),
        role,
        parent: parent.clone(),
        block: block.map(str::to_owned),
        substitute: block.map(|_| "conv3x3".to_owned()),
        init: block.map(|_| "random".to_owned()),
        scheme: "global".to_owned(),
        budget: None,
        seed,
    };
    Plan {
        engine: None,
        version: VERSION,
        name: "tiny".into(),
        study: "name = \"tiny\"\nseeds = 2\n".into(),
        data: DataSummary {
            name: "digits".into(),
            checksum: "0".into(),
            classes: vec!["0".into(), "1".into()],
            shape: [1, 8, 8],
            mean: vec![0.5],
            std: vec![0.25],
            train: 10,
            validation: 4,
            test: 8,
        },
        budgets: vec![BudgetSummary { name: "20 images".into(), images: 20 }],
        layers: vec![],
        blocks: vec![],
        schemes: vec![],
        parents: vec![ParentSpec { id: parent.clone(), seed: 1 }],
        trials: (0..2)
            .flat_map(|seed| [trial(seed, Role::Child, Some("block2")), trial(seed, Role::ParentContinued, None)])
            .collect(),
        margin: 0.01,
        metric: None,
        range_tests: vec![],
    }
}

fn evaluation(top1: f64) -> Evaluation {
    Evaluation {
        images: 8,
        correct: (8.0 * top1) as u64,
        top1,
        top5: 1.0,
        loss: 0.1 + 0.2,
        calibration_error: 1.0 / 3.0,
        agreement: 0.9,
        per_class: vec![0.5, 0.75],
    }
}

fn record(spec: &TrialSpec, finished: f64) -> Record {
    let test = evaluation(0.625);
    let readings = Readings {
        before: evaluation(0.5),
        validation: evaluation(0.75),
        best: Best { examples: 20, validation_top1: 0.75, test: test.clone() },
        test,
        curve: vec![CurvePoint {
            examples: 0,
            stage: 0,
            train_loss: None,
            validation_top1: 0.5,
            validation_loss: 1e-9,
        }],
        recovered_at: None,
        cost: Cost { parameters: 7, macs: 70 },
        filters: Some(Filters {
            shape: [2, 1, 3, 3],
            norms_before: vec![0.1, 1e-20],
            norms: vec![1.0 / 3.0, 16_777_216.0],
            dead: 0,
            effective_rank: 1.9999999999999998,
            images: FilterImages { filters: 0, channels: 0, kernel: [3, 3], before: "".into(), after: "".into() },
            patches: vec![vec![Patch { image: 3, top: 0, left: 1, height: 5, width: 4, value: 0.1 }], vec![]],
        }),
        test_correct: "6A==".into(),
        similarity: Some(Similarity {
            images: 64,
            batch: 32,
            layers: vec![LayerSimilarity { layer: "relu".into(), before: None, after: Some(1.0 / 3.0) }],
        }),
        activations: None,
    };
    let clock = Clock { train_seconds: 1.0, seconds: 2.0, inference: None, finished, machine: Some(machine()) };
    Record {
        version: VERSION,
        spec: spec.clone(),
        outcome: Outcome::Done,
        readings: Some(readings),
        measured: None,
        clock,
    }
}

fn machine() -> Machine {
    Machine {
        processor: "A processor".into(),
        cores: 2,
        instructions: "avx2".into(),
        system: "linux".into(),
        device: None,
        program: "nettriage 0.1.0".into(),
    }
}

#[test]
fn sample_images_and_records_of_older_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    assert_eq!(run.sample_images().unwrap(), None);
    let images = || SampleImages {
        version: VERSION,
        shape: [1, 2, 1],
        validation: SampleImages::encode(&[1, 2]),
        test: SampleImages::encode(&[3, 4, 5, 6]),
        labels: vec![0, 1],
    };
    run.write_sample_images(images).unwrap();
    run.write_sample_images(|| panic!("they exist")).unwrap();
    let read = run.sample_images().unwrap().unwrap();
    assert_eq!((read.validation(), read.test(), read.size()), (vec![1, 2], vec![3, 4, 5, 6], 2));
    // A record without machine, similarity and patches, as older versions wrote it.
    let mut old = serde_json::to_value(record(&plan.trials[0], 1.0)).unwrap();
    old["clock"].as_object_mut().unwrap().remove("machine");
    old["readings"].as_object_mut().unwrap().remove("similarity");
    old["readings"]["filters"].as_object_mut().unwrap().remove("patches");
    let old: Record = serde_json::from_value(old).unwrap();
    assert_eq!((old.clock.machine, old.readings.unwrap().similarity), (None, None));
}

fn parent_record(plan: &Plan) -> ParentRecord {
    ParentRecord {
        validation_seen: None,
        version: VERSION,
        id: plan.parents[0].id.clone(),
        seed: 1,
        validation: evaluation(0.75),
        test: evaluation(0.75),
        test_correct: "6A==".into(),
        curve: vec![],
        cost: Cost::default(),
        clock: Clock { finished: 50.0, ..Clock::default() },
    }
}

fn trial_file(folder: &Path, record: &Record) -> std::path::PathBuf {
    folder.join("trials").join(format!("{}.json", record.spec.id))
}

#[test]
fn written_records_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    // Written in reverse order, read in plan order.
    let records: Vec<Record> = plan.trials.iter().map(|spec| record(spec, 100.0)).collect();
    for record in records.iter().rev() {
        run.write(record).unwrap();
    }
    run.write_parent(&parent_record(&plan)).unwrap();
    let again = Run::open(folder.path()).unwrap();
    assert_eq!(again.plan(), &plan);
    assert_eq!(again.records().unwrap(), records);
    assert_eq!(again.parents().unwrap(), vec![parent_record(&plan)]);
    // The file of a record is one JSON object for other programs.
    let text = fs::read_to_string(trial_file(folder.path(), &records[0])).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["payload"]["readings"]["test"]["top1"], 0.625);
    assert_eq!(value["digest"], digest(&records[0]));
    // Opening the same plan again keeps the records.
    assert_eq!(Run::create(folder.path(), &plan).unwrap().records().unwrap().len(), 4);
}

#[test]
fn the_digest_excludes_timings_and_nothing_else() {
    let plan = plan();
    let one = record(&plan.trials[0], 1.0);
    let later = record(&plan.trials[0], 2.0);
    assert_eq!(digest(&one), digest(&later));
    let mut other = one.clone();
    other.readings.as_mut().unwrap().test.loss = f64::from_bits(one.readings.unwrap().test.loss.to_bits() + 1);
    assert_ne!(digest(&other), digest(&later));
}

#[test]
fn another_plan_is_refused_and_the_difference_named() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    Run::create(folder.path(), &plan).unwrap();
    let message = |change: &dyn Fn(&mut Plan)| {
        let mut other = plan.clone();
        change(&mut other);
        let error = Run::create(folder.path(), &other).unwrap_err();
        assert!(matches!(error, Error::OtherPlan { .. }));
        error.to_string()
    };
    assert!(message(&|plan| plan.data.checksum = "1".into()).contains("data.checksum (`\"0\"` there, `\"1\"` here)"));
    assert!(message(&|plan| plan.trials[1].seed = 9).contains("trials[1].seed (`0` there, `9` here)"));
    assert!(message(&|plan| plan.study = "name = \"tiny\"\nseeds = 3\n".into()).contains("line 2 of the study file"));
    let longer = message(&|plan| plan.parents.push(ParentSpec { id: "b".into(), seed: 2 }));
    assert!(longer.contains("parents (1 there, 2 here)"), "{longer}");
}

#[test]
fn truncated_and_altered_records_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let record = record(&plan.trials[0], 100.0);
    run.write(&record).unwrap();
    let path = trial_file(folder.path(), &record);
    let whole = fs::read(&path).unwrap();
    let aside = path.with_extension("json.corrupt");
    // Truncated at every length.
    for length in 0..whole.len() - 1 {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(run.record(&record.spec.id).unwrap(), None, "at {length}");
        assert!(!path.exists());
        fs::remove_file(&aside).unwrap();
    }
    // Every alphanumeric byte of header and payload altered (the JSON stays valid). The version is excluded, since another
    // version is an error.
    let start = b"{\"version\":2,".len();
    for i in (start..whole.len() - 2).filter(|&i| whole[i].is_ascii_alphanumeric()) {
        let mut bytes = whole.clone();
        bytes[i] = if bytes[i] == b'7' { b'3' } else { b'7' };
        fs::write(&path, &bytes).unwrap();
        assert_eq!(run.record(&record.spec.id).unwrap(), None, "at {i}");
    }
    let aside = fs::read_dir(folder.path().join("trials")).unwrap();
    assert!(aside.flatten().any(|entry| { entry.file_name().to_string_lossy().ends_with(".json.corrupt") }));
    // The trial counts as left, and can be repeated.
    assert_eq!(run.status().unwrap().left, 4);
    run.write(&record).unwrap();
    assert_eq!(run.record(&record.spec.id).unwrap(), Some(record));
}

#[test]
fn a_record_under_the_name_of_another_trial_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let first = record(&plan.trials[0], 100.0);
    run.write(&first).unwrap();
    let second = record(&plan.trials[1], 100.0);
    fs::copy(trial_file(folder.path(), &first), trial_file(folder.path(), &second)).unwrap();
    assert_eq!(run.status().unwrap().done, 1);
    assert_eq!(run.record(&second.spec.id).unwrap(), None);
}

#[test]
fn other_versions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let record = record(&plan.trials[0], 100.0);
    run.write(&record).unwrap();
    for path in [trial_file(folder.path(), &record), folder.path().join("plan.json")] {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("{\"version\":2,", "{\"version\":3,", 1)).unwrap();
    }
    for error in
        [run.record(&record.spec.id).unwrap_err(), run.status().unwrap_err(), Run::open(folder.path()).unwrap_err()]
    {
        assert!(error.to_string().contains("file version 3, this program reads 2"), "{error}");
    }
}

#[test]
fn records_that_are_not_in_the_plan_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let good = record(&plan.trials[0], 100.0);
    let mut foreign = good.clone();
    foreign.spec.seed = 77;
    assert!(run.write(&foreign).unwrap_err().to_string().contains("differs from the plan"));
    foreign.spec.id = "77".into();
    assert!(run.write(&foreign).unwrap_err().to_string().contains("not in the plan"));
    let mut infinite = good.clone();
    infinite.readings.as_mut().unwrap().validation.loss = f64::INFINITY;
    assert!(run.write(&infinite).unwrap_err().to_string().contains("not finite"));
    assert!(fs::read_dir(folder.path().join("trials")).unwrap().next().is_none());
    let mut hostile = plan.clone();
    hostile.trials[0].id = "../../escape".into();
    assert!(matches!(Run::create(folder.path(), &hostile), Err(Error::Id { .. })));
    hostile.trials[0].id = plan.trials[1].id.clone();
    assert!(matches!(Run::create(folder.path(), &hostile), Err(Error::Id { .. })));
    assert!(matches!(run.record("../plan"), Err(Error::Id { .. })));
    assert!(matches!(Run::open(&folder.path().join("nowhere")), Err(Error::NoRun { .. })));
}

#[test]
fn status_counts_every_trial_once() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    assert_eq!((run.status().unwrap().left, run.status().unwrap().parents_done), (4, 0));
    run.write_parent(&parent_record(&plan)).unwrap();
    run.write(&record(&plan.trials[0], 100.0)).unwrap();
    let mut diverged = record(&plan.trials[1], 110.0);
    diverged.outcome = Outcome::Diverged { examples: 12, reason: None };
    run.write(&diverged).unwrap();
    let mut failed = record(&plan.trials[2], 120.0);
    failed.outcome = Outcome::Failed { reason: "out of memory".into() };
    failed.readings = None;
    run.write(&failed).unwrap();
    let marker = run.begin(&plan.trials[3].id).unwrap();
    // The marker of a killed process is not locked.
    fs::write(folder.path().join("running").join(&plan.trials[0].id), "").unwrap();
    let status = run.status().unwrap();
    assert_eq!((status.done, status.diverged, status.failed, status.running, status.left), (1, 1, 1, 1, 0));
    assert_eq!((status.trials, status.parents, status.parents_done, status.runner), (4, 1, 1, None));
    // The first trial began at 98. There is no session, since no process has taken the lock.
    assert_eq!(status.trials_seconds, 22.0);
    drop(marker);
    let status = run.status().unwrap();
    assert_eq!((status.running, status.left), (0, 1));
}

/// Writes the record of a trial with weights of its child, and returns the path of the weights.
fn write_with_weights(run: &Run, record: &Record) -> std::path::PathBuf {
    let path = run.child_weights_path(&record.spec.id);
    fs::write(&path, b"weights").unwrap();
    run.write(record).unwrap();
    path
}

#[test]
fn altered_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let record = record(&plan.trials[0], 100.0);
    let id = &record.spec.id;
    assert_eq!(run.child_weights(id).unwrap(), None);
    let path = write_with_weights(&run, &record);
    assert_eq!(run.child_weights(id).unwrap().unwrap(), b"weights");
    assert_eq!(run.record(id).unwrap().unwrap(), record);
    assert_eq!(run.status().unwrap().done, 1);
    let text = fs::read_to_string(trial_file(folder.path(), &record)).unwrap();
    assert!(text.lines().next().unwrap().contains(&format!("child-{id}.safetensors")));
    fs::write(&path, b"Weights").unwrap();
    let error = run.child_weights(id).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("child-") && error.contains("trials/") && !error.contains('\n'), "{error}");

    // A merge neither copies nor accepts them.
    let other = tempfile::tempdir().unwrap();
    let target = tempfile::tempdir().unwrap();
    let healthy = Run::create(other.path(), &plan).unwrap();
    write_with_weights(&healthy, &record);
    let error = merge(&[healthy, run], target.path()).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }), "{error}");

    // An altered key of the checksums in the header is not accepted either.
    let run = Run::open(other.path()).unwrap();
    let file = trial_file(other.path(), &record);
    fs::write(&file, fs::read_to_string(&file).unwrap().replacen("\"weights\":", "\"weightz\":", 1)).unwrap();
    assert_eq!(run.record(id).unwrap(), None);
}

#[test]
fn records_without_checksums_of_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    // As versions wrote it that did not record checksums: the weights came without one.
    let record = record(&plan.trials[0], 100.0);
    run.write(&record).unwrap();
    let text = fs::read_to_string(trial_file(folder.path(), &record)).unwrap();
    assert!(!text.lines().next().unwrap().contains("weights"));
    fs::write(run.child_weights_path(&record.spec.id), b"weights").unwrap();
    assert_eq!(run.child_weights(&record.spec.id).unwrap().unwrap(), b"weights");
    assert_eq!(run.record(&record.spec.id).unwrap(), Some(record));
}

#[cfg(unix)]
#[test]
fn only_own_files_are_swept_and_nothing_behind_links() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = Run::create(folder.path(), &plan).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let make = |path: &Path| {
        let file = fs::File::create(path).unwrap();
        file.set_modified(old).unwrap();
    };
    let id = &plan.trials[0].id;
    let own = format!(".{id}.json.12.0.tmp");
    let weights = format!("child-{id}.safetensors.12-0.tmp");
    make(&folder.path().join("trials").join(&own));
    make(&folder.path().join("trials/notes.tmp"));
    // The folder of weights is a link to a folder that has both.
    fs::remove_dir(folder.path().join("weights")).unwrap();
    symlink(elsewhere.path(), folder.path().join("weights")).unwrap();
    make(&elsewhere.path().join(&weights));
    make(&elsewhere.path().join("my-model.safetensors"));
    symlink(elsewhere.path().join(&weights), folder.path().join("parents").join(format!(".{id}.json.1.1.tmp")))
        .unwrap();
    let garbage: Vec<_> = run.garbage().unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(garbage, [folder.path().join("trials").join(&own)]);
    drop(run.lock().unwrap());
    assert!(!folder.path().join("trials").join(&own).exists());
    assert!(folder.path().join("trials/notes.tmp").exists());
    assert!(elsewhere.path().join(&weights).exists() && elsewhere.path().join("my-model.safetensors").exists());
}

#[test]
fn files_of_a_run_are_known() {
    let folder = tempfile::tempdir().unwrap();
    Run::create(folder.path(), &plan()).unwrap();
    for name in ["plan.json", "trials/x.json", "weights/new", "run.lock", "pictures.json"] {
        assert!(nettriage_records::is_file_of(folder.path(), &folder.path().join(name)), "{name}");
    }
    for name in ["report.html", "mine/plan.json", "../plan.json"] {
        assert!(!nettriage_records::is_file_of(folder.path(), &folder.path().join(name)), "{name}");
    }
}

#[test]
fn range_tests_are_stored_checked_and_merged() {
    let id = "00000000000000ee";
    let spec = RangeTestSpec { id: id.into(), of: Trainings::Children };
    let plan = Plan { range_tests: vec![spec], ..plan() };
    let test = |rate: f64| RangeTest {
        version: VERSION,
        id: id.into(),
        of: Trainings::Children,
        rate,
        rule: "a tenth".into(),
        rates: vec![0.1, 0.2],
        losses: vec![1.0, 0.1 + 0.2],
        smoothed: vec![1.0, 0.5],
        edge: 1,
        chance: 2.3,
        clock: Clock::default(),
    };
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [one, other] = [0, 1].map(|n: usize| Run::create(folders[n].path(), &plan).unwrap());
    assert_eq!(one.range_test(id).unwrap(), None);
    one.write_range_test(&test(0.02)).unwrap();
    assert_eq!(one.range_tests().unwrap(), [test(0.02)]);
    assert_eq!(one.status().unwrap().rates[&Trainings::Children], 0.02);
    assert!(one.garbage().unwrap().is_empty());
    let foreign = RangeTest { of: Trainings::Parents, ..test(0.02) };
    assert!(one.write_range_test(&foreign).is_err());
    // Two machines that round differently may find different rates, and their children must not be mixed.
    other.write_range_test(&test(0.03)).unwrap();
    let out = folders[2].path();
    let runs = || [0, 1].map(|n: usize| Run::open(folders[n].path()).unwrap());
    let error = merge(&runs(), out).unwrap_err().to_string();
    assert!(error.contains(&format!("rates/{id}.json differs in rate (`0.02` there, `0.03` here)")), "{error}");
    other.write_range_test(&test(0.02)).unwrap();
    let (merged, _) = merge(&runs(), out).unwrap();
    assert_eq!(merged.range_tests().unwrap(), [test(0.02)]);
    // One that is altered is set aside.
    let path = folders[0].path().join("rates").join(format!("{id}.json"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"rate\":0.02", "\"rate\":0.05")).unwrap();
    assert_eq!(one.range_test(id).unwrap(), None);
    let garbage = one.garbage().unwrap();
    assert_eq!((garbage.len(), garbage[0].why), (1, "truncated or altered"));
}
