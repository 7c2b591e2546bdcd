//! `data`: fetch, list and show data sets.

use std::io::Write;
use std::path::Path;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use nettriage_data::{Dataset, ImageSize, Images};

use crate::args;
use crate::fail::Fail;
use crate::output;

/// `nettriage data …`.
pub fn data(args: &args::Data) -> Result<(), Fail> {
    match args {
        args::Data::Get { name, dir } => get(name, dir.as_deref()),
        args::Data::List => list(),
        args::Data::Show { name, dir, size, folder, output, arrays } => {
            show(name, dir.as_deref(), *size, folder, output.as_deref(), arrays.as_deref())
        }
    }
}

fn get(name: &str, dir: Option<&Path>) -> Result<(), Fail> {
    let template = "{msg} {wide_bar:.cyan/blue} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = ProgressBar::new(0).with_style(style);
    let fetched = nettriage_data::get(name, dir, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_message(progress.file.to_owned());
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    println!("{name} is in {}", fetched?.display());
    Ok(())
}

fn list() -> Result<(), Fail> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["name", "what", "where"]);
    for set in nettriage_data::list(None) {
        let place = match (&set.found, set.embedded) {
            (_, true) => "in the program".to_owned(),
            (Some(folder), _) => folder.display().to_string(),
            (None, _) => format!("not here: nettriage data get {} ({} MB)", set.name, set.bytes / 1_000_000),
        };
        table.add_row([set.name, set.about, place]);
    }
    writeln!(std::io::stdout().lock(), "{table}")?;
    Ok(())
}

fn show(
    name: &str,
    dir: Option<&Path>,
    size: ImageSize,
    folder: &args::Folder,
    output: Option<&Path>,
    arrays: Option<&Path>,
) -> Result<(), Fail> {
    let known = nettriage_data::list(None).iter().any(|set| set.name == name);
    let dataset = match (known, Path::new(name).exists()) {
        (false, true) => nettriage_data::open_folder_with(Path::new(name), &folder.of_size(size))?,
        _ => nettriage_data::open(name, dir)?,
    };
    if let Some(path) = output {
        let inputs: Vec<&Path> = dir.into_iter().chain(Path::new(name).exists().then(|| Path::new(name))).collect();
        output::check(&[path], &inputs)?;
    }
    if let Some(folder) = arrays {
        output::check_folder(folder, &[])?;
    }
    dataset.notes.iter().for_each(|note| eprintln!("note: {note}"));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["class", "train", "test"]);
    for class in nettriage_data::class_counts(&dataset) {
        table.add_row([class.name, class.train.to_string(), class.test.to_string()]);
    }
    let outputs: Vec<&Path> = output.into_iter().collect();
    let mut out = output::messages(&outputs);
    let (train, test) = (dataset.train.len(), dataset.test.len());
    writeln!(out, "{}: {train} training and {test} test images of {}", dataset.name, dataset.shape())?;
    writeln!(out, "{table}")?;
    match nettriage_data::is_original(&dataset) {
        Some(true) => writeln!(out, "checksum {}: the original", dataset.checksum)?,
        Some(false) => writeln!(out, "checksum {}: NOT the original's content", dataset.checksum)?,
        None => writeln!(out, "checksum {}", dataset.checksum)?,
    }
    if let Some(path) = output {
        nettriage_data::contact_sheet(&dataset, path)?;
        writeln!(out, "contact sheet: {}", path.display())?;
    }
    if let Some(folder) = arrays {
        std::fs::create_dir_all(folder).map_err(|error| Fail::file(folder, error))?;
        for (part, images) in [("train", &dataset.train), ("test", &dataset.test)] {
            write_arrays(folder, part, images, &dataset)?;
        }
        writeln!(out, "arrays: {}", folder.display())?;
    }
    Ok(())
}

/// Images (N, H, W, C) and labels (N) as NumPy files.
fn write_arrays(folder: &Path, part: &str, images: &Images, dataset: &Dataset) -> Result<(), Fail> {
    let mut buffer = Vec::new();
    let mut image = |index: usize| images.read(index, &mut buffer).to_vec();
    let shape = [images.len(), dataset.height, dataset.width, dataset.channels];
    output::npy(&folder.join(format!("{part}-images.npy")), &shape, (0..images.len()).flat_map(&mut image))?;
    let labels = images.labels.iter().copied();
    output::npy(&folder.join(format!("{part}-labels.npy")), &shape[..1], labels)
}
