//! `evaluate`: a network's accuracy on a data set, or its outputs for given inputs.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use nettriage_data::fill_plain;
use nettriage_engine::{Model, Options};
use nettriage_formats::load::Loaded;
use nettriage_formats::onnx::Layout;
use nettriage_net::{Graph, Kind, Shape, layer};
use nettriage_train::Tally;
use npyz::{NpyFile, Order, WriterBuilder};
use serde_json::json;

use crate::args;
use crate::fail::Fail;
use crate::run::cores;
use crate::{model, output, subject};

/// Images that run through the network at a time.
const BATCH: usize = 100;

/// `nettriage evaluate MODEL`.
pub fn evaluate(args: &args::Evaluate) -> Result<(), Fail> {
    if args.limit == Some(0) {
        return Err(Fail::Message("--limit is 0: choose 1 image or more".into()));
    }
    if let Some(logits) = &args.logits {
        let mut inputs = output::with_sidecar(Path::new(&args.model.model)).to_vec();
        inputs.extend(args.inputs.iter().chain(&args.data_dir).cloned());
        output::check(&[logits], &output::as_paths(&inputs))?;
    }
    let mut loaded = model::load(&args.model)?;
    match (&args.inputs, &args.logits, &args.data) {
        (Some(inputs), Some(logits), _) => outputs(&loaded, inputs, logits),
        (_, _, Some(data)) => accuracy(args, &mut loaded, data),
        _ => Err(Fail::Message("name a data set with --data, or inputs with --inputs and --logits".into())),
    }
}

fn runner(loaded: &Loaded) -> Result<Model, Fail> {
    Ok(Model::new(&loaded.network, &Options { threads: cores(), ..Options::inference(BATCH) })?)
}

fn accuracy(args: &args::Evaluate, loaded: &mut Loaded, name: &str) -> Result<(), Fail> {
    let dataset = subject::dataset(loaded, name, args.data_dir.as_deref(), &args.folder)?;
    dataset.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let graph = &loaded.network.graph;
    let classes = dataset.classes.len();
    let said = args.mean.clone().zip(args.std.clone());
    let normalization = subject::normalization(said, &loaded.info, &dataset)?;
    let images: Vec<u32> = (0..dataset.test.len().min(args.limit.unwrap_or(usize::MAX)) as u32).collect();
    let labels: Vec<u16> = images.iter().map(|&i| dataset.test.labels[i as usize]).collect();
    let mut model = runner(loaded)?;
    let mut tally = Tally::new(&labels, classes, None);
    let mut all = Vec::new();
    let mut input = Vec::new();
    for batch in images.chunks(BATCH) {
        input.resize(batch.len() * graph.input.elements(), 0.0);
        fill_plain(&dataset.test, dataset.shape(), batch, &normalization, &mut input);
        let output = model.forward(&input);
        if args.logits.is_some() {
            all.extend_from_slice(output);
        }
        output.chunks_exact(classes).for_each(|row| tally.add(&logits(graph, row)));
    }
    if let Some(path) = &args.logits {
        write(path, &[images.len(), classes], &all)?;
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
fn outputs(loaded: &Loaded, inputs: &Path, logits: &Path) -> Result<(), Fail> {
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
    let mut model = runner(loaded)?;
    let output = graph.output_shape()?;
    let mut all = Vec::new();
    for batch in values.chunks(BATCH * graph.input.elements()) {
        let result = match loaded.layout {
            Layout::ChannelsFirst => model.forward(&transposed(batch, channels, height * width)),
            Layout::ChannelsLast => model.forward(batch),
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
    write(logits, &shape, &all)
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

fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Fail> {
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let save = |file: &mut dyn Write| {
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(values.iter().copied())?;
        writer.finish()
    };
    nettriage_files::write_output_with(path, save).map_err(|error| Fail::file(path, error))
}
