//! Constant folding: nodes whose inputs are all constants.

use std::path::Path;

use super::attributes::Node;
use super::axes::{axis, permutation, resolve, slices};
use super::constant::{Constant, element_type, is_integer};

/// The outputs of a node whose inputs are these constants (`None` for an omitted one).
pub fn node(node: &Node, inputs: &[Option<&Constant>], folder: Option<&Path>) -> Result<Vec<Constant>, String> {
    let input = |index: usize| inputs.get(index).copied().flatten();
    let needed = |index: usize| input(index).ok_or_else(|| format!("its input {index} is missing"));
    let listed = |name: &str, index: usize| match node.ints(name) {
        Some(list) => Ok(Some(list.to_vec())),
        None => input(index).map(Constant::to_ints).transpose(),
    };
    let one = |constant: Constant| Ok(vec![constant]);
    let ints = |list: Vec<i64>| Constant::ints(vec![list.len()], list);
    match node.op() {
        "Constant" => one(literal(node, folder)?),
        "ConstantOfShape" => {
            let dims = extents(&needed(0)?.to_ints()?)?;
            let value = node.tensor("value").map(|tensor| Constant::from_proto(tensor, folder)).transpose()?;
            let (value, is_int) = value.map_or((Some(0.0), false), |v| (v.scalar(), v.is_int()));
            one(Constant::fill(dims, value.ok_or("its value is not a scalar")?, is_int)?)
        }
        "Shape" => one(ints(needed(0)?.dims.iter().map(|&d| d as i64).collect())),
        "Size" => one(Constant::ints(Vec::new(), vec![needed(0)?.len() as i64])),
        "Identity" | "Dropout" => one(needed(0)?.clone()),
        "Cast" => {
            let to = element_type(node.int("to").unwrap_or(1) as i32);
            one(needed(0)?.cast(is_integer(to)))
        }
        "Reshape" => {
            let x = needed(0)?;
            let target = needed(1)?.to_ints()?;
            one(x.reshaped(resolve(&target, &x.dims, node.int("allowzero") == Some(1))?)?)
        }
        "Flatten" => {
            let x = needed(0)?;
            let at = node.int("axis").unwrap_or(1);
            let at = if at == x.dims.len() as i64 { x.dims.len() } else { axis(at, x.dims.len())? };
            one(x.reshaped(vec![x.dims[..at].iter().product(), x.dims[at..].iter().product()])?)
        }
        "Transpose" => {
            let x = needed(0)?;
            let reversed: Vec<i64> = (0..x.dims.len() as i64).rev().collect();
            one(x.transposed(&permutation(node.ints("perm").unwrap_or(&reversed), x.dims.len())?))
        }
        "Squeeze" => {
            let x = needed(0)?;
            let axes = listed("axes", 1)?
                .map(|axes| axes.iter().map(|&a| axis(a, x.dims.len())).collect::<Result<Vec<_>, _>>());
            let axes = axes.transpose()?;
            let gone = |at: usize| axes.as_ref().map_or(x.dims[at] == 1, |axes| axes.contains(&at));
            one(x.reshaped((0..x.dims.len()).filter(|&at| !gone(at)).map(|at| x.dims[at]).collect())?)
        }
        "Unsqueeze" => {
            let x = needed(0)?;
            let axes = listed("axes", 1)?.ok_or("it has no axes")?;
            let rank = x.dims.len() + axes.len();
            let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
            let mut rest = x.dims.iter();
            let dims = (0..rank).map(|at| if axes.contains(&at) { Some(1) } else { rest.next().copied() });
            one(x.reshaped(dims.collect::<Option<Vec<_>>>().ok_or("its axes repeat")?)?)
        }
        "Gather" => {
            let x = needed(0)?;
            one(x.gathered(axis(node.int("axis").unwrap_or(0), x.dims.len())?, needed(1)?)?)
        }
        "Concat" => {
            let parts: Vec<&Constant> = inputs.iter().copied().flatten().collect();
            let rank = parts.first().ok_or("it has no inputs")?.dims.len();
            one(Constant::concatenated(&parts, axis(node.int("axis").unwrap_or(0), rank)?)?)
        }
        "Slice" => {
            let mut x = needed(0)?.clone();
            for (at, range) in slices(&x.dims, listed)? {
                x = x.sliced(at, range.start, range.step, range.number);
            }
            one(x)
        }
        "Range" => {
            let number = |index: usize| needed(index)?.scalar().ok_or_else(|| "its bounds are not scalars".to_string());
            let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
            let count = ((limit - start) / delta).ceil();
            if !(count.is_finite() && count <= 1e6) {
                return Err("its range is too long".into());
            }
            let values = (0..count.max(0.0) as usize).map(|i| start + i as f64 * delta);
            one(if needed(0)?.is_int() {
                ints(values.map(|v| v as i64).collect())
            } else {
                let values: Vec<f32> = values.map(|v| v as f32).collect();
                Constant::floats(vec![values.len()], values)
            })
        }
        "Expand" => {
            let dims = extents(&needed(1)?.to_ints()?)?;
            one(needed(0)?.combined(&Constant::fill(dims, 0.0, needed(0)?.is_int())?, |a, _| a)?)
        }
        "Neg" => one(needed(0)?.mapped(|v| -v)),
        "Abs" => one(needed(0)?.mapped(f64::abs)),
        "Sqrt" => one(needed(0)?.mapped(f64::sqrt)),
        "Exp" => one(needed(0)?.mapped(f64::exp)),
        "Floor" => one(needed(0)?.mapped(f64::floor)),
        "Ceil" => one(needed(0)?.mapped(f64::ceil)),
        "Reciprocal" => one(needed(0)?.mapped(f64::recip)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Equal" | "Mod" => {
            let mut result = needed(0)?.clone();
            for index in 1..inputs.len() {
                result = arithmetic(node.op(), &result, needed(index)?)?;
            }
            one(result)
        }
        "Where" => {
            let (choice, a, b) = (needed(0)?, needed(1)?, needed(2)?);
            let first = choice.combined(a, |c, a| if c != 0.0 { a } else { 0.0 })?;
            let second = choice.combined(b, |c, b| if c != 0.0 { 0.0 } else { b })?;
            one(first.combined(&second, |a, b| a + b)?)
        }
        _ => {
            Err("this operator on constants is not supported; simplify the model first, for example with onnxsim"
                .into())
        }
    }
}

fn arithmetic(op: &str, a: &Constant, b: &Constant) -> Result<Constant, String> {
    let is_int = a.is_int() && b.is_int();
    match op {
        "Add" | "Sum" => a.combined(b, |a, b| a + b),
        "Sub" => a.combined(b, |a, b| a - b),
        "Mul" => a.combined(b, |a, b| a * b),
        // Integer division truncates; division by zero is undefined in ONNX.
        "Div" if is_int => a.combined(b, |a, b| if b == 0.0 { 0.0 } else { (a / b).trunc() }),
        "Div" => a.combined(b, |a, b| a / b),
        "Mod" => a.combined(b, |a, b| if b == 0.0 { 0.0 } else { a - (a / b).floor() * b }),
        "Pow" => a.combined(b, f64::powf),
        "Max" => a.combined(b, f64::max),
        "Min" => a.combined(b, f64::min),
        _ => a.combined(b, |a, b| f64::from(u8::from(a == b))),
    }
}

fn literal(node: &Node, folder: Option<&Path>) -> Result<Constant, String> {
    if let Some(tensor) = node.tensor("value") {
        return Constant::from_proto(tensor, folder);
    }
    if let Some(value) = node.float("value_float") {
        return Ok(Constant::floats(Vec::new(), vec![value]));
    }
    if let Some(value) = node.int("value_int") {
        return Ok(Constant::ints(Vec::new(), vec![value]));
    }
    if let Some(values) = node.floats("value_floats") {
        return Ok(Constant::floats(vec![values.len()], values.to_vec()));
    }
    let values = node.ints("value_ints").ok_or("its value is neither numbers nor a dense tensor of them")?;
    Ok(Constant::ints(vec![values.len()], values.to_vec()))
}

fn extents(list: &[i64]) -> Result<Vec<usize>, String> {
    list.iter().map(|&extent| usize::try_from(extent).map_err(|_| format!("an extent of {extent}"))).collect()
}
