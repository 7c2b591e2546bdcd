//! Properties of controls and readings that do not depend on the measured numbers.

mod common;

use common::{Place, STUDY, nettriage, succeeded};
use nettriage_formats::{onnx, safetensors};
use nettriage_net::layer::{Activation, AdaptiveAvgPool, Constant, Conv, Linear};
use nettriage_net::{Graph, INPUT, Kind, Layer, Network, Shape, Tensor, Weights};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// The common study with one init, schemes of every kind, and only the controls under test.
fn study() -> String {
    let (head, _) = STUDY.split_once("[triage]").unwrap();
    let schemes = r#"["none", "local", "global", "hint-then-distill", "distill-blocks"]"#;
    format!("{head}[triage]\ninits = [\"least-squares\"]\nschemes = {schemes}\nreinit = []\ndrop = []\n")
}

fn records(place: &Place) -> Vec<Value> {
    let entries = std::fs::read_dir(place.path("run/trials")).unwrap();
    let record = |path: std::path::PathBuf| -> Value {
        let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        value["payload"].clone()
    };
    entries.map(|entry| record(entry.unwrap().path())).collect()
}

#[test]
fn a_placebo_equals_the_fine_tuned_parent_and_unchanged_tensors_have_similarity_one() {
    let place = Place::new(&study());
    succeeded(&place.run("run", &[]).output().unwrap());
    let records = records(&place);
    let of = |role: &str| -> Vec<&Value> { records.iter().filter(|r| r["spec"]["role"] == role).collect() };
    let placebos = of("placebo");
    // Two seeds under each scheme that trains every layer.
    assert_eq!(placebos.len(), 6);
    for placebo in placebos {
        let twin = of("parent-continued")
            .into_iter()
            .find(|control| ["scheme", "seed", "block"].iter().all(|key| control["spec"][key] == placebo["spec"][key]));
        let (own, other) = (&placebo["readings"], &twin.unwrap()["readings"]);
        for reading in ["test", "validation", "curve", "test_correct", "similarity"] {
            assert_eq!(own[reading], other[reading], "{reading}");
        }
        for layer in own["similarity"]["layers"].as_array().unwrap() {
            // Before training it equals the parent.
            assert!(layer["before"].is_null() || (layer["before"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{layer}");
        }
    }
    for child in of("child") {
        let layers = child["readings"]["similarity"]["layers"].as_array().unwrap();
        let at = |layer: &Value, when: &str| layer[when].as_f64().unwrap();
        let known: Vec<&Value> = layers.iter().filter(|l| !l["before"].is_null() && !l["after"].is_null()).collect();
        assert!(known.len() > 2);
        let scheme = child["spec"]["scheme"].as_str().unwrap();
        assert!(scheme != "none" || known.iter().all(|layer| layer["before"] == layer["after"]));
        // Below the second block a child equals the parent, also after training if only the substitute trains.
        if child["spec"]["block"] == "block2" {
            assert!((at(known[0], "before") - 1.0).abs() < 1e-6);
            let global = ["global", "hint-then-distill", "distill-blocks"].contains(&scheme);
            assert!(global || (at(known[0], "after") - 1.0).abs() < 1e-6);
        }
        assert!(at(known[known.len() - 1], "before") < 1.0 - 1e-6, "the substitute changes what lies above it");
        let patches = child["readings"]["filters"]["patches"].as_array().unwrap();
        assert!(patches.iter().flat_map(|list| list.as_array().unwrap()).all(|patch| {
            let number = |key: &str| patch[key].as_u64().unwrap();
            number("image") < 100 && number("top") + number("height") <= 8 && number("left") + number("width") <= 8
        }));
        assert!(child["clock"]["machine"]["cores"].as_u64().unwrap() > 0);
    }
    let page = std::fs::read_to_string(place.path("run/report.html")).unwrap();
    let machine = of("child")[0]["clock"]["machine"]["processor"].as_str().unwrap();
    assert!(page.contains("placebo: no layer replaced") && page.contains(machine));
    // The page shows the machines of the records, not the one that renders it.
    let images: Value = serde_json::from_slice(&std::fs::read(place.path("run/pictures.json")).unwrap()).unwrap();
    assert_eq!(images["payload"]["shape"], serde_json::json!([8, 8, 1]));
    assert_eq!(images["payload"]["labels"].as_array().unwrap().len(), 100);
}

/// A folder of noisy grey images in three classes, each with 16 training and 8 test images.
fn grey_folder(folder: &std::path::Path) {
    let mut state = 1_u32;
    for (part, count) in [("train", 16), ("val", 8)] {
        for class in 0..3_u8 {
            let inside = folder.join(part).join(format!("class{class}"));
            std::fs::create_dir_all(&inside).unwrap();
            for number in 0..count {
                let image = image::GrayImage::from_fn(8, 8, |_, _| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    image::Luma([64 * class + (state >> 25) as u8])
                });
                image.save(inside.join(format!("{number}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn trials_on_a_subset_of_test_images_are_compared_with_the_parent_on_the_same_subset() {
    let place = Place::new("");
    grey_folder(&place.path("images"));
    // With a learning rate of 0 training changes nothing.
    let study = format!(
        r#"
name = "grey"
[data]
name = "folder"
dir = {:?}
size = 8
validation = 24
test = 9
[parent]
arch = "vgg"
plan = [[4, 4]]
batch_norm = false
[parent.training]
epochs = 4
batch = 8
rate = 0.05
[children]
seeds = 1
images = 24
batch = 8
rate = 1e-12
[triage]
inits = ["random"]
reinit = []
drop = []
schemes = ["global"]
"#,
        place.path("images")
    );
    std::fs::write(place.path("study.toml"), study).unwrap();
    succeeded(&place.run("run", &[]).output().unwrap());
    let records = records(&place);
    let placebo = records.iter().find(|record| record["spec"]["role"] == "placebo").unwrap();
    assert_eq!(placebo["readings"]["test"]["images"], 9);
    assert_eq!(placebo["readings"]["test"]["agreement"], 1.0);
    let images: Value = serde_json::from_slice(&std::fs::read(place.path("run/pictures.json")).unwrap()).unwrap();
    assert_eq!(images["payload"]["labels"], serde_json::json!([0, 1, 2, 0, 1, 2, 0, 1, 2]));
}

/// A network for digits with a scale and a mask that are not learned, as attention has.
fn with_constants(scale: f32) -> Network {
    let layer = |name: &str, inputs: &[&str], kind: Kind| Layer {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        kind,
    };
    let relu = || Kind::Activation(Activation::Relu);
    let shape = Shape::new(4, 8, 8);
    let layers = vec![
        layer("a", &[INPUT], Kind::Conv(Conv::same(4, 3))),
        layer("relu_a", &["a"], relu()),
        layer("scale", &["relu_a"], Kind::Affine),
        layer("mask", &["scale"], Kind::Constant(Constant { shape, learned: false })),
        layer("masked", &["scale", "mask"], Kind::Add),
        layer("relu_m", &["masked"], relu()),
        layer("b", &["relu_m"], Kind::Conv(Conv::same(4, 3))),
        layer("relu_b", &["b"], relu()),
        layer("mean", &["relu_b"], Kind::AdaptiveAvgPool(AdaptiveAvgPool { height: 1, width: 1 })),
        layer("head", &["mean"], Kind::Linear(Linear { features: 10, bias: true })),
    ];
    let graph = Graph { name: "constants".into(), input: Shape::new(1, 8, 8), layers, output: "head".into() };
    let mut network = Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
    network.weights.insert("scale.weight".into(), Tensor { shape: vec![4], data: vec![scale; 4] });
    let data = (0..shape.elements()).map(|at| if at % 8 > 4 { -1.5 } else { 0.0 }).collect();
    network.weights.insert("mask.weight".into(), Tensor { shape: vec![4, 8, 8], data });
    network
}

/// The weights in the files of a run whose names begin so.
fn weights(place: &Place, beginning: &str) -> Vec<Weights> {
    let entries = std::fs::read_dir(place.path("run/weights")).unwrap().map(|entry| entry.unwrap());
    let of_kind = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(beginning));
    of_kind.map(|entry| safetensors::from_bytes(&std::fs::read(entry.path()).unwrap()).unwrap().weights).collect()
}

#[test]
fn training_and_re_initialisation_keep_the_constants_of_a_graph_in_a_file() {
    let text = study().replace("arch = \"vgg\"\nplan = [[6, 6], [8, 8]]", "arch = \"net.onnx\"");
    let text = text.replace(r#""none", "local", "global", "hint-then-distill", "distill-blocks""#, r#""global""#);
    let block = "[[triage.block]]\nname = \"both\"\nfirst = \"a\"\nlast = \"relu_b\"\n";
    let place = Place::new(&(text.replace("reinit = []", "reinit = [\"global\"]") + block));
    let given = with_constants(8_f32.sqrt().recip());
    onnx::write(&given, place.path("net.onnx")).unwrap();
    succeeded(&place.run("run", &[]).output().unwrap());
    let (parents, children) = (weights(&place, "parent-"), weights(&place, "child-"));
    assert_eq!(parents.len(), 1);
    assert_ne!(parents[0]["a.weight"], given.weights["a.weight"]);
    // The child whose block is one layer holds no constants.
    let of_children: Vec<&Weights> = children.iter().filter(|child| child.contains_key("scale/Mul.weight")).collect();
    assert_eq!((of_children.len(), children.len()), (7, 9));
    for trained in parents.iter().chain(of_children) {
        // Read from ONNX, they have the names of its nodes and tensors.
        for (own, name) in [
            ("scale/Mul.weight", "scale.weight"),
            ("scale/Mul.bias", "scale.bias"),
            ("mask.weight.weight", "mask.weight"),
        ] {
            assert_eq!(trained[own].data, given.weights[name].data, "{name}");
        }
    }
    // A graph in JSON has no values for them.
    std::fs::write(place.path("graph.json"), serde_json::to_string(&given.graph).unwrap()).unwrap();
    let study = std::fs::read_to_string(place.path("study.toml")).unwrap();
    std::fs::write(place.path("json.toml"), study.replace("net.onnx", "graph.json")).unwrap();
    let refused = nettriage().arg("run").arg(place.path("json.toml")).arg("--dry-run").output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("graph.json") && message.contains("`scale` is a constant"), "{message}");
    // Two files that differ in a constant alone are two parents.
    onnx::write(&with_constants(0.25), place.path("net.onnx")).unwrap();
    let mut train = nettriage();
    train.arg("train").arg(place.path("study.toml")).arg("--out").arg(place.path("other"));
    succeeded(&train.output().unwrap());
    let ids = |run: &str| {
        let entries = std::fs::read_dir(place.path(run).join("parents")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_ne!(ids("run"), ids("other"));
}
