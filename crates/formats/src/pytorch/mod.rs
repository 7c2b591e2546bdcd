//! PyTorch checkpoints: the tensors of a `.pt`, `.pth`, `.th` or `.pth.tar` file.
//!
//! Both formats of `torch.save` are read: the zip archive (since 1.6) and the legacy one, a sequence of pickles and raw
//! storages. A pickle is a program, which is never executed here. A small interpreter follows its stack and builds plain
//! values (`pickle`). It knows only the functions and classes of tensors and plain containers.

mod archive;
mod legacy;
mod pickle;
mod state_dict;
mod tensors;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::shared::SharedWeights;
use nettriage_net::{Error, Tensor};

use pickle::{Machine, Value};
use state_dict::StateDict;
use tensors::Storages;

/// The call that writes an ONNX file from a model `model` in Python, with its batch norms as layers of their own.
pub(crate) const EXPORT: &str = "torch.onnx.export(model.eval(), (torch.zeros(1, 3, 224, 224),), \"net.onnx\", dynamo=False, \
     training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False), with the (N, C, H, W) of your images";

/// The tensors of a checkpoint by their keys in its state dict, in the file's order. Values are read on access.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    state_dict: StateDict,
    /// Position in the state dict by name.
    positions: HashMap<String, usize>,
    storages: Storages<'a>,
    skipped: BTreeMap<String, usize>,
}

impl<'a> Checkpoint<'a> {
    /// Reads the structure of a checkpoint.
    ///
    /// # Errors
    /// Bytes that are no PyTorch checkpoint; a whole module; a file without a state dict, or with several versions of
    /// the same weights.
    pub fn parse(bytes: &'a [u8]) -> Result<Checkpoint<'a>, Error> {
        Checkpoint::parse_key(bytes, None)
    }

    /// As [`Checkpoint::parse`], with the state dict under `key`: the keys of nested dictionaries joined by dots, or a
    /// prefix of the tensors' names.
    ///
    /// # Errors
    /// As [`Checkpoint::parse`]; a key that does not exist.
    pub fn parse_key(bytes: &'a [u8], key: Option<&str>) -> Result<Checkpoint<'a>, Error> {
        parse(bytes, key).map_err(|problem| Error::file("PyTorch checkpoint", problem))
    }

    /// Names and shapes, in the file's order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.state_dict.tensors.iter().map(|found| (found.name.as_str(), found.shape.as_slice()))
    }

    /// Classes of the objects that were skipped, with their number: arguments, dates, arrays and the like.
    pub fn skipped(&self) -> &BTreeMap<String, usize> {
        &self.skipped
    }

    /// The key of the state dict, and those of the file's other dictionaries of tensors except optimiser states.
    pub fn keys(&self) -> (&str, &[String]) {
        (&self.state_dict.key, &self.state_dict.others)
    }

    /// Layers whose tensors are the same elements of the same storage, as those of a module that is registered twice.
    pub fn shared(&self) -> Vec<SharedWeights> {
        let mut layers: BTreeMap<_, (usize, Vec<String>)> = BTreeMap::new();
        for found in &self.state_dict.tensors {
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
        let position = *self.positions.get(name).ok_or_else(|| fail("no such tensor".into()))?;
        self.storages.read(&self.state_dict.tensors[position]).map_err(fail)
    }

    /// All tensors, in the file's order.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`]; tensors that share storage so that together they are larger than the file.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let sizes = self.shapes().map(|(_, shape)| shape.iter().fold(1usize, |n, &extent| n.saturating_mul(extent)));
        if sizes.fold(0usize, usize::saturating_add) > self.storages.bytes() {
            return Err(Error::file("PyTorch checkpoint", "its tensors overlap and are together larger than the file"));
        }
        self.shapes().map(|(name, _)| Ok((name.to_string(), self.tensor(name)?))).collect()
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

fn parse<'a>(bytes: &'a [u8], key: Option<&str>) -> Result<Checkpoint<'a>, String> {
    let (machine, root, storages) = if archive::is_archive(bytes) {
        archive::read(bytes)?
    } else if legacy::is_legacy(bytes) {
        legacy::read(bytes)?
    } else if bytes.get(257..262) == Some(b"ustar") {
        return Err("it is a tar archive, the format of PyTorch before 0.1.10; load it with that version and save it \
                    again with a current one"
            .into());
    } else {
        return Err("not a PyTorch checkpoint".into());
    };
    let state_dict = state_dict::find(&machine, root, &storages, key, bytes.len())?;
    let positions = state_dict.tensors.iter().enumerate().map(|(at, found)| (found.name.clone(), at)).collect();
    Ok(Checkpoint { positions, storages, skipped: machine.skipped(), state_dict })
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
