//! Networks of plans: built, trained and judged, several at a time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use nettriage_net::Network;
use nettriage_records::AttemptRecord;
use nettriage_records::prescription::Figures;
use nettriage_records::scan::Scan;

use super::build::build;
use super::fine_tune::{FineTuning, TrainingSet, fine_tune};
use super::store::{Store, attempt_id};
use super::{Plan, Progress, SearchProblem, figures, replaced};
use crate::Error;
use crate::parallel::in_parallel;
use crate::scan::{Images, Judge, Options};

/// A network that was built and judged, with its record.
pub type Finished = (AttemptRecord, Network);

/// What the network of a plan is made from. Threads may share it.
pub struct Maker<'a> {
    parent: &'a Network,
    scan: &'a Scan,
    fitted: &'a Images<'a>,
    training: Option<&'a (TrainingSet<'a>, FineTuning)>,
    store: Option<&'a Store<'a>>,
    options: Options,
    judge: Judge<'a>,
}

impl<'a> Maker<'a> {
    /// For the plans of a search.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(problem: &'a SearchProblem<'_>, options: &Options) -> Result<Maker<'a>, Error> {
        Ok(Maker {
            parent: problem.parent,
            scan: problem.scan,
            fitted: problem.fitted,
            training: problem.training.as_ref(),
            store: problem.store.as_ref(),
            options: options.clone(),
            judge: Judge::new(problem.parent, problem.judged, options)?,
        })
    }

    /// The network of a plan; `progress` receives the steps of its training that were taken, and those in all. What is stored of it is not
    /// done again.
    fn make(&self, plan: &Plan, options: &Options, progress: &dyn Fn(usize, usize)) -> Result<Finished, Error> {
        let id = attempt_id(self.scan, plan, self.training.map(|(_, tuning)| tuning));
        if let Some(stored) = self.store.map(|store| store.attempt(&id)).transpose()?.flatten() {
            return Ok(stored);
        }
        let judge = self.judge.with_threads(options.threads);
        let surgery = build(self.parent, self.scan, plan, self.fitted, options)?;
        let built = figures(&surgery.network, &judge)?;
        let (mut network, mut judged, mut diverged) = (surgery.network.clone(), built, None);
        if let Some(training) = self.training {
            let saved = self.store.map(|store| (store.checkpoints, id.as_str()));
            match fine_tune(&surgery, self.parent, training, options, saved, progress)? {
                Ok(tuned) => {
                    network = tuned;
                    judged = figures(&network, &judge)?;
                }
                // The network from before the training remains.
                Err(reason) => diverged = Some(reason),
            }
        }
        let record = AttemptRecord { id, replaced: replaced(self.scan, plan), built, judged, diverged };
        if let Some(store) = self.store {
            store.keep(&record, &network)?;
        }
        Ok((record, network))
    }

    /// The networks of some plans in their order, `workers` at a time, which share the threads; `first` is the number of the first, and `of`
    /// how many there are at most. No number depends on `workers`. After an error none is begun.
    ///
    /// # Errors
    /// Those of fitting and training: of the first plan that has one.
    pub fn all(
        &self,
        plans: &[&Plan],
        workers: usize,
        [first, of]: [usize; 2],
        progress: &dyn Progress,
    ) -> Result<Vec<Finished>, Error> {
        let workers = workers.clamp(1, plans.len().max(1));
        let options = Options { threads: (self.options.threads / workers).max(1), ..self.options.clone() };
        let ended = AtomicBool::new(false);
        let (sender, events) = mpsc::channel();
        let outcomes = std::thread::scope(|scope| {
            let (ended, options) = (&ended, &options);
            let work = move |place: usize| -> Option<Outcome> {
                if ended.load(Ordering::Relaxed) {
                    return None;
                }
                // No receiver: the report of an event ended the search.
                let send = |event: Event| sender.send(event).unwrap_or_else(|_| resume_unwind(Box::new(Unheard)));
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    send(Event::Begun(place));
                    let report = |done: usize, of: usize| send(Event::Training(place, [done, of]));
                    let made = self.make(plans[place], options, &report)?;
                    send(Event::Judged(place, made.0.judged, made.0.diverged.clone()));
                    Ok(made)
                }));
                if !matches!(outcome, Ok(Ok(_))) {
                    ended.store(true, Ordering::Relaxed);
                }
                Some(outcome)
            };
            let running = scope.spawn(move || in_parallel(0..plans.len(), workers, &work));
            let mut trainings = Trainings::default();
            for event in events {
                match event {
                    Event::Begun(place) => progress.attempt(first + place, of, plans[place].chosen.len()),
                    Event::Training(place, steps) => {
                        let [done, of] = trainings.at(place, steps);
                        progress.training(done, of);
                    }
                    Event::Judged(place, judged, diverged) => {
                        trainings.end(place);
                        if let Some(reason) = diverged {
                            progress.diverged(first + place, &reason);
                        }
                        progress.judged(first + place, &judged);
                    }
                }
            }
            running.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        // Without an outcome: it was not begun after the error of another.
        outcomes.into_iter().flatten().map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }
}

/// The result for a plan: its network, an error, or a panic.
type Outcome = std::thread::Result<Result<Finished, Error>>;

/// What a worker reports of the plan at that place.
enum Event {
    Begun(usize),
    /// Steps taken, and in all.
    Training(usize, [usize; 2]),
    /// The figures at the end, and why training diverged if it did.
    Judged(usize, Figures, Option<String>),
}

/// Unwinds a worker whose events have no receiver.
struct Unheard;

/// The steps of the trainings that run at once.
#[derive(Default)]
struct Trainings(Vec<(usize, [usize; 2])>);

impl Trainings {
    /// The steps of all that run, when one has taken `steps`.
    fn at(&mut self, place: usize, steps: [usize; 2]) -> [usize; 2] {
        match self.0.iter_mut().find(|(other, _)| *other == place) {
            Some((_, known)) => *known = steps,
            None => self.0.push((place, steps)),
        }
        let sum = |part: usize| self.0.iter().map(|(_, steps)| steps[part]).sum();
        [sum(0), sum(1)]
    }

    fn end(&mut self, place: usize) {
        self.0.retain(|(other, _)| *other != place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_trainings_that_run() {
        let mut trainings = Trainings::default();
        assert_eq!(trainings.at(0, [1, 10]), [1, 10]);
        assert_eq!(trainings.at(1, [2, 20]), [3, 30]);
        assert_eq!(trainings.at(0, [10, 10]), [12, 30]);
        trainings.end(0);
        assert_eq!(trainings.at(1, [3, 20]), [3, 20]);
    }
}
