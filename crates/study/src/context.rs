//! What a study works on: its data set, split and normalised, and the network under examination.

use std::path::Path;

use nettriage_data::{Dataset, FolderOptions, ImageSize, Images, MemoryBudget, Normalization, Stream, first};
use nettriage_formats::info::ModelInfo;
use nettriage_formats::load;
use nettriage_net::block::Block;
use nettriage_net::{Graph, Network, Shape, Weights, arch, block, cost, surgery};
use nettriage_records::Run;
use nettriage_records::plan::BlockSummary;
use nettriage_train::{Device, check_images, fit_classes, range_test, seed, without_softmax};

use crate::Error;
use crate::budget::{Budget, ChildBudget};
use crate::limits::{CHILD_STREAM, Limit, PARAMETERS, PARENT_STREAM};
use crate::options::RuntimeOptions;
use crate::study::{Study, ValidationFrom};

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
    /// Validation images, indices into `data.train`, or into `data.test` where the study takes them from there.
    pub validation: Vec<u32>,
    /// Test images of trials, indices into `data.test`: the first of `whole_test`.
    pub test: Vec<u32>,
    /// All test images, on which parents are tested, without those that validate.
    pub whole_test: Vec<u32>,
    /// The parent's structure.
    pub graph: Graph,
    /// Constants of that structure from the file that holds it, by `<layer>.<parameter>`: training starts with them.
    pub constants: Weights,
    /// The parent itself, where it was read from a file.
    pub given: Option<Network>,
    /// The blocks under examination.
    pub blocks: Vec<Block>,
    /// How the machine is used.
    pub runtime: RuntimeOptions,
    /// What a reader should know before the study runs.
    pub notes: Vec<String>,
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
        let mut data = match (study.data.name.as_str(), dir) {
            ("folder", Some(dir)) => nettriage_data::open_folder_with(dir, &folder_options(&study, memory))?,
            ("folder", None) => {
                return Err(Error::Request("[data] name = \"folder\" needs `dir`, a folder or a tar".into()));
            }
            (name, dir) => nettriage_data::open_within(name, dir, memory)?,
        };
        let loaded =
            study.parent.file.as_deref().map(|file| read_parent(&study, file, data.classes.len())).transpose()?;
        let (mut given, read_notes) = match loaded {
            Some(load::Loaded { network, info, notes, .. }) => (Some((network, info)), notes),
            None => (None, Vec::new()),
        };
        if let Some((network, info)) = &mut given {
            if network.graph.input.channels == 3 && data.channels == 1 {
                data = data.into_rgb(memory)?;
            }
            let note = fit_classes(network, &info.classes, &mut data)?;
            data.notes.extend(note);
        }
        let mut context = StudyContext::assemble(study, text, data, given, runtime)?;
        context.notes.extend(read_notes);
        Ok(context)
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

    /// From a network in memory whose outputs need not be classes, and images without meaning in their labels: nothing is split.
    ///
    /// # Errors
    /// Images or blocks that do not fit the network.
    pub(crate) fn without_classes(
        mut study: Study,
        data: Dataset,
        normalization: Normalization,
        network: Network,
    ) -> Result<StudyContext, Error> {
        check_images(&network.graph, &data)?;
        let all: Vec<u32> = (0..data.train.len() as u32).collect();
        let train = first(&data.train, &all, usize::MAX);
        check_size(&study, &network.graph, train.len(), true)?;
        let blocks = blocks(&study, &network.graph)?;
        choose_substitute(&mut study, &network.graph, &blocks)?;
        Ok(StudyContext {
            study,
            text: IN_MEMORY.to_owned(),
            normalization,
            train,
            validation: Vec::new(),
            test: Vec::new(),
            whole_test: Vec::new(),
            graph: network.graph.clone(),
            constants: Weights::new(),
            given: Some(network),
            blocks,
            data,
            runtime: RuntimeOptions::default(),
            notes: Vec::new(),
        })
    }

    fn assemble(
        mut study: Study,
        text: String,
        data: Dataset,
        given: Option<(Network, ModelInfo)>,
        runtime: RuntimeOptions,
    ) -> Result<StudyContext, Error> {
        let Split { train: all_train, validation, whole_test } = split(&study, &data)?;
        study.data.augment.check(data.shape())?;
        let known = given.as_ref().map(|(_, info)| info).filter(|info| !info.mean.is_empty());
        let mean = study.parent.mean.as_ref().or(known.map(|info| &info.mean));
        let std = study.parent.std.as_ref().or(known.map(|info| &info.std));
        let normalization = match (mean, std) {
            (Some(mean), Some(std)) => Normalization::new(mean.clone(), std.clone(), data.channels)
                .map_err(|problem| Error::Request(format!("[parent] mean and std: {problem}")))?,
            _ => Normalization::of(&data.train, data.shape(), &all_train),
        };
        let train = first(&data.train, &all_train, study.data.train.unwrap_or(usize::MAX));
        let test = first(&data.test, &whole_test, study.data.test.unwrap_or(usize::MAX));

        let given = given.map(|(network, _)| without_softmax(network));
        let input = Shape::new(data.channels, data.height, data.width);
        let (graph, constants) = match (&given, study.graph_file(), study.architecture()) {
            (Some(network), ..) => (network.graph.clone(), Weights::new()),
            (None, Some(file), _) => read_graph(file)?,
            (None, None, Some(spec)) => (arch::build(&spec, input, data.classes.len())?, Weights::new()),
            (None, None, None) => return Err(Error::Request("[parent] needs `arch` or `file`".into())),
        };
        check_fit(&graph, &data)?;
        check_size(&study, &graph, train.len(), given.is_some())?;
        let blocks = blocks(&study, &graph)?;
        choose_substitute(&mut study, &graph, &blocks)?;
        let notes = notes(&study);
        Ok(StudyContext {
            study,
            text,
            normalization,
            train,
            validation,
            test,
            whole_test,
            graph,
            constants,
            given,
            blocks,
            data,
            runtime,
            notes,
        })
    }

    /// What models run on.
    pub fn device(&self) -> &Device {
        &self.runtime.device
    }

    /// The budgets of the study's children with their images, the smallest first.
    ///
    /// # Errors
    /// Keys that contradict each other; a study that was read or checked has none.
    pub fn budgets(&self) -> Result<Vec<(ChildBudget, usize)>, Error> {
        resolved(&self.study, self.train.len())
    }

    /// The first `images` images that every child and control of a seed sees, in order, with their augmentation. Fewer are the
    /// first of more.
    pub fn stream(&self, seed: u64, images: usize) -> Stream {
        let stream = seed::seed("stream of images", &[&seed.to_string()]);
        Stream::new(&self.train, images, &self.study.data.augment, stream)
    }

    /// The images that the parent of a seed trains on, in order, with their augmentation.
    pub fn parent_stream(&self, seed: u64) -> Stream {
        let images = self.study.parent.training.as_ref().map_or(0, |training| training.total(self.train.len()));
        let stream = seed::seed("stream of the parent's images", &[&seed.to_string()]);
        Stream::new(&self.train, images, &self.study.data.augment, stream)
    }

    /// The images that a learning-rate range test trains on in steps of `batch`, in order, with their augmentation.
    pub fn range_test_stream(&self, batch: usize) -> Stream {
        let stream = seed::seed("stream of a range test's images", &[]);
        Stream::new(&self.train, batch.saturating_mul(range_test::STEPS), &self.study.data.augment, stream)
    }

    /// Whether a parent that was read from a file may have been trained on the validation images.
    pub(crate) fn validation_may_be_seen(&self) -> bool {
        self.given.is_some() && self.study.data.may_be_seen()
    }

    /// The images that [`StudyContext::validation`] points into.
    pub fn validation_images(&self) -> &Images {
        match self.study.data.validation_from {
            ValidationFrom::Train => &self.data.train,
            ValidationFrom::Test => &self.data.test,
        }
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

/// The blocks that the study names, or the default blocks.
fn blocks(study: &Study, graph: &Graph) -> Result<Vec<Block>, Error> {
    let blocks: Vec<Block> = if study.triage.blocks.is_empty() {
        block::find(graph)
    } else {
        let named = study.triage.blocks.iter().map(|b| block::range(graph, &b.name, &b.first, &b.last));
        named.collect::<Result<_, _>>()?
    };
    if blocks.is_empty() {
        return Err(Error::Request(format!(
            "{}: no block with one input and one output was found; name some with [[triage.block]]",
            graph.name
        )));
    }
    Ok(blocks)
}

/// Names the usual substitute of the network where the study names none.
fn choose_substitute(study: &mut Study, graph: &Graph, blocks: &[Block]) -> Result<(), Error> {
    if study.triage.substitutes.is_none() {
        study.triage.substitutes = Some(vec![surgery::usual(graph, blocks)?]);
    }
    Ok(())
}

/// The text of a study that a program made in memory, in place of that of a study file.
const IN_MEMORY: &str = "# This study was made in memory by a program; there is no study file.\n";

/// The study context of a run, from its plan.
///
/// # Errors
/// A study that was made in memory: its network and data set are not in files. A network that no longer has the blocks of the plan.
pub fn context_of(run: &Run, data_dir: Option<&Path>, runtime: RuntimeOptions) -> Result<StudyContext, Error> {
    let text = &run.plan().study;
    let file = run.folder().join("plan.json").display().to_string();
    if text == IN_MEMORY {
        let problem = "a program made this study in memory; only that program can continue it or run its trials again";
        return Err(Error::Study { file, problem: problem.to_owned() });
    }
    let mut study = Study::parse(text, &file)?;
    if let Ok(folder) = std::fs::read_to_string(run.folder().join(STUDY_FOLDER)) {
        study.resolve(Path::new(&folder));
    }
    let mut context = StudyContext::with(study, text.clone(), data_dir, runtime)?;
    context.blocks = planned_blocks(run, &context.graph).map_err(|problem| Error::Study { file, problem })?;
    Ok(context)
}

/// The blocks of a run as its plan names them: another version may have found or named the default blocks otherwise.
fn planned_blocks(run: &Run, graph: &Graph) -> Result<Vec<Block>, String> {
    let block = |summary: &BlockSummary| {
        let ends = summary.layers.first().zip(summary.layers.last());
        let found = ends.and_then(|(first, last)| block::range(graph, &summary.name, first, last).ok());
        found.filter(|block| block.layers == summary.layers).ok_or_else(|| {
            let missing = summary.layers.iter().find(|layer| graph.layer(layer).is_none());
            let what = missing.map_or("is none of".to_owned(), |layer| format!("has the layer {layer}, which is not in"));
            format!(
                "its block {} {what} the network {}: restore the network with which the run was planned, or begin another run \
                 with --out",
                summary.name, graph.name
            )
        })
    };
    run.plan().blocks.iter().map(block).collect()
}

/// The file of a run that says in which folder its study file was, for the relative paths in it.
const STUDY_FOLDER: &str = "study-folder";

/// Stores where the study file of a run is, so that other processes find the files that it names.
///
/// # Errors
/// If it cannot be stored.
pub fn store_study_folder(run: &Run, study: &Path) -> Result<(), Error> {
    let fail = |path: &Path, source| Error::Io { path: path.display().to_string(), source };
    let file = std::path::absolute(study).map_err(|error| fail(study, error))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let place = run.folder().join(STUDY_FOLDER);
    // A path that is no text cannot be named in a study's text either.
    nettriage_files::write_atomic(&place, folder.to_string_lossy().as_bytes()).map_err(|error| fail(&place, error))
}

/// Which images are for what.
struct Split {
    train: Vec<u32>,
    validation: Vec<u32>,
    whole_test: Vec<u32>,
}

fn split(study: &Study, data: &Dataset) -> Result<Split, Error> {
    let (count, seed) = (study.data.validation, seed::seed("split", &[]));
    let every = |images: &Images| (0..images.len() as u32).collect::<Vec<u32>>();
    let from_test = study.data.validation_from == ValidationFrom::Test;
    let (from, kind) = if from_test { (&data.test, "test") } else { (&data.train, "training") };
    let nettriage_data::Split { train: rest, validation } = nettriage_data::split(from, count, seed);
    if rest.is_empty() {
        let all = from.len();
        return Err(Error::Request(format!(
            "[data] validation = {count} leaves no {kind} image of {all}; choose fewer"
        )));
    }
    let (train, test) = if from_test { (every(&data.train), rest) } else { (rest, every(&data.test)) };
    Ok(Split {
        train,
        validation: first(from, &validation, usize::MAX),
        whole_test: first(&data.test, &test, usize::MAX),
    })
}

/// Refuses what no machine could hold, before anything is computed.
fn check_size(study: &Study, graph: &Graph, train: usize, given: bool) -> Result<(), Error> {
    let parameters = cost::total(graph)?.parameters;
    if let Some(remedy) = PARAMETERS.problem(parameters as f64) {
        return Err(Error::Request(format!("{} has {parameters} parameters: {remedy}", graph.name)));
    }
    let refuse = |section: &str, budget: Budget, images: usize, limit: Limit| match limit.problem(images as f64) {
        Some(remedy) => Err(Error::Request(format!("[{section}] \"{budget}\" are {images} images in all: {remedy}"))),
        None => Ok(()),
    };
    if let Some(training) = study.parent.training.as_ref().filter(|_| !given) {
        let budget = training.budget().map_err(Error::Request)?;
        refuse("parent.training", budget, training.total(train).max(1), PARENT_STREAM)?;
    }
    let budgets = resolved(study, train)?;
    for (at, (budget, images)) in budgets.iter().enumerate() {
        refuse("children", budget.train, *images, CHILD_STREAM)?;
        if let Some((other, _)) = budgets[..at].iter().find(|(_, other)| other == images) {
            let (one, other) = (other.train, budget.train);
            return Err(Error::Request(format!(
                "[children] budgets: \"{one}\" and \"{other}\" are both {images} images: remove one"
            )));
        }
    }
    Ok(())
}

/// The budgets of the study's children with their images, the smallest first.
fn resolved(study: &Study, train: usize) -> Result<Vec<(ChildBudget, usize)>, Error> {
    let budgets = study.children.all_budgets().map_err(Error::Request)?;
    let images = |budget: ChildBudget| {
        let images = budget.train.images(study.children.batch, train);
        (budget, images)
    };
    let mut budgets: Vec<_> = budgets.into_iter().map(images).collect();
    budgets.sort_by_key(|(_, images)| *images);
    Ok(budgets)
}

/// What a reader should know before the study runs.
fn notes(study: &Study) -> Vec<String> {
    let validation = study.data.validation;
    let mut notes = study.notes();
    if study.parent.file.is_some() && study.data.may_be_seen() {
        notes.push(format!(
            "the parent is read from a file and may have been trained on the {validation} validation images, which are \
             taken from the training set; if it was not, write `seen = false` into [data]; `validation_from = \"test\"` \
             takes them from the test set"
        ));
    }
    notes
}

/// Reads a trained network from any file that [`load`] knows.
fn read_parent(study: &Study, file: &Path, classes: usize) -> Result<load::Loaded, Error> {
    let options = match study.graph_file() {
        Some(graph) => load::LoadOptions { graph: Some(graph.to_owned()), ..load::LoadOptions::default() },
        None => load::LoadOptions { arch: study.architecture(), ..load::LoadOptions::default() },
    };
    let loaded = load::load(file, &load::LoadOptions { classes: Some(classes), ..options })?;
    if study.parent.arch.is_some() && matches!(loaded.format, load::Format::Nettriage | load::Format::Onnx) {
        let file = file.display();
        return Err(Error::Request(format!("{file}: it holds its own graph: leave `arch` out of [parent], or `file`")));
    }
    Ok(loaded)
}

/// The structure in the file that `arch` names in place of a built-in architecture, and the constants in it. A graph in JSON holds no
/// values, so one with constants is refused.
fn read_graph(file: &Path) -> Result<(Graph, Weights), Error> {
    let fail = |problem: String| Error::Study { file: file.display().to_string(), problem };
    let bytes = std::fs::read(file).map_err(|error| fail(error.to_string()))?;
    if bytes.first() != Some(&b'{') {
        let network = load::load(file, &load::LoadOptions::default())?.network;
        return Ok((network.graph.clone(), network.constants()));
    }
    let graph: Graph = serde_json::from_slice(&bytes).map_err(|error| fail(format!("not a graph: {error}")))?;
    graph.check()?;
    if let Some(layer) = graph.layers.iter().find(|layer| layer.kind.is_fixed()) {
        return Err(fail(format!(
            "layer `{}` is a constant of the network, whose values a graph in JSON does not hold; name the ONNX or safetensors \
             file that does",
            layer.name
        )));
    }
    Ok((graph, Weights::new()))
}

fn folder_options(study: &Study, memory: &MemoryBudget) -> FolderOptions {
    let data = &study.data;
    FolderOptions {
        size: data.size.unwrap_or(ImageSize::square(32)),
        resize: data.resize,
        interpolation: data.interpolation,
        skip_bad: data.skip_bad,
        budget: memory.clone(),
    }
}

fn check_fit(graph: &Graph, data: &Dataset) -> Result<(), Error> {
    check_images(graph, data)?;
    let output = graph.output_shape()?;
    if output != Shape::new(data.classes.len(), 1, 1) {
        return Err(Error::Request(format!(
            "{} ends in {output}, {} has {} classes",
            graph.name,
            data.name,
            data.classes.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;

    const STUDY: &str = "
name = \"small\"
[data]
name = \"digits\"
validation = 200
[parent]
arch = \"vgg\"
plan = [[2, 2], [2, 2]]
[parent.training]
epochs = 1
rate = 0.05
[children]
seeds = 1
images = 64
rate = 0.02
";

    /// The context of a run whose plan has these blocks.
    fn of_plan(change: impl Fn(&mut Vec<BlockSummary>)) -> Result<StudyContext, Error> {
        let study = Study::parse(STUDY, "small.toml").unwrap();
        let mut plan = plan(&StudyContext::new(study, STUDY.to_owned(), None).unwrap()).unwrap();
        change(&mut plan.blocks);
        let folder = tempfile::tempdir().unwrap();
        context_of(&Run::create(folder.path(), &plan).unwrap(), None, RuntimeOptions::default())
    }

    #[test]
    fn a_run_keeps_the_blocks_of_its_plan() {
        let context = of_plan(|blocks| blocks[1].name = "late".into()).unwrap();
        let names: Vec<&str> = context.blocks.iter().map(|block| block.name.as_str()).collect();
        assert_eq!(names, ["block1", "late"]);
    }

    #[test]
    fn a_network_without_the_blocks_of_the_plan_is_refused() {
        let message = |change: fn(&mut Vec<BlockSummary>)| of_plan(change).err().unwrap().to_string();
        let renamed = message(|blocks| blocks[1].layers[0] = "other".into());
        assert!(renamed.contains("plan.json: its block block2 has the layer other, which is not in the network vgg"));
        let shorter = message(|blocks| drop(blocks[0].layers.remove(1)));
        assert!(shorter.contains("plan.json: its block block1 is none of the network vgg: restore"), "{shorter}");
    }
}
