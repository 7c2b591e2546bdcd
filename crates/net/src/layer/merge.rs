//! Layers of several inputs: sum, product, concatenation.

use super::operation::{Footprint, Operation, Parameter, Rank, Role};
use crate::Shape;

/// How the inputs become one tensor.
pub(super) enum Merge {
    Add,
    Mul,
    Concat,
}

impl Operation for Merge {
    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let list = || inputs.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Merge::Add | Merge::Mul => {
                let whole = *inputs.iter().max_by_key(|s| s.height * s.width).ok_or("it has no input")?;
                let broadcasts = |s: &Shape| *s == whole || *s == Shape::new(whole.channels, 1, 1);
                let fits = inputs.iter().all(broadcasts);
                if fits { Ok(whole) } else { Err(format!("its inputs differ in shape: {}", list())) }
            }
            Merge::Concat => {
                let first = inputs[0];
                if inputs.iter().any(|s| (s.height, s.width) != (first.height, first.width)) {
                    return Err(format!("its inputs differ in height or width: {}", list()));
                }
                let channels = inputs.iter().try_fold(0usize, |sum, s| sum.checked_add(s.channels));
                Ok(Shape::new(channels.ok_or("too many channels")?, first.height, first.width))
            }
        }
    }

    fn parameters(&self, _: Shape) -> Vec<Parameter> {
        Vec::new()
    }

    fn macs(&self, _: Shape, _: Shape) -> u64 {
        0
    }

    fn footprint(&self) -> Option<Footprint> {
        Some(Footprint::POINTWISE)
    }

    fn role(&self) -> Role {
        Role::Merge
    }

    fn rank(&self) -> Rank {
        Rank::AsInputs
    }

    fn describe(&self) -> String {
        match self {
            Merge::Add => "add".into(),
            Merge::Mul => "multiply".into(),
            Merge::Concat => "concat".into(),
        }
    }
}
