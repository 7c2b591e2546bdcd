//! Checkpoints of the trainings of a run: when they are written, when a training stops early, and where it continues.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nettriage_net::Weights;
use nettriage_records::Run;
use nettriage_records::checkpoint::{Checkpoint, Found};
use nettriage_train::checkpoint::tensors_of;

use crate::Error;
use crate::options::{RuntimeOptions, StopSignal};

/// The checkpoints of a run's trainings.
pub struct Checkpoints<'a> {
    run: &'a Run,
    /// What trainings run on, see [`Device::arithmetic`](nettriage_train::Device::arithmetic).
    arithmetic: String,
    /// Time between two checkpoints of a training; none are written or read if none.
    every: Option<Duration>,
    stop: StopSignal,
    /// When trainings stop.
    deadline: Option<Instant>,
    /// What has to be said and has not been.
    notes: Mutex<Vec<String>>,
    /// Whether a failed write has been noted: one note is enough for a disk that stays full.
    failed: AtomicBool,
}

impl<'a> Checkpoints<'a> {
    /// Those of `run`; trainings stop at `deadline` and on the signal of `runtime`.
    pub fn new(run: &'a Run, runtime: &RuntimeOptions, deadline: Option<Instant>) -> Checkpoints<'a> {
        Checkpoints {
            run,
            arithmetic: runtime.device.arithmetic(),
            every: runtime.checkpoint,
            stop: runtime.stop.clone(),
            deadline,
            notes: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// Whether trainings are to stop.
    pub fn is_over(&self) -> bool {
        self.stop.is_set() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// What has happened to checkpoints since the last call, line by line.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().expect("no holder of this lock panics"))
    }

    fn note(&self, text: String) {
        self.notes.lock().expect("no holder of this lock panics").push(text);
    }

    /// Where the training of `id` continues; `weights` are those of its network, whose names and shapes a checkpoint must have.
    pub fn find(&self, id: &str, weights: &Weights) -> Result<Option<Box<Checkpoint>>, Error> {
        if self.every.is_none() {
            return Ok(None);
        }
        let mut found = self.run.checkpoint(id)?;
        if let Found::Usable(checkpoint) = &found
            && let Some(reason) = misfit(checkpoint, &self.arithmetic, weights)
        {
            found = self.run.set_checkpoint_aside(id, reason)?;
        }
        match found {
            Found::Nothing => Ok(None),
            Found::Usable(checkpoint) => Ok(Some(checkpoint)),
            Found::SetAside { path, reason } => {
                self.note(format!(
                    "checkpoint of {id}: {reason}; it is now {}, and the training starts again",
                    path.display()
                ));
                Ok(None)
            }
        }
    }

    /// The checkpoints of one training, which starts or continues now.
    pub fn of<'c>(&'c self, id: &'c str) -> Writer<'c> {
        Writer { all: self, id, last: Instant::now() }
    }

    /// Removes the checkpoint of a training whose record is written.
    pub fn remove(&self, id: &str) {
        self.run.remove_checkpoint(id);
    }
}

/// Why the training of a network with `weights` cannot continue from a checkpoint, if it cannot.
fn misfit(checkpoint: &Checkpoint, here: &str, weights: &Weights) -> Option<String> {
    if checkpoint.instructions != here {
        return Some(format!(
            "from another machine or device ({} there, {here} here), which rounds differently",
            checkpoint.instructions
        ));
    }
    let own = tensors_of(&checkpoint.tensors, NETWORK);
    let same = own.len() == weights.len()
        && own.iter().all(|(name, tensor)| weights.get(name).is_some_and(|other| other.shape == tensor.shape));
    (!same).then(|| "its tensors are those of another network".to_owned())
}

/// The part of a checkpoint's tensors that holds the weights and statistics of the whole network.
pub const NETWORK: &str = "network";

/// The part that holds the averaged weights of the model that trains.
pub const AVERAGE: &str = "average";

/// Writes the checkpoints of one training.
pub struct Writer<'c> {
    all: &'c Checkpoints<'c>,
    id: &'c str,
    last: Instant,
}

impl Writer<'_> {
    /// Whether a checkpoint should be written after this step.
    pub fn is_due(&self) -> bool {
        self.all.every.is_some_and(|every| self.last.elapsed() >= every || self.all.is_over())
    }

    /// Writes a checkpoint. If that fails the training continues, since its record needs none.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the training is to stop, and has been saved.
    pub fn write(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let over = self.all.is_over();
        // Two tasks may train the same parent: the one behind leaves the other's checkpoint.
        let there = self.all.run.checkpoint_state(self.id);
        let written = match there.is_some_and(|there| there.is_beyond(&checkpoint.state)) {
            true => Ok(()),
            false => self.all.run.write_checkpoint(self.id, checkpoint),
        };
        self.last = Instant::now();
        match written {
            Ok(()) if over => Err(Error::Stopped { id: self.id.to_owned(), step: checkpoint.state.step }),
            Ok(()) => Ok(()),
            Err(error) => {
                if !self.all.failed.swap(true, Ordering::Relaxed) {
                    self.all.note(format!(
                        "a checkpoint could not be written ({error}); the training continues without it"
                    ));
                }
                Ok(())
            }
        }
    }
}
