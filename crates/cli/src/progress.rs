//! Progress of a study: bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use nettriage_records::Record;
use nettriage_records::plan::{ParentSpec, TrialSpec};
use nettriage_records::record::{CurvePoint, Outcome};
use nettriage_study::Progress;

/// What the user sees while a study runs.
pub struct Teller {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    bar: ProgressBar,
    /// What the bar is about: a parent's seed, or the trials.
    parent: Option<u64>,
    begun: Instant,
    done_before: usize,
    done: usize,
    of: usize,
}

impl Teller {
    /// Bars if standard error is a terminal.
    pub fn new() -> Teller {
        let state =
            State { bar: ProgressBar::hidden(), parent: None, begun: Instant::now(), done_before: 0, done: 0, of: 0 };
        Teller { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.state().bar.finish_and_clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn bar(&self, of: usize, what: &str) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let template = "{prefix:.bold} {wide_bar:.cyan/blue} {pos}/{len} {msg}  {elapsed} gone, {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        let bar = ProgressBar::new(of as u64).with_style(style).with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

impl Progress for Teller {
    fn parent(&self, spec: &ParentSpec, seen: usize, of: usize, point: &CurvePoint) {
        let mut state = self.state();
        if state.parent != Some(spec.seed) {
            state.bar.finish_and_clear();
            state.bar = self.bar(of, &format!("parent, seed {}", spec.seed));
            state.parent = Some(spec.seed);
            state.begun = Instant::now();
        }
        let accuracy = format!("validation {:.2}%", 100.0 * point.validation_top1);
        state.bar.set_position(seen as u64);
        state.bar.set_message(accuracy.clone());
        if !self.terminal {
            eprintln!("parent, seed {}: {seen} of {of} images, {accuracy}", spec.seed);
        }
    }

    fn trials(&self, done: usize, of: usize) {
        let mut state = self.state();
        state.bar.finish_and_clear();
        state.bar = self.bar(of, "trials");
        state.bar.set_position(done as u64);
        state.bar.reset_eta();
        (state.begun, state.done_before, state.done, state.of) = (Instant::now(), done, done, of);
        if done > 0 {
            eprintln!("{done} of {of} trials have records already; going on with the rest");
        }
    }

    fn started(&self, spec: &TrialSpec) {
        self.state().bar.set_message(title(spec));
    }

    fn ended(&self, record: &Record) {
        let mut state = self.state();
        state.done += 1;
        state.bar.set_position(state.done as u64);
        let result = match (&record.outcome, &record.readings) {
            (Outcome::Done, Some(readings)) => format!("test {:.2}%", 100.0 * readings.test.top1),
            (Outcome::Diverged { examples }, _) => format!("diverged after {examples} images"),
            (Outcome::Failed { reason }, _) => format!("failed: {reason}"),
            (Outcome::Done, None) => "no readings".to_owned(),
        };
        if self.terminal {
            state.bar.set_message(format!("{}: {result}", title(&record.spec)));
            return;
        }
        let now = state.done - state.done_before;
        let left = state.begun.elapsed().mul_f64((state.of - state.done) as f64 / now as f64);
        let left = HumanDuration(left);
        eprintln!("[{}/{}] {}: {result} ({left:#} left)", state.done, state.of, title(&record.spec));
    }
}

/// A trial in a few words.
pub fn title(spec: &TrialSpec) -> String {
    let role = serde_json::to_value(spec.role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let role = (role != "child").then_some(role);
    let parts = [role, spec.block.clone(), spec.substitute.clone(), spec.init.clone(), Some(spec.scheme.clone())];
    format!("{}, seed {}", parts.into_iter().flatten().collect::<Vec<_>>().join(" "), spec.seed)
}
