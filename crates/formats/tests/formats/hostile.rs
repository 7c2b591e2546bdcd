//! Damaged files: no panic, no hang, and every accepted network is valid. Seeded, so that failures repeat.

use std::time::{Duration, Instant};

use nettriage_formats::onnx::{self, ReadOptions};
use nettriage_formats::pytorch::Checkpoint;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Network, Shape, block, cost, drawing};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shared;

/// Damages the bytes in the ways that files get damaged: bytes changed, stretches cut out, doubled or overwritten by
/// others; mostly where the structure is, at the beginning and the end.
fn damaged(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            break;
        }
        let near = bytes.len().min(2000);
        let at = match rng.random_range(0..4) {
            0 => rng.random_range(0..bytes.len()),
            1 => bytes.len() - rng.random_range(1..=near),
            _ => rng.random_range(0..near),
        };
        let length = rng.random_range(1..=16.min(bytes.len() - at));
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes[at..at + length].fill(0xff),
            4 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes[at] = rng.random(),
        }
    }
    bytes
}

fn rounds(name: &str, seeds: &[Vec<u8>], count: usize, read: impl Fn(&[u8])) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..count {
        let bytes = damaged(&seeds[round % seeds.len()], &mut rng);
        let start = Instant::now();
        read(&bytes);
        assert!(start.elapsed() < Duration::from_secs(1), "{name}, round {round}: {:?}", start.elapsed());
    }
}

fn read_onnx(bytes: &[u8]) {
    if let Ok(model) = onnx::from_bytes(bytes, &ReadOptions::default()) {
        model.graph.check().unwrap();
        cost::total(&model.graph).unwrap();
        let blocks = block::find(&model.graph);
        drawing::svg(&model.graph, &blocks).unwrap();
    }
}

fn read_checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::parse(bytes) {
        let _ = checkpoint.tensors();
    }
}

fn small() -> Network {
    let spec = ArchSpec { width: 0.02, ..ArchSpec::named("cifar-resnet20") };
    let graph = arch::build(&spec, Shape::new(3, 16, 16), 4).unwrap();
    Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}

#[test]
fn onnx_models() {
    let mut seeds = vec![onnx::to_bytes(&small()).unwrap()];
    for name in ["light_inception_v1", "light_shufflenet", "light_squeezenet", "light_bvlc_alexnet"] {
        seeds.extend(shared::network(&format!("structure/{name}.onnx")).map(|path| std::fs::read(path).unwrap()));
    }
    rounds("onnx", &seeds, 1500, read_onnx);
}

#[test]
fn checkpoints() {
    let mut seeds = Vec::new();
    for name in ["mnist_lenet/lenet.pth", "cifar10_small/cifar_base_kw.pth"] {
        seeds.extend(shared::network(name).map(|path| std::fs::read(path).unwrap()));
    }
    if !seeds.is_empty() {
        rounds("pytorch", &seeds, 1500, read_checkpoint);
    }
}

#[test]
fn cut_short_at_any_byte() {
    let model = onnx::to_bytes(&small()).unwrap();
    (0..model.len()).step_by(7).for_each(|end| read_onnx(&model[..end]));
    let Some(path) = shared::network("mnist_lenet/lenet.pth") else { return };
    let checkpoint = std::fs::read(path).unwrap();
    for end in (0..checkpoint.len()).step_by(997) {
        assert!(Checkpoint::parse(&checkpoint[..end]).is_err());
    }
}

#[test]
fn noise() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..2000 {
        let length = rng.random_range(0..400);
        let bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        read_onnx(&bytes);
        read_checkpoint(&bytes);
        read_checkpoint(&[b"PK\x03\x04".as_slice(), &bytes].concat());
    }
}
