//! `scan` and `prescribe` on the embedded digits.

mod common;

use std::process::{Command, Output};

use common::{Place, STUDY, nettriage};
use serde_json::Value;

/// A run with a trained parent and no trials.
fn trained() -> Place {
    let place =
        Place::new(&STUDY.replace("[[6, 6], [8, 8]]", "[[8, 8, 8], [16, 16]]").replace("epochs = 2", "epochs = 12"));
    let mut command = nettriage();
    command.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("run"));
    succeeds(command);
    place
}

fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap()
}

fn scan(place: &Place, out: &str, more: &[&str]) -> Value {
    let mut command = nettriage();
    command.arg("scan").arg(place.path("run")).args(["--judged", "100"]).args(more);
    command.arg("--json").arg(place.path(out)).arg("-o").arg(place.path("scan.html"));
    succeeds(command);
    json(place, out)
}

/// The scan without timings.
fn timeless(mut scan: Value) -> Value {
    scan["took"] = Value::Null;
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("milliseconds");
                map.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut scan);
    scan
}

#[test]
fn a_scan_is_the_same_with_any_threads_and_memory() {
    let place = trained();
    let one = scan(&place, "one.json", &["--threads", "1"]);
    let three = scan(&place, "three.json", &["--threads", "3"]);
    let little = scan(&place, "little.json", &["--threads", "2", "--memory", "0"]);
    assert_eq!(timeless(one.clone()), timeless(three));
    assert_eq!(timeless(one.clone()), timeless(little));
    // The scan has every range of more than one convolution, also across the pooling.
    let ranges = one["ranges"].as_array().unwrap();
    let wide = |r: &&Value| r["units"][0].as_u64().unwrap() < 3 && r["units"][1].as_u64().unwrap() > 3;
    assert!(ranges.iter().filter(wide).count() >= 4, "{}", ranges.len());
    let page = std::fs::read_to_string(place.path("scan.html")).unwrap();
    assert!(
        page.contains("All candidates") && !page.contains("http://") && !page.contains("https://"),
        "the page stands alone"
    );
    let blind = scan(&place, "blind.json", &["--unlabelled"]);
    assert!(blind["ranges"][0]["candidates"][0]["accuracy"].is_null());
    let agreement = |scan: &Value| scan["ranges"][0]["candidates"][0]["agreement"].clone();
    assert_eq!(agreement(&one), agreement(&blind), "labels affect only the accuracy");
}

#[test]
fn a_substitutes_accuracy_is_that_of_the_network_that_prescribe_writes() {
    let place = trained();
    let found = scan(&place, "scan.json", &["--threads", "2"]);
    let macs = found["parent"]["cost"]["macs"].as_u64().unwrap();
    let mut command = nettriage();
    command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
    command.args(["--max-macs", "75%", "--scan"]).arg(place.path("scan.json")).arg("-o").arg(place.path("child.onnx"));
    let said = String::from_utf8(succeeds(command).stdout).unwrap();
    assert!(said.contains("after, test set"), "{said}");
    let prescription = json(&place, "child.json");
    let replaced = prescription["replaced"].as_array().unwrap();
    assert!(!replaced.is_empty());
    let after = &prescription["test"][1];
    assert!(after["cost"]["macs"].as_u64().unwrap() <= macs * 3 / 4);
    assert_eq!(after["cost"], prescription["predicted"]["cost"], "cost adds up exactly");
    // The exported file has the accuracy that its model card states.
    let mut command = nettriage();
    command.arg("evaluate").arg(place.path("child.onnx")).args(["--data", "digits", "--json"]);
    let evaluated: Value = serde_json::from_slice(&succeeds(command).stdout).unwrap();
    assert_eq!(evaluated["top1"], after["accuracy"]);
    let card = std::fs::read_to_string(place.path("child.md")).unwrap();
    assert!(card.contains("--max-macs 75%") && card.contains("Predicted and measured"), "{card}");
}

#[test]
fn a_single_range_is_built_as_it_was_judged() {
    let place = trained();
    let mut found = scan(&place, "scan.json", &["--threads", "2"]);
    // With one range and one candidate there is no choice, and no interaction between replacements.
    let macs = |value: &Value| value["cost"]["macs"].as_u64().unwrap();
    let saved = |range: &Value, candidate: &Value| macs(range).saturating_sub(macs(candidate));
    let ranges = found["ranges"].as_array().unwrap();
    let all = ranges.iter().flat_map(|r| r["candidates"].as_array().unwrap().iter().map(move |c| (r, c)));
    let harmful = all.filter(|(_, c)| (1.0..50.0).contains(&c["drop"][0].as_f64().unwrap()));
    let (range, candidate) = harmful.max_by_key(|(r, c)| saved(r, c)).unwrap();
    let (mut range, candidate, left) =
        (range.clone(), candidate.clone(), macs(&found["parent"]) - saved(range, candidate));
    range["candidates"] = serde_json::json!([candidate]);
    found["ranges"] = serde_json::json!([range]);
    std::fs::write(place.path("one.json"), found.to_string()).unwrap();
    let mut command = nettriage();
    command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
    command.args(["--max-macs", &left.to_string(), "--scan"]).arg(place.path("one.json"));
    command.arg("-o").arg(place.path("child.onnx"));
    succeeds(command);
    let made = json(&place, "child.json");
    assert_eq!(made["replaced"].as_array().unwrap().len(), 1);
    assert_eq!(made["replaced"][0]["range"], range["name"]);
    assert_eq!(made["built"]["accuracy"], candidate["accuracy"]);
    assert_eq!(made["built"]["drop"], candidate["drop"]);
}

#[test]
fn a_drop_is_met_after_training_or_refused() {
    let place = trained();
    let prescribe = |more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--threads", "2"]).args(more);
        command.arg("-o").arg(place.path(out)).output().unwrap()
    };
    let output = prescribe(&["--max-drop", "20pp", "--train-images", "600", "--attempts", "3"], "child.safetensors");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = json(&place, "child.json");
    assert!(made["judged"]["drop"][0].as_f64().unwrap() <= 20.0);
    assert!(made["judged"]["cost"]["macs"].as_u64() < made["before"]["cost"]["macs"].as_u64());
    assert_ne!(made["built"]["accuracy"], Value::Null);

    let refused = |more: &[&str], word: &str| {
        let output = prescribe(more, "none.onnx");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(word), "{said}");
        assert!(!place.path("none.onnx").exists());
    };
    refused(&["--max-macs", "0.01%", "--no-training"], "the nearest network that was found");
    refused(&["--max-drop", "much"], "percentage points");
    refused(&["--max-latency", "0ms"], "above 0");
    refused(&["--max-drop", "1", "--scheme", "hint"], "distill-global");
    let mut command = nettriage();
    command.arg("prescribe").arg(place.path("run")).args(["--max-drop", "1", "-o"]).arg(place.path("x.txt"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(".onnx or .safetensors"));
}

#[test]
fn trust_comes_from_trained_children() {
    let place = Place::new(&STUDY.replace(
        "\"random\", \"first\", \"last\", \"mean\", \"collapse\", \"least-squares\"",
        "\"random\", \"least-squares\"",
    ));
    let mut command = place.run("run", &[]);
    assert!(command.output().unwrap().status.success());
    let run = place.path("run");
    let found = scan(&place, "scan.json", &["--ranges", "blocks", "--study", run.to_str().unwrap()]);
    for (trust, init) in found["trust"].as_array().unwrap().iter().zip(["random", "least-squares"]) {
        assert_eq!((&trust["init"], &trust["scheme"]), (&init.into(), &"global".into()));
        assert_eq!(trust["parents"], 1);
        assert_eq!(trust["blocks"], 2);
        assert!([-1.0, 1.0].contains(&trust["tau"].as_f64().unwrap()), "two blocks: {trust}");
        assert_eq!(trust["each"][0], trust["tau"]);
        assert!(trust["interval"].is_null(), "one parent has no interval");
    }
    assert_eq!(found["trust"].as_array().unwrap().len(), 2);
}

#[test]
fn test_images_that_judge_are_not_tested_on() {
    let place = trained();
    let prescribe = |more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--max-macs", "90%", "--no-training", "--threads", "2"]);
        command.args(more).arg("-o").arg(place.path(out)).output().unwrap()
    };
    let made = |more: &[&str], out: &str| {
        let output = prescribe(more, &format!("{out}.onnx"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&place, &format!("{out}.json"))
    };
    let (whole, parted) =
        (made(&["--judged", "100"], "whole"), made(&["--judged", "100", "--judge-on-test"], "parted"));
    assert_eq!(parted["judged_from"], "the first 100 test images; the test set is the others");
    // The correct ones among the 100 and the other 260 sum to those of all 360.
    let right = |figures: &Value, images: f64| (figures["accuracy"].as_f64().unwrap() * images).round();
    let parts = right(&parted["before"], 100.0) + right(&parted["test"][0], 260.0);
    assert_eq!(parts, right(&whole["test"][0], 360.0));

    for (more, word) in
        [(["--judged", "360"], "leaves none of the 360 to test on"), (["--judged", "100"], "--unlabelled")]
    {
        let unlabelled = (word == "--unlabelled").then_some("--unlabelled");
        let more: Vec<&str> = more.into_iter().chain(["--judge-on-test"]).chain(unlabelled).collect();
        let output = prescribe(&more, "none.onnx");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word) && !place.path("none.onnx").exists(), "{said}");
    }
}
