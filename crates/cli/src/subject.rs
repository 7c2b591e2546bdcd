//! The network and the images that a command line names.

use std::path::Path;

use nettriage::Subject;
use nettriage_data::{Dataset, FolderOptions, ImageSize, MemoryBudget, Normalization};
use nettriage_formats::info::ModelInfo;
use nettriage_formats::load::Loaded;
use nettriage_net::{Graph, Shape};
use nettriage_records::Run;
use nettriage_report::analysis::ChanceTest;
use nettriage_train::{check_images, fit_classes};

use crate::args;
use crate::fail::Fail;
use crate::model;

/// Reads the network and its data set.
pub fn read(args: &args::Subject) -> Result<Subject, Fail> {
    let path = Path::new(&args.model.model);
    let subject = if path.join("plan.json").is_file() { of_run(args, path)? } else { of_file(args)? };
    subject.data.notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(subject)
}

fn of_file(args: &args::Subject) -> Result<Subject, Fail> {
    let Some(name) = &args.data else {
        return Err(Fail::Message("name the data set that the network was trained for with --data".into()));
    };
    if args.parent.is_some() {
        return Err(Fail::Message("--parent chooses among a run's parents; a file holds one network".into()));
    }
    let mut loaded = model::load(&args.model)?;
    let data = if args.unlabelled {
        unlabelled(&loaded.network.graph, name, args.data_dir.as_deref(), &args.folder)?
    } else {
        dataset(&mut loaded, name, args.data_dir.as_deref(), &args.folder)?
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

impl args::Folder {
    /// The options of a folder for a network.
    fn options(&self, graph: &Graph) -> FolderOptions {
        self.of_size(ImageSize { height: graph.input.height, width: graph.input.width })
    }

    /// The options of a folder whose images get a size.
    pub fn of_size(&self, size: ImageSize) -> FolderOptions {
        FolderOptions {
            resize: self.resize,
            interpolation: self.interpolation,
            skip_bad: self.skip_bad,
            ..FolderOptions::new(size)
        }
    }
}

/// The images with as many channels as the network takes, if they are grey and it takes RGB.
fn with_channels(graph: &Graph, data: Dataset) -> Result<Dataset, Fail> {
    if graph.input.channels == 3 && data.channels == 1 {
        return Ok(data.into_rgb(&MemoryBudget::default())?);
    }
    Ok(data)
}

/// Opens the images of a data set for a network, whatever their classes; of a folder all images below it.
pub fn unlabelled(graph: &Graph, name: &str, dir: Option<&Path>, folder: &args::Folder) -> Result<Dataset, Fail> {
    let data = match (name, dir) {
        ("folder", Some(dir)) => nettriage_data::open_unlabelled(dir, &folder.options(graph))?,
        (name, dir) => open(graph, name, dir, folder)?,
    };
    let data = with_channels(graph, data)?;
    check_images(graph, &data)?;
    Ok(data)
}

fn open(graph: &Graph, name: &str, dir: Option<&Path>, folder: &args::Folder) -> Result<Dataset, Fail> {
    match (name, dir) {
        ("folder", Some(dir)) => Ok(nettriage_data::open_folder_with(dir, &folder.options(graph))?),
        ("folder", None) => Err(Fail::Message("--data folder needs --data-dir, a folder or a tar of images".into())),
        (name, dir) => Ok(nettriage_data::open(name, dir)?),
    }
}

/// Opens a data set for a network, and matches its classes with the network's outputs.
pub fn dataset(loaded: &mut Loaded, name: &str, dir: Option<&Path>, folder: &args::Folder) -> Result<Dataset, Fail> {
    let graph = &loaded.network.graph;
    let mut dataset = with_channels(graph, open(graph, name, dir, folder)?)?;
    check_images(graph, &dataset)?;
    let unfit = |outputs: Shape, dataset: &Dataset, name: &str| {
        Fail::Message(format!(
            "{name} has outputs of {outputs} (C, H, W), {} has {} classes, one an image; without labels, --unlabelled judges by the \
             outputs of the network itself",
            dataset.name,
            dataset.classes.len()
        ))
    };
    // A single output can be no class, whatever its name.
    let outputs = graph.output_shape()?;
    if outputs == Shape::new(1, 1, 1) {
        return Err(unfit(outputs, &dataset, &graph.name));
    }
    let note = fit_classes(&mut loaded.network, &loaded.info.classes, &mut dataset)?;
    dataset.notes.extend(note);
    let graph = &loaded.network.graph;
    let outputs = graph.output_shape()?;
    if outputs != Shape::new(dataset.classes.len(), 1, 1) {
        return Err(unfit(outputs, &dataset, &graph.name));
    }
    Ok(dataset)
}

/// Says that an accuracy is not shown to be better than chance, and what is most often the cause.
pub fn warn_of_chance(correct: u64, images: u64, classes: usize) {
    let test = ChanceTest::of(correct, images, 1.0 / classes.max(1) as f64);
    if images > 0 && test.is_at_chance() {
        eprintln!(
            "warning: the network gets {correct} of {images} images right, which is not shown to be better than chance ({classes} \
             classes; exact binomial p = {:.2}): nothing can be learned from its accuracy; check the order of the classes \
             (`classes` in the network's description), --mean and --std",
            test.p
        );
    }
}

/// What the user says, else what stands beside the network, else the training set's own.
pub fn normalization(
    said: Option<(Vec<f32>, Vec<f32>)>,
    info: &ModelInfo,
    dataset: &Dataset,
) -> Result<Normalization, Fail> {
    let known = (!info.mean.is_empty()).then(|| (info.mean.clone(), info.std.clone()));
    let source = if said.is_some() { "--mean and --std" } else { "mean and std of the network's description" };
    let Some((mean, std)) = said.or(known) else {
        eprintln!("note: no --mean and --std: pixels are normalised by the training set's own statistics");
        let all: Vec<u32> = (0..dataset.train.len() as u32).collect();
        return Ok(Normalization::of(&dataset.train, dataset.shape(), &all));
    };
    Normalization::new(mean, std, dataset.channels).map_err(|problem| Fail::Message(format!("{source}: {problem}")))
}
