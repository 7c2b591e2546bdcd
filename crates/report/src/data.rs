//! The input of a report.

use std::borrow::Cow;
use std::collections::BTreeSet;

use nettriage_records::plan::{Plan, TrialSpec};
use nettriage_records::record::{Machine, ParentRecord, RangeTest, Record};
use nettriage_records::{Error, Run, SampleImages};
use serde::{Deserialize, Serialize};

use crate::analysis::Analysis;

/// A run in memory.
#[derive(Clone, Debug)]
pub struct RunData {
    /// The plan.
    pub plan: Plan,
    /// Parents' records, in the plan's order.
    pub parents: Vec<ParentRecord>,
    /// Trials' records, in the plan's order.
    pub records: Vec<Record>,
    /// Records of range tests, in the plan's order.
    pub range_tests: Vec<RangeTest>,
    /// The images that the page shows, if the run's folder holds them.
    pub sample_images: Option<SampleImages>,
    /// How it was made.
    pub about: About,
}

/// How a run was made. Reports show it; nothing is computed from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct About {
    /// Program and version, such as `nettriage 0.1.0`.
    pub program: String,
    /// The machines named in the records; empty if there are none.
    pub machine: String,
    /// The command line.
    pub command: String,
    /// The name of the run's folder.
    pub folder: String,
    /// The path of the run's folder, as it was given.
    pub run: String,
    /// Wall seconds from the end of the parents' training to the last trial's end.
    pub trials_seconds: Option<f64>,
    /// What successive halving skipped; empty without it.
    pub halving: String,
}

impl RunData {
    /// The run under one budget: the trials that train on `images` images, and those that do not train.
    #[must_use]
    pub fn at(&self, images: usize) -> RunData {
        let of = |spec: &TrialSpec| spec.budget.is_none_or(|budget| budget == images);
        let mut one = self.clone();
        one.plan.budgets.retain(|budget| budget.images == images);
        one.plan.trials.retain(of);
        one.records.retain(|record| of(&record.spec));
        one
    }

    /// The run under the budget that an analysis is about.
    pub(crate) fn of(&self, analysis: &Analysis) -> Cow<'_, RunData> {
        match (&analysis.budgets, analysis.budget) {
            (Some(_), Some(images)) => Cow::Owned(self.at(images)),
            _ => Cow::Borrowed(self),
        }
    }

    /// Reads a run's records and fills in `about.folder`, `about.run`, `about.machine`, `about.trials_seconds` and `about.halving`.
    ///
    /// # Errors
    /// Those of [`Run::records`].
    pub fn load(run: &Run, about: About) -> Result<RunData, Error> {
        let folder = run.folder().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let trials_seconds = Some(run.status()?.trials_seconds);
        let (parents, records) = (run.parents()?, run.records()?);
        let clocks = parents.iter().map(|parent| &parent.clock).chain(records.iter().map(|record| &record.clock));
        let machines: BTreeSet<&Machine> = clocks.filter_map(|clock| clock.machine.as_ref()).collect();
        let machines: Vec<String> = machines.into_iter().map(Machine::to_string).collect();
        Ok(RunData {
            plan: run.plan().clone(),
            parents,
            records,
            range_tests: run.range_tests()?,
            sample_images: run.sample_images()?,
            about: About {
                folder,
                run: run.folder().display().to_string(),
                machine: machines.join("; "),
                trials_seconds,
                halving: run.halving()?.as_ref().map_or(String::new(), halving),
                ..about
            },
        })
    }
}

fn halving(halving: &nettriage_records::Halving) -> String {
    let rungs: Vec<String> = halving
        .rungs
        .iter()
        .map(|rung| {
            let seeds = if rung.seeds == 1 { "1 seed".to_owned() } else { format!("{} seeds", rung.seeds) };
            format!("{} of {} pairs after {seeds}", rung.kept, rung.candidates)
        })
        .collect();
    let so_far = if rungs.is_empty() { "nothing skipped yet".to_owned() } else { format!("kept {}", rungs.join(", ")) };
    format!(
        "successive halving over pairs of init and scheme, by mean validation accuracy over blocks and seeds so far: {so_far}; \
         {} trials were skipped, all controls were run",
        halving.skipped.len()
    )
}

/// The bits of `test_correct`: 1 for each correctly classified image. `None` if the text is not base64 of `images` bits with
/// `correct` of them set.
pub(crate) fn bits(base64: &str, images: u64, correct: u64) -> Option<Vec<u8>> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    let images = usize::try_from(images).ok()?;
    if bytes.len() != images.div_ceil(8) {
        return None;
    }
    let bits: Vec<u8> = (0..images).map(|i| bytes[i / 8] >> (7 - i % 8) & 1).collect();
    (bits.iter().map(|&bit| u64::from(bit)).sum::<u64>() == correct).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::bits;

    #[test]
    fn the_most_significant_bit_is_first() {
        // 0b1010_0000, 0b0100_0000
        assert_eq!(bits("oEA=", 10, 3), Some(vec![1, 0, 1, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(bits("oEA=", 10, 2), None);
        assert_eq!(bits("oEA=", 17, 3), None);
        assert_eq!(bits("o!A=", 10, 3), None);
    }
}
