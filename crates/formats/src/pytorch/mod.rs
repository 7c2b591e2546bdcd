//! PyTorch checkpoints: the tensors of a `.pt`, `.pth`, `.th` or `.pth.tar` file.
//!
//! Both formats of `torch.save` are read: the zip archive (since 1.6) and the legacy one, a sequence of pickles and raw
//! storages. A pickle is a program, which is never executed here. A small interpreter follows its stack and builds plain
//! values (`pickle`). It knows only the functions and classes of tensors and plain containers.

mod archive;
mod legacy;
mod pickle;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;

use crate::shared::SharedWeights;
use nettriage_net::{Error, Tensor};
use pickle::{Machine, Value};
pub(crate) use tensors::{Found, Storages};

/// The tensors of a checkpoint by their keys in its state dict, in the file's order. Values are read on access.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    found: Vec<Found>,
    storages: Storages<'a>,
}

impl<'a> Checkpoint<'a> {
    /// Reads the structure of a checkpoint.
    ///
    /// # Errors
    /// Bytes that are no PyTorch checkpoint; a pickle with objects other than tensors and plain containers, such as a
    /// whole module; a file without a state dict.
    pub fn parse(bytes: &'a [u8]) -> Result<Checkpoint<'a>, Error> {
        parse(bytes).map_err(|problem| Error::file("PyTorch checkpoint", problem))
    }

    /// Names and shapes, in the file's order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.found.iter().map(|found| (found.name.as_str(), found.shape.as_slice()))
    }

    /// Layers whose tensors are the same elements of the same storage, as those of a module that is registered twice.
    pub fn shared(&self) -> Vec<SharedWeights> {
        let mut layers: BTreeMap<_, (usize, Vec<String>)> = BTreeMap::new();
        for found in &self.found {
            let layer = found.name.rsplit_once('.').map_or(found.name.as_str(), |(layer, _)| layer);
            let elements = found.shape.iter().product();
            layers.entry(found.place()).or_insert((elements, Vec::new())).1.push(layer.to_string());
        }
        SharedWeights::of_tensors(layers.into_values().map(|(elements, layers)| (layers, elements)))
    }

    /// The tensor of that name as `f32`, contiguous.
    ///
    /// # Errors
    /// An unknown name; an element type that is not read; a tensor that exceeds its storage.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let fail = |problem: String| Error::file(format!("PyTorch checkpoint, tensor `{name}`"), problem);
        let found = self.found.iter().find(|found| found.name == name).ok_or_else(|| fail("no such tensor".into()))?;
        self.storages.read(found).map_err(fail)
    }

    /// All tensors, in the file's order.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`]; tensors that share storage so that together they are larger than the file.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let total =
            self.found.iter().map(|found| found.shape.iter().product::<usize>()).fold(0usize, usize::saturating_add);
        if total > self.storages.bytes() {
            return Err(Error::file("PyTorch checkpoint", "its tensors overlap and are together larger than the file"));
        }
        self.found.iter().map(|found| Ok((found.name.clone(), self.tensor(&found.name)?))).collect()
    }
}

/// Whether the bytes start like a PyTorch checkpoint.
pub fn is_checkpoint(bytes: &[u8]) -> bool {
    archive::is_archive(bytes) || legacy::is_legacy(bytes)
}

/// Reads all tensors of a file.
///
/// # Errors
/// Those of [`Checkpoint::parse`] and [`Checkpoint::tensors`], and a file that cannot be read.
pub fn load(path: impl AsRef<Path>) -> Result<Vec<(String, Tensor)>, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    let named = |error: Error| match error {
        Error::File { path: place, problem } => Error::file(path.display(), format!("{place}: {problem}")),
        other => other,
    };
    Checkpoint::parse(&bytes).and_then(|checkpoint| checkpoint.tensors()).map_err(named)
}

fn parse(bytes: &[u8]) -> Result<Checkpoint<'_>, String> {
    let (machine, root, storages) = if archive::is_archive(bytes) {
        archive::read(bytes)?
    } else if legacy::is_legacy(bytes) {
        legacy::read(bytes)?
    } else if bytes.get(257..262) == Some(b"ustar") {
        return Err("it is a tar archive, the format of PyTorch before 0.1.10; load it with that version and save it again with a current one".into());
    } else {
        return Err("not a PyTorch checkpoint".into());
    };
    let found = tensors::state_dict(&machine, root)?;
    Ok(Checkpoint { found, storages })
}

/// The values of a pickle, and the number of its result.
type Unpickled = (Machine, u32);

fn unpickle(bytes: &[u8], budget: usize) -> Result<(Unpickled, usize), String> {
    let mut machine = Machine::new(budget);
    let (root, used) = machine.run(bytes)?;
    Ok(((machine, root), used))
}

fn text(machine: &Machine, id: u32) -> Option<&str> {
    match machine.get(id) {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn number(machine: &Machine, id: u32) -> Option<i64> {
    match machine.get(id) {
        Value::Int(value) => Some(*value),
        _ => None,
    }
}
