//! Receptive fields: which positions of one tensor a position of another depends on.

use std::collections::HashMap;

use crate::block::Block;
use crate::layer::Footprint;
use crate::{Graph, Layer};

/// The receptive field along one axis: position i of a tensor depends on the `size` positions of an earlier tensor that
/// begin at `first + i * jump`. Positions outside the earlier tensor lie in padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// First position behind position 0; negative in padding.
    pub first: i64,
    /// Number of positions.
    pub size: usize,
    /// Distance between the fields of neighbouring positions: the product of the strides.
    pub jump: usize,
}

impl Field {
    const POINT: Field = Field { first: 0, size: 1, jump: 1 };

    /// The field in a layer's input, for this field in its output (Araujo, Norris and Sim, Computing Receptive Fields
    /// of Convolutional Neural Networks, Distill 2019, eq. 1 and 2, from the output to the input).
    fn through(self, footprint: &Footprint, axis: usize) -> Field {
        let Footprint { kernel, stride, dilation, before } = footprint;
        let step = stride[axis] as i64;
        let first = self.first.saturating_mul(step).saturating_sub(before[axis] as i64);
        let span = (self.size - 1).saturating_mul(stride[axis]);
        let taps = (kernel[axis] - 1).saturating_mul(dilation[axis]);
        Field { first, size: span.saturating_add(taps).saturating_add(1), jump: self.jump.saturating_mul(stride[axis]) }
    }

    /// Last position behind position 0.
    pub fn last(self) -> i64 {
        self.end() - 1
    }

    /// One past the last position behind position 0.
    fn end(self) -> i64 {
        self.first.saturating_add_unsigned(self.size as u64)
    }

    /// The smallest field that contains both, with the larger jump.
    fn union(self, other: Field) -> Field {
        let first = self.first.min(other.first);
        let size = self.end().max(other.end()).abs_diff(first) as usize;
        Field { first, size, jump: self.jump.max(other.jump) }
    }
}

/// What a layer without a fixed window, and paths of different strides, make of the field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// No field: none would be exact.
    Exact,
    /// An envelope: a layer without a fixed window counts as 1x1, and fields of different jumps are united.
    Envelope,
}

/// Rows' and columns' receptive field of tensor `of` in tensor `within`, each a layer's name or
/// [`INPUT`](crate::INPUT), over all paths between them.
///
/// `None` where a path goes through a layer without a fixed window (global pooling, linear layers, reshapes,
/// enlargement), where paths have different strides, and where `of` does not depend on `within`.
pub fn receptive_field(graph: &Graph, of: &str, within: &str) -> Option<[Field; 2]> {
    fields(&graph.layers, of, Rule::Exact).remove(within)?
}

/// Rows and columns of the block's input that one position of its output depends on by convolutions and pooling: the
/// kernel that a single convolution needs to depend on as much. Layers without a fixed window count as 1x1, since no
/// kernel could cover them.
pub fn kernel_extent(graph: &Graph, block: &Block) -> [usize; 2] {
    let layers: Vec<&Layer> = block.layers.iter().filter_map(|name| graph.layer(name)).collect();
    let fields = fields(layers, &block.output, Rule::Envelope);
    fields.get(&block.input).copied().flatten().map_or([1, 1], |fields| fields.map(|field| field.size))
}

/// The receptive fields (rows, columns) of tensor `of` in every tensor that it depends on within `layers`, by name;
/// `None` where the rule gives none.
pub(crate) fn fields<'a, L>(layers: L, of: &str, rule: Rule) -> HashMap<String, Option<[Field; 2]>>
where
    L: IntoIterator<Item = &'a Layer, IntoIter: DoubleEndedIterator>,
{
    let mut fields: HashMap<String, Option<[Field; 2]>> = HashMap::from([(of.to_string(), Some([Field::POINT; 2]))]);
    for layer in layers.into_iter().rev() {
        let Some(&out) = fields.get(&layer.name) else { continue };
        let footprint = match rule {
            Rule::Exact => layer.kind.footprint(),
            Rule::Envelope => Some(layer.kind.footprint().unwrap_or(Footprint::POINTWISE)),
        };
        let through =
            |(out, footprint): ([Field; 2], Footprint)| [0, 1].map(|axis| out[axis].through(&footprint, axis));
        let field = out.zip(footprint).map(through);
        for input in &layer.inputs {
            let united = match fields.get(input) {
                None => field,
                Some(known) => known.zip(field).and_then(|(a, b)| {
                    let agree = a[0].jump == b[0].jump && a[1].jump == b[1].jump;
                    (agree || rule == Rule::Envelope).then(|| [a[0].union(b[0]), a[1].union(b[1])])
                }),
            };
            fields.insert(input.clone(), united);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{AdaptiveAvgPool, Kind, Pad};
    use crate::{Conv, INPUT, Padding, Shape, Window};

    fn graph(layers: &[(&str, &[&str], Kind)]) -> Graph {
        let layer = |(name, inputs, kind): &(&str, &[&str], Kind)| Layer {
            name: name.to_string(),
            inputs: inputs.iter().map(|input| input.to_string()).collect(),
            kind: kind.clone(),
        };
        let layers: Vec<Layer> = layers.iter().map(layer).collect();
        let output = layers.last().map_or_else(|| INPUT.to_string(), |layer| layer.name.clone());
        Graph { name: "g".into(), input: Shape::new(3, 32, 32), layers, output }
    }

    /// Two 3x3 convolutions and a pooling between: 3, then 4 with jump 2, then 4 + 2 * 2 = 8.
    #[test]
    fn windows_compose() {
        let conv = Kind::Conv(Conv::same(4, 3));
        let graph = graph(&[
            ("a", &[INPUT], conv.clone()),
            ("b", &["a"], Kind::MaxPool(Window::square(2))),
            ("c", &["b"], conv),
        ]);
        let field = |first, size, jump| Some([Field { first, size, jump }; 2]);
        assert_eq!(receptive_field(&graph, "a", INPUT), field(-1, 3, 1));
        assert_eq!(receptive_field(&graph, "b", INPUT), field(-1, 4, 2));
        assert_eq!(receptive_field(&graph, "c", INPUT), field(-3, 8, 2));
        assert_eq!(receptive_field(&graph, "c", "b"), field(-1, 3, 1));
        assert_eq!(receptive_field(&graph, "a", "c"), None);
        let block = crate::block::range(&graph, "x", "a", "c").unwrap();
        assert_eq!(kernel_extent(&graph, &block), [8, 8]);
    }

    #[test]
    fn paths_unite_and_unequal_strides_have_no_field() {
        let strided = |stride| Kind::Conv(Conv { stride: [stride; 2], ..Conv::same(4, 3) });
        let halved = |padding| Kind::MaxPool(Window { kernel: [1; 2], stride: [2; 2], padding });
        let shifted =
            Kind::Pad(Pad { channels: [0, 0], padding: Padding { top: 2, bottom: 0, left: 0, right: 0 }, value: 0.0 });
        let two = graph(&[
            ("a", &[INPUT], strided(2)),
            ("b", &[INPUT], halved(Padding::default())),
            ("c", &["b"], shifted),
            ("d", &["a", "c"], Kind::Add),
        ]);
        // Rows: -1..=1 by the convolution, -4 by two rows of padding after a stride of 2.
        let rows = Field { first: -4, size: 6, jump: 2 };
        assert_eq!(receptive_field(&two, "d", INPUT), Some([rows, Field { first: -1, size: 3, jump: 2 }]));
        let unequal = graph(&[("a", &[INPUT], strided(2)), ("b", &[INPUT], strided(1)), ("c", &["a", "b"], Kind::Add)]);
        assert_eq!(receptive_field(&unequal, "c", INPUT), None);
    }

    #[test]
    fn global_pooling_has_no_field_and_no_kernel() {
        let pool = Kind::AdaptiveAvgPool(AdaptiveAvgPool { height: 1, width: 1 });
        let graph =
            graph(&[("a", &[INPUT], Kind::Conv(Conv::same(3, 5))), ("b", &["a"], pool), ("c", &["a", "b"], Kind::Mul)]);
        assert_eq!(receptive_field(&graph, "c", INPUT), None);
        let block = crate::block::range(&graph, "x", "a", "c").unwrap();
        assert_eq!(kernel_extent(&graph, &block), [5, 5]);
    }
}
