//! What a study does not do twice, and the room that it has: settings of time and memory, never of a result.

use std::fmt;
use std::str::FromStr;

use nettriage_data::Room;

/// What is shared between trials or left out because nothing needs it. Every record is the same without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savings {
    /// A stage that trains the substitute alone starts at the block's input: what lies before it is frozen.
    pub prefix: bool,
    /// A child whose other layers are the parent's is evaluated from the block's input on.
    pub evaluation: bool,
    /// A stage that regresses the block's output ends there, and the layers behind it do not run.
    pub hint: bool,
    /// The parent's logits and block outputs, and activations before a block, are computed once and kept.
    pub kept: bool,
    /// The backward sweep stops where nothing below it trains.
    pub sweep: bool,
    /// Least squares is solved once for all schemes and seeds.
    pub solved: bool,
}

impl Default for Savings {
    fn default() -> Savings {
        Savings { prefix: true, evaluation: true, hint: true, kept: true, sweep: true, solved: true }
    }
}

impl Savings {
    /// The names of the switches, in the order of the fields.
    pub const NAMES: [&'static str; 6] = ["prefix", "evaluation", "hint", "kept", "sweep", "solved"];

    fn switches(&mut self) -> [&mut bool; 6] {
        let Savings { prefix, evaluation, hint, kept, sweep, solved } = self;
        [prefix, evaluation, hint, kept, sweep, solved]
    }

    /// Turns one off by its name; false if there is none of that name.
    pub fn without(&mut self, name: &str) -> bool {
        match self.switches().into_iter().zip(Savings::NAMES).find(|(_, known)| *known == name) {
            Some((switch, _)) => {
                *switch = false;
                true
            }
            None => false,
        }
    }

    /// None of them: every trial by itself, as a plain script would run it.
    pub fn none() -> Savings {
        Savings { prefix: false, evaluation: false, hint: false, kept: false, sweep: false, solved: false }
    }
}

/// What is done without, as [`FromStr`] takes it.
impl fmt::Display for Savings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut savings = *self;
        let off = savings.switches().into_iter().zip(Savings::NAMES).filter(|(on, _)| !**on);
        f.write_str(&off.map(|(_, name)| name).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Savings {
    type Err = String;

    /// All but those named, separated by commas; `all` names every one.
    fn from_str(without: &str) -> Result<Savings, String> {
        let mut savings = Savings::default();
        for name in without.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "all" {
                savings = Savings::none();
            } else if !savings.without(name) {
                return Err(format!("there is no saving `{name}`; there are all, {}", Savings::NAMES.join(", ")));
            }
        }
        Ok(savings)
    }
}

/// How a study uses the machine, beside workers and the cache in memory. Every record is the same whatever it says.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// What is shared and left out.
    pub savings: Savings,
    /// Memory for the data set, and the folder for files of what exceeds memory.
    pub room: Room,
    /// Bytes of activations that may be kept in files of that folder, beside those in memory.
    pub disk: usize,
    /// Threads inside a trial; what the executor says if left out.
    pub threads: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_have_names() {
        assert_eq!("".parse(), Ok(Savings::default()));
        assert_eq!("all".parse(), Ok(Savings::none()));
        assert_eq!(Savings::NAMES.join(",").parse(), Ok(Savings::none()));
        assert_eq!("hint".parse(), Ok(Savings { hint: false, ..Savings::default() }));
        assert_eq!("hint,prefix".parse::<Savings>().unwrap().to_string(), "prefix,hint");
        assert!("prefx".parse::<Savings>().unwrap_err().contains("prefix"));
    }
}
