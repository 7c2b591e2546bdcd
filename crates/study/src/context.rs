//! What a study works on: its data set, split and normalised, and the network under examination.

use std::path::Path;

use nettriage_data::{Dataset, Normalization, Stream, first};
use nettriage_formats::info::ModelInfo;
use nettriage_formats::load;
use nettriage_net::block::Block;
use nettriage_net::{Graph, Network, Shape, arch, block};
use nettriage_records::Run;
use nettriage_train::{check_images, seed, without_softmax};

use crate::Error;
use crate::options::RuntimeOptions;
use crate::study::Study;

/// A study with its data set and its network's structure in memory.
pub struct StudyContext {
    /// The study.
    pub study: Study,
    /// Its file's text.
    pub text: String,
    /// The data set.
    pub data: Dataset,
    /// Normalisation of pixels, by the images that parents train on, unless the study gives one.
    pub normalization: Normalization,
    /// Training images, indices into `data.train`.
    pub train: Vec<u32>,
    /// Validation images, indices into `data.train`.
    pub validation: Vec<u32>,
    /// Test images of trials, indices into `data.test`: the first of `whole_test`.
    pub test: Vec<u32>,
    /// All test images, on which parents are tested.
    pub whole_test: Vec<u32>,
    /// The parent's structure.
    pub graph: Graph,
    /// The parent itself, where it was read from a file.
    pub given: Option<Network>,
    /// The blocks under examination.
    pub blocks: Vec<Block>,
    /// How the machine is used.
    pub runtime: RuntimeOptions,
}

impl StudyContext {
    /// Reads the data set and builds the network that `study` names.
    pub fn new(study: Study, text: String, data_dir: Option<&Path>) -> Result<StudyContext, Error> {
        StudyContext::with(study, text, data_dir, RuntimeOptions::default())
    }

    /// As [`StudyContext::new`], with run-time options.
    pub fn with(
        study: Study,
        text: String,
        data_dir: Option<&Path>,
        runtime: RuntimeOptions,
    ) -> Result<StudyContext, Error> {
        let memory = &runtime.memory;
        let dir = data_dir.or(study.data.dir.as_deref());
        let data = match (study.data.name.as_str(), dir) {
            ("folder", Some(dir)) => nettriage_data::open_folder_within(dir, study.data.size, memory)?,
            ("folder", None) => {
                return Err(Error::Plan("[data] name = \"folder\" needs `dir`, a folder or a tar".into()));
            }
            (name, dir) => nettriage_data::open_within(name, dir, memory)?,
        };
        let given =
            study.parent.file.as_deref().map(|file| read_parent(&study, file, data.classes.len())).transpose()?;
        StudyContext::assemble(study, text, data, given, runtime)
    }

    /// From a data set and a trained network in memory; what `study` says of files is not read.
    ///
    /// # Errors
    /// A network that does not fit the data set; a split that leaves no training image.
    pub fn in_memory(
        study: Study,
        data: Dataset,
        network: Network,
        runtime: RuntimeOptions,
    ) -> Result<StudyContext, Error> {
        StudyContext::assemble(study, IN_MEMORY.to_owned(), data, Some((network, ModelInfo::default())), runtime)
    }

    fn assemble(
        study: Study,
        text: String,
        data: Dataset,
        given: Option<(Network, ModelInfo)>,
        runtime: RuntimeOptions,
    ) -> Result<StudyContext, Error> {
        let split = nettriage_data::split(&data.train, study.data.validation, seed::seed("split", &[]));
        if split.train.is_empty() {
            return Err(Error::Plan(format!(
                "[data] validation = {} leaves no training image of {}; choose fewer",
                study.data.validation,
                data.train.len()
            )));
        }
        study.data.augment.check(data.shape())?;
        let known = given.as_ref().map(|(_, info)| info).filter(|info| !info.mean.is_empty());
        let mean = study.parent.mean.as_ref().or(known.map(|info| &info.mean));
        let std = study.parent.std.as_ref().or(known.map(|info| &info.std));
        let normalization = match (mean, std) {
            (Some(mean), Some(std)) => given_normalization(mean, std, data.channels)?,
            _ => Normalization::of(&data.train, data.shape(), &split.train),
        };
        let train = first(&data.train, &split.train, study.data.train.unwrap_or(usize::MAX));
        let whole_test: Vec<u32> = (0..data.test.len() as u32).collect();
        let whole_test = first(&data.test, &whole_test, usize::MAX);
        let test = first(&data.test, &whole_test, study.data.test.unwrap_or(usize::MAX));

        let given = given.map(|(network, _)| without_softmax(network));
        let input = Shape::new(data.channels, data.height, data.width);
        let graph = match (&given, study.architecture()) {
            (Some(network), _) => network.graph.clone(),
            (None, Some(spec)) => arch::build(&spec, input, data.classes.len())?,
            (None, None) => return Err(Error::Plan("[parent] needs `arch` or `file`".into())),
        };
        check_fit(&graph, &data)?;
        let blocks = if study.triage.blocks.is_empty() {
            block::find(&graph)
        } else {
            let named = study.triage.blocks.iter().map(|b| block::range(&graph, &b.name, &b.first, &b.last));
            named.collect::<Result<_, _>>()?
        };
        if blocks.is_empty() {
            return Err(Error::Plan(format!(
                "{}: no block with one input and one output was found; name some with [[triage.block]]",
                graph.name
            )));
        }
        Ok(StudyContext {
            study,
            text,
            normalization,
            train,
            validation: first(&data.train, &split.validation, usize::MAX),
            test,
            whole_test,
            graph,
            given,
            blocks,
            data,
            runtime,
        })
    }

    /// The images that every child and control of a seed sees, in order, with their augmentation.
    pub fn stream(&self, seed: u64) -> Stream {
        let stream = seed::seed("stream of images", &[&seed.to_string()]);
        Stream::new(&self.train, self.study.children.images, &self.study.data.augment, stream)
    }

    /// The images that the parent of a seed trains on, in order, with their augmentation.
    pub fn parent_stream(&self, seed: u64) -> Stream {
        let epochs = self.study.parent.training.as_ref().map_or(0.0, |t| t.epochs);
        let images = (epochs * self.train.len() as f64).ceil() as usize;
        let stream = seed::seed("stream of the parent's images", &[&seed.to_string()]);
        Stream::new(&self.train, images, &self.study.data.augment, stream)
    }

    /// The block of that name.
    pub fn block(&self, name: &str) -> Option<&Block> {
        self.blocks.iter().find(|b| b.name == name)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.data.classes.len()
    }
}

/// The text of a study that a program made in memory, in place of that of a study file.
const IN_MEMORY: &str = "# This study was made in memory by a program; there is no study file.\n";

/// The study context of a run, from its plan.
///
/// # Errors
/// A study that was made in memory: its network and data set are not in files.
pub fn context_of(run: &Run, data_dir: Option<&Path>, runtime: RuntimeOptions) -> Result<StudyContext, Error> {
    let text = &run.plan().study;
    let file = run.folder().join("plan.json").display().to_string();
    if text == IN_MEMORY {
        let problem = "a program made this study in memory; only that program can continue it or run its trials again";
        return Err(Error::Study { file, problem: problem.to_owned() });
    }
    StudyContext::with(Study::parse(text, &file)?, text.clone(), data_dir, runtime)
}

/// Reads a trained network from any file that [`load`] knows.
fn read_parent(study: &Study, file: &Path, classes: usize) -> Result<(Network, ModelInfo), Error> {
    let arch = study.architecture();
    let loaded = load::load(file, &load::LoadOptions { arch, classes: Some(classes), ..load::LoadOptions::default() })?;
    Ok((loaded.network, loaded.info))
}

fn given_normalization(mean: &[f32], std: &[f32], channels: usize) -> Result<Normalization, Error> {
    if mean.len() != channels || std.len() != channels || !std.iter().all(|s| *s > 0.0) {
        return Err(Error::Plan(format!("[parent] `mean` and `std` need {channels} numbers each, and `std` above 0")));
    }
    Ok(Normalization { mean: mean.to_vec(), std: std.to_vec() })
}

fn check_fit(graph: &Graph, data: &Dataset) -> Result<(), Error> {
    check_images(graph, data)?;
    let output = graph.output_shape()?;
    if output != Shape::new(data.classes.len(), 1, 1) {
        return Err(Error::Plan(format!(
            "{} ends in {output}, {} has {} classes",
            graph.name,
            data.name,
            data.classes.len()
        )));
    }
    Ok(())
}
