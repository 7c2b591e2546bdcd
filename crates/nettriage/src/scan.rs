//! The scan: which ranges of layers could be one layer, without training.

use nettriage_compress::scan::{self, Choice, Method, Options, Phase, Progress, Scope};
use nettriage_data::{Dataset, Normalization};
use nettriage_net::Network;
use nettriage_records::scan::Scan;

use crate::{Error, Subject};

/// Scans a network in memory: see [`ScanBuilder`].
pub fn scan<'a>(network: &'a Network, data: &'a Dataset) -> ScanBuilder<'a> {
    ScanBuilder { source: Source::Parts { network, data, normalization: None }, settings: Settings::default() }
}

/// Where the network and its images come from.
pub(crate) enum Source<'a> {
    Parts { network: &'a Network, data: &'a Dataset, normalization: Option<Normalization> },
    Subject(&'a Subject),
}

impl Source<'_> {
    pub(crate) fn with<T>(
        &self,
        judged: Option<usize>,
        labelled: bool,
        use_it: impl FnOnce(&Subject) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self {
            Source::Subject(subject) => use_it(subject),
            Source::Parts { network, data, normalization } => {
                let normalization = normalization.clone().unwrap_or_else(|| training_statistics(data));
                let subject = Subject::new((*network).clone(), (*data).clone(), normalization, judged, labelled)?;
                use_it(&subject)
            }
        }
    }
}

/// The normalisation by all training images.
pub(crate) fn training_statistics(data: &Dataset) -> Normalization {
    let all: Vec<u32> = (0..data.train.len() as u32).collect();
    Normalization::of(&data.train, data.shape(), &all)
}

/// What scans and prescriptions share.
pub(crate) struct Settings<'a> {
    pub options: Options,
    pub fitted: usize,
    pub judged: Option<usize>,
    pub labelled: bool,
    pub on_test: Option<usize>,
    pub progress: Option<&'a dyn Progress>,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            options: Options { threads, ..Options::default() },
            fitted: 2000,
            judged: None,
            labelled: true,
            on_test: None,
            progress: None,
        }
    }
}

struct Silent;

impl Progress for Silent {
    fn phase(&self, _phase: Phase, _done: usize, _of: usize) {}
}

impl Settings<'_> {
    pub(crate) fn scan(&self, subject: &Subject) -> Result<Scan, Error> {
        let fitted = subject.fitted(self.fitted);
        let (judged, judged_from) = match self.on_test {
            Some(count) => {
                let judged = subject.test(0..count);
                let from = format!("the first {} test images", judged.count);
                (judged, from)
            }
            None => (subject.judged(), subject.judged_from.clone()),
        };
        let about = scan::Subject { network: &subject.network, fitted: &fitted, judged: &judged };
        let mut found = scan::scan(&about, &self.options, self.progress.unwrap_or(&Silent))?;
        found.source = subject.source.clone();
        found.images.data = subject.data.name.clone();
        found.images.judged_from = judged_from;
        Ok(found)
    }
}

/// A scan that is being set up; [`ScanBuilder::run`] makes it.
pub struct ScanBuilder<'a> {
    source: Source<'a>,
    settings: Settings<'a>,
}

impl<'a> ScanBuilder<'a> {
    /// Of a network with images chosen already.
    pub fn of(subject: &'a Subject) -> ScanBuilder<'a> {
        ScanBuilder { source: Source::Subject(subject), settings: Settings::default() }
    }

    /// Normalisation of pixels that the network was trained with; the training set's own statistics if not given.
    pub fn normalization(mut self, normalization: Normalization) -> Self {
        if let Source::Parts { normalization: slot, .. } = &mut self.source {
            *slot = Some(normalization);
        }
        self
    }

    /// Which ranges.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.settings.options.scope = scope;
        self
    }

    /// Which single layers.
    pub fn substitutes(mut self, choices: impl IntoIterator<Item = Choice>) -> Self {
        self.settings.options.choices = choices.into_iter().collect();
        self
    }

    /// How weights are solved.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.settings.options.methods = methods.into_iter().collect();
        self
    }

    /// Training images to fit to; 2,000 if not given.
    pub fn images(mut self, count: usize) -> Self {
        self.settings.fitted = count;
        self
    }

    /// Training images to judge by; at most 1,000, and a fifth of the training images, if not given.
    pub fn judged(mut self, count: usize) -> Self {
        self.settings.judged = Some(count);
        self
    }

    /// Judges by the first `count` test images: for a description, not for a choice that is tested on them.
    pub fn on_test(mut self, count: usize) -> Self {
        self.settings.on_test = Some(count);
        self
    }

    /// Uses no label: agreement with the network stands in for accuracy.
    pub fn unlabelled(mut self) -> Self {
        self.settings.labelled = false;
        self
    }

    /// Every other option.
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.settings.options);
        self
    }

    /// Receives the progress of the scan.
    pub fn progress(mut self, progress: &'a dyn Progress) -> Self {
        self.settings.progress = Some(progress);
        self
    }

    /// Makes the scan.
    ///
    /// # Errors
    /// A network that does not fit the images, or in which no range could be one layer.
    pub fn run(self) -> Result<Scan, Error> {
        let settings = &self.settings;
        self.source.with(settings.judged, settings.labelled, |subject| settings.scan(subject))
    }
}
