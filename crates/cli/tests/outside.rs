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
    for name in [
        "dronet_bn",
        "light_squeezenet",
        "light_resnet50",
        "light_densenet121",
        "light_inception_v1",
        "light_shufflenet",
    ] {
        agree(name, both(&python, &networks.join(format!("structure/{name}.onnx")), None, None));
    }
}

#[test]
fn checkpoints_of_pytorch() {
    let Some((python, networks)) = tools("checkpoints_of_pytorch") else { return };
    for (file, arch) in [("resnet20-12fca82f.th", "cifar-resnet20"), ("resnet44-014dd654.th", "cifar-resnet44")] {
        agree(file, both(&python, &networks.join("cifar10_resnet").join(file), Some(arch), None));
    }
}
