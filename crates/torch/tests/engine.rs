//! The tests of every engine, and those against the first one, with PyTorch on the processor: the installation of `NETTRIAGE_TORCH`, else
//! that of `NETTRIAGE_PYTHON`; prints `SKIPPED` without them.

#[path = "../../engine/tests/common/mod.rs"]
mod common;

#[path = "common/mod.rs"]
mod installed;

use std::sync::OnceLock;

use common::suite::{Engine, Model};
use nettriage_engine::Options;
use nettriage_net::{Network, Tensor, Weights};
use nettriage_torch::{Device, Installation, Precision, Torch};

/// PyTorch's engine.
struct Peer(Torch);

/// PyTorch, loaded once; `None` where neither variable names one. Named but unusable, it is a failure.
fn peer() -> Option<&'static dyn Engine> {
    static PEER: OnceLock<Option<Peer>> = OnceLock::new();
    let found = PEER.get_or_init(|| {
        let installation = Installation::find(Some(&installed::folder()?)).unwrap();
        Some(Peer(Torch::load(&installation, Device::Cpu, Precision::F32).unwrap()))
    });
    found.as_ref().map(|peer| peer as &dyn Engine)
}

impl Engine for Peer {
    fn model(&self, network: &Network, options: &Options) -> Result<Box<dyn Model>, String> {
        let model = nettriage_torch::Model::new(&self.0, network, options).map_err(|error| error.to_string())?;
        Ok(Box::new(Run(model)))
    }
}

struct Run(nettriage_torch::Model);

impl Model for Run {
    fn forward(&mut self, images: &[f32]) -> Vec<f32> {
        self.0.forward(images).unwrap().to_vec()
    }

    fn forward_train(&mut self, images: &[f32], seed: u64) -> Vec<f32> {
        self.0.forward_train(images, seed).unwrap().to_vec()
    }

    fn backward(&mut self, _: &[f32], output_gradient: &[f32]) {
        self.0.backward(output_gradient).unwrap();
    }

    fn backward_with(&mut self, _: &[f32], output_gradient: &[f32], inner: &[Vec<f32>]) {
        let upload = |(place, gradient): (usize, &Vec<f32>)| self.0.upload_compared(place, gradient).unwrap();
        let inner = inner.iter().enumerate().map(upload).collect();
        let output = self.0.upload_output(output_gradient).unwrap();
        self.0.backward_with(output, inner).unwrap();
    }

    fn step(&mut self, rate: f32, clip: Option<f32>) {
        self.0.step(rate, clip).unwrap();
    }

    fn activation(&self, layer: &str) -> Option<Vec<f32>> {
        self.0.activation(layer).map(<[f32]>::to_vec)
    }

    fn output_gradient(&self, layer: &str) -> Option<Vec<f32>> {
        self.0.output_gradient(layer).map(<[f32]>::to_vec)
    }

    fn gradient(&self, weight: &str) -> Option<Tensor> {
        self.0.gradient(weight).unwrap()
    }

    fn weights(&self) -> Weights {
        self.0.weights().unwrap()
    }
}

common::suite::engine_tests!(peer());
