//! Networks of other programs give the same outputs here as in onnxruntime and PyTorch.
//!
//! Needs the folder of networks (`NETTRIAGE_SHARED`, or `../shared` next to the repository) and a Python with onnxruntime
//! and PyTorch (`NETTRIAGE_PYTHON`); prints `SKIPPED` without them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::outside::{ROOT, agree, array, mnist_conv, python, tools};
use common::{nettriage, skipped, succeeded};

/// Outputs of the reference library and of nettriage, on seeded random inputs or on `given` ones.
fn both(python: &Path, network: &Path, arch: Option<&str>, given: Option<&Path>) -> (Vec<f32>, Vec<f32>) {
    both_under(python, network, arch.map(|arch| (arch, arch)), given)
}

/// The same for an architecture with different names there and here.
fn both_under(python: &Path, network: &Path, arch: Option<(&str, &str)>, given: Option<&Path>) -> (Vec<f32>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut reference = Command::new(python);
    reference.arg(Path::new(ROOT).join("checks/reference_outputs.py")).arg(network).args(["--seed", "1"]);
    match given {
        Some(given) => reference.arg("--given").arg(given),
        None => reference.arg("--inputs").arg(at("x.npy")),
    };
    let there: Vec<&str> = arch.into_iter().flat_map(|(there, _)| ["--arch", there]).collect();
    let here: Vec<&str> = arch.into_iter().flat_map(|(_, here)| ["--arch", here]).collect();
    succeeded(&reference.arg("--outputs").arg(at("y.npy")).args(&there).output().unwrap());
    let inputs = given.map_or_else(|| at("x.npy"), Path::to_path_buf);
    let mut ours = nettriage();
    ours.arg("evaluate").arg(network).args(&here).arg("--inputs").arg(inputs).arg("--logits").arg(at("z.npy"));
    succeeded(&ours.output().unwrap());
    (array(&at("y.npy")), array(&at("z.npy")))
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

#[test]
fn checkpoints_with_the_graph_of_an_onnx_file() {
    let Some((python, networks)) = tools("checkpoints_with_the_graph_of_an_onnx_file") else { return };
    for (name, arch) in [
        ("cifar10_small/cifar_base_kw", "cifar-base-kw"),
        ("cifar10_small/resnet_2b", "resnet-2b"),
        ("mnist_lenet/lenet", "lenet"),
    ] {
        let [weights, graph] = ["pth", "onnx"].map(|ending| networks.join(format!("{name}.{ending}")));
        agree(name, both_under(&python, &weights, Some((arch, graph.to_str().unwrap())), None));
    }
}

#[test]
fn weights_alone_with_a_graph_of_ours() {
    let Some((python, networks)) = tools("weights_alone_with_a_graph_of_ours") else { return };
    let folder = tempfile::tempdir().unwrap();
    let graph = folder.path().join("graph.json");
    std::fs::write(&graph, serde_json::to_string(&mnist_conv()).unwrap()).unwrap();
    for file in ["mnist.pt", "mnist.safetensors"] {
        let weights = networks.join("mnist_conv").join(file);
        agree(file, both_under(&python, &weights, Some(("mnist-conv", graph.to_str().unwrap())), None));
    }
}

#[test]
fn built_in_architectures_go_from_pytorch_and_back() {
    let Some(python) = python("built_in_architectures_go_from_pytorch_and_back") else { return };
    let folder = tempfile::tempdir().unwrap();
    let torch = |phase: &str| {
        let script = Path::new(ROOT).join("checks/torch_archs.py");
        succeeded(&Command::new(&python).arg(script).arg(phase).arg(folder.path()).output().unwrap())
    };
    let names = torch("write");
    let mut covered: Vec<&str> = Vec::new();
    for name in names.lines() {
        let at = |ending: &str| folder.path().join(format!("{name}.{ending}"));
        let arch = name.trim_end_matches(".large");
        covered.push(arch);
        let mut ours = nettriage();
        ours.arg("evaluate").arg(at("pth")).args(["--arch", arch, "--inputs"]).arg(at("x.npy"));
        succeeded(&ours.arg("--logits").arg(at("z.npy")).output().unwrap());
        agree(name, (array(&at("y.npy")), array(&at("z.npy"))));
        for ending in ["safetensors", "onnx"] {
            let mut export = nettriage();
            export.arg("export").arg(at("pth")).args(["--arch", arch, "-o"]).arg(at(ending));
            if ending == "safetensors" {
                export.arg("--state-dict");
            }
            succeeded(&export.output().unwrap());
        }
        std::fs::remove_file(at("pth")).unwrap();
    }
    // All of them except `vgg`, which needs a plan.
    for name in nettriage_net::arch::names() {
        assert!(name == "vgg" || covered.contains(&name), "{name} is compared with nothing");
    }
    torch("check");
}

/// The folder of CIFAR-10's files, if it exists.
fn cifar10(test: &str) -> Option<PathBuf> {
    let data = std::env::var_os("NETTRIAGE_DATA").map(|root| Path::new(&root).join("cifar10")).filter(|p| p.is_dir());
    if data.is_none() {
        skipped(&format!("{test}: no cifar10 in NETTRIAGE_DATA"));
    }
    data
}

#[test]
fn cifar_resnets_have_the_accuracy_that_they_have_in_pytorch() {
    let test = "cifar_resnets_get_as_many_images_right_as_in_pytorch";
    let (Some((_, networks)), Some(data)) = (tools(test), cifar10(test)) else { return };
    // Correct images in PyTorch 2.15 with the same files and normalisation.
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
    same_on_the_whole_test_set(&python, &onnx, &cifar10);
}

/// onnxruntime and nettriage predict the same class for each of CIFAR-10's 10,000 test images.
fn same_on_the_whole_test_set(python: &Path, onnx: &Path, cifar10: &Path) {
    let logits = onnx.with_extension("npy");
    let mut ours = nettriage();
    ours.arg("evaluate").arg(onnx).args(["--data", "cifar10", "--data-dir"]).arg(cifar10).arg("--logits").arg(&logits);
    succeeded(&ours.output().unwrap());
    let mut theirs = Command::new(python);
    theirs.arg(Path::new(ROOT).join("checks/whole_test_set.py")).args([onnx, cifar10, &logits]);
    succeeded(&theirs.output().unwrap());
}

#[test]
fn an_exported_parent_runs_in_onnxruntime_on_the_whole_test_set() {
    let test = "an_exported_parent_runs_in_onnxruntime_on_the_whole_test_set";
    let (Some((python, networks)), Some(cifar10)) = (tools(test), cifar10(test)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (weights, onnx) = (folder.path().join("parent.th"), folder.path().join("parent.onnx"));
    std::fs::copy(networks.join("cifar10_resnet/resnet20-12fca82f.th"), &weights).unwrap();
    std::fs::write(folder.path().join("parent.toml"), "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n")
        .unwrap();
    let mut export = nettriage();
    succeeded(
        &export.arg("export").arg(&weights).args(["--arch", "cifar-resnet20", "-o"]).arg(&onnx).output().unwrap(),
    );
    same_on_the_whole_test_set(&python, &onnx, &cifar10);
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
