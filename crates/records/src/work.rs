//! The folder of a prescription: its scan and what its search has measured, so that a search that was interrupted continues.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::CheckpointFolder;
use crate::envelope::{self, Payload, State, Unusable};
use crate::plan::VERSION;
use crate::prescription::{Figures, Replaced};
use crate::record::Clock;
use crate::scan::Scan;
use crate::{Error, Lock, files, id, lock};

const SETUP: &str = "setup.json";
const SCAN: &str = "scan.json";

/// The folder of a prescription, locked for this process.
///
/// ```text
/// setup.json              what every file belongs to: the network, the images, the substitutes
/// scan.json               the scan
/// times/<id>.json         times of the network of a plan beside the original's
/// attempts/<id>.json      a network that was built, trained and judged
/// weights/attempt-<id>.safetensors
/// checkpoints/<id>.bin    the state of an interrupted training
/// run.lock                locked by the process that is searching
/// ```
#[derive(Debug)]
pub struct WorkFolder {
    folder: PathBuf,
    _lock: Lock,
}

/// Measured times of two networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimesRecord {
    /// Content id of the two networks' structures and of how they were timed.
    pub id: String,
    /// Milliseconds of a forward pass of the original and of the other network: medians.
    pub milliseconds: [f64; 2],
    /// The other network's time divided by the original's: the median over pairs, with its 95% interval.
    pub ratio: [f64; 3],
}

/// A network that was built, trained and judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Content id of the plan and of the training.
    pub id: String,
    /// What it replaces.
    pub replaced: Vec<Replaced>,
    /// Before training, on the evaluation images.
    pub built: Figures,
    /// At the end, on the evaluation images.
    pub judged: Figures,
    /// Why training diverged, if it did; the network is then that from before the training.
    pub diverged: Option<String>,
}

impl Payload for TimesRecord {
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> State {
        State::Done
    }
    fn clock(&self) -> Clock {
        Clock::default()
    }
    fn without_timings(&self) -> TimesRecord {
        TimesRecord { milliseconds: [0.0; 2], ratio: [0.0; 3], ..self.clone() }
    }
}

impl Payload for AttemptRecord {
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> State {
        if self.diverged.is_some() { State::Diverged } else { State::Done }
    }
    fn clock(&self) -> Clock {
        Clock::default()
    }
    fn without_timings(&self) -> AttemptRecord {
        self.clone()
    }
}

impl WorkFolder {
    /// Creates the folder of a prescription with that `setup`, an object in JSON, or opens an existing one, and locks it.
    ///
    /// # Errors
    /// [`Error::OtherSetup`] names the first key in which the setup of an existing folder differs; [`Error::NotEmpty`] for a
    /// folder of something else; [`Error::NotAFolder`] for a file; [`Error::Locked`] if another process uses it.
    pub fn open(folder: &Path, setup: &impl Serialize) -> Result<WorkFolder, Error> {
        let setup = serde_json::to_value(setup).expect("a setup is plain data");
        let path = folder.join(SETUP);
        if folder.exists() && !folder.is_dir() {
            return Err(Error::NotAFolder { path: folder.into() });
        }
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        match files::read(&path)? {
            Some(bytes) => {
                let existing: Value = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
                if let Some(key) = first_difference(&existing, &setup) {
                    return Err(Error::OtherSetup { path: folder.into(), key });
                }
            }
            None => {
                let mut entries = fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
                if entries.next().is_some() {
                    return Err(Error::NotEmpty { path: folder.into() });
                }
                files::write_atomic(&path, format!("{setup:#}\n").as_bytes())?;
            }
        }
        let lock = lock::acquire(folder)?;
        for part in ["times", "attempts", "weights"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|error| Error::io(&part, error))?;
        }
        Ok(WorkFolder { folder: folder.into(), _lock: lock })
    }

    /// The checkpoints of the trainings of attempts.
    pub fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::inside(&self.folder)
    }

    /// Path of the scan.
    pub fn scan_path(&self) -> PathBuf {
        self.folder.join(SCAN)
    }

    /// The scan; `None` if it was not stored.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is damaged.
    pub fn scan(&self) -> Result<Option<Scan>, Error> {
        let path = self.scan_path();
        let parsed = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes)
                .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })
        };
        files::read(&path)?.map(parsed).transpose()
    }

    /// Stores the scan.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_scan(&self, scan: &Scan) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(scan).expect("a scan is plain data");
        files::write_atomic(&self.scan_path(), format!("{text}\n").as_bytes())
    }

    /// Times that were measured before.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another version. A damaged one is renamed to `*.corrupt` and counts as absent.
    pub fn times(&self, id: &str) -> Result<Option<TimesRecord>, Error> {
        Ok(self.read("times", id)?.map(|(record, _)| record))
    }

    /// Stores measured times.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_times(&self, record: &TimesRecord) -> Result<(), Error> {
        let bytes = envelope::encode(record, BTreeMap::new())?;
        files::write_atomic(&self.path("times", &record.id), &bytes)
    }

    /// A network that was judged before, with the bytes of its safetensors file.
    ///
    /// # Errors
    /// As [`WorkFolder::times`]; [`Error::Weights`] if the network's file was altered.
    pub fn attempt(&self, id: &str) -> Result<Option<(AttemptRecord, Vec<u8>)>, Error> {
        let Some((record, weights)) = self.read::<AttemptRecord>("attempts", id)? else { return Ok(None) };
        let path = self.network_path(id);
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        if weights.values().next() != Some(&id::hex(&bytes)) {
            return Err(Error::Weights { path, record: self.path("attempts", id) });
        }
        Ok(Some((record, bytes)))
    }

    /// Stores a network that was judged, `network` being its safetensors file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_attempt(&self, record: &AttemptRecord, network: &[u8]) -> Result<(), Error> {
        let path = self.network_path(&record.id);
        // The network first: a record means that the network beside it is complete.
        files::write_atomic(&path, network)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = envelope::encode(record, BTreeMap::from([(name, id::hex(network))]))?;
        files::write_atomic(&self.path("attempts", &record.id), &bytes)
    }

    fn network_path(&self, id: &str) -> PathBuf {
        self.folder.join("weights").join(format!("attempt-{id}.safetensors"))
    }

    fn path(&self, part: &str, id: &str) -> PathBuf {
        self.folder.join(part).join(format!("{id}.json"))
    }

    /// A record and the checksums of its weights.
    fn read<T: Payload>(&self, part: &str, id: &str) -> Result<Option<(T, Checksums)>, Error> {
        id::check(id)?;
        let path = self.path(part, id);
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        match envelope::decode::<T>(&bytes) {
            Ok((header, payload)) if header.id == id => Ok(Some((payload, header.weights))),
            Err(Unusable::Version(found)) => Err(Error::Version { path, found, supported: VERSION }),
            Ok(_) | Err(Unusable::Corrupt(_)) => files::set_aside(&path).map(|_| None),
        }
    }
}

/// SHA-256 of files of weights, by their names.
type Checksums = BTreeMap<String, String>;

/// The first key of two objects whose values differ, or are missing in one.
fn first_difference(one: &Value, other: &Value) -> Option<String> {
    let empty = Map::new();
    let (one, other) = (one.as_object().unwrap_or(&empty), other.as_object().unwrap_or(&empty));
    other.keys().chain(one.keys()).find(|key| one.get(*key) != other.get(*key)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_setup_and_its_files_are_verified() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("work");
        let setup = |seed: u32| serde_json::json!({"network": "ab", "images": seed});
        let work = WorkFolder::open(&folder, &setup(1)).unwrap();
        assert!(matches!(WorkFolder::open(&folder, &setup(1)), Err(Error::Locked { .. })));
        let record = AttemptRecord {
            id: "00000000000000aa".to_owned(),
            replaced: Vec::new(),
            built: Figures::default(),
            judged: Figures { accuracy: Some(0.5), ..Figures::default() },
            diverged: None,
        };
        work.write_attempt(&record, b"network").unwrap();
        let times = TimesRecord { id: "00000000000000bb".to_owned(), milliseconds: [2.0, 1.0], ratio: [0.5, 0.4, 0.6] };
        work.write_times(&times).unwrap();
        drop(work);

        let error = WorkFolder::open(&folder, &setup(2)).unwrap_err();
        assert!(matches!(&error, Error::OtherSetup { key, .. } if key == "images"), "{error}");
        let work = WorkFolder::open(&folder, &setup(1)).unwrap();
        assert_eq!(work.attempt(&record.id).unwrap(), Some((record.clone(), b"network".to_vec())));
        assert_eq!(work.times(&times.id).unwrap(), Some(times.clone()));
        assert_eq!(work.times("00000000000000cc").unwrap(), None);
        fs::write(work.network_path(&record.id), b"netw0rk").unwrap();
        assert!(matches!(work.attempt(&record.id), Err(Error::Weights { .. })));
        let path = work.path("times", &times.id);
        let text = fs::read_to_string(&path).unwrap().replace("2.0", "3.0");
        fs::write(&path, text).unwrap();
        assert_eq!(work.times(&times.id).unwrap(), None, "an altered record is absent");
        assert!(path.with_extension("json.corrupt").exists());

        fs::create_dir(temporary.path().join("other")).unwrap();
        fs::write(temporary.path().join("other/mine.txt"), "mine").unwrap();
        let error = WorkFolder::open(&temporary.path().join("other"), &setup(1)).unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        let error = WorkFolder::open(&temporary.path().join("other/mine.txt"), &setup(1)).unwrap_err();
        assert!(matches!(error, Error::NotAFolder { .. }), "{error}");
        assert_eq!(fs::read_to_string(temporary.path().join("other/mine.txt")).unwrap(), "mine");
    }
}
