//! The patches of validation images that activate a substitute's filters most, and its dead filters.

use nettriage_net::{Activation, Conv, Graph, INPUT, Kind, Padding, Window};
use nettriage_records::record::Patch;

/// Patches shown of a filter.
const SHOWN: usize = 4;

/// The field that one place of a tensor sees, along one axis: place i sees `size` pixels from `first + i * jump` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    first: isize,
    size: usize,
    jump: usize,
}

/// Rows' and columns' fields of a tensor; `None` where its places see the whole image, or are no places.
///
/// (Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, eq. 2 and 3.)
pub(crate) fn field(graph: &Graph, tensor: &str) -> Option<[Field; 2]> {
    let one = Field { first: 0, size: 1, jump: 1 };
    let mut known: Vec<(&str, Option<[Field; 2]>)> = vec![(INPUT, Some([one; 2]))];
    for layer in &graph.layers {
        let of = |name: &String| known.iter().rev().find(|(other, _)| other == name).and_then(|(_, field)| *field);
        let first = layer.inputs.first().and_then(of);
        let field = match &layer.kind {
            Kind::Conv(Conv { kernel, stride, padding, dilation, .. }) => {
                let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
                first.map(|f| window(f, reach, *stride, padding))
            }
            Kind::MaxPool(Window { kernel, stride, padding })
            | Kind::AvgPool { window: Window { kernel, stride, padding }, .. } => {
                first.map(|f| window(f, *kernel, *stride, padding))
            }
            Kind::Pad { padding, .. } => first.map(|f| window(f, [1, 1], [1, 1], padding)),
            Kind::Add | Kind::Mul | Kind::Concat => {
                let all: Option<Vec<[Field; 2]>> = layer.inputs.iter().map(of).collect();
                all.and_then(|all| all.into_iter().map(Some).reduce(joined)?)
            }
            Kind::BatchNorm { .. }
            | Kind::Affine
            | Kind::Activation(_)
            | Kind::ChannelShuffle { .. }
            | Kind::Slice { .. }
            | Kind::LocalResponseNorm { .. }
            | Kind::Dropout { .. }
            | Kind::Softmax { .. }
            | Kind::Identity => first,
            Kind::ConvTranspose { .. }
            | Kind::Linear { .. }
            | Kind::AdaptiveAvgPool { .. }
            | Kind::Flatten
            | Kind::Reshape { .. }
            | Kind::Upsample { .. } => None,
        };
        known.push((&layer.name, field));
    }
    known.into_iter().rev().find(|(name, _)| *name == tensor).and_then(|(_, field)| field)
}

fn window(fields: [Field; 2], kernel: [usize; 2], stride: [usize; 2], padding: &Padding) -> [Field; 2] {
    let before = [padding.top, padding.left];
    [0, 1].map(|axis| {
        let Field { first, size, jump } = fields[axis];
        Field {
            first: first - (before[axis] * jump) as isize,
            size: size + (kernel[axis] - 1) * jump,
            jump: jump * stride[axis],
        }
    })
}

fn joined(a: Option<[Field; 2]>, b: Option<[Field; 2]>) -> Option<[Field; 2]> {
    let (a, b) = a.zip(b)?;
    let axis = |axis: usize| {
        let (a, b) = (a[axis], b[axis]);
        let (first, end) = (a.first.min(b.first), (a.first + a.size as isize).max(b.first + b.size as isize));
        (a.jump == b.jump).then(|| Field { first, size: (end - first) as usize, jump: a.jump })
    };
    Some([axis(0)?, axis(1)?])
}

/// The positions of the largest activations of each of the first filters of a tensor, image by image.
pub(crate) struct LargestActivations {
    channels: usize,
    width: usize,
    shown: usize,
    /// Whether a filter's output was ever other than 0.
    alive: Vec<bool>,
    /// For each filter shown: (value, image, row, column), strongest first.
    strongest: Vec<Vec<(f32, usize, usize, usize)>>,
}

impl LargestActivations {
    /// No image yet, of a tensor with `channels` channels and `width` columns; patches are kept of the first `shown` filters.
    pub fn new(channels: usize, width: usize, shown: usize) -> LargestActivations {
        let shown = shown.min(channels);
        LargestActivations { channels, width, shown, alive: vec![false; channels], strongest: vec![Vec::new(); shown] }
    }

    /// Adds one image's values (H x W x C).
    pub fn add(&mut self, image: usize, values: &[f32]) {
        let mut best = vec![(f32::NEG_INFINITY, 0); self.shown];
        for (place, row) in values.chunks_exact(self.channels).enumerate() {
            self.alive.iter_mut().zip(row).for_each(|(alive, value)| *alive |= *value != 0.0);
            for (best, value) in best.iter_mut().zip(row) {
                if *value > best.0 {
                    *best = (*value, place);
                }
            }
        }
        for (list, (value, place)) in self.strongest.iter_mut().zip(best) {
            if value.is_finite() {
                let at = list.partition_point(|(other, ..)| *other >= value);
                list.insert(at, (value, image, place / self.width, place % self.width));
                list.truncate(SHOWN);
            }
        }
    }

    /// Filters whose output is always 0.
    pub fn dead(&self) -> u64 {
        self.alive.iter().filter(|alive| !**alive).count() as u64
    }

    /// The patches of each filter shown, in images of `extents` rows and columns.
    pub fn patches(&self, field: Option<[Field; 2]>, extents: [usize; 2]) -> Vec<Vec<Patch>> {
        let whole = |axis: usize| Field { first: 0, size: extents[axis], jump: 0 };
        let field = field.unwrap_or([whole(0), whole(1)]);
        let stretch = |axis: usize, place: usize| {
            let start = field[axis].first + (place * field[axis].jump) as isize;
            let end = start + field[axis].size as isize;
            let clamped = |at: isize| at.clamp(0, extents[axis] as isize) as usize;
            (clamped(start), clamped(end) - clamped(start))
        };
        let patch = |&(value, image, row, column): &(f32, usize, usize, usize)| {
            let ((top, height), (left, width)) = (stretch(0, row), stretch(1, column));
            Patch { image, top, left, height, width, value }
        };
        let alive = |filter: usize| if self.alive[filter] { self.strongest[filter].as_slice() } else { &[] };
        (0..self.shown).map(|filter| alive(filter).iter().map(patch).collect()).collect()
    }
}

/// Whether a filter whose output is 0 everywhere is dead: it is if its activation is 0 for all negative inputs.
pub(crate) fn cuts_at_zero(kind: &Kind) -> bool {
    matches!(kind, Kind::Activation(Activation::Relu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nettriage_net::{Layer, Shape};

    fn graph(kinds: &[Kind]) -> Graph {
        let mut layers: Vec<Layer> = Vec::new();
        for (i, kind) in kinds.iter().enumerate() {
            let input = layers.last().map_or(INPUT.to_owned(), |l| l.name.clone());
            layers.push(Layer { name: format!("l{i}"), inputs: vec![input], kind: kind.clone() });
        }
        let output = layers.last().unwrap().name.clone();
        Graph { name: "g".into(), input: Shape::new(1, 16, 16), layers, output }
    }

    #[test]
    fn fields_by_hand() {
        let graph =
            graph(&[Kind::Conv(Conv::same(4, 3)), Kind::MaxPool(Window::square(2)), Kind::Conv(Conv::same(4, 3))]);
        // 3x3: -1..=1. Pooled: place i sees -1..=2 from 2i on. 3x3 over these, one place before: -3..=4.
        assert_eq!(field(&graph, "l0"), Some([Field { first: -1, size: 3, jump: 1 }; 2]));
        assert_eq!(field(&graph, "l1"), Some([Field { first: -1, size: 4, jump: 2 }; 2]));
        assert_eq!(field(&graph, "l2"), Some([Field { first: -3, size: 8, jump: 2 }; 2]));
    }

    #[test]
    fn the_largest_activations_are_found_and_their_patches_cropped_to_the_image() {
        let mut watch = LargestActivations::new(2, 2, 2);
        // 2 x 2 places of 2 channels; the second channel is silent.
        watch.add(0, &[0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]);
        watch.add(1, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0]);
        assert_eq!(watch.dead(), 1);
        let patches = watch.patches(Some([Field { first: -1, size: 3, jump: 2 }; 2]), [4, 4]);
        assert_eq!(patches[0][0], Patch { image: 1, top: 1, left: 1, height: 3, width: 3, value: 0.9 });
        assert_eq!(patches[0][1], Patch { image: 0, top: 0, left: 1, height: 2, width: 3, value: 0.2 });
        assert!(patches[1].is_empty());
        assert_eq!(watch.patches(None, [4, 4])[0][0].height, 4);
    }
}
