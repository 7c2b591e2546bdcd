//! What a network's file does not hold: the normalisation of its images, the names of its classes, the size of its input.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use nettriage_net::{Error, Shape, printable};

/// A small TOML file beside a network: `net.toml` or `net.onnx.toml` beside `net.onnx`.
///
/// ```toml
/// mean = [0.485, 0.456, 0.406]   # of pixels scaled to 0..1, channel by channel
/// std = [0.229, 0.224, 0.225]
/// classes = ["airplane", "automobile"]   # in the order of the network's outputs
/// input = [3, 32, 32]   # channels, rows, columns
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelInfo {
    /// Subtracted from each channel of pixels scaled to 0..1; empty if unknown.
    pub mean: Vec<f32>,
    /// Divisor of each channel after that; empty if unknown.
    pub std: Vec<f32>,
    /// Names of the classes, in the order of the outputs; empty if unknown.
    pub classes: Vec<String>,
    /// Channels, rows and columns of an image.
    pub input: Option<[usize; 3]>,
}

/// The file beside a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Sidecar {
    /// There is none.
    Absent,
    /// The description of the network.
    Found(ModelInfo),
    /// A file of the same name that is something else, with a note for the user.
    Other(String),
}

/// Whether a TOML file has tables, which a [`ModelInfo`] has not.
fn holds_sections(text: &str) -> bool {
    let table = text.parse::<toml::Table>();
    table.is_ok_and(|table| {
        table.values().any(|value| match value {
            toml::Value::Table(_) => true,
            toml::Value::Array(items) => items.iter().any(toml::Value::is_table),
            _ => false,
        })
    })
}

impl ModelInfo {
    /// Reads the file beside a network: `net.onnx.toml`, otherwise `net.toml`. The latter may be another file, such as a
    /// study.
    ///
    /// # Errors
    /// A file that cannot be read, or has unknown keys or invalid values.
    pub fn beside(network: impl AsRef<Path>) -> Result<Sidecar, Error> {
        let network = network.as_ref();
        let mut longer = network.as_os_str().to_os_string();
        longer.push(".toml");
        let longer = PathBuf::from(longer);
        let shorter = network.with_extension("toml");
        for path in [&longer, &shorter] {
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::file(path.display(), error)),
            };
            if *path == shorter && holds_sections(&text) {
                return Ok(Sidecar::Other(format!(
                    "{} is not read as the description of this network, since it has sections, as a study has; \
                     a description is best named {}",
                    path.display(),
                    longer.display()
                )));
            }
            let info = ModelInfo::parse(&text).map_err(|problem| Error::file(path.display(), problem))?;
            return Ok(Sidecar::Found(info));
        }
        Ok(Sidecar::Absent)
    }

    /// From the text of such a file.
    ///
    /// # Errors
    /// The problem, in one line.
    pub fn parse(text: &str) -> Result<ModelInfo, String> {
        let info: ModelInfo = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            format!("line {line}: {}; its keys are mean, std, classes and input", printable(&message))
        })?;
        // Their values are checked where a normalisation is made of them, for the channels of the images.
        if info.mean.len() != info.std.len() {
            return Err(format!(
                "{} means and {} deviations; give one of each per channel",
                info.mean.len(),
                info.std.len()
            ));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = info.classes.iter().find(|class| !seen.insert(class.as_str())) {
            return Err(format!("class `{}` occurs twice in classes", printable(twice)));
        }
        if info.input.is_some_and(|input| input.contains(&0)) {
            return Err("input has an extent of 0; give channels, rows and columns".into());
        }
        Ok(info)
    }

    /// The text of such a file.
    pub fn to_toml(&self) -> String {
        // Lists of numbers and strings are the same in JSON and TOML.
        let list = |values: serde_json::Result<String>| values.unwrap_or_default();
        let mut text = String::new();
        if !self.mean.is_empty() {
            text += &format!(
                "mean = {}\nstd = {}\n",
                list(serde_json::to_string(&self.mean)),
                list(serde_json::to_string(&self.std))
            );
        }
        if !self.classes.is_empty() {
            text += &format!("classes = {}\n", list(serde_json::to_string(&self.classes)));
        }
        if let Some(input) = self.input {
            text += &format!("input = {input:?}\n");
        }
        text
    }

    /// The input's shape, if known.
    pub fn input_shape(&self) -> Option<Shape> {
        self.input.map(|[channels, height, width]| Shape::new(channels, height, width))
    }
}
