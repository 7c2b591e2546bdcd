//! A network with the images it was trained for: what is evaluated, scanned, compressed.

use std::ops::Range;
use std::path::Path;

use nettriage_compress::scan::Images;
use nettriage_data::{Augmentation, Dataset, Images as Pictures, Normalization, fill_plain, first};
use nettriage_formats::info::ModelInfo;
use nettriage_formats::safetensors;
use nettriage_net::{Graph, Network};
use nettriage_records::Run;
use nettriage_study::{RuntimeOptions, Study, StudyContext};
use nettriage_train::{check_images, without_softmax};

use crate::args;
use crate::fail::Fail;
use crate::model;

/// A network, its data set, and which images are for what.
pub struct Subject {
    /// The network, up to its logits.
    pub network: Network,
    /// Its file or run.
    pub source: String,
    /// What goes along with an exported network.
    pub info: ModelInfo,
    /// The data set.
    pub data: Dataset,
    /// Normalisation of pixels.
    pub normalization: Normalization,
    /// Training images to fit and train with, indices into `data.train`.
    pub train: Vec<u32>,
    /// Images to judge by, likewise.
    pub judged: Vec<u32>,
    /// In words, where those come from.
    pub judged_from: String,
    /// Variation of training images in the run; none of a file.
    pub augment: Augmentation,
    unlabelled: bool,
}

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
    let count = data.train.len();
    if args.judged >= count {
        let problem = format!("--judged {} leaves none of the {count} training images to fit to", args.judged);
        return Err(Fail::Message(problem));
    }
    let (train, judged, judged_from) = if data.train.is_sorted_by_class() {
        let split = nettriage_data::split(&data.train, args.judged, 0);
        (split.train, split.validation, format!("{} of the training images, drawn by seed", args.judged))
    } else {
        let cut = (count - args.judged) as u32;
        ((0..cut).collect(), (cut..count as u32).collect(), format!("the last {} training images", args.judged))
    };
    let info = info(&normalization, &data);
    Ok(Subject {
        network: without_softmax(loaded.network),
        source: args.model.model.clone(),
        info,
        train,
        judged,
        judged_from,
        data,
        normalization,
        augment: Augmentation::default(),
        unlabelled: args.unlabelled,
    })
}

fn of_run(args: &args::Subject, folder: &Path) -> Result<Subject, Fail> {
    if args.data.is_some() || args.mean.is_some() {
        return Err(Fail::Message(format!(
            "{}: a run knows its data set: leave --data, --mean and --std out",
            folder.display()
        )));
    }
    let run = Run::open(folder)?;
    let (context, network) = parent_of(&run, args.parent, args.data_dir.as_deref())?;
    let judged = first(&context.data.train, &context.validation, args.judged);
    Ok(Subject {
        network,
        source: folder.display().to_string(),
        info: info(&context.normalization, &context.data),
        train: context.train.clone(),
        judged_from: format!("{} validation images of the run", judged.len()),
        judged,
        normalization: context.normalization.clone(),
        augment: context.study.data.augment,
        data: context.data,
        unlabelled: args.unlabelled,
    })
}

/// A run's context, and its parent of that seed (the first if none is named).
pub fn parent_of(run: &Run, seed: Option<u64>, data_dir: Option<&Path>) -> Result<(StudyContext, Network), Fail> {
    let (folder, plan) = (run.folder(), run.plan());
    let spec = plan.parents.iter().find(|p| seed.is_none_or(|seed| p.seed == seed));
    let spec = spec.ok_or_else(|| {
        Fail::Message(format!("{}: no parent of seed {}", folder.display(), seed.unwrap_or_default()))
    })?;
    let weights = run.parent_weights_path(&spec.id);
    if !weights.is_file() {
        let problem = "its parent is not trained yet: finish `nettriage run` or `nettriage train` first";
        return Err(Fail::Message(format!("{}: {problem}", folder.display())));
    }
    Ok((context_of(run, data_dir, RuntimeOptions::default())?, safetensors::load(&weights)?))
}

/// The context that a run was made from.
pub fn context_of(run: &Run, data_dir: Option<&Path>, runtime: RuntimeOptions) -> Result<StudyContext, Fail> {
    let text = &run.plan().study;
    let study = Study::parse(text, &run.folder().join("plan.json").display().to_string())?;
    Ok(StudyContext::with(study, text.clone(), data_dir, runtime)?)
}

fn info(normalization: &Normalization, data: &Dataset) -> ModelInfo {
    ModelInfo {
        mean: normalization.mean.clone(),
        std: normalization.std.clone(),
        classes: data.classes.clone(),
        input: Some([data.channels, data.height, data.width]),
    }
}

impl Subject {
    /// The first `count` training images, of every class.
    pub fn fitted(&self, count: usize) -> Images<'_> {
        self.images(&self.data.train, &first(&self.data.train, &self.train, count))
    }

    /// The images to judge by.
    pub fn judged(&self) -> Images<'_> {
        self.images(&self.data.train, &self.judged)
    }

    /// Test images, as many of `range` as there are; the first ones are of every class.
    pub fn test(&self, range: Range<usize>) -> Images<'_> {
        let whole: Vec<u32> = (0..self.data.test.len() as u32).collect();
        let chosen = first(&self.data.test, &whole, range.end);
        self.images(&self.data.test, chosen.get(range.start..).unwrap_or_default())
    }

    /// Images as the network takes them.
    fn images<'a>(&'a self, pictures: &'a Pictures, indices: &[u32]) -> Images<'a> {
        let labels = indices.iter().map(|&i| pictures.labels[i as usize]).collect();
        let indices = indices.to_vec();
        let shape = self.data.shape();
        Images {
            count: indices.len(),
            fill: Box::new(move |range, out| fill_plain(pictures, shape, &indices[range], &self.normalization, out)),
            labels: (!self.unlabelled).then_some(labels),
        }
    }
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
