//! Loading: every file of `../shared/networks`, and keys of other repositories.

use nettriage_formats::info::ModelInfo;
use nettriage_formats::load::{Format, LoadOptions, from_bytes, load};
use nettriage_formats::onnx::Layout;
use nettriage_formats::shared::SharedWeights;
use nettriage_formats::{onnx, safetensors};
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Graph, INPUT, Kind, Layer, Network, Shape, block, cost, drawing, layer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::shared;

fn arch(name: &str) -> LoadOptions {
    LoadOptions::default().arch(name)
}

#[test]
fn cifar_resnets_load_by_name() {
    for (file, name, count) in
        [("resnet20-12fca82f.th", "cifar-resnet20", 3), ("resnet44-014dd654.th", "cifar-resnet44", 3)]
    {
        let Some(path) = shared::network(&format!("cifar10_resnet/{file}")) else { return };
        let loaded = load(&path, &arch(name)).unwrap();
        assert_eq!((loaded.format, loaded.layout), (Format::PyTorch, Layout::ChannelsFirst));
        assert_eq!(loaded.network.graph.input, Shape::new(3, 32, 32));
        assert_eq!(loaded.network.graph.output_shape().unwrap(), Shape::new(10, 1, 1));
        assert_eq!(block::find(&loaded.network.graph).len(), count);
        assert!(loaded.notes.is_empty());

        let message = load(&path, &LoadOptions::default()).unwrap_err().to_string();
        assert!(message.contains("--arch") && message.contains("cifar-resnet20"), "{message}");
        let message = load(&path, &arch("cifar-resnet32")).unwrap_err().to_string();
        assert!(message.contains("missing: ") || message.contains("unexpected: "), "{message}");
        let message = load(&path, &arch("vgg16_bn")).unwrap_err().to_string();
        assert!(
            message.contains("missing: features.0.weight") && message.contains("unexpected: module.bn1.bias"),
            "{message}"
        );
        assert!(message.contains(file), "{message}");
    }
}

/// The same network in both formats, the checkpoint read onto the ONNX model's graph: weights equal bit by bit, but
/// where the ONNX file has batch norms folded.
#[test]
fn checkpoints_load_onto_the_graph_of_an_onnx_model() {
    for name in ["mnist_lenet/lenet", "cifar10_small/cifar_base_kw", "cifar10_small/resnet_2b"] {
        let Some(model) = shared::network(&format!("{name}.onnx")) else { return };
        let checkpoint = shared::network(&format!("{name}.pth")).unwrap();
        let from_onnx = load(&model, &LoadOptions::default()).unwrap();
        assert_eq!(from_onnx.format, Format::Onnx);
        let from_torch = load(&checkpoint, &LoadOptions { graph: Some(model), ..LoadOptions::default() }).unwrap();
        assert_eq!(from_torch.format, Format::PyTorch);
        assert_eq!(from_torch.network.graph, from_onnx.network.graph, "{name}");
        assert_eq!(from_torch.network.weights, from_onnx.network.weights, "{name}");
    }
}

/// The architecture of `mnist_conv`, as its script has it: convolutions without padding, a norm before and after the
/// linear layers.
const MNIST_CONV: &str = r#"{"name": "mnist-conv", "input": {"channels": 1, "height": 28, "width": 28}, "output": "norm2", "layers": [
    {"name": "conv1", "inputs": ["input"], "kind": "conv", "filters": 8, "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
     "bias": true, "padding": {"top": 0, "bottom": 0, "left": 0, "right": 0}},
    {"name": "relu1", "inputs": ["conv1"], "kind": "activation", "function": "relu"},
    {"name": "conv2", "inputs": ["relu1"], "kind": "conv", "filters": 16, "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
     "bias": true, "padding": {"top": 0, "bottom": 0, "left": 0, "right": 0}},
    {"name": "relu2", "inputs": ["conv2"], "kind": "activation", "function": "relu"},
    {"name": "conv3", "inputs": ["relu2"], "kind": "conv", "filters": 24, "kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
     "bias": true, "padding": {"top": 0, "bottom": 0, "left": 0, "right": 0}},
    {"name": "relu3", "inputs": ["conv3"], "kind": "activation", "function": "relu"},
    {"name": "norm1", "inputs": ["relu3"], "kind": "batch-norm", "eps": 1e-5, "momentum": 0.1},
    {"name": "flatten", "inputs": ["norm1"], "kind": "flatten"},
    {"name": "fc1", "inputs": ["flatten"], "kind": "linear", "features": 32, "bias": true},
    {"name": "relu4", "inputs": ["fc1"], "kind": "activation", "function": "relu"},
    {"name": "fc2", "inputs": ["relu4"], "kind": "linear", "features": 10, "bias": true},
    {"name": "norm2", "inputs": ["fc2"], "kind": "batch-norm", "eps": 1e-5, "momentum": 0.1}]}"#;

/// One architecture, two states of its training, a checkpoint and plain safetensors: both onto a graph of ours.
#[test]
fn weights_only_files_load_onto_a_given_graph() {
    let Some(torch) = shared::network("mnist_conv/mnist.pt") else { return };
    let plain = shared::network("mnist_conv/mnist.safetensors").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let graph = folder.path().join("graph.json");
    std::fs::write(&graph, MNIST_CONV).unwrap();
    let options = LoadOptions { graph: Some(graph.clone()), ..LoadOptions::default() };
    let (a, b) = (load(&torch, &options).unwrap(), load(&plain, &options).unwrap());
    assert_eq!((a.format, b.format), (Format::PyTorch, Format::Safetensors));
    assert!(a.network.graph == b.network.graph);
    assert!(a.network.weights.keys().eq(b.network.weights.keys()));
    // Of the two files, as PyTorch and NumPy read them.
    for (loaded, largest) in [(&a, 3.8416), (&b, 4.25763)] {
        let found = loaded.network.weights["norm2.weight"].data.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert!((found - largest).abs() < 1e-4, "{found}");
    }
    let blocks = block::find(&a.network.graph);
    assert_eq!((blocks.len(), blocks[0].layers[0].as_str(), blocks[0].output.as_str()), (1, "conv1", "norm1"));
    // A graph without weights is refused.
    assert!(load(&graph, &LoadOptions::default()).unwrap_err().to_string().contains("without weights"));
    // Our own safetensors files hold their graph.
    let ours = folder.path().join("ours.safetensors");
    safetensors::save(&a.network, &ours).unwrap();
    let again = load(&ours, &LoadOptions::default()).unwrap();
    assert!(again.format == Format::Nettriage && again.network == a.network);
}

fn random(name: &str, size: usize) -> Network {
    let spec = ArchSpec { width: 0.1, ..ArchSpec::named(name) };
    let graph = arch::build(&spec, Shape::new(3, size, size), 7).unwrap();
    Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}

/// Writes the weights alone under other keys, and reads them back under the architecture.
fn through(network: &Network, name: &str, rename: impl Fn(&str) -> String) -> Result<(Network, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = network
        .weights
        .iter()
        .map(|(key, tensor)| {
            (rename(key), tensor.shape.clone(), tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(key, shape, bytes)| {
        (key, ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, ::safetensors::serialize(views, None).unwrap()).unwrap();
    let spec = ArchSpec { width: 0.1, ..ArchSpec::named(name) };
    let options = LoadOptions { arch: Some(spec), input: Some(network.graph.input), ..LoadOptions::default() };
    let loaded = load(&path, &options).map_err(|error| error.to_string())?;
    Ok((loaded.network, loaded.notes))
}

#[test]
fn keys_of_other_repositories_are_mapped() {
    let network = random("resnet18", 64);
    let kuangliu = |key: &str| key.replace("downsample.", "shortcut.").replace("fc.", "linear.");
    assert_eq!(through(&network, "resnet18", kuangliu).unwrap().0, network);
    let wrapped = |key: &str| format!("module._orig_mod.{key}");
    assert_eq!(through(&network, "resnet18", wrapped).unwrap().0, network);
    let deep = |key: &str| format!("something.{key}");
    assert_eq!(through(&network, "resnet18", deep).unwrap().0, network);
    let network = random("vgg16_bn", 32);
    assert_eq!(through(&network, "vgg16_bn", |key| key.replace("classifier.", "fc.")).unwrap().0, network);

    let message = through(&network, "vgg16", str::to_string).unwrap_err();
    for part in ["missing: features.0.bias", "unexpected: features.", "of another shape: "] {
        assert!(message.contains(part), "{message}");
    }
    let message = through(&network, "vgg16_bn", |key| key.replace("features.0.weight", "features.0.wait")).unwrap_err();
    assert!(message.contains("missing: features.0.weight; unexpected: features.0.wait"), "{message}");
}

/// A bias before a batch norm, which small VGGs here do not have: x + b - mean is x - (mean - b).
#[test]
fn biases_before_a_norm_go_into_its_mean() {
    let network = random("vgg11_bn", 32);
    let mut biased = network.clone();
    let bias: Vec<f32> = (0..6).map(|i| i as f32 * 0.25).collect();
    biased.weights.insert("features.0.bias".into(), nettriage_net::Tensor::new(&[6], bias.clone()));
    let (read, notes) = through(&biased, "vgg11_bn", str::to_string).unwrap();
    let mean = &network.weights["features.1.running_mean"].data;
    let expected: Vec<f32> = mean.iter().zip(&bias).map(|(mean, bias)| mean - bias).collect();
    assert_eq!(read.weights["features.1.running_mean"].data, expected);
    assert!(notes[0].contains("running mean"), "{notes:?}");
}

#[test]
fn the_sidecar_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    safetensors::save(&random("vgg11", 32), &path).unwrap();
    assert_eq!(load(&path, &LoadOptions::default()).unwrap().info, ModelInfo::default());
    let info = ModelInfo {
        mean: vec![0.5, 0.25, 0.125],
        std: vec![1.0, 0.75, 0.5],
        classes: ["a \"b\"", "ö", "c", "d", "e", "f", "g"].map(String::from).to_vec(),
        input: Some([3, 32, 32]),
    };
    std::fs::write(folder.path().join("net.toml"), info.to_toml()).unwrap();
    assert_eq!(load(&path, &LoadOptions::default()).unwrap().info, info);
    for (text, part) in [("means = [1]", "keys are mean"), ("mean = [1.0]", "1 means and 0"), ("mean = [", "line 1")] {
        std::fs::write(folder.path().join("net.toml"), text).unwrap();
        let message = load(&path, &LoadOptions::default()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("net.toml") && !message.contains('\n'), "{message}");
    }
    std::fs::write(folder.path().join("net.toml"), "mean = [0.5]\nstd = [1.0]").unwrap();
    assert!(
        load(&path, &LoadOptions::default())
            .unwrap_err()
            .to_string()
            .contains("1 means are given for images of 3x32x32")
    );
}

/// Every architecture written as ONNX and read again: the same layers and weights.
#[test]
fn architectures_go_to_onnx_and_back() {
    for name in arch::names().into_iter().filter(|name| *name != "vgg" && !name.ends_with("110")) {
        let network = random(name, 64);
        let bytes = onnx::to_bytes(&network).unwrap();
        let again = onnx::from_bytes(&bytes, &onnx::ReadOptions::default()).unwrap().into_network().unwrap();
        assert_eq!(again.weights, network.weights, "{name}");
        // A flatten of what is a vector already is not a layer of its own in a model that was read.
        let shapes = |network: &Network| network.graph.shapes().unwrap();
        let kinds = |network: &Network| {
            let all = network.graph.layers.iter().enumerate();
            let kept = all.filter(|(at, l)| l.describe() != "flatten" || shapes(network)[at - 1].height > 1);
            kept.map(|(_, layer)| layer.describe()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&again), kinds(&network), "{name}");
        assert_eq!(block::find(&again.graph).len(), block::find(&network.graph).len(), "{name}");
    }
}

#[test]
fn drawings_hold_every_layer_and_block() {
    let network = random("resnet50", 64);
    let blocks = block::find(&network.graph);
    let svg = drawing::svg(&network.graph, &blocks).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<rect ").count(), 1 + blocks.len() + network.graph.layers.len() + 1);
    let edges: usize = network.graph.layers.iter().map(|layer| layer.inputs.len()).sum();
    assert_eq!(svg.matches("<path ").count(), edges);
    assert!(blocks.iter().all(|block| svg.contains(&format!(">{}<", block.name))));
}

/// `tied.pt`: a module with `b = Linear(2, 2)`, `c = b` and `d = Linear(2, 3)`, saved by `torch.save` of PyTorch 2.15.
#[test]
fn tensors_that_share_storage_are_loaded_as_copies_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let linear = |name: &str, input: &str, features| Layer {
        name: name.into(),
        inputs: vec![input.into()],
        kind: Kind::Linear(layer::Linear { features, bias: true }),
    };
    let layers = vec![linear("b", INPUT, 2), linear("c", "b", 2), linear("d", "c", 3)];
    let graph = Graph { name: "tied".into(), input: Shape::new(2, 1, 1), layers, output: "d".into() };
    let file = folder.path().join("graph.json");
    std::fs::write(&file, serde_json::to_string(&graph).unwrap()).unwrap();

    let options = LoadOptions { graph: Some(file), ..LoadOptions::default() };
    let loaded = from_bytes("tied.pt", include_bytes!("tied.pt"), &options).unwrap();
    let weights = &loaded.network.weights;
    assert_eq!((&weights["b.weight"], &weights["b.bias"]), (&weights["c.weight"], &weights["c.bias"]));
    assert_eq!(loaded.shared, [SharedWeights { layers: vec!["b".into(), "c".into()], elements: 6 }]);
    assert!(loaded.notes.len() == 1 && loaded.notes[0].contains("layers b, c share weights"), "{:?}", loaded.notes);
    // Copies are counted: 6 + 6 + 9.
    assert_eq!(cost::total(&loaded.network.graph).unwrap().parameters, 21);
}
