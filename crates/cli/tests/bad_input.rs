//! Bad input: one line that names the place and the remedy, exit code 2, and no data lost.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, STUDY, assert_same, digests, nettriage, refused, skipped, succeeded};

/// The error of `run` for the study with `from` replaced by `to`.
#[track_caller]
fn refusal(from: &str, to: &str) -> String {
    assert!(STUDY.contains(from));
    let place = Place::new(&STUDY.replace(from, to));
    let error = refused(&place.run("run", &[]).output().unwrap());
    assert!(!place.path("run").exists(), "a refused study leaves no folder");
    error
}

#[test]
fn a_study_with_a_wrong_key() {
    let error = refusal("calibration = 100", "calibratoin = 100");
    assert!(error.contains("study.toml: line") && error.contains("`calibration`"), "{error}");
}

#[test]
fn a_study_that_is_not_toml() {
    let error = refusal("[children]", "[children");
    assert!(error.contains("study.toml: line"), "{error}");
}

#[test]
fn a_missing_study() {
    let error = refused(&nettriage().args(["run", "nowhere.toml"]).output().unwrap());
    assert!(error.contains("nowhere.toml") && error.contains("such as studies/digits.toml"), "{error}");
}

#[test]
fn a_missing_data_set() {
    let place = Place::new(&STUDY.replace("\"digits\"", "\"mnist\""));
    let empty = tempfile::tempdir().unwrap();
    let run = place.run("run", &[]).env("NETTRIAGE_DATA", empty.path()).output().unwrap();
    let error = refused(&run);
    assert!(error.contains("nettriage data get mnist"), "{error}");
}

#[test]
fn a_truncated_data_file() {
    let place = Place::new(&STUDY.replace("\"digits\"", "\"mnist\""));
    let data = tempfile::tempdir().unwrap();
    // The header of 60,000 images of 28x28, and 100 bytes of them.
    let header = |kind: u8, dims: &[u32]| {
        let mut bytes = vec![0, 0, 8, kind];
        dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
        bytes.extend([7; 100]);
        bytes
    };
    for (name, bytes) in [
        ("train-images-idx3-ubyte", header(3, &[60_000, 28, 28])),
        ("train-labels-idx1-ubyte", header(1, &[60_000])),
        ("t10k-images-idx3-ubyte", header(3, &[10_000, 28, 28])),
        ("t10k-labels-idx1-ubyte", header(1, &[10_000])),
    ] {
        std::fs::write(data.path().join(name), bytes).unwrap();
    }
    let run = place.run("run", &[]).arg("--data-dir").arg(data.path()).output().unwrap();
    let error = refused(&run);
    assert!(error.contains("idx") && error.contains("bytes"), "{error}");
}

#[test]
fn a_block_that_cannot_be_replaced() {
    let residual = STUDY.replace("arch = \"vgg\"\nplan = [[6, 6], [8, 8]]", "arch = \"cifar-resnet20\"\nwidth = 0.25");
    let cut = "\n[[triage.block]]\nname = \"half\"\nfirst = \"layer1.0.conv1\"\nlast = \"layer1.0.bn1\"\n";
    let across = cut.replace("layer1.0.bn1", "layer1.1.conv1");
    let place = Place::new(&(residual.clone() + &across));
    let error = refused(&place.run("run", &[]).output().unwrap());
    assert!(error.contains("half") && error.contains("layer1.1"), "{error}");
    let place = Place::new(&(residual + "\n[[triage.block]]\nname = \"x\"\nfirst = \"layer9\"\nlast = \"layer9\"\n"));
    let error = refused(&place.run("run", &[]).output().unwrap());
    assert!(error.contains("layer9"), "{error}");
}

#[test]
fn too_many_validation_images() {
    let error = refusal("validation = 100", "validation = 100000");
    assert!(error.contains("validation"), "{error}");
}

#[test]
fn numbers_beyond_their_bounds_are_refused_before_anything_is_computed() {
    for (from, to, words) in [
        ("seeds = 2", "seeds = 1000000000000000000", "[children] seeds is 1e18: choose at least 1"),
        ("images = 96", "images = 1000000000000", "[children] images is 1e12: choose at least 1"),
        ("curve = 2", "curve = 1000000000000000000", "[children] curve is 1e18"),
        ("batch = 32\nrate = 0.02", "batch = 1000000\nrate = 0.02", "[children] batch is 1000000"),
        ("batch = 32\nrate = 0.02", "batch = 32\nrate = 1e38", "[children] rate is 1e38"),
        ("epochs = 2", "epochs = 1000000", "[parent.training] \"1000000 epochs\" are 300000000 images in all"),
        ("plan = [[6, 6], [8, 8]]", "plan = [[8000, 8000, 8000]]", "parameters: choose"),
        ("seeds = 2", "seeds = 10000", "the study has up to"),
    ] {
        let error = refusal(from, to);
        assert!(error.contains(words), "{to}: {error}");
    }
    let place = Place::new(STUDY);
    let error = refused(&place.run("run", &["--workers", "65535"]).output().unwrap());
    assert!(error.contains("--workers") && error.contains("at most 1024"), "{error}");
    assert!(!place.path("run").exists());
}

#[test]
fn a_wrong_command_line_gives_one_line_with_the_help_to_read() {
    for (arguments, words, help) in [
        (&["run"][..], "<STUDY>", "nettriage run --help"),
        (&["run", "study.toml", "--wrokers", "3"], "--workers", "nettriage run --help"),
        (&["run", "study.toml", "--on", "mars"], "processes", "nettriage run --help"),
        (&["run", "study.toml", "--max-time", "soon"], "such as 90s", "nettriage run --help"),
        (&["run", "--model", "net.onnx"], "--data", "nettriage run --help"),
        (&["export", "run", "--block", "block1", "-o", "x.onnx"], "--best", "nettriage export --help"),
        (&["frobnicate"], "frobnicate", "nettriage --help"),
        (&[], "command", "nettriage --help"),
    ] {
        let output = nettriage().args(arguments).output().unwrap();
        let error = refused(&output);
        assert!(error.contains(words) && error.contains(&format!("see `{help}`")), "{error}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
    assert!(succeeded(&nettriage().args(["run", "--help"]).output().unwrap()).contains("--max-trials"));
    assert!(succeeded(&nettriage().arg("--version").output().unwrap()).starts_with("nettriage "));
}

#[test]
fn a_latency_table_with_a_wrong_row() {
    let place = Place::new(STUDY);
    let refusal = |text: Option<&str>| {
        let table = place.path("table.csv");
        if let Some(text) = text {
            std::fs::write(&table, text).unwrap();
        }
        let mut command = nettriage();
        command.args(["prescribe", "nowhere.onnx", "--data", "digits", "--max-latency", "60%", "--latency-table"]);
        let error = refused(&command.arg(&table).arg("-o").arg(place.path("small.onnx")).output().unwrap());
        assert!(error.contains("table.csv: "), "{error}");
        error
    };
    refusal(None);
    for (text, words) in [
        ("", "scan --parts"),
        ("part-1,0.5\n", "line 1: no column `key`"),
        ("key,milliseconds\npart-1,NaN\n", "line 2: milliseconds is NaN"),
        ("key,milliseconds\npart-1,0.5\npart-2,-0.5\n", "line 3: milliseconds is -0.5"),
        ("key,milliseconds\npart-1,0.5\npart-1,0.25\n", "line 3: \"part-1\" is in line 2 too"),
        ("key,model,milliseconds\npart-1,part-1.onnx,\n", "line 2: no milliseconds for \"part-1\""),
    ] {
        let error = refusal(Some(text));
        assert!(error.contains(words), "{text:?}: {error}");
    }
    let mut command = nettriage();
    command.args(["prescribe", "x.onnx", "--data", "digits", "--max-latency", "60%", "--latency-table", "t.csv"]);
    command.args(["--latency-in", "onnxruntime", "-o", "y.onnx"]);
    let error = refused(&command.output().unwrap());
    assert!(error.contains("--latency-in") && error.contains("--latency-table"), "{error}");
}

#[test]
fn a_folder_in_place_of_a_network() {
    let place = Place::new(STUDY);
    place.complete("run", &["--max-trials", "1"]);
    let run = place.path("run");
    for command in [&["evaluate", "--data", "digits"][..], &["export", "-o", "x.onnx"], &["inspect"]] {
        let error = refused(&nettriage().args(command).arg(&run).output().unwrap());
        assert!(error.contains("a run's folder") && error.contains("nettriage export"), "{error}");
        let error = refused(&nettriage().args(command).arg(place.folder.path()).output().unwrap());
        assert!(error.contains("a folder; name the network's file"), "{error}");
    }
}

#[test]
fn a_second_run_on_the_same_folder() {
    let place = Place::new(&STUDY.replace("epochs = 2", "epochs = 2000"));
    let mut first = place.run("run", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !place.path("run/run.lock").exists() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = refused(&place.run("run", &[]).output().unwrap());
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(error.contains("run") && error.contains("process"), "{error}");
}

#[test]
fn another_study_in_the_same_folder() {
    let place = Place::new(STUDY);
    let before = place.complete("run", &[]);
    std::fs::write(place.path("study.toml"), STUDY.replace("seeds = 2", "seeds = 3")).unwrap();
    refused(&place.run("run", &[]).output().unwrap());
    assert_same(&before, &digests(&place.path("run")));
}

#[test]
fn a_missing_run() {
    for command in ["status", "report"] {
        let error = refused(&nettriage().args([command, "/nowhere/at/all"]).output().unwrap());
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}

#[test]
fn a_file_that_is_not_a_network() {
    let place = Place::new("");
    std::fs::write(place.path("net.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    let error = refused(&nettriage().arg("inspect").arg(place.path("net.safetensors")).output().unwrap());
    assert!(error.contains("net.safetensors"), "{error}");
}

#[test]
fn a_description_with_statistics_of_bytes_is_refused_by_every_command() {
    let place = Place::new(&STUDY.replace("keep = \"network\"", ""));
    place.complete("run", &["--max-trials", "1"]);
    let weights = std::fs::read_dir(place.path("run/weights")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(weights, place.path("net.safetensors")).unwrap();
    std::fs::write(place.path("net.toml"), "mean = [127.5]\nstd = [127.5]\n").unwrap();
    for command in [&["inspect"][..], &["export", "-o", "x.onnx"], &["evaluate", "--data", "digits"]] {
        let output =
            nettriage().args(command).arg("net.safetensors").current_dir(place.folder.path()).output().unwrap();
        let error = refused(&output);
        assert!(error.contains("net.toml: ") && error.contains("divided by 255"), "{error}");
    }
    assert!(!place.path("x.onnx").exists());
    std::fs::write(place.path("net.toml"), "mean = [0.5]\nstd = [0.5]\n").unwrap();
    succeeded(&nettriage().args(["inspect", "net.safetensors"]).current_dir(place.folder.path()).output().unwrap());
}

#[test]
fn a_diverging_trial_does_not_end_the_study() {
    // Weights grow by 1 - rate x decay in every step.
    let optimizer = "optimizer = { sgd = { momentum = 0.9, nesterov = false, weight_decay = 1.0 } }";
    let study = STUDY.replace("batch = 32\nrate = 0.02", &format!("batch = 4\nrate = 1000\n{optimizer}"));
    assert_ne!(study, STUDY);
    let place = Place::new(&study);
    succeeded(&place.run("run", &[]).output().unwrap());
    let status = nettriage().args(["status", "--json"]).arg(place.path("run")).output().unwrap();
    let status: serde_json::Value = serde_json::from_str(&succeeded(&status)).unwrap();
    assert!(status["diverged"].as_u64().unwrap() > 0, "{status}");
    assert!(status["done"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["left"], 0, "{status}");
    assert_eq!(status["failed"], 0, "{status}");
}

/// Mounts a file system of 256 KiB; prints that the test is skipped and returns `None` if this user may not mount one.
fn small_disk(at: &std::path::Path) -> Option<()> {
    std::fs::create_dir(at).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(at).output();
    if mounted.is_ok_and(|m| m.status.success()) {
        return Some(());
    }
    skipped("a_full_disk: this user may not mount a small file system");
    None
}

#[test]
fn a_full_disk() {
    let place = Place::new(STUDY);
    let disk = place.path("disk");
    if small_disk(&disk).is_none() {
        return;
    }
    let full = place.run("disk/run", &[]).output().unwrap();
    // With free space again the same command resumes and completes.
    let remount = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status().unwrap();
    let resumed = place.run("disk/run", &[]).output().unwrap();
    let records = if resumed.status.success() { digests(&disk.join("run")) } else { Default::default() };
    Command::new("umount").arg("-l").arg(&disk).status().unwrap();
    let error = refused(&full);
    assert!(error.to_lowercase().contains("full") || error.contains("space"), "{error}");
    assert!(remount.success());
    succeeded(&resumed);
    assert_same(&records, &place.complete("run", &[]));
}
