//! Checkpoints: the state of a training between two of its steps, so that a killed process loses minutes and not hours.
//!
//! A checkpoint is one file, `checkpoints/<id>.bin`, named by the id of the training: a header line with the checksum of
//! what follows, a line with the [`TrainingState`], then the elements of all tensors as 32-bit floats, least significant byte
//! first.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::VERSION;
use crate::record::CurvePoint;
use crate::{Error, Run, files, id};

/// The folder of checkpoints in a run's folder.
pub(crate) const FOLDER: &str = "checkpoints";

/// Version of the program: another one may round differently.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// A training between two steps: everything that is no function of its plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The vector instructions of the machine, which decide how sums are rounded.
    pub instructions: String,
    /// Where the training is.
    pub state: TrainingState,
    /// Weights, statistics of norms, the optimiser's tensors, averages, by their names.
    pub tensors: Tensors,
}

/// Tensors by name: shape and elements.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Where a training is, and what it has measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingState {
    /// The stage, from 0.
    pub stage: usize,
    /// Steps of that stage that have been taken.
    pub step: usize,
    /// Steps that the optimiser counts.
    pub optimizer_steps: u64,
    /// The learning curve so far.
    pub curve: Vec<CurvePoint>,
    /// The best point of the curve so far, if it is tracked.
    pub best: Option<CurvePoint>,
    /// Training loss since the last point of the curve: its sum over images, and their number.
    pub loss: (f64, usize),
    /// Seconds of training so far, and seconds in all.
    pub seconds: (f64, f64),
}

impl TrainingState {
    /// Whether this training is further than `other`.
    pub fn is_beyond(&self, other: &TrainingState) -> bool {
        (self.stage, self.step) > (other.stage, other.step)
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    program: String,
    id: String,
    instructions: String,
    /// Name and shape of every tensor, in order.
    tensors: Vec<(String, Vec<usize>)>,
    bytes: usize,
    checksum: String,
}

/// A checkpoint that was looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// A checkpoint to continue from.
    Usable(Box<Checkpoint>),
    /// It is damaged or belongs to another training; it was renamed, and the training starts from its beginning.
    SetAside {
        /// Its new name.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Checkpoint {
    fn encode(&self, id: &str) -> Vec<u8> {
        let mut body = serde_json::to_vec(&self.state).expect("plain data");
        body.push(b'\n');
        let elements: usize = self.tensors.values().map(|(_, data)| data.len()).sum();
        body.reserve(4 * elements);
        for (_, data) in self.tensors.values() {
            data.iter().for_each(|value| body.extend_from_slice(&value.to_le_bytes()));
        }
        let header = Header {
            version: VERSION,
            program: PROGRAM.to_owned(),
            id: id.to_owned(),
            instructions: self.instructions.clone(),
            tensors: self.tensors.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect(),
            bytes: body.len(),
            checksum: String::new(),
        };
        let header = Header { checksum: checksum(&header, &body), ..header };
        let mut bytes = serde_json::to_vec(&header).expect("plain data");
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        bytes
    }

    fn decode(bytes: &[u8], id: &str) -> Result<Checkpoint, Unusable> {
        let damaged = |reason: &str| Unusable::Damaged(reason.to_owned());
        let (line, body) = split(bytes).ok_or_else(|| damaged("its header is damaged"))?;
        let mut header = header(line)?;
        let stated = std::mem::take(&mut header.checksum);
        if body.len() != header.bytes {
            return Err(damaged("truncated"));
        }
        if checksum(&header, body) != stated {
            return Err(damaged("its checksum does not match"));
        }
        if header.id != id {
            return Err(Unusable::Damaged(format!("it belongs to another training, {}", header.id)));
        }
        let (state, mut values) = split(body).ok_or_else(|| damaged("truncated"))?;
        let state = serde_json::from_slice(state).map_err(|error| Unusable::Damaged(error.to_string()))?;
        let mut tensors = Tensors::new();
        for (name, shape) in header.tensors {
            let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
            let bytes = elements.and_then(|elements| elements.checked_mul(4)).filter(|bytes| *bytes <= values.len());
            let (own, rest) = values.split_at(bytes.ok_or_else(|| damaged("truncated"))?);
            let data = own.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            tensors.insert(name, (shape, data));
            values = rest;
        }
        Ok(Checkpoint { instructions: header.instructions, state, tensors })
    }
}

/// Why a checkpoint is not usable.
enum Unusable {
    Damaged(String),
    /// Written by another version of the program.
    Version(String),
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn header(line: &[u8]) -> Result<Header, Unusable> {
    #[derive(Deserialize)]
    struct Writer {
        version: u32,
        program: String,
    }
    let damaged = |_| Unusable::Damaged("its header is damaged".to_owned());
    // The version first: the header of another version may have other keys.
    let Writer { version, program } = serde_json::from_slice(line).map_err(damaged)?;
    if (version, program.as_str()) != (VERSION, PROGRAM) {
        return Err(Unusable::Version(format!("nettriage {program}, file version {version}")));
    }
    serde_json::from_slice(line).map_err(damaged)
}

/// SHA-256 of the header without its checksum, and of what follows it.
fn checksum(header: &Header, body: &[u8]) -> String {
    let header = serde_json::to_vec(header).expect("plain data");
    id::hex_of(&[&header, body])
}

/// A folder of checkpoints: those of a run, or of a prescription.
#[derive(Clone, Debug)]
pub struct CheckpointFolder(PathBuf);

impl CheckpointFolder {
    /// The checkpoints in a run's folder, or in that of a prescription.
    pub fn inside(folder: &Path) -> CheckpointFolder {
        CheckpointFolder(folder.join(FOLDER))
    }

    /// Path of the checkpoint of a training.
    pub fn path(&self, id: &str) -> PathBuf {
        self.0.join(format!("{id}.bin"))
    }

    /// The checkpoint of a training. One that is damaged, or of another training, is renamed to `*.corrupt`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if another version of the program wrote it: this one might round differently.
    pub fn read(&self, id: &str) -> Result<Found, Error> {
        id::check(id)?;
        let path = self.path(id);
        let Some(bytes) = files::read(&path)? else { return Ok(Found::Nothing) };
        match Checkpoint::decode(&bytes, id) {
            Ok(checkpoint) => Ok(Found::Usable(Box::new(checkpoint))),
            Err(Unusable::Version(found)) => Err(Error::Checkpoint { path, found }),
            Err(Unusable::Damaged(reason)) => Ok(Found::SetAside { path: files::set_aside(&path)?, reason }),
        }
    }

    /// Renames a checkpoint that cannot be continued from, as [`CheckpointFolder::read`] does with a damaged one.
    ///
    /// # Errors
    /// If the file cannot be renamed.
    pub fn set_aside(&self, id: &str, reason: String) -> Result<Found, Error> {
        Ok(Found::SetAside { path: files::set_aside(&self.path(id))?, reason })
    }

    /// Writes the checkpoint of a training atomically, in place of an earlier one.
    ///
    /// # Errors
    /// If it cannot be written; the earlier one is then unchanged.
    pub fn write(&self, id: &str, checkpoint: &Checkpoint) -> Result<(), Error> {
        id::check(id)?;
        // Absent in runs of earlier versions.
        fs::create_dir_all(&self.0).map_err(|error| Error::io(&self.0, error))?;
        files::write_atomic(&self.path(id), &checkpoint.encode(id))
    }

    /// Removes the checkpoint of a training whose record is written, if there is one.
    pub fn remove(&self, id: &str) {
        // If this fails, `gc` lists the file.
        let _ = fs::remove_file(self.path(id));
    }

    /// How far the checkpoint of a training is; `None` if there is none that is readable. Its tensors are not read.
    pub fn state(&self, id: &str) -> Option<TrainingState> {
        let mut file = BufReader::new(fs::File::open(self.path(id)).ok()?);
        let mut lines = Vec::new();
        for _ in 0..2 {
            lines.clear();
            (&mut file).take(MOST_OF_A_LINE).read_until(b'\n', &mut lines).ok()?;
        }
        serde_json::from_slice(&lines).ok()
    }
}

impl Run {
    /// The checkpoints of trials and parents.
    pub fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::inside(self.folder())
    }

    /// The trials and parents without a record that have a checkpoint.
    pub(crate) fn open_checkpoints(&self) -> Result<HashSet<String>, Error> {
        let mut found = HashSet::new();
        for (path, _) in files::list(self.folder(), FOLDER)? {
            let Some(id) = checkpoint_id(&path) else { continue };
            if !self.file("trials", id).is_file() && !self.file("parents", id).is_file() {
                found.insert(id.to_owned());
            }
        }
        Ok(found)
    }
}

/// A header or state is far shorter.
const MOST_OF_A_LINE: u64 = 64 << 20;

fn checkpoint_id(path: &Path) -> Option<&str> {
    path.file_name()?.to_str().and_then(id_in)
}

/// The id in the name of a checkpoint.
pub(crate) fn id_in(name: &str) -> Option<&str> {
    name.strip_suffix(".bin").filter(|id| id::is_content_id(id))
}
