//! Writes every output for a synthetic study into a folder, to look at and to check.
//!
//!     cargo run --release -p nettriage-report --example synthetic -- FOLDER

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use nettriage_report::{Options, analyse, csv, csv_cells, html, json, markdown, terminal};

fn main() -> std::io::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "synthetic-report".into()));
    std::fs::create_dir_all(&folder)?;
    let data = synthetic::Truth::small().simulate(1);
    let analysis = analyse(&data, &Options::default());
    std::fs::write(folder.join("report.html"), html(&data, &analysis))?;
    std::fs::write(folder.join("analysis.json"), json(&analysis))?;
    std::fs::write(folder.join("trials.csv"), csv(&data))?;
    std::fs::write(folder.join("cells.csv"), csv_cells(&analysis))?;
    std::fs::write(folder.join("report.md"), markdown(&data, &analysis))?;
    print!("{}", terminal(&data, &analysis));
    Ok(())
}
