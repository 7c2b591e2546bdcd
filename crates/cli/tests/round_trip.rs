//! ONNX -> nettriage -> ONNX -> nettriage: the outputs are bit-identical.

mod common;

use common::outside::networks;
use nettriage_engine::{Model, Options};
use nettriage_formats::load::{self, load};
use nettriage_formats::onnx;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Network, Shape};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const IMAGES: usize = 2;

fn outputs(network: &Network) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let inputs: Vec<f32> = (0..IMAGES * network.graph.input.elements()).map(|_| rng.random_range(-2.0..2.0)).collect();
    let mut model = Model::new(network, &Options { threads: 2, ..Options::inference(IMAGES) }).unwrap();
    model.forward(&inputs).iter().map(|value| value.to_bits()).collect()
}

fn through_onnx(network: &Network) -> Network {
    let bytes = onnx::to_bytes(network).unwrap();
    onnx::from_bytes(&bytes, &onnx::ReadOptions::default()).unwrap().into_network().unwrap()
}

#[track_caller]
fn survives(what: &str, network: &Network) {
    let first = outputs(network);
    assert!(first.iter().any(|bits| bits << 1 != 0), "{what}: all outputs are zero");
    let once = through_onnx(network);
    assert!(outputs(&once) == first, "{what}: read from ONNX, it gives other outputs");
    let twice = through_onnx(&once);
    assert!(outputs(&twice) == first, "{what}: read from ONNX a second time, it gives other outputs");
    assert_eq!(once.graph, twice.graph, "{what}: the graph settles");
}

#[test]
fn every_built_in_architecture() {
    let plan = Some(vec![vec![8, 8], vec![12]]);
    // 32 is the image size of CIFAR. At 160 the large VGGs pool 5 x 5 to 7 x 7, for which ONNX has no pooling operator.
    for size in [32, 160] {
        for name in arch::names() {
            if size == 160 && name.starts_with("cifar") {
                continue;
            }
            let plan = plan.clone().filter(|_| name == "vgg");
            let spec = ArchSpec { width: 0.0625, plan, batch_norm: name == "vgg", ..ArchSpec::named(name) };
            let graph = arch::build(&spec, Shape::new(3, size, size), 10).unwrap();
            let network = Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(9)).unwrap();
            survives(&format!("{name} at {size}"), &network);
        }
    }
}

#[test]
fn networks_of_others() {
    let Some(folder) = networks("networks_of_others") else { return };
    let mut count = 0;
    for part in ["cifar10_small", "mnist_lenet", "structure"] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "onnx") {
                survives(&path.display().to_string(), &load(&path, &load::LoadOptions::default()).unwrap().network);
                count += 1;
            }
        }
    }
    for (file, arch) in [("resnet20-12fca82f.th", "cifar-resnet20"), ("resnet44-014dd654.th", "cifar-resnet44")] {
        let options = load::LoadOptions::default().arch(arch);
        survives(file, &load(folder.join("cifar10_resnet").join(file), &options).unwrap().network);
        count += 1;
    }
    assert_eq!(count, 14);
}
