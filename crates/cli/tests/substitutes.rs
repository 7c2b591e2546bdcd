//! Substitutes for transformers and for networks of depthwise convolutions: studies, scans and prescriptions of two small networks.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{Place, assert_same, nettriage, refused, succeeded};
use nettriage_engine::{Model, Options};
use nettriage_formats::load::{LoadOptions, load};
use nettriage_formats::safetensors;
use nettriage_net::layer::{
    AdaptiveAvgPool, Concat, Constant, Gather, LayerNorm, Linear, MatMul, Permute, Reshape, Softmax,
};
use nettriage_net::{Activation, Axis, Conv, Graph, INPUT, Kind, Layer, Network, Shape, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Channels of the transformer, its tokens (16 patches and a class token), and its heads.
const CHANNELS: usize = 12;
const TOKENS: usize = 17;
const HEADS: usize = 2;

struct Builder(Graph);

impl Builder {
    fn new(name: &str) -> Builder {
        Builder(Graph { name: name.into(), input: Shape::new(1, 8, 8), layers: Vec::new(), output: INPUT.into() })
    }

    fn add(&mut self, name: &str, inputs: &[&str], kind: Kind) {
        let inputs = inputs.iter().map(|&input| input.into()).collect();
        self.0.layers.push(Layer { name: name.into(), inputs, kind });
        self.0.output = name.into();
    }

    /// With a classifier of what `summary` makes of the last tensor.
    fn finish(mut self, summary: Kind) -> Network {
        let last = self.0.output.clone();
        self.add("summary", &[&last], summary);
        self.add("head", &["summary"], Kind::Linear(Linear { features: 10, bias: true }));
        Network::initialised(self.0, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
    }
}

fn conv(filters: usize, kernel: usize) -> Kind {
    Kind::Conv(Conv::same(filters, kernel))
}

/// Two encoder layers on 16 patches of a digit and a class token.
fn transformer() -> Network {
    let mut net = Builder::new("transformer");
    let patches = Conv { stride: [2; 2], padding: Default::default(), ..Conv::same(CHANNELS, 2) };
    net.add("patches", &[INPUT], Kind::Conv(patches));
    net.add("tokens", &["patches"], Kind::Reshape(Reshape { shape: Shape::new(CHANNELS, 1, TOKENS - 1) }));
    net.add("class", &["tokens"], Kind::Constant(Constant { shape: Shape::new(CHANNELS, 1, 1), learned: true }));
    net.add("sequence", &["class", "tokens"], Kind::Concat(Concat { axis: Axis::Columns }));
    let (depth, norm) = (CHANNELS / HEADS, || Kind::LayerNorm(LayerNorm { eps: 1e-6, centred: true }));
    let split =
        Permute { extents: vec![HEADS, depth, TOKENS], order: vec![1, 0, 2], shape: Shape::new(depth, HEADS, TOKENS) };
    let merge =
        Permute { extents: vec![depth, HEADS, TOKENS], order: vec![1, 0, 2], shape: Shape::new(CHANNELS, 1, TOKENS) };
    let mut before = "sequence".to_owned();
    for at in 0..2 {
        let attn = |part: &str| format!("blocks.{at}.attn.{part}");
        let mlp = |part: &str| format!("blocks.{at}.mlp.{part}");
        net.add(&format!("blocks.{at}.norm1"), &[&before], norm());
        for part in ["q", "k", "v"] {
            net.add(&attn(part), &[&format!("blocks.{at}.norm1")], conv(CHANNELS, 1));
            net.add(&attn(&format!("{part}_heads")), &[&attn(part)], Kind::Permute(split.clone()));
        }
        net.add(&attn("scaled"), &[&attn("q_heads")], Kind::Affine);
        net.add(&attn("scores"), &[&attn("scaled"), &attn("k_heads")], Kind::MatMul(MatMul { transposed: true }));
        net.add(&attn("softmax"), &[&attn("scores")], Kind::Softmax(Softmax { log: false }));
        net.add(&attn("mixed"), &[&attn("softmax"), &attn("v_heads")], Kind::MatMul(MatMul { transposed: false }));
        net.add(&attn("merged"), &[&attn("mixed")], Kind::Permute(merge.clone()));
        net.add(&attn("proj"), &[&attn("merged")], conv(CHANNELS, 1));
        net.add(&format!("blocks.{at}.add1"), &[&before, &attn("proj")], Kind::Add);
        net.add(&format!("blocks.{at}.norm2"), &[&format!("blocks.{at}.add1")], norm());
        net.add(&mlp("fc1"), &[&format!("blocks.{at}.norm2")], conv(4 * CHANNELS, 1));
        net.add(&mlp("act"), &[&mlp("fc1")], Kind::Activation(Activation::Gelu { tanh: false }));
        net.add(&mlp("fc2"), &[&mlp("act")], conv(CHANNELS, 1));
        before = format!("blocks.{at}.add2");
        net.add(&before, &[&format!("blocks.{at}.add1"), &mlp("fc2")], Kind::Add);
    }
    let mut network = net.finish(Kind::Gather(Gather { axis: Axis::Columns, indices: vec![0] }));
    for at in 0..2 {
        let scale = Tensor { shape: vec![depth], data: vec![(depth as f32).sqrt().recip(); depth] };
        network.weights.insert(format!("blocks.{at}.attn.scaled.weight"), scale);
    }
    network
}

/// Inverted residual units with depthwise convolutions at two resolutions.
fn inverted_residuals() -> Network {
    let norm = || Kind::BatchNorm(nettriage_net::layer::BatchNorm { eps: 1e-5, momentum: 0.1 });
    let relu = || Kind::Activation(Activation::Relu);
    let mut net = Builder::new("inverted");
    net.add("stem", &[INPUT], conv(8, 3));
    net.add("stem_norm", &["stem"], norm());
    net.add("stem_relu", &["stem_norm"], relu());
    let mut before = "stem_relu".to_owned();
    let mut channels = 8;
    for (unit, stride, filters) in [(1, 1, 8), (2, 1, 8), (3, 2, 12), (4, 1, 12)] {
        let own = |part: &str| format!("features.{unit}.conv.{part}");
        let wide = 2 * channels;
        let depthwise = Kind::Conv(Conv { groups: wide, stride: [stride; 2], bias: false, ..Conv::same(wide, 3) });
        let dense = |filters: usize| Kind::Conv(Conv { bias: false, ..Conv::same(filters, 1) });
        for (at, (part, kind)) in
            [("0.0", dense(wide)), ("1.0", depthwise), ("2", dense(filters))].into_iter().enumerate()
        {
            net.add(&own(part), &[&before.clone()], kind);
            net.add(&own(&format!("norm{at}")), &[&own(part)], norm());
            before = own(&format!("norm{at}"));
            if at < 2 {
                net.add(&own(&format!("relu{at}")), &[&before], relu());
                before = own(&format!("relu{at}"));
            }
        }
        if unit == 2 || unit == 4 {
            let input = if unit == 2 { "features.1.conv.norm2" } else { "features.3.conv.norm2" };
            net.add(&format!("features.{unit}.add"), &[input, &before.clone()], Kind::Add);
            before = format!("features.{unit}.add");
        }
        channels = filters;
    }
    net.finish(Kind::AdaptiveAvgPool(AdaptiveAvgPool { height: 1, width: 1 }))
}

fn study(triage: &str) -> String {
    format!(
        r#"
name = "small"
[data]
name = "digits"
validation = 100
train = 300
test = 100
[parent]
arch = "net.safetensors"
[parent.training]
epochs = 2
batch = 32
rate = 0.02
[children]
seeds = 1
images = 64
batch = 32
rate = 0.02
curve = 1
calibration = 100
keep = "network"
[triage]
{triage}
"#
    )
}

/// A folder with a study of this network.
fn place(network: &Network, triage: &str) -> Place {
    let place = Place::new(&study(triage));
    std::fs::write(place.path("net.safetensors"), safetensors::to_bytes(network).unwrap()).unwrap();
    place
}

fn records(run: &Path) -> Vec<Value> {
    let record = |path: PathBuf| -> Value {
        let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        value["payload"].clone()
    };
    std::fs::read_dir(run.join("trials")).unwrap().map(|entry| record(entry.unwrap().path())).collect()
}

fn text<'v>(record: &'v Value, key: &str) -> &'v str {
    record["spec"][key].as_str().unwrap_or_default()
}

/// The child of a trial as it is after ONNX, and checks that its outputs are those of the stored weights.
fn exported(place: &Place, record: &Value) -> Network {
    let trial = text(record, "id");
    let written = ["onnx", "safetensors"].map(|ending| {
        let path = place.path(&format!("{trial}.{ending}"));
        let mut export = nettriage();
        export.arg("export").arg(place.path("run")).args(["--trial", trial, "-o"]).arg(&path);
        succeeded(&export.output().unwrap());
        load(&path, &LoadOptions::default()).unwrap().network
    });
    let inputs: Vec<f32> = (0..2 * 64).map(|at| ((at * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let [read, own] = [&written[0], &written[1]]
        .map(|network| Model::new(network, &Options::inference(2)).unwrap().forward(&inputs).to_vec());
    assert!(own.iter().any(|y| y.abs() > 1e-3) && own.iter().all(|y| y.is_finite()));
    let worst = read.iter().zip(&own).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{trial}: {worst}");
    let [_, own] = written;
    own
}

#[test]
fn a_linear_map_of_tokens_replaces_encoder_layers_attention_and_mlp() {
    let blocks = r#"
[[triage.block]]
name = "layers"
first = "blocks.0.norm1"
last = "blocks.1.add2"
[[triage.block]]
name = "attention"
first = "blocks.0.norm1"
last = "blocks.0.add1"
[[triage.block]]
name = "mlp"
first = "blocks.1.norm2"
last = "blocks.1.add2"
"#;
    let triage = format!(
        r#"
substitutes = ["conv1x1", "conv1x1+skip"]
inits = ["random", "least-squares", "identity"]
schemes = ["none", "global", "hint"]
reinit = ["global"]
placebo = ["global"]
{blocks}"#
    );
    let place = place(&transformer(), &triage);
    let first = place.complete("run", &["--workers", "1"]);
    assert_same(&first, &place.complete("again", &["--workers", "2", "--no-reuse", "all"]));
    let records = records(&place.path("run"));
    assert!(records.iter().all(|record| record["outcome"] == "done" || record["outcome"]["done"].is_null()));
    let drops: BTreeSet<&str> =
        records.iter().filter(|r| text(r, "role") == "drop").map(|r| text(r, "block")).collect();
    assert_eq!(drops, BTreeSet::from(["attention", "layers", "mlp"]));
    for block in ["attention", "layers", "mlp"] {
        let child = |substitute: &str, init: &str| {
            let found = records.iter().find(|record| {
                [("block", block), ("substitute", substitute), ("init", init), ("scheme", "none")]
                    .iter()
                    .all(|(key, value)| text(record, key) == *value)
            });
            found.unwrap()
        };
        let [whole, branch] = ["conv1x1", "conv1x1+skip"].map(|name| child(name, "least-squares"));
        let has_skip = |record: &Value| exported(&place, record).graph.layer(&format!("{block}.skip")).is_some();
        assert!(!has_skip(whole) && has_skip(branch));
        // With a small ridge both are nearly the same function.
        let of = |record: &Value| record["readings"]["test"]["loss"].as_f64().unwrap();
        let differs = (of(whole) - of(branch)).abs();
        assert!(differs > 0.0 && differs < 0.01, "{block}: {} {}", of(whole), of(branch));
        // The identity, by weights of one or of zero, is the block dropped.
        let dropped = records
            .iter()
            .find(|r| text(r, "role") == "drop" && text(r, "block") == block && text(r, "scheme") == "none");
        for substitute in ["conv1x1", "conv1x1+skip"] {
            assert!((of(child(substitute, "identity")) - of(dropped.unwrap())).abs() < 1e-6);
        }
        // Random weights differ with and without the input.
        assert!((of(child("conv1x1", "random")) - of(child("conv1x1+skip", "random"))).abs() > 1e-4);
    }
    let trained = records.iter().find(|r| text(r, "substitute") == "conv1x1+skip" && text(r, "scheme") == "global");
    exported(&place, trained.unwrap());
}

#[test]
fn attention_and_mlp_replace_encoder_layers() {
    let triage = r#"
substitutes = ["attention", "mlp", "conv1x1"]
inits = ["random", "first", "mean", "least-squares"]
schemes = ["none", "global", "hint-then-distill"]
reinit = []
placebo = []
[[triage.block]]
name = "both"
first = "blocks.0.norm1"
last = "blocks.1.add2"
"#;
    let place = place(&transformer(), triage);
    let output = place.run("run", &["--workers", "1"]).output().unwrap();
    succeeded(&output);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    let note =
        "init least-squares is left out for attention at both: block `both`: init least-squares gives one affine map";
    assert!(notes.lines().any(|line| line.contains(note)), "{notes}");
    let first = common::digests(&place.path("run"));
    assert_same(&first, &place.complete("again", &["--workers", "2", "--no-reuse", "all"]));
    let records = records(&place.path("run"));
    let parent = records.iter().find(|record| text(record, "role") == "parent").unwrap();
    let parameters = |record: &Value| record["readings"]["cost"]["parameters"].as_u64().unwrap() as usize;
    for (substitute, own) in [
        // Weights and biases of four projections, and of the norm and, as counted by `inspect`, the scale.
        ("attention", 4 * (CHANNELS * CHANNELS + CHANNELS) + 2 * CHANNELS),
        ("mlp", 2 * 4 * CHANNELS * CHANNELS + 5 * CHANNELS + 2 * CHANNELS),
    ] {
        let children: Vec<&Value> = records.iter().filter(|record| text(record, "substitute") == substitute).collect();
        let inits: BTreeSet<&str> = children.iter().map(|child| text(child, "init")).collect();
        assert_eq!(inits, BTreeSet::from(["first", "mean", "random"]), "{substitute}");
        let layer = 4 * (CHANNELS * CHANNELS + CHANNELS) + 8 * CHANNELS * CHANNELS + 5 * CHANNELS + 4 * CHANNELS;
        let scale = if substitute == "attention" { 1 } else { 2 } * 2 * (CHANNELS / HEADS);
        let removed = parameters(parent) - parameters(children[0]);
        assert!([2 * layer - own, 2 * layer - own + scale].contains(&removed), "{substitute}: {removed}");
        assert!(children.iter().all(|child| child["readings"]["filters"].is_null()));
        for init in ["random", "first"] {
            let trained =
                children.iter().find(|child| text(child, "init") == init && text(child, "scheme") == "global");
            exported(&place, trained.unwrap());
        }
    }

    // Alone, an init in closed form leaves nothing to train.
    for (triage, expected) in [
        (
            "substitutes = [\"attention\"]\ninits = [\"least-squares\"]",
            "no init applies to `attention` (least-squares: ",
        ),
        (
            "substitutes = [\"attention\"]\n[[triage.block]]\nname = \"p\"\nfirst = \"patches\"\nlast = \"tokens\"",
            "block `p`: attention keeps its input's shape",
        ),
    ] {
        std::fs::write(place.path("study.toml"), study(triage)).unwrap();
        let message = refused(&place.run("none", &["--dry-run"]).output().unwrap());
        assert!(message.contains(expected), "{message}");
    }
    let mut scan = nettriage();
    scan.arg("scan").arg(place.path("run")).args(["--substitutes", "attention"]);
    let message = String::from_utf8_lossy(&scan.output().unwrap().stderr).into_owned();
    assert!(message.contains("attention has no weights in closed form"), "{message}");
}

#[test]
fn a_transformer_is_scanned_and_prescribed_by_maps_of_tokens() {
    let place = place(&transformer(), "schemes = [\"none\"]");
    let output = place.run("run", &[]).output().unwrap();
    succeeded(&output);
    // By default encoder layers become one map of tokens beside their skip.
    let records = records(&place.path("run"));
    let names: BTreeSet<(&str, &str)> = records
        .iter()
        .filter(|r| text(r, "role") == "child")
        .map(|r| (text(r, "block"), text(r, "substitute")))
        .collect();
    assert_eq!(names, BTreeSet::from([("blocks.0", "conv1x1+skip"), ("blocks.1", "conv1x1+skip")]));

    let mut scan = nettriage();
    scan.arg("scan").arg(place.path("run")).args(["--images", "200", "--json"]).arg(place.path("scan.json"));
    succeeded(&scan.arg("-o").arg(place.path("scan.html")).output().unwrap());
    let scan: Value = serde_json::from_slice(&std::fs::read(place.path("scan.json")).unwrap()).unwrap();
    let of = |name: &str| -> Vec<(String, Value)> {
        let range = scan["ranges"].as_array().unwrap().iter().find(|range| range["name"] == name).unwrap();
        let candidates = range["candidates"].as_array().unwrap().iter();
        candidates.map(|found| (found["substitute"].as_str().unwrap().to_owned(), found.clone())).collect()
    };
    for name in ["blocks.0", "blocks.0.attn", "blocks.1.mlp"] {
        let found = of(name);
        let names: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        // A kernel of 3x3 has two rows outside a sequence of tokens.
        assert_eq!(names, BTreeSet::from(["conv1x1", "conv1x1+skip", "drop"]), "{name}");
        let branch = &found.iter().find(|(name, _)| name == "conv1x1+skip").unwrap().1;
        assert!((0.0..1.0).contains(&branch["error"].as_f64().unwrap()), "{name}: {branch}");
    }

    let mut prescribe = nettriage();
    prescribe.arg("prescribe").arg(place.path("run")).args([
        "--max-macs",
        "95%",
        "--replace",
        "blocks.1",
        "--no-training",
    ]);
    prescribe.args(["--substitutes", "conv1x1+skip", "--images", "200", "-o"]).arg(place.path("small.onnx"));
    succeeded(&prescribe.output().unwrap());
    let small = load(place.path("small.onnx"), &LoadOptions::default()).unwrap().network;
    assert!(small.graph.layers.iter().any(|layer| layer.name.starts_with("blocks.1.conv")), "{:?}", small.graph);
    let mut evaluate = nettriage();
    evaluate.arg("evaluate").arg(place.path("small.onnx")).args(["--data", "digits"]);
    succeeded(&evaluate.output().unwrap());
}

#[test]
fn a_network_of_depthwise_convolutions_gets_separable_substitutes() {
    let triage = r#"
inits = ["random", "first", "collapse", "least-squares"]
schemes = ["none", "local", "global"]
reinit = []
placebo = []
"#;
    let place = place(&inverted_residuals(), triage);
    let output = place.run("run", &["--workers", "1"]).output().unwrap();
    succeeded(&output);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!notes.contains("more parameters than"), "{notes}");
    let first = common::digests(&place.path("run"));
    assert_same(&first, &place.complete("again", &["--workers", "2", "--no-reuse", "all"]));
    let records = records(&place.path("run"));
    let children: Vec<&Value> = records.iter().filter(|record| text(record, "role") == "child").collect();
    assert!(children.iter().all(|child| text(child, "substitute") == "separable3x3"));
    let blocks: BTreeSet<&str> = children.iter().map(|child| text(child, "block")).collect();
    assert!(blocks.len() == 2, "{blocks:?}");
    let parent = records.iter().find(|record| text(record, "role") == "parent").unwrap();
    let parameters = |record: &Value| record["readings"]["cost"]["parameters"].as_u64().unwrap();
    for child in &children {
        assert!(parameters(child) < parameters(parent));
        // The filters that are shown are those of the 1x1 convolution.
        assert_eq!(child["readings"]["filters"]["shape"][2], 1);
    }
    for init in ["random", "first", "collapse", "least-squares"] {
        let trained = children.iter().find(|child| text(child, "init") == init && text(child, "scheme") == "global");
        let child = exported(&place, trained.unwrap());
        let depthwise = child.graph.layers.iter().find(|layer| layer.name.ends_with(".depthwise")).unwrap();
        assert!(matches!(&depthwise.kind, Kind::Conv(conv) if conv.is_depthwise()));
    }

    let mut scan = nettriage();
    scan.arg("scan").arg(place.path("run")).args(["--ranges", "blocks", "--images", "200", "--json"]);
    succeeded(&scan.arg(place.path("scan.json")).arg("-o").arg(place.path("scan.html")).output().unwrap());
    let scan = std::fs::read_to_string(place.path("scan.json")).unwrap();
    assert!(scan.contains("\"separable3x3\""), "{scan}");

    // A dense convolution has more parameters, and the plan says so; a skip needs equal shapes.
    let unit = "[[triage.block]]\nname = \"unit\"\nfirst = \"features.4.conv.0.0\"\nlast = \"features.4.add\"";
    let text = study(&format!("substitutes = [\"conv3x3\"]\nschemes = [\"none\"]\n{unit}"));
    std::fs::write(place.path("study.toml"), text).unwrap();
    let output = place.run("dense", &["--dry-run"]).output().unwrap();
    succeeded(&output);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        notes.lines().any(|line| line.contains("conv3x3 has more parameters than what it replaces: unit (1320 for ")),
        "{notes}"
    );
    let text = study("substitutes = [\"separable3x3+skip\"]\nschemes = [\"none\"]");
    std::fs::write(place.path("study.toml"), text).unwrap();
    let message = refused(&place.run("skip", &["--dry-run"]).output().unwrap());
    assert!(message.contains("only equal shapes add: use separable3x3"), "{message}");
}
