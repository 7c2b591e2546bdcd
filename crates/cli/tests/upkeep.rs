//! Commands for long studies: limits, halving, merging, status.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Place, STUDY, assert_same, digests, nettriage, refused, succeeded};
use nettriage_records::Run;
use nettriage_records::plan::Role;

fn status(run: &Path) -> serde_json::Value {
    let output = nettriage().args(["status", "--json"]).arg(run).output().unwrap();
    serde_json::from_str(&succeeded(&output)).unwrap()
}

fn merge(place: &Place, from: &[&str], out: &str) -> std::process::Output {
    let mut command = nettriage();
    command.arg("merge").args(from.iter().map(|run| place.path(run))).arg("--out").arg(place.path(out));
    command.output().unwrap()
}

#[test]
fn a_run_in_several_calls_equals_a_run_in_one() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--on", "processes"]);
    for _ in 0..3 {
        place.complete("parts", &["--max-trials", "40"]);
    }
    assert_eq!(status(&place.path("parts"))["done"], 120);
    // A time limit that ends before the first trial.
    let said = place.run("parts", &["--max-time", "0.001s"]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("stopped at its limit") && said.contains("resume with"), "{said}");
    assert_eq!(status(&place.path("parts"))["done"], 120);
    assert_same(&whole, &place.complete("parts", &[]));
}

#[test]
fn merged_shards_equal_the_complete_run() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &[]);
    let trials = Run::open(&place.path("whole")).unwrap().plan().trials.len();
    place.complete("a", &["--max-trials", "1"]);
    fs::create_dir(place.path("b")).unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(place.path("a/.")).arg(place.path("b")).status();
    assert!(copied.unwrap().success());
    for (run, indices) in [("a", format!("0-{}", trials / 2)), ("b", format!("{}-{}", trials / 2, trials - 1))] {
        succeeded(&nettriage().args(["trial", "--index", &indices, "--plan"]).arg(place.path(run)).output().unwrap());
    }
    let said = succeeded(&merge(&place, &["a", "b"], "c"));
    assert!(said.contains(&format!("{trials} of {trials} trials (2 of them in several runs")), "{said}");
    assert_same(&whole, &digests(&place.path("c")));
    // Into an existing run; no trial is left.
    succeeded(&merge(&place, &["b"], "a"));
    assert_same(&whole, &digests(&place.path("a")));
    assert_same(&whole, &place.complete("c", &[]));
}

#[test]
fn runs_that_do_not_match_are_not_merged() {
    let place = Place::new(STUDY);
    place.complete("a", &["--max-trials", "2"]);
    let other = Place::new(&STUDY.replace("rate = 0.02", "rate = 0.03"));
    other.complete("b", &["--max-trials", "2"]);
    let error = refused(&merge(&place, &["a", other.path("b").to_str().unwrap()], "c"));
    assert!(error.contains("rate = 0.02") && error.contains("rate = 0.03") && error.contains("line"), "{error}");
    assert!(!place.path("c").exists());
    // The same plan, but a different result.
    place.complete("b", &["--max-trials", "2"]);
    let run = Run::open(&place.path("b")).unwrap();
    let mut record = run.records().unwrap().remove(1);
    record.readings.as_mut().unwrap().test.loss += 0.5;
    run.write(&record).unwrap();
    let error = refused(&merge(&place, &["a", "b"], "c"));
    assert!(error.contains("readings.test.loss") && error.contains(&record.spec.id), "{error}");
    assert!(!place.path("c").exists());
    // A truncated record is not merged.
    let file = place.path("b/trials").join(format!("{}.json", record.spec.id));
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = refused(&merge(&place, &["b"], "c"));
    assert!(error.contains("truncated or altered"), "{error}");
    let error = refused(&merge(&place, &["a", "nowhere"], "c"));
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn halving_skips_seeds_and_prints_it() {
    let study = STUDY.replace("seeds = 2", "seeds = 4").replace("[children]", "[halving]\n[children]");
    let place = Place::new(&study);
    let halved = place.complete("halved", &["--on", "processes"]);
    let now = status(&place.path("halved"));
    assert!(now["skipped"].as_u64().unwrap() > 0 && now["left"] == 0, "{now}");
    // The same with any executor and after any interruption.
    while status_left(&place, "parts") {
        place.complete("parts", &["--max-trials", "100", "--workers", "2"]);
    }
    assert_same(&halved, &digests(&place.path("parts")));
    // Every pair has its first seed, controls have all seeds, and records equal those of a run without halving.
    let run = Run::open(&place.path("halved")).unwrap();
    let skipped = run.halving().unwrap().unwrap().skipped;
    for spec in &run.plan().trials {
        assert!(spec.role == Role::Child && spec.seed > 0 || !skipped.contains(&spec.id), "{spec:?}");
        assert_eq!(run.has(&spec.id), !skipped.contains(&spec.id));
    }
    let page = fs::read_to_string(place.path("halved/report.html")).unwrap();
    assert!(page.contains("successive halving"), "the report says so");
}

fn status_left(place: &Place, run: &str) -> bool {
    !place.path(run).join("plan.json").exists() || status(&place.path(run))["left"] != 0
}

#[test]
fn a_dry_run_estimates_and_writes_nothing() {
    let place = Place::new(STUDY);
    let said = succeeded(&place.run("run", &["--dry-run"]).output().unwrap());
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("estimate, from a short measurement: ") && last.contains("MiB"), "{last}");
    assert!(!place.path("run").exists());
    let output = place.run("run", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let check = said.lines().find(|line| line.starts_with("estimated ")).expect("the estimate is checked");
    assert!(check.contains("it took "), "{check}");
}

#[test]
fn a_json_log_has_one_object_per_line() {
    let place = Place::new(STUDY);
    let output = place.run("run", &["--log-format", "json"]).output().unwrap();
    succeeded(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    let events: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    let trials = Run::open(&place.path("run")).unwrap().plan().trials.len();
    assert_eq!((of("begun"), of("ended"), of("trials")), (trials, trials, 1));
    assert!(of("parent") > 0 && of("note") > 0);
    let last = events.iter().rfind(|event| event["event"] == "ended").unwrap();
    assert_eq!(last["done"], trials);
}

#[test]
fn a_watched_run_is_reported_until_its_end() {
    let place = Place::new(STUDY);
    place.complete("run", &["--max-trials", "1"]);
    let watch =
        nettriage().args(["status", "--watch"]).arg(place.path("run")).stdout(std::process::Stdio::piped()).spawn();
    place.complete("run", &[]);
    let output = watch.unwrap().wait_with_output().unwrap();
    let said = succeeded(&output);
    let trials = Run::open(&place.path("run")).unwrap().plan().trials.len();
    assert!(said.starts_with(&format!("1 of {trials} trials ended")), "{said}");
    assert!(said.lines().last().unwrap().starts_with(&format!("{trials} of {trials} trials ended")), "{said}");
}

#[test]
fn bad_arguments_are_refused_in_one_line() {
    let place = Place::new(STUDY);
    place.complete("run", &["--max-trials", "1"]);
    let run = place.path("run");
    let nowhere = place.path("nowhere");
    for words in [["retry"], ["gc"], ["serve"]] {
        let error = refused(&nettriage().args(words).arg(&nowhere).output().unwrap());
        assert!(error.contains("nowhere"), "{error}");
    }
    let error = refused(&nettriage().arg("retry").arg(&run).args(["--trial", "xyz"]).output().unwrap());
    assert!(error.contains("xyz") && error.contains("no trial of this id"), "{error}");
    for index in ["999999", "3-1", "x", ""] {
        let error = refused(&nettriage().args(["trial", "--index", index, "--plan"]).arg(&run).output().unwrap());
        assert!(error.contains("--index"), "{error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = refused(&nettriage().arg("serve").arg(&run).args(["--port", &port]).output().unwrap());
    assert!(error.contains(&port) && error.contains("--port"), "{error}");
    let slurm = place.run("run", &["--on", "slurm"]).env("PATH", "/nowhere").output().unwrap();
    let error = refused(&slurm);
    assert!(error.contains("needs Slurm's commands"), "{error}");
    // Errors of the command line itself.
    for words in [&["--max-time", "90"][..], &["--max-trials", "0"], &["--on", "cloud"], &["--retries", "many"]] {
        let output = place.run("run", words).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words[0]), "{said}");
    }
}

#[test]
fn the_estimate_of_memory_counts_least_squares() {
    let (head, _) = STUDY.split_once("[triage]").unwrap();
    let controls = "parent_continued = []\nplacebo = []\nreinit = []\ndrop = []\n";
    let study = format!("{head}[triage]\ninits = [\"least-squares\"]\nschemes = [\"none\"]\n{controls}");
    // The last block's input has 256 channels: normal equations of 2,305 unknowns.
    let place = Place::new(&study.replace("plan = [[6, 6], [8, 8]]", "plan = [[6, 6], [256, 256], [32, 32]]"));
    let output = place.run("run", &["--workers", "1", "--cache", "0"]).output().unwrap();
    // It has fewer rows than unknowns, and is solved all the same.
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.contains("; it took ")).unwrap();
    let mebibytes = |part: &str| -> f64 {
        let (_, bytes) = part.split_once(" and ").unwrap();
        let number: f64 = bytes.split_whitespace().next().unwrap().replace(',', "").parse().unwrap();
        number * if bytes.contains("GiB") { 1024.0 } else { 1.0 }
    };
    let (estimated, took) = line.split_once("; it took ").unwrap();
    let ratio = mebibytes(estimated) / mebibytes(took);
    assert!((0.7..1.5).contains(&ratio), "{line}");
}

#[test]
fn the_outputs_of_a_report_are_checked_before_it_is_made() {
    let place = Place::new(STUDY);
    succeeded(&place.run("run", &["--max-trials", "1"]).output().unwrap());
    let report = |more: &[&str]| {
        let mut command = nettriage();
        command.arg("report").arg(place.path("run")).args(more).current_dir(place.folder.path()).output().unwrap()
    };
    std::fs::write(place.path("file"), "mine").unwrap();
    assert!(refused(&report(&["--tensorboard", "file"])).contains("is a file, not a folder"));
    assert!(refused(&report(&["--tensorboard", "run/trials"])).contains("belongs to the run"));
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"mine");
    succeeded(&report(&["--tensorboard", "events/new"]));
    std::fs::remove_file(place.path("run/report.html")).unwrap();
    std::fs::create_dir(place.path("run/report.html")).unwrap();
    assert!(refused(&report(&[])).contains("report.html: is a folder"));
    assert!(refused(&place.run("run", &[]).output().unwrap()).contains("report.html: is a folder"));
}

#[test]
fn notes_of_worker_processes_reach_the_user_once() {
    let place = Place::new(STUDY);
    let more =
        ["--on", "processes", "--workers", "2", "--cache", "0", "--disk-cache", "100", "--scratch", "/nowhere/at/all"];
    let output = place.run("run", &more).output().unwrap();
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("activations cannot be stored").count(), 1, "{said}");
}

#[test]
fn a_sample_of_trials_keeps_its_networks() {
    let whole = Place::new(STUDY);
    let all = whole.complete("run", &[]);
    let sampled = Place::new(&STUDY.replace("keep = \"network\"", "keep = \"nothing\"\nkeep_sample = 7"));
    let sample = sampled.complete("run", &[]);
    assert_same(&sample, &sampled.complete("other", &["--on", "processes"]));
    let networks = |found: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        found
            .iter()
            .filter(|(name, _)| name.starts_with("weights/child-"))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect()
    };
    let kept = networks(&sample);
    // A trial that diverged would have none; here none does.
    assert_eq!(kept.len(), 7);
    assert!(networks(&all).len() > 100 && kept.iter().all(|(name, bytes)| all[name] == *bytes));
    // Not the first ones of the plan, and the same records under the same ids.
    let run = Run::open(&sampled.path("run")).unwrap();
    let first: Vec<String> =
        run.plan().trials[..7].iter().map(|t| format!("weights/child-{}.safetensors", t.id)).collect();
    assert!(!first.iter().all(|name| kept.contains_key(name)));
    for (name, digest) in sample.iter().filter(|(name, _)| !name.starts_with("weights/")) {
        assert_eq!(all[name], *digest, "{name}");
    }
}
