//! Where every tensor and gradient lives, and what the backward sweep does, decided once.

use std::collections::BTreeMap;

use crate::lower::{Lowered, TensorId};
use crate::memory::{Lifetime, pack};
use crate::op::{IMAGES, Op, Place};

/// What happens to the gradient of one input of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Nothing below needs it.
    None,
    /// It is the output's gradient, in the same buffer.
    Shared,
    /// It is the output's gradient, to be copied, or added where an earlier node of the sweep has written already.
    Passed { to: Place, first: bool },
    /// It is computed, into `to` itself or into `scratch` to be added to it.
    Computed { to: Place, scratch: Option<Place> },
}

/// A node with its places.
pub(crate) struct Step {
    pub op: Box<dyn Op>,
    pub inputs: Vec<Place>,
    pub output: Place,
    pub saved: Option<Place>,
    /// The gradient of the output, where the backward sweep comes by here.
    pub gradient: Option<Place>,
    pub targets: Vec<Target>,
    /// Which of the watched gradients is that of the output.
    pub watched: Option<usize>,
}

/// The whole model's order of work.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub output: Place,
    /// Where the sweep begins, if anything trains.
    pub gradient: Option<Place>,
    pub kept: BTreeMap<String, Place>,
    /// Gradients that stay readable: which one, and how many elements an image.
    pub watched: BTreeMap<String, (usize, usize)>,
    /// Elements per image of every buffer.
    pub sizes: Vec<usize>,
}

/// Moments: node i runs forward at i and backward at 2 n - i; the loss is at n; everything is over at 2 n + 1.
struct Times {
    nodes: usize,
}

impl Times {
    fn loss(&self) -> usize {
        self.nodes
    }
    fn backward(&self, node: usize) -> usize {
        2 * self.nodes - node
    }
    fn end(&self) -> usize {
        2 * self.nodes + 1
    }
}

/// Plans the buffers of a lowered model.
pub(crate) fn plan(model: Lowered) -> Plan {
    let Lowered { mut nodes, elements, kept, watched, output, whole_sweep } = model;
    let mut seen: Vec<TensorId> = watched.values().copied().collect();
    seen.sort_unstable();
    seen.dedup();
    let times = Times { nodes: nodes.len() };

    // Which tensors have something trainable at or below them, and which nodes the sweep passes.
    let mut trainable = vec![false; elements.len()];
    for node in &nodes {
        trainable[node.output] = node.trains || whole_sweep || node.inputs.iter().any(|&t| trainable[t]);
    }
    let mut contributions = vec![0usize; elements.len()];
    contributions[output] += usize::from(trainable[output]);
    let mut swept = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        swept[i] = trainable[node.output] && contributions[node.output] > 0;
        if swept[i] {
            node.inputs.iter().filter(|&&t| trainable[t]).for_each(|&t| contributions[t] += 1);
        }
    }

    // The ReLU below a convolution: its mask goes onto the gradient as the convolution writes it, if nothing else adds to that
    // and nobody reads it.
    let mut producer = vec![None; elements.len()];
    for i in 0..nodes.len() {
        producer[nodes[i].output] = Some(i);
        let t = nodes[i].inputs[0];
        if let Some(below) = producer[t].filter(|_| swept[i] && trainable[t] && contributions[t] == 1)
            && nodes[below].op.masks()
            && !seen.contains(&t)
            && nodes[i].op.mask_input()
        {
            nodes[below].op.comes_masked();
        }
    }

    // Lifetimes of values.
    let mut values: Vec<Lifetime> = elements.iter().map(|&elements| Lifetime { elements, start: 0, end: 0 }).collect();
    let mut saved = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let reads = node.op.reads();
        let (again, last) = (swept[i], times.backward(i));
        (values[node.output].start, values[node.output].end) = (i, if again && reads.output { last } else { i });
        for &t in &node.inputs {
            values[t].end = values[t].end.max(if again && reads.inputs { last } else { i });
        }
        if node.op.saved() > 0 {
            saved.push((i, Lifetime { elements: node.op.saved(), start: i, end: if again { last } else { i } }));
        }
    }
    for &t in kept.values().chain([&output]) {
        values[t].end = times.end();
    }

    // Gradients: shared along nodes that pass them on, where the tensor has no other reader.
    let mut gradient_of: Vec<Option<usize>> = vec![None; elements.len()];
    let mut gradients: Vec<Lifetime> = Vec::new();
    let mut scratch: Vec<Lifetime> = Vec::new();
    if contributions[output] > 0 {
        gradient_of[output] = Some(0);
        gradients.push(Lifetime { elements: elements[output], start: times.loss(), end: times.loss() });
    }
    /// A target before slots are known: indices into `gradients` and `scratch`.
    enum Draft {
        None,
        Shared,
        Passed(usize, bool),
        Computed(usize, Option<usize>),
    }
    let mut drafts: Vec<Vec<Draft>> = Vec::new();
    for (i, node) in nodes.iter().enumerate().rev() {
        let now = times.backward(i);
        let mut list = Vec::new();
        let own = if swept[i] { gradient_of[node.output] } else { None };
        if let Some(own) = own {
            gradients[own].end = now;
        }
        let mut shared = false;
        for (k, &t) in node.inputs.iter().enumerate() {
            let (Some(own), true) = (own, trainable[t]) else {
                list.push(Draft::None);
                continue;
            };
            let passes = node.op.passes(k);
            let draft = match gradient_of[t] {
                None if passes && !shared && contributions[t] == 1 => {
                    shared = true;
                    gradient_of[t] = Some(own);
                    Draft::Shared
                }
                None => {
                    gradients.push(Lifetime { elements: elements[t], start: now, end: now });
                    gradient_of[t] = Some(gradients.len() - 1);
                    if passes {
                        Draft::Passed(gradients.len() - 1, true)
                    } else {
                        Draft::Computed(gradients.len() - 1, None)
                    }
                }
                Some(id) if passes => Draft::Passed(id, false),
                Some(id) => {
                    scratch.push(Lifetime { elements: elements[t], start: now, end: now });
                    Draft::Computed(id, Some(scratch.len() - 1))
                }
            };
            if let Some(id) = gradient_of[t] {
                gradients[id].end = now;
            }
            list.push(draft);
        }
        drafts.push(list);
    }
    drafts.reverse();

    // One packing for everything; tensor 0 lives with the caller.
    let mut all: Vec<Lifetime> = values[1..].to_vec();
    let (saved_at, gradients_at) = (all.len(), all.len() + saved.len());
    all.extend(saved.iter().map(|(_, lifetime)| *lifetime));
    all.extend(&gradients);
    let scratch_at = all.len();
    all.extend(&scratch);
    let packing = pack(&all);
    let place = |index: usize| Place { slot: packing.slots[index], elements: all[index].elements };
    let value = |t: TensorId| if t == 0 { Place { slot: IMAGES, elements: elements[0] } } else { place(t - 1) };

    let mut steps = Vec::with_capacity(nodes.len());
    for ((i, node), drafts) in nodes.into_iter().enumerate().zip(drafts) {
        let gradient = if swept[i] { gradient_of[node.output] } else { None };
        let targets = drafts.iter().map(|draft| match *draft {
            Draft::None => Target::None,
            Draft::Shared => Target::Shared,
            Draft::Passed(id, first) => Target::Passed { to: place(gradients_at + id), first },
            Draft::Computed(id, temporary) => {
                Target::Computed { to: place(gradients_at + id), scratch: temporary.map(|id| place(scratch_at + id)) }
            }
        });
        steps.push(Step {
            inputs: node.inputs.iter().map(|&t| value(t)).collect(),
            output: value(node.output),
            saved: saved.iter().position(|&(owner, _)| owner == i).map(|s| place(saved_at + s)),
            gradient: gradient.map(|id| place(gradients_at + id)),
            targets: targets.collect(),
            watched: seen.iter().position(|&t| t == node.output),
            op: node.op,
        });
    }
    Plan {
        steps,
        output: value(output),
        gradient: gradient_of[output].map(|id| place(gradients_at + id)),
        kept: kept.into_iter().map(|(name, t)| (name, value(t))).collect(),
        watched: watched
            .into_iter()
            .filter_map(|(name, t)| Some((name, (seen.iter().position(|&s| s == t)?, elements[t]))))
            .collect(),
        sizes: packing.sizes,
    }
}
