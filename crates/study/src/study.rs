//! The study file: TOML, every key documented here, unknown keys refused with the nearest known one named.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nettriage_data::{Augmentation, ImageSize, Interpolation};
use nettriage_engine::{Optimizer, Schedule};
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::init::Init;
use nettriage_net::surgery::Substitute;
use nettriage_train::scheme::{Loss, PRESETS, Scheme, Stage, default_names, preset};
use nettriage_train::{Precision, Recipe};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::budget::ChildBudget;
use crate::limits::{self, Entry};
use crate::rate::Rate;

/// A study: one network, one data set, and the substitutes, inits and schemes to try on them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Name; the run's folder is called after it. Letters, digits, `-` and `_`.
    pub name: String,
    /// The data set.
    pub data: Data,
    /// The network under examination.
    pub parent: Parent,
    /// How children are trained.
    pub children: Children,
    /// Blocks, substitutes, inits and schemes.
    #[serde(default)]
    pub triage: Triage,
    /// Skips seeds of pairs of init and scheme with low accuracy; every pair gets every seed if left out.
    #[serde(default)]
    pub halving: Option<Halving>,
    /// User-defined schemes, beside the built-in ones.
    #[serde(default, rename = "scheme")]
    pub schemes: Vec<Scheme>,
}

/// `[data]`: the data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// `digits` (embedded), `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, or `folder`.
    pub name: String,
    /// Where its files are; for `folder`, a folder or tar of `train/<class>/…` and `val/<class>/…`.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// For `folder`: rows and columns of images, such as `64` or `"48x64"`; 32 if not given.
    #[serde(default)]
    pub size: Option<ImageSize>,
    /// For `folder`: length of the shorter side before the centre is cropped, such as 256 for a size of 224.
    #[serde(default)]
    pub resize: Option<usize>,
    /// For `folder`: the filter of the resize, `bilinear` or `bicubic`.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// For `folder`: whether images that cannot be decoded are skipped; otherwise they are an error.
    #[serde(default)]
    pub skip_bad: bool,
    /// Images set apart, class by class, for every choice that is made.
    pub validation: usize,
    /// Where they are taken from; the images that remain train or test.
    #[serde(default)]
    pub validation_from: ValidationFrom,
    /// Whether the parent in `file` was trained on the training images that validate; assumed if left out.
    #[serde(default)]
    pub seen: Option<bool>,
    /// Number of remaining training images to use, the first in the file's order; all if left out.
    #[serde(default)]
    pub train: Option<usize>,
    /// Number of test images for trials, the first in the file's order; all if left out. Parents are always tested on all.
    #[serde(default)]
    pub test: Option<usize>,
    /// Random shifts and mirroring in training.
    #[serde(default)]
    pub augment: Augmentation,
}

impl Data {
    /// Whether a parent from a file may have been trained on the validation images.
    pub(crate) fn may_be_seen(&self) -> bool {
        self.validation_from == ValidationFrom::Train && self.seen.unwrap_or(true)
    }
}

/// Where validation images are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationFrom {
    /// The training set.
    #[default]
    Train,
    /// The test set: for a parent that was trained on all training images.
    Test,
}

/// `[parent]`: the network under examination, trained by nettriage or read from a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// A built-in architecture, such as `vgg16_bn`; `vgg` with `plan`; or a file that holds the graph.
    #[serde(default)]
    pub arch: Option<String>,
    /// For `vgg`: the convolutions' filters, stage by stage.
    #[serde(default)]
    pub plan: Option<Vec<Vec<usize>>>,
    /// For `vgg`: whether batch norms follow the convolutions; yes if left out.
    #[serde(default)]
    pub batch_norm: Option<bool>,
    /// Multiplies every layer's filters.
    #[serde(default = "one")]
    pub width: f64,
    /// A trained network to read in place of training one.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Normalisation mean per channel of pixels in 0 to 1, as the network in `file` was trained; the training set's own if left out.
    #[serde(default)]
    pub mean: Option<Vec<f32>>,
    /// Normalisation standard deviation per channel; goes with `mean`.
    #[serde(default)]
    pub std: Option<Vec<f32>>,
    /// How many parents, each from its own seed.
    #[serde(default = "one_usize")]
    pub seeds: u64,
    /// How it is trained; not needed with `file`.
    #[serde(default)]
    pub training: Option<Training>,
}

fn one() -> f64 {
    1.0
}

fn one_usize() -> u64 {
    1
}

/// `[parent.training]` and the shared keys of `[children]`: how a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// How long it trains: passes over the training images; or give `images` or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Images seen in all, in place of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Steps, in place of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Images in a step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Largest learning rate.
    pub rate: Rate,
    /// Optimiser.
    #[serde(default = "sgd")]
    pub optimizer: Optimizer,
    /// Learning-rate schedule.
    #[serde(default = "one_cycle")]
    pub schedule: Schedule,
    /// Largest norm of the gradient; longer ones are scaled down to it.
    #[serde(default)]
    pub clip: Option<f32>,
    /// Warm-up, label smoothing, weights without decay, average of the weights.
    #[serde(default, skip_serializing_if = "Recipe::is_default")]
    pub recipe: Recipe,
}

/// `[children]`: every child and control is trained by the same budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Children {
    /// How many seeds: each its own order of images, augmentation and random weights.
    pub seeds: u64,
    /// Images that a child's stages see in all; or give `epochs`, `steps` or `budgets`.
    #[serde(default)]
    pub images: Option<usize>,
    /// Passes over the training images, in place of `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Steps, in place of `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Several budgets, in place of `images`: every trial is trained with each, from its beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<ChildBudget>,
    /// Images in a step.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Largest learning rate.
    pub rate: Rate,
    /// Optimiser.
    #[serde(default = "sgd")]
    pub optimizer: Optimizer,
    /// Learning-rate schedule, run once through in every stage.
    #[serde(default = "one_cycle")]
    pub schedule: Schedule,
    /// Largest norm of the gradient; longer ones are scaled down to it.
    #[serde(default)]
    pub clip: Option<f32>,
    /// Warm-up, label smoothing, weights without decay, average of the weights.
    #[serde(default, skip_serializing_if = "Recipe::is_default")]
    pub recipe: Recipe,
    /// Points of the learning curve after the one at 0 images.
    #[serde(default = "eight")]
    pub curve: usize,
    /// How far below its parent (in percentage points of validation accuracy) a child counts as recovered.
    #[serde(default = "one_f64")]
    pub margin: f64,
    /// Training images, without augmentation or labels, that least squares regresses on.
    #[serde(default = "two_thousand")]
    pub calibration: usize,
    /// Convolve exactly: no F(4x4, 3x3) Winograd, nor F(4, 3).
    #[serde(default)]
    pub exact: bool,
    /// Precision of the parent's activations where children start from them or regress them. `f16` takes half the memory and
    /// changes results, so it is part of every trial's id and is in its record.
    #[serde(default, skip_serializing_if = "Precision::is_full")]
    pub activations: Precision,
    /// Readings beside accuracies. Leaving one out changes every trial's id.
    #[serde(default = "all_readings", skip_serializing_if = "is_all")]
    pub readings: BTreeSet<Reading>,
    /// Which weights of a trial are stored in the run's folder.
    #[serde(default)]
    pub keep: Keep,
    /// How many trials, chosen by their ids, keep their whole network beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_sample: Option<usize>,
}

impl Children {
    /// The defaults, with these numbers of seeds and of images per child, and this largest learning rate.
    pub fn new(seeds: u64, images: usize, rate: impl Into<Rate>) -> Children {
        Children {
            seeds,
            images: Some(images),
            epochs: None,
            steps: None,
            budgets: Vec::new(),
            batch: batch(),
            rate: rate.into(),
            optimizer: sgd(),
            schedule: one_cycle(),
            clip: None,
            recipe: Recipe::default(),
            curve: eight(),
            margin: one_f64(),
            calibration: two_thousand(),
            exact: false,
            activations: Precision::default(),
            readings: all_readings(),
            keep: Keep::default(),
            keep_sample: None,
        }
    }

    /// How far below its parent a child counts as recovered, as a fraction of images: `margin` is in percentage points.
    pub fn recovery_margin(&self) -> f64 {
        self.margin / 100.0
    }

    /// Whether trials have this reading.
    pub fn reads(&self, reading: Reading) -> bool {
        self.readings.contains(&reading)
    }
}

/// A reading that takes time and may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// The substitute's filters, and the image patches that activate them most.
    Filters,
    /// Inference time beside the parent's.
    Latency,
    /// Similarity (CKA) to the parent, tensor by tensor.
    Similarity,
}

fn all_readings() -> BTreeSet<Reading> {
    BTreeSet::from([Reading::Filters, Reading::Latency, Reading::Similarity])
}

fn is_all(readings: &BTreeSet<Reading>) -> bool {
    *readings == all_readings()
}

/// Which weights of a trial are kept, as safetensors files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// None: any trial can be run again by its index.
    Nothing,
    /// The substitute's: `weights/substitute-<id>.safetensors`.
    #[default]
    Substitute,
    /// The whole network's: `weights/child-<id>.safetensors`.
    Network,
}

fn batch() -> usize {
    128
}

fn sgd() -> Optimizer {
    Optimizer::Sgd { momentum: 0.9, nesterov: false, weight_decay: 5e-4 }
}

fn one_cycle() -> Schedule {
    Schedule::OneCycle
}

fn eight() -> usize {
    8
}

fn one_f64() -> f64 {
    1.0
}

fn two_thousand() -> usize {
    2000
}

/// `[triage]`: blocks, substitutes, inits and schemes. Everything has a default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triage {
    /// User-defined blocks; the default ones if left out.
    #[serde(rename = "block")]
    pub blocks: Vec<BlockRange>,
    /// Substitutes: `conv3x3`, `conv1x1`, `conv5x5`, `conv3x3g4` (4 groups), `separable3x3`, `linear`, each also with `+skip`;
    /// the [usual](nettriage_net::surgery::usual) one of the network if left out.
    pub substitutes: Option<Vec<Substitute>>,
    /// Inits: `random` (He), `xavier`, `first`, `last`, `mean`, `collapse`, `least-squares`, `identity`.
    pub inits: Vec<Init>,
    /// Schemes, built-in or defined in `[[scheme]]`.
    pub schemes: Vec<String>,
    /// Schemes under which the parent is fine-tuned as a control; all if left out.
    pub parent_continued: Option<Vec<String>>,
    /// Schemes that train every layer under which a child with no layer replaced is trained as a control; all if left out.
    pub placebo: Option<Vec<String>>,
    /// Schemes under which the block is kept and re-initialised as a control; all if left out.
    pub reinit: Option<Vec<String>>,
    /// Schemes under which the block is removed, where shapes permit, as a control; all if left out.
    pub drop: Option<Vec<String>>,
}

impl Default for Triage {
    fn default() -> Triage {
        Triage {
            blocks: Vec::new(),
            substitutes: None,
            inits: vec![Init::He, Init::LeastSquares],
            schemes: default_names(),
            parent_continued: None,
            placebo: None,
            reinit: None,
            drop: None,
        }
    }
}

impl Triage {
    /// The substitutes: before the network is known, one stands for its usual one.
    pub fn substitutes(&self) -> &[Substitute] {
        self.substitutes.as_deref().unwrap_or(&[Substitute::Conv { kernel: 3, groups: 1 }])
    }
}

/// `[halving]`: successive halving over inits and schemes, with seeds as its budget.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halving {
    /// Share of the pairs that continues with further seeds whenever the number of seeds has doubled.
    #[serde(default = "half")]
    pub keep: f64,
}

fn half() -> f64 {
    0.5
}

/// A block by the names of its first and last layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRange {
    /// The block's name.
    pub name: String,
    /// Its first layer.
    pub first: String,
    /// Its last layer.
    pub last: String,
}

impl Study {
    /// Reads a study file.
    pub fn read(path: &Path) -> Result<(Study, String), Error> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error::Study {
            file: file.clone(),
            problem: format!("{error}; name a study's TOML file, such as studies/digits.toml"),
        })?;
        let mut study = Study::parse(&text, &file)?;
        study.resolve(path.parent().unwrap_or(Path::new("")));
        Ok((study, text))
    }

    /// Takes the relative paths of the study as relative to `folder`, that of its file.
    pub(crate) fn resolve(&mut self, folder: &Path) {
        let Parent { arch, file, .. } = &mut self.parent;
        for path in [file, &mut self.data.dir].into_iter().flatten() {
            *path = folder.join(&*path);
        }
        if let Some(name) = arch.as_mut().filter(|name| !arch::names().contains(&name.as_str())) {
            let path = folder.join(&*name);
            if let Some(path) = path.to_str().filter(|_| path.exists()) {
                *name = path.to_owned();
            }
        }
    }

    /// The file that holds the graph, if `arch` names no built-in architecture.
    pub(crate) fn graph_file(&self) -> Option<&Path> {
        let arch = self.parent.arch.as_deref().filter(|name| !arch::names().contains(name))?;
        Some(Path::new(arch)).filter(|path| path.exists())
    }

    /// Reads a study from text; `file` names it in errors.
    pub fn parse(text: &str, file: &str) -> Result<Study, Error> {
        // A name in the file may contain control characters, which a terminal would execute.
        let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let refuse =
            |problem: String| Error::Study { file: file.to_owned(), problem: problem.chars().map(plain).collect() };
        let study: Study = toml::from_str(text).map_err(|e| refuse(explain(&e, text)))?;
        match study.problem() {
            Some(problem) => Err(refuse(problem)),
            None => Ok(study),
        }
    }

    /// The scheme of that name: the user's own first, then the built-in ones.
    pub fn scheme(&self, name: &str) -> Option<Scheme> {
        self.schemes.iter().find(|s| s.name == name).cloned().or_else(|| preset(name))
    }

    /// Whether several trials of a parent and a seed may regress the output of the same block.
    pub fn repeats_hints(&self) -> bool {
        let hints = |names: &[String]| {
            let schemes = names.iter().filter_map(|name| self.scheme(name));
            schemes.filter(|scheme| scheme.stages.iter().any(|stage| stage.loss == Loss::Hint)).count()
        };
        let Triage { inits, schemes, parent_continued, placebo, reinit, drop, .. } = &self.triage;
        let controls = [parent_continued, placebo, reinit, drop].map(|names| hints(names.as_ref().unwrap_or(schemes)));
        hints(schemes) * inits.len() * self.triage.substitutes().len() + controls.iter().sum::<usize>() > 1
    }

    /// The architecture to build, where the parent is not read from a file.
    pub fn architecture(&self) -> Option<ArchSpec> {
        let Parent { arch, plan, batch_norm, width, .. } = &self.parent;
        arch.as_ref().map(|arch| ArchSpec {
            arch: arch.clone(),
            width: *width,
            plan: plan.clone(),
            batch_norm: batch_norm.unwrap_or(arch == "vgg"),
        })
    }

    /// Refuses settings that contradict each other, for a study made in memory.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Error> {
        let in_memory = Study { parent: Parent { file: Some(PathBuf::new()), ..self.parent.clone() }, ..self.clone() };
        in_memory.problem().map_or(Ok(()), |problem| Err(Error::Request(problem)))
    }

    fn problem(&self) -> Option<String> {
        let name_ok =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !name_ok(&self.name) {
            return Some(format!("name = {:?}: use letters, digits, - and _ (it names the run's folder)", self.name));
        }
        match (&self.parent.arch, &self.parent.file) {
            (None, None) => return Some("[parent] needs `arch` (a network to train) or `file` (a trained one)".into()),
            (Some(_), None) if self.parent.training.is_none() => {
                return Some("[parent] with `arch` and no `file` needs [parent.training]".into());
            }
            (_, Some(_)) if self.parent.seeds != 1 => {
                return Some("[parent] a network from a `file` is one parent: leave `seeds` out".into());
            }
            _ => {}
        }
        let Data { name, size, resize, interpolation, skip_bad, validation_from, seen, .. } = &self.data;
        let of_folders = [
            ("size", size.is_some()),
            ("resize", resize.is_some()),
            ("interpolation", *interpolation != Interpolation::default()),
            ("skip_bad", *skip_bad),
        ];
        if let Some((key, _)) = of_folders.iter().find(|(_, given)| *given && name != "folder") {
            return Some(format!(
                "[data] `{key}` is for name = \"folder\"; the images of {name} are used as they are: leave it out"
            ));
        }
        if seen.is_some() && (self.parent.file.is_none() || *validation_from == ValidationFrom::Test) {
            return Some("[data] `seen` is about a parent in `file` and validation images of the training set".into());
        }
        let Parent { arch, plan, batch_norm, width, .. } = &self.parent;
        let of_arch = [("plan", plan.is_some()), ("batch_norm", batch_norm.is_some()), ("width", *width != 1.0)];
        if let Some((key, _)) = of_arch.iter().find(|(_, given)| *given && arch.is_none()) {
            return Some(format!("[parent] `{key}` belongs to a built-in architecture: add `arch`, or leave it out"));
        }
        if self.parent.mean.is_some() != self.parent.std.is_some() {
            return Some("[parent] `mean` and `std` go together".into());
        }
        if let Some(problem) = limits::entries(self).iter().find_map(Entry::problem) {
            return Some(problem);
        }
        if let Some(problem) = self.schemes.iter().find_map(Scheme::problem) {
            return Some(problem);
        }
        if let Some(Err(problem)) = self.parent.training.as_ref().map(Training::budget) {
            return Some(format!("[parent.training] {problem}"));
        }
        if let Some(problem) = self.budget_problem() {
            return Some(format!("[children] {problem}"));
        }
        if let Some(problem) = self.rate_problem() {
            return Some(problem);
        }
        if let Some(problem) = self.twice().or_else(|| self.unknown_scheme()) {
            return Some(problem);
        }
        let empty = [
            ("substitutes", self.triage.substitutes().is_empty()),
            ("inits", self.triage.inits.is_empty()),
            ("schemes", self.triage.schemes.is_empty()),
        ];
        empty.iter().find(|(_, empty)| *empty).map(|(key, _)| format!("[triage] {key} is empty: name at least one"))
    }

    /// Why the budgets of the children make no sense, if they do not.
    fn budget_problem(&self) -> Option<String> {
        let budgets = match self.children.all_budgets() {
            Ok(budgets) => budgets,
            Err(problem) => return Some(problem),
        };
        let inits: Vec<String> = self.triage.inits.iter().map(Init::to_string).collect();
        for ChildBudget { train, schemes: of_budget, inits: tried } in &budgets {
            for (key, own, all) in [("schemes", of_budget, &self.triage.schemes), ("inits", tried, &inits)] {
                if let Some(name) = own.iter().flatten().find(|name| !all.contains(name)) {
                    let all = all.join(", ");
                    return Some(format!("budgets: \"{train}\": `{name}` is not among [triage] {key} ({all})"));
                }
                if own.as_ref().is_some_and(Vec::is_empty) {
                    return Some(format!("budgets: \"{train}\": {key} is empty: name at least one, or leave it out"));
                }
            }
        }
        let twice = budgets.iter().enumerate().find(|(at, b)| budgets[..*at].iter().any(|a| a.train == b.train));
        if let Some((_, budget)) = twice {
            return Some(format!("budgets: \"{}\" is named twice: remove one", budget.train));
        }
        let all = |has: fn(&ChildBudget, &str) -> bool, names: &[String]| {
            names.iter().find(|name| !budgets.iter().any(|budget| has(budget, name))).cloned()
        };
        // Without training there is nothing to budget.
        let trains = |name: &&String| self.scheme(name).is_none_or(|scheme| !scheme.stages.is_empty());
        let schemes: Vec<String> = self.triage.schemes.iter().filter(trains).cloned().collect();
        let unused = all(ChildBudget::has_scheme, &schemes).or_else(|| all(ChildBudget::has_init, &inits));
        unused.map(|name| format!("budgets: `{name}` of [triage] has no budget: add it to one, or remove it there"))
    }

    /// Why a range test cannot find the rate of the children, if it cannot.
    fn rate_problem(&self) -> Option<String> {
        let classifies = |stage: &Stage| matches!(stage.loss, Loss::CrossEntropy | Loss::Distillation);
        let mut schemes = self.triage.schemes.iter().filter_map(|name| self.scheme(name));
        let untested = self.children.rate == Rate::Auto && !schemes.any(|s| s.stages.iter().any(classifies));
        untested.then(|| {
            "[children] rate = \"auto\": its range test minimises cross-entropy, and no scheme of [triage] does, or distils: \
             write a number, or add such a scheme"
                .to_owned()
        })
    }

    /// The lists of `[triage]` that name schemes for controls.
    fn controls(&self) -> [(&'static str, &Option<Vec<String>>); 4] {
        let Triage { parent_continued, placebo, reinit, drop, .. } = &self.triage;
        [("parent_continued", parent_continued), ("placebo", placebo), ("reinit", reinit), ("drop", drop)]
    }

    /// What is named twice where once is meant.
    fn twice(&self) -> Option<String> {
        let Triage { blocks, inits, schemes, .. } = &self.triage;
        let strings = |values: &[Substitute]| values.iter().map(Substitute::to_string).collect();
        let lists: [(&str, Vec<String>); 5] = [
            ("[[triage.block]] name", blocks.iter().map(|block| block.name.clone()).collect()),
            ("[triage] substitutes", strings(self.triage.substitutes())),
            ("[triage] inits", inits.iter().map(Init::to_string).collect()),
            ("[triage] schemes", schemes.clone()),
            ("[[scheme]] name", self.schemes.iter().map(|scheme| scheme.name.clone()).collect()),
        ];
        let problem = lists.iter().find_map(|(key, names)| {
            let twice = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name))?.1;
            Some(format!("{key}: `{twice}` is named twice: remove one, or rename it"))
        });
        problem.or_else(|| {
            let same = |a: &BlockRange, b: &BlockRange| a.first == b.first && a.last == b.last;
            let (place, block) = blocks.iter().enumerate().find(|(i, b)| blocks[..*i].iter().any(|a| same(a, b)))?;
            let other = blocks[..place].iter().find(|a| same(a, block))?;
            Some(format!("[[triage.block]] `{}` and `{}` are the same layers: remove one", other.name, block.name))
        })
    }

    /// A scheme that is defined nowhere, or a control by a scheme that no child is trained by.
    fn unknown_scheme(&self) -> Option<String> {
        let schemes = &self.triage.schemes;
        if let Some(name) = schemes.iter().find(|name| self.scheme(name).is_none()) {
            let own = self.schemes.iter().map(|s| s.name.as_str());
            let near = nearest(name, PRESETS.into_iter().chain(own));
            return Some(format!("[triage] there is no scheme `{name}`; the nearest is `{near}`"));
        }
        self.controls().into_iter().find_map(|(key, names)| {
            let name = names.iter().flatten().find(|name| !schemes.contains(name))?;
            let known = schemes.join(", ");
            Some(format!("[triage] {key}: `{name}` is not among `schemes` ({known}), so it would control nothing"))
        })
    }

    /// What a reader of the study should know before it runs: keys that have no effect.
    pub(crate) fn notes(&self) -> Vec<String> {
        let unused = self.parent.file.is_some() && self.parent.training.is_some();
        let note = "[parent.training] has no effect: the parent is read from `file`";
        unused.then(|| note.to_owned()).into_iter().collect()
    }
}

/// TOML's own words with the line, and for an unknown key or value the nearest known one.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    match (unknown, quoted.next()) {
        (true, Some(found)) => {
            let known: Vec<&str> = quoted.collect();
            let what = if message.starts_with("unknown field") { "key" } else { "value" };
            format!(
                "{place}there is no {what} `{found}` here; the nearest is `{}` (known: {})",
                nearest(found, known.iter().copied()),
                known.join(", ")
            )
        }
        _ => format!("{place}{}", message.lines().collect::<Vec<_>>().join(" ")),
    }
}

/// The candidate nearest to `name` by Jaro-Winkler similarity.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let similarity = |candidate: &str| strsim::jaro_winkler(name, candidate);
    candidates.max_by(|a, b| similarity(a).total_cmp(&similarity(b))).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
name = "small"
[data]
name = "digits"
validation = 100
[parent]
arch = "vgg"
plan = [[8, 8], [16, 16]]
[parent.training]
epochs = 1
rate = 0.1
[children]
seeds = 2
images = 500
rate = 0.02
"#;

    fn refusal(text: &str) -> String {
        Study::parse(text, "small.toml").unwrap_err().to_string()
    }

    #[test]
    fn hints_repeat_where_two_trials_of_a_seed_regress_one_block() {
        let none = "parent_continued = []\nplacebo = []\nreinit = []\ndrop = []\n";
        let repeats = |triage: &str| Study::parse(&format!("{SMALL}[triage]\n{triage}"), "s").unwrap().repeats_hints();
        let one = "inits = [\"random\"]\nschemes = [\"local\", \"hint\"]\n";
        assert!(!repeats(&format!("{one}{none}")));
        assert!(repeats(one), "its controls are by the same schemes");
        assert!(repeats(&format!("{one}{}", none.replace("reinit = []", "reinit = [\"hint\"]"))));
        assert!(repeats(&format!("{}{none}", one.replace("\"random\"", "\"random\", \"first\""))));
        assert!(repeats(&format!("{}{none}", one.replace("\"local\"", "\"hint-then-global\""))));
        assert!(!repeats(&format!("{}{none}", one.replace(", \"hint\"", ""))));
    }

    #[test]
    fn defaults_make_a_whole_study() {
        let study = Study::parse(SMALL, "small.toml").unwrap();
        assert_eq!(study.children.batch, 128);
        assert_eq!(study.triage.schemes, default_names());
    }

    #[test]
    fn a_misspelt_key_names_line_and_nearest() {
        let message = refusal(&SMALL.replace("validation = 100", "validaton = 100"));
        assert!(message.starts_with("small.toml: line 5: "), "{message}");
        assert!(message.contains("nearest is `validation`"), "{message}");
        assert!(!message.contains('\n'));
    }

    #[test]
    fn a_misspelt_scheme_names_the_nearest() {
        let message = refusal(&format!("{SMALL}\n[triage]\nschemes = [\"globall\"]\n"));
        assert!(message.contains("`global`"), "{message}");
    }

    #[test]
    fn nonsense_values_are_refused() {
        for (from, to, word) in [
            ("seeds = 2", "seeds = 0", "seeds is 0"),
            ("rate = 0.02", "rate = -1.0", "rate is -1"),
            ("name = \"small\"", "name = \"a/b\"", "letters"),
            ("[parent.training]\nepochs = 1\nrate = 0.1", "", "[parent.training]"),
            ("arch = \"vgg\"", "", "needs `arch`"),
            ("[children]", "[halving]\nkeep = 1.0\n[children]", "keep is 1"),
            ("seeds = 2", "seeds = 1000000000000000000", "[children] seeds is 1e18: choose"),
        ] {
            let message = refusal(&SMALL.replace(from, to));
            assert!(message.contains(word), "{to}: {message}");
        }
    }

    #[test]
    fn duplicates_are_refused_by_their_key() {
        let scheme = "[[scheme]]\nname = \"mine\"\nstages = []\n";
        let block = |name: &str, last: &str| {
            format!("[[triage.block]]\nname = \"{name}\"\nfirst = \"features.0\"\nlast = \"{last}\"\n")
        };
        let triage = |text: &str| format!("[triage]\n{text}\n");
        for (more, words) in [
            (triage("inits = [\"first\", \"random\", \"first\"]"), "[triage] inits: `first` is named twice"),
            (triage("schemes = [\"local\", \"local\"]"), "[triage] schemes: `local` is named twice"),
            (triage("substitutes = [\"conv3x3\", \"conv3x3\"]"), "[triage] substitutes: `conv3x3` is named twice"),
            (scheme.repeat(2), "[[scheme]] name: `mine` is named twice"),
            (block("a", "x") + &block("a", "y"), "[[triage.block]] name: `a` is named twice"),
            (block("a", "x") + &block("b", "x"), "[[triage.block]] `a` and `b` are the same layers"),
        ] {
            let message = refusal(&format!("{SMALL}{more}"));
            assert!(message.starts_with("small.toml: ") && message.contains(words), "{more}: {message}");
        }
    }

    #[test]
    fn settings_without_effect_are_refused() {
        for (from, to, words) in [
            (
                "[children]",
                "[triage]\nschemes = [\"local\"]\nreinit = [\"global\"]\n[children]",
                "reinit: `global` is not",
            ),
            ("arch = \"vgg\"\n", "file = \"net.onnx\"\n", "`plan` belongs to a built-in architecture"),
            ("arch = \"vgg\"\nplan = [[8, 8], [16, 16]]", "file = \"net.onnx\"\nwidth = 0.5", "`width` belongs"),
            ("validation = 100", "validation = 100\nseen = false", "`seen` is about a parent in `file`"),
        ] {
            assert!(SMALL.contains(from));
            let message = refusal(&SMALL.replace(from, to));
            assert!(message.contains(words), "{to}: {message}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_study_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("graph.json"), "{}").unwrap();
        let path = folder.path().join("study.toml");
        let text = SMALL.replace("name = \"digits\"", "name = \"digits\"\ndir = \"data\"");
        let text =
            text.replace("arch = \"vgg\"\nplan = [[8, 8], [16, 16]]", "arch = \"graph.json\"\nfile = \"net.pt\"");
        std::fs::write(&path, text).unwrap();
        let (study, _) = Study::read(&path).unwrap();
        assert_eq!(study.data.dir, Some(folder.path().join("data")));
        assert_eq!(study.parent.file, Some(folder.path().join("net.pt")));
        assert_eq!(study.graph_file(), Some(&*folder.path().join("graph.json")));
    }
}
