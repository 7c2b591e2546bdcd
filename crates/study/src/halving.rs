//! Successive halving over inits and schemes, with seeds as its budget.
//!
//! All pairs of init and scheme are tried with the first seed; after that, and whenever the number of seeds has doubled,
//! only the better share, the same for all blocks, continues with further seeds (Karnin, Koren and Somekh 2013, "Almost Optimal Exploration in
//! Multi-Armed Bandits": sequential halving). Every trial that is run is the plan's own, under the whole budget of
//! images, so records stay comparable. Pairs are ranked by mean validation accuracy: the test set decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use nettriage_records::plan::{Role, TrialSpec};
use nettriage_records::{Halving, Run, Rung};

use crate::Error;

/// Validation accuracy of the plan's trials, by index; `None` without a record, 0 if it has no readings.
type Scores = Vec<Option<f64>>;

/// The state of successive halving in a study.
pub struct HalvingState {
    /// What has been decided.
    pub halving: Halving,
    /// Trials of these seeds may run now.
    pub seeds: u64,
}

/// The state of a run, from its plan and records alone.
pub fn state_of(run: &Run, keep: f64) -> Result<HalvingState, Error> {
    let child = |spec: &TrialSpec| {
        let record = run.record(&spec.id)?;
        Ok(record.map(|r| r.readings.map_or(0.0, |readings| readings.validation.top1)))
    };
    let trials = &run.plan().trials;
    let scores = trials.iter().map(|spec| if spec.role == Role::Child { child(spec) } else { Ok(None) });
    Ok(decide(trials, &scores.collect::<Result<Scores, Error>>()?, keep))
}

fn decide(trials: &[TrialSpec], scores: &Scores, keep: f64) -> HalvingState {
    let last = trials.iter().map(|spec| spec.seed + 1).max().unwrap_or(1);
    // By substitute and budget, then (init, scheme), over all parents and blocks, so that blocks stay comparable: indices into the plan.
    let mut groups: BTreeMap<_, BTreeMap<_, Vec<usize>>> = BTreeMap::new();
    for (index, spec) in trials.iter().enumerate().filter(|(_, spec)| spec.role == Role::Child) {
        let group = groups.entry((&spec.substitute, spec.budget)).or_default();
        group.entry((&spec.init, &spec.scheme)).or_default().push(index);
    }
    // A pair that does not depend on the seed is in the plan once: there is nothing to skip.
    for group in groups.values_mut() {
        group.retain(|_, indices| indices.iter().any(|&index| trials[index].seed > 0));
    }
    let mut halving = Halving { keep, rungs: Vec::new(), skipped: BTreeSet::new() };
    let mut seeds = 1;
    while seeds < last {
        let before = |index: &&usize| trials[**index].seed < seeds;
        let waiting = groups.values().flat_map(BTreeMap::values).flatten().filter(before);
        if waiting.clone().any(|&index| scores[index].is_none()) {
            break;
        }
        let mut rung = Rung { seeds, candidates: 0, kept: 0 };
        for group in groups.values_mut() {
            let mean = |indices: &[usize]| {
                let seen: Vec<f64> = indices.iter().filter(before).filter_map(|&index| scores[index]).collect();
                seen.iter().sum::<f64>() / seen.len() as f64
            };
            // Equal runtime: the plan's order.
            let mut ranked: Vec<_> = group.iter().map(|(key, indices)| (mean(indices), indices[0], *key)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let kept = (ranked.len() as f64 * keep).ceil() as usize;
            rung.candidates += ranked.len();
            rung.kept += kept;
            for (_, _, key) in ranked.split_off(kept) {
                let indices = group.remove(&key).expect("the key is of this group");
                let after = indices.iter().filter(|index| !before(index));
                halving.skipped.extend(after.map(|&index| trials[index].id.clone()));
            }
        }
        halving.rungs.push(rung);
        seeds = (2 * seeds).min(last);
    }
    HalvingState { halving, seeds }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four pairs of one block with four seeds, and a control.
    fn trials() -> Vec<TrialSpec> {
        let spec = |role, init: Option<&str>, scheme: &str, seed: u64| TrialSpec {
            id: format!("{}-{scheme}-{seed}", init.unwrap_or("control")),
            role,
            parent: "p".into(),
            block: Some("b".into()),
            substitute: init.map(|_| "conv3x3".into()),
            init: init.map(str::to_owned),
            scheme: scheme.into(),
            budget: Some(100),
            seed,
        };
        let mut trials = Vec::new();
        for seed in 0..4 {
            for init in ["a", "b"] {
                for scheme in ["x", "y"] {
                    trials.push(spec(Role::Child, Some(init), scheme, seed));
                }
            }
            trials.push(spec(Role::Reinit, None, "x", seed));
        }
        trials
    }

    fn scores(trials: &[TrialSpec], score: impl Fn(&str) -> Option<f64>) -> Scores {
        trials.iter().map(|spec| if spec.role == Role::Child { score(&spec.id) } else { None }).collect()
    }

    #[test]
    fn the_better_half_continues_when_seeds_double() {
        let trials = trials();
        let none = decide(&trials, &scores(&trials, |_| None), 0.5);
        assert_eq!((none.seeds, none.halving.rungs.len(), none.halving.skipped.len()), (1, 0, 0));
        // After seed 0: b-y and a-x lead.
        let first = |id: &str| match id {
            "a-x-0" => Some(0.8),
            "a-y-0" => Some(0.1),
            "b-x-0" => Some(0.2),
            "b-y-0" => Some(0.9),
            _ => None,
        };
        let state = decide(&trials, &scores(&trials, first), 0.5);
        assert_eq!(state.seeds, 2);
        assert_eq!(state.halving.rungs, [Rung { seeds: 1, candidates: 4, kept: 2 }]);
        let skipped: Vec<&str> = state.halving.skipped.iter().map(String::as_str).collect();
        assert_eq!(skipped, ["a-y-1", "a-y-2", "a-y-3", "b-x-1", "b-x-2", "b-x-3"]);
        // After seed 1: a-x leads by the mean of both seeds, though b-y won the first.
        let second = |id: &str| match id {
            "a-x-1" => Some(0.9),
            "b-y-1" => Some(0.7),
            id => first(id),
        };
        let state = decide(&trials, &scores(&trials, second), 0.5);
        assert_eq!((state.seeds, state.halving.rungs.len()), (4, 2));
        assert!(state.halving.skipped.contains("b-y-2") && state.halving.skipped.contains("b-y-3"));
        assert!(!state.halving.skipped.iter().any(|id| id.starts_with("a-x") || id.starts_with("control")));
    }

    #[test]
    fn equal_scores_keep_the_plans_order_and_one_always_continues() {
        let trials = trials();
        let state = decide(&trials, &scores(&trials, |_| Some(0.5)), 0.01);
        assert!(state.halving.skipped.iter().all(|id| !id.starts_with("a-x")));
        assert_eq!(state.halving.rungs[0].kept, 1);
        assert_eq!(state.seeds, 4);
    }
}
