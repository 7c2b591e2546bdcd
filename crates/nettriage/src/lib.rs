//! Which blocks of a trained network matter, and which could be a single layer?
//!
//! nettriage replaces one block of layers at a time by a single layer and measures what that costs. [`scan`] answers
//! without training, in about a minute; [`Triage`] answers by training every replacement beside controls of the same
//! budget, with 95% intervals; [`prescribe`] builds, fine-tunes and measures a smaller network.
//!
//! ```
//! use nettriage::{Triage, arch, data, seeded};
//!
//! // A network and a data set in memory. Load your own by `nettriage::load`; this one is not trained.
//! let data = data::open("digits", None)?;
//! let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
//! let graph = arch::build(&spec, nettriage::Shape::new(1, 8, 8), 10)?;
//! let network = nettriage::Network::initialised(graph, &mut seeded(0))?;
//!
//! let ranges = nettriage::scan(&network, &data).images(200).judged(100).run()?;
//! assert!(ranges.ranges.iter().any(|range| range.block.as_deref() == Some("block1")));
//!
//! let folder = tempfile::tempdir()?;
//! let report = Triage::new(network, data).schemes(["global"]).seeds(1).images(64).run(folder.path())?;
//! assert_eq!(report.analysis.blocks.len(), 2);
//! report.save_html(folder.path().join("report.html"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is plain data: a [`Network`] is a graph with weights beside it, a [`Dataset`] is bytes with labels, a scan, a
//! prescription and an analysis are records that serialise. The crates behind this one are public too, for other uses:
//! `nettriage-net`, `-formats`, `-kernels`, `-engine`, `-data`, `-records`, `-train`, `-jobs`, `-compress`, `-study` and
//! `-report`.

mod latency_table;
mod onnxruntime;
mod prescribe;
mod report;
mod scan;
mod settings;
mod subject;
mod triage;
mod trust;

pub use latency_table::{COLUMNS as PART_COLUMNS, LatencyTable, model_name as part_model, part_rows};
pub use onnxruntime::OnnxRuntime;
pub use prescribe::{
    JudgedOn, LatencyIn, PrescribeBuilder, Prescribed, PrescribedFront, Training, Work, check_scan, prescribe,
};
pub use report::{MetricReport, Report, best_child, page};
pub use scan::{ScanBuilder, scan};
pub use subject::{Subject, parent_of};
pub use triage::Triage;
pub use trust::{check_runs, trust};

pub use nettriage_compress::prescribe::{Bounds, Limit, Wishes};
pub use nettriage_compress::scan::{Choice, Method, Outputs, Scope};
pub use nettriage_data::{self as data, Augmentation, Dataset, Normalization};
pub use nettriage_engine::{Optimizer, Schedule};
pub use nettriage_formats::load::{LoadOptions, Loaded, load};
pub use nettriage_formats::{onnx, safetensors};
pub use nettriage_net::init::{self, Init};
pub use nettriage_net::surgery::Substitute;
pub use nettriage_net::{Error as NetError, Network, Shape, arch, block};
pub use nettriage_records::{self as records, Run};
pub use nettriage_study::{Error, Limits, Progress, Rate, Reuse, RuntimeOptions, Study};
pub use nettriage_train::{Arithmetic, Device, DeviceName, Recipe, StopSignal, scheme};

/// Random numbers from a seed, for weights of new networks.
pub fn seeded(seed: u64) -> impl rand::Rng {
    nettriage_train::seed::rng("library", &[&seed.to_string()])
}
