//! Writes every output for a synthetic study, or for a run's folder, for inspection.
//!
//!     cargo run --release -p nettriage-report --example synthetic -- OUT [RUN]

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use nettriage_report::{
    About, Options, RunData, analyse, csv, csv_cells, html, json, markdown, parquet, tensorboard, terminal,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(args.next().unwrap_or_else(|| "synthetic-report".into()));
    let studies: Vec<(&str, RunData)> = match args.next() {
        Some(run) => vec![("", RunData::load(&nettriage_records::Run::open(run.as_ref())?, About::default())?)],
        None => vec![
            ("", synthetic::Truth::small().simulate(1)),
            (
                "parents",
                synthetic::Truth { parents: 3, seeds: 2, image_sd: 2.0, ..synthetic::Truth::small() }.simulate(2),
            ),
            ("one-seed", synthetic::Truth { seeds: 1, ..synthetic::Truth::small() }.simulate(3)),
        ],
    };
    for (name, data) in studies {
        let images = data.sample_images.clone().or_else(|| Some(synthetic::sample_images()));
        let data = RunData { sample_images: images, ..data };
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let analysis = analyse(&data, &Options::default());
        std::fs::write(folder.join("report.html"), html(&data, &analysis))?;
        std::fs::write(folder.join("analysis.json"), json(&analysis))?;
        std::fs::write(folder.join("trials.csv"), csv(&data))?;
        std::fs::write(folder.join("trials.parquet"), parquet(&data))?;
        std::fs::write(folder.join("cells.csv"), csv_cells(&analysis))?;
        std::fs::write(folder.join("report.md"), markdown(&data, &analysis))?;
        tensorboard(&data, &folder.join("events"))?;
        print!("{}", terminal(&data, &analysis));
    }
    Ok(())
}
