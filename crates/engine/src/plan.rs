//! The execution plan: the buffer of every tensor and gradient, and what the backward pass does, decided once per model.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::lowering::{LoweredModel, Node, TensorId};
use crate::operation::{BufferView, InputView, Operation};
use crate::packing::{Lifetime, pack};

/// Where the gradient of an operation's input comes from. `V` is a tensor: a [`BufferView`] once buffers are assigned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputGradient<V> {
    /// It is not needed.
    NotNeeded,
    /// It is the gradient of the output, in the same buffer.
    InPlace,
    /// It is the gradient of the output, copied to `to`, or added to what `to` already holds.
    PassedThrough { to: V, accumulate: bool },
    /// It is computed: into `to`, or into `temporary` and then added to `to`.
    Computed { to: V, temporary: Option<V> },
}

impl<V: Copy> InputGradient<V> {
    fn map<W>(self, view: impl Fn(V) -> W) -> InputGradient<W> {
        match self {
            InputGradient::NotNeeded => InputGradient::NotNeeded,
            InputGradient::InPlace => InputGradient::InPlace,
            InputGradient::PassedThrough { to, accumulate } => {
                InputGradient::PassedThrough { to: view(to), accumulate }
            }
            InputGradient::Computed { to, temporary } => {
                InputGradient::Computed { to: view(to), temporary: temporary.map(view) }
            }
        }
    }
}

/// An operation with its tensors.
pub(crate) struct PlannedOperation {
    pub operation: Box<dyn Operation>,
    pub inputs: Vec<InputView>,
    pub output: BufferView,
    /// The operation's own tensor that is kept from forward to backward.
    pub saved: Option<BufferView>,
    /// The gradient of the output; `None` where the backward pass skips the operation.
    pub gradient: Option<BufferView>,
    /// One for each input.
    pub input_gradients: Vec<InputGradient<BufferView>>,
    /// Index of the buffer that keeps a copy of the output's gradient for the caller.
    pub kept_gradient: Option<usize>,
}

/// All operations of a model, in the order of the forward pass.
pub(crate) struct ExecutionPlan {
    pub operations: Vec<PlannedOperation>,
    pub output: BufferView,
    /// The gradients of the tensors that enter the loss: of the output, then of those that are compared.
    pub loss_gradients: Vec<LossGradient>,
    /// Tensors that the caller can read, by layer.
    pub kept: BTreeMap<String, BufferView>,
    /// Gradients that the caller can read, by layer, in buffers of their own.
    pub kept_gradients: BTreeMap<String, BufferView>,
    /// The parts of the forward pass.
    pub segments: Vec<Segment>,
    /// Elements of every shared buffer.
    pub buffer_sizes: Vec<usize>,
    /// Elements of every kept gradient.
    pub kept_gradient_sizes: Vec<usize>,
}

/// The gradient of a tensor that enters the loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossGradient {
    /// Elements per image.
    pub elements: usize,
    /// Where the backward pass finds it; `None` if nothing at or below the tensor trains.
    pub to: Option<BufferView>,
    /// Whether an earlier one of these tensors is the same, so that their gradients add up.
    pub accumulate: bool,
}

impl ExecutionPlan {
    /// Bytes that the operations hold themselves.
    pub fn operation_bytes(&self) -> usize {
        self.operations.iter().map(|planned| planned.operation.bytes()).sum()
    }

    /// Bytes of the working memory that the operations share, in whole floats.
    pub fn scratch_bytes(&self) -> usize {
        let most = self.operations.iter().map(|planned| planned.operation.scratch_bytes()).max();
        most.unwrap_or(0).next_multiple_of(size_of::<f32>())
    }
}

/// Time steps: operation i runs forward at i and backward at 2 n - i; the loss is computed at n; 2 n + 1 is the end.
struct Timeline {
    operations: usize,
}

impl Timeline {
    fn loss(&self) -> usize {
        self.operations
    }
    fn backward(&self, operation: usize) -> usize {
        2 * self.operations - operation
    }
    fn end(&self) -> usize {
        2 * self.operations + 1
    }
}

/// How gradients flow back from the output.
struct GradientFlow {
    /// For each tensor, whether its gradient is needed: something at or below it trains.
    needed: Vec<bool>,
    /// For each tensor, how many gradients add up to its own.
    contributions: Vec<usize>,
    /// For each node, whether the backward pass visits it.
    visited: Vec<bool>,
}

impl GradientFlow {
    fn new(nodes: &[Node], tensors: usize, losses: &[TensorId], full_backward: bool) -> GradientFlow {
        let mut needed = vec![false; tensors];
        for node in nodes {
            needed[node.output] = node.trains || full_backward || node.inputs.iter().any(|&t| needed[t]);
        }
        let mut contributions = vec![0usize; tensors];
        losses.iter().for_each(|&t| contributions[t] += usize::from(needed[t]));
        let mut visited = vec![false; nodes.len()];
        for (i, node) in nodes.iter().enumerate().rev() {
            visited[i] = needed[node.output] && contributions[node.output] > 0;
            if visited[i] {
                node.inputs.iter().filter(|&&t| needed[t]).for_each(|&t| contributions[t] += 1);
            }
        }
        GradientFlow { needed, contributions, visited }
    }
}

/// Fuses the backward pass of a ReLU into the convolution that reads its output, which then masks the gradient as it writes
/// it. Only where nothing else is added to that gradient and the caller does not read it.
fn fuse_relu_backward(nodes: &mut [Node], flow: &GradientFlow, kept_gradients: &[TensorId]) {
    let mut producer = vec![None; flow.needed.len()];
    for i in 0..nodes.len() {
        producer[nodes[i].output] = Some(i);
        let t = nodes[i].inputs[0];
        let sole_contribution = flow.visited[i] && flow.needed[t] && flow.contributions[t] == 1;
        if let Some(below) = producer[t].filter(|_| sole_contribution)
            && nodes[below].operation.applies_relu_backward()
            && !kept_gradients.contains(&t)
            && nodes[i].operation.fuse_input_relu_backward()
        {
            nodes[below].operation.set_fused_relu_backward();
        }
    }
}

/// Tensors by kind; each [`Tensor`] is an index into one of these lists.
struct Tensors {
    values: Vec<Lifetime>,
    saved: Vec<Lifetime>,
    gradients: Vec<Lifetime>,
    temporaries: Vec<Lifetime>,
}

#[derive(Clone, Copy, Debug)]
enum Tensor {
    Value(TensorId),
    Saved(usize),
    Gradient(usize),
    Temporary(usize),
}

/// Assigns the buffers of a lowered model for batches of up to `batch` images.
pub(crate) fn plan(model: LoweredModel, batch: usize, threads: usize) -> ExecutionPlan {
    let LoweredModel { mut nodes, elements, kept, kept_gradients, compared, output, full_backward } = model;
    let losses = [&[output], &compared[..]].concat();
    let mut with_kept_gradient: Vec<TensorId> = kept_gradients.values().copied().collect();
    with_kept_gradient.sort_unstable();
    with_kept_gradient.dedup();

    let flow = GradientFlow::new(&nodes, elements.len(), &losses, full_backward);
    fuse_relu_backward(&mut nodes, &flow, &with_kept_gradient);

    let timeline = Timeline { operations: nodes.len() };
    let (mut values, mut saved) =
        forward_lifetimes(&nodes, &elements, &flow, &timeline, kept.values().chain([&output]));
    // Only inference is divided: a backward pass needs the tensors of the whole batch.
    let segments = match flow.visited.contains(&true) {
        true => vec![Segment { operations: 0..nodes.len(), images: batch }],
        false => segments(&nodes, &elements, batch, threads),
    };
    let whole = size_by_segment(&segments, batch, &mut values, &mut saved);
    let mut tensors = Tensors {
        values,
        saved: saved.iter().map(|&(_, lifetime)| lifetime).collect(),
        gradients: Vec::new(),
        temporaries: Vec::new(),
    };
    let (gradient_of, input_gradients) = gradients(&nodes, &elements, &flow, &timeline, &losses, &mut tensors);

    // One packing for all tensors; tensor 0 belongs to the caller.
    let Tensors { values, saved: saved_lifetimes, mut gradients, mut temporaries } = tensors;
    // Gradients belong to the whole batch.
    gradients.iter_mut().chain(&mut temporaries).for_each(|lifetime| lifetime.elements *= batch);
    let all = [&values[1..], &saved_lifetimes, &gradients, &temporaries].concat();
    let packing = pack(&all);
    let view = |tensor: Tensor| {
        let (index, images) = match tensor {
            Tensor::Value(t) => (t - 1, whole.values[t]),
            Tensor::Saved(i) => (values.len() - 1 + i, whole.saved[i]),
            Tensor::Gradient(i) => (values.len() - 1 + saved.len() + i, batch),
            Tensor::Temporary(i) => (values.len() - 1 + saved.len() + gradients.len() + i, batch),
        };
        BufferView { buffer: packing.buffer_of[index], elements: all[index].elements / images, whole: images == batch }
    };
    let input_view =
        |t: TensorId| if t == 0 { InputView::Images(elements[0]) } else { InputView::Buffer(view(Tensor::Value(t))) };
    let kept_index = |tensor: TensorId| with_kept_gradient.iter().position(|&t| t == tensor);

    let operations = nodes
        .into_iter()
        .zip(input_gradients)
        .enumerate()
        .map(|(i, (node, input_gradients))| PlannedOperation {
            inputs: node.inputs.iter().map(|&t| input_view(t)).collect(),
            output: view(Tensor::Value(node.output)),
            saved: saved.iter().position(|&(owner, _)| owner == i).map(|s| view(Tensor::Saved(s))),
            gradient: gradient_of[node.output].filter(|_| flow.visited[i]).map(|id| view(Tensor::Gradient(id))),
            input_gradients: input_gradients.into_iter().map(|gradient| gradient.map(view)).collect(),
            kept_gradient: kept_index(node.output),
            operation: node.operation,
        })
        .collect();
    ExecutionPlan {
        operations,
        output: view(Tensor::Value(output)),
        loss_gradients: (losses.iter().enumerate())
            .map(|(place, &t)| LossGradient {
                elements: elements[t],
                to: gradient_of[t].filter(|_| flow.needed[t]).map(|id| view(Tensor::Gradient(id))),
                accumulate: losses[..place].contains(&t),
            })
            .collect(),
        kept: kept.into_iter().map(|(name, t)| (name, view(Tensor::Value(t)))).collect(),
        kept_gradients: kept_gradients
            .into_iter()
            .filter_map(|(name, t)| {
                Some((name, BufferView { buffer: kept_index(t)?, elements: elements[t], whole: true }))
            })
            .collect(),
        segments,
        buffer_sizes: packing.sizes,
        kept_gradient_sizes: with_kept_gradient.iter().map(|&t| elements[t] * batch).collect(),
    }
}

/// Consecutive operations that run one after the other for a part of the batch, then for the next part. No result depends on the
/// division: in evaluation mode the output of an image does not depend on the other images.
pub(crate) struct Segment {
    pub operations: Range<usize>,
    /// Images of a part; the last one may have fewer.
    pub images: usize,
}

/// Bytes of an operation's tensors up to which they stay in the processor's last cache from one operation to the next.
const CACHE_BYTES: usize = 8 << 20;

/// Divides a forward pass so that the tensors of most operations stay in cache.
///
/// Parts never become smaller along the network, so that there are few segments: images shrink towards the output, and weights,
/// which every part reads again, grow. A part has images for every thread.
fn segments(nodes: &[Node], elements: &[usize], batch: usize, threads: usize) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut most = batch;
    for (i, node) in nodes.iter().enumerate().rev() {
        let tensors = node.inputs.iter().map(|&t| elements[t]).sum::<usize>() + elements[node.output];
        let bytes = size_of::<f32>() * (tensors + node.operation.saved_elements());
        let fitting = (CACHE_BYTES / bytes.max(1)).max(2 * threads);
        // A power of two divides most batches without remainder.
        let parts = batch.div_ceil(fitting).next_power_of_two();
        most = most.min(batch.div_ceil(parts));
        match segments.last_mut() {
            Some(segment) if segment.images == most => segment.operations.start = i,
            _ => segments.push(Segment { operations: i..i + 1, images: most }),
        }
    }
    segments.reverse();
    segments
}

/// For each tensor, the number of images that its buffer holds.
struct BufferImages {
    values: Vec<usize>,
    saved: Vec<usize>,
}

/// Turns elements per image into elements: of the part of the batch for tensors that only one segment uses, of the whole batch
/// for all others. These live as long as the segments that use them, which run once for each part.
fn size_by_segment(
    segments: &[Segment],
    batch: usize,
    values: &mut [Lifetime],
    saved: &mut [(usize, Lifetime)],
) -> BufferImages {
    let size = |lifetime: &mut Lifetime| {
        let own = segments.iter().find(|segment| segment.operations.contains(&lifetime.start));
        let images = match own {
            Some(segment) if lifetime.end < segment.operations.end => segment.images,
            Some(segment) => {
                lifetime.start = segment.operations.start;
                let last = segments.iter().find(|segment| segment.operations.contains(&lifetime.end));
                lifetime.end = last.map_or(lifetime.end, |last| last.operations.end - 1);
                batch
            }
            None => batch,
        };
        lifetime.elements *= images;
        images
    };
    BufferImages {
        values: values.iter_mut().map(size).collect(),
        saved: saved.iter_mut().map(|(_, lifetime)| size(lifetime)).collect(),
    }
}

/// The lifetimes of all tensors of the forward pass, and of the operations' own saved tensors with the index of their node.
fn forward_lifetimes<'a>(
    nodes: &[Node],
    elements: &[usize],
    flow: &GradientFlow,
    timeline: &Timeline,
    readable: impl Iterator<Item = &'a TensorId>,
) -> (Vec<Lifetime>, Vec<(usize, Lifetime)>) {
    let mut values: Vec<Lifetime> = elements.iter().map(|&elements| Lifetime { elements, start: 0, end: 0 }).collect();
    let mut saved = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let needs = node.operation.saved_for_backward();
        let last_use = |needed: bool| if flow.visited[i] && needed { timeline.backward(i) } else { i };
        (values[node.output].start, values[node.output].end) = (i, last_use(needs.output));
        for &t in &node.inputs {
            values[t].end = values[t].end.max(last_use(needs.inputs));
        }
        let elements = node.operation.saved_elements();
        if elements > 0 {
            saved.push((i, Lifetime { elements, start: i, end: last_use(true) }));
        }
    }
    for &t in readable {
        values[t].end = timeline.end();
    }
    (values, saved)
}

/// Adds the gradients of the backward pass to `tensors`. Returns for each tensor the index of its gradient, and for each node
/// where its inputs' gradients come from. A gradient that passes through to a tensor without other consumers stays in its buffer.
#[allow(clippy::type_complexity)]
fn gradients(
    nodes: &[Node],
    elements: &[usize],
    flow: &GradientFlow,
    timeline: &Timeline,
    losses: &[TensorId],
    tensors: &mut Tensors,
) -> (Vec<Option<usize>>, Vec<Vec<InputGradient<Tensor>>>) {
    let Tensors { gradients, temporaries, .. } = tensors;
    let mut gradient_of: Vec<Option<usize>> = vec![None; elements.len()];
    for &t in losses.iter().filter(|&&t| flow.needed[t]) {
        gradient_of[t].get_or_insert_with(|| {
            gradients.push(Lifetime { elements: elements[t], start: timeline.loss(), end: timeline.loss() });
            gradients.len() - 1
        });
    }
    let mut input_gradients = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate().rev() {
        let now = timeline.backward(i);
        let own = gradient_of[node.output].filter(|_| flow.visited[i]);
        if let Some(own) = own {
            gradients[own].end = now;
        }
        let mut in_place = false;
        let mut list = Vec::with_capacity(node.inputs.len());
        for (k, &t) in node.inputs.iter().enumerate() {
            let (Some(own), true) = (own, flow.needed[t]) else {
                list.push(InputGradient::NotNeeded);
                continue;
            };
            let passes_through = node.operation.passes_gradient_through(k);
            let first = gradient_of[t].is_none();
            if first && passes_through && !in_place && flow.contributions[t] == 1 {
                in_place = true;
                gradient_of[t] = Some(own);
                list.push(InputGradient::InPlace);
                continue;
            }
            let id = *gradient_of[t].get_or_insert_with(|| {
                gradients.push(Lifetime { elements: elements[t], start: now, end: now });
                gradients.len() - 1
            });
            gradients[id].end = now;
            let to = Tensor::Gradient(id);
            list.push(if passes_through {
                InputGradient::PassedThrough { to, accumulate: !first }
            } else if first {
                InputGradient::Computed { to, temporary: None }
            } else {
                temporaries.push(Lifetime { elements: elements[t], start: now, end: now });
                InputGradient::Computed { to, temporary: Some(Tensor::Temporary(temporaries.len() - 1)) }
            });
        }
        input_gradients.push(list);
    }
    input_gradients.reverse();
    (gradient_of, input_gradients)
}
