//! Looks at a run's folder and tells what has changed.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use nettriage_records::record::Outcome;
use nettriage_records::{Record, Run};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fail::Fail;
use crate::progress::title;

/// How often the folder is looked at: one look at three folders' dates while nothing happens.
const EVERY: Duration = Duration::from_millis(300);
/// How often counts are read again although no folder has changed: a file system may update dates late.
const REFRESH: Duration = Duration::from_secs(5);
/// Trials that are listed by name.
const LATEST: usize = 6;

/// Begins to watch; the receiver holds the state as JSON.
pub fn begin(run: Run) -> Result<watch::Receiver<String>, Fail> {
    let mut watcher = Watcher { known: run.recorded()?, latest: VecDeque::new(), run };
    let (send, receive) = watch::channel(watcher.update()?.to_string());
    std::thread::spawn(move || {
        let mut dates = None;
        let mut looked = Instant::now();
        while !send.is_closed() {
            std::thread::sleep(EVERY);
            let now = watcher.dates();
            if dates == Some(now) && looked.elapsed() < REFRESH {
                continue;
            }
            (dates, looked) = (Some(now), Instant::now());
            // A folder that cannot be read just now may be so again in a moment.
            if let Ok(state) = watcher.update() {
                let text = state.to_string();
                send.send_if_modified(|old| {
                    let news = *old != text;
                    *old = text;
                    news
                });
            }
        }
    });
    Ok(receive)
}

struct Watcher {
    run: Run,
    known: HashSet<String>,
    latest: VecDeque<Value>,
}

impl Watcher {
    fn dates(&self) -> [Option<SystemTime>; 3] {
        ["trials", "parents", "running"].map(|part| self.run.folder().join(part).metadata().ok()?.modified().ok())
    }

    fn update(&mut self) -> Result<Value, Fail> {
        let there = self.run.recorded()?;
        let fresh =
            self.run.plan().trials.iter().filter(|spec| there.contains(&spec.id) && !self.known.contains(&spec.id));
        let fresh: Vec<String> = fresh.map(|spec| spec.id.clone()).collect();
        for id in &fresh[fresh.len().saturating_sub(LATEST)..] {
            if let Some(record) = self.run.record(id)? {
                self.latest.push_front(event(&record));
            }
        }
        self.latest.truncate(LATEST);
        self.known = there;
        let status = self.run.status()?;
        Ok(json!({
            "name": self.run.plan().name,
            "status": status,
            "ended": status.ended(),
            "complete": status.is_complete(),
            "seconds_left": status.seconds_left().filter(|_| !status.is_complete()).map(f64::round),
            "latest": self.latest,
        }))
    }
}

fn event(record: &Record) -> Value {
    let result = match (&record.outcome, &record.readings) {
        (Outcome::Done, Some(readings)) => format!("test {:.2}%", 100.0 * readings.test.top1),
        (Outcome::Diverged { .. }, _) => "diverged".to_owned(),
        _ => "failed".to_owned(),
    };
    json!({ "id": record.spec.id, "trial": title(&record.spec), "result": result })
}
