//! The files that a command writes: checked before it computes anything, and written in one way.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;

use crate::args;
use crate::fail::Fail;

/// Writes text to a file, a stream or standard output; see [`nettriage_files::write_output`].
pub fn write(path: &Path, text: &str) -> Result<(), Fail> {
    write_bytes(path, text.as_bytes())
}

/// As [`write`], of bytes.
pub fn write_bytes(path: &Path, content: &[u8]) -> Result<(), Fail> {
    nettriage_files::write_output(path, content).map_err(|error| Fail::file(path, error))
}

/// Writes an array in C order as a NumPy file.
pub fn npy<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[usize],
    values: impl IntoIterator<Item = T>,
) -> Result<(), Fail> {
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let save = |file: &mut dyn Write| {
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(values)?;
        writer.finish()
    };
    nettriage_files::write_output_with(path, save).map_err(|error| Fail::file(path, error))
}

/// Checks the outputs of a command; see [`nettriage_files::check_outputs`]. Of a run's folder among the inputs only the run's own
/// files are protected, since its page is written there.
pub fn check(outputs: &[&Path], inputs: &[&Path]) -> Result<(), Fail> {
    let (runs, files): (Vec<&Path>, Vec<&Path>) = inputs.iter().partition(|path| path.join("plan.json").is_file());
    nettriage_files::check_outputs(outputs, &files).map_err(Fail::Message)?;
    for output in outputs {
        if runs.iter().any(|run| nettriage_records::is_file_of(run, output)) {
            let problem = "the output would overwrite a file of the run; name another file";
            return Err(Fail::Message(format!("{}: {problem}", output.display())));
        }
    }
    Ok(())
}

/// Checks a folder that a command writes files of its own names into.
pub fn check_folder(folder: &Path, inputs: &[&Path]) -> Result<(), Fail> {
    let fail = |problem: &str| Err(Fail::Message(format!("{}: {problem}", folder.display())));
    if folder.exists() && !folder.is_dir() {
        return fail("is a file, not a folder; name another");
    }
    if inputs.iter().any(|run| nettriage_records::is_file_of(run, folder)) {
        return fail("it belongs to the run; name another folder");
    }
    match folder.ancestors().find(|ancestor| ancestor.exists()) {
        Some(ancestor) if !ancestor.is_dir() => fail("a part of its path is a file; name another folder"),
        _ => Ok(()),
    }
}

/// The inputs that a path names: the file, and the description beside it.
pub fn with_sidecar(path: &Path) -> [PathBuf; 2] {
    [path.to_path_buf(), sidecar(path)]
}

/// The files that a network on the command line is read from: its own, its description, its external data, and the file that
/// holds its graph.
pub fn of_model(model: &args::Model) -> Vec<PathBuf> {
    let file = Path::new(&model.model);
    let mut files = with_sidecar(file).to_vec();
    if file.is_file() {
        files.push(file.with_extension("toml"));
        files.extend(nettriage_formats::onnx::external_files(file));
    }
    files.extend(model.arch.as_ref().map(PathBuf::from).filter(|arch| arch.is_file()));
    files
}

/// The description beside a network's file: `<file>.toml`.
pub fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".toml");
    name.into()
}

/// The paths as [`check`] takes them.
pub fn as_paths(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

/// Where messages for people go: standard output, unless an output is written there.
pub fn messages(outputs: &[&Path]) -> Box<dyn Write> {
    if outputs.iter().any(|path| nettriage_files::is_standard_output(path)) {
        Box::new(io::stderr())
    } else {
        Box::new(io::stdout())
    }
}

/// Lets a write beyond the limit on file sizes (`ulimit -f`) fail with an error, in place of a signal that ends the process.
pub fn ignore_size_signal() {
    #[cfg(unix)]
    // SAFETY: no handler is installed, so none of our code runs in a signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
