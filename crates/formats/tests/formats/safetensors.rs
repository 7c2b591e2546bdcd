//! Networks to safetensors and back, and damaged files.

use nettriage_formats::safetensors;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Conv, Graph, INPUT, Kind, Layer, Network, Shape, layer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A network with every weight random, norms included.
fn random_network(graph: Graph, seed: u64) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut network = Network::initialised(graph, &mut rng).unwrap();
    for tensor in network.weights.values_mut().filter(|tensor| tensor.shape.len() == 1) {
        tensor.data.iter_mut().for_each(|value| *value = 0.5 + rng.random::<f32>());
    }
    network
}

fn small() -> Network {
    let layer = |name: &str, input: &str, kind| Layer { name: name.into(), inputs: vec![input.into()], kind };
    let conv = layer("a", INPUT, Kind::Conv(Conv::same(3, 3)));
    let norm = layer("b", "a", Kind::BatchNorm(layer::BatchNorm { eps: 1e-5, momentum: 0.1 }));
    let input = Shape::new(2, 6, 6);
    random_network(Graph { name: "chain".into(), input, layers: vec![conv, norm], output: "b".into() }, 4)
}

#[test]
fn networks_survive_a_round_trip() {
    for name in ["vgg11_bn", "cifar-resnet20", "resnet50"] {
        let spec = ArchSpec { width: 0.1, ..ArchSpec::named(name) };
        let network = random_network(arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap(), 9);
        let bytes = safetensors::to_bytes(&network).unwrap();
        assert_eq!(safetensors::from_bytes(&bytes).unwrap(), network);
        assert_eq!(safetensors::to_bytes(&network).unwrap(), bytes);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let network = small();
    safetensors::save(&network, &path).unwrap();
    safetensors::save(&network, &path).unwrap();
    assert_eq!(safetensors::load(&path).unwrap(), network);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn errors_name_the_file_or_the_weight() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("no/such/folder/net.safetensors");
    assert!(safetensors::save(&small(), &absent).unwrap_err().to_string().contains("net.safetensors"));
    assert!(safetensors::load(&absent).unwrap_err().to_string().contains("net.safetensors"));
    let mut broken = small();
    broken.weights.remove("a.bias");
    assert!(safetensors::to_bytes(&broken).unwrap_err().to_string().contains("a.bias"));
    // Weights without a graph: a plain safetensors file.
    let bytes = safetensors::to_bytes(&small()).unwrap();
    let text = b"nettriage";
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    let mut plain = bytes.clone();
    plain[at..at + text.len()].copy_from_slice(b"elsewhere");
    assert!(safetensors::from_bytes(&plain).unwrap_err().to_string().contains("--arch"));
}

#[test]
fn damaged_files_are_refused_without_panic() {
    let bytes = safetensors::to_bytes(&small()).unwrap();
    for end in 0..bytes.len() {
        assert!(safetensors::from_bytes(&bytes[..end]).is_err());
    }
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..5000 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..header);
            damaged[at] = rng.random();
        }
        // Every accepted network is valid.
        if let Ok(network) = safetensors::from_bytes(&damaged) {
            network.check().unwrap();
        }
    }
}
