//! Scans an ONNX file: which ranges of its layers could be one layer?
//!
//!     cargo run --release -p nettriage --example scan_onnx -- [NETWORK.onnx [DATA-SET]]
//!
//! Without arguments it trains nothing and writes a small untrained network for the embedded digits first.

use nettriage::{LoadOptions, Network, Shape, arch, data, load, onnx, scan, seeded};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = tempfile::tempdir()?;
    let path = match arguments.next() {
        Some(path) => path.into(),
        None => {
            let spec = arch::ArchSpec { plan: Some(vec![vec![8, 8], vec![16, 16]]), ..arch::ArchSpec::named("vgg") };
            let network = Network::initialised(arch::build(&spec, Shape::new(1, 8, 8), 10)?, &mut seeded(0))?;
            let path = folder.path().join("digits.onnx");
            onnx::write(&network, &path)?;
            path
        }
    };
    let loaded = load(&path, &LoadOptions::default())?;
    let data = data::open(&arguments.next().unwrap_or_else(|| "digits".to_owned()), None)?;
    let found = scan(&loaded.network, &data).images(500).judged(200).run()?;
    println!("{}: {} ranges could be one layer", found.network, found.ranges.len());
    for range in &found.ranges {
        let best = range.candidates.iter().max_by(|a, b| a.kept().total_cmp(&b.kept()));
        if let Some(best) = best {
            println!(
                "{:24} as {:10} {:5.1}% of predictions unchanged",
                range.name,
                best.substitute,
                100.0 * best.kept()
            );
        }
    }
    Ok(())
}
