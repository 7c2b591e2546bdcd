//! Progress of a study: bars on a terminal, plain lines elsewhere, or one JSON object per line.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use nettriage_records::Record;
use nettriage_records::plan::{ParentSpec, TrialSpec};
use nettriage_records::record::{CurvePoint, Outcome};
use nettriage_study::Progress;
use serde_json::{Value, json};

use crate::args::LogFormat;

/// Reports progress on standard error while a study runs.
pub struct ProgressReporter {
    terminal: bool,
    json: bool,
    state: Mutex<State>,
}

struct State {
    bar: ProgressBar,
    /// The seed of the parent that the bar shows; none for the trials.
    parent: Option<u64>,
    start: Instant,
    done_before: usize,
    done: usize,
    of: usize,
}

impl ProgressReporter {
    /// With bars if standard error is a terminal and the format is text.
    pub fn new(format: LogFormat) -> ProgressReporter {
        let state =
            State { bar: ProgressBar::hidden(), parent: None, start: Instant::now(), done_before: 0, done: 0, of: 0 };
        let json = format == LogFormat::Json;
        ProgressReporter { terminal: !json && std::io::stderr().is_terminal(), json, state: Mutex::new(state) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.state().bar.finish_and_clear();
    }

    /// Trials that have records, of all.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.done, state.of)
    }

    /// Prints one event: as JSON, or as a line.
    fn print(&self, event: Value, line: impl FnOnce() -> String) {
        if self.json {
            eprintln!("{event}");
        } else {
            eprintln!("{}", line());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn bar(&self, of: usize, what: &str) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let template = "{prefix:.bold} {wide_bar:.cyan/blue} {pos}/{len} {msg}  {elapsed} elapsed, {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        let bar = ProgressBar::new(of as u64).with_style(style).with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

impl Progress for ProgressReporter {
    fn parent(&self, spec: &ParentSpec, seen: usize, of: usize, point: &CurvePoint) {
        let mut state = self.state();
        if state.parent != Some(spec.seed) {
            state.bar.finish_and_clear();
            state.bar = self.bar(of, &format!("parent, seed {}", spec.seed));
            state.parent = Some(spec.seed);
            state.start = Instant::now();
        }
        let accuracy = format!("validation {:.2}%", 100.0 * point.validation_top1);
        state.bar.set_position(seen as u64);
        state.bar.set_message(accuracy.clone());
        if !self.terminal {
            let event = json!({
                "event": "parent", "seed": spec.seed, "seen": seen, "of": of, "validation": point.validation_top1,
            });
            self.print(event, || format!("parent, seed {}: {seen} of {of} images, {accuracy}", spec.seed));
        }
    }

    fn trials(&self, done: usize, of: usize) {
        let mut state = self.state();
        state.bar.finish_and_clear();
        state.bar = self.bar(of, "trials");
        state.bar.set_position(done as u64);
        state.bar.reset_eta();
        (state.start, state.done_before, state.done, state.of) = (Instant::now(), done, done, of);
        if self.json || done > 0 {
            let line = || format!("{done} of {of} trials have records already; running the rest");
            self.print(json!({ "event": "trials", "done": done, "of": of }), line);
        }
    }

    fn started(&self, spec: &TrialSpec) {
        self.state().bar.set_message(title(spec));
        if self.json {
            eprintln!("{}", json!({ "event": "begun", "id": spec.id, "trial": title(spec) }));
        }
    }

    fn note(&self, text: &str) {
        let state = self.state();
        state.bar.suspend(|| self.print(json!({ "event": "note", "text": text }), || text.to_owned()));
    }

    fn ended(&self, record: &Record) {
        let mut state = self.state();
        state.done += 1;
        state.bar.set_position(state.done as u64);
        let result = match (&record.outcome, &record.readings) {
            (Outcome::Done, Some(readings)) => format!("test {:.2}%", 100.0 * readings.test.top1),
            (Outcome::Diverged { examples, reason }, _) => {
                let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                format!("diverged after {examples} images{reason}")
            }
            (Outcome::Failed { reason }, _) => format!("failed: {}", reason.lines().next().unwrap_or_default()),
            (Outcome::Done, None) => "no readings".to_owned(),
        };
        if self.terminal {
            state.bar.set_message(format!("{}: {result}", title(&record.spec)));
            return;
        }
        let now = state.done - state.done_before;
        let left = state.start.elapsed().mul_f64(state.of.saturating_sub(state.done) as f64 / now.max(1) as f64);
        let name = title(&record.spec);
        let event = json!({
            "event": "ended", "id": record.spec.id, "trial": name, "outcome": record.outcome,
            "test": record.readings.as_ref().map(|r| r.test.top1), "seconds": record.clock.seconds,
            "done": state.done, "of": state.of, "seconds_left": left.as_secs_f64(),
        });
        let left = HumanDuration(left);
        self.print(event, || format!("[{}/{}] {name}: {result} ({left:#} left)", state.done, state.of));
    }
}

/// A trial in a few words.
pub fn title(spec: &TrialSpec) -> String {
    let role = serde_json::to_value(spec.role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let role = (role != "child").then_some(role);
    let parts = [role, spec.block.clone(), spec.substitute.clone(), spec.init.clone(), Some(spec.scheme.clone())];
    let images = spec.budget.map_or(String::new(), |images| format!(", {images} images"));
    format!("{}{images}, seed {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" "), spec.seed)
}
