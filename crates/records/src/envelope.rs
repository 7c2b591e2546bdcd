//! The format of a file: a header line with checksums, then the payload.
//!
//! ```text
//! {"version":1,"id":"…","state":"done","finished":…,"seconds":…,"bytes":…,"digest":"…","checksum":"…",
//! "payload":{…}}
//! ```
//!
//! The file is one JSON object. The header line suffices for the status of a large run, and `bytes` reveals a truncated file
//! by its length. `checksum` is the SHA-256 of the payload's bytes, and of `weights` if present; `digest` is that of the payload with its timings set to
//! zero, so that two runs can be compared by their digests. `weights`, if present, holds the SHA-256 of the files of weights
//! that belong to the record.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::plan::{Plan, VERSION};
use crate::record::{Clock, Outcome, ParentRecord, RangeTest, Record};
use crate::sample_images::SampleImages;
use crate::{Error, id};

/// The header line of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub version: u32,
    pub id: String,
    pub state: State,
    pub finished: f64,
    pub seconds: f64,
    pub bytes: usize,
    pub digest: String,
    pub checksum: String,
    /// SHA-256 of each file of weights that belongs to the record, by its name. Empty in records of older versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, String>,
}

/// The state in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Done,
    Diverged,
    Failed,
    Plan,
}

/// The content of a file.
pub(crate) trait Payload: Serialize + DeserializeOwned + Clone + PartialEq {
    fn id(&self) -> &str;
    fn state(&self) -> State;
    fn clock(&self) -> Clock;
    /// The same with all timings zero.
    fn without_timings(&self) -> Self;
}

impl Payload for Record {
    fn id(&self) -> &str {
        &self.spec.id
    }
    fn state(&self) -> State {
        match self.outcome {
            Outcome::Done => State::Done,
            Outcome::Diverged { .. } => State::Diverged,
            Outcome::Failed { .. } => State::Failed,
        }
    }
    fn clock(&self) -> Clock {
        self.clock.clone()
    }
    fn without_timings(&self) -> Record {
        Record { clock: Clock::default(), ..self.clone() }
    }
}

impl Payload for ParentRecord {
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> State {
        State::Done
    }
    fn clock(&self) -> Clock {
        self.clock.clone()
    }
    fn without_timings(&self) -> ParentRecord {
        ParentRecord { clock: Clock::default(), ..self.clone() }
    }
}

impl Payload for RangeTest {
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> State {
        State::Done
    }
    fn clock(&self) -> Clock {
        self.clock.clone()
    }
    fn without_timings(&self) -> RangeTest {
        RangeTest { clock: Clock::default(), ..self.clone() }
    }
}

impl Payload for Plan {
    fn id(&self) -> &str {
        "plan"
    }
    fn state(&self) -> State {
        State::Plan
    }
    fn clock(&self) -> Clock {
        Clock::default()
    }
    fn without_timings(&self) -> Plan {
        self.clone()
    }
}

impl Payload for SampleImages {
    fn id(&self) -> &str {
        "pictures"
    }
    fn state(&self) -> State {
        State::Done
    }
    fn clock(&self) -> Clock {
        Clock::default()
    }
    fn without_timings(&self) -> SampleImages {
        self.clone()
    }
}

/// Digest of the results of a trial, without timings: equal results have equal digests.
pub fn digest(record: &Record) -> String {
    digest_of(record)
}

/// As [`digest`], of a parent.
pub fn parent_digest(record: &ParentRecord) -> String {
    digest_of(record)
}

fn digest_of<T: Payload>(payload: &T) -> String {
    id::hex(&serde_json::to_vec(&payload.without_timings()).expect("plain data"))
}

fn header<T: Payload>(payload: &T, text: &[u8], weights: BTreeMap<String, String>) -> Header {
    Header {
        version: VERSION,
        id: payload.id().to_owned(),
        state: payload.state(),
        finished: payload.clock().finished,
        seconds: payload.clock().seconds,
        bytes: text.len(),
        digest: digest_of(payload),
        checksum: checksum(text, &weights),
        weights,
    }
}

/// SHA-256 of the payload's bytes, followed by the checksums of its weights as JSON if there are any.
fn checksum(text: &[u8], weights: &BTreeMap<String, String>) -> String {
    if weights.is_empty() {
        return id::hex(text);
    }
    id::hex(&[text, &serde_json::to_vec(weights).expect("plain data")].concat())
}

/// The header line, with its line end.
fn encode_header(header: &Header) -> Vec<u8> {
    let mut line = serde_json::to_vec(header).expect("plain data");
    line.pop();
    line.extend_from_slice(b",\n");
    line
}

/// The bytes of a file; `weights` are the checksums of the weights that belong to it.
pub(crate) fn encode<T: Payload>(payload: &T, weights: BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    let text = serde_json::to_vec(payload).expect("plain data");
    // JSON has no NaN and no infinity: they would be written as null, and the record could not be read.
    if serde_json::from_slice::<T>(&text).ok().as_ref() != Some(payload) {
        let problem = "holds a number that is not finite, so it cannot be written".to_owned();
        return Err(Error::Foreign { id: payload.id().to_owned(), problem });
    }
    let mut bytes = encode_header(&header(payload, &text, weights));
    bytes.extend_from_slice(b"\"payload\":");
    bytes.extend_from_slice(&text);
    bytes.extend_from_slice(b"}\n");
    Ok(bytes)
}

/// Why a file is not usable.
pub(crate) enum Unusable {
    /// Written by another version of the format.
    Version(u64),
    /// Truncated or altered.
    Corrupt(String),
}

/// Decodes and verifies the bytes of a file.
pub(crate) fn decode<T: Payload>(bytes: &[u8]) -> Result<(Header, T), Unusable> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let corrupt = |reason: &str| Unusable::Corrupt(reason.to_owned());
    let header = parse_header(bytes)?;
    let whole: Whole = serde_json::from_slice(bytes).map_err(|_| corrupt("truncated"))?;
    let text = whole.payload.get().as_bytes();
    if checksum(text, &header.weights) != header.checksum {
        return Err(corrupt("its checksum does not match"));
    }
    let payload: T = serde_json::from_slice(text).map_err(|error| Unusable::Corrupt(error.to_string()))?;
    // The first line again, to the byte: an altered key would otherwise go unnoticed.
    let line = encode_header(&self::header(&payload, text, header.weights.clone()));
    if !bytes.starts_with(&line) {
        return Err(corrupt("its header does not match its content"));
    }
    Ok((header, payload))
}

/// Whether the payload has the checksum of the header.
pub(crate) fn checksum_matches(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Whole<'a> {
        checksum: String,
        #[serde(default)]
        weights: BTreeMap<String, String>,
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let whole: Result<Whole, _> = serde_json::from_slice(bytes);
    whole.is_ok_and(|whole| checksum(whole.payload.get().as_bytes(), &whole.weights) == whole.checksum)
}

/// Reads the header line only; `None` if the file does not exist or its length does not match the header.
pub(crate) fn read_header(path: &Path) -> Result<Option<Header>, Error> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    let mut start = [0; 1024];
    let mut filled = 0;
    while filled < start.len() {
        match file.read(&mut start[filled..]).map_err(|error| Error::io(path, error))? {
            0 => break,
            n => filled += n,
        }
    }
    let length = file.metadata().map_err(|error| Error::io(path, error))?.len();
    match parse_header(&start[..filled]) {
        Ok(header) => {
            let line = start[..filled].iter().position(|&byte| byte == b'\n').unwrap_or(filled);
            let whole = line + 1 + b"\"payload\":}\n".len();
            Ok((length == (whole as u64).saturating_add(header.bytes as u64)).then_some(header))
        }
        Err(Unusable::Version(found)) => Err(Error::Version { path: path.into(), found, supported: VERSION }),
        Err(Unusable::Corrupt(_)) => Ok(None),
    }
}

fn parse_header(bytes: &[u8]) -> Result<Header, Unusable> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let damaged = || Unusable::Corrupt("its header is damaged".to_owned());
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
    let line = bytes[..end].strip_suffix(b",").ok_or_else(damaged)?;
    let mut line = line.to_vec();
    line.push(b'}');
    // The version first: the header of a later version may have other keys.
    let version: Version = serde_json::from_slice(&line).map_err(|_| damaged())?;
    if version.version != u64::from(VERSION) {
        return Err(Unusable::Version(version.version));
    }
    serde_json::from_slice(&line).map_err(|_| damaged())
}
