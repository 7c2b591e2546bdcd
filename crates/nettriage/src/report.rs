//! The results of a study as plain data, and the forms that they are written in.

use std::path::Path;

use nettriage_records::Run;
use nettriage_report::{About, Analysis, Options, RunData, analyse};

use crate::Error;

/// A run's records and their analysis.
pub struct Report {
    /// The run on disk.
    pub run: Run,
    /// Its plan and records.
    pub data: RunData,
    /// Everything that the records say: criticality of each block with its interval, costs, findings.
    pub analysis: Analysis,
}

impl Report {
    /// Of the run in a folder. Reading changes no file: damaged records are treated as absent.
    ///
    /// # Errors
    /// A folder that holds no run; records that cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Report, Error> {
        Report::of(Run::open(folder.as_ref())?.read_only())
    }

    /// Of a run.
    ///
    /// # Errors
    /// Records that cannot be read.
    pub fn of(run: Run) -> Result<Report, Error> {
        let about = About {
            program: concat!("nettriage ", env!("CARGO_PKG_VERSION")).to_owned(),
            command: format!("nettriage run {}.toml", run.plan().name),
            ..About::default()
        };
        let data = RunData::load(&run, about)?;
        let analysis = analyse(&data, &Options { margin: data.plan.margin_pp(), ..Options::default() });
        Ok(Report { run, data, analysis })
    }

    /// The page: one HTML file that needs no network.
    pub fn html(&self) -> String {
        nettriage_report::html(&self.data, &self.analysis)
    }

    /// The table that the command line prints.
    pub fn text(&self) -> String {
        nettriage_report::terminal(&self.data, &self.analysis)
    }

    /// A summary in Markdown.
    pub fn markdown(&self) -> String {
        nettriage_report::markdown(&self.data, &self.analysis)
    }

    /// Writes the page.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_html(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        nettriage_files::write_atomic(path, self.html().as_bytes())
            .map_err(|source| Error::Io { path: path.display().to_string(), source })
    }
}
