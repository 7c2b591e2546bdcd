//! Files that people really have: damaged, ambiguous, or something else than their names say. Each is read correctly, or
//! refused in one line with the remedy.

use std::path::{Path, PathBuf};

use nettriage_formats::load::{LoadOptions, Loaded, load};
use nettriage_formats::{onnx, safetensors};
use nettriage_net::{Conv, Graph, INPUT, Kind, Layer, Network, Shape, Tensor, layer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::torch_file::{Pickle, TorchFile};

/// A convolution and a linear layer: 3x2x2 to 2 classes.
fn small() -> Network {
    let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
    let layers = vec![
        layer("conv", INPUT, Kind::Conv(Conv { bias: true, ..Conv::same(2, 1) })),
        layer("norm", "conv", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 })),
        layer("flat", "norm", Kind::Flatten),
        layer("fc", "flat", Kind::Linear(layer::Linear { features: 2, bias: true })),
    ];
    let graph = Graph { name: "small".into(), input: Shape::new(3, 2, 2), layers, output: "fc".into() };
    Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(5)).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Options with the graph of [`small`].
    fn options(&self) -> LoadOptions {
        let graph = self.write("graph.json", serde_json::to_string(&small().graph).unwrap());
        LoadOptions { graph: Some(graph), ..LoadOptions::default() }
    }
}

fn refused(path: &Path, options: &LoadOptions, parts: &[&str]) {
    let message = load(path, options).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    assert!(message.contains(&path.display().to_string()), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

/// The weights of a network as entries of a state dict.
fn entries(network: &Network) -> Vec<(&str, &[usize], Vec<f32>)> {
    network.weights.iter().map(|(key, t)| (key.as_str(), t.shape.as_slice(), t.data.clone())).collect()
}

fn scaled(network: &Network, factor: f32) -> Network {
    let mut network = network.clone();
    network.weights.values_mut().for_each(|tensor| tensor.data.iter_mut().for_each(|value| *value *= factor));
    network
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let folder = Folder::new();
    for value in [f32::NAN, f32::INFINITY] {
        let mut network = small();
        network.weights.get_mut("fc.weight").unwrap().data[5] = value;
        let parts = ["`fc.weight` is not finite", "1 of 16", "index 5"];
        let file = folder.write("net.safetensors", safetensors::to_bytes(&network).unwrap());
        refused(&file, &LoadOptions::default(), &parts);
        refused(&folder.write("net.onnx", onnx::to_bytes(&network).unwrap()), &LoadOptions::default(), &parts);
        let mut torch = TorchFile::default();
        let dict = torch.state_dict(&entries(&network));
        refused(&folder.write("net.pt", torch.save(dict)), &folder.options(), &parts);
    }
    let mut network = small();
    network.weights.get_mut("norm.running_var").unwrap().data[1] = -0.5;
    let file = folder.write("net.safetensors", safetensors::to_bytes(&network).unwrap());
    refused(&file, &LoadOptions::default(), &["`norm.running_var`", "negative value -0.5"]);
}

fn checkpoint(folder: &Folder, second_key: &str, second: &Network) -> PathBuf {
    let mut torch = TorchFile::default();
    let pairs = [
        (Pickle::text("state_dict"), torch.state_dict(&entries(&small()))),
        (Pickle::text(second_key), torch.state_dict(&entries(second))),
        (Pickle::text("epoch"), Pickle::int(3)),
    ];
    folder.write("net.pt", torch.save(Pickle::dict(pairs)))
}

#[test]
fn two_versions_of_the_weights_are_not_chosen_between() {
    let folder = Folder::new();
    let average = scaled(&small(), 0.5);
    let path = checkpoint(&folder, "state_dict_ema", &average);
    let options = folder.options();
    refused(&path, &options, &["2 versions", "`state_dict`", "`state_dict_ema`", "--key"]);
    let with_key = |key: &str| LoadOptions { key: Some(key.into()), ..options.clone() };
    assert_eq!(load(&path, &with_key("state_dict")).unwrap().network.weights, small().weights);
    assert_eq!(load(&path, &with_key("state_dict_ema")).unwrap().network.weights, average.weights);
    refused(&path, &with_key("model"), &["no key `model`", "`state_dict`"]);
    // Equal versions leave nothing to choose, and the note says which was taken.
    let Loaded { network, notes, .. } = load(checkpoint(&folder, "state_dict_ema", &small()), &options).unwrap();
    assert_eq!(network.weights, small().weights);
    assert!(notes.iter().any(|note| note.contains("`state_dict`") && note.contains("state_dict_ema")), "{notes:?}");
    // Optimiser states are no version of the weights.
    let mut momentum = small();
    momentum.weights = [("exp_avg".to_string(), Tensor::zeros(&[2]))].into();
    assert!(load(checkpoint(&folder, "optimizer", &momentum), &options).unwrap().notes.is_empty());

    // Both versions in one dictionary, under prefixes.
    let mut torch = TorchFile::default();
    let plain = small();
    let names: Vec<(String, &Network)> = [("model", &plain), ("ema", &average)]
        .into_iter()
        .flat_map(|(prefix, network)| network.weights.keys().map(move |key| (format!("{prefix}.{key}"), network)))
        .collect();
    let all: Vec<(&str, &[usize], Vec<f32>)> = names
        .iter()
        .map(|(name, network)| {
            let tensor = &network.weights[name.split_once('.').unwrap().1];
            (name.as_str(), tensor.shape.as_slice(), tensor.data.clone())
        })
        .collect();
    let dict = torch.state_dict(&all);
    let path = folder.write("both.pt", torch.save(dict));
    refused(&path, &options, &["`ema`, `model` match", "--key ema"]);
    assert_eq!(load(&path, &with_key("ema")).unwrap().network.weights, average.weights);
}

#[test]
fn objects_beside_the_tensors_are_skipped_and_counted() {
    let folder = Folder::new();
    let mut torch = TorchFile::default();
    let arguments = Pickle::dict([(Pickle::text("lr"), Pickle::raw(b"G\x3f\xb9\x99\x99\x99\x99\x99\x9a"))]);
    let latin = |text: &str| Pickle::call("_codecs", "encode", [Pickle::text(text), Pickle::text("latin1")]);
    let array = [Pickle::global("numpy", "ndarray"), Pickle::tuple([Pickle::int(0)]), latin("b")];
    let path = [Pickle::text("runs"), Pickle::text("1")];
    let pairs = [
        (Pickle::text("model"), torch.state_dict(&entries(&small()))),
        (Pickle::text("args"), Pickle::object("argparse", "Namespace", arguments)),
        (Pickle::text("when"), Pickle::call("datetime", "datetime", [latin("\u{7}\u{e9}")])),
        (Pickle::text("where"), Pickle::call("pathlib", "PosixPath", path)),
        (Pickle::text("curve"), Pickle::call("numpy.core.multiarray", "_reconstruct", array)),
        // Never executed: this would be visible.
        (Pickle::text("attack"), Pickle::call("os", "system", [Pickle::text("touch attacked")])),
    ];
    let file = folder.write("net.pt", torch.save(Pickle::dict(pairs)));
    let loaded = load(&file, &folder.options()).unwrap();
    assert_eq!(loaded.network.weights, small().weights);
    let note = loaded.notes.iter().find(|note| note.contains("5 objects")).unwrap();
    for part in ["1 of argparse.Namespace", "1 of datetime.datetime", "1 of pathlib.PosixPath", "without executing"] {
        assert!(note.contains(part), "{note}");
    }
    assert!(!Path::new("attacked").exists());
}

#[test]
fn a_whole_module_is_refused_with_the_export_call() {
    let folder = Folder::new();
    let export =
        ["torch.onnx.export(model.eval(), (torch.zeros(1, 3, 224, 224),), \"net.onnx\"", "do_constant_folding=False"];
    let module = |torch: &mut TorchFile| {
        let state = Pickle::dict([(Pickle::text("_parameters"), torch.state_dict(&entries(&small())))]);
        Pickle::object("torchvision.models.resnet", "ResNet", state)
    };
    let mut torch = TorchFile::default();
    let whole = module(&mut torch);
    let whole = folder.write("whole.pt", torch.save(whole));
    refused(
        &whole,
        &LoadOptions::default(),
        &[["`torchvision.models.resnet.ResNet`"].as_slice(), export.as_slice()].concat(),
    );
    // The optimiser's tensors beside it are not taken for the model's.
    let mut torch = TorchFile::default();
    let pairs = [
        (Pickle::text("model"), module(&mut torch)),
        (Pickle::text("optimizer"), torch.state_dict(&[("exp_avg", &[2], vec![0.0; 2])])),
    ];
    let beside = folder.write("beside.pt", torch.save(Pickle::dict(pairs)));
    refused(
        &beside,
        &LoadOptions::default(),
        &[["`torchvision.models.resnet.ResNet`"].as_slice(), export.as_slice()].concat(),
    );
    // Weights without a graph.
    let mut torch = TorchFile::default();
    let dict = torch.state_dict(&entries(&small()));
    let bare = folder.write("bare.pt", torch.save(dict));
    refused(&bare, &LoadOptions::default(), &[["weights only", "--arch"].as_slice(), export.as_slice()].concat());
}

#[test]
fn other_files_are_named_as_what_they_are() {
    let folder = Folder::new();
    for name in ["net.pt", "net.onnx", "net.safetensors"] {
        for (bytes, parts) in [
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".as_slice(),
                ["LFS pointer", "git lfs pull"],
            ),
            (b"<!doctype html><title>Sign in</title>".as_slice(), ["HTML page", "download"]),
            (b"\x1f\x8b\x08\0\0\0\0\0".as_slice(), ["gzip", "gunzip"]),
            (b"".as_slice(), ["empty", "again"]),
        ] {
            let path = folder.write(name, bytes);
            refused(&path, &LoadOptions::default(), &parts);
            // The same as the file that holds the graph.
            let mut torch = TorchFile::default();
            let dict = torch.state_dict(&entries(&small()));
            let weights = folder.write("weights.pt", torch.save(dict));
            let options = LoadOptions { graph: Some(path.clone()), ..LoadOptions::default() };
            let message = load(&weights, &options).unwrap_err().to_string();
            assert!(message.contains(name) && parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}

/// A list of 250,000 references to one pair, made a dictionary 80,000 times: 980 KB that would take 160 GB.
#[test]
fn a_pickle_that_copies_a_list_over_and_over_is_refused() {
    let mut bytes = b"](K\x01K\x02tq\x01".to_vec();
    bytes.extend(b"0]q\x00(");
    bytes.extend(b"h\x01".repeat(250_000));
    bytes.push(b'e');
    bytes.extend(b"ccollections\nOrderedDict\nq\x02");
    bytes.extend(b"h\x02h\x00\x85R0".repeat(80_000));
    let file = Folder::new();
    let path = file.write("net.pt", TorchFile::default().save(Pickle::raw(&bytes)));
    refused(&path, &LoadOptions::default(), &["many times larger than the file"]);
}

#[test]
fn a_study_beside_the_network_is_not_its_description() {
    let folder = Folder::new();
    let path = folder.write("net.safetensors", safetensors::to_bytes(&small()).unwrap());
    folder.write("net.toml", "[data]\nname = \"cifar10\"\n\n[parent]\nfile = \"net.safetensors\"\n");
    let loaded = load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.info.classes, Vec::<String>::new());
    let [note] = loaded.notes.as_slice() else { panic!("{:?}", loaded.notes) };
    assert!(note.contains("net.toml") && note.contains("net.safetensors.toml"), "{note}");
    // The unmistakable name is always the description.
    folder.write("net.safetensors.toml", "classes = [\"cat\", \"dog\"]");
    assert_eq!(load(&path, &LoadOptions::default()).unwrap().info.classes, ["cat", "dog"]);
}

#[test]
fn a_description_that_contradicts_the_network_is_refused() {
    let folder = Folder::new();
    let path = folder.write("net.safetensors", safetensors::to_bytes(&small()).unwrap());
    for (text, parts) in [
        ("classes = [\"a\", \"b\", \"c\"]", ["2 outputs", "3 names of classes"]),
        ("classes = [\"a\", \"a\"]", ["`a`", "twice"]),
        ("input = [3, 4, 4]", ["images are 3x2x2", "`input` is 3x4x4"]),
        ("mean = [0.5]\nstd = [0.5]", ["1 means", "one per channel"]),
    ] {
        folder.write("net.toml", text);
        let message = load(&path, &LoadOptions::default()).unwrap_err().to_string();
        assert!(!message.contains('\n') && message.contains("net."), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    folder.write("net.toml", "input = [3, 2, 2]");
    let options = LoadOptions { input: Some(Shape::new(1, 2, 2)), ..LoadOptions::default() };
    refused(&path, &options, &["3x2x2", "--input 1x2x2"]);
    load(&path, &LoadOptions { input: Some(Shape::new(3, 2, 2)), ..LoadOptions::default() }).unwrap();
}

#[test]
fn options_for_another_format_are_refused() {
    let folder = Folder::new();
    let ours = folder.write("net.safetensors", safetensors::to_bytes(&small()).unwrap());
    let output = LoadOptions { output: Some("fc".into()), ..LoadOptions::default() };
    refused(&ours, &output, &["--graph-output"]);
    let key = LoadOptions { key: Some("model".into()), ..LoadOptions::default() };
    refused(&ours, &key, &["--key"]);
    refused(&folder.write("net.onnx", onnx::to_bytes(&small()).unwrap()), &key, &["--key"]);
}
