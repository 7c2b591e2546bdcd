//! Statistics, findings, plots and the HTML page, from records alone.
//!
//! ```text
//! RunData::load(&run, about)? ─▶ analyse(&data, &options) ─▶ html, json, csv, csv_cells, markdown, terminal
//! ```

pub mod analysis;
mod card;
mod compare;
mod data;
mod export;
mod format;
mod html;
mod markdown;
pub mod prescription;
pub mod scan;
pub mod stats;
mod tensorboard;
mod terminal;
mod words;

pub use analysis::{Analysis, Options, analyse};
pub use card::card;
pub use compare::{BlockComparison, Comparison, compare};
pub use data::{About, RunData};
pub use export::{csv, csv_cells, json};
pub use html::html;
pub use markdown::markdown;
pub use tensorboard::tensorboard;
pub use terminal::terminal;
