//! Every flag, with its help beside it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Which blocks of a convolutional network matter, which could be a single layer, and at what cost.
#[derive(Parser)]
#[command(name = "nettriage", version, propagate_version = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run or resume a study: parent, trials, controls; ends in a report
    Run(Run),
    /// Train a study's parents only
    Train(Run),
    /// Run one trial of a plan: what executors call
    Trial(Trial),
    /// How far a run is
    Status(Status),
    /// Write a run's report again, or export its numbers
    Report(Report),
    /// Layers, shapes, parameters, MACs and blocks of a network
    Inspect(Inspect),
    /// Data sets: fetch, list, show
    #[command(subcommand)]
    Data(Data),
}

/// `run` and `train`.
#[derive(clap::Args)]
pub struct Run {
    /// Study file (TOML)
    pub study: PathBuf,
    /// Folder of the run [default: runs/<study name>-<hash of the plan>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder of the data set's files [default: `dir` in the study, or $NETTRIAGE_DATA/<name>]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Trials at a time, one thread each [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: Option<u16>,
    /// MiB of memory for activations that trials share; 0 shares nothing and gives the same records
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub cache: usize,
    /// Print the plan and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// `trial`.
#[derive(clap::Args)]
pub struct Trial {
    /// The plan: a run's folder, or the plan.json in it
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// The trial's place in the plan, counted from 0
    #[arg(long, value_name = "I")]
    pub index: usize,
    /// Folder of the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `status`.
#[derive(clap::Args)]
pub struct Status {
    /// Folder of the run
    pub run: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `report`.
#[derive(clap::Args)]
pub struct Report {
    /// Folder of the run
    pub run: PathBuf,
    /// Where to write the page [default: report.html in the run's folder]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the trials as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a summary that fits in a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// `inspect`.
#[derive(clap::Args)]
pub struct Inspect {
    /// A network's file, a study file, or the name of a built-in architecture
    pub model: String,
    /// Input of a built-in architecture
    #[arg(long, value_name = "CxHxW", default_value = "3x32x32")]
    pub input: String,
    /// Classes of a built-in architecture
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub classes: usize,
    /// Width multiplier of a built-in architecture
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub width: f64,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `data`.
#[derive(Subcommand)]
pub enum Data {
    /// Download a data set from its official address, with checksum
    Get {
        /// mnist, fashion-mnist, cifar10 or cifar100
        name: String,
        /// Where to put it [default: $NETTRIAGE_DATA/<name>, or the user's cache folder]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Known data sets, and which of them are here
    List,
    /// Class counts, and a contact sheet as PNG
    Show {
        /// A known data set, or a folder or tar of class folders
        name: String,
        /// Where its files are
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// For a folder or tar: pixels a side
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Where to write the contact sheet
        #[arg(long, short, value_name = "PNG")]
        output: Option<PathBuf>,
    },
}
