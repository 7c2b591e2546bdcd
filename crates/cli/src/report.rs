//! `report`: the page and the exports of a run.

use std::io::Write;
use std::path::Path;

use nettriage_records::Run;
use nettriage_report::{About, Analysis, Options, RunData, analyse};

use crate::args;
use crate::fail::Fail;

/// `nettriage report RUN`.
pub fn report(args: &args::Report) -> Result<(), Fail> {
    let run = Run::open(&args.run)?;
    let (data, analysis) = read(&run)?;
    if let Some(with) = &args.with {
        let (_, other) = read(&Run::open(with)?)?;
        print!("{}", nettriage_report::compare(&analysis, &other).markdown());
        return Ok(());
    }
    let exports = [
        (&args.json, nettriage_report::json(&analysis)),
        (&args.csv, nettriage_report::csv(&data)),
        (&args.csv_cells, nettriage_report::csv_cells(&analysis)),
        (&args.markdown, nettriage_report::markdown(&data, &analysis)),
    ];
    let mut exported = false;
    if let Some(folder) = &args.tensorboard {
        nettriage_report::tensorboard(&data, folder).map_err(|e| Fail::file(folder, e))?;
        exported = true;
    }
    if let Some(path) = &args.parquet {
        write_bytes(path, &nettriage_report::parquet(&data))?;
        exported = true;
    }
    for (path, text) in exports {
        if let Some(path) = path {
            write(path, &text)?;
            exported = true;
        }
    }
    if args.output.is_none() && exported {
        return Ok(());
    }
    let page = args.output.clone().unwrap_or_else(|| args.run.join("report.html"));
    write(&page, &nettriage_report::html(&data, &analysis))?;
    println!("report: {}", page.display());
    Ok(())
}

/// Writes the page at a run's end and prints the table.
pub fn conclude(run: &Run, page: &Path) -> Result<(), Fail> {
    let (data, analysis) = read(run)?;
    write(page, &nettriage_report::html(&data, &analysis))?;
    let mut out = std::io::stdout().lock();
    out.write_all(nettriage_report::terminal(&data, &analysis).as_bytes())?;
    Ok(())
}

/// The page of the records that are there now.
pub fn page(run: &Run) -> Result<String, Fail> {
    let (data, analysis) = read(run)?;
    Ok(nettriage_report::html(&data, &analysis))
}

fn read(run: &Run) -> Result<(RunData, Analysis), Fail> {
    let about = About {
        program: concat!("nettriage ", env!("CARGO_PKG_VERSION")).to_owned(),
        command: format!("nettriage run {}.toml", run.plan().name),
        ..About::default()
    };
    let data = RunData::load(run, about)?;
    let analysis = analyse(&data, &Options { margin: 100.0 * data.plan.margin, ..Options::default() });
    Ok((data, analysis))
}

/// Writes a file atomically.
pub fn write(path: &Path, text: &str) -> Result<(), Fail> {
    write_bytes(path, text.as_bytes())
}

fn write_bytes(path: &Path, content: &[u8]) -> Result<(), Fail> {
    nettriage_files::write_atomic(path, content).map_err(|error| Fail::file(path, error))
}
