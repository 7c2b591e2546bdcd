//! `export`: a network, or a child of a run, as a file that others read.

use std::path::Path;

use nettriage_net::info::ModelInfo;
use nettriage_net::{Network, onnx, safetensors};
use nettriage_records::Run;
use nettriage_study::{Setting, Study, recompute};

use crate::args;
use crate::fail::Fail;
use crate::{model, report};

/// `nettriage export MODEL -o FILE`.
pub fn export(args: &args::Export) -> Result<(), Fail> {
    let Some(trial) = &args.trial else {
        let loaded = model::load(&args.model)?;
        write(&loaded.network, &args.output)?;
        return write_info(&loaded.info, &args.output);
    };
    let folder = Path::new(&args.model.model);
    let run = Run::open(folder)?;
    let plan = run.plan();
    let by_index = trial.parse::<usize>().ok().and_then(|index| plan.trials.get(index));
    let spec = plan.trials.iter().find(|t| t.id == *trial).or(by_index).ok_or_else(|| {
        Fail::Message(format!("--trial {trial}: no trial of {} has this id or index", folder.display()))
    })?;
    let study = Study::parse(&plan.study, &folder.join("plan.json").display().to_string())?;
    let setting = Setting::new(study, plan.study.clone(), args.data_dir.as_deref())?;
    let network = recompute(&run, &setting, spec)?;
    write(&network, &args.output)?;
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

/// Writes a network in the format that the file's name says.
pub fn write(network: &Network, path: &Path) -> Result<(), Fail> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx") => onnx::write(network, path)?,
        Some("safetensors") => safetensors::save(network, path)?,
        _ => {
            return Err(Fail::Message(format!("{}: name the file .onnx or .safetensors", path.display())));
        }
    }
    println!("network: {}", path.display());
    Ok(())
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
