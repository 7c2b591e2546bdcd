//! `export`: a network, or a child of a run, as a file that others read.

use std::io::Write;
use std::path::Path;

use nettriage::best_child;
use nettriage_formats::info::ModelInfo;
use nettriage_formats::{onnx, safetensors};
use nettriage_net::Network;
use nettriage_records::Run;
use nettriage_records::plan::TrialSpec;
use nettriage_study::{RuntimeOptions, context_of, recompute};

use crate::args;
use crate::fail::Fail;
use crate::progress::title;
use crate::{model, output};

/// `nettriage export MODEL -o FILE`.
pub fn export(args: &args::Export) -> Result<(), Fail> {
    let of_run = args.trial.is_some() || args.block.is_some();
    let card = args.output.with_extension("md");
    let mut outputs = output::with_sidecar(&args.output).to_vec();
    outputs.extend(of_run.then(|| card.clone()));
    let inputs = output::of_model(&args.model);
    output::check(&output::as_paths(&outputs), &output::as_paths(&inputs))?;
    let mut messages = output::messages(&output::as_paths(&outputs));
    if !of_run {
        let loaded = model::load(&args.model)?;
        written(&loaded.network, args, &mut messages)?;
        return write_info(&loaded.info, &args.output);
    }
    let run = Run::open(Path::new(&args.model.model))?;
    let plan = run.plan();
    let spec = match &args.block {
        Some(block) => {
            let (spec, accuracy) = best_child(&run, block)?;
            println!("best child of {block}: {}, validation accuracy {:.2}%", title(spec), 100.0 * accuracy);
            spec
        }
        None => named(&run, args.trial.as_deref().unwrap_or_default())?,
    };
    let runtime = RuntimeOptions { device: args.compute.open_one()?, ..RuntimeOptions::default() };
    let network = recompute(&run, &context_of(&run, args.data_dir.as_deref(), runtime)?, spec)?;
    written(&network, args, &mut messages)?;
    let info = ModelInfo {
        mean: plan.data.mean.clone(),
        std: plan.data.std.clone(),
        classes: plan.data.classes.clone(),
        input: Some(plan.data.shape),
    };
    write_info(&info, &args.output)?;
    output::write(&card, &nettriage_report::card(&run, spec)?)?;
    writeln!(messages, "model card: {}", card.display())?;
    Ok(())
}

/// The trial of that id, or at that place in the plan.
fn named<'r>(run: &'r Run, trial: &str) -> Result<&'r TrialSpec, Fail> {
    let trials = &run.plan().trials;
    let by_index = trial.parse::<usize>().ok().and_then(|index| trials.get(index));
    trials.iter().find(|t| t.id == trial).or(by_index).ok_or_else(|| {
        Fail::Message(format!("--trial {trial}: no trial of {} has this id or index", run.folder().display()))
    })
}

/// Writes the network as the command line asks.
fn written(network: &Network, args: &args::Export, messages: &mut dyn Write) -> Result<(), Fail> {
    if !args.state_dict {
        return write(network, &args.output, messages);
    }
    if args.output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(Fail::Message(format!("{}: --state-dict writes .safetensors", args.output.display())));
    }
    safetensors::save_state_dict(network, &args.output)?;
    writeln!(messages, "weights: {}", args.output.display())?;
    Ok(())
}

/// Writes a network in the format that the file's name says.
pub fn write(network: &Network, path: &Path, messages: &mut dyn Write) -> Result<(), Fail> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx") => onnx::write(network, path)?,
        Some("safetensors") => safetensors::save(network, path)?,
        _ => return Err(misnamed(path)),
    }
    writeln!(messages, "network: {}", path.display())?;
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
    output::write(&output::sidecar(path), &text)
}
