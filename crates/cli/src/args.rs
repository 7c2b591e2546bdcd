//! Every flag, with its help beside it.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "help texts write <placeholders>")]

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
    /// Accuracy of a network on a data set, or its outputs for given inputs
    Evaluate(Evaluate),
    /// Write a network, or a child of a run, as ONNX or safetensors
    Export(Export),
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
    /// How the machine is used
    #[command(flatten)]
    pub means: Means,
    /// Print the plan and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// How the machine is used; no record depends on it.
#[derive(clap::Args)]
pub struct Means {
    /// MiB of memory for the decoded data set; a larger one is streamed from a file
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    pub data_memory: u64,
    /// MiB of disk for activations that exceed --cache
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub disk_cache: usize,
    /// Folder for files of what exceeds memory [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Threads inside a trial [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Savings to do without, to measure what each gives: all, or some of prefix, evaluation, hint, kept, sweep, solved
    #[arg(long, value_name = "LIST", default_value = "")]
    pub without: nettriage_study::Savings,
}

impl Means {
    /// As the study takes them.
    pub fn resolved(&self) -> nettriage_study::Means {
        let default = nettriage_study::Means::default();
        let folder = self.scratch.clone().unwrap_or(default.room.folder);
        nettriage_study::Means {
            savings: self.without,
            room: nettriage_data::Room { memory: self.data_memory << 20, folder },
            disk: self.disk_cache << 20,
            threads: self.threads.map(usize::from),
        }
    }
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
    /// A second run to compare it with, block by block; printed as Markdown
    pub with: Option<PathBuf>,
    /// Where to write the page [default: report.html in the run's folder]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the trials as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the analysis' cells (block x substitute x init x scheme) as CSV
    #[arg(long, value_name = "FILE")]
    pub csv_cells: Option<PathBuf>,
    /// Write a summary that fits in a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write event files for TensorBoard: curves, filters, hyper-parameters
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
}

/// A network, and what its file may not say by itself.
#[derive(clap::Args)]
pub struct Model {
    /// The network's file: ONNX, safetensors, or a PyTorch checkpoint
    pub model: String,
    /// Built-in architecture (such as vgg16_bn, resnet18, cifar-resnet20), or a file that holds the graph, for files that hold weights alone
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Width multiplier of the architecture
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub width: f64,
    /// Shape of an image, where the file does not say
    #[arg(long, value_name = "CxHxW")]
    pub input: Option<String>,
    /// Number of classes, where the file does not say
    #[arg(long, value_name = "N")]
    pub classes: Option<usize>,
}

/// `inspect`.
#[derive(clap::Args)]
pub struct Inspect {
    /// The network: a file, a study file (its parent), or the name of a built-in architecture
    #[command(flatten)]
    pub model: Model,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the graph with its blocks marked
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// `evaluate`.
#[derive(clap::Args)]
pub struct Evaluate {
    /// The network
    #[command(flatten)]
    pub model: Model,
    /// Data set; its test images are used, in the file's order
    #[arg(long, value_name = "NAME", required_unless_present = "inputs")]
    pub data: Option<String>,
    /// Folder of the data set's files; for `--data folder`, the folder or tar itself
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Mean per channel of pixels in 0 to 1 that the network was trained with
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation per channel
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    pub std: Option<Vec<f32>>,
    /// Only the first so many images
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Inputs as they are, in the model's own order of axes (NumPy, f32), in place of a data set
    #[arg(long, value_name = "FILE.npy", conflicts_with_all = ["data", "mean", "limit"], requires = "logits")]
    pub inputs: Option<PathBuf>,
    /// Write the outputs (NumPy, f32, N x classes)
    #[arg(long, value_name = "FILE.npy")]
    pub logits: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `export`.
#[derive(clap::Args)]
pub struct Export {
    /// The network, or the folder of a run with --trial
    #[command(flatten)]
    pub model: Model,
    /// A trial of the run, by its id or its index in the plan: its network is written, with a model card beside it
    #[arg(long, value_name = "ID")]
    pub trial: Option<String>,
    /// Folder of the data set's files, should the trial have to be run again
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to write: .onnx or .safetensors
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
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
