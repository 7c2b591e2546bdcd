//! What scans and prescriptions share: the network with its images, and how it is scanned.

use nettriage_compress::scan::{self, Options, Phase, Progress};
use nettriage_data::{Dataset, Normalization};
use nettriage_net::Network;
use nettriage_records::scan::Scan;

use crate::{Error, Subject};

/// Where the network and its images come from.
pub(crate) enum Source<'a> {
    /// A network and a data set in memory.
    Parts { network: &'a Network, data: &'a Dataset, normalization: Option<Normalization> },
    /// Images chosen already.
    Subject(&'a Subject),
}

impl Source<'_> {
    fn with<T>(
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
    pub source: Source<'a>,
    pub options: Options,
    pub fitted: usize,
    pub judged: Option<usize>,
    pub labelled: bool,
    pub on_test: Option<usize>,
    pub progress: Option<&'a dyn Progress>,
}

impl<'a> Settings<'a> {
    pub(crate) fn new(source: Source<'a>) -> Settings<'a> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            source,
            options: Options { threads, ..Options::default() },
            fitted: 2000,
            judged: None,
            labelled: true,
            on_test: None,
            progress: None,
        }
    }

    /// Calls `use_it` with the network and its images.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&Subject) -> Result<T, Error>) -> Result<T, Error> {
        self.source.with(self.judged, self.labelled, use_it)
    }

    /// The scan of a subject.
    pub(crate) fn scan(&self, subject: &Subject) -> Result<Scan, Error> {
        self.scan_on(subject, self.on_test)
    }

    /// The scan of a subject, judged by the first test images if their number is given.
    pub(crate) fn scan_on(&self, subject: &Subject, on_test: Option<usize>) -> Result<Scan, Error> {
        let fitted = subject.fitted(self.fitted);
        let (judged, judged_from) = match on_test {
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

struct Silent;

impl Progress for Silent {
    fn phase(&self, _phase: Phase, _done: usize, _of: usize) {}
}

/// Methods of the builder of a scan and of that of a prescription.
macro_rules! shared_setters {
    () => {
        /// Normalisation of pixels that the network was trained with; the training set's own statistics if not given.
        pub fn normalization(mut self, normalization: nettriage_data::Normalization) -> Self {
            if let $crate::settings::Source::Parts { normalization: slot, .. } = &mut self.settings.source {
                *slot = Some(normalization);
            }
            self
        }

        /// Training images that substitutes are fitted to; 2,000 if not given.
        pub fn images(mut self, count: usize) -> Self {
            self.settings.fitted = count;
            self
        }

        /// Training images to judge by; at most 1,000, and a fifth of the training images, if not given.
        pub fn judged(mut self, count: usize) -> Self {
            self.settings.judged = Some(count);
            self
        }

        /// Uses no label: what is kept of the network's own outputs stands in for accuracy.
        pub fn unlabelled(mut self) -> Self {
            self.settings.labelled = false;
            self
        }

        /// What the network's outputs are, without labels; by default it is seen from the network.
        pub fn outputs(mut self, outputs: nettriage_compress::scan::Outputs) -> Self {
            self.settings.options.outputs = Some(outputs);
            self
        }

        /// What networks run on; the processor if not given.
        pub fn device(mut self, device: &nettriage_train::Device) -> Self {
            self.settings.options.device = device.clone();
            self
        }

        /// Every other option of the scan and of fitting.
        pub fn options(mut self, change: impl FnOnce(&mut nettriage_compress::scan::Options)) -> Self {
            change(&mut self.settings.options);
            self
        }
    };
}

pub(crate) use shared_setters;
