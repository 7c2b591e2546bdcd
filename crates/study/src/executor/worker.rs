//! One trial after another, by their places in the plan: what every executor calls in the end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nettriage_formats::safetensors;
use nettriage_records::Run;
use nettriage_records::plan::{ParentSpec, TrialSpec};
use nettriage_records::record::Record;

use super::{Resources, failed};
use crate::feed::{Parent, Shared};
use crate::setting::Setting;
use crate::study::Keep;
use crate::{Error, parent, trial};

/// Runs single trials of a plan; parents and shared activations stay in memory between them.
pub struct Worker<'a> {
    run: &'a Run,
    shared: Shared<'a>,
    parents: Vec<Parent>,
    threads: usize,
}

impl<'a> Worker<'a> {
    /// A worker of so many threads (`resources.workers`) inside each trial.
    pub fn new(run: &'a Run, setting: &'a Setting, resources: Resources) -> Worker<'a> {
        let shared = Shared::new(setting, resources.cache);
        Worker { run, shared, parents: Vec::new(), threads: resources.workers }
    }

    /// Runs the trial at `index`, whatever its record, and writes its record. Doing so twice does no harm.
    pub fn trial(&mut self, index: usize) -> Result<Record, Error> {
        let trials = &self.run.plan().trials;
        let spec = trials.get(index).ok_or_else(|| {
            Error::Plan(format!("--index {index}: the plan has {} trials, counted from 0", trials.len()))
        })?;
        if !self.parents.iter().any(|parent| parent.id == spec.parent) {
            let parent = parent_of(self.run, spec)?;
            self.parents.push(parent::prepare(&self.shared, self.run, parent, self.threads, |_, _, _| ())?);
        }
        one(self.run, &self.shared, &self.parents, spec, self.threads)
    }
}

pub(crate) fn parent_of<'a>(run: &'a Run, spec: &TrialSpec) -> Result<&'a ParentSpec, Error> {
    let parent = run.plan().parents.iter().find(|p| p.id == spec.parent);
    parent.ok_or_else(|| Error::Plan(format!("trial {}: its parent is not in the plan", spec.id)))
}

/// Runs a trial and writes its record; a trial that cannot be run gets a record that says so.
pub(crate) fn one(
    run: &Run,
    shared: &Shared<'_>,
    parents: &[Parent],
    spec: &TrialSpec,
    threads: usize,
) -> Result<Record, Error> {
    let _mark = run.begin(&spec.id)?;
    let parent = parents.iter().find(|p| p.id == spec.parent);
    let parent = parent.ok_or_else(|| Error::Plan(format!("trial {}: its parent is not in the plan", spec.id)))?;
    let result = catch_unwind(AssertUnwindSafe(|| trial::run(shared, parent, spec, threads)));
    let record = match result {
        Ok(Ok(finished)) => {
            match (shared.setting.study.children.keep, &finished.network, &finished.substitute) {
                (Keep::Network, Some(network), _) => safetensors::save(network, run.child_weights_path(&spec.id))?,
                (Keep::Substitute, _, Some(own)) => safetensors::save(own, run.substitute_weights_path(&spec.id))?,
                _ => {}
            }
            finished.record
        }
        Ok(Err(error)) => failed(spec, error.to_string()),
        Err(panic) => failed(spec, format!("internal error: {}", message(panic.as_ref()))),
    };
    run.write(&record)?;
    Ok(record)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
