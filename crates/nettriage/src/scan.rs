//! The scan: which ranges of layers could be one layer, without training.

use nettriage_compress::scan::{Choice, Method, Progress, Scope};
use nettriage_data::Dataset;
use nettriage_net::Network;
use nettriage_records::scan::Scan;

use crate::settings::{Settings, Source, shared_setters};
use crate::{Error, Subject};

/// Scans a network in memory: see [`ScanBuilder`].
pub fn scan<'a>(network: &'a Network, data: &'a Dataset) -> ScanBuilder<'a> {
    ScanBuilder { settings: Settings::new(Source::Parts { network, data, normalization: None }) }
}

/// A scan that is being set up; [`ScanBuilder::run`] makes it.
pub struct ScanBuilder<'a> {
    settings: Settings<'a>,
}

impl<'a> ScanBuilder<'a> {
    /// Of a network with images chosen already.
    pub fn of(subject: &'a Subject) -> ScanBuilder<'a> {
        ScanBuilder { settings: Settings::new(Source::Subject(subject)) }
    }

    shared_setters!();

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

    /// Judges by the first `count` test images: for a description, not for a choice that is tested on them.
    pub fn on_test(mut self, count: usize) -> Self {
        self.settings.on_test = Some(count);
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
        self.settings.with(|subject| self.settings.scan(subject))
    }
}
