//! Networks from the outside give the outputs that their own libraries give.
//!
//! Needs the folder of networks (`NETTRIAGE_SHARED`, or `../shared` beside the repository) and a Python with onnxruntime
//! and PyTorch (`NETTRIAGE_PYTHON`); says loudly where it must skip.

mod common;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{nettriage, skipped, succeeded};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The Python and the folder of networks, if both are there.
fn tools(test: &str) -> Option<(PathBuf, PathBuf)> {
    let python = std::env::var_os("NETTRIAGE_PYTHON").map(PathBuf::from);
    let shared = std::env::var_os("NETTRIAGE_SHARED").map_or(Path::new(ROOT).join("../shared"), PathBuf::from);
    match (python, shared.join("networks").is_dir()) {
        (Some(python), true) => Some((python, shared.join("networks"))),
        (python, networks) => {
            skipped(&format!("{test}: NETTRIAGE_PYTHON {python:?}, networks there: {networks}"));
            None
        }
    }
}

fn array(path: &Path) -> Vec<f32> {
    npyz::NpyFile::new(BufReader::new(File::open(path).unwrap())).unwrap().into_vec().unwrap()
}

/// The reference library's outputs and ours on its seeded inputs, or on `given` ones.
fn both(python: &Path, network: &Path, arch: Option<&str>, given: Option<&Path>) -> (Vec<f32>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut reference = Command::new(python);
    reference.arg(Path::new(ROOT).join("bench/reference_outputs.py")).arg(network).args(["--seed", "1"]);
    match given {
        Some(given) => reference.arg("--given").arg(given),
        None => reference.arg("--inputs").arg(at("x.npy")),
    };
    let arch: Vec<&str> = arch.into_iter().flat_map(|arch| ["--arch", arch]).collect();
    succeeded(&reference.arg("--outputs").arg(at("y.npy")).args(&arch).output().unwrap());
    let inputs = given.map_or_else(|| at("x.npy"), Path::to_path_buf);
    let mut ours = nettriage();
    ours.arg("evaluate").arg(network).args(&arch).arg("--inputs").arg(inputs).arg("--logits").arg(at("z.npy"));
    succeeded(&ours.output().unwrap());
    (array(&at("y.npy")), array(&at("z.npy")))
}

#[track_caller]
fn agree(what: &str, (theirs, ours): (Vec<f32>, Vec<f32>)) {
    assert_eq!(theirs.len(), ours.len(), "{what}");
    let largest = theirs.iter().fold(0.0f32, |m, y| m.max(y.abs()));
    let worst = theirs.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(largest > 0.0 && worst <= 1e-4 * largest, "{what}: {worst} of {largest}");
}

#[test]
fn networks_in_onnx() {
    let Some((python, networks)) = tools("networks_in_onnx") else { return };
    for name in
        ["cifar10_small/resnet_2b", "cifar10_small/cifar_base_kw", "cifar10_small/nhwc_small", "mnist_lenet/lenet"]
    {
        agree(name, both(&python, &networks.join(format!("{name}.onnx")), None, None));
    }
}

#[test]
fn structures_in_onnx() {
    let Some((python, networks)) = tools("structures_in_onnx") else { return };
    for entry in std::fs::read_dir(networks.join("structure")).unwrap() {
        let path = entry.unwrap().path();
        agree(&path.display().to_string(), both(&python, &path, None, None));
    }
}

#[test]
fn checkpoints_of_pytorch() {
    let Some((python, networks)) = tools("checkpoints_of_pytorch") else { return };
    for (file, arch) in [("resnet20-12fca82f.th", "cifar-resnet20"), ("resnet44-014dd654.th", "cifar-resnet44")] {
        agree(file, both(&python, &networks.join("cifar10_resnet").join(file), Some(arch), None));
    }
}

/// CIFAR-10's files, if they are there.
fn cifar10(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("NETTRIAGE_DATA").map(|root| Path::new(&root).join("cifar10")).filter(|p| p.is_dir());
    if data.is_none() {
        skipped(&format!("{test}: no cifar10 in NETTRIAGE_DATA"));
    }
    data
}

#[test]
fn cifar_resnets_get_as_many_images_right_as_in_pytorch() {
    let test = "cifar_resnets_get_as_many_images_right_as_in_pytorch";
    let (Some((_, networks)), Some(data)) = (tools(test), cifar10(test)) else { return };
    // What PyTorch 2.15 gets for the same files and normalisation.
    for (file, arch, right) in
        [("resnet20-12fca82f.th", "cifar-resnet20", 9173), ("resnet44-014dd654.th", "cifar-resnet44", 9310)]
    {
        let output = nettriage()
            .arg("evaluate")
            .arg(networks.join("cifar10_resnet").join(file))
            .args(["--arch", arch, "--data", "cifar10", "--json", "--data-dir"])
            .arg(&data)
            .args(["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"])
            .output()
            .unwrap();
        let found: serde_json::Value = serde_json::from_str(&succeeded(&output)).unwrap();
        assert_eq!((found["images"].as_u64(), found["correct"].as_u64()), (Some(10_000), Some(right)), "{file}");
    }
}

/// Triage of a given network, then a child exported to ONNX and run in onnxruntime.
fn triage_and_export(test: &str, file: &str, parent: &str) {
    let (Some((python, networks)), Some(cifar10)) = (tools(test), cifar10(test)) else { return };
    let file = networks.join(file);
    let study = format!(
        "name = \"given\"\n[data]\nname = \"cifar10\"\nvalidation = 100\ntrain = 300\ntest = 100\n\
         [parent]\nfile = {file:?}\n{parent}\n\
         [children]\nseeds = 1\nimages = 64\nbatch = 32\nrate = 0.01\ncurve = 1\ncalibration = 200\nkeep = \"network\"\n\
         [triage]\ninits = [\"least-squares\"]\nschemes = [\"none\", \"global\"]\n"
    );
    let place = common::Place::new(&study);
    let run = place.run("run", &["--data-dir"]).arg(&cifar10).output().unwrap();
    succeeded(&run);
    let plan: serde_json::Value = serde_json::from_slice(&std::fs::read(place.path("run/plan.json")).unwrap()).unwrap();
    let trials = plan["payload"]["trials"].as_array().unwrap();
    let child = trials.iter().find(|t| t["role"] == "child" && t["scheme"] == "global").unwrap();
    let onnx = place.path("child.onnx");
    let mut export = nettriage();
    export.arg("export").arg(place.path("run")).args(["--trial", child["id"].as_str().unwrap(), "-o"]).arg(&onnx);
    succeeded(&export.output().unwrap());
    assert!(std::fs::read_to_string(place.path("child.md")).unwrap().contains("Accuracy"));
    agree(test, both(&python, &onnx, None, None));
}

#[test]
fn triage_of_resnet20_ends_in_a_child_that_onnxruntime_runs() {
    let normalisation = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\narch = \"cifar-resnet20\"";
    triage_and_export(
        "triage_of_resnet20_ends_in_a_child_that_onnxruntime_runs",
        "cifar10_resnet/resnet20-12fca82f.th",
        normalisation,
    );
}

#[test]
fn triage_of_an_onnx_model_ends_in_a_child_that_onnxruntime_runs() {
    triage_and_export(
        "triage_of_an_onnx_model_ends_in_a_child_that_onnxruntime_runs",
        "cifar10_small/resnet_2b.onnx",
        "mean = [0.485, 0.456, 0.406]\nstd = [0.225, 0.225, 0.225]",
    );
}
