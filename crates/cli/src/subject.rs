//! The network and the images that a command line names.

use std::path::Path;

use nettriage::Subject;
use nettriage_data::{Dataset, Normalization};
use nettriage_formats::info::ModelInfo;
use nettriage_net::Graph;
use nettriage_records::Run;
use nettriage_train::check_images;

use crate::args;
use crate::fail::Fail;
use crate::model;

/// Reads the network and its data set.
pub fn read(args: &args::Subject) -> Result<Subject, Fail> {
    let path = Path::new(&args.model.model);
    if path.join("plan.json").is_file() { of_run(args, path) } else { of_file(args) }
}

fn of_file(args: &args::Subject) -> Result<Subject, Fail> {
    let Some(name) = &args.data else {
        return Err(Fail::Message("name the data set that the network was trained for with --data".into()));
    };
    if args.parent.is_some() {
        return Err(Fail::Message("--parent chooses among a run's parents; a file holds one network".into()));
    }
    let loaded = model::load(&args.model)?;
    let graph = &loaded.network.graph;
    let data = match (name.as_str(), &args.data_dir) {
        ("folder", Some(dir)) if args.unlabelled => {
            let data = nettriage_data::open_unlabelled(dir, graph.input.height)?;
            check_images(graph, &data)?;
            data
        }
        (name, dir) => dataset(graph, name, dir.as_deref())?,
    };
    let normalization = normalization(args.mean.clone().zip(args.std.clone()), &loaded.info, &data)?;
    let subject = Subject::new(loaded.network, data, normalization, args.judged, !args.unlabelled)?;
    Ok(Subject { source: args.model.model.clone(), ..subject })
}

fn of_run(args: &args::Subject, folder: &Path) -> Result<Subject, Fail> {
    if args.data.is_some() || args.mean.is_some() {
        return Err(Fail::Message(format!(
            "{}: a run knows its data set: leave --data, --mean and --std out",
            folder.display()
        )));
    }
    let run = Run::open(folder)?;
    Ok(Subject::of_run(&run, args.parent, args.data_dir.as_deref(), args.judged, !args.unlabelled)?)
}

/// Opens a data set and checks that the network fits it.
pub fn dataset(graph: &Graph, name: &str, dir: Option<&Path>) -> Result<Dataset, Fail> {
    let dataset = match (name, dir) {
        ("folder", Some(dir)) => nettriage_data::open_folder(dir, graph.input.height)?,
        ("folder", None) => {
            return Err(Fail::Message("--data folder needs --data-dir, a folder or a tar of images".into()));
        }
        (name, dir) => nettriage_data::open(name, dir)?,
    };
    check_images(graph, &dataset)?;
    let (outputs, classes) = (graph.output_shape()?.elements(), dataset.classes.len());
    if outputs != classes {
        return Err(Fail::Message(format!(
            "{} has {outputs} outputs, {} has {classes} classes",
            graph.name, dataset.name
        )));
    }
    Ok(dataset)
}

/// What the user says, else what stands beside the network, else the training set's own.
pub fn normalization(
    said: Option<(Vec<f32>, Vec<f32>)>,
    info: &ModelInfo,
    dataset: &Dataset,
) -> Result<Normalization, Fail> {
    let known = (!info.mean.is_empty()).then(|| (info.mean.clone(), info.std.clone()));
    let Some((mean, std)) = said.or(known) else {
        eprintln!("note: no --mean and --std: pixels are normalised by the training set's own statistics");
        let all: Vec<u32> = (0..dataset.train.len() as u32).collect();
        return Ok(Normalization::of(&dataset.train, dataset.shape(), &all));
    };
    let channels = dataset.channels;
    if mean.len() != channels || std.len() != channels || !std.iter().all(|s| *s > 0.0 && s.is_finite()) {
        return Err(Fail::Message(format!("--mean and --std need {channels} numbers each, those of --std above 0")));
    }
    Ok(Normalization { mean, std })
}
