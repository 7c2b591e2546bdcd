//! Generates `src/onnx/proto/generated.rs` from `proto/onnx.proto`. Run it after a change of the schema:
//!
//! ```text
//! cargo run --release --manifest-path crates/formats/proto/generate/Cargo.toml --target-dir target/generate
//! ```
//!
//! The first line of the generated file holds the SHA-256 of the schema; a test of the crate compares the two.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use prost_build::Config;
use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the manifest has no parent folder")?;
    let schema = proto.join("onnx.proto");
    let mut hash = String::new();
    for byte in Sha256::digest(std::fs::read(&schema)?) {
        write!(hash, "{byte:02x}")?;
    }

    let descriptors = protox::compile([&schema], [proto])?;
    let folder = std::env::temp_dir().join(format!("nettriage-proto-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut config = Config::new();
    // Attributes are many and graphs in them rare: a box keeps each attribute small.
    config.boxed(".onnx.AttributeProto.g").out_dir(&folder);
    config.compile_fds(descriptors)?;
    let code = std::fs::read_to_string(folder.join("onnx.rs"))?;
    std::fs::remove_dir_all(&folder)?;

    let target = proto.with_file_name("src").join("onnx/proto/generated.rs");
    std::fs::write(&target, format!("// Generated from proto/onnx.proto, SHA-256 {hash}.\n{code}"))?;
    println!("{}", target.display());
    Ok(())
}
