//! `evaluate`: a network's accuracy on a data set, or its outputs for given inputs.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use nettriage_compress::scan::{self, Images, Judge};
use nettriage_data::fill_plain;
use nettriage_engine::Options;
use nettriage_formats::load::Loaded;
use nettriage_formats::onnx::Layout;
use nettriage_net::{Graph, Kind, Shape, layer};
use nettriage_train::{Device, Model, Tally, without_softmax};
use npyz::{NpyFile, Order};
use serde_json::json;

use crate::args;
use crate::fail::Fail;
use crate::run::cores;
use crate::{model, output, subject};

/// Images that run through the network at a time.
const BATCH: usize = 100;

/// `nettriage evaluate MODEL`.
pub fn evaluate(args: &args::Evaluate) -> Result<(), Fail> {
    if let Some(logits) = &args.logits {
        let mut inputs = output::of_model(&args.model);
        inputs.extend(args.inputs.iter().chain(&args.data_dir).cloned());
        output::check(&[logits], &output::as_paths(&inputs))?;
    }
    let mut loaded = model::load(&args.model)?;
    match (&args.inputs, &args.logits, &args.data) {
        (Some(inputs), Some(logits), _) => outputs(&args.compute.open_one()?, &loaded, inputs, logits),
        (_, _, Some(data)) => match &args.against {
            Some(original) => fidelity(args, &mut loaded, original, data),
            None => accuracy(args, &mut loaded, data),
        },
        _ => Err(Fail::Message("name a data set with --data, or inputs with --inputs and --logits".into())),
    }
}

fn runner(device: &Device, loaded: &Loaded) -> Result<Model, Fail> {
    Ok(device.model(&loaded.network, &Options { threads: cores(), ..Options::inference(BATCH) })?)
}

fn accuracy(args: &args::Evaluate, loaded: &mut Loaded, name: &str) -> Result<(), Fail> {
    let dataset = subject::dataset(loaded, name, args.data_dir.as_deref(), &args.folder)?;
    dataset.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let graph = &loaded.network.graph;
    let classes = dataset.classes.len();
    let said = args.mean.clone().zip(args.std.clone());
    let normalization = subject::normalization(said, &loaded.info, &dataset)?;
    let all_images: Vec<u32> = (0..dataset.test.len() as u32).collect();
    // Of a folder, which is sorted by class, equally many of each class; in the file's order.
    let mut images = nettriage_data::first(&dataset.test, &all_images, args.limit.unwrap_or(usize::MAX));
    images.sort_unstable();
    let labels: Vec<u16> = images.iter().map(|&i| dataset.test.labels[i as usize]).collect();
    let mut model = runner(&args.compute.open_one()?, loaded)?;
    let mut tally = Tally::new(&labels, classes, None);
    let mut all = Vec::new();
    let mut input = Vec::new();
    for batch in images.chunks(BATCH) {
        input.resize(batch.len() * graph.input.elements(), 0.0);
        fill_plain(&dataset.test, dataset.shape(), batch, &normalization, &mut input);
        let output = model.forward(&input)?;
        if args.logits.is_some() {
            all.extend_from_slice(output);
        }
        output.chunks_exact(classes).for_each(|row| tally.add(&logits(graph, row)));
    }
    if let Some(path) = &args.logits {
        output::npy(path, &[images.len(), classes], all.iter().copied())?;
    }
    let found = tally.finish().evaluation;
    let outputs: Vec<&Path> = args.logits.iter().map(PathBuf::as_path).collect();
    let mut messages = output::messages(&outputs);
    if args.json {
        let value = json!({
            "images": found.images, "correct": found.correct, "top1": found.top1, "top5": found.top5,
            "loss": found.loss, "calibration_error": found.calibration_error,
        });
        writeln!(messages, "{value}")?;
    } else {
        writeln!(
            messages,
            "{} of {} test images right: top-1 {:.2}%, top-5 {:.2}%, loss {:.4}, calibration error {:.2}%",
            found.correct,
            found.images,
            100.0 * found.top1,
            100.0 * found.top5,
            found.loss,
            100.0 * found.calibration_error
        )?;
    }
    subject::warn_of_chance(found.correct, found.images, classes);
    Ok(())
}

/// How closely the outputs follow those of another network.
fn fidelity(args: &args::Evaluate, loaded: &mut Loaded, original: &str, name: &str) -> Result<(), Fail> {
    let mut other = model::load(&args::Model { model: original.to_owned(), ..args.model.clone() })?;
    let graph = &loaded.network.graph;
    let (own, theirs) =
        ([graph.input, graph.output_shape()?], [other.network.graph.input, other.network.graph.output_shape()?]);
    if own != theirs {
        return Err(Fail::Message(format!(
            "{}: from {} to {}, the network itself from {} to {} (C, H, W): their outputs cannot be compared",
            original, theirs[0], theirs[1], own[0], own[1]
        )));
    }
    let dir = args.data_dir.as_deref();
    let data = if args.unlabelled {
        subject::unlabelled(graph, name, dir, &args.folder)?
    } else {
        subject::dataset(loaded, name, dir, &args.folder)?;
        // The labels are in the order of this network's outputs, which are those of both.
        subject::dataset(&mut other, name, dir, &args.folder)?
    };
    data.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let said = args.mean.clone().zip(args.std.clone());
    let normalization = subject::normalization(said, &loaded.info, &data)?;
    // All images below a folder are training images.
    let (source, kind) = if data.test.is_empty() { (&data.train, "images") } else { (&data.test, "test images") };
    let count = source.len().min(args.limit.unwrap_or(usize::MAX));
    let indices: Vec<u32> = (0..count as u32).collect();
    let shape = data.shape();
    let images = Images {
        count,
        labels: (!args.unlabelled).then(|| source.labels[..count].to_vec()),
        fill: Box::new(|range, out| fill_plain(source, shape, &indices[range], &normalization, out)),
    };
    let device = args.compute.open_one()?;
    let options = scan::Options { device, threads: cores(), outputs: args.outputs, ..scan::Options::default() };
    let judge = Judge::new(&without_softmax(other.network), &images, &options)?;
    let found = judge.verdict(&without_softmax(loaded.network.clone()))?;
    let measure = judge.measure();
    let mut messages = output::messages(&[]);
    if args.json {
        let value = json!({
            "images": count, "measure": measure, "accuracy": found.accuracy, "drop": found.drop, "fidelity": found.fidelity,
        });
        writeln!(messages, "{value}")?;
        return Ok(());
    }
    writeln!(messages, "Judged by {}.", measure.describe())?;
    if let (Some(accuracy), Some(before), Some([drop, low, high])) = (found.accuracy, judge.accuracy(), found.drop) {
        writeln!(
            messages,
            "top-1 {:.2}% of {count} {kind}, against {:.2}%: drop {drop:.2} pp (95% interval {low:.2} to {high:.2})",
            100.0 * accuracy,
            100.0 * before
        )?;
    }
    writeln!(messages, "{} on {count} {kind}", found.fidelity.describe())?;
    Ok(())
}

/// A row of outputs as logits: a network that ends in a softmax gives probabilities.
fn logits(graph: &Graph, row: &[f32]) -> Vec<f32> {
    match graph.layer(&graph.output).map(|l| &l.kind) {
        Some(Kind::Softmax(layer::Softmax { log: false })) => {
            row.iter().map(|p| p.max(f32::MIN_POSITIVE).ln()).collect()
        }
        _ => row.to_vec(),
    }
}

/// Outputs for inputs in the model's own layout.
fn outputs(device: &Device, loaded: &Loaded, inputs: &Path, logits: &Path) -> Result<(), Fail> {
    let graph = &loaded.network.graph;
    let Shape { channels, height, width } = graph.input;
    let (shape, values) = read(inputs)?;
    let expected = match loaded.layout {
        Layout::ChannelsFirst => [channels, height, width],
        Layout::ChannelsLast => [height, width, channels],
    };
    let flat = [graph.input.elements()];
    if shape.is_empty() || (shape[1..] != expected && shape[1..] != flat) {
        return Err(Fail::Message(format!("{}: shape {shape:?}; the model takes N x {expected:?}", inputs.display())));
    }
    let mut model = runner(device, loaded)?;
    let output = graph.output_shape()?;
    let mut all = Vec::new();
    for batch in values.chunks(BATCH * graph.input.elements()) {
        let result = match loaded.layout {
            Layout::ChannelsFirst => model.forward(&transposed(batch, channels, height * width))?,
            Layout::ChannelsLast => model.forward(batch)?,
        };
        match loaded.layout {
            Layout::ChannelsFirst => all.extend(transposed(result, output.height * output.width, output.channels)),
            Layout::ChannelsLast => all.extend_from_slice(result),
        }
    }
    let Shape { channels, height, width } = output;
    let shape = match (loaded.layout, height * width) {
        (_, 1) => vec![shape[0], channels],
        (Layout::ChannelsFirst, _) => vec![shape[0], channels, height, width],
        (Layout::ChannelsLast, _) => vec![shape[0], height, width, channels],
    };
    output::npy(logits, &shape, all.iter().copied())
}

/// Images of `rows` x `columns` as images of `columns` x `rows`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let image = |v: &[f32]| -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| v[i]).collect()
    };
    values.chunks_exact(rows * columns).flat_map(image).collect()
}

fn read(path: &Path) -> Result<(Vec<usize>, Vec<f32>), Fail> {
    let file = File::open(path).map_err(|e| Fail::file(path, e))?;
    let bytes = file.metadata().map_err(|e| Fail::file(path, e))?.len();
    let npy = NpyFile::new(BufReader::new(file)).map_err(|e| Fail::file(path, e))?;
    let shape: Vec<usize> = npy.shape().iter().map(|&n| n as usize).collect();
    let elements = npy.shape().iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    if elements.and_then(|n| n.checked_mul(4)).is_none_or(|n| n > bytes) {
        return Err(Fail::Message(format!("{}: shorter than its shape {shape:?} of f32 says", path.display())));
    }
    if npy.order() != Order::C {
        return Err(Fail::Message(format!(
            "{}: in Fortran's order; save it with np.ascontiguousarray",
            path.display()
        )));
    }
    let values = npy.into_vec::<f32>().map_err(|e| Fail::file(path, e))?;
    Ok((shape, values))
}
