//! Joining runs of one plan that were made on several machines.

use std::fs;
use std::path::{Path, PathBuf};

use crate::envelope::{self, Header, State};
use crate::run::{difference, first_difference};
use crate::{Error, Run, files, status};

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Records of trials that the result holds.
    pub records: usize,
    /// Of these, trials that several runs had, with the same result.
    pub shared: usize,
    /// Trials that no run has.
    pub left: usize,
}

/// Joins runs of one plan into the folder `out`, which may hold a run of that plan already.
///
/// Everything is compared before anything is written. Where one run has a trial's readings and another its failure, the
/// readings stand.
///
/// # Errors
/// [`Error::Apart`] names the first key in which plans, or results of one trial or parent, differ.
pub fn merge(from: &[Run], out: &Path) -> Result<(Run, Merged), Error> {
    let there = match Run::open(out) {
        Ok(run) => Some(run),
        Err(Error::NoRun { .. }) => None,
        Err(error) => return Err(error),
    };
    let sources: Vec<&Run> = there.iter().chain(from).collect();
    let Some((first, rest)) = sources.split_first() else {
        return Err(Error::NoRun { path: out.into() });
    };
    for other in rest {
        if other.plan() != first.plan() {
            return Err(apart(first, other, "plan.json", &difference(first.plan(), other.plan())));
        }
    }
    let parents = choose(&sources, "parents", first.plan().parents.iter().map(|p| p.id.as_str()))?;
    for (id, from) in &parents {
        same_weights(&sources, from, &format!("parent-{id}.safetensors"))?;
    }
    let trials = choose(&sources, "trials", first.plan().trials.iter().map(|t| t.id.as_str()))?;

    let run = Run::create(out, first.plan())?;
    let _lock = run.lock()?;
    let mut merged = Merged { left: run.plan().trials.len() - trials.len(), ..Merged::default() };
    for (part, chosen) in [("parents", &parents), ("trials", &trials)] {
        for (id, owners) in chosen {
            let owner = sources[owners[0]];
            let kinds: &[&str] = if part == "parents" { &["parent"] } else { &["child", "substitute"] };
            for kind in kinds {
                let weights = PathBuf::from("weights").join(format!("{kind}-{id}.safetensors"));
                copy(&owner.folder().join(&weights), &run.folder().join(&weights))?;
            }
            // The record last: it vouches for the weights beside it.
            copy(&owner.file(part, id), &run.file(part, id))?;
            if part == "trials" {
                merged.records += 1;
                merged.shared += usize::from(owners.len() > 1);
            }
        }
    }
    for other in from.iter().filter(|other| !same_place(other.folder(), run.folder())) {
        status::add_sessions(run.folder(), other.folder())?;
    }
    Ok((run, merged))
}

/// For every id that some run has: the runs that have it, the one to copy from first.
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
                return Err(results_apart(sources[owners[0].0], sources[*other], part, id));
            }
        }
        // Whole to the last byte, since a copy vouches for what it copies.
        for &(number, _) in &owners {
            let source = sources[number];
            let bytes = files::read(&source.file(part, id))?.unwrap_or_default();
            if !envelope::is_whole(&bytes) {
                let path = source.file(part, id);
                return Err(Error::Torn { path });
            }
        }
        chosen.push((id, owners.into_iter().map(|(number, _)| number).collect()));
    }
    Ok(chosen)
}

fn results_apart(one: &Run, other: &Run, part: &str, id: &str) -> Error {
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
    apart(one, other, &format!("{part}/{id}.json"), &key)
}

fn apart(one: &Run, other: &Run, file: &str, key: &str) -> Error {
    Error::Apart { one: one.folder().into(), other: other.folder().into(), file: file.to_owned(), key: key.to_owned() }
}

fn same_weights(sources: &[&Run], owners: &[usize], name: &str) -> Result<(), Error> {
    let at = |number: usize| sources[number].folder().join("weights").join(name);
    let first = files::read(&at(owners[0]))?;
    for &other in &owners[1..] {
        if files::read(&at(other))? != first {
            return Err(apart(sources[owners[0]], sources[other], &format!("weights/{name}"), "its bytes"));
        }
    }
    Ok(())
}

fn same_place(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Copies a file, whole or not at all; what is not there is left out.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if same_place(from, to) {
        return Ok(());
    }
    match files::read(from)? {
        Some(bytes) => files::write_atomic(to, &bytes),
        None => Ok(()),
    }
}
