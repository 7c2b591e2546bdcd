//! `export`: a network, or a child of a run, as a file that others read.

use std::path::Path;

use nettriage_formats::info::ModelInfo;
use nettriage_formats::{onnx, safetensors};
use nettriage_net::Network;
use nettriage_records::Run;
use nettriage_study::{RuntimeOptions, context_of, recompute};

use crate::args;
use crate::fail::Fail;
use crate::{model, report};

/// `nettriage export MODEL -o FILE`.
pub fn export(args: &args::Export) -> Result<(), Fail> {
    let Some(trial) = &args.trial else {
        let loaded = model::load(&args.model)?;
        written(&loaded.network, args)?;
        return write_info(&loaded.info, &args.output);
    };
    let folder = Path::new(&args.model.model);
    let run = Run::open(folder)?;
    let plan = run.plan();
    let by_index = trial.parse::<usize>().ok().and_then(|index| plan.trials.get(index));
    let spec = plan.trials.iter().find(|t| t.id == *trial).or(by_index).ok_or_else(|| {
        Fail::Message(format!("--trial {trial}: no trial of {} has this id or index", folder.display()))
    })?;
    let network = recompute(&run, &context_of(&run, args.data_dir.as_deref(), RuntimeOptions::default())?, spec)?;
    written(&network, args)?;
    let info = ModelInfo {
        mean: plan.data.mean.clone(),
        std: plan.data.std.clone(),
        classes: plan.data.classes.clone(),
        input: Some(plan.data.shape),
    };
    write_info(&info, &args.output)?;
    let card = args.output.with_extension("md");
    report::write(&card, &nettriage_report::card(&run, spec)?)?;
    println!("model card: {}", card.display());
    Ok(())
}

/// Writes the network as the command line asks.
fn written(network: &Network, args: &args::Export) -> Result<(), Fail> {
    if !args.state_dict {
        return write(network, &args.output);
    }
    if args.output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(Fail::Message(format!("{}: --state-dict writes .safetensors", args.output.display())));
    }
    safetensors::save_state_dict(network, &args.output)?;
    println!("weights: {}", args.output.display());
    Ok(())
}

/// Writes a network in the format that the file's name says.
pub fn write(network: &Network, path: &Path) -> Result<(), Fail> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx") => onnx::write(network, path)?,
        Some("safetensors") => safetensors::save(network, path)?,
        _ => return Err(misnamed(path)),
    }
    println!("network: {}", path.display());
    Ok(())
}

/// What is said of a file whose name tells no format.
pub fn misnamed(path: &Path) -> Fail {
    Fail::Message(format!("{}: name the file .onnx or .safetensors", path.display()))
}

/// Normalisation and classes go along, so that the file can be evaluated without flags.
pub fn write_info(info: &ModelInfo, path: &Path) -> Result<(), Fail> {
    let text = info.to_toml();
    if text.is_empty() {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".toml");
    report::write(Path::new(&name), &text)
}
