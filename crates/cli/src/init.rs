//! `init`: a study file to start from; `run --model` runs the same study.

use std::path::{Path, PathBuf};

use nettriage_data::Dataset;
use nettriage_formats::load;
use nettriage_net::surgery::{self, Substitute};
use nettriage_net::{arch, block};
use nettriage_study::template;

use crate::fail::Fail;
use crate::{args, output as output_file};

/// `nettriage init MODEL --data NAME`.
pub fn init(args: &args::Init) -> Result<(), Fail> {
    let args::Init { model, data, data_dir, output } = args;
    if output.exists() {
        return Err(Fail::Message(format!("{}: it exists; name another file with -o", output.display())));
    }
    let beside = output.parent().is_none_or(|folder| folder.as_os_str().is_empty());
    // Paths in a study are relative to its file.
    let text =
        study(model, data, data_dir.as_deref(), |path| if beside { Ok(path.to_owned()) } else { absolute(path) })?;
    output_file::write(output, &text)?;
    println!("study: {}; next: nettriage run {} --dry-run", output.display(), output.display());
    Ok(())
}

/// The default study of a network and a data set, as the text of its file.
pub fn study(
    model: &str,
    data: &str,
    data_dir: Option<&Path>,
    place: impl Fn(&Path) -> Result<PathBuf, Fail>,
) -> Result<String, Fail> {
    let dir = data_dir.map(&place).transpose()?;
    if arch::names().contains(&model) {
        let conv3x3 = Substitute::Conv { kernel: 3, groups: 1 };
        return Ok(template(model, conv3x3, &dataset(data, data_dir, 32)?, data, dir.as_deref()));
    }
    // Read now, so that a file that is none is refused before a study names it.
    let network = load::load(Path::new(model), &load::LoadOptions::default())?.network;
    let path = place(Path::new(model))?;
    let path =
        path.to_str().ok_or_else(|| Fail::Message(format!("{model}: a study needs a path of Unicode letters")))?;
    let substitute = surgery::usual(&network.graph, &block::find(&network.graph))?;
    Ok(template(path, substitute, &dataset(data, data_dir, network.graph.input.height)?, data, dir.as_deref()))
}

/// An absolute path.
pub fn absolute(path: &Path) -> Result<PathBuf, Fail> {
    std::path::absolute(path).map_err(|error| Fail::file(path, error))
}

fn dataset(name: &str, dir: Option<&Path>, size: usize) -> Result<Dataset, Fail> {
    match (name, dir) {
        ("folder", Some(dir)) => Ok(nettriage_data::open_folder(dir, size)?),
        ("folder", None) => Err(Fail::Message("--data folder needs --data-dir, a folder or a tar of images".into())),
        (name, dir) => Ok(nettriage_data::open(name, dir)?),
    }
}
