//! `scan` and `prescribe` on the embedded digits.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Place, STUDY, nettriage};
use nettriage_net::layer::Linear;
use nettriage_net::{Activation, Conv, Graph, Kind, Layer, Network, Shape};
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
    assert_eq!((&one["measure"], &blind["measure"]), (&"accuracy".into(), &"classes".into()));
    let agreement = |scan: &Value| scan["ranges"][0]["candidates"][0]["agreement"].clone();
    assert!(agreement(&one).is_f64());
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
fn a_front_has_networks_of_several_sizes() {
    let place = trained();
    scan(&place, "scan.json", &["--threads", "2"]);
    let front = |work: &str, out: &str, more: &[&str]| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--threads", "2"]).args(more);
        command.arg("--scan").arg(place.path("scan.json")).arg("--work").arg(place.path(work));
        command.arg("-o").arg(place.path(out)).output().unwrap()
    };
    let options = ["--front", "3", "--max-macs", "95%", "--train-images", "256"];
    let output = front("work", "small.onnx", &options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let made = json(&place, "small.json");
    let networks = made["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 3);
    let macs: Vec<u64> =
        networks.iter().map(|network| network["prescription"]["test"][1]["cost"]["macs"].as_u64().unwrap()).collect();
    assert!(macs.is_sorted_by(|larger, smaller| larger > smaller), "{macs:?}");
    let original = made["networks"][0]["prescription"]["before"]["cost"]["macs"].as_u64().unwrap();
    assert!(macs[0] * 100 <= original * 95);
    // Between the two ends, about half-way: no plan that was left out is nearer to the middle.
    let plans: Vec<u64> =
        made["plans"].as_array().unwrap().iter().map(|plan| plan["cost"]["macs"].as_u64().unwrap()).collect();
    let middle = (macs[0] + macs[2]) as f64 / 2.0;
    let distance = |macs: u64| (macs as f64 - middle).abs();
    let inner = plans.iter().filter(|&&plan| plan < macs[0] && plan > macs[2]);
    assert!(inner.clone().count() >= 1 && inner.map(|&plan| distance(plan)).all(|other| other >= distance(macs[1])));
    for (number, network) in (1..).zip(networks) {
        let name = format!("small-{number}.onnx");
        assert_eq!(network["file"], name.as_str());
        assert!(said.contains(&name), "{said}");
        let mut command = nettriage();
        command.arg("evaluate").arg(place.path(&name)).args(["--data", "digits", "--json"]);
        let evaluated: Value = serde_json::from_slice(&succeeds(command).stdout).unwrap();
        assert_eq!(evaluated["top1"], network["prescription"]["test"][1]["accuracy"]);
        let card = std::fs::read_to_string(place.path(&format!("small-{number}.md"))).unwrap();
        assert!(card.contains(&format!("Network {number} of 3. ")), "{card}");
    }
    assert!(std::fs::read_to_string(place.path("small.html")).unwrap().contains("small-3.onnx"));
    // The folder has the networks: the same command writes the same files.
    let again = front("work", "again.onnx", &options);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(!String::from_utf8_lossy(&again.stderr).contains("training: step"), "nothing is trained again");
    for number in 1..=3 {
        let bytes = |name: &str| std::fs::read(place.path(&format!("{name}-{number}.onnx"))).unwrap();
        assert_eq!(bytes("small"), bytes("again"));
    }
    // Two at a time: the same networks and figures.
    let two = front("work2", "two.onnx", &[&options[..], &["--workers", "2"]].concat());
    assert!(two.status.success(), "{}", String::from_utf8_lossy(&two.stderr));
    let said = String::from_utf8_lossy(&two.stderr).into_owned();
    assert!((1..=3).all(|number| said.contains(&format!("network {number}: drop "))), "{said}");
    for number in 1..=3 {
        let bytes = |name: &str| std::fs::read(place.path(&format!("{name}-{number}.onnx"))).unwrap();
        assert_eq!(bytes("small"), bytes("two"));
    }
    let figures = |name: &str| {
        let mut made = timeless(json(&place, name));
        for network in made["networks"].as_array_mut().unwrap() {
            network["file"] = Value::Null;
            network["prescription"]["time_ratio"] = Value::Null;
        }
        made
    };
    assert_eq!(figures("small.json"), figures("two.json"));
    // The first is predicted from the scan, the others also from those before them.
    let corrected: Vec<bool> =
        networks.iter().map(|network| network["prescription"]["corrected"]["drop"][0].is_f64()).collect();
    assert_eq!(corrected, [false, true, true]);
    // Fewer plans than networks: a note says so.
    let all = front("work", "all.onnx", &["--front", "100", "--max-macs", "95%", "--no-training"]);
    let note = String::from_utf8(all.stderr).unwrap();
    assert!(all.status.success() && note.contains("plans that satisfy the bounds"), "{note}");
    let refused = front("work", "none.onnx", &["--front", "3", "--max-macs", "1"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("cannot be met") && !place.path("none-1.onnx").exists(), "{message}");
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
    assert_eq!(made["training"], "distill-global, 600 images, rate 0.01");
    // Another optimiser trains another network from the same selection.
    let one = ["--max-macs", "80%", "--train-images", "600"];
    let trained = |recipe: &str| {
        let out = format!("{recipe}.safetensors");
        assert!(prescribe(&[&one[..], &["--recipe", recipe]].concat(), &out).status.success());
        let made = json(&place, &format!("{recipe}.json"));
        (made["training"].as_str().unwrap().to_owned(), std::fs::read(place.path(&out)).unwrap())
    };
    let (sgd, adam_w) = (trained("cosine"), trained("adam-w"));
    assert_eq!(sgd.0, "distill-global, 600 images, rate 0.01, cosine");
    assert_eq!(adam_w.0, "distill-global, 600 images, rate 0.0005, AdamW, cosine");
    assert_ne!(sgd.1, adam_w.1);
    // Two at a time, from the same scan: the first is the same network, the limit is kept, and a repetition gives the same file.
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let first = |output: &Output| said(output).lines().find(|line| line.starts_with("network 1: ")).map(str::to_owned);
    let scan = place.path("child.scan.json");
    let drop = ["--max-drop", "20pp", "--train-images", "600", "--attempts", "3", "--workers", "2", "--scan"];
    let drop = [&drop[..], &[scan.to_str().unwrap()]].concat();
    let two = [prescribe(&drop, "two.safetensors"), prescribe(&drop, "again.safetensors")];
    assert!(two.iter().all(|output| output.status.success()), "{}", said(&two[0]));
    assert!(first(&output).is_some() && first(&two[0]) == first(&output), "{}", said(&two[0]));
    assert!(json(&place, "two.json")["judged"]["drop"][0].as_f64().unwrap() <= 20.0);
    let bytes = |file: &str| std::fs::read(place.path(file)).unwrap();
    assert!(bytes("two.safetensors") == bytes("again.safetensors"));

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
    refused(&["--min-gain", "0.5x"], "a factor such as 1.2x");
    refused(&["--max-drop", "1", "--scheme", "hint"], "distill-global");
    refused(&["--max-drop", "1", "--workers", "0"], "--workers");
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
        command.arg("prescribe").arg(place.path("run")).args(["--max-macs", "90%", "--threads", "2"]);
        let training = if more.contains(&"--epochs") { None } else { Some("--no-training") };
        command.args(training).args(more).arg("-o").arg(place.path(out)).output().unwrap()
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

    // The 100 training images that would have judged are trained on.
    let images = |more: &[&str]| {
        let found = made(&[&["--judged", "100", "--epochs", "0.2"], more].concat(), "tuned");
        let words = found["training"].as_str().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>();
        words[words.iter().position(|word| word == "images,").unwrap() - 1].parse::<usize>().unwrap()
    };
    assert_eq!(images(&["--judge-on-test"]), images(&[]) + 20);

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

/// The line with which a command is refused.
#[track_caller]
fn refused(mut command: Command) -> String {
    common::refused(&command.output().unwrap())
}

/// A network for the digits whose weights are random, written to a file.
fn written(place: &Place, name: &str, graph: Graph) -> PathBuf {
    let network = Network::initialised(graph, &mut nettriage::seeded(3)).unwrap();
    nettriage::onnx::write(&network, place.path(name)).unwrap();
    place.path(name)
}

/// Two convolutions and what follows them, on the digits.
fn convolutions(filters: [usize; 2], closing: &[Kind]) -> Graph {
    let relu = Kind::Activation(Activation::Relu);
    let kinds = [Kind::Conv(Conv::same(8, 3)), relu.clone(), Kind::Conv(Conv::same(filters[0], 3)), relu];
    let kinds = kinds.into_iter().chain([Kind::Conv(Conv::same(filters[1], 3))]).chain(closing.iter().cloned());
    let mut layers: Vec<Layer> = Vec::new();
    for (number, kind) in kinds.enumerate() {
        let input = layers.last().map_or(nettriage_net::INPUT.to_owned(), |layer| layer.name.clone());
        layers.push(Layer { name: format!("layer{number}"), inputs: vec![input], kind });
    }
    let output = layers[layers.len() - 1].name.clone();
    Graph { name: "outputs".into(), input: Shape::new(1, 8, 8), layers, output }
}

/// A network with one number as output, and one with two classes at each of 8 x 8 positions.
fn one_number() -> Graph {
    convolutions([8, 8], &[Kind::Flatten, Kind::Linear(Linear { features: 1, bias: true })])
}

fn two_classes_everywhere() -> Graph {
    convolutions([8, 2], &[])
}

fn scan_file(place: &Place, model: &Path, more: &[&str]) -> Command {
    let mut command = nettriage();
    command.arg("scan").arg(model).args(["--data", "digits", "--judged", "100", "--images", "300"]).args(more);
    command.arg("--json").arg(place.path("scan.json")).arg("-o").arg(place.path("scan.html"));
    command
}

#[test]
fn outputs_that_are_no_classes_are_judged_by_what_they_are() {
    let place = Place::new("");
    let model = written(&place, "number.onnx", one_number());
    let said = succeeds(scan_file(&place, &model, &["--unlabelled"]));
    assert!(String::from_utf8_lossy(&said.stdout).contains("taken for numbers"));
    let found = json(&place, "scan.json");
    assert_eq!(found["measure"], "values");
    let candidates: Vec<Value> =
        found["ranges"].as_array().unwrap().iter().flat_map(|r| r["candidates"].as_array().unwrap().clone()).collect();
    // The share of unchanged predictions of one output would be 1 everywhere.
    assert!(candidates.iter().all(|c| c["agreement"].is_null() && c["r2"].as_f64().unwrap() <= 1.0));
    assert!(candidates.iter().any(|c| c["r2"].as_f64().unwrap() < 0.99));

    // R² and relative error of the prescribed network, computed from the outputs of both files.
    let prescribe = |max: &str, more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(&model).args(["--data", "digits", "--unlabelled", "--judged", "100"]);
        command.args(["--max-drop", max, "--images", "300"]).args(more).arg("-o").arg(place.path(out));
        command
    };
    succeeds(prescribe("60", &["--no-training"], "small.onnx"));
    let made = json(&place, "small.json");
    assert_eq!(made["measure"], "values");
    let r2 = made["judged"]["r2"].as_f64().unwrap();
    assert!((0.4..1.0).contains(&r2), "a loss of at most 60% is an R² of at least 0.4: {r2}");
    let mut command = nettriage();
    command.arg("evaluate").arg(place.path("small.onnx")).args(["--data", "digits", "--unlabelled", "--json"]);
    command.args(["--limit", "120", "--mean", "0.5", "--std", "0.5", "--against"]).arg(&model);
    let found: Value = serde_json::from_slice(&succeeds(command).stdout).unwrap();
    let [y, x] = [&model, &place.path("small.onnx")].map(|path| outputs(path, 120));
    let mean = y.iter().sum::<f64>() / y.len() as f64;
    let residual: f64 = y.iter().zip(&x).map(|(y, x)| (y - x).powi(2)).sum();
    let expected = 1.0 - residual / y.iter().map(|y| (y - mean).powi(2)).sum::<f64>();
    assert!((found["fidelity"]["r2"].as_f64().unwrap() - expected).abs() < 1e-9, "{found}, {expected}");
    let relative = (residual / y.iter().map(|y| y * y).sum::<f64>()).sqrt();
    assert!((found["fidelity"]["relative_error"].as_f64().unwrap() - relative).abs() < 1e-9);

    // Training fits the parent's outputs: more of the variance is explained.
    let trained = ["--train-images", "3000", "--rate", "0.003", "--scan"];
    let scan = place.path("small.scan.json");
    let trained = [&trained[..], &[scan.to_str().unwrap()]].concat();
    let said = succeeds(prescribe("60", &trained, "trained.onnx"));
    assert!(String::from_utf8_lossy(&said.stderr).contains("training: step 24 of 24"), "progress in plain lines");
    let made = json(&place, "trained.json");
    let [built, judged] = ["built", "judged"].map(|stage| made[stage]["r2"].as_f64().unwrap());
    assert!(judged > built, "{judged} {built}");

    let said = refused(scan_file(&place, &model, &["--unlabelled", "--outputs", "classes"]));
    assert!(said.contains("a single output, which cannot be classes"), "{said}");
    let said = refused(scan_file(&place, &model, &["--unlabelled", "--methods", "relu+gradients"]));
    assert!(said.contains("+gradients needs one vector of classes"), "{said}");
    assert!(refused(scan_file(&place, &model, &[])).contains("--unlabelled"));
}

/// The outputs of a file for the first test images of the digits, normalised by 0.5 and 0.5.
fn outputs(path: &Path, count: usize) -> Vec<f64> {
    let network = nettriage::load(path, &nettriage::LoadOptions::default()).unwrap().network;
    let data = nettriage::data::open("digits", None).unwrap();
    let pixels: Vec<f32> = (0..count * 64).map(|i| (f32::from(data.test.pixels[i]) / 255.0 - 0.5) / 0.5).collect();
    let mut model = nettriage_engine::Model::new(&network, &nettriage_engine::Options::inference(count)).unwrap();
    model.forward(&pixels).iter().map(|&y| f64::from(y)).collect()
}

#[test]
fn dense_classes_are_judged_at_every_position() {
    let place = Place::new("");
    let model = written(&place, "dense.onnx", two_classes_everywhere());
    succeeds(scan_file(&place, &model, &["--unlabelled"]));
    let found = json(&place, "scan.json");
    assert_eq!(found["measure"], "dense-classes");
    // The argmax over all 128 values, which has
    // one image in a hundred at stake, could not take a value between hundredths.
    let shares = found["ranges"].as_array().unwrap().iter().flat_map(|r| r["candidates"].as_array().unwrap());
    let shares: Vec<f64> = shares.map(|c| c["agreement"].as_f64().unwrap()).collect();
    assert!(shares.iter().all(|share| (share * 6400.0 - (share * 6400.0).round()).abs() < 1e-6));
    assert!(shares.iter().any(|share| (share * 100.0 - (share * 100.0).round()).abs() > 1e-6), "{shares:?}");
    let mut command = nettriage();
    command.arg("prescribe").arg(&model).args([
        "--data",
        "digits",
        "--unlabelled",
        "--judged",
        "100",
        "--min-gain",
        "1.05x",
    ]);
    command.args(["--max-macs", "99%", "--no-training", "-o"]).arg(place.path("small.onnx"));
    let said = succeeds(command);
    assert!(String::from_utf8_lossy(&said.stdout).contains("positions changed"), "{said:?}");
    let said = refused(scan_file(&place, &model, &[]));
    assert!(said.contains("one an image"), "{said}");
}

#[test]
fn a_network_whose_outputs_are_constant_or_not_finite_is_refused_by_name() {
    let place = Place::new("");
    let mut graph = one_number();
    graph.name = "constant".into();
    let mut network = Network::initialised(graph, &mut nettriage::seeded(3)).unwrap();
    network.weights.get_mut("layer6.weight").unwrap().data.fill(0.0);
    nettriage::onnx::write(&network, place.path("constant.onnx")).unwrap();
    let said = refused(scan_file(&place, &place.path("constant.onnx"), &["--unlabelled"]));
    assert!(said.contains("the same for all judged images"), "{said}");
    // Large but finite weights, whose products overflow in the second convolution.
    let mut network = Network::initialised(convolutions([8, 8], &[]), &mut nettriage::seeded(3)).unwrap();
    for layer in ["layer0", "layer2"] {
        network.weights.get_mut(&format!("{layer}.weight")).unwrap().data.fill(1e30);
    }
    nettriage::onnx::write(&network, place.path("large.onnx")).unwrap();
    let said = refused(scan_file(&place, &place.path("large.onnx"), &["--unlabelled"]));
    assert!(said.contains("layer \"layer2\" is the first whose output"), "{said}");
}

#[test]
fn ranges_are_kept_and_replaced_by_their_names() {
    let place = trained();
    let found = scan(&place, "scan.json", &["--threads", "2"]);
    let ranges = found["ranges"].as_array().unwrap();
    let name = |range: &Value| range["name"].as_str().unwrap().to_owned();
    let wanted = name(ranges.iter().find(|r| r["units"][0] != r["units"][1] && r["units"][0] != 0).unwrap());
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let prescribe = |more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
        command.args(more).arg("--scan").arg(place.path("scan.json")).arg("-o").arg(place.path(out));
        command
    };
    let said = text(&succeeds(prescribe(&["--replace", &wanted], "one.onnx")));
    let replaced = |file: &str| -> Vec<String> {
        json(&place, file)["replaced"].as_array().unwrap().iter().map(|r| r["range"].as_str().unwrap().into()).collect()
    };
    assert_eq!(replaced("one.json"), std::slice::from_ref(&wanted));
    // The scan, prescribe, the card and the page name the range alike.
    let page = std::fs::read_to_string(place.path("one.html")).unwrap();
    let card = std::fs::read_to_string(place.path("one.md")).unwrap();
    let scan_page = std::fs::read_to_string(place.path("scan.html")).unwrap();
    assert!([&said, &page, &card.replace('\\', ""), &scan_page].iter().all(|text| text.contains(&wanted)), "{wanted}");

    let first = found["units"][0]["name"].as_str().unwrap();
    succeeds(prescribe(&["--max-macs", "80%", "--keep", first], "kept.onnx"));
    let by_name = |name: &String| ranges.iter().find(|r| r["name"] == **name).unwrap()["units"][0].as_u64().unwrap();
    assert!(replaced("kept.json").iter().all(|name| by_name(name) > 0));
    let said = refused(prescribe(&["--max-macs", "80%", "--keep", "nothing"], "none.onnx"));
    assert!(said.contains("no range `nothing`") && said.contains(first), "{said}");
    let said = refused(prescribe(&["--replace", &wanted, "--keep", &wanted], "none.onnx"));
    assert!(said.contains("overlap"), "{said}");
    let said = refused(prescribe(&["--max-macs", "99%", "--min-gain", "1000x"], "none.onnx"));
    assert!(said.contains("--min-gain 1000x: cannot be met"), "{said}");
    assert!(!place.path("none.onnx").exists());
}

#[test]
fn the_scan_of_a_prescription_is_kept_and_belongs_to_its_network() {
    let place = trained();
    let prescribe = |more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
        command.args(more).arg("-o").arg(place.path(out));
        command
    };
    let said = succeeds(prescribe(&["--max-macs", "80%"], "small.onnx"));
    let kept = place.path("small.scan.json");
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("scan: {}", kept.display())));
    succeeds(prescribe(&["--max-macs", "80%", "--scan", kept.to_str().unwrap()], "again.onnx"));
    assert_eq!(json(&place, "small.json")["replaced"], json(&place, "again.json")["replaced"]);
    assert!(!place.path("again.scan.json").exists(), "nothing was scanned");
    let own = place.path("own.json");
    succeeds(prescribe(&["--max-macs", "80%", "--save-scan", own.to_str().unwrap()], "third.onnx"));
    assert!(own.exists() && !place.path("third.scan.json").exists());
    // Refusals come before the scan, or leave it.
    refused(prescribe(&["--max-macs", "0.01%"], "none.onnx"));
    assert!(place.path("none.scan.json").exists() && !place.path("none.onnx").exists());
    for wrong in
        [&["--max-macs", "80%", "--keep", "nothing"][..], &["--max-drop", "1", "--judge-on-test", "--judged", "360"]]
    {
        let output = prescribe(wrong, "early.onnx").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("closed forms") && !place.path("early.scan.json").exists(), "{said}");
    }
    // The same structure with other weights.
    let other =
        Place::new(&STUDY.replace("[[6, 6], [8, 8]]", "[[8, 8, 8], [16, 16]]").replace("rate = 0.05", "rate = 0.06"));
    let mut command = nettriage();
    command.arg("train").arg(other.path("study.toml")).arg("--out").arg(other.path("run"));
    succeeds(command);
    let mut command = nettriage();
    command.arg("prescribe").arg(other.path("run")).args(["--judged", "100", "--max-macs", "80%", "--scan"]).arg(&kept);
    let said = refused({
        command.arg("-o").arg(other.path("x.onnx"));
        command
    });
    assert!(said.contains("with other weights or layers"), "{said}");
    // A study of another structure says nothing of this network's ranking.
    let other = Place::new(STUDY);
    let mut command = nettriage();
    command.arg("train").arg(other.path("study.toml")).arg("--out").arg(other.path("run"));
    succeeds(command);
    let mut command = nettriage();
    command.arg("scan").arg(place.path("run")).args(["--judged", "100", "--study"]).arg(other.path("run"));
    command.arg("-o").arg(place.path("none.html"));
    let said = refused(command);
    assert!(said.contains("a study of another network"), "{said}");
}

#[test]
fn a_latency_bound_is_met_as_it_is_measured() {
    let place = trained();
    let mut command = nettriage();
    command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
    command.args(["--max-latency", "90%", "--min-gain", "1.05x", "--batch", "16", "-o"]).arg(place.path("fast.onnx"));
    let said = String::from_utf8_lossy(&succeeds(command).stderr).into_owned();
    assert!(said.contains("% of the original's time"), "{said}");
    let made = json(&place, "fast.json");
    assert!(made["time_ratio"][0].as_f64().unwrap() <= 0.9, "{}", made["time_ratio"]);
    assert_eq!(made["timed_by"], "nettriage");
}

/// The rows of a list of parts, without quotation marks in its cells.
fn parts(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(cells);
    let header = lines.next().unwrap();
    lines.map(|line| header.iter().cloned().zip(line).collect()).collect()
}

/// The cells of a line of CSV.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cells.last_mut().unwrap().push(letter),
        }
    }
    cells
}

#[test]
fn times_come_from_a_table_that_the_user_filled_in() {
    let place = trained();
    let folder = place.path("parts");
    let found = scan(&place, "scan.json", &["--threads", "2", "--parts", folder.to_str().unwrap()]);
    let list = folder.join("parts.csv");
    let rows = parts(&list);
    let macs = |row: &std::collections::HashMap<String, String>| row["macs"].parse::<u64>().unwrap();
    assert!(rows.iter().all(|row| row["milliseconds"].is_empty()));
    // The units are the first rows: together they are the network.
    let units: u64 = rows
        .iter()
        .filter(|row| !row["part"].contains(", "))
        .map(|row| macs(row) * row["count"].parse::<u64>().unwrap())
        .sum();
    assert!(units >= found["parent"]["cost"]["macs"].as_u64().unwrap());
    for row in &rows {
        let part = nettriage::load(folder.join(&row["model"]), &nettriage::LoadOptions::default()).unwrap().network;
        assert_eq!(
            (part.graph.input.to_string(), part.graph.output_shape().unwrap().to_string()),
            (row["input"].clone(), row["output"].clone())
        );
        assert_eq!(nettriage_net::cost::total(&part.graph).unwrap().macs, macs(row), "{}", row["part"]);
    }
    // Times that are proportional to multiply-accumulates: a share of the time is a share of those.
    let table = |name: &str, milliseconds: &dyn Fn(&std::collections::HashMap<String, String>) -> Option<f64>| {
        let lines = rows.iter().filter_map(|row| Some(format!("{},{}\n", row["key"], milliseconds(row)?)));
        std::fs::write(place.path(name), format!("key,milliseconds\n{}", lines.collect::<String>())).unwrap();
        place.path(name)
    };
    let full = table("full.csv", &|row| Some(macs(row) as f64 / 1e4));
    let prescribe = |table: &Path, more: &[&str], out: &str| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
        command.arg("--scan").arg(place.path("scan.json")).arg("--latency-table").arg(table).args(more);
        command.arg("-o").arg(place.path(out));
        command
    };
    succeeds(prescribe(&full, &["--max-latency", "70%"], "small.onnx"));
    let made = json(&place, "small.json");
    let cost = |figures: &Value| figures["cost"]["macs"].as_u64().unwrap() as f64;
    let share = cost(&made["judged"]) / cost(&made["before"]);
    let ratio = made["time_ratio"][0].as_f64().unwrap();
    assert!(ratio <= 0.7 && (ratio - share).abs() < 1e-9, "{ratio} {share}");
    let milliseconds = |stage: &str| made[stage]["milliseconds"].as_f64().unwrap();
    assert!((milliseconds("before") - cost(&made["before"]) / 1e4).abs() < 1e-9);
    assert!((milliseconds("predicted") - milliseconds("judged")).abs() < 1e-9);
    assert_eq!(made["latency_table"], "full.csv");
    let card = std::fs::read_to_string(place.path("small.md")).unwrap();
    assert!(card.contains("`full.csv`") && card.contains("no pass of a whole network was timed"), "{card}");
    let refusal = |name: &str, leave_out: &str| {
        let path = table(name, &|row| (row["key"] != *leave_out).then(|| macs(row) as f64));
        refused(prescribe(&path, &["--max-latency", "70%"], "none.onnx"))
    };
    let missing = rows.iter().find(|row| row["part"].contains("conv3x3")).unwrap();
    let said = refusal("missing.csv", &missing["key"]);
    assert!(
        said.contains("missing.csv: no row for") && said.contains(&missing["key"]) && said.contains(&missing["part"]),
        "{said}"
    );
    let said = refused(prescribe(&table("none.csv", &|_| Some(0.0)), &["--max-latency", "70%"], "none.onnx"));
    assert!(said.contains("take no time"), "{said}");
    assert!(!place.path("none.onnx").exists());
    // What was filled in is not overwritten.
    let mut again = nettriage();
    again.arg("scan").arg(place.path("run")).arg("--parts").arg(&folder).arg("-o").arg(place.path("again.html"));
    assert!(refused(again).contains("would be lost") && !place.path("again.html").exists());
    let Some(python) = std::env::var_os("NETTRIAGE_PYTHON") else { return common::skipped("NETTRIAGE_PYTHON") };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/time_parts.py");
    let mut command = Command::new(python);
    command.arg(script).arg(&list);
    succeeds(command);
    assert!(parts(&list).iter().all(|row| row["milliseconds"].parse::<f64>().unwrap() > 0.0));
    succeeds(prescribe(&list, &["--max-latency", "90%"], "timed.onnx"));
    assert!(json(&place, "timed.json")["time_ratio"][0].as_f64().unwrap() <= 0.9);
}

#[test]
fn onnxruntime_measures_times_on_request() {
    let place = trained();
    let prescribe = |python: &Path| {
        let mut command = nettriage();
        command.arg("prescribe").arg(place.path("run")).args(["--judged", "100", "--no-training", "--threads", "2"]);
        command.args(["--max-latency", "95%", "--latency-in", "onnxruntime", "--batch", "16"]);
        command.arg("-o").arg(place.path("fast.onnx")).env("NETTRIAGE_PYTHON", python);
        command
    };
    let said = refused(prescribe(Path::new("/nowhere/python")));
    assert!(said.contains("NETTRIAGE_PYTHON") && said.contains("/nowhere/python"), "{said}");
    assert!(!place.path("fast.scan.json").exists(), "nothing was computed before");
    // A Python without onnxruntime.
    let bare = place.path("python");
    std::fs::write(&bare, "#!/bin/sh\necho '{\"missing\": \"No module named onnxruntime\"}'\n").unwrap();
    let mut permissions = std::fs::metadata(&bare).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&bare, permissions).unwrap();
    assert!(refused(prescribe(&bare)).contains("-m pip install onnxruntime"));
    let Some(python) = std::env::var_os("NETTRIAGE_PYTHON") else { return common::skipped("NETTRIAGE_PYTHON") };
    succeeds(prescribe(Path::new(&python)));
    let made = json(&place, "fast.json");
    assert!(made["timed_by"].as_str().unwrap().starts_with("onnxruntime 1."), "{}", made["timed_by"]);
    assert!(made["time_ratio"][0].as_f64().unwrap() <= 0.95);
}
