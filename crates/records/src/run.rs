//! A run: the folder that holds a plan and its records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::envelope::{self, Header, Payload, Unusable};
use crate::plan::{Plan, VERSION};
use crate::record::{Outcome, ParentRecord, RangeTest, Record};
use crate::sample_images::SampleImages;
use crate::status::{self, Status};
use crate::{Error, Lock, Running, checkpoint, files, id, lock};

/// The file of sample images; its name is that of earlier versions.
const SAMPLE_IMAGES: &str = "pictures.json";

/// The folder of records of range tests.
pub(crate) const RATES: &str = "rates";

/// A run: its folder and its plan.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    plan: Plan,
    /// Index of each trial in the plan.
    order: HashMap<String, usize>,
    /// Whether damaged files are left in place.
    read_only: bool,
}

impl Run {
    /// Creates a run of `plan` in `folder`, or opens an existing run of the same plan.
    ///
    /// # Errors
    /// [`Error::OtherPlan`] names the first part in which the plan of an existing run differs.
    pub fn create(folder: &Path, plan: &Plan) -> Result<Run, Error> {
        let path = folder.join("plan.json");
        let run = Run::of(folder, plan.clone())?;
        match Run::open(folder) {
            Ok(existing) if existing.plan == *plan => {}
            Ok(existing) => {
                let difference = difference(&existing.plan, plan);
                return Err(Error::OtherPlan { path: folder.into(), difference });
            }
            Err(Error::NoRun { .. }) => {
                let rates = (!plan.range_tests.is_empty()).then_some(RATES);
                for part in ["trials", "parents", "weights", "running"].into_iter().chain(rates) {
                    let part = folder.join(part);
                    fs::create_dir_all(&part).map_err(|error| Error::io(&part, error))?;
                }
                files::write_atomic(&path, &envelope::encode(plan, BTreeMap::new())?)?;
            }
            Err(error) => return Err(error),
        }
        Ok(run)
    }

    /// Opens the run in `folder`.
    ///
    /// # Errors
    /// [`Error::NoRun`], [`Error::Version`] or [`Error::Damaged`].
    pub fn open(folder: &Path) -> Result<Run, Error> {
        let path = folder.join("plan.json");
        let bytes = files::read(&path)?.ok_or_else(|| Error::NoRun { path: folder.into() })?;
        match envelope::decode::<Plan>(&bytes) {
            Ok((_, plan)) => Run::of(folder, plan),
            Err(Unusable::Version(found)) => Err(Error::Version { path, found, supported: VERSION }),
            Err(Unusable::Corrupt(reason)) => Err(Error::Damaged { path, reason }),
        }
    }

    fn of(folder: &Path, plan: Plan) -> Result<Run, Error> {
        let mut order = HashMap::with_capacity(plan.trials.len());
        for (i, trial) in plan.trials.iter().enumerate() {
            id::check(&trial.id)?;
            if order.insert(trial.id.clone(), i).is_some() {
                return Err(Error::Id { id: trial.id.clone(), problem: "occurs twice" });
            }
        }
        let mut others = HashSet::new();
        for id in plan.parents.iter().map(|parent| &parent.id).chain(plan.range_tests.iter().map(|test| &test.id)) {
            id::check(id)?;
            if !others.insert(id) {
                return Err(Error::Id { id: id.clone(), problem: "occurs twice" });
            }
        }
        Ok(Run { folder: folder.into(), plan, order, read_only: false })
    }

    /// The same run, read-only: damaged records are treated as absent, but their files are not renamed.
    pub fn read_only(self) -> Run {
        Run { read_only: true, ..self }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Locks the run for the process that runs its trials. Readers, and workers for single trials, need no lock.
    ///
    /// # Errors
    /// [`Error::Locked`] if another live process holds the lock.
    pub fn lock(&self) -> Result<Lock, Error> {
        let lock = lock::acquire(&self.folder)?;
        for part in ["trials", "parents", RATES, "weights", checkpoint::FOLDER] {
            files::remove_old_temporary_files(&self.folder, part);
        }
        status::append_session(&self.folder)?;
        Ok(lock)
    }

    /// Marks a trial as running until the marker is dropped.
    pub fn begin(&self, id: &str) -> Result<Running, Error> {
        id::check(id)?;
        lock::begin(&self.folder, id)
    }

    /// As [`Run::begin`], of a trial or parent that one process at a time computes: none while another process does.
    ///
    /// # Errors
    /// If the marker cannot be written.
    pub fn try_begin(&self, id: &str) -> Result<Option<Running>, Error> {
        id::check(id)?;
        lock::try_begin(&self.folder, id)
    }

    /// The record of a trial, with its checksum verified.
    ///
    /// `None` if there is none, or if it is truncated or altered. Such a file is renamed to `*.corrupt`, unless the run is
    /// [`Run::read_only`].
    pub fn record(&self, id: &str) -> Result<Option<Record>, Error> {
        self.read("trials", id)
    }

    /// All existing records, in plan order.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let existing = self.listing("trials")?;
        let planned = self.plan.trials.iter().filter(|trial| existing.contains(&trial.id));
        planned.filter_map(|trial| self.record(&trial.id).transpose()).collect()
    }

    /// Whether the file of a record exists; it is not read.
    pub fn has(&self, id: &str) -> bool {
        self.file("trials", id).is_file()
    }

    /// Ids of the trials whose record files exist; they are not read.
    pub fn recorded(&self) -> Result<HashSet<String>, Error> {
        self.listing("trials")
    }

    /// Writes the record of a trial atomically. Two processes may write the same record.
    ///
    /// # Errors
    /// [`Error::Full`] on a full disk; [`Error::Foreign`] for a record whose trial differs from the plan or is not in it, that
    /// contains a non-finite number, or that does not hold what the plan's trials measure.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let spec = &record.spec;
        let measures = match (&self.plan.metric, &record.measured) {
            (Some(metric), Some(measured)) => metric.problem_of(&measured.values).is_none(),
            (Some(_), None) => record.outcome != Outcome::Done,
            (None, measured) => measured.is_none(),
        };
        match self.order.get(&spec.id) {
            Some(&i) if self.plan.trials[i] == *spec && measures => self.put("trials", record),
            Some(&i) if self.plan.trials[i] == *spec => {
                let problem = "does not measure what the plan's trials do".to_owned();
                Err(Error::Foreign { id: spec.id.clone(), problem })
            }
            found => {
                let problem = if found.is_some() { "differs from the plan's trial" } else { "is not in the plan" };
                Err(Error::Foreign { id: spec.id.clone(), problem: problem.to_owned() })
            }
        }
    }

    /// The record of a parent, as [`Run::record`].
    pub fn parent(&self, id: &str) -> Result<Option<ParentRecord>, Error> {
        self.read("parents", id)
    }

    /// All existing records of parents, in plan order.
    pub fn parents(&self) -> Result<Vec<ParentRecord>, Error> {
        self.plan.parents.iter().filter_map(|parent| self.parent(&parent.id).transpose()).collect()
    }

    /// Writes a parent's record, as [`Run::write`].
    pub fn write_parent(&self, record: &ParentRecord) -> Result<(), Error> {
        if !self.plan.parents.iter().any(|parent| parent.id == record.id) {
            return Err(Error::Foreign { id: record.id.clone(), problem: "is not in the plan".to_owned() });
        }
        self.put("parents", record)
    }

    /// The record of a range test, as [`Run::record`].
    pub fn range_test(&self, id: &str) -> Result<Option<RangeTest>, Error> {
        self.read(RATES, id)
    }

    /// All existing records of range tests, in plan order.
    pub fn range_tests(&self) -> Result<Vec<RangeTest>, Error> {
        self.plan.range_tests.iter().filter_map(|test| self.range_test(&test.id).transpose()).collect()
    }

    /// Writes the record of a range test, as [`Run::write`].
    pub fn write_range_test(&self, record: &RangeTest) -> Result<(), Error> {
        if !self.plan.range_tests.iter().any(|test| test.id == record.id && test.of == record.of) {
            return Err(Error::Foreign { id: record.id.clone(), problem: "is not in the plan".to_owned() });
        }
        self.put(RATES, record)
    }

    /// The sample images; `None` if there are none, or if the file is damaged.
    pub fn sample_images(&self) -> Result<Option<SampleImages>, Error> {
        let bytes = files::read(&self.folder.join(SAMPLE_IMAGES))?;
        Ok(bytes.and_then(|bytes| envelope::decode::<SampleImages>(&bytes).ok()).map(|(_, images)| images))
    }

    /// Writes the sample images, unless they exist.
    pub fn write_sample_images(&self, images: impl FnOnce() -> SampleImages) -> Result<(), Error> {
        let path = self.folder.join(SAMPLE_IMAGES);
        if path.is_file() {
            return Ok(());
        }
        files::write_atomic(&path, &envelope::encode(&images(), BTreeMap::new())?)
    }

    /// Path of a parent's weights.
    pub fn parent_weights_path(&self, id: &str) -> PathBuf {
        self.folder.join("weights").join(format!("parent-{id}.safetensors"))
    }

    /// Path of a child's weights.
    pub fn child_weights_path(&self, id: &str) -> PathBuf {
        self.folder.join("weights").join(format!("child-{id}.safetensors"))
    }

    /// Path of a substitute's weights.
    pub fn substitute_weights_path(&self, id: &str) -> PathBuf {
        self.folder.join("weights").join(format!("substitute-{id}.safetensors"))
    }

    /// A parent's weights, verified by the checksum in its record; `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file does not have that checksum. Records of older versions have none.
    pub fn parent_weights(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read_weights("parents", id, &self.parent_weights_path(id))
    }

    /// A child's weights, as [`Run::parent_weights`].
    ///
    /// # Errors
    /// As [`Run::parent_weights`].
    pub fn child_weights(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read_weights("trials", id, &self.child_weights_path(id))
    }

    /// A substitute's weights, as [`Run::parent_weights`].
    ///
    /// # Errors
    /// As [`Run::parent_weights`].
    pub fn substitute_weights(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        self.read_weights("trials", id, &self.substitute_weights_path(id))
    }

    /// Reads a file of weights and compares it with the checksum in the record of `id`, if there is one.
    pub(crate) fn read_weights(&self, part: &str, id: &str, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        id::check(id)?;
        let Some(bytes) = files::read(path)? else {
            return Ok(None);
        };
        let record = self.file(part, id);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(header) = envelope::read_header(&record)?
            && let Some(expected) = header.weights.get(&*name)
            && *expected != id::hex(&bytes)
        {
            return Err(Error::Weights { path: path.into(), record });
        }
        Ok(Some(bytes))
    }

    /// The checksums of the weights that belong to a record; they are written before it.
    fn weights_checksums(&self, part: &str, id: &str) -> Result<BTreeMap<String, String>, Error> {
        let mut checksums = BTreeMap::new();
        for path in self.weights_paths(part, id) {
            if let Some(bytes) = files::read(&path)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                checksums.insert(name, id::hex(&bytes));
            }
        }
        Ok(checksums)
    }

    /// Paths of the weights that a record may have.
    pub(crate) fn weights_paths(&self, part: &str, id: &str) -> Vec<PathBuf> {
        match part {
            "parents" => vec![self.parent_weights_path(id)],
            RATES => Vec::new(),
            _ => vec![self.child_weights_path(id), self.substitute_weights_path(id)],
        }
    }

    /// The progress of the run, from the header line of every record.
    pub fn status(&self) -> Result<Status, Error> {
        let parent_ids = self.plan.parents.iter().map(|parent| parent.id.as_str());
        let parents = self.headers("parents", parent_ids)?;
        let headers = self.trial_headers()?;
        let (done, diverged, failed) = status::count(headers.iter());
        let ended: HashSet<&str> = headers.iter().map(|header| header.id.as_str()).collect();
        let in_progress = |id: &String| self.order.contains_key(id) && !ended.contains(id.as_str());
        let running = lock::running(&self.folder).iter().filter(|id| in_progress(id)).count();
        let trials = self.plan.trials.len();
        let not_run = |id: &&String| self.order.contains_key(*id) && !ended.contains(id.as_str());
        let skipped = self.halving()?.map_or(0, |halving| halving.skipped.iter().filter(not_run).count());
        Ok(Status {
            trials,
            done,
            diverged,
            failed,
            skipped,
            running,
            left: (trials - headers.len()).saturating_sub(running + skipped),
            // The parent of a study of a user-defined metric is given, and has no record of its own.
            parents: if self.plan.metric.is_some() { 0 } else { self.plan.parents.len() },
            parents_done: parents.len(),
            trials_seconds: status::trials_seconds(&status::sessions(&self.folder)?, &parents, &headers),
            checkpoints: self.open_checkpoints()?.len(),
            rates: self.range_tests()?.into_iter().map(|test| (test.of, test.rate)).collect(),
            runner: lock::runner(&self.folder),
        })
    }

    /// Headers of the records of trials, in plan order.
    pub(crate) fn trial_headers(&self) -> Result<Vec<Header>, Error> {
        self.headers("trials", self.plan.trials.iter().map(|trial| trial.id.as_str()))
    }

    pub(crate) fn file(&self, part: &str, id: &str) -> PathBuf {
        self.folder.join(part).join(format!("{id}.json"))
    }

    fn put<T: Payload>(&self, part: &str, payload: &T) -> Result<(), Error> {
        let weights = self.weights_checksums(part, payload.id())?;
        files::write_atomic(&self.file(part, payload.id()), &envelope::encode(payload, weights)?)
    }

    fn read<T: Payload>(&self, part: &str, id: &str) -> Result<Option<T>, Error> {
        id::check(id)?;
        let path = self.file(part, id);
        let Some(bytes) = files::read(&path)? else {
            return Ok(None);
        };
        match envelope::decode::<T>(&bytes) {
            Ok((header, payload)) if header.id == id => Ok(Some(payload)),
            Err(Unusable::Version(found)) => Err(Error::Version { path, found, supported: VERSION }),
            Ok(_) | Err(Unusable::Corrupt(_)) => {
                if !self.read_only {
                    files::set_aside(&path)?;
                }
                Ok(None)
            }
        }
    }

    /// Ids of the existing files.
    fn listing(&self, part: &str) -> Result<HashSet<String>, Error> {
        let folder = self.folder.join(part);
        let failed = |error| Error::io(&folder, error);
        let mut ids = HashSet::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        Ok(ids)
    }

    /// Headers of the files of `ids` that exist and are not truncated, in that order.
    pub(crate) fn headers<'a>(&self, part: &str, ids: impl Iterator<Item = &'a str>) -> Result<Vec<Header>, Error> {
        let existing = self.listing(part)?;
        let ids: Vec<&str> = ids.filter(|id| existing.contains(*id)).collect();
        let read = |id: &&str| Ok(envelope::read_header(&self.file(part, id))?.filter(|header| header.id == **id));
        let read = |ids: &[&str]| ids.iter().map(read).filter_map(Result::transpose).collect::<Result<Vec<_>, Error>>();
        // In parallel, because each read has a latency on a shared file system.
        let share = ids.len().div_ceil(READERS).max(MIN_FILES_PER_READER);
        let parts: Vec<Result<Vec<Header>, Error>> = std::thread::scope(|scope| {
            let readers: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || read(ids))).collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader does not panic")).collect()
        });
        Ok(parts.into_iter().collect::<Result<Vec<_>, Error>>()?.concat())
    }
}

/// Whether a path is that of a file of the run in `folder`: its plan, a record, weights, a lock. Its page is not.
pub fn is_file_of(folder: &Path, path: &Path) -> bool {
    const PARTS: [&str; 14] = [
        "plan.json",
        "trials",
        "parents",
        RATES,
        "weights",
        "running",
        checkpoint::FOLDER,
        SAMPLE_IMAGES,
        "attempts.json",
        "halving.json",
        "logs",
        "slurm",
        "sessions.jsonl",
        "run.lock",
    ];
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let resolved = path
        .canonicalize()
        .or_else(|_| -> std::io::Result<_> { Ok(parent.canonicalize()?.join(path.file_name().unwrap_or_default())) });
    let (Ok(path), Ok(folder)) = (resolved, folder.canonicalize()) else { return false };
    let below = path
        .strip_prefix(folder)
        .ok()
        .and_then(|below| below.components().next().map(|part| part.as_os_str().to_owned()));
    below.is_some_and(|part| PARTS.iter().any(|known| part == *known))
}

/// The most threads that read headers.
const READERS: usize = 8;
/// The fewest files per thread.
const MIN_FILES_PER_READER: usize = 500;

/// The first part in which two plans differ, for a message.
pub(crate) fn difference(there: &Plan, here: &Plan) -> String {
    if there.study != here.study {
        let pair = there.study.lines().zip(here.study.lines()).enumerate().find(|(_, (a, b))| a != b);
        return match pair {
            Some((i, (a, b))) => format!("line {} of the study file (`{}` there, `{}` here)", i + 1, cut(a), cut(b)),
            None => "the length of the study file".to_owned(),
        };
    }
    if there.engine != here.engine {
        let name = |plan: &Plan| plan.engine.clone().unwrap_or_else(|| "nettriage's own".to_owned());
        return format!(
            "the engine that computes (`{}` there, `{}` here; see --device and --precision)",
            name(there),
            name(here)
        );
    }
    let value = |plan: &Plan| serde_json::to_value(plan).unwrap_or_default();
    first_difference("", &value(there), &value(here)).unwrap_or_else(|| "a number's last digits".to_owned())
}

pub(crate) fn first_difference(at: &str, there: &serde_json::Value, here: &serde_json::Value) -> Option<String> {
    use serde_json::Value::{Array, Object};
    match (there, here) {
        (Object(a), Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let null = serde_json::Value::Null;
            keys.into_iter().find_map(|key| {
                let inner = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                first_difference(&inner, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            })
        }
        (Array(a), Array(b)) => {
            let inner = a.iter().zip(b).enumerate();
            let found = inner.into_iter().find_map(|(i, (a, b))| first_difference(&format!("{at}[{i}]"), a, b));
            let lengths = || (a.len() != b.len()).then(|| format!("{at} ({} there, {} here)", a.len(), b.len()));
            found.or_else(lengths)
        }
        (a, b) if a != b => Some(format!("{at} (`{}` there, `{}` here)", cut(&a.to_string()), cut(&b.to_string()))),
        _ => None,
    }
}

/// Truncates a long value for a message of one line.
fn cut(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(57).chain("...".chars()).collect() }
}
