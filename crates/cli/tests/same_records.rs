//! A study gives the same records with any number of workers, any cache and any number of interruptions.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{Place, STUDY, assert_same, digests, nettriage, succeeded};

#[test]
fn workers_and_cache_change_no_record() {
    let place = Place::new(STUDY);
    let plain = place.complete("plain", &["--workers", "1", "--cache", "0"]);
    let shared = place.complete("shared", &["--workers", "3"]);
    // So little memory that activations are evicted continually.
    let scarce = place.complete("scarce", &["--workers", "2", "--cache", "1"]);
    assert!(plain.len() > 200, "{} files", plain.len());
    assert_same(&plain, &shared);
    assert_same(&plain, &scarce);
}

/// A scheme of two stages that compare the ends of blocks, the first of them with a frozen prefix.
const ENDS: &str = r#"
[[scheme]]
name = "ends"
stages = [
    { loss = "distillation", train = "substitute", beta = 0.5 },
    { loss = "distillation", train = "all", alpha = 0, beta = 2 },
]
"#;

/// Each kind of reuse disabled, all disabled, activations on disk, the data set on disk, threads inside trials.
#[test]
fn reuse_changes_no_record() {
    // Mixtures of images, whose stored activations must be those of the same mixtures.
    let mixed = STUDY.replace("augment = { pad = 1 }", "augment = { pad = 1, mixup = 0.3 }");
    let place =
        Place::new(&format!("{}{ENDS}", mixed.replace("-global\"]", "-global\", \"distill-blocks\", \"ends\"]")));
    let usual = place.complete("usual", &["--workers", "2"]);
    let scratch = place.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let scratch = scratch.to_str().unwrap();
    for (name, options) in [
        ("all", &["--no-reuse", "all"][..]),
        ("prefix", &["--no-reuse", "prefix"]),
        ("evaluation", &["--no-reuse", "evaluation"]),
        ("hint", &["--no-reuse", "hint"]),
        ("activations", &["--no-reuse", "activations"]),
        ("backward", &["--no-reuse", "backward"]),
        ("solutions", &["--no-reuse", "solutions"]),
        ("disk", &["--cache", "0", "--disk-cache", "4096", "--scratch", scratch]),
        ("streamed", &["--data-memory", "0", "--scratch", scratch]),
        ("inside", &["--workers", "1", "--threads", "3"]),
        ("plain", &["--no-reuse", "all", "--cache", "0", "--workers", "1", "--threads", "2", "--data-memory", "0"]),
    ] {
        let other = place.complete(name, options);
        assert!(usual == other, "{name}");
        assert_same(&usual, &other);
    }
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0, "nothing is left behind");
}

/// Threads of the kernels have names, which Linux shows.
#[cfg(target_os = "linux")]
#[test]
fn a_trial_has_the_threads_of_the_option() {
    let place = Place::new(STUDY);
    let mut train = nettriage();
    train.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run"));
    succeeded(&train.output().unwrap());
    let mut command = place.run("run", &["--workers", "1", "--threads", "3"]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", run.id());
    let mut most = 0;
    let end = loop {
        let of_kernels = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("kernels-"))
        };
        let tasks = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
        most = most.max(tasks.map(of_kernels).filter(|&is| is).count());
        if let Some(end) = run.try_wait().unwrap() {
            break end;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(end.success() && most >= 3, "{most} threads");
}

/// The ends of all blocks decide a training that compares them, so its id says which they are; those of other trainings do not.
#[test]
fn trials_that_compare_blocks_have_ids_of_their_own_in_another_set_of_blocks() {
    let (head, _) = STUDY.split_once("[triage]").unwrap();
    let ids = |blocks: &[[&str; 3]]| {
        let schemes = "schemes = [\"global\", \"distill-blocks\"]\nreinit = []\ndrop = []\nplacebo = []\n";
        let block = |[name, first, last]: &[&str; 3]| {
            format!("[[triage.block]]\nname = \"{name}\"\nfirst = \"{first}\"\nlast = \"{last}\"\n")
        };
        let blocks: String = blocks.iter().map(block).collect();
        let place = Place::new(&format!("{head}[triage]\ninits = [\"random\"]\n{schemes}{blocks}"));
        let mut command = nettriage();
        command.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run"));
        succeeded(&command.output().unwrap());
        let plan = nettriage_records::Run::open(&place.path("run")).unwrap().plan().clone();
        let of = |scheme: &str, block: Option<&str>| {
            let same = |t: &&nettriage_records::plan::TrialSpec| t.scheme == scheme && t.block.as_deref() == block;
            plan.trials.iter().find(same).unwrap().id.clone()
        };
        [("global", Some("first")), ("distill-blocks", Some("first")), ("distill-blocks", None)].map(|(s, b)| of(s, b))
    };
    let (first, second) = (["first", "features.0", "features.5"], ["second", "features.7", "features.12"]);
    let (one, both) = (ids(&[first]), ids(&[first, second]));
    assert_eq!(one[0], both[0]);
    assert!(one[1] != both[1] && one[2] != both[2]);
    assert_eq!(ids(&[second, first])[1], both[1], "the order of the blocks decides nothing");
}

/// Activations that cannot be stored are computed again, and one note says so.
#[test]
fn a_scratch_folder_that_cannot_be_written_changes_no_record() {
    let place = Place::new(STUDY);
    let usual = place.complete("usual", &["--workers", "2"]);
    let options = ["--workers", "2", "--cache", "0", "--disk-cache", "100", "--scratch", "/nonexistent"];
    let output = place.run("nowhere", &options).output().unwrap();
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("activations cannot be stored").count(), 1, "{said}");
    assert!(said.contains("--scratch") && said.contains("/nonexistent"), "{said}");
    assert_same(&usual, &digests(&place.path("nowhere")));
}

/// The hint target of a single trial is streamed, and the look-ahead cache gets the next block's input; a target of several trials is
/// stored. The records are the same either way.
#[test]
fn a_streamed_target_equals_a_stored_one() {
    let start = STUDY.find("inits").unwrap();
    let study = |inits: &str| {
        let controls = "parent_continued = []\nplacebo = []\nreinit = []\ndrop = []\n";
        Place::new(&format!(
            "{}inits = [{inits}]\nschemes = [\"none\", \"hint\", \"local\"]\n{controls}",
            &STUDY[..start]
        ))
    };
    let (alone, several) = (study("\"random\""), study("\"random\", \"first\""));
    // One worker: the next block's trials begin when the last block's are done.
    let (alone, several) = (alone.complete("run", &["--workers", "1"]), several.complete("run", &["--workers", "2"]));
    let trials: Vec<_> = alone.iter().filter(|(name, _)| name.starts_with("trials/")).collect();
    assert!(trials.len() >= 2 * 2 * 3, "{} trials", trials.len());
    for (name, digest) in trials {
        assert_eq!(several.get(name), Some(digest), "{name}");
    }
}

/// With rounded activations the study is another one, and its records say so; where they are stored does not matter.
#[test]
fn half_precision_is_recorded() {
    let place = Place::new(&STUDY.replace("[triage]", "activations = \"f16\"\n[triage]"));
    let kept = place.complete("activations", &["--workers", "2"]);
    let plain = place.complete("plain", &["--workers", "1", "--cache", "0"]);
    let disk = place.complete("disk", &["--cache", "0", "--disk-cache", "64"]);
    let again = place.complete("again", &["--workers", "3", "--no-reuse", "activations"]);
    assert_same(&kept, &plain);
    assert_same(&kept, &disk);
    assert_same(&kept, &again);
    let unrounded = Place::new(STUDY);
    let full = unrounded.complete("full", &[]);
    let trials = |digests: &std::collections::BTreeMap<String, String>| {
        digests.keys().filter(|k| k.starts_with("trials/")).cloned().collect::<std::collections::BTreeSet<_>>()
    };
    assert!(trials(&kept).is_disjoint(&trials(&full)), "other trials with other names");
    // The parent's own trial starts from the images, so nothing of it is rounded.
    let own = |place: &Place, run: &str, digests| {
        let records = trials(digests).into_iter().map(|record| {
            let text = std::fs::read_to_string(place.path(run).join(record)).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["payload"].take()
        });
        let own = records.filter(|record| record["spec"]["role"] == "parent");
        own.map(|record| record["readings"]["test"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let exact = own(&unrounded, "full", &full);
    assert!(!exact.is_empty());
    assert_eq!(own(&place, "activations", &kept), exact);
    for record in trials(&kept) {
        let text = std::fs::read_to_string(place.path("activations").join(record)).unwrap();
        assert!(text.contains("\"activations\":\"f16\"") || text.contains("\"activations\": \"f16\""), "{text}");
    }
}

/// A study without some readings is another study, and its other readings are the same.
#[test]
fn left_out_readings_do_not_change_others() {
    let readings = |study: &str| {
        let place = Place::new(study);
        let digests = place.complete("run", &[]);
        let records = digests.keys().filter(|name| name.starts_with("trials/")).map(|name| {
            let text = std::fs::read_to_string(place.path("run").join(name)).unwrap();
            let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
            let record = record["payload"].take();
            let spec = ["role", "block", "substitute", "init", "scheme", "seed"].map(|key| &record["spec"][key]);
            (format!("{spec:?}"), (record["readings"].clone(), record["clock"]["inference"].clone()))
        });
        records.collect::<std::collections::BTreeMap<_, _>>()
    };
    let full = readings(STUDY);
    let bare = readings(&STUDY.replace("[triage]", "readings = []\n[triage]"));
    assert!(full.len() > 40 && full.values().all(|(_, inference)| !inference.is_null()));
    assert!(full.keys().eq(bare.keys()));
    for ((spec, (mut readings, _)), (bare, inference)) in full.into_iter().zip(bare.into_values()) {
        let (mut left_out, fields) = (0, readings.as_object_mut().unwrap());
        for name in ["filters", "similarity"] {
            left_out += usize::from(fields.remove(name).is_some_and(|value| !value.is_null()));
            assert!(bare.get(name).is_none_or(|value| value.is_null()), "{spec}");
        }
        assert!(left_out > 0 || spec.contains("parent"), "{spec}");
        assert!(fields.iter().all(|(name, value)| bare.get(name) == Some(value)), "{spec}");
        assert!(inference.is_null(), "{spec}");
    }
}

#[test]
fn a_run_killed_ten_times_ends_with_the_same_records() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &[]);
    for kill in 0..10u64 {
        let mut child = place.run("killed", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Delays spread over the start, the parent's training and the trials.
        std::thread::sleep(Duration::from_millis(20 + kill * kill * 17 % 400));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_same(&whole, &place.complete("killed", &[]));
}

#[test]
fn a_single_trial_gives_the_same_record_as_the_whole_run() {
    let place = Place::new(STUDY);
    let whole = place.complete("run", &[]);
    let run = place.path("run");
    for index in ["0", "7", "40"] {
        succeeded(&nettriage().args(["trial", "--index", index, "--plan"]).arg(&run).output().unwrap());
    }
    assert_same(&whole, &digests(&run));
}

#[test]
fn nothing_is_computed_twice() {
    let place = Place::new(STUDY);
    place.complete("run", &[]);
    let written = |name: &str| std::fs::metadata(place.path("run").join(name)).unwrap().modified().unwrap();
    let trials: Vec<String> = digests(&place.path("run")).into_keys().collect();
    let before: Vec<_> = trials.iter().map(|t| written(t)).collect();
    place.complete("run", &[]);
    let after: Vec<_> = trials.iter().map(|t| written(t)).collect();
    assert_eq!(before, after);
}
