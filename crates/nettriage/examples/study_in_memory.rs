//! A study of a network and a data set in memory, with a progress callback.
//!
//!     cargo run --release -p nettriage --example study_in_memory

use nettriage::records::plan::{ParentSpec, TrialSpec};
use nettriage::records::record::{CurvePoint, Record};
use nettriage::{Dataset, Init, Network, Progress, Shape, Triage, arch, data, seeded};

/// Prints a line for every trial that has ended.
struct Lines;

impl Progress for Lines {
    fn parent(&self, _: &ParentSpec, _: usize, _: usize, _: &CurvePoint) {}
    fn trials(&self, done: usize, of: usize) {
        println!("{done} of {of} trials are recorded");
    }
    fn started(&self, _: &TrialSpec) {}
    fn ended(&self, record: &Record) {
        let accuracy = record.readings.as_ref().map_or(0.0, |readings| 100.0 * readings.test.top1);
        println!(
            "{:?} {} {}: {accuracy:.1}%",
            record.spec.role,
            record.spec.block.as_deref().unwrap_or("-"),
            record.spec.scheme
        );
    }
    fn note(&self, text: &str) {
        println!("{text}");
    }
}

/// Two classes of 8x8 images: bright above, or bright below.
fn images(count: usize, first: usize) -> (Vec<u8>, Vec<u16>) {
    let labels: Vec<u16> = (first..first + count).map(|i| (i % 2) as u16).collect();
    let pixel = |image: usize, row: usize, column: usize| {
        let bright = (row < 4) == (labels[image - first] == 0);
        (if bright { 170 } else { 60 }) + ((image * 31 + row * 17 + column * 7) % 50) as u8
    };
    let pixels = (first..first + count)
        .flat_map(|image| (0..64).map(move |at| (image, at)))
        .map(|(image, at)| pixel(image, at / 8, at % 8))
        .collect();
    (pixels, labels)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shape = data::Shape { channels: 1, height: 8, width: 8 };
    let classes = vec!["above".to_owned(), "below".to_owned()];
    let data = Dataset::from_arrays("halves", shape, classes, images(400, 0), images(100, 400))?;
    let spec = arch::ArchSpec { plan: Some(vec![vec![4, 4], vec![8, 8]]), ..arch::ArchSpec::named("vgg") };
    let network = Network::initialised(arch::build(&spec, Shape::new(1, 8, 8), 2)?, &mut seeded(1))?;

    let folder = tempfile::tempdir()?;
    let report = Triage::new(network, data)
        .name("halves")
        .inits([Init::He, Init::LeastSquares])
        .schemes(["global", "distill-global"])
        .seeds(2)
        .images(640)
        .batch(32)
        .progress(&Lines)
        .run(folder.path().join("run"))?;
    println!("{}", report.text());
    report.save_html(folder.path().join("report.html"))?;
    Ok(())
}
