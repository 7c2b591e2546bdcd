//! The results of a study as plain data, and the forms that they are written in.

use std::collections::BTreeMap;
use std::path::Path;

use nettriage_records::Run;
use nettriage_records::plan::{Role, TrialSpec};
use nettriage_records::record::Outcome;
use nettriage_report::analysis::MetricAnalysis;
use nettriage_report::{About, Analysis, Options, RunData, analyse, metric};

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
        if run.plan().metric.is_some() {
            return Err(Error::Request(format!(
                "{}: a study of a user-defined metric, whose report is another: `nettriage report` writes it",
                run.folder().display()
            )));
        }
        let about = About { command: format!("nettriage run {}.toml", run.plan().name), ..about() };
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

/// The results of a study of a user-defined metric, and the forms that they are written in.
pub struct MetricReport {
    /// The run on disk.
    pub run: Run,
    /// Its plan and records.
    pub data: RunData,
    /// Everything that the records say: the loss of each block with its interval, costs, findings.
    pub analysis: MetricAnalysis,
}

impl MetricReport {
    /// Of the run in a folder, as [`Report::open`].
    ///
    /// # Errors
    /// A folder that holds no run, or one of another kind; records that cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<MetricReport, Error> {
        let run = Run::open(folder.as_ref())?.read_only();
        let data = RunData::load(&run, about())?;
        let analysis = metric::analyse(&data, true).ok_or_else(|| {
            Error::Request(format!("{}: a study of accuracy, whose report is another", run.folder().display()))
        })?;
        Ok(MetricReport { run, data, analysis })
    }

    /// The page: one HTML file that needs no network.
    pub fn html(&self) -> String {
        metric::html(&self.analysis)
    }
}

/// The page of the run in a folder, of either kind.
///
/// # Errors
/// A folder that holds no run; records that cannot be read.
pub fn page(folder: impl AsRef<Path>) -> Result<String, Error> {
    let of_metric = Run::open(folder.as_ref())?.plan().metric.is_some();
    if of_metric { Ok(MetricReport::open(folder)?.html()) } else { Ok(Report::open(folder)?.html()) }
}

fn about() -> About {
    About { program: concat!("nettriage ", env!("CARGO_PKG_VERSION")).to_owned(), ..About::default() }
}

/// Of a block's children, those of the substitute, init and scheme with the highest mean validation accuracy over the
/// seeds; of these the best one, with its validation accuracy, 0 to 1.
///
/// # Errors
/// An unknown block; one without a finished child; records that cannot be read.
pub fn best_child<'r>(run: &'r Run, block: &str) -> Result<(&'r TrialSpec, f64), Error> {
    let (plan, folder) = (run.plan(), run.folder().display());
    if !plan.blocks.iter().any(|known| known.name == block) {
        let known: Vec<&str> = plan.blocks.iter().map(|block| block.name.as_str()).collect();
        return Err(Error::Request(format!("block {block}: {folder} has the blocks {}", known.join(", "))));
    }
    let mut groups: BTreeMap<_, Vec<(f64, &TrialSpec)>> = BTreeMap::new();
    for spec in plan.trials.iter().filter(|t| t.role == Role::Child && t.block.as_deref() == Some(block)) {
        let record = run.record(&spec.id)?.filter(|record| record.outcome == Outcome::Done);
        if let Some(readings) = record.and_then(|record| record.readings) {
            let group = (&spec.substitute, &spec.init, &spec.scheme);
            groups.entry(group).or_default().push((readings.validation.top1, spec));
        }
    }
    let mean = |trials: &[(f64, &TrialSpec)]| trials.iter().map(|t| t.0).sum::<f64>() / trials.len() as f64;
    let trials = groups.into_values().max_by(|a, b| mean(a).total_cmp(&mean(b)));
    let best = trials.and_then(|trials| trials.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)));
    best.map(|(accuracy, spec)| (spec, accuracy)).ok_or_else(|| {
        Error::Request(format!("block {block}: {folder} has no finished child of it yet; finish `nettriage run` first"))
    })
}
