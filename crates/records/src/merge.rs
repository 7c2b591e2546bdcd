//! Merging runs of one plan from several machines.

use std::fs;
use std::path::Path;

use crate::envelope::{self, Header, State};
use crate::run::{RATES, difference, first_difference};
use crate::{Error, Run, files, status};

/// The outcome of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Number of trial records in the result.
    pub records: usize,
    /// Of these, trials that several runs have, with equal results.
    pub shared: usize,
    /// Trials that no run has.
    pub left: usize,
}

/// Merges runs of one plan into the folder `out`, which may already hold a run of that plan.
///
/// Everything is compared before anything is written. If a trial succeeded in one run and failed in another, the successful
/// record is used.
///
/// # Errors
/// [`Error::CannotMerge`] names the first key in which the plans, or the results of a trial or parent, differ;
/// [`Error::Corrupt`] a record that is truncated or altered.
pub fn merge(from: &[Run], out: &Path) -> Result<(Run, Merged), Error> {
    let existing = match Run::open(out) {
        Ok(run) => Some(run),
        Err(Error::NoRun { .. }) => None,
        Err(error) => return Err(error),
    };
    let sources: Vec<&Run> = existing.iter().chain(from).collect();
    let Some((first, rest)) = sources.split_first() else {
        return Err(Error::NoRun { path: out.into() });
    };
    for other in rest {
        if other.plan() != first.plan() {
            return Err(cannot_merge(first, other, "plan.json", &difference(first.plan(), other.plan())));
        }
    }
    let parents = choose(&sources, "parents", first.plan().parents.iter().map(|p| p.id.as_str()))?;
    for (id, from) in &parents {
        same_weights(&sources, from, &format!("parent-{id}.safetensors"))?;
    }
    let tests = first.plan().range_tests.iter().map(|test| test.id.as_str());
    // Without a range test there is no folder for them.
    let rates = if tests.len() == 0 { Vec::new() } else { choose(&sources, RATES, tests)? };
    let trials = choose(&sources, "trials", first.plan().trials.iter().map(|t| t.id.as_str()))?;

    let run = Run::create(out, first.plan())?;
    let _lock = run.lock()?;
    let mut merged = Merged { left: run.plan().trials.len() - trials.len(), ..Merged::default() };
    for (part, chosen) in [(RATES, &rates), ("parents", &parents), ("trials", &trials)] {
        for (id, owners) in chosen {
            let owner = sources[owners[0]];
            for (from, to) in owner.weights_paths(part, id).iter().zip(run.weights_paths(part, id)) {
                copy(from, &to)?;
            }
            // The record last: its presence implies that its weights are complete.
            copy(&owner.file(part, id), &run.file(part, id))?;
            if part == "trials" {
                merged.records += 1;
                merged.shared += usize::from(owners.len() > 1);
            }
        }
    }
    // They are determined by the plan, so those of any run will do.
    for source in from {
        if let Some(images) = source.sample_images()? {
            run.write_sample_images(|| images)?;
            break;
        }
    }
    for other in from.iter().filter(|other| !is_same_path(other.folder(), run.folder())) {
        status::add_sessions(run.folder(), other.folder())?;
    }
    Ok((run, merged))
}

/// For every id that some run has: the runs that have it; the first is the one to copy from.
fn choose<'a>(
    sources: &[&Run],
    part: &str,
    ids: impl Iterator<Item = &'a str> + Clone,
) -> Result<Vec<(&'a str, Vec<usize>)>, Error> {
    let mut found: std::collections::HashMap<&str, Vec<(usize, Header)>> = Default::default();
    for (number, source) in sources.iter().enumerate() {
        let headers = source.headers(part, ids.clone())?;
        let mut headers = headers.into_iter().peekable();
        for id in ids.clone() {
            if let Some(header) = headers.next_if(|header| header.id == id) {
                found.entry(id).or_default().push((number, header));
            }
        }
    }
    let mut chosen = Vec::new();
    for id in ids {
        let Some(mut owners) = found.remove(id) else { continue };
        if owners.iter().any(|(_, header)| header.state != State::Failed) {
            owners.retain(|(_, header)| header.state != State::Failed);
            if let Some((other, _)) = owners.iter().find(|(_, header)| header.digest != owners[0].1.digest) {
                return Err(results_differ(sources[owners[0].0], sources[*other], part, id));
            }
        }
        // Records and weights that are copied are verified completely.
        for &(number, _) in &owners {
            let source = sources[number];
            let bytes = files::read(&source.file(part, id))?.unwrap_or_default();
            if !envelope::checksum_matches(&bytes) {
                let path = source.file(part, id);
                return Err(Error::Corrupt { path });
            }
            for path in source.weights_paths(part, id) {
                source.read_weights(part, id, &path)?;
            }
        }
        chosen.push((id, owners.into_iter().map(|(number, _)| number).collect()));
    }
    Ok(chosen)
}

fn results_differ(one: &Run, other: &Run, part: &str, id: &str) -> Error {
    let payload = |run: &Run| {
        let bytes = fs::read(run.file(part, id)).unwrap_or_default();
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut payload = value["payload"].take();
        if let Some(fields) = payload.as_object_mut() {
            fields.remove("clock");
        }
        payload
    };
    let key = first_difference("", &payload(one), &payload(other)).unwrap_or_else(|| "its digest".to_owned());
    cannot_merge(one, other, &format!("{part}/{id}.json"), &key)
}

fn cannot_merge(one: &Run, other: &Run, file: &str, key: &str) -> Error {
    Error::CannotMerge {
        one: one.folder().into(),
        other: other.folder().into(),
        file: file.to_owned(),
        key: key.to_owned(),
    }
}

fn same_weights(sources: &[&Run], owners: &[usize], name: &str) -> Result<(), Error> {
    let at = |number: usize| sources[number].folder().join("weights").join(name);
    let first = files::read(&at(owners[0]))?;
    for &other in &owners[1..] {
        if files::read(&at(other))? != first {
            return Err(cannot_merge(sources[owners[0]], sources[other], &format!("weights/{name}"), "its bytes"));
        }
    }
    Ok(())
}

fn is_same_path(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Copies a file atomically, if it exists.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if is_same_path(from, to) {
        return Ok(());
    }
    match files::read(from)? {
        Some(bytes) => files::write_atomic(to, &bytes),
        None => Ok(()),
    }
}
