//! Statistics, findings, plots, pages and exports of a run, from its records alone.
//!
//! ```no_run
//! use nettriage_records::Run;
//! use nettriage_report::{About, Options, RunData, analyse, html, json, terminal};
//!
//! let data = RunData::load(&Run::open("runs/digits".as_ref())?, About::default())?;
//! let analysis = analyse(&data, &Options::default());
//! print!("{}", terminal(&data, &analysis));
//! std::fs::write("report.html", html(&data, &analysis))?;
//! std::fs::write("analysis.json", json(&analysis))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Analysis`] is plain data. Every number of the page, the terminal and the exports comes from it. The statistics in
//! [`stats`] can be used alone, for example for the accuracy lost over three seeds and five test images:
//!
//! ```
//! use nettriage_report::stats::paired::crossed;
//!
//! // Rows are seeds, columns are test images: control correct − child correct.
//! let differences = [vec![1.0, 0.0, 0.0, 0.0, 0.0], vec![1.0, 1.0, 0.0, -1.0, 0.0], vec![1.0, 0.0, 0.0, 0.0, 0.0]];
//! let mean = crossed(&differences).expect("at least two images");
//! assert!((mean.mean - 0.2).abs() < 1e-12);
//! let [low, high] = mean.interval(0.95);
//! assert!(low < 0.2 && 0.2 < high);
//! ```

pub mod analysis;
mod card;
mod compare;
mod data;
mod export;
mod format;
mod html;
mod markdown;
pub mod metric;
mod parquet;
pub mod prescription;
pub mod scan;
mod sentences;
pub mod stats;
mod tensorboard;
mod terminal;

pub use analysis::{Analysis, Options, analyse};
pub use card::card;
pub use compare::{BlockComparison, Comparison, compare};
pub use data::{About, RunData};
pub use export::{csv, csv_cells, csv_table, json, text_columns};
pub use html::html;
pub use markdown::markdown;
pub use parquet::parquet;
pub use tensorboard::tensorboard;
pub use terminal::terminal;
