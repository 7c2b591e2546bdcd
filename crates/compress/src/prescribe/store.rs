//! What a search stores of its measurements, so that one that was interrupted continues.

use nettriage_formats::safetensors;
use nettriage_net::{Graph, Network};
use nettriage_records::scan::Scan;
use nettriage_records::{AttemptRecord, TimesRecord, WorkFolder, content_id};
use nettriage_train::Checkpoints;
use serde_json::json;

use super::{FineTuning, Plan, Timer, replaced};
use crate::Error;
use crate::latency::Timing;

/// Where a search stores what it has measured.
pub struct Store<'a> {
    /// The folder, which belongs to one network and its images.
    pub work: &'a WorkFolder,
    /// Its checkpoints.
    pub checkpoints: &'a Checkpoints,
    /// What measures times, and by what batch.
    pub timed_by: String,
}

/// When the time of a network is measured: each moment has a measurement of its own.
#[derive(Clone, Copy)]
pub enum Moment {
    /// Before it is built.
    Planned,
    /// After it was judged.
    Judged,
}

impl Store<'_> {
    /// Times of the networks, measured now unless they were before.
    pub fn time(&self, networks: [&Network; 2], moment: Moment, timer: &Timer<'_>) -> Result<Timing, Error> {
        let graph = Graph { name: String::new(), ..networks[1].graph.clone() };
        let moment = match moment {
            Moment::Planned => "planned",
            Moment::Judged => "judged",
        };
        let id = content_id(&json!({ "graph": graph, "moment": moment, "timed_by": self.timed_by }));
        if let Some(TimesRecord { milliseconds, ratio, .. }) = self.work.times(&id)? {
            return Ok(Timing { milliseconds, ratio });
        }
        let timing = timer(networks)?;
        self.work.write_times(&TimesRecord { id, milliseconds: timing.milliseconds, ratio: timing.ratio })?;
        Ok(timing)
    }

    /// The attempt of an earlier process, with its network.
    pub fn attempt(&self, id: &str) -> Result<Option<(AttemptRecord, Network)>, Error> {
        let Some((record, bytes)) = self.work.attempt(id)? else { return Ok(None) };
        Ok(Some((record, safetensors::from_bytes(&bytes)?)))
    }

    /// Stores an attempt; its training needs no checkpoint any more.
    pub fn keep(&self, record: &AttemptRecord, network: &Network) -> Result<(), Error> {
        self.work.write_attempt(record, &safetensors::to_bytes(network)?)?;
        self.checkpoints.remove(&record.id);
        Ok(())
    }
}

/// Content id of an attempt: what is replaced, how it is fitted and how the network is trained.
pub fn attempt_id(scan: &Scan, plan: &Plan, tuning: Option<&FineTuning>) -> String {
    let methods: Vec<&str> =
        plan.chosen.iter().map(|&(range, number)| scan.ranges[range].candidates[number].method.as_str()).collect();
    content_id(&json!({ "replaced": replaced(scan, plan), "methods": methods, "training": tuning }))
}
