//! Run-time options: how a study uses the machine. They change time and memory, never a record; only the device does, and its engine
//! is part of the plan.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nettriage_data::MemoryBudget;
use nettriage_records::Run;
use nettriage_train::{Checkpoints, Device, StopSignal};

/// Which computation trials share, and which unneeded computation is left out. Records are the same without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// A stage that trains the substitute alone starts at the block's input: the layers before it are frozen.
    pub prefix: bool,
    /// A child whose other layers are the parent's is evaluated from the block's input on.
    pub evaluation: bool,
    /// A stage that regresses the block's output ends there; the layers behind it do not run.
    pub hint: bool,
    /// The parent's logits, block outputs and activations before a block are computed once and stored.
    pub activations: bool,
    /// Backpropagation stops where no layer below trains.
    pub backward: bool,
    /// Least squares is solved once for all schemes and seeds.
    pub solutions: bool,
}

impl Default for Reuse {
    fn default() -> Reuse {
        Reuse { prefix: true, evaluation: true, hint: true, activations: true, backward: true, solutions: true }
    }
}

impl Reuse {
    /// The names of the switches, in the order of the fields.
    pub const NAMES: [&'static str; 6] = ["prefix", "evaluation", "hint", "activations", "backward", "solutions"];

    fn switches(&mut self) -> [&mut bool; 6] {
        let Reuse { prefix, evaluation, hint, activations, backward, solutions } = self;
        [prefix, evaluation, hint, activations, backward, solutions]
    }

    /// Nothing shared: every trial runs alone, as in a plain script.
    pub fn none() -> Reuse {
        let mut reuse = Reuse::default();
        reuse.switches().into_iter().for_each(|switch| *switch = false);
        reuse
    }
}

/// The names of the switches that are off, as [`FromStr`] takes them.
impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reuse = *self;
        let off = reuse.switches().into_iter().zip(Reuse::NAMES).filter(|(on, _)| !**on);
        f.write_str(&off.map(|(_, name)| name).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Reuse {
    type Err = String;

    /// All but those named, separated by commas; `all` names every one.
    fn from_str(off: &str) -> Result<Reuse, String> {
        let mut reuse = Reuse::default();
        for name in off.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "all" {
                reuse = Reuse::none();
                continue;
            }
            match reuse.switches().into_iter().zip(Reuse::NAMES).find(|(_, known)| *known == name) {
                Some((switch, _)) => *switch = false,
                None => return Err(format!("`{name}` is unknown; use all or some of {}", Reuse::NAMES.join(", "))),
            }
        }
        Ok(reuse)
    }
}

/// How a study uses the machine, beside workers and the cache in memory.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// What models run on.
    pub device: Device,
    /// Bytes of images and activations that may be stored on a device of PyTorch, before those in memory and on disk.
    pub device_memory: usize,
    /// What is shared and left out.
    pub reuse: Reuse,
    /// Memory for the data set, and the folder for files of what exceeds memory.
    pub memory: MemoryBudget,
    /// Bytes of activations that may be stored in files of that folder, beside those in memory.
    pub disk: usize,
    /// Threads inside a trial; the executor decides if none.
    pub threads: Option<usize>,
    /// Time between two checkpoints of a training; with none, a training that is interrupted starts again.
    pub checkpoint: Option<Duration>,
    /// Stops trainings early, if they write checkpoints.
    pub stop: StopSignal,
}

impl RuntimeOptions {
    /// The checkpoints of a run's trainings, which stop at `deadline` and on the signal.
    pub(crate) fn checkpoints(&self, run: &Run, deadline: Option<Instant>) -> Checkpoints {
        Checkpoints::new(run.checkpoints(), self.device.arithmetic(), self.checkpoint, self.stop.clone(), deadline)
    }
}

impl Default for RuntimeOptions {
    fn default() -> RuntimeOptions {
        RuntimeOptions {
            device: Device::Cpu,
            device_memory: 4096 << 20,
            reuse: Reuse::default(),
            memory: MemoryBudget::default(),
            disk: 0,
            threads: None,
            checkpoint: Some(Duration::from_secs(300)),
            stop: StopSignal::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_have_names() {
        assert_eq!("".parse(), Ok(Reuse::default()));
        assert_eq!("all".parse(), Ok(Reuse::none()));
        assert_eq!(Reuse::NAMES.join(",").parse(), Ok(Reuse::none()));
        assert_eq!("hint".parse(), Ok(Reuse { hint: false, ..Reuse::default() }));
        assert_eq!("hint,prefix".parse::<Reuse>().unwrap().to_string(), "prefix,hint");
        assert!("prefx".parse::<Reuse>().unwrap_err().contains("prefix"));
    }
}
