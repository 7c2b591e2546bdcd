//! Reads a network from any file that is read here and writes it as ONNX, safetensors or an SVG drawing, by the ending
//! of its name.
//!
//! ```text
//! cargo run --release -p nettriage-formats --example convert -- resnet20-12fca82f.th resnet20.onnx cifar-resnet20
//! ```

use nettriage_formats::load::{LoadOptions, load};
use nettriage_formats::{onnx, safetensors};
use nettriage_net::{block, drawing};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (from, to, arch) = match arguments.as_slice() {
        [from, to] => (from, to, None),
        [from, to, arch] => (from, to, Some(arch)),
        _ => return Err("convert FROM TO [ARCH]".into()),
    };
    let options = arch.map_or_else(LoadOptions::default, |arch| LoadOptions::default().arch(arch));
    let loaded = load(from, &options)?;
    for note in &loaded.notes {
        eprintln!("{from}: {note}");
    }
    if to.ends_with(".onnx") {
        onnx::write(&loaded.network, to)?;
    } else if to.ends_with(".svg") {
        std::fs::write(to, drawing::svg(&loaded.network.graph, &block::find(&loaded.network.graph))?)?;
    } else {
        safetensors::save(&loaded.network, to)?;
    }
    Ok(())
}
