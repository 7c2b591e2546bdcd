//! The state dict among a checkpoint's values.
//!
//! Training scripts save state dicts beside optimiser states, arguments and moving averages of the weights. The one with
//! the most tensors is taken, preferring the usual keys; two versions of the same weights are never chosen between.

use std::collections::{HashMap, HashSet};

use super::pickle::{Machine, Value};
use super::tensors::{Found, Storages, is_named_tensor, tensor};
use super::{EXPORT, text};

/// Keys under which training scripts save a model.
const USUAL: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "model_state"];

/// The chosen state dict.
#[derive(Debug)]
pub struct StateDict {
    /// In the file's order.
    pub tensors: Vec<Found>,
    /// The keys that lead to it, joined by dots; empty for the file's top level.
    pub key: String,
    /// Keys of the other dictionaries of tensors, except optimiser states.
    pub others: Vec<String>,
}

/// A container on the walk: its parent's step, and the value of the key that leads to it.
type Step = (Option<usize>, Option<u32>);

/// A dictionary with named tensors.
struct Candidate {
    id: u32,
    usual: bool,
    tensors: usize,
    step: usize,
}

/// Finds the state dict: the one under `key` if given, otherwise the one with the most tensors. `file` is the file's size.
pub fn find(
    machine: &Machine,
    root: u32,
    storages: &Storages,
    key: Option<&str>,
    file: usize,
) -> Result<StateDict, String> {
    // Each takes more bytes than this in any file of torch.save, and many times as many once it is read.
    let limit = 256 + file / 64;
    let mut walk = Walk { machine, steps: Vec::new(), candidates: Vec::new(), module: None };
    walk.visit(root);
    let names = |candidates: &[&Candidate]| {
        let names: Vec<String> = candidates.iter().map(|candidate| quoted(&walk.path(candidate.step))).collect();
        nettriage_net::shorten(&names)
    };
    let best = walk
        .candidates
        .iter()
        .reduce(|best, other| if (other.usual, other.tensors) > (best.usual, best.tensors) { other } else { best });
    if let Some(class) = walk.module.filter(|_| key.is_none() && best.is_none_or(|best| !best.usual)) {
        return Err(format!(
            "it holds an object of `{class}` instead of tensors, as torch.save(model) writes a whole module, and no code of a \
             file is executed here; in Python: model = torch.load(FILE, weights_only=False); {EXPORT}"
        ));
    }
    let best = best.ok_or_else(|| format!("it holds no dictionary of tensors; in Python: {EXPORT}"))?;
    let others = |chosen: &Candidate| {
        let sets = walk.candidates.iter().filter(|c| c.id != chosen.id && c.tensors > 1);
        let paths = sets.map(|c| walk.path(c.step));
        paths.filter(|path| !["optim", "sched", "scaler"].iter().any(|word| path.contains(word))).collect()
    };
    if let Some(key) = key {
        if let Some(chosen) = walk.candidates.iter().find(|candidate| walk.path(candidate.step) == key) {
            let tensors = tensors(machine, chosen.id, limit)?;
            return Ok(StateDict { tensors, key: key.into(), others: others(chosen) });
        }
        // A prefix of the names in the state dict: wrappers save `model.` and `ema_model.` side by side.
        let prefix = format!("{}.", key.trim_end_matches('.'));
        let mut tensors = tensors(machine, best.id, limit)?;
        tensors.retain(|found| found.name.starts_with(&prefix));
        if tensors.is_empty() {
            let all: Vec<&Candidate> = walk.candidates.iter().collect();
            return Err(format!("it has no key `{key}`; its dictionaries of tensors are {}", names(&all)));
        }
        tensors.iter_mut().for_each(|found| drop(found.name.drain(..prefix.len())));
        return Ok(StateDict { tensors, key: key.into(), others: others(best) });
    }
    let chosen = tensors(machine, best.id, limit)?;
    let mut versions = vec![best];
    let mut work = storages.bytes();
    for candidate in walk.candidates.iter().filter(|candidate| candidate.id != best.id) {
        if is_other_version(machine, &chosen, candidate, storages, &mut work) {
            versions.push(candidate);
        }
    }
    if versions.len() > 1 {
        return Err(format!(
            "it holds {} versions of the same weights, under the keys {}; choose one with `--key NAME`",
            versions.len(),
            names(&versions)
        ));
    }
    Ok(StateDict { tensors: chosen, key: walk.path(best.step), others: others(best) })
}

/// Whether the candidate has at least half of the tensors by name and shape, and one of them differs. `work` bounds the
/// elements that are compared over all candidates.
fn is_other_version(
    machine: &Machine,
    chosen: &[Found],
    candidate: &Candidate,
    storages: &Storages,
    work: &mut usize,
) -> bool {
    let Ok(others) = tensors(machine, candidate.id, chosen.len().saturating_mul(2)) else { return false };
    let by_name: HashMap<&str, &Found> = chosen.iter().map(|found| (bare(&found.name), found)).collect();
    let pairs: Vec<(&Found, &Found)> = others
        .iter()
        .filter_map(|other| Some((*by_name.get(bare(&other.name))?, other)))
        .filter(|(found, other)| found.shape == other.shape)
        .collect();
    2 * pairs.len() >= chosen.len()
        && pairs.iter().any(|(found, other)| {
            let elements = found.shape.iter().product::<usize>();
            let affordable = work.checked_sub(elements);
            *work = affordable.unwrap_or(0);
            affordable.is_none() || storages.equal(found, other) == Some(false)
        })
}

/// A name without the prefix of a wrapper.
fn bare(name: &str) -> &str {
    ["module.", "model.", "_orig_mod."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

fn quoted(path: &str) -> String {
    if path.is_empty() { "(top level)".into() } else { format!("`{path}`") }
}

struct Walk<'a> {
    machine: &'a Machine,
    steps: Vec<Step>,
    candidates: Vec<Candidate>,
    /// Class of an object in the place of a model.
    module: Option<&'a str>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, root: u32) {
        let machine = self.machine;
        let mut seen = HashSet::from([root]);
        let mut open: Vec<(u32, bool, Step)> = vec![(root, false, (None, None))];
        while let Some((id, usual, step)) = open.pop() {
            self.steps.push(step);
            let here = self.steps.len() - 1;
            let mut enter = |value: u32, usual: bool, key: Option<u32>| {
                let container =
                    matches!(machine.get(value), Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Object(_));
                if container && seen.insert(value) {
                    open.push((value, usual, (Some(here), key)));
                }
            };
            match machine.get(id) {
                Value::Dict(pairs) => {
                    let tensors = pairs.iter().filter(|(key, value)| is_named_tensor(machine, *key, *value)).count();
                    if tensors > 0 {
                        self.candidates.push(Candidate { id, usual, tensors, step: here });
                    }
                    for &(key, value) in pairs {
                        let is_usual = text(machine, key).is_some_and(|name| USUAL.contains(&name));
                        enter(value, usual || is_usual, Some(key));
                    }
                }
                Value::List(items) => items.iter().for_each(|&item| enter(item, usual, None)),
                Value::Tuple(items) => items.iter().for_each(|&item| enter(item, usual, None)),
                Value::Object(class) if usual || id == root => {
                    if let Value::Global(name) = machine.get(*class) {
                        self.module = Some(name);
                    }
                }
                _ => {}
            }
        }
    }

    /// The keys from the top level to a container, joined by dots.
    fn path(&self, mut step: usize) -> String {
        let mut keys = Vec::new();
        while let (Some(parent), key) = self.steps[step] {
            if let Some(name) = key.and_then(|key| text(self.machine, key)) {
                keys.push(name);
            }
            step = parent;
        }
        keys.reverse();
        keys.join(".")
    }
}

/// The named tensors of a dictionary, at most `limit`.
fn tensors(machine: &Machine, dict: u32, limit: usize) -> Result<Vec<Found>, String> {
    let Value::Dict(pairs) = machine.get(dict) else { return Ok(Vec::new()) };
    if pairs.len() > limit {
        return Err(format!("its {} tensors are more than a file of its size can hold", pairs.len()));
    }
    let mut names = HashSet::new();
    let mut found = Vec::new();
    for &(key, value) in pairs {
        if let (Some(name), Value::Tensor(arguments)) = (text(machine, key), machine.get(value)) {
            if !names.insert(name) {
                return Err(format!("tensor `{name}` occurs twice"));
            }
            found.push(tensor(machine, name, *arguments).map_err(|problem| format!("tensor `{name}`: {problem}"))?);
        }
    }
    Ok(found)
}
