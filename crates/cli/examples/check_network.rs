//! Runs, writes and differentiates an ONNX file for `checks/zoo.py`, which compares the results with other programs.
//!
//!     check_network NETWORK.onnx FOLDER [OUTPUT]
//!
//! FOLDER holds `x.f32`, images in (N, C, H, W) order, and `g.f32`, a number for each element of the outputs. Added are `y.f32`, the
//! outputs; `written.onnx`, the network written again; `y2.f32`, the outputs of that file; and the gradients of the sum of
//! outputs times numbers with respect to all weights, in evaluation mode: `weights.txt` lists names and extents, `values.f32` and
//! `gradients.f32` hold the elements one after the other.

use std::collections::BTreeSet;
use std::path::Path;

use nettriage_engine::{Model, Optimizer, Options, Trainable};
use nettriage_formats::load::{LoadOptions, load};
use nettriage_formats::onnx;
use nettriage_net::{Kind, Network, Shape};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(problem) = run(&arguments) {
        eprintln!("{problem}");
        std::process::exit(2);
    }
    Ok(())
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let [file, folder, rest @ ..] = arguments else { return Err("NETWORK.onnx FOLDER [OUTPUT]".into()) };
    let folder = Path::new(folder);
    let options = LoadOptions { output: rest.first().cloned(), ..LoadOptions::default() };
    let network = load(file, &options)?.network;
    let (input, output) = (network.graph.input, network.graph.output_shape()?);
    let images = turned(&read(&folder.join("x.f32"))?, input, false);
    let n = images.len() / input.elements();
    let y = outputs(&network, n, &images)?;
    write(&folder.join("y.f32"), &turned(&y, output, true))?;

    let written = folder.join("written.onnx");
    onnx::write(&network, &written)?;
    let again = load(&written, &LoadOptions::default())?.network;
    write(&folder.join("y2.f32"), &turned(&outputs(&again, n, &images)?, output, true))?;

    // Norms with running statistics and dropout are frozen: they compute as in evaluation.
    let frozen = |kind: &Kind| matches!(kind, Kind::BatchNorm(_) | Kind::Dropout(_));
    let layers: BTreeSet<String> =
        network.graph.layers.iter().filter(|layer| !frozen(&layer.kind)).map(|layer| layer.name.clone()).collect();
    let options =
        Options { trainable: Trainable::Layers(layers), threads: 2, ..Options::training(n, Optimizer::sgd()) };
    let mut model = Model::new(&network, &options)?;
    model.forward_train(&images, 0);
    model.backward(&images, &turned(&read(&folder.join("g.f32"))?, output, false));
    let (mut list, mut values, mut gradients) = (String::new(), Vec::new(), Vec::new());
    for (name, weight) in &network.weights {
        if let Some(gradient) = model.gradient(name) {
            let extents: Vec<String> = weight.shape.iter().map(usize::to_string).collect();
            list += &format!("{name} {}\n", extents.join(" "));
            values.extend_from_slice(&weight.data);
            gradients.extend_from_slice(&gradient.data);
        }
    }
    std::fs::write(folder.join("weights.txt"), list)?;
    write(&folder.join("values.f32"), &values)?;
    write(&folder.join("gradients.f32"), &gradients)
}

fn outputs(network: &Network, n: usize, images: &[f32]) -> Result<Vec<f32>, Failure> {
    let mut model = Model::new(network, &Options { threads: 2, ..Options::inference(n) })?;
    Ok(model.forward(images).to_vec())
}

/// From (N, C, H, W) to (N, H, W, C), or back.
fn turned(values: &[f32], shape: Shape, back: bool) -> Vec<f32> {
    let positions = shape.height * shape.width;
    let (rows, columns) = if back { (positions, shape.channels) } else { (shape.channels, positions) };
    let image = |image: &[f32]| -> Vec<f32> {
        (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column)).map(|at| image[at]).collect()
    };
    values.chunks_exact(rows * columns).flat_map(image).collect()
}

fn read(path: &Path) -> Result<Vec<f32>, Failure> {
    Ok(std::fs::read(path)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn write(path: &Path, values: &[f32]) -> Result<(), Failure> {
    Ok(std::fs::write(path, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?)
}
