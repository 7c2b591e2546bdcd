//! Checkpoints: a process that is killed in the middle of a training continues it, and the records and weights are those of a run
//! that nothing interrupted, to the bit.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::faults::{Disk, Moments, kill, spawn_silent, until};
use common::{Place, assert_same, digests, nettriage, refused, succeeded};
use nettriage_records::Run;

/// One parent and three trials. One trial trains in two stages; each training has more than a thousand steps.
const STUDY: &str = r#"
name = "long"
[data]
name = "digits"
validation = 100
train = 300
test = 100
augment = { pad = 1, crop = 0.8, jitter = 0.1, cutout = 2, mixup = 0.2 }
[parent]
arch = "vgg"
plan = [[12, 12], [16, 16]]
[parent.training]
epochs = 240
batch = 16
rate = 0.02
recipe = { warmup = 0.1, label_smoothing = 0.1, decay_all = false, average = 0.9 }
[children]
seeds = 1
images = 72000
batch = 16
rate = 0.02
recipe = { average = 0.9 }
curve = 5
calibration = 100
keep = "network"
optimizer = { adam-w = { betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.01 } }
[triage]
inits = ["random"]
schemes = ["hint-then-distill", "distill-blocks"]
parent_continued = []
placebo = []
reinit = []
drop = []
[[triage.block]]
name = "second"
first = "features.7"
last = "features.12"
"#;

/// Often enough that most kills fall between two checkpoints of a training.
const OFTEN: [&str; 2] = ["--checkpoint", "0.03s"];

/// The checkpoints of a run.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "bin")).collect()
}

/// The only checkpoint of a run, and whether it is that of a trial and not of the parent.
fn inside(run: &Path) -> Option<(PathBuf, bool)> {
    let path = checkpoints(run).pop()?;
    let parent = Run::open(run).ok()?.plan().parents[0].id.clone();
    let of_trial = path.file_stem()? != parent.as_str();
    Some((path, of_trial))
}

#[test]
fn a_run_killed_inside_its_trainings_gives_the_same_records() {
    let mut moments = Moments::new("inside");
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    assert_same(&whole, &place.complete("saved", &OFTEN));
    assert!(checkpoints(&place.path("saved")).is_empty(), "removed with the records");
    for on in ["local", "processes"] {
        let (mut kills, mut round) = ([0, 0], 0);
        while kills[0] + kills[1] < 50 || kills.contains(&0) {
            let out = format!("{on}{round}");
            // Longer from kill to kill, so that a machine on which a process takes 0.7 s to its first step gets to the end.
            for number in 0.. {
                let mut run = spawn_silent(place.run(&out, &["--on", on, "--workers", "1"]).args(OFTEN));
                moments.wait(150, 700 + 10 * number);
                if run.try_wait().unwrap().is_some() {
                    break;
                }
                run.kill().unwrap();
                run.wait().unwrap();
                if let Some((_, of_trial)) = inside(&place.path(&out)) {
                    kills[usize::from(of_trial)] += 1;
                }
            }
            assert_same(&whole, &place.complete(&out, &["--on", on]));
            round += 1;
        }
        println!("{on}: killed inside the parent's training {} times, inside trials {} times", kills[0], kills[1]);
    }
}

#[test]
fn a_task_saves_its_training_on_sigterm() {
    let mut moments = Moments::new("told");
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    let run = place.path("run");
    succeeded(&nettriage().arg("train").arg(place.path("study.toml")).arg("--out").arg(&run).output().unwrap());
    let (mut stops, mut finished) = (0, false);
    for round in 0..200 {
        // As a Slurm task runs it, with an interval that never comes.
        let mut task = nettriage();
        task.args(["trial", "--missing", "--index", "0-2", "--checkpoint", "1h", "--plan"]).arg(&run);
        let task = task.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Longer from round to round: where the work before the first step takes 0.4 s, a task would never get to one.
        moments.wait(100, 400 + 20 * round);
        let _ = Command::new("kill").args(["-TERM", &task.id().to_string()]).stderr(Stdio::null()).status();
        let output = task.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("is stopped and saved") {
            assert!(output.status.success(), "{said}");
            assert_eq!(checkpoints(&run).len(), 1);
            stops += 1;
        } else if output.status.success() && !said.contains("the time is over") {
            finished = true;
            break;
        }
    }
    assert!(finished && stops > 1, "{finished} {stops}");
    assert_same(&whole, &digests(&run));
}

#[test]
fn ctrl_c_saves_what_is_in_training() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    // Without a signal there would be no checkpoint within the day.
    let mut run = place.run("run", &["--workers", "1", "--checkpoint", "1d"]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the parent", || fs::read_dir(place.path("run/parents")).is_ok_and(|entries| entries.count() == 1));
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").arg("-INT").arg(run.id().to_string()).status().unwrap().success());
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("stopped: ") && last.contains("1 training continues where it was"), "{said}");
    assert_eq!(checkpoints(&place.path("run")).len(), 1);
    assert_same(&whole, &place.complete("run", &[]));
}

#[test]
fn a_time_limit_stops_inside_a_training_and_the_next_run_continues_it() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    for on in ["local", "processes"] {
        let (mut stops, mut complete) = (0, false);
        for round in 0..200 {
            // Longer from round to round: where the work before the first step takes as long, a run would never get to one.
            let limit = format!("{:.2}s", 0.4 + 0.02 * f64::from(round));
            let output = place.run(on, &["--on", on, "--workers", "2", "--max-time", &limit]).output().unwrap();
            succeeded(&output);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            complete = !said.contains("stopped at its limit");
            if !checkpoints(&place.path(on)).is_empty() {
                assert!(said.contains("where"), "{said}");
                stops += 1;
            }
            if complete {
                break;
            }
        }
        assert!(complete && stops > 1, "{on}: {complete} {stops}");
        assert_same(&whole, &digests(&place.path(on)));
    }
}

/// A run that was killed inside the training of its parent or of a trial, and its only checkpoint.
fn interrupted(place: &Place, out: &str, inside_trial: bool) -> PathBuf {
    let run = place.path(out);
    for _ in 0..100 {
        let mut process = spawn_silent(place.run(out, &["--workers", "1"]).args(OFTEN));
        let there = || inside(&run).filter(|(_, of_trial)| *of_trial == inside_trial).map(|(path, _)| path);
        until("a checkpoint", || there().is_some() || process.try_wait().unwrap().is_some());
        let _ = process.kill();
        process.wait().unwrap();
        if let Some(path) = there() {
            return path;
        }
        let _ = fs::remove_dir_all(&run);
    }
    panic!("never killed inside the training");
}

#[test]
fn torn_and_altered_checkpoints_are_set_aside_and_said() {
    let mut moments = Moments::new("torn");
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    for (number, on) in ["local", "processes", "local", "local", "processes", "local"].into_iter().enumerate() {
        let out = format!("run{number}");
        let path = interrupted(&place, &out, number % 3 > 0);
        let mut bytes = fs::read(&path).unwrap();
        let at = moments.below(bytes.len() as u64) as usize;
        match number {
            5 => {
                // A whole checkpoint of another training.
                let other = interrupted(&place, "other", false);
                bytes = fs::read(other).unwrap();
            }
            n if n % 2 == 0 => bytes.truncate(at),
            _ => bytes[at] ^= 1,
        }
        fs::write(&path, bytes).unwrap();
        let output = place.run(&out, &["--on", on]).output().unwrap();
        succeeded(&output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let name = format!("{}.corrupt", path.display());
        assert!(said.contains(&name) && said.contains("the training starts again"), "{said}");
        assert_same(&whole, &digests(&place.path(&out)));
        let gone = succeeded(&nettriage().arg("gc").arg("--yes").arg(place.path(&out)).output().unwrap());
        assert!(gone.contains("removed 1 file"), "{gone}");
    }
}

#[test]
fn a_checkpoint_of_another_version_is_refused_with_the_way_out() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    for (out, inside_trial) in [("parent", false), ("trial", true)] {
        let path = interrupted(&place, out, inside_trial);
        let bytes = fs::read(&path).unwrap();
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        let header = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let other =
            header.replacen(&format!("\"program\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"program\":\"99.0.0\"", 1);
        assert_ne!(header, other);
        fs::write(&path, [other.as_bytes(), &bytes[end..]].concat()).unwrap();
        for on in ["local", "processes"] {
            let error = refused(&place.run(out, &["--on", on]).output().unwrap());
            assert!(error.contains("a checkpoint of another version of nettriage (nettriage 99.0.0"), "{error}");
            assert!(error.contains("or remove the file to begin this training again"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert_same(&whole, &place.complete(out, &[]));
    }
}

#[test]
fn a_full_disk_stops_no_training() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    for on in ["local", "processes"] {
        let run = place.path(on);
        fs::create_dir(&run).unwrap();
        let at = run.join("checkpoints");
        let Some(_disk) = Disk::mount(&at, "size=16k", "a_full_disk_stops_no_training") else {
            return;
        };
        let output = place.run(on, &["--on", on, "--workers", "1"]).args(OFTEN).output().unwrap();
        succeeded(&output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let notes = said.matches("a checkpoint could not be written (no space left for ").count();
        // Once in each process that trains.
        assert_eq!(notes, if on == "local" { 1 } else { 2 }, "{said}");
        assert_same(&whole, &digests(&run));
    }
}

#[test]
fn status_counts_checkpoints_and_gc_lists_those_that_nothing_needs() {
    let place = Place::new(STUDY);
    let path = interrupted(&place, "run", true);
    let run = place.path("run");
    let status = || succeeded(&nettriage().args(["status", "--json"]).arg(&run).output().unwrap());
    let saved = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["checkpoints"].as_u64();
    assert_eq!(saved(&status()), Some(1));
    let words = succeeded(&nettriage().arg("status").arg(&run).output().unwrap());
    assert!(words.contains("saved    1 training"), "{words}");
    let gc = || succeeded(&nettriage().arg("gc").arg(&run).output().unwrap());
    assert!(!gc().contains(".bin"), "a checkpoint that a training continues from is kept");
    let bytes = fs::read(&path).unwrap();
    place.complete("run", &[]);
    assert_eq!(saved(&status()), Some(0));
    // A process that is killed between record and removal leaves it.
    fs::write(&path, bytes).unwrap();
    assert_eq!(saved(&status()), Some(0));
    assert!(gc().contains(".bin"), "{}", gc());
}

#[test]
fn a_training_that_workers_die_in_more_often_than_it_is_retried_ends() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    let options = ["--on", "processes", "--workers", "1", "--retries", "2"];
    let mut run = spawn_silent(place.run("run", &options).args(OFTEN));
    // How often the worker was killed in each training, each time with a checkpoint further than the one before.
    let mut kills = std::collections::BTreeMap::new();
    let mut last = None;
    while run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
        let Some((path, true)) = inside(&place.path("run")) else { continue };
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let state = Run::open(&place.path("run")).unwrap().checkpoints().state(&id);
        let at = state.map(|state| (id.clone(), state.stage, state.step));
        if at.is_some() && at != last && kills.get(&id).is_none_or(|kills| *kills < 6) {
            last = at;
            let killed = common::faults::children(run.id()).into_iter().filter(|&worker| kill(worker)).count();
            *kills.entry(id).or_insert(0) += killed;
        }
    }
    assert!(run.wait().unwrap().success(), "{kills:?}");
    assert!(kills.values().any(|kills| *kills > 3), "{kills:?}");
    assert_same(&whole, &digests(&place.path("run")));
}

#[test]
fn a_prescription_killed_twenty_times_ends_in_the_same_files() {
    let mut moments = Moments::new("prescription");
    let place = Place::new(STUDY);
    succeeded(
        &nettriage().arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run")).output().unwrap(),
    );
    let prescribe = |work: &str, more: &[&str]| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args([
            "--max-drop",
            "30pp",
            "--epochs",
            "1500",
            "--attempts",
            "3",
            "--scheme",
            "distill-blocks",
        ]);
        command.args(["--judged", "100", "--threads", "1"]).args(more).arg("--work").arg(place.path(work));
        command.arg("-o").arg(place.path(&format!("{work}.onnx")));
        command
    };
    succeeded(&prescribe("whole", &[]).output().unwrap());
    // The saved scan and times, which are measured and therefore differ between runs.
    let copy = |part: &str| {
        for entry in fs::read_dir(place.path("whole").join(part)).unwrap() {
            let from = entry.unwrap().path();
            let to = place.path("cut").join(part).join(from.file_name().unwrap());
            if from.is_file() && !from.ends_with("run.lock") {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(&from, to).unwrap();
            }
        }
    };
    copy("");
    copy("times");
    let (mut kills, mut inside) = (0, 0);
    while kills < 20 {
        let mut command = spawn_silent(&mut prescribe("cut", &OFTEN));
        until("a checkpoint", || !checkpoints(&place.path("cut")).is_empty());
        moments.wait(0, 250);
        assert!(command.try_wait().unwrap().is_none(), "it ended after {kills} kills: let it train for longer");
        command.kill().unwrap();
        command.wait().unwrap();
        kills += 1;
        inside += usize::from(!checkpoints(&place.path("cut")).is_empty());
    }
    assert!(inside > 5, "killed inside a training {inside} times");
    succeeded(&prescribe("cut", &OFTEN).output().unwrap());
    assert!(checkpoints(&place.path("cut")).is_empty(), "removed with the attempts");
    for extension in ["onnx", "onnx.toml"] {
        let [whole, cut] = ["whole", "cut"].map(|name| fs::read(place.path(&format!("{name}.{extension}"))).unwrap());
        assert!(whole == cut, "{extension}");
    }
    let [whole, cut] = ["whole", "cut"].map(|name| fs::read_to_string(place.path(&format!("{name}.json"))).unwrap());
    assert_eq!(whole, cut);
    // Everything is stored: the same command again trains nothing, and one with other images is refused.
    fs::remove_file(place.path("cut.onnx")).unwrap();
    let again = prescribe("cut", &[]).output().unwrap();
    succeeded(&again);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("training: step"));
    let error = refused(&prescribe("cut", &["--images", "100"]).output().unwrap());
    assert!(error.contains("images to fit to") && error.contains("--work"), "{error}");
}

#[test]
fn a_signal_ends_a_prescription_with_a_checkpoint() {
    let place = Place::new(STUDY);
    succeeded(
        &nettriage().arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run")).output().unwrap(),
    );
    let mut command = nettriage();
    command.arg("prescribe").arg(place.path("run")).args(["--max-macs", "80%", "--epochs", "20000", "--judged", "100"]);
    command.arg("--work").arg(place.path("work")).arg("-o").arg(place.path("child.onnx")).stderr(Stdio::piped());
    let prescription = command.stdout(Stdio::null()).spawn().unwrap();
    // The scan is stored before the training, whose end is hours away.
    until("the scan", || place.path("work/scan.json").exists());
    std::thread::sleep(Duration::from_secs(3));
    assert!(Command::new("kill").arg("-INT").arg(prescription.id().to_string()).status().unwrap().success());
    let output = prescription.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.lines().last().unwrap().starts_with("stopped: the training of "), "{said}");
    assert_eq!(checkpoints(&place.path("work")).len(), 1);
    assert!(!place.path("child.onnx").exists());
}

#[test]
fn a_parent_is_trained_by_one_process_at_a_time() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &["--checkpoint", "off"]);
    // A run with its plan alone.
    succeeded(&place.run("run", &["--max-time", "0.05s"]).args(OFTEN).output().unwrap());
    assert_eq!(fs::read_dir(place.path("run/parents")).unwrap().count(), 0);
    let trial = |index: &str| {
        let mut command = nettriage();
        command.args(["trial", "--missing", "--index", index, "--plan"]).arg(place.path("run")).args(OFTEN);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut first = trial("0");
    let marker = || fs::read_dir(place.path("run/running")).is_ok_and(|entries| entries.count() > 0);
    until("the parent's marker", marker);
    let second = trial("1");
    std::thread::sleep(Duration::from_millis(400));
    // The second continues what the first has saved.
    first.kill().unwrap();
    first.wait().unwrap();
    let output = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("is trained by another process: waited for it"), "{said}");
    assert_same(&whole, &place.complete("run", &[]));
}
