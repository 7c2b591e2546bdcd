//! Every flag, with its help beside it.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "help texts write <placeholders>")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use nettriage_data::{ImageSize, Interpolation};
use nettriage_study::Limit;
use nettriage_train::{Arithmetic, Device, DeviceName};

use crate::fail::Fail;

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
    Train(Train),
    /// Write a study file for a network and a data set, with comments
    Init(Init),
    /// Run one trial of a plan: what executors call
    Trial(Trial),
    /// Progress of a run
    Status(Status),
    /// Show a run's report as a local web page that follows the run
    Serve(Serve),
    /// Run failed trials again
    Retry(Retry),
    /// Show the files in a run's folder that are not needed, and remove them
    Gc(Gc),
    /// Join runs of one plan that were made on several machines
    Merge(Merge),
    /// Write a run's report again, or export its numbers
    Report(Report),
    /// Which ranges of layers could be one layer: without training, in about a minute
    Scan(Scan),
    /// A smaller network within a budget: chosen from a scan, built, trained, measured, written
    Prescribe(Box<Prescribe>),
    /// Layers, shapes, parameters, MACs and blocks of a network
    Inspect(Inspect),
    /// Accuracy of a network on a data set, or its outputs for given inputs
    Evaluate(Evaluate),
    /// Write a network, or a child of a run, as ONNX or safetensors
    Export(Export),
    /// Data sets: fetch, list, show
    #[command(subcommand)]
    Data(Data),
    /// Print completions of commands and flags for a shell
    Completions(Completions),
    /// Write a manual page for every command
    Man(Man),
}

/// `completions`.
#[derive(clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(clap::Args)]
pub struct Man {
    /// Folder to write the pages into
    pub dir: PathBuf,
}

/// What `run` and `train` have in common.
#[derive(clap::Args)]
pub struct Train {
    /// Study file (TOML)
    #[arg(required_unless_present = "model")]
    pub study: Option<PathBuf>,
    /// In place of a study file: the network's file, or the name of a built-in architecture; `nettriage init` shows the study
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with = "study")]
    pub model: Option<String>,
    /// Data set of --model
    #[arg(long, value_name = "NAME", requires = "model")]
    pub data: Option<String>,
    /// Folder of the run [default: runs/<study name>-<hash of the plan>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder of the data set's files [default: `dir` in the study, or $NETTRIAGE_DATA/<name>]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Trials at a time, one thread each [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(THREADS))]
    pub workers: Option<u16>,
    /// MiB of memory for activations that trials share; 0 stores none and gives the same records
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = whole::<usize>(MIB))]
    pub cache: usize,
    /// How the machine is used
    #[command(flatten)]
    pub runtime: Runtime,
    /// Form of the progress on standard error
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// `init`.
#[derive(clap::Args)]
pub struct Init {
    /// The network's file, or the name of a built-in architecture
    pub model: String,
    /// Data set that the network was trained for, or shall be trained for
    #[arg(long, value_name = "NAME")]
    pub data: String,
    /// Folder of the data set's files; for `--data folder`, the folder or tar itself
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to write the study [default: study.toml]
    #[arg(long, short, value_name = "FILE", default_value = "study.toml", hide_default_value = true)]
    pub output: PathBuf,
}

/// `run`.
#[derive(clap::Args)]
pub struct Run {
    /// The study and how it is trained
    #[command(flatten)]
    pub train: Train,
    /// Where the trials run
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = On::Local)]
    pub on: On,
    /// How often a trial whose worker died is run again before it is recorded as failed
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = whole::<u32>(RETRIES))]
    pub retries: u32,
    /// Stop after this long, such as 90s, 30m, 8h, 2d: trainings are saved, and the same command continues them
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_time: Option<Duration>,
    /// Run at most N trials now
    #[arg(long, value_name = "N", value_parser = whole::<u64>(TRIALS))]
    pub max_trials: Option<u64>,
    /// Print the plan, with an estimate of seconds and memory from a short measurement, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// How a cluster is used
    #[command(flatten, next_help_heading = "With --on slurm")]
    pub slurm: Slurm,
}

/// `run --on slurm`.
#[derive(clap::Args)]
pub struct Slurm {
    /// An option for sbatch, such as --slurm-option=--partition=short; may be given often
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub slurm_option: Vec<String>,
    /// Most tasks at once [default: as many as the cluster allows]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(TRIALS))]
    pub slurm_tasks: Option<u32>,
    /// How long a task should take; it gets as many trials as fit
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    pub slurm_chunk: Duration,
    /// Ctrl-C cancels the jobs too; without it they continue, and `nettriage status` follows them
    #[arg(long)]
    pub slurm_cancel: bool,
}

/// Where the trials run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum On {
    /// Threads of this process
    Local,
    /// Worker processes of this machine: one that dies takes only its trial
    Processes,
    /// Array jobs of a Slurm cluster
    Slurm,
}

/// The form of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Bars on a terminal, lines elsewhere
    Text,
    /// One JSON object a line
    Json,
}

const THREADS: Limit = Limit::between(1.0, 1024.0, "each needs a processor and tensors of its own");
const MIB: Limit = Limit::between(0.0, 16_777_216.0, "MiB: 16 TiB");
const RETRIES: Limit = Limit::between(0.0, 1000.0, "a trial that fails as often fails always");
const TRIALS: Limit = Limit::between(1.0, 1e6, "a plan has no more trials");
const IMAGES: Limit = Limit::between(1.0, u32::MAX as f64, "images are counted by 32-bit numbers");
const EPOCHS: Limit = Limit::above_zero(1e5, "more passes over the images change nothing");
const TRAIN_IMAGES: Limit = Limit::between(1.0, 1e8, "the order of the images is held in memory");
const BATCH: Limit = Limit::between(1.0, 65_536.0, "all tensors of a batch are held in memory");
const UNKNOWNS: Limit = Limit::between(0.0, 65_536.0, "the normal equations take 8 bytes times their square");
const ROWS: Limit = Limit::between(1.0, 1e6, "output positions per unknown");
const RATE: Limit = Limit::above_zero(1000.0, "weights diverge by larger steps");
const PAD: Limit = Limit::between(0.0, nettriage::Augmentation::MAX_PAD as f64, "a crop must not miss the image");
const ATTEMPTS: Limit = Limit::between(1.0, 10_000.0, "each builds a network");
/// `--front`.
const FRONT: Limit = Limit::between(2.0, 100.0, "each is built and trained");
const PIXELS: Limit = Limit::between(1.0, 1024.0, "images are decoded to this many rows and columns");
const WIDTH: Limit = Limit::above_zero(64.0, "a factor of every layer's filters");
const CLASSES: Limit = Limit::between(1.0, 65_535.0, "labels are 16-bit numbers");
const DROP: Limit = Limit::between(0.0, 100.0, "percentage points, such as 0.5pp");
const GAIN: Limit = Limit::between(1.0, 1e6, "a factor such as 1.2x");
const UNIX_TIME: Limit = Limit::between(0.0, 1e11, "seconds since 1970");
const DURATION: Limit = Limit::above_zero(10.0 * 365.0 * 86_400.0, "seconds: ten years");

/// Reads whole numbers within a limit.
fn whole<T: TryFrom<u64>>(limit: Limit) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse::<u64>().ok().filter(|number| limit.admits(*number as f64));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| format!("write a whole number, {limit}"))
    }
}

/// Reads numbers within a limit.
fn real<T: FromStr + Into<f64> + Copy>(limit: Limit) -> impl Fn(&str) -> Result<T, String> + Clone {
    with_unit(limit, "")
}

/// Reads numbers within a limit, with or without a unit behind them.
fn with_unit<T: FromStr + Into<f64> + Copy>(
    limit: Limit,
    unit: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.strip_suffix(unit).unwrap_or(text).trim().parse::<T>().ok();
        number.filter(|number| limit.admits((*number).into())).ok_or_else(|| format!("write a number, {limit}"))
    }
}

/// Reads a share of the network's own cost, or a figure with a unit.
fn cost_limit(unit: &'static str, example: &'static str) -> impl Fn(&str) -> Result<nettriage::Limit, String> + Clone {
    move |text| {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= 1e18);
        let found = match text.strip_suffix('%') {
            Some(share) => number(share).map(|share| nettriage::Limit::Share(share / 100.0)),
            None => number(text.strip_suffix(unit).unwrap_or(text)).map(nettriage::Limit::Absolute),
        };
        match found {
            // Counts of a network; milliseconds may be below 1.
            Some(nettriage::Limit::Absolute(count)) if unit.is_empty() && count < 1.0 => {
                Err(format!("a count below 1; as a share of the network's write {}%", 100.0 * count))
            }
            Some(limit) => Ok(limit),
            None => Err(format!("write a number above 0, such as {example}, or a share such as 40%")),
        }
    }
}

/// The time between two checkpoints; none for none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checkpoint(pub Option<Duration>);

/// As `--checkpoint` takes it.
impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(every) => write!(f, "{}s", every.as_secs_f64()),
            None => f.write_str("off"),
        }
    }
}

/// A duration, or `off`.
fn checkpoint(text: &str) -> Result<Checkpoint, String> {
    if text == "off" {
        return Ok(Checkpoint(None));
    }
    duration(text).map(|every| Checkpoint(Some(every))).map_err(|problem| format!("{problem}, or off"))
}

/// A duration with its unit: 90s, 30m, 8h, 2d.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = |c: char| [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)].into_iter().find(|u| u.0 == c);
    let number = text.strip_suffix(|c| unit(c).is_some()).and_then(|number| number.parse::<f64>().ok());
    let seconds = number.zip(text.chars().last().and_then(unit)).map(|(number, (_, seconds))| number * seconds);
    match seconds {
        None => Err("write a number and its unit, such as 90s, 30m, 8h or 2d".to_owned()),
        Some(seconds) => match DURATION.problem(seconds) {
            Some(remedy) => Err(remedy),
            None => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        },
    }
}

/// How the machine is used; no record depends on it.
#[derive(clap::Args)]
pub struct Runtime {
    /// What networks run on
    #[command(flatten)]
    pub compute: Compute,
    /// MiB of memory for the decoded data set; a larger one is streamed from a file
    #[arg(long, value_name = "MIB", default_value_t = 8192, value_parser = whole::<u64>(MIB))]
    pub data_memory: u64,
    /// MiB on a device of PyTorch for images and activations that trials share; what exceeds them is in --cache
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = whole::<usize>(MIB))]
    pub device_memory: usize,
    /// MiB of disk for activations that exceed --cache
    #[arg(long, value_name = "MIB", default_value_t = 0, value_parser = whole::<usize>(MIB))]
    pub disk_cache: usize,
    /// Folder for files of what exceeds memory [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Threads inside a trial [default: 1, with `trial` one per core; a Slurm task has as many as its cores]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(THREADS))]
    pub threads: Option<u16>,
    /// How often a training is saved, so that a run continues in the middle of it: a time such as 5m, or off
    #[arg(long, value_name = "TIME", value_parser = checkpoint, default_value = "5m")]
    pub checkpoint: Checkpoint,
    /// Optimisations to disable, to measure what each gives: all, or some of prefix, evaluation, hint, activations, backward, solutions
    #[arg(long, value_name = "LIST", default_value = "")]
    pub no_reuse: nettriage_study::Reuse,
}

impl Runtime {
    /// As the study takes them; opens the device.
    pub fn resolved(&self) -> Result<nettriage_study::RuntimeOptions, Fail> {
        let default = nettriage_study::RuntimeOptions::default();
        let folder = self.scratch.clone().unwrap_or_else(|| default.memory.folder.clone());
        Ok(nettriage_study::RuntimeOptions {
            device: self.compute.open()?,
            device_memory: self.device_memory << 20,
            reuse: self.no_reuse,
            memory: nettriage_data::MemoryBudget { memory: self.data_memory << 20, folder },
            disk: self.disk_cache << 20,
            threads: self.threads.map(usize::from),
            checkpoint: self.checkpoint.0,
            ..default
        })
    }
}

/// What networks run on.
#[derive(clap::Args)]
pub struct Compute {
    /// Device: cpu, by nettriage's own kernels, or one of an installed PyTorch: torch:cpu, torch:cuda, torch:cuda:N, torch:mps; for `run --on processes` several with commas, one a worker in turn
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_delimiter = ',')]
    pub device: Vec<DeviceName>,
    /// Precision of convolutions and matrix products on a device of PyTorch: f32, tf32 or bf16 (weights stay f32)
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    pub precision: Arithmetic,
    /// Folder of PyTorch [default: $NETTRIAGE_TORCH, or that of the first Python on the path]
    #[arg(long, value_name = "DIR")]
    pub torch: Option<PathBuf>,
}

impl Compute {
    /// The device, ready for use; the first of several.
    pub fn open(&self) -> Result<Device, Fail> {
        let name = self.device.first().copied().unwrap_or_default();
        Ok(Device::open(name, self.precision, self.torch.as_deref())?)
    }

    /// As [`Compute::open`], for a command that computes in one place.
    pub fn open_one(&self) -> Result<Device, Fail> {
        self.check_one()?;
        self.open()
    }

    /// Refuses several devices.
    pub fn check_one(&self) -> Result<(), Fail> {
        match &self.device[..] {
            [_, second, ..] => {
                Err(Fail::Message(format!("--device …,{second}: several devices need `run --on processes`; name one")))
            }
            _ => Ok(()),
        }
    }
}

/// `trial`.
#[derive(clap::Args)]
pub struct Trial {
    /// The plan: a run's folder, or the plan.json in it
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// The trial's place in the plan, counted from 0; several as 3,7-9; `-` reads places from standard input, one a line
    #[arg(long, value_name = "I", allow_hyphen_values = true)]
    pub index: String,
    /// Skip trials that have a record
    #[arg(long)]
    pub missing: bool,
    /// MiB of memory for activations that trials share
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = whole::<usize>(MIB))]
    pub cache: usize,
    /// Stop at this time, in seconds since 1970: a training is saved
    #[arg(long, value_name = "SECONDS", value_parser = real::<f64>(UNIX_TIME))]
    pub until: Option<f64>,
    /// Folder of the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How the machine is used
    #[command(flatten)]
    pub runtime: Runtime,
}

/// `status`.
#[derive(clap::Args)]
pub struct Status {
    /// Folder of the run
    pub run: PathBuf,
    /// As JSON; with --watch, one object a line
    #[arg(long)]
    pub json: bool,
    /// Print the status again whenever it changes, until the run is complete
    #[arg(long)]
    pub watch: bool,
}

/// `serve`.
#[derive(clap::Args)]
pub struct Serve {
    /// Folder of the run
    pub run: PathBuf,
    /// Port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 7340)]
    pub port: u16,
    /// Address to listen on; with any but the loopback address, everyone who can reach it can read the run
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,
}

/// `retry`.
#[derive(clap::Args)]
pub struct Retry {
    /// Folder of the run
    pub run: PathBuf,
    /// Only this trial, by its id; may be given often [default: all that failed]
    #[arg(long, value_name = "ID")]
    pub trial: Vec<String>,
}

/// `gc`.
#[derive(clap::Args)]
pub struct Gc {
    /// Folder of the run
    pub run: PathBuf,
    /// Remove what is shown
    #[arg(long)]
    pub yes: bool,
}

/// `merge`.
#[derive(clap::Args)]
pub struct Merge {
    /// Folders of runs of one plan
    #[arg(required = true, num_args = 1..)]
    pub runs: Vec<PathBuf>,
    /// Folder of the joined run; may hold a run of that plan already
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
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
    /// Write the trials as Parquet
    #[arg(long, value_name = "FILE")]
    pub parquet: Option<PathBuf>,
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

/// How a folder of images is read.
#[derive(clap::Args)]
pub struct Folder {
    /// For a folder: the shorter side of images is resized to this before the centre is cropped, such as 256 for 224
    #[arg(long, value_name = "N", value_parser = whole::<usize>(PIXELS))]
    pub resize: Option<usize>,
    /// For a folder: the filter of the resize, bilinear or bicubic
    #[arg(long, value_name = "NAME", default_value = "bilinear")]
    pub interpolation: Interpolation,
    /// For a folder: skip images that cannot be decoded, and say how many
    #[arg(long)]
    pub skip_bad: bool,
}

/// A network, and what its file may not contain.
#[derive(Clone, clap::Args)]
pub struct Model {
    /// The network's file: ONNX, safetensors, or a PyTorch checkpoint
    pub model: String,
    /// Built-in architecture (such as vgg16_bn, resnet18, cifar-resnet20), or a file that holds the graph, for files that hold weights alone
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Width multiplier of the architecture
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = real::<f64>(WIDTH))]
    pub width: f64,
    /// Shape of an image, where the file does not say
    #[arg(long, value_name = "CxHxW")]
    pub input: Option<String>,
    /// Number of classes, where the file does not say
    #[arg(long, value_name = "N", value_parser = whole::<usize>(CLASSES))]
    pub classes: Option<usize>,
    /// Weights of a checkpoint that holds several sets: the key of a dictionary, such as state_dict_ema, or a prefix of names
    #[arg(long, value_name = "NAME")]
    pub key: Option<String>,
    /// Output of an ONNX model that has several
    #[arg(long, value_name = "NAME")]
    pub graph_output: Option<String>,
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

/// The network that is scanned or compressed, and the images.
#[derive(clap::Args)]
pub struct Subject {
    /// The network's file, or the folder of a run: its parent
    #[command(flatten)]
    pub model: Model,
    /// Data set that the network was trained for; a run knows its own
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    /// Folder of the data set's files; for `--data folder`, the folder or tar itself
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How a folder is read
    #[command(flatten)]
    pub folder: Folder,
    /// Use no labels: the network's own outputs replace them; with --data folder, all images below DIR
    #[arg(long)]
    pub unlabelled: bool,
    /// With --unlabelled, what the outputs are: classes (the share of unchanged ones counts) or values (their R² counts) [default: values of a single output or a closing activation, else classes]
    #[arg(long, value_name = "WHAT", requires = "unlabelled")]
    pub outputs: Option<nettriage::Outputs>,
    /// Mean per channel of pixels in 0 to 1 that the network was trained with
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation per channel
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    pub std: Option<Vec<f32>>,
    /// For a run with several parents: which of them, by its seed
    #[arg(long, value_name = "SEED")]
    pub parent: Option<u64>,
    /// Training images that substitutes are fitted to, the first in the file's order
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = whole::<usize>(IMAGES))]
    pub images: usize,
    /// Images that they are judged by: the last training images, of a folder some drawn by seed (a run's validation images) [default: 1000, at most a fifth of them]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(IMAGES))]
    pub judged: Option<usize>,
    /// What to try: conv1x1, conv3x3, conv5x5, field (the range's receptive field), separable3x3, depthwise3x3, conv3x3g4, linear, each but field and depthwise3x3 also with +skip, drop; narrow50 is a residual unit with half of its inner channels [default: conv1x1,conv3x3,conv5x5,field,linear,drop; in a network of depthwise convolutions also separable3x3,separable5x5, in one with attention conv1x1+skip]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub substitutes: Vec<nettriage_compress::scan::Choice>,
    /// Largest number of unknowns of a filter, where kernels are larger than 3x3
    #[arg(long, value_name = "N", default_value_t = 2400, value_parser = whole::<usize>(UNKNOWNS))]
    pub unknowns: usize,
    /// Output positions per unknown in the regression; at least 20,000, at most as many as the images have
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = whole::<usize>(ROWS))]
    pub rows: usize,
    /// MiB for the normal equations and tensors; if they do not fit, more passes over the images
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = whole::<usize>(MIB))]
    pub memory: usize,
    /// Images in a pass whose milliseconds are measured, on one thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<usize>(BATCH))]
    pub batch: usize,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub threads: Option<usize>,
    /// What networks run on
    #[command(flatten)]
    pub compute: Compute,
}

/// Which ranges of layers are scanned.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Ranges {
    /// The default blocks.
    Blocks,
    /// Every range within which the feature map keeps its size.
    Stages,
    /// Every range.
    All,
}

/// `scan`.
#[derive(clap::Args)]
pub struct Scan {
    /// The network and its images
    #[command(flatten)]
    pub subject: Subject,
    /// Which ranges of layers
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Ranges::All)]
    pub ranges: Ranges,
    /// How weights are found: plain (ridge regression), relu (one refit iteration with an activation-aware target), relu3; with +moments, +gradients
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "relu+moments")]
    pub methods: Vec<nettriage_compress::scan::Method>,
    /// Judge by the first test images instead of training images: to describe, not to choose what is then tested on them
    #[arg(long)]
    pub on_test: bool,
    /// Folder for the parts whose times are added up, units and substitutes: a list parts.csv to fill in with milliseconds, and an ONNX model of each; for `prescribe --latency-table`
    #[arg(long, value_name = "DIR")]
    pub parts: Option<PathBuf>,
    /// Runs whose trained children say how far the scan's ranking can be trusted
    #[arg(long, value_name = "RUN", num_args = 1..)]
    pub study: Vec<PathBuf>,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the page [default: scan.html]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `prescribe`.
#[derive(clap::Args)]
#[group(id = "bounds", required = true, multiple = true, args = ["max_drop", "max_latency", "max_macs", "max_parameters", "min_gain", "replace", "front"])]
pub struct Prescribe {
    /// The network and its images
    #[command(flatten)]
    pub subject: Subject,
    /// Most percentage points of accuracy to lose, such as 0.5pp (with --unlabelled, most percent by the scan's measure); saves as much time as that allows
    #[arg(long, value_name = "POINTS", value_parser = with_unit::<f64>(DROP, "pp"))]
    pub max_drop: Option<f64>,
    /// Most time for a forward pass of --batch images on one thread, such as 2ms or 60% (of the original's)
    #[arg(long, value_name = "TIME", value_parser = cost_limit("ms", "2ms"))]
    pub max_latency: Option<nettriage::Limit>,
    /// Least factor by which the limited cost (measured time, if none is limited) becomes smaller, such as 1.2x; else nothing is written
    #[arg(long, value_name = "FACTOR", value_parser = with_unit::<f64>(GAIN, "x"))]
    pub min_gain: Option<f64>,
    /// A range that stays as it is, by the name that `scan` prints; may be given often
    #[arg(long, value_name = "RANGE")]
    pub keep: Vec<String>,
    /// A range that one layer replaces, by the name that `scan` prints; may be given often
    #[arg(long, value_name = "RANGE")]
    pub replace: Vec<String>,
    /// What measures times: nettriage, or onnxruntime in `python3` (or the Python that NETTRIAGE_PYTHON names)
    #[arg(long, value_name = "RUNTIME", value_enum, default_value_t = LatencyIn::Nettriage)]
    pub latency_in: LatencyIn,
    /// Milliseconds that you measured, in place of measured times: the list that `scan --parts` wrote, filled in
    #[arg(long, value_name = "FILE.csv", conflicts_with = "latency_in")]
    pub latency_table: Option<PathBuf>,
    /// Judge by the first --judged test images, test on the others, train on all training images: for a network that was trained on all of them
    #[arg(long, conflicts_with = "unlabelled")]
    pub judge_on_test: bool,
    /// Most multiply-accumulates, such as 40% (of the network's) or 12000000
    #[arg(long, value_name = "COUNT", value_parser = cost_limit("", "12000000"))]
    pub max_macs: Option<nettriage::Limit>,
    /// Most parameters, such as 40% (of the network's) or 300000
    #[arg(long, value_name = "COUNT", value_parser = cost_limit("", "300000"))]
    pub max_parameters: Option<nettriage::Limit>,
    /// Where to write the network: .onnx or .safetensors; its card, figures and page go beside it
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Do not train: closed-form weights alone
    #[arg(long, conflicts_with_all = ["scheme", "recipe", "train_images", "epochs", "rate"])]
    pub no_training: bool,
    /// How the network is trained after surgery: global, local, distill-global, distill-local or distill-blocks
    #[arg(long, value_name = "NAME", default_value = "distill-global")]
    pub scheme: String,
    /// Optimiser, schedule and regularisation of training: one-cycle; cosine (warm-up, cosine, no decay of norms, smoothed labels, averaged weights); adam-w (cosine with AdamW, for transformers and ConvNeXts)
    #[arg(long, value_name = "NAME", value_enum, default_value_t = TrainingRecipe::OneCycle)]
    pub recipe: TrainingRecipe,
    /// Images that training sees in all [default: twice the training set, at most 40,000]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(TRAIN_IMAGES))]
    pub train_images: Option<usize>,
    /// Passes over the training images, in place of --train-images
    #[arg(long, value_name = "N", value_parser = real::<f64>(EPOCHS), conflicts_with = "train_images")]
    pub epochs: Option<f64>,
    /// Largest learning rate of training [default: 0.01, with the recipe adam-w 0.0005]
    #[arg(long, value_name = "RATE", value_parser = real::<f32>(RATE))]
    pub rate: Option<f32>,
    /// Random shifts of training images, in pixels: padding before a random crop [default: a run's own; else 0]
    #[arg(long, value_name = "PIXELS", value_parser = whole::<usize>(PAD))]
    pub pad: Option<usize>,
    /// Mirror training images at random, half of them [default: as the run did]
    #[arg(long)]
    pub flip: bool,
    /// Most networks that are built and trained in search of the best [default: with --max-drop 5, and up to 10 while none keeps it; else the first within the bounds]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(ATTEMPTS))]
    pub attempts: Option<usize>,
    /// Make N networks of different sizes, evenly spaced by predicted cost; -o small.onnx writes small-1.onnx to small-N.onnx, and a table and a figure of them
    #[arg(long, value_name = "N", value_parser = whole::<usize>(FRONT), conflicts_with_all = ["max_drop", "attempts"])]
    pub front: Option<usize>,
    /// Networks that are built and trained at a time; they share --threads. Those of --front do not depend on it. Without --front as many are chosen before any of them is known, so that another number may build others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u16>(THREADS))]
    pub workers: u16,
    /// Seed of training
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A scan of this network (`nettriage scan --json`), in place of making one
    #[arg(long, value_name = "FILE")]
    pub scan: Option<PathBuf>,
    /// Where to write the scan that is made [default: beside the output, as <name>.scan.json]
    #[arg(long, value_name = "FILE", conflicts_with = "scan")]
    pub save_scan: Option<PathBuf>,
    /// Folder that keeps the scan, the measured times, the networks and checkpoints of their training: the same command continues there after an interruption, and other bounds reuse them
    #[arg(long, value_name = "DIR", conflicts_with = "save_scan")]
    pub work: Option<PathBuf>,
    /// With --work, how often a training is saved: a time such as 5m, or off
    #[arg(long, value_name = "TIME", value_parser = checkpoint, default_value = "5m", requires = "work")]
    pub checkpoint: Checkpoint,
}

/// How prescriptions are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TrainingRecipe {
    /// A one-cycle schedule, nothing else
    OneCycle,
    /// Warm-up and cosine, no weight decay of biases and norms, smoothed labels, averaged weights
    Cosine,
    /// The same with AdamW in place of SGD, for transformers and ConvNeXts
    AdamW,
}

impl TrainingRecipe {
    /// Its name in the library.
    pub fn name(self) -> &'static str {
        match self {
            TrainingRecipe::OneCycle => "one-cycle",
            TrainingRecipe::Cosine => "cosine",
            TrainingRecipe::AdamW => "adam-w",
        }
    }
}

/// What measures times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LatencyIn {
    /// Our own engine
    Nettriage,
    /// onnxruntime, in the user's Python
    Onnxruntime,
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
    /// How a folder is read
    #[command(flatten)]
    pub folder: Folder,
    /// Mean per channel of pixels in 0 to 1 that the network was trained with
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation per channel
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    pub std: Option<Vec<f32>>,
    /// Only the first N images; of a folder equally many of each class
    #[arg(long, value_name = "N", value_parser = whole::<usize>(IMAGES))]
    pub limit: Option<usize>,
    /// Another network's file, such as the original of a smaller one: how closely the outputs follow its outputs
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with = "logits")]
    pub against: Option<String>,
    /// Use no labels, with --against; with --data folder, all images below DIR
    #[arg(long, requires = "against")]
    pub unlabelled: bool,
    /// With --unlabelled, what the outputs are: classes (the share of unchanged ones counts) or values (their R² counts) [default: values of a single output or a closing activation, else classes]
    #[arg(long, value_name = "WHAT", requires = "unlabelled")]
    pub outputs: Option<nettriage::Outputs>,
    /// Inputs as they are, in the model's own order of axes (NumPy, f32), in place of a data set
    #[arg(long, value_name = "FILE.npy", conflicts_with_all = ["data", "mean", "limit"], requires = "logits")]
    pub inputs: Option<PathBuf>,
    /// Write the outputs (NumPy, f32, N x classes)
    #[arg(long, value_name = "FILE.npy")]
    pub logits: Option<PathBuf>,
    /// What networks run on
    #[command(flatten)]
    pub compute: Compute,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `export`.
#[derive(clap::Args)]
pub struct Export {
    /// The network, or the folder of a run with --trial or --block
    #[command(flatten)]
    pub model: Model,
    /// A trial of the run, by its id or its index in the plan: its network is written, with a model card beside it
    #[arg(long, value_name = "ID")]
    pub trial: Option<String>,
    /// A block of the run, with --best: the network of its best child is written
    #[arg(long, value_name = "NAME", requires = "best", conflicts_with = "trial")]
    pub block: Option<String>,
    /// The init and scheme with the highest mean validation accuracy over the seeds, and the best of these children
    #[arg(long, requires = "block")]
    pub best: bool,
    /// Folder of the data set's files, if the trial has to be run again
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What it runs on again: that of the run
    #[command(flatten)]
    pub compute: Compute,
    /// Where to write: .onnx or .safetensors
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Into .safetensors, write what PyTorch's model of the same architecture takes by load_state_dict, without our graph
    #[arg(long)]
    pub state_dict: bool,
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
        /// For a folder or tar: rows and columns of images
        #[arg(long, value_name = "HxW", default_value = "64")]
        size: ImageSize,
        /// How a folder or tar is read
        #[command(flatten)]
        folder: Folder,
        /// Where to write the contact sheet
        #[arg(long, short, value_name = "PNG")]
        output: Option<PathBuf>,
        /// Folder for the images as they are decoded, as NumPy files: {train,test}-images.npy (N, H, W, C, bytes) and -labels.npy
        #[arg(long, value_name = "DIR")]
        arrays: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "s", "90", "-1s", "1y", "nan s", "infm", "1e30d", "0s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    /// The name in `--name=value`.
    fn name_of(flag: &str) -> &str {
        flag[2..].split('=').next().unwrap_or_default()
    }

    /// What the commands say of `--flag=value` beside what they require.
    fn said(flag: &str, value: &str) -> Vec<Option<String>> {
        let flag = format!("--{flag}={value}");
        let commands: [&[&str]; 7] = [
            &["run", "study.toml"],
            &["train", "study.toml"],
            &["trial", "--plan", "run", "--index", "0"],
            &["inspect", "net.onnx"],
            &["scan", "net.onnx", "--data", "digits"],
            &[
                "prescribe",
                "net.onnx",
                "--data",
                "digits",
                "--keep",
                "a",
                "--replace",
                "b",
                "--work",
                "w",
                "-o",
                "small.onnx",
            ],
            &["evaluate", "net.onnx", "--data", "digits"],
        ];
        let has = |command: &str| {
            let args = Args::command();
            args.find_subcommand(command).unwrap().get_arguments().any(|arg| arg.get_long() == Some(name_of(&flag)))
        };
        let arguments = |command: &[&str]| {
            let words = std::iter::once("nettriage").chain(command.iter().copied()).chain([flag.as_str()]);
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let commands = commands.into_iter().filter(|command| has(command[0]));
        commands.map(|command| Args::try_parse_from(arguments(command)).err().map(|e| e.to_string())).collect()
    }

    /// Flag, whether 0 and 1 are accepted, the largest accepted value. Above it and the type's largest are refused.
    const NUMBERS: [(&str, bool, bool, u64); 28] = [
        ("workers", false, true, 1024),
        ("threads", false, true, 1024),
        ("cache", true, true, 1 << 24),
        ("disk-cache", true, true, 1 << 24),
        ("data-memory", true, true, 1 << 24),
        ("retries", true, true, 1000),
        ("max-trials", false, true, 1_000_000),
        ("slurm-tasks", false, true, 1_000_000),
        ("until", true, true, 100_000_000_000),
        ("images", false, true, 4_294_967_295),
        ("judged", false, true, 4_294_967_295),
        ("limit", false, true, 4_294_967_295),
        ("unknowns", true, true, 65_536),
        ("rows", false, true, 1_000_000),
        ("memory", true, true, 1 << 24),
        ("batch", false, true, 65_536),
        ("device-memory", true, true, 1 << 24),
        ("train-images", false, true, 100_000_000),
        ("epochs", false, true, 100_000),
        ("rate", false, true, 1000),
        ("pad", true, true, 127),
        ("attempts", false, true, 10_000),
        ("front", false, false, 100),
        ("resize", false, true, 1024),
        ("width", false, true, 64),
        ("classes", false, true, 65_535),
        ("max-drop", true, true, 100),
        ("min-gain", false, true, 1_000_000),
    ];
    const DURATIONS: [&str; 3] = ["max-time", "slurm-chunk", "checkpoint"];
    /// Checked when the channels of the data set are known; the message prints values of 0 to 255 as they have to be given.
    const CHANNELS: [&str; 2] = ["mean", "std"];
    /// Seeds, which may be any number of 64 bits.
    const SEEDS: [&str; 2] = ["seed", "parent"];
    /// Costs and shares of them.
    const COSTS: [&str; 3] = ["max-latency", "max-macs", "max-parameters"];
    const OTHERS: [&str; 42] = [
        "latency-table",
        "parts",
        "out",
        "data-dir",
        "log-format",
        "on",
        "slurm-option",
        "scratch",
        "no-reuse",
        "plan",
        "index",
        "model",
        "data",
        "help",
        "arch",
        "input",
        "key",
        "graph-output",
        "interpolation",
        "outputs",
        "substitutes",
        "ranges",
        "methods",
        "study",
        "json",
        "output",
        "keep",
        "replace",
        "latency-in",
        "device",
        "precision",
        "torch",
        "work",
        "scheme",
        "recipe",
        "scan",
        "save-scan",
        "against",
        "inputs",
        "logits",
        "svg",
        "version",
    ];

    #[test]
    fn every_number_of_a_flag_is_bounded() {
        for (flag, zero, one, most) in NUMBERS {
            for (value, accepted) in [(0, zero), (1, one), (most, true), (most + 1, false), (u64::MAX, false)] {
                let said = said(flag, &value.to_string());
                assert!(!said.is_empty(), "{flag}");
                for said in said {
                    assert_eq!(said.is_none(), accepted, "--{flag} {value}: {said:?}");
                    assert!(said.is_none_or(|said| said.contains(&format!("--{flag} <"))), "--{flag} {value}");
                }
            }
            assert!(["-1", "nan", "1e400", ""].iter().all(|value| said(flag, value).iter().all(Option::is_some)));
        }
        for flag in SEEDS {
            assert!(said(flag, &u64::MAX.to_string()).iter().all(Option::is_none), "--{flag}");
            assert!(said(flag, "-1").iter().all(Option::is_some), "--{flag}");
        }
        for flag in COSTS {
            for (value, accepted) in [("0", false), ("0%", false), ("nan", false), ("1e19", false), ("40%", true)] {
                assert!(said(flag, value).iter().all(|said| said.is_none() == accepted), "--{flag} {value}");
            }
        }
        for flag in DURATIONS {
            for (value, accepted) in [("0s", false), ("1s", true), ("3650d", true), ("3651d", false), ("1e300d", false)]
            {
                assert!(said(flag, value).iter().all(|said| said.is_none() == accepted), "--{flag} {value}");
            }
        }
    }

    #[test]
    fn the_table_of_flags_is_complete() {
        let args = Args::command();
        for command in ["run", "train", "trial", "inspect", "scan", "prescribe", "evaluate"] {
            let flags = args.find_subcommand(command).unwrap().get_arguments();
            for flag in flags.filter(|flag| flag.get_action().takes_values()).filter_map(|flag| flag.get_long()) {
                let number = NUMBERS.iter().any(|(name, ..)| *name == flag);
                let other = [&DURATIONS[..], &SEEDS, &COSTS, &CHANNELS, &OTHERS].concat().contains(&flag);
                assert!(number || other, "--{flag}: add it to a table");
            }
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
