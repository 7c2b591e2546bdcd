//! The largest learning rate of a training: a number, or one that a range test finds.

use std::fmt;
use std::thread;

use nettriage_engine::{Optimizer, Options};
use nettriage_net::Network;
use nettriage_records::Run;
use nettriage_records::plan::{Plan, Trainings, VERSION};
use nettriage_records::record::{Clock, RangeTest};
use nettriage_train::range_test::{self, RangeSettings, range_test};
use nettriage_train::{ActivationSource, Checkpoints, Recipe, seed};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::jobs::LOOK_AGAIN;
use crate::shared::{ImageSet, Parent, SharedWork};
use crate::{Error, machine};

/// The version of the range test and its rule, for ids: it changes where another rate may be chosen.
pub(crate) const RULE_VERSION: u32 = 1;

/// The largest learning rate of a training. In a study file it is a number, or the text `auto`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// This rate.
    Fixed(f32),
    /// The rate that a range test finds, once for a study ([`nettriage_train::range_test`]).
    Auto,
}

/// The text of [`Rate::Auto`].
const AUTO: &str = "auto";

impl From<f32> for Rate {
    fn from(rate: f32) -> Rate {
        Rate::Fixed(rate)
    }
}

impl From<f64> for Rate {
    fn from(rate: f64) -> Rate {
        Rate::Fixed(rate as f32)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rate::Fixed(rate) => serializer.serialize_f32(*rate),
            Rate::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a learning rate such as 0.02, or \"auto\"")
            }

            fn visit_f64<E>(self, rate: f64) -> Result<Rate, E> {
                Ok(Rate::Fixed(rate as f32))
            }

            fn visit_i64<E>(self, rate: i64) -> Result<Rate, E> {
                Ok(Rate::Fixed(rate as f32))
            }

            fn visit_u64<E>(self, rate: u64) -> Result<Rate, E> {
                Ok(Rate::Fixed(rate as f32))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                match text {
                    AUTO => Ok(Rate::Auto),
                    _ => Err(E::custom(format!("rate = \"{text}\": write a number such as 0.02, or \"auto\""))),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The largest rate of the study's parents: that of the study, or of its range test, which is run unless it is recorded.
pub(crate) fn of_parents(
    shared: &SharedWork<'_>,
    run: &Run,
    threads: usize,
    checkpoints: &Checkpoints,
) -> Result<f32, Error> {
    let training = shared.context.study.parent.training.as_ref();
    let training = training.ok_or_else(|| Error::Request("[parent] with `arch` needs [parent.training]".into()))?;
    if let Rate::Fixed(rate) = training.rate {
        return Ok(rate);
    }
    let test = recorded(run, Trainings::Parents, checkpoints, |id| {
        let mut rng = seed::rng("range test's weights", &[]);
        let mut network = Network::initialised(shared.context.graph.clone(), &mut rng)?;
        network.weights.extend(shared.context.constants.clone());
        let (optimizer, clip, recipe) = (training.optimizer, training.clip, training.recipe);
        let tested = Tested { batch: training.batch, optimizer, clip, recipe, section: "[parent.training]" };
        run_test(shared, id, Trainings::Parents, &network, &tested, threads, checkpoints)
    })?;
    Ok(test.rate as f32)
}

/// Makes the largest rate of the study's children and controls known to its trials, from the first `parent` of the plan: a range
/// test of fine-tuning it is run, unless it is recorded.
///
/// Every layer trains, on cross-entropy: this is the control that every child is compared with, and the training in which a rate
/// that is too large destroys most.
pub(crate) fn of_children(
    shared: &SharedWork<'_>,
    run: &Run,
    parent: &Parent,
    threads: usize,
    checkpoints: &Checkpoints,
) -> Result<(), Error> {
    let children = &shared.context.study.children;
    if children.rate != Rate::Auto || shared.tested_rate().is_some() {
        return Ok(());
    }
    let test = recorded(run, Trainings::Children, checkpoints, |id| {
        let (optimizer, clip, recipe) = (children.optimizer, children.clip, children.recipe);
        let tested = Tested { batch: children.batch, optimizer, clip, recipe, section: "[children]" };
        run_test(shared, id, Trainings::Children, &parent.network, &tested, threads, checkpoints)
    })?;
    shared.set_tested_rate(test.rate as f32);
    Ok(())
}

/// The settings of a training that its range test has too.
struct Tested {
    batch: usize,
    optimizer: Optimizer,
    clip: Option<f32>,
    recipe: Recipe,
    /// Where the study has its rate, for messages.
    section: &'static str,
}

/// The record of the plan's range test of some trainings. One process runs it; others wait.
fn recorded(
    run: &Run,
    of: Trainings,
    checkpoints: &Checkpoints,
    test: impl FnOnce(&str) -> Result<RangeTest, Error>,
) -> Result<RangeTest, Error> {
    let Some(id) = planned(run.plan(), of) else {
        return Err(Error::Request(format!("the plan has no range test for the rate of {of}: plan again")));
    };
    loop {
        if let Some(test) = run.range_test(id)? {
            return Ok(test);
        }
        if let Some(_mark) = run.try_begin(id)? {
            // Another process may have ended it between the two looks.
            if let Some(test) = run.range_test(id)? {
                return Ok(test);
            }
            let test = test(id)?;
            run.write_range_test(&test)?;
            return Ok(test);
        }
        if checkpoints.is_over() {
            return Err(stopped(id, 0));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// The id of the plan's range test of these trainings.
fn planned(plan: &Plan, of: Trainings) -> Option<&str> {
    plan.range_tests.iter().find(|test| test.of == of).map(|test| test.id.as_str())
}

fn stopped(id: &str, step: usize) -> Error {
    nettriage_train::Error::Stopped { id: id.to_owned(), step }.into()
}

fn run_test(
    shared: &SharedWork<'_>,
    id: &str,
    of: Trainings,
    network: &Network,
    tested: &Tested,
    threads: usize,
    checkpoints: &Checkpoints,
) -> Result<RangeTest, Error> {
    let begin = std::time::Instant::now();
    let context = shared.context;
    let Tested { batch, optimizer, clip, recipe, section } = *tested;
    let exact = context.study.children.exact;
    let decay_all = recipe.decay_all;
    let options = Options { threads, exact, decay_all, ..Options::training(batch, optimizer) };
    let mut model = context.device().model(network, &options)?;
    let sequence = shared.sequence(ImageSet::RangeTest(batch));
    let chance = range_test::chance_loss(&sequence.labels(), context.classes(), recipe.label_smoothing);
    let mut images = ActivationSource::images(context.device(), sequence, batch);
    let dropout_seed = seed::seed("range test's dropout", &[]);
    let settings = RangeSettings { batch, optimizer, label_smoothing: recipe.label_smoothing, clip, dropout_seed };
    // It is short, and starts again if it is interrupted.
    let before = |step| if checkpoints.is_over() { Err(stopped(id, step)) } else { Ok(()) };
    let losses = range_test(&mut model, &mut images, &settings, before)?;
    let chosen = range_test::choose(&losses, chance, &optimizer).map_err(|problem| {
        Error::Request(format!("{section} rate = \"auto\": the range test finds no rate: {problem}; write a number"))
    })?;
    Ok(RangeTest {
        version: VERSION,
        id: id.to_owned(),
        of,
        rate: chosen.rate,
        rule: range_test::RULE.to_owned(),
        rates: (0..losses.len()).map(|step| range_test::rate(&optimizer, step)).collect(),
        losses,
        smoothed: chosen.smoothed,
        edge: chosen.edge,
        chance,
        clock: Clock {
            train_seconds: begin.elapsed().as_secs_f64(),
            seconds: begin.elapsed().as_secs_f64(),
            inference: None,
            finished: nettriage_records::unix_time(),
            machine: Some(machine(context.device())),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_or_auto() {
        for (text, rate) in [("0.02", Rate::Fixed(0.02)), ("1", Rate::Fixed(1.0)), ("\"auto\"", Rate::Auto)] {
            assert_eq!(serde_json::from_str::<Rate>(text).unwrap(), rate);
        }
        // As a plain f32: ids are made from it.
        assert_eq!(serde_json::to_value(Rate::Fixed(0.02)).unwrap(), serde_json::to_value(0.02f32).unwrap());
        assert_eq!(serde_json::to_value(Rate::Auto).unwrap(), serde_json::json!("auto"));
        for wrong in ["\"fast\"", "\"Auto\"", "true", "[0.1]"] {
            assert!(serde_json::from_str::<Rate>(wrong).is_err(), "{wrong}");
        }
    }
}
