//! The network that a command line names.

use std::path::Path;

use nettriage_data::Normalization;
use nettriage_formats::load::{self, Format, LoadOptions, Loaded};
use nettriage_formats::shared::SharedWeights;
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Graph, Shape};
use nettriage_study::{Study, StudyContext};

use crate::args::Model;
use crate::fail::Fail;
use crate::output;

/// Reads the network's file.
pub fn load(args: &Model) -> Result<Loaded, Fail> {
    let path = Path::new(&args.model);
    if path.is_dir() {
        return Err(Fail::Message(folder_in_place_of_a_file(path)));
    }
    let mut options = LoadOptions {
        classes: args.classes,
        input: input(args)?,
        key: args.key.clone(),
        output: args.graph_output.clone(),
        ..LoadOptions::default()
    };
    if let Some(arch) = &args.arch {
        options = options.arch(arch);
        options.arch = options.arch.map(|spec| ArchSpec { width: args.width, ..spec });
    }
    let loaded = load::load(path, &options)?;
    if let (Some(arch), Format::Nettriage | Format::Onnx) = (&args.arch, loaded.format) {
        return Err(Fail::Message(format!("{}: it holds its own graph: leave --arch {arch} out", path.display())));
    }
    check_normalization(&loaded, path)?;
    loaded.notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(loaded)
}

/// Refuses a description whose mean and std no images can be normalised by, also for commands without images: `export` would
/// copy them.
fn check_normalization(loaded: &Loaded, path: &Path) -> Result<(), Fail> {
    let info = &loaded.info;
    if info.mean.is_empty() {
        return Ok(());
    }
    let channels = loaded.network.graph.input.channels;
    let [_, longer] = output::with_sidecar(path);
    let file = if longer.exists() { longer } else { path.with_extension("toml") };
    Normalization::new(info.mean.clone(), info.std.clone(), channels)
        .map(drop)
        .map_err(|problem| Fail::Message(format!("{}: {problem}", file.display())))
}

/// What to do with a folder where a network's file is needed.
fn folder_in_place_of_a_file(path: &Path) -> String {
    let folder = path.display();
    if path.join("plan.json").is_file() {
        return format!(
            "{folder}: a run's folder; `nettriage export {folder} --block NAME --best -o child.onnx` or `--trial ID` writes a \
             network of it, and its parents are in {folder}/weights"
        );
    }
    format!("{folder}: a folder; name the network's file in it (.onnx, .safetensors, .pt)")
}

/// The structure of a file, of a study's parent, or of an architecture's name, and the layers that share weights in the
/// file.
pub fn graph(args: &Model) -> Result<(Graph, Vec<SharedWeights>), Fail> {
    let path = Path::new(&args.model);
    if path.extension().is_some_and(|e| e == "toml") {
        let (study, text) = Study::read(path)?;
        return Ok((StudyContext::new(study, text, None)?.graph, Vec::new()));
    }
    if path.exists() {
        let loaded = load(args)?;
        return Ok((loaded.network.graph, loaded.shared));
    }
    if !arch::names().contains(&args.model.as_str()) {
        return Err(Fail::Message(format!(
            "{}: no such file, and no built-in architecture of that name; known: {}",
            args.model,
            arch::names().join(", ")
        )));
    }
    let spec = ArchSpec { width: args.width, ..ArchSpec::named(&args.model) };
    let input = input(args)?.unwrap_or(Shape::new(3, 32, 32));
    Ok((arch::build(&spec, input, args.classes.unwrap_or(10))?, Vec::new()))
}

fn input(args: &Model) -> Result<Option<Shape>, Fail> {
    let Some(text) = &args.input else { return Ok(None) };
    let extents: Option<Vec<usize>> = text.split('x').map(|part| part.parse().ok().filter(|n| *n > 0)).collect();
    match extents.as_deref() {
        Some(&[channels, height, width]) => Ok(Some(Shape::new(channels, height, width))),
        _ => Err(Fail::Message(format!("--input {text}: write channels, height and width, such as 3x32x32"))),
    }
}
