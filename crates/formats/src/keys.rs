//! Matches the keys of a checkpoint with the weights of a graph.
//!
//! Keys are tried as they are, without the prefixes that wrappers add (`module.`, `model.`, `_orig_mod.` and so on), and
//! under the names that common CIFAR repositories give the same layers; the layout that matches most keys is matched. A
//! convolution's bias before a batch norm, where the graph has none, is subtracted from the running mean: (x + b) − mean
//! = x − (mean − b). If no key matches, but the tensors in the file's order have the endings and shapes of the graph's
//! weights in their order, they are matched by order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nettriage_net::{Error, Graph, Kind, Network, Tensor, Weights, expected_weights, shorten};

/// Prefixes that wrappers and repositories put before all keys.
const PREFIXES: [&str; 9] =
    ["module.", "model.", "net.", "network.", "_orig_mod.", "backbone.", "encoder.", "resnet.", "vgg."];

/// Replacements of parts of keys: none; kuangliu's ResNets; names of the head; timm's VGGs.
const LAYOUTS: [&[(&str, &str)]; 6] = [
    &[],
    &[("shortcut.", "downsample."), ("linear.", "fc.")],
    &[("fc.", "linear.")],
    &[("fc.", "classifier.")],
    &[("linear.", "classifier.")],
    &[("pre_logits.fc1.", "classifier.0."), ("pre_logits.fc2.", "classifier.3."), ("head.fc.", "classifier.6.")],
];

/// Keys that hold no weight: step counters, and entries of profilers.
fn is_counter(key: &str) -> bool {
    ["num_batches_tracked", "total_ops", "total_params"].contains(&key.rsplit('.').next().unwrap_or(key))
}

/// A network of this graph with the weights of a checkpoint, and notes on how they were matched.
///
/// `source` are names and shapes in the file's order; `fetch` reads one of the tensors.
pub(crate) fn fit(
    graph: Graph,
    source: &[(String, Vec<usize>)],
    fetch: impl Fn(&str) -> Result<Tensor, Error>,
) -> Result<(Network, Vec<String>), Error> {
    let source: Vec<&(String, Vec<usize>)> = source.iter().filter(|(key, _)| !is_counter(key)).collect();
    let expected = expected_weights(&graph)?;
    let mut notes = Vec::new();
    let mut assignment = Assignment::best(&graph, &expected, &source);
    if !assignment.is_complete()
        && assignment.matched.is_empty()
        && let Some(matched) = match_by_order(&expected, &source)
    {
        notes.push(
            "no key of the file is one of the network's; all shapes match in order, so its tensors were matched by order"
                .into(),
        );
        assignment = Assignment { matched, ..Assignment::default() };
    }
    if !assignment.is_complete() {
        let mut problem = assignment.problem();
        let sets = matching_prefixes(&graph, &expected, &source);
        if let Some(first) = sets.first() {
            problem += &format!(
                "; the tensors under {} match alone: choose them, such as `--key {first}`",
                shorten(&sets.iter().map(|set| format!("`{set}`")).collect::<Vec<_>>())
            );
        }
        return Err(Error::Weights { network: graph.name.clone(), problem });
    }
    let mut weights = Weights::new();
    for (key, shape) in &expected {
        let mut tensor = fetch(&assignment.matched[key])?;
        tensor.shape.clone_from(shape);
        weights.insert(key.clone(), tensor);
    }
    for (bias, mean) in &assignment.folded {
        let bias = fetch(bias)?;
        if let Some(mean) = weights.get_mut(mean) {
            mean.data.iter_mut().zip(&bias.data).for_each(|(mean, bias)| *mean -= bias);
        }
    }
    if !assignment.folded.is_empty() {
        notes.push(format!(
            "{} biases before a batch norm were subtracted from its running mean",
            assignment.folded.len()
        ));
    }
    let network = Network { graph, weights };
    network.check()?;
    Ok((network, notes))
}

/// First components of the keys under which alone all weights of the graph are found: a file with several networks, or
/// with two versions of one.
fn matching_prefixes(
    graph: &Graph,
    expected: &[(String, Vec<usize>)],
    source: &[&(String, Vec<usize>)],
) -> Vec<String> {
    const MAX_PREFIXES: usize = 16;
    let first = |key: &str| key.split_once('.').map(|(first, _)| first.to_string());
    let prefixes: BTreeSet<String> = source.iter().filter_map(|(key, _)| first(key)).collect();
    if prefixes.len() > MAX_PREFIXES {
        return Vec::new();
    }
    let matches = |prefix: &String| {
        let part: Vec<_> = source.iter().copied().filter(|(key, _)| first(key).as_ref() == Some(prefix)).collect();
        Assignment::best(graph, expected, &part).is_complete()
    };
    prefixes.into_iter().filter(matches).collect()
}

/// An assignment of the file's keys to the network's.
#[derive(Default)]
struct Assignment {
    matched: BTreeMap<String, String>,
    /// Biases of the file, and the running means from which they are subtracted.
    folded: Vec<(String, String)>,
    missing: Vec<String>,
    unexpected: Vec<String>,
    misshapen: Vec<String>,
}

impl Assignment {
    fn best(graph: &Graph, expected: &[(String, Vec<usize>)], source: &[&(String, Vec<usize>)]) -> Assignment {
        let mut best: Option<Assignment> = None;
        for prefix in prefixes(source) {
            for layout in LAYOUTS {
                let assignment = Assignment::of(graph, expected, source, &prefix, layout);
                if assignment.is_complete() {
                    return assignment;
                }
                if best.as_ref().is_none_or(|best| assignment.matched.len() > best.matched.len()) {
                    best = Some(assignment);
                }
            }
        }
        best.unwrap_or_default()
    }

    fn of(
        graph: &Graph,
        expected: &[(String, Vec<usize>)],
        source: &[&(String, Vec<usize>)],
        prefix: &str,
        layout: &[(&str, &str)],
    ) -> Assignment {
        let mut assignment = Assignment::default();
        let mut offered: HashMap<String, &(String, Vec<usize>)> = HashMap::new();
        for entry in source {
            match entry.0.strip_prefix(prefix) {
                Some(key) => drop(offered.insert(renamed(key, layout), entry)),
                None => assignment.unexpected.push(entry.0.clone()),
            }
        }
        for (key, shape) in expected {
            match offered.remove(key) {
                None => assignment.missing.push(key.clone()),
                Some((name, found)) if same_shape(found, shape) => {
                    drop(assignment.matched.insert(key.clone(), name.clone()))
                }
                Some((_, found)) => assignment.misshapen.push(format!("{key} is {found:?}, not {shape:?}")),
            }
        }
        let shapes: HashMap<&str, &Vec<usize>> = expected.iter().map(|(key, shape)| (key.as_str(), shape)).collect();
        let mut rest: Vec<_> = offered.into_iter().collect();
        rest.sort();
        for (key, (name, shape)) in rest {
            match running_mean_after(graph, &key) {
                Some(norm) if shapes.get(norm.as_str()) == Some(&shape) => assignment.folded.push((name.clone(), norm)),
                _ => assignment.unexpected.push(name.clone()),
            }
        }
        assignment
    }

    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty() && !self.matched.is_empty()
    }

    fn problem(&self) -> String {
        let mut parts = Vec::new();
        for (word, names) in
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("of another shape", &self.misshapen)]
        {
            if !names.is_empty() {
                parts.push(format!("{word}: {}", shorten(names)));
            }
        }
        if parts.is_empty() { "the file has no tensors".into() } else { parts.join("; ") }
    }
}

/// The prefixes to try: none, then those that all keys share, each longer than the last.
fn prefixes(source: &[&(String, Vec<usize>)]) -> Vec<String> {
    let mut prefixes = vec![String::new()];
    loop {
        let so_far = prefixes.last().cloned().unwrap_or_default();
        let after = |key: &str| key.strip_prefix(so_far.as_str()).map(str::to_string);
        let Some(first) = source.first().and_then(|(key, _)| after(key)) else { return prefixes };
        let known = PREFIXES.iter().find(|prefix| first.starts_with(**prefix)).map(|prefix| prefix.to_string());
        let Some(next) = known.or_else(|| first.split_once('.').map(|(head, _)| format!("{head}."))) else {
            return prefixes;
        };
        let longer = format!("{so_far}{next}");
        if prefixes.len() > 4 || !source.iter().all(|(key, _)| key.starts_with(&longer)) {
            return prefixes;
        }
        prefixes.push(longer);
    }
}

fn renamed(key: &str, layout: &[(&str, &str)]) -> String {
    let mut key = key.to_string();
    for (from, to) in layout {
        // Only whole components of the key.
        if let Some(at) = key.find(from).filter(|&at| at == 0 || key.as_bytes()[at - 1] == b'.') {
            key.replace_range(at..at + from.len(), to);
        }
    }
    key
}

/// Equal shapes, or a matrix that is stored as a convolution over the whole feature map.
fn same_shape(found: &[usize], wanted: &[usize]) -> bool {
    let flattened = wanted.len() == 2 && found.len() == 4 && found[0] == wanted[0];
    found == wanted || flattened && found[1..].iter().try_fold(1usize, |n, &e| n.checked_mul(e)) == Some(wanted[1])
}

/// The running mean of the batch norm after the convolution of this bias, if the graph's convolution has no bias.
fn running_mean_after(graph: &Graph, key: &str) -> Option<String> {
    let layer = graph.layer(key.strip_suffix(".bias")?)?;
    let without = matches!(&layer.kind, Kind::Conv(conv) if !conv.bias);
    let mut users = graph.layers.iter().filter(|other| other.inputs.contains(&layer.name));
    let norm = users.next().filter(|user| matches!(user.kind, Kind::BatchNorm(_)))?;
    (without && users.next().is_none()).then(|| format!("{}.running_mean", norm.name))
}

fn match_by_order(
    expected: &[(String, Vec<usize>)],
    source: &[&(String, Vec<usize>)],
) -> Option<BTreeMap<String, String>> {
    let ending = |key: &str| key.rsplit('.').next().map(str::to_string);
    let fits = expected.len() == source.len()
        && expected
            .iter()
            .zip(source)
            .all(|((key, shape), (name, found))| shape == found && ending(key) == ending(name));
    let distinct: BTreeSet<&str> = source.iter().map(|(name, _)| name.as_str()).collect();
    let pairs = || expected.iter().zip(source).map(|((key, _), (name, _))| (key.clone(), name.clone())).collect();
    (fits && distinct.len() == source.len() && !expected.is_empty()).then(pairs)
}
