//! Checkpoints of trainings: when they are written, when a training stops early, and where it continues.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nettriage_net::Weights;
use nettriage_records::checkpoint::{Checkpoint, CheckpointFolder, Found};

use crate::Error;
use crate::tensors::tensors_of;

/// Tells running trainings from outside, such as on a signal of the system, to save themselves and stop.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Sets it. All clones are the same signal.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The checkpoints of trainings in a folder.
pub struct Checkpoints {
    folder: CheckpointFolder,
    /// What trainings run on, see [`Device::arithmetic`](crate::Device::arithmetic).
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

impl Checkpoints {
    /// Those in `folder`, of trainings on that `arithmetic` and written `every` so often; trainings stop at `deadline` and on the signal `stop`.
    pub fn new(
        folder: CheckpointFolder,
        arithmetic: String,
        every: Option<Duration>,
        stop: StopSignal,
        deadline: Option<Instant>,
    ) -> Checkpoints {
        Checkpoints {
            folder,
            arithmetic,
            every,
            stop,
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
    ///
    /// # Errors
    /// A checkpoint of another version of the program.
    pub fn find(&self, id: &str, weights: &Weights) -> Result<Option<Box<Checkpoint>>, Error> {
        if self.every.is_none() {
            return Ok(None);
        }
        let mut found = self.folder.read(id)?;
        if let Found::Usable(checkpoint) = &found
            && let Some(reason) = misfit(checkpoint, &self.arithmetic, weights)
        {
            found = self.folder.set_aside(id, reason)?;
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
        self.folder.remove(id);
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
    all: &'c Checkpoints,
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
        let there = self.all.folder.state(self.id);
        let written = match there.is_some_and(|there| there.is_beyond(&checkpoint.state)) {
            true => Ok(()),
            false => self.all.folder.write(self.id, checkpoint),
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
