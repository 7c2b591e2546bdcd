//! Faults: killed processes, full disks, truncated records, jumping clocks. After any of them the next call resumes the run, and the
//! final records equal those of a run without faults.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::faults::{Disk, Moments, children, kill, spawn_silent, until};
use common::{Place, STUDY, assert_same, digests, nettriage, refused, skipped, succeeded};
use nettriage_records::Run;

/// The study with fewer trials, for tests that run it often.
fn short() -> String {
    STUDY
        .replace(
            "inits = [\"random\", \"first\", \"last\", \"mean\", \"collapse\", \"least-squares\"]",
            "inits = [\"random\", \"least-squares\"]",
        )
        .replace("seeds = 2", "seeds = 1")
}

fn records(run: &Path) -> usize {
    let entries = fs::read_dir(run.join("trials")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "json")).count()
}

#[test]
fn the_parent_process_is_killed_thirty_times() {
    let mut moments = Moments::new("parent");
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    let (mut kills, mut round) = (0, 0);
    while kills < 30 {
        let (out, on) = (format!("killed{round}"), if round % 2 == 0 { "processes" } else { "local" });
        loop {
            let mut run = spawn_silent(&mut place.run(&out, &["--on", on, "--workers", "2"]));
            moments.wait(10, 500);
            if run.try_wait().unwrap().is_some() {
                break;
            }
            run.kill().unwrap();
            run.wait().unwrap();
            kills += 1;
        }
        assert_same(&whole, &place.complete(&out, &["--on", on]));
        round += 1;
    }
}

#[test]
fn workers_are_killed_thirty_times() {
    let mut moments = Moments::new("workers");
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    let (mut kills, mut round) = (0, 0);
    while kills < 30 {
        let out = format!("run{round}");
        // Far more attempts than kills, so that no trial fails.
        let mut run = spawn_silent(&mut place.run(&out, &["--on", "processes", "--workers", "2", "--retries", "1000"]));
        while run.try_wait().unwrap().is_none() {
            moments.wait(20, 150);
            let workers = children(run.id());
            if !workers.is_empty() {
                kills += usize::from(kill(workers[moments.below(workers.len() as u64) as usize]));
            }
        }
        assert!(run.wait().unwrap().success());
        assert_same(&whole, &digests(&place.path(&out)));
        round += 1;
    }
}

#[test]
fn worker_processes_share_the_options_and_end_with_their_parent() {
    let place = Place::new(&STUDY.replace("images = 96", "images = 96000"));
    let options = ["--data-memory", "64", "--disk-cache", "10", "--threads", "3", "--no-reuse", "hint"];
    let mut run =
        spawn_silent(&mut place.run("run", &[&["--on", "processes", "--workers", "2"], &options[..]].concat()));
    let words = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    // Between fork and exec a process is a copy of its parent.
    let workers = || children(run.id()).into_iter().filter(|&pid| words(pid).contains(" trial ")).collect::<Vec<_>>();
    until("two workers", || workers().len() == 2);
    let workers = workers();
    for &pid in &workers {
        let words = words(pid);
        for options in ["--data-memory 32 ", "--disk-cache 5 ", "--threads 3 ", "--no-reuse hint "] {
            assert!(words.contains(options), "{words}");
        }
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let alive = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Gone, or a zombie.
        !stat.is_empty() && !stat.contains(") Z ")
    };
    until("no worker", || !workers.iter().any(alive));
}

#[test]
fn a_worker_without_memory_fails_only_its_trial_and_retry_reopens_it() {
    // Steps of 300 images need more memory than the limit, a trial without training less. The parent process is limited, too; the
    // margins are a hundred megabytes and the allocator has one arena, because the mappings of a process differ between machines.
    let study =
        short().replace("batch = 32\nrate = 0.02", "batch = 300\nrate = 0.02").replace("images = 96", "images = 300");
    let study = study.replace("plan = [[6, 6], [8, 8]]", "plan = [[192, 192], [192, 192]]");
    let study = study.replace("epochs = 2", "epochs = 0.2");
    let study = format!("{}schemes = [\"none\", \"global\"]\n", study.split("schemes =").next().unwrap());
    let place = Place::new(&study);
    let whole = place.complete("whole", &["--workers", "1", "--cache", "0"]);
    // The parent is trained before the limit is set.
    let mut train = nettriage();
    train.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run"));
    succeeded(&train.output().unwrap());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 280000; exec \"$@\"", "sh"]);
    let run = place.run("run", &["--on", "processes", "--workers", "1", "--retries", "1", "--cache", "0"]);
    limited.arg(run.get_program()).args(run.get_args()).env("RUST_BACKTRACE", "1").env("MALLOC_ARENA_MAX", "1");
    let output = limited.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("trials failed, the first by this: "), "{said}");
    let status = |key: &str| {
        let output = nettriage().args(["status", "--json"]).arg(place.path("run")).output().unwrap();
        serde_json::from_str::<serde_json::Value>(&succeeded(&output)).unwrap()[key].as_u64().unwrap()
    };
    assert!(status("failed") > 0 && status("done") > 0 && status("left") == 0, "{said}");
    let run = Run::open(&place.path("run")).unwrap();
    let reasons: Vec<String> =
        run.records().unwrap().iter().filter(|r| r.readings.is_none()).map(|r| format!("{:?}", r.outcome)).collect();
    // A model that does not fit fails with its own message; other failed allocations are panics or end the process.
    let memory = ["more than this machine provides", "AllocError", "memory allocation"];
    assert!(reasons.iter().all(|reason| memory.iter().any(|words| reason.contains(words))), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.contains("more than this machine provides")), "{reasons:?}");
    // Failures stay until they are reopened.
    let before = digests(&place.path("run"));
    assert_eq!(place.run("run", &[]).output().unwrap().status.code(), Some(1));
    assert_same(&before, &digests(&place.path("run")));
    let opened = succeeded(&nettriage().arg("retry").arg(place.path("run")).output().unwrap());
    assert!(opened.contains(&format!("{} failed trials are open again", reasons.len())), "{opened}");
    let again = place.complete("run", &[]);
    let again = again.into_iter().filter(|(name, _)| !name.ends_with(".failed")).collect();
    assert_same(&whole, &again);
}

#[test]
fn truncated_and_altered_records_are_set_aside_and_computed_again() {
    let mut moments = Moments::new("torn");
    let place = Place::new(&short());
    let whole = place.complete("run", &[]);
    let mut files: Vec<_> =
        fs::read_dir(place.path("run/trials")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (number, path) in files.iter().take(12).enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let at = moments.below(bytes.len() as u64) as usize;
        if number % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1;
        }
        fs::write(path, bytes).unwrap();
    }
    let after = place.complete("run", &[]);
    let corrupt = after.keys().filter(|name| name.contains(".corrupt")).count();
    assert_eq!(corrupt, 12);
    assert_same(&whole, &after.into_iter().filter(|(name, _)| !name.contains(".corrupt")).collect());
    let shown = succeeded(&nettriage().arg("gc").arg(place.path("run")).output().unwrap());
    assert!(shown.contains("would remove 12 files"), "{shown}");
    assert_eq!(digests(&place.path("run")).len(), whole.len() + 12, "gc without --yes removes nothing");
    let gone = succeeded(&nettriage().arg("gc").arg("--yes").arg(place.path("run")).output().unwrap());
    assert!(gone.contains("removed 12 files"), "{gone}");
    assert_same(&whole, &digests(&place.path("run")));
}

/// libfaketime sets the clock forward and back during the run.
#[test]
fn a_clock_that_jumps() {
    let libraries = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    let Some(library) = libraries.into_iter().find(|path| Path::new(path).exists()) else {
        skipped("a_clock_that_jumps: no libfaketime (Debian's faketime)");
        return;
    };
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    let clock = place.path("clock");
    for on in ["local", "processes"] {
        fs::write(&clock, "+0").unwrap();
        let mut command = place.run(on, &["--on", on]);
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut run = spawn_silent(&mut command);
        let mut jumps = ["+40d", "-300d", "+0", "-2h"].iter().cycle();
        while run.try_wait().unwrap().is_none() {
            // Files are complete or absent here too.
            let next = place.path("clock.next");
            fs::write(&next, jumps.next().unwrap()).unwrap();
            fs::rename(&next, &clock).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(run.wait().unwrap().success(), "{on}");
        assert_same(&whole, &digests(&place.path(on)));
        let times: Vec<f64> =
            Run::open(&place.path(on)).unwrap().records().unwrap().iter().map(|r| r.clock.finished).collect();
        let spread = times.iter().fold(0.0, |m: f64, t| m.max(*t)) - times.iter().fold(f64::INFINITY, |m, t| m.min(*t));
        assert!(spread > 86_400.0, "the clock did jump: {spread} s");
        let status = succeeded(&nettriage().args(["status", "--json"]).arg(place.path(on)).output().unwrap());
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["left"], 0);
        assert!(status["trials_seconds"].as_f64().unwrap() >= 0.0);
        succeeded(&nettriage().arg("report").arg(place.path(on)).output().unwrap());
    }
}

#[test]
fn two_runs_at_once() {
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    let mut running: Vec<Child> =
        (0..4).map(|_| place.run("run", &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    let ends: Vec<_> = running.drain(..).map(|run| run.wait_with_output().unwrap()).collect();
    let (won, lost): (Vec<_>, Vec<_>) = ends.iter().partition(|end| end.status.success());
    assert!(!won.is_empty());
    for end in lost {
        assert!(refused(end).contains("in use by"));
    }
    assert_same(&whole, &digests(&place.path("run")));
}

#[test]
fn two_writers_of_the_same_trials() {
    let place = Place::new(&short());
    let whole = place.complete("run", &[]);
    let trial = || spawn_silent(nettriage().args(["trial", "--index", "0-12", "--plan"]).arg(place.path("run")));
    let mut both = [trial(), trial()];
    both.iter_mut().for_each(|trial| assert!(trial.wait().unwrap().success()));
    assert_same(&whole, &digests(&place.path("run")));
}

#[test]
fn a_disk_that_fills_up_under_workers() {
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    let at = place.path("disk");
    let Some(disk) = Disk::mount(&at, "size=300k", "a_disk_that_fills_up_under_workers") else { return };
    let error = refused(&place.run("disk/run", &["--on", "processes"]).output().unwrap());
    assert!(error.contains("no space left") || error.contains("No space left"), "{error}");
    disk.remount("size=64m");
    assert_same(&whole, &place.complete("disk/run", &["--on", "processes"]));
}

#[test]
fn a_limit_on_the_size_of_files() {
    let place = Place::new(&short());
    let whole = place.complete("whole", &[]);
    // The plan is larger than 2 KiB; the signal is ignored so that the write fails.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"]);
    let run = place.run("run", &[]);
    limited.arg(run.get_program()).args(run.get_args()).env("RUST_BACKTRACE", "1");
    let error = refused(&limited.output().unwrap());
    assert!(error.contains("plan.json"), "{error}");
    assert!(!place.path("run/plan.json").exists());
    assert_same(&whole, &place.complete("run", &[]));
}

#[test]
fn a_folder_that_cannot_be_written() {
    let place = Place::new(&short());
    let at = place.path("disk");
    let Some(disk) = Disk::mount(&at, "size=64m", "a_folder_that_cannot_be_written") else { return };
    let whole = place.complete("disk/run", &[]);
    disk.remount("ro");
    for command in [place.run("disk/new", &[]), place.run("disk/run", &[])] {
        let mut command = command;
        let error = refused(&command.output().unwrap());
        assert!(error.contains("disk/") && error.to_lowercase().contains("read-only"), "{error}");
    }
    // Reading works without write permission.
    let status = succeeded(&nettriage().arg("status").arg(place.path("disk/run")).output().unwrap());
    assert!(status.contains("left     0"), "{status}");
    let mut report = nettriage();
    report.arg("report").arg(place.path("disk/run")).arg("-o").arg(place.path("report.html"));
    succeeded(&report.output().unwrap());
    assert_same(&whole, &digests(&place.path("disk/run")));
}

#[test]
fn a_plan_of_another_version() {
    let place = Place::new(&short());
    place.complete("run", &["--max-trials", "1"]);
    let path = place.path("run/plan.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"version\":2", "\"version\":3", 1)).unwrap();
    let mut commands = vec![place.run("run", &[])];
    for words in [&["trial", "--index", "0", "--plan"][..], &["status"], &["report"], &["retry"], &["gc"]] {
        let mut command = nettriage();
        command.args(words).arg(place.path("run"));
        commands.push(command);
    }
    for command in &mut commands {
        let error = refused(&command.output().unwrap());
        assert!(
            error.contains("written by another version of nettriage (file version 3, this program reads 2)"),
            "{error}"
        );
    }
    // The same file version, but another plan by the program.
    fs::write(&path, text).unwrap();
    let mut plan = Run::open(&place.path("run")).unwrap().plan().clone();
    plan.trials[3].id = "0123456789abcdef".to_owned();
    Run::create(&place.path("other"), &plan).unwrap();
    let mut trial = nettriage();
    trial.args(["trial", "--index", "0", "--plan"]).arg(place.path("other"));
    let error = refused(&trial.output().unwrap());
    assert!(error.contains("makes another plan"), "{error}");
    assert_eq!(records(&place.path("other")), 0);
}

#[test]
fn an_interrupted_run_prints_what_is_saved_and_how_to_resume() {
    let place = Place::new(STUDY);
    let whole = place.complete("whole", &[]);
    for (on, signal) in [("local", "-INT"), ("processes", "-TERM")] {
        let run = place.run(on, &["--on", on]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until("three records", || records(&place.path(on)) >= 3);
        assert!(Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap().success());
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("stopped: ") && last.contains("trials are saved in"), "{last}");
        assert!(last.contains("resume with: nettriage run "), "{last}");
        assert_same(&whole, &place.complete(on, &["--on", on]));
    }
}
