//! A first study of a network in a file: written by `init`, run without one, its best child exported.

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::{Place, STUDY, nettriage, refused, succeeded};

/// A place with a trained network in `nets/net.safetensors`.
fn with_network() -> Place {
    let place = Place::new(STUDY);
    let mut train = nettriage();
    succeeded(
        &train.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("parent")).output().unwrap(),
    );
    let weights = std::fs::read_dir(place.path("parent/weights")).unwrap().next().unwrap().unwrap().path();
    std::fs::create_dir(place.path("nets")).unwrap();
    std::fs::copy(weights, place.path("nets/net.safetensors")).unwrap();
    place
}

fn nettriage_in(place: &Place, arguments: &[&str]) -> Output {
    nettriage().args(arguments).current_dir(place.folder.path()).output().unwrap()
}

fn said(output: &Output) -> String {
    succeeded(output);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The common study of the network in the file, with `data` and `parent` in these sections.
fn of_file(data: &str, parent: &str) -> String {
    let (head, rest) = STUDY.split_once("[parent]").unwrap();
    let (_, children) = rest.split_once("[children]").unwrap();
    let head = head.replace("[data]", &format!("[data]\n{data}"));
    format!("{head}[parent]\nfile = \"nets/net.safetensors\"\n{parent}\n[children]{children}")
}

#[test]
fn init_writes_a_study_and_run_takes_a_model_in_its_place() {
    let place = with_network();
    let init = ["init", "nets/net.safetensors", "--data", "digits", "-o", "first.toml"];
    let next = succeeded(&nettriage_in(&place, &init));
    assert!(next.contains("nettriage run first.toml"), "{next}");
    let text = std::fs::read_to_string(place.path("first.toml")).unwrap();
    assert!(text.contains("file = \"nets/net.safetensors\"") && text.contains("# "), "{text}");
    let error = refused(&nettriage_in(&place, &init));
    assert!(error.contains("first.toml: it exists"), "{error}");
    succeeded(&nettriage_in(&place, &["run", "first.toml", "--max-trials", "1", "--out", "one"]));
    let run = ["run", "--model", "nets/net.safetensors", "--data", "digits", "--max-trials", "1", "--out", "two"];
    let said = said(&nettriage_in(&place, &run));
    assert!(said.contains("resume with: nettriage run --model nets/net.safetensors --data digits --out two"), "{said}");
    // The same command resumes.
    succeeded(&nettriage_in(&place, &run));
}

#[test]
fn paths_are_relative_to_the_study_file_in_every_process() {
    let place = with_network();
    std::fs::write(place.path("of-file.toml"), of_file("", "")).unwrap();
    for on in ["local", "processes"] {
        let mut run = nettriage();
        run.current_dir("/").arg("run").arg(place.path("of-file.toml")).args(["--on", on, "--max-trials", "2"]);
        succeeded(&run.arg("--out").arg(place.path(on)).output().unwrap());
    }
}

#[test]
fn a_parent_from_a_file_may_have_seen_the_validation_images() {
    let place = with_network();
    let run = |name: &str, data: &str| {
        std::fs::write(place.path("of-file.toml"), of_file(data, "")).unwrap();
        nettriage_in(&place, &["run", "of-file.toml", "--max-trials", "1", "--out", name])
    };
    let warning = "may have been trained on the 100 validation images";
    assert!(said(&run("unknown", "")).contains(warning));
    assert!(!said(&run("not", "seen = false")).contains(warning));
    assert!(!said(&run("test", "validation_from = \"test\"")).contains(warning));
    let plan = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.path(name).join("plan.json")).unwrap()).unwrap()
    };
    let (train, test) = (plan("unknown"), plan("test"));
    // Whatever the images are for, ids follow: only where they are the same are the trials.
    assert_eq!(train["payload"]["parents"], plan("not")["payload"]["parents"]);
    assert_ne!(train["payload"]["parents"], test["payload"]["parents"]);
    assert_eq!(test["payload"]["data"]["validation"], 100);
}

#[test]
fn settings_that_a_file_makes_useless_are_refused_or_said() {
    let place = with_network();
    let run = |parent: &str| {
        std::fs::write(place.path("of-file.toml"), of_file("", parent)).unwrap();
        nettriage_in(&place, &["run", "of-file.toml", "--max-trials", "1", "--out", "run"])
    };
    let error = refused(&run("arch = \"vgg\"\nplan = [[6, 6], [8, 8]]"));
    assert!(error.contains("net.safetensors: it holds its own graph: leave `arch` out"), "{error}");
    let error = refused(&run("width = 0.5"));
    assert!(error.contains("`width` belongs to a built-in architecture"), "{error}");
    let said = said(&run("[parent.training]\nepochs = 1\nrate = 0.1"));
    assert!(said.contains("[parent.training] has no effect"), "{said}");
}

#[test]
fn the_architecture_may_be_a_file_that_holds_the_graph() {
    let place = with_network();
    let weights = ["export", "nets/net.safetensors", "--state-dict", "-o", "weights.safetensors"];
    succeeded(&nettriage_in(&place, &weights));
    let study = of_file("", "arch = \"nets/net.safetensors\"").replace("file = \"nets/net", "file = \"weights");
    std::fs::write(place.path("of-file.toml"), study).unwrap();
    succeeded(&nettriage_in(&place, &["run", "of-file.toml", "--max-trials", "1", "--out", "read"]));
    // The structure alone, with new weights.
    let vgg = "arch = \"vgg\"\nplan = [[6, 6], [8, 8]]";
    let study = STUDY.replace(vgg, "arch = \"nets/net.safetensors\"");
    assert_ne!(study, STUDY);
    std::fs::write(place.path("structure.toml"), study).unwrap();
    succeeded(&nettriage_in(&place, &["run", "structure.toml", "--max-trials", "1", "--out", "trained"]));
}

#[test]
fn the_best_child_of_a_block_is_exported() {
    let place = Place::new(STUDY);
    place.complete("run", &["--workers", "2"]);
    let export = |block: &str| nettriage_in(&place, &["export", "run", "--block", block, "--best", "-o", "best.onnx"]);
    let error = refused(&export("block9"));
    assert!(error.contains("block1, block2"), "{error}");
    let printed = succeeded(&export("block2"));
    assert!(printed.starts_with("best child of block2: block2 conv3x3 "), "{printed}");
    // No other init and scheme has a higher mean over the two seeds.
    let mut means = std::collections::BTreeMap::<String, f64>::new();
    for entry in std::fs::read_dir(place.path("run/trials")).unwrap() {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let (spec, readings) = (&record["payload"]["spec"], &record["payload"]["readings"]);
        if spec["role"] == "child" && spec["block"] == "block2" {
            let way = format!("{} {}", spec["init"].as_str().unwrap(), spec["scheme"].as_str().unwrap());
            // Schemes that train nothing have one seed where the init is not random.
            let seeds = if spec["scheme"] == "none" && spec["init"] != "random" { 1.0 } else { 2.0 };
            *means.entry(way).or_default() += readings["validation"]["top1"].as_f64().unwrap() / seeds;
        }
    }
    let words = printed.strip_prefix("best child of block2: block2 conv3x3 ").unwrap().split(',').next().unwrap();
    assert!(means.values().all(|mean| *mean <= means[words] + 1e-12), "{words}: {means:?}");
    assert!(place.path("best.onnx").is_file() && place.path("best.md").is_file());
}

#[test]
fn a_parent_at_chance_is_the_first_result() {
    let place =
        Place::new(&STUDY.replace("epochs = 2\nbatch = 32\nrate = 0.05", "epochs = 0.1\nbatch = 30\nrate = 1e-6"));
    let printed = succeeded(&place.run("run", &["--max-trials", "2"]).output().unwrap());
    assert!(printed.starts_with("The parent is at chance: "), "{printed}");
    // Other commands say so too.
    let weights = std::fs::read_dir(place.path("run/weights")).unwrap().map(|entry| entry.unwrap().path());
    let parent = weights.into_iter().find(|path| path.to_str().unwrap().contains("parent-")).unwrap();
    std::fs::copy(parent, place.path("net.safetensors")).unwrap();
    for command in
        [&["evaluate"][..], &["scan", "--output", "scan.html"], &["prescribe", "--max-macs", "90%", "-o", "s.onnx"]]
    {
        let more: &[&str] = if command[0] == "prescribe" { &["--no-training"] } else { &[] };
        let arguments = [command, &["net.safetensors", "--data", "digits"], more].concat();
        let said = said(&nettriage_in(&place, &arguments));
        let warned = said.contains("warning: ") && said.contains("not shown to be better than chance");
        assert!(warned && said.contains("`classes`"), "{command:?}: {said}");
    }
    let trained = Place::new(&STUDY.replace("epochs = 2", "epochs = 20"));
    let printed = succeeded(&trained.run("run", &["--max-trials", "2"]).output().unwrap());
    assert!(printed.starts_with("small: parent "), "{printed}");
    let weights = std::fs::read_dir(trained.path("run/weights")).unwrap().map(|entry| entry.unwrap().path());
    let parent = weights.into_iter().find(|path| path.to_str().unwrap().contains("parent-")).unwrap();
    let good = nettriage().args(["evaluate", "--data", "digits"]).arg(parent).output().unwrap();
    assert!(!said(&good).contains("warning"));
}

#[test]
fn completions_and_manual_pages_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeded(&nettriage().args(["completions", shell]).output().unwrap());
        assert!(script.contains("max-trials"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    succeeded(&nettriage().arg("man").arg(folder.path().join("man1")).output().unwrap());
    let pages: Vec<PathBuf> =
        std::fs::read_dir(folder.path().join("man1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.iter().any(|page| page.ends_with("nettriage-run.1")), "{pages:?}");
}

#[test]
fn a_study_says_how_its_parent_was_read_and_what_it_has_seen() {
    let place = with_network();
    // A study beside the network, of the name that its description would have.
    std::fs::write(place.path("nets/net.toml"), STUDY).unwrap();
    std::fs::write(place.path("study.toml"), of_file("", "")).unwrap();
    let notes = said(&nettriage_in(&place, &["run", "study.toml", "--max-trials", "1", "--out", "run"]));
    assert!(notes.contains("is not read as the description of this network"), "{notes}");
    assert!(notes.contains("may have been trained on the 100 validation images"), "{notes}");
    let warning = "parent may have been trained on them";
    let page = |out: &str| std::fs::read_to_string(place.path(out).join("report.html")).unwrap();
    assert!(page("run").contains(warning));

    std::fs::write(place.path("study.toml"), of_file("seen = false", "")).unwrap();
    let notes = said(&nettriage_in(&place, &["run", "study.toml", "--max-trials", "1", "--out", "unseen"]));
    assert!(!notes.contains("may have been trained on"), "{notes}");
    assert!(!page("unseen").contains(warning));
}

#[test]
fn settings_of_folders_are_refused_for_other_data() {
    let place = with_network();
    for setting in ["size = 16", "resize = 20", "interpolation = \"bicubic\"", "skip_bad = true"] {
        std::fs::write(place.path("study.toml"), of_file(setting, "")).unwrap();
        let error = refused(&nettriage_in(&place, &["run", "study.toml", "--out", "run"]));
        let key = setting.split(' ').next().unwrap();
        assert!(error.contains(&format!("[data] `{key}` is for name = \"folder\"")), "{error}");
    }
}

#[test]
fn an_architecture_beside_a_file_that_holds_its_graph_is_refused() {
    let place = with_network();
    for command in ["inspect", "evaluate", "scan"] {
        let data: &[&str] = if command == "inspect" { &[] } else { &["--data", "digits"] };
        let arguments = [&[command, "nets/net.safetensors", "--arch", "resnet18"][..], data].concat();
        let error = refused(&nettriage_in(&place, &arguments));
        assert!(error.contains("it holds its own graph: leave --arch resnet18 out"), "{error}");
    }
}

#[test]
fn a_training_that_diverges_names_the_first_layer() {
    let study = STUDY.replace("rate = 0.02", "rate = 1000").replace("seeds = 2", "seeds = 1");
    let place = Place::new(&study.replace("arch = \"vgg\"", "arch = \"vgg\"\nbatch_norm = false"));
    let output = place.run("run", &["--workers", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.contains("diverged after")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("is the first whose output contains"), "{line}");
}
