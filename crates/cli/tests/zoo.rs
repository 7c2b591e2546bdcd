//! Modules of every kind, exported to ONNX by PyTorch: the outputs equal those of onnxruntime, also after a round trip.
//! `checks/onnx_zoo.py` makes them at operator sets 7, 13 and 20; with NETTRIAGE_ZOO=full at operator sets from 7 to 22, also by
//! PyTorch's dynamo exporter, which takes minutes.

mod common;

use std::path::Path;
use std::process::Command;

use common::outside::{ROOT, agree, array, python};
use common::{nettriage, refused, succeeded};

#[test]
fn exported_modules_have_the_outputs_of_onnxruntime_before_and_after_a_round_trip() {
    let Some(python) = python("what_pytorch_writes_is_read_and_written_again") else { return };
    let folder = tempfile::tempdir().unwrap();
    let zoo = folder.path();
    let mut make = Command::new(&python);
    make.arg(Path::new(ROOT).join("checks/onnx_zoo.py")).arg(zoo);
    let full = std::env::var("NETTRIAGE_ZOO").is_ok_and(|which| which == "full");
    if !full {
        make.args(["--opsets", "7,13,20", "--new", ""]);
    }
    println!("{}", succeeded(&make.output().unwrap()));
    let again = zoo.join("again");
    std::fs::create_dir(&again).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(zoo)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".onnx").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() > if full { 400 } else { 150 }, "{} models", names.len());
    for name in &names {
        let at = |ending: &str| zoo.join(format!("{name}.{ending}"));
        let mut ours = nettriage();
        ours.arg("evaluate").arg(at("onnx")).arg("--inputs").arg(at("x.npy")).arg("--logits").arg(at("z.npy"));
        let output = ours.output().unwrap();
        if name.starts_with("refused") {
            let message = refused(&output);
            assert!(message.contains("node `"), "{name}: {message}");
            continue;
        }
        succeeded(&output);
        agree(name, (array(&at("y.npy")), array(&at("z.npy"))));
        let mut export = nettriage();
        succeeded(
            &export.arg("export").arg(at("onnx")).arg("-o").arg(again.join(format!("{name}.onnx"))).output().unwrap(),
        );
    }
    let mut check = Command::new(&python);
    check.arg(Path::new(ROOT).join("checks/onnx_zoo.py")).arg(zoo).args(["--check", "again"]);
    println!("{}", succeeded(&check.output().unwrap()));
}
