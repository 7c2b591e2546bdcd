//! Bounds of every number in a study file, each with its reason; the command line uses the same type for its flags.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use nettriage_data::Augmentation;
use nettriage_engine::{Optimizer, Schedule};
use nettriage_train::Recipe;
use nettriage_train::scheme::{Scheme, Stage};

use crate::rate::Rate;
use crate::study::{Children, Data, Halving, Parent, Study, Training, Triage};

/// The values that a number may take, and why it may take no others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    least: Bound<f64>,
    most: Bound<f64>,
    reason: &'static str,
}

impl Limit {
    /// `least` to `most`, both included.
    pub const fn between(least: f64, most: f64, reason: &'static str) -> Limit {
        Limit { least: Bound::Included(least), most: Bound::Included(most), reason }
    }

    /// Above 0, at most `most`.
    pub const fn above_zero(most: f64, reason: &'static str) -> Limit {
        Limit { least: Bound::Excluded(0.0), most: Bound::Included(most), reason }
    }

    /// At least 0, below `most`.
    pub const fn below(most: f64, reason: &'static str) -> Limit {
        Limit { least: Bound::Included(0.0), most: Bound::Excluded(most), reason }
    }

    /// Whether the value is within the bounds; NaN is not.
    pub fn admits(&self, value: f64) -> bool {
        (self.least, self.most).contains(&value)
    }

    /// What to choose instead of `value`, and why; none if the value is within the bounds.
    pub fn problem(&self, value: f64) -> Option<String> {
        (!self.admits(value)).then(|| format!("choose {self}"))
    }
}

/// The bounds and their reason.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.least {
            Bound::Included(least) => write!(f, "at least {}", Number(least))?,
            Bound::Excluded(least) => write!(f, "more than {}", Number(least))?,
            Bound::Unbounded => {}
        }
        match self.most {
            Bound::Included(most) => write!(f, " and at most {}", Number(most))?,
            Bound::Excluded(most) => write!(f, " and less than {}", Number(most))?,
            Bound::Unbounded => {}
        }
        write!(f, " ({})", self.reason)
    }
}

/// A number as people write it: 0.02 even if it was a 32-bit float, 1e18 in place of its 19 digits.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.0 as f32;
        match (self.0.abs() >= 1e10, f64::from(single) == self.0) {
            (true, true) => write!(f, "{single:e}"),
            (true, false) => write!(f, "{:e}", self.0),
            (false, true) => write!(f, "{single}"),
            (false, false) => write!(f, "{}", self.0),
        }
    }
}

const COUNT: Limit = Limit::between(1.0, u32::MAX as f64, "images are counted by 32-bit numbers");
const STREAM: Limit = Limit::between(1.0, 1e8, "the order of the images is held in memory");
const BATCH: Limit = Limit::between(1.0, 65_536.0, "all tensors of a batch are held in memory");
const RATE: Limit = Limit::above_zero(1000.0, "weights diverge by larger steps");
const CLIP: Limit = Limit::above_zero(1e6, "the largest norm of a gradient; leave `clip` out for none");
const DECAY: Limit = Limit::between(0.0, 1.0, "a share of the weights");
const MOMENT: Limit = Limit::below(1.0, "at 1 past gradients never decay");
const MEAN: Limit = Limit::between(0.0, 1.0, "of pixels scaled to 0 to 1: divide values of 0 to 255 by 255");
const STD: Limit = Limit::above_zero(1.0, "of pixels scaled to 0 to 1: divide values of 0 to 255 by 255");

/// Most images that a parent's training sees: `epochs` times the training set.
pub(crate) const PARENT_STREAM: Limit = STREAM;

/// Most images that a child's training sees.
pub(crate) const CHILD_STREAM: Limit = STREAM;

/// Most trials of a plan.
pub(crate) const TRIALS: Limit = Limit::between(1.0, 1e6, "the plan is held in memory");

/// Most parameters of a parent.
pub(crate) const PARAMETERS: Limit = Limit::between(0.0, 1e9, "a trial holds several copies of 4 bytes each");

/// A number of a study file: its key as messages name it, its value, its bounds.
pub(crate) struct Entry {
    pub key: String,
    pub value: f64,
    pub limit: Limit,
}

impl Entry {
    /// Why the value is refused, if it is.
    pub fn problem(&self) -> Option<String> {
        let remedy = self.limit.problem(self.value)?;
        Some(format!("{} is {}: {remedy}", self.key, Number(self.value)))
    }
}

/// Every number of a study. The patterns name every field that may be a number, so that a new key needs a decision here.
pub(crate) fn entries(study: &Study) -> Vec<Entry> {
    let Study { name: _, data, parent, children, triage, halving, schemes } = study;
    let mut table = Table(Vec::new());
    table.data(data);
    table.parent(parent);
    table.children(children);
    table.triage(triage);
    if let Some(Halving { keep }) = halving {
        let share = Limit { most: Bound::Excluded(1.0), ..Limit::above_zero(1.0, "the share that continues") };
        table.add("[halving] keep", *keep, share);
    }
    schemes.iter().for_each(|scheme| table.scheme(scheme));
    table.0
}

struct Table(Vec<Entry>);

impl Table {
    fn add(&mut self, key: impl Into<String>, value: impl Into<f64>, limit: Limit) {
        self.0.push(Entry { key: key.into(), value: value.into(), limit });
    }

    fn count(&mut self, key: &str, value: usize, limit: Limit) {
        self.add(key, value as f64, limit);
    }

    fn data(&mut self, data: &Data) {
        let Data { name: _, dir: _, size, resize, validation, train, test, augment, .. } = data;
        let Augmentation { pad, flip: _, crop, jitter, cutout, mixup } = augment;
        let pixels = Limit::between(1.0, 1024.0, "images are decoded to this many rows and columns");
        if let Some(size) = size {
            self.count("[data] size", size.height, pixels);
            self.count("[data] size", size.width, pixels);
        }
        resize.iter().for_each(|resize| self.count("[data] resize", *resize, pixels));
        self.count("[data] validation", *validation, COUNT);
        train.iter().for_each(|train| self.count("[data] train", *train, COUNT));
        test.iter().for_each(|test| self.count("[data] test", *test, COUNT));
        let pads = Limit::between(0.0, Augmentation::MAX_PAD as f64, "a crop must not miss the image");
        self.count("[data] augment.pad", *pad, pads);
        crop.iter()
            .for_each(|crop| self.add("[data] augment.crop", *crop, Limit::above_zero(1.0, "a share of the area")));
        self.add("[data] augment.jitter", *jitter, Limit::between(0.0, 1.0, "a share of the colours"));
        self.add("[data] augment.mixup", *mixup, Limit::between(0.0, 1.0, "the shape of a Beta distribution"));
        self.count("[data] augment.cutout", *cutout, Limit { least: Bound::Included(0.0), ..pixels });
    }

    fn parent(&mut self, parent: &Parent) {
        let Parent { arch: _, plan, batch_norm: _, width, file: _, mean, std, seeds, training } = parent;
        for &filters in plan.iter().flatten().flatten() {
            self.count("[parent] plan", filters, Limit::between(1.0, 65_536.0, "filters of a layer"));
        }
        self.add("[parent] width", *width, Limit::above_zero(64.0, "a factor of every layer's filters"));
        mean.iter().flatten().for_each(|mean| self.add("[parent] mean", *mean, MEAN));
        std.iter().flatten().for_each(|std| self.add("[parent] std", *std, STD));
        self.add("[parent] seeds", *seeds as f64, Limit::between(1.0, 1000.0, "every seed trains a parent"));
        if let Some(Training { epochs, images, steps, batch, rate, optimizer, schedule, clip, recipe }) = training {
            let passes = Limit::above_zero(1e6, "passes over the training images");
            epochs.iter().for_each(|epochs| self.add("[parent.training] epochs", *epochs, passes));
            images.iter().for_each(|images| self.count("[parent.training] images", *images, STREAM));
            steps.iter().for_each(|steps| self.count("[parent.training] steps", *steps, STREAM));
            self.training("[parent.training]", *batch, *rate, optimizer, schedule, *clip);
            self.recipe("[parent.training]", recipe);
        }
    }

    fn children(&mut self, children: &Children) {
        let Children {
            seeds,
            images,
            epochs,
            steps,
            // Read from texts, whose numbers are bounded there.
            budgets: _,
            batch,
            rate,
            optimizer,
            schedule,
            clip,
            recipe,
            curve,
            margin,
            calibration,
            exact: _,
            activations: _,
            readings: _,
            keep: _,
            keep_sample,
        } = children;
        self.add("[children] seeds", *seeds as f64, Limit::between(1.0, 10_000.0, "every seed repeats every trial"));
        images.iter().for_each(|images| self.count("[children] images", *images, STREAM));
        steps.iter().for_each(|steps| self.count("[children] steps", *steps, STREAM));
        let passes = Limit::above_zero(1e6, "passes over the training images");
        epochs.iter().for_each(|epochs| self.add("[children] epochs", *epochs, passes));
        self.training("[children]", *batch, *rate, optimizer, schedule, *clip);
        self.recipe("[children]", recipe);
        let points = Limit::between(1.0, 10_000.0, "every point evaluates the validation images");
        self.count("[children] curve", *curve, points);
        self.add("[children] margin", *margin, Limit::between(0.0, 100.0, "percentage points"));
        self.count("[children] calibration", *calibration, COUNT);
        let sample = Limit::between(1.0, 1e6, "trials; leave it out for none");
        keep_sample.iter().for_each(|count| self.count("[children] keep_sample", *count, sample));
    }

    fn recipe(&mut self, section: &str, recipe: &Recipe) {
        let Recipe { warmup, label_smoothing, decay_all: _, average } = recipe;
        let key = |name: &str| format!("{section} recipe.{name}");
        self.add(key("warmup"), *warmup, Limit::below(1.0, "a share of the steps"));
        self.add(key("label_smoothing"), *label_smoothing, Limit::below(1.0, "a share of the labels' weight"));
        average
            .iter()
            .for_each(|average| self.add(key("average"), *average, Limit::below(1.0, "at 1 nothing is added")));
    }

    fn training(
        &mut self,
        section: &str,
        batch: usize,
        rate: Rate,
        optimizer: &Optimizer,
        schedule: &Schedule,
        clip: Option<f32>,
    ) {
        let key = |name: &str| format!("{section} {name}");
        self.count(&key("batch"), batch, BATCH);
        if let Rate::Fixed(rate) = rate {
            self.add(key("rate"), rate, RATE);
        }
        clip.into_iter().for_each(|clip| self.add(key("clip"), clip, CLIP));
        match *optimizer {
            Optimizer::Sgd { momentum, nesterov: _, weight_decay } => {
                self.add(key("optimizer.sgd.momentum"), momentum, MOMENT);
                self.add(key("optimizer.sgd.weight_decay"), weight_decay, DECAY);
            }
            Optimizer::AdamW { betas, eps, weight_decay } => {
                self.add(key("optimizer.adam-w.betas"), betas.0, MOMENT);
                self.add(key("optimizer.adam-w.betas"), betas.1, MOMENT);
                self.add(key("optimizer.adam-w.eps"), eps, Limit::above_zero(1.0, "keeps the step finite"));
                self.add(key("optimizer.adam-w.weight_decay"), weight_decay, DECAY);
            }
        }
        match *schedule {
            Schedule::Constant | Schedule::Cosine | Schedule::OneCycle => {}
            Schedule::Step { every, factor } => {
                self.add(key("schedule.step.every"), every, Limit::above_zero(1.0, "a share of all steps"));
                self.add(key("schedule.step.factor"), factor, Limit::between(0.0, 1.0, "the rate falls"));
            }
        }
    }

    fn triage(&mut self, triage: &Triage) {
        for substitute in triage.substitutes() {
            if let Some((kernel, groups)) =
                substitute.kernel().zip(substitute.groups()).filter(|_| !substitute.is_linear())
            {
                let key = format!("[triage] substitutes: `{substitute}`: ");
                self.count(&format!("{key}kernel"), kernel, Limit::between(1.0, 63.0, "weights grow by its square"));
                self.count(&format!("{key}groups"), groups, Limit::between(1.0, 65_535.0, "they divide the channels"));
            }
        }
    }

    fn scheme(&mut self, scheme: &Scheme) {
        for (number, stage) in scheme.stages.iter().enumerate() {
            let Stage { loss: _, train: _, share, temperature, alpha, beta } = stage;
            let key = |name: &str| format!("[[scheme]] `{}`, stage {}: {name}", scheme.name, number + 1);
            share.iter().for_each(|share| {
                self.add(key("share"), *share, Limit::above_zero(1.0, "of the child's images"));
            });
            self.add(key("temperature"), *temperature, Limit::above_zero(1000.0, "divides the logits"));
            self.add(key("alpha"), *alpha, Limit::between(0.0, 1.0, "the weight of the soft targets"));
            self.add(key("beta"), *beta, Limit::between(0.0, 1000.0, "the weight of the ends of blocks"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A study that has every key that may be a number.
    const STUDY: &str = r#"
name = "small"
[data]
name = "digits"
size = 8
validation = 100
train = 300
test = 100
augment = { pad = 1, crop = 0.5, jitter = 0.1, cutout = 2, mixup = 0.5 }
[parent]
arch = "vgg"
plan = [[8, 8], [16, 16]]
width = 1.0
mean = [0.5]
std = [0.5]
seeds = 1
[parent.training]
epochs = 1.0
images = 300
steps = 10
recipe = { warmup = 0.1, label_smoothing = 0.1, average = 0.9 }
batch = 32
rate = 0.1
clip = 1.0
optimizer = { sgd = { momentum = 0.9, nesterov = false, weight_decay = 0.1 } }
schedule = { step = { every = 0.3, factor = 0.1 } }
[children]
seeds = 2
images = 500
epochs = 1.0
steps = 10
recipe = { warmup = 0.1, label_smoothing = 0.1, average = 0.9 }
batch = 32
rate = 0.02
clip = 1.0
curve = 8
margin = 1.0
calibration = 100
keep_sample = 3
optimizer = { adam-w = { betas = [0.9, 0.999], eps = 1e-8, weight_decay = 0.01 } }
schedule = { step = { every = 0.3, factor = 0.1 } }
[triage]
substitutes = ["conv3x3g2"]
schemes = ["mine"]
[halving]
keep = 0.5
[[scheme]]
name = "mine"
stages = [{ loss = "distillation", train = "all", share = 1.0, temperature = 4.0, alpha = 0.9, beta = 0.5 }]
"#;

    /// Key, whether 0 and 1 are accepted, the largest accepted value. Above it, below 0 and the type's largest are refused.
    const KEYS: [(&str, bool, bool, f64); 52] = [
        ("[data] size", false, true, 1024.0),
        ("[data] validation", false, true, 4_294_967_295.0),
        ("[data] train", false, true, 4_294_967_295.0),
        ("[data] test", false, true, 4_294_967_295.0),
        ("[data] augment.pad", true, true, 127.0),
        ("[data] augment.crop", false, true, 1.0),
        ("[data] augment.jitter", true, true, 1.0),
        ("[data] augment.cutout", true, true, 1024.0),
        ("[data] augment.mixup", true, true, 1.0),
        ("[parent] plan", false, true, 65_536.0),
        ("[parent] width", false, true, 64.0),
        ("[parent] mean", true, true, 1.0),
        ("[parent] std", false, true, 1.0),
        ("[parent] seeds", false, true, 1000.0),
        ("[parent.training] epochs", false, true, 1e6),
        ("[parent.training] images", false, true, 1e8),
        ("[parent.training] steps", false, true, 1e8),
        ("[parent.training] recipe.warmup", true, false, 0.999),
        ("[parent.training] recipe.label_smoothing", true, false, 0.999),
        ("[parent.training] recipe.average", true, false, 0.999),
        ("[parent.training] batch", false, true, 65_536.0),
        ("[parent.training] rate", false, true, 1000.0),
        ("[parent.training] clip", false, true, 1e6),
        ("[parent.training] optimizer.sgd.momentum", true, false, 0.999),
        ("[parent.training] optimizer.sgd.weight_decay", true, true, 1.0),
        ("[parent.training] schedule.step.every", false, true, 1.0),
        ("[parent.training] schedule.step.factor", true, true, 1.0),
        ("[children] seeds", false, true, 10_000.0),
        ("[children] images", false, true, 1e8),
        ("[children] epochs", false, true, 1e6),
        ("[children] steps", false, true, 1e8),
        ("[children] recipe.warmup", true, false, 0.999),
        ("[children] recipe.label_smoothing", true, false, 0.999),
        ("[children] recipe.average", true, false, 0.999),
        ("[children] batch", false, true, 65_536.0),
        ("[children] rate", false, true, 1000.0),
        ("[children] clip", false, true, 1e6),
        ("[children] optimizer.adam-w.betas", true, false, 0.999),
        ("[children] optimizer.adam-w.eps", false, true, 1.0),
        ("[children] optimizer.adam-w.weight_decay", true, true, 1.0),
        ("[children] schedule.step.every", false, true, 1.0),
        ("[children] schedule.step.factor", true, true, 1.0),
        ("[children] curve", false, true, 10_000.0),
        ("[children] margin", true, true, 100.0),
        ("[children] calibration", false, true, 4_294_967_295.0),
        ("[children] keep_sample", false, true, 1e6),
        ("[halving] keep", false, false, 0.999),
        ("[[scheme]] `mine`, stage 1: share", false, true, 1.0),
        ("[[scheme]] `mine`, stage 1: temperature", false, true, 1000.0),
        ("[[scheme]] `mine`, stage 1: alpha", true, true, 1.0),
        ("[[scheme]] `mine`, stage 1: beta", true, true, 1000.0),
        ("[triage] substitutes: `conv3x3g2`: kernel", false, true, 63.0),
    ];

    /// The place of a key's number in the study's TOML; of a list the first element.
    fn place<'v>(study: &'v mut toml::Value, key: &str) -> &'v mut toml::Value {
        let path = key.replace("[[scheme]] `mine`, stage 1: ", "scheme.stages.");
        let path = path.replace(['[', ']'], "").replace(' ', ".");
        let first = |mut value: &'v mut toml::Value| {
            while value.is_array() {
                value = &mut value[0];
            }
            value
        };
        path.split('.').fold(study, |value, part| first(value.get_mut(part).unwrap()))
    }

    /// What is said of the study with a number changed; `None` if it is accepted.
    fn said(key: &str, number: f64) -> Option<String> {
        let mut study: toml::Value = toml::from_str(STUDY).unwrap();
        let value = place(&mut study, key);
        *value = match value {
            toml::Value::Integer(_) => toml::Value::Integer(number as i64),
            _ => toml::Value::Float(number),
        };
        // A type that cannot hold the number refuses it too.
        match study.try_into::<Study>() {
            Ok(study) => entries(&study).iter().find_map(Entry::problem),
            Err(error) => Some(format!("{key} is {number}: {error}")),
        }
    }

    #[test]
    fn every_number_is_bounded() {
        for (key, zero, one, most) in KEYS.into_iter().filter(|(key, ..)| !key.starts_with("[triage]")) {
            let numbers = [(0.0, zero), (1.0, one), (most, true), (most * 1.01 + 1.0, false), (-1.0, false)];
            for (number, accepted) in numbers.into_iter().chain([(1e38, false), (f64::MAX, false)]) {
                let said = said(key, number);
                assert_eq!(said.is_none(), accepted, "{key} = {number}: {said:?}");
                assert!(said.is_none_or(|said| said.starts_with(&format!("{key} is "))), "{key} = {number}");
            }
            let mut study: toml::Value = toml::from_str(STUDY).unwrap();
            if place(&mut study, key).is_float() {
                assert!([f64::NAN, f64::INFINITY].iter().all(|&number| said(key, number).is_some()), "{key}");
            }
        }
    }

    #[test]
    fn the_table_of_this_test_is_complete() {
        let study: Study = toml::from_str(STUDY).unwrap();
        for Entry { key, .. } in entries(&study) {
            let groups = key.ends_with(": groups");
            assert!(groups || KEYS.iter().any(|(known, ..)| *known == key), "{key}: add it to KEYS");
        }
    }

    #[test]
    fn kernels_of_substitutes_are_bounded() {
        let refused = |name: &str| {
            let study: Study = toml::from_str(&STUDY.replace("conv3x3g2", name)).unwrap();
            entries(&study).iter().find_map(Entry::problem)
        };
        assert_eq!(refused("conv63x63"), None);
        let said = refused("conv65535x65535").unwrap();
        assert!(said.contains("`conv65535x65535`: kernel is 65535: choose at least 1 and at most 63"), "{said}");
    }
}
