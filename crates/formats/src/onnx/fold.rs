//! Constant folding: nodes whose inputs are all constants.

use std::path::Path;

use super::attributes::Node;
use super::axes::{axis, permutation, resolve, shape_range, slices};
use super::constant::{Constant, element_type, is_integer, limited};
use super::evaluate;

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
        "Shape" => {
            let dims = &needed(0)?.dims;
            one(ints(dims[shape_range(node, dims.len())].iter().map(|&d| d as i64).collect()))
        }
        "Size" => one(Constant::ints(Vec::new(), vec![needed(0)?.len() as i64])),
        "Identity" | "Dropout" => one(needed(0)?.clone()),
        "Cast" => {
            let to = element_type(node.int("to").unwrap_or(1) as i32);
            one(needed(0)?.cast(is_integer(to)))
        }
        "CastLike" => one(needed(0)?.cast(needed(1)?.is_int())),
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
            if !(count.is_finite() && limited(&[count.max(0.0) as usize], &[]).is_ok()) {
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
        "DequantizeLinear" => one(dequantized(node, needed(0)?, needed(1)?, input(2))?),
        "BatchNormalization" => {
            let parameters = [needed(1)?, needed(2)?, needed(3)?, needed(4)?];
            one(normalised(node, needed(0)?, parameters)?)
        }
        op if op.starts_with("Reduce") => {
            let x = needed(0)?;
            let axes = match listed("axes", 1)?.filter(|axes| !axes.is_empty()) {
                Some(axes) => axes.iter().map(|&at| axis(at, x.dims.len())).collect::<Result<Vec<_>, _>>()?,
                None if node.int("noop_with_empty_axes") == Some(1) => return one(x.clone()),
                None => (0..x.dims.len()).collect(),
            };
            one(reduced(op, x, &axes, node.int("keepdims") != Some(0))?)
        }
        "Clip" => {
            let bound = |name: &str, index: usize, default: f64| {
                input(index).and_then(Constant::scalar).or(node.float(name).map(f64::from)).unwrap_or(default)
            };
            let (min, max) = (bound("min", 1, f64::NEG_INFINITY), bound("max", 2, f64::INFINITY));
            one(needed(0)?.mapped(|v| v.max(min).min(max)))
        }
        "Split" => split(node, needed(0)?, listed("split", 1)?),
        "Not" => one(needed(0)?.mapped(|v| f64::from(u8::from(v == 0.0))).cast(true)),
        "IsNaN" => one(needed(0)?.mapped(|v| f64::from(u8::from(v.is_nan()))).cast(true)),
        "IsInf" => one(needed(0)?.mapped(|v| f64::from(u8::from(v.is_infinite()))).cast(true)),
        "MatMul" => one(evaluate::product(needed(0)?, needed(1)?)?),
        "Gemm" => one(evaluate::gemm(node, needed(0)?, needed(1)?, input(2))?),
        "Softmax" | "LogSoftmax" => one(evaluate::softmax(node, needed(0)?)?),
        "ScatterND" => one(evaluate::scattered(node, needed(0)?, needed(1)?, needed(2)?)?),
        "ScatterElements" => one(evaluate::scattered_elements(node, needed(0)?, needed(1)?, needed(2)?)?),
        "Conv" => one(evaluate::convolved(node, needed(0)?, needed(1)?, input(2))?),
        "GatherND" => one(evaluate::gathered(node, needed(0)?, needed(1)?)?),
        "GatherElements" => one(evaluate::gathered_elements(node, needed(0)?, needed(1)?)?),
        "OneHot" => one(evaluate::one_hot(node, needed(0)?, needed(1)?, needed(2)?)?),
        "Tile" => one(evaluate::tiled(needed(0)?, &needed(1)?.to_ints()?)?),
        "Trilu" => {
            let offset = input(1).and_then(Constant::scalar).unwrap_or(0.0);
            one(evaluate::triangle(needed(0)?, node.int("upper") != Some(0), offset)?)
        }
        "CumSum" => {
            let at = needed(1)?.scalar().ok_or("its axis is not a scalar")?;
            let at = axis(at as i64, needed(0)?.dims.len())?;
            let flag = |name: &str| node.int(name) == Some(1);
            one(evaluate::cumulated(needed(0)?, at, flag("exclusive"), flag("reverse"))?)
        }
        "EyeLike" => one(evaluate::eye(&needed(0)?.dims, node.int("k").unwrap_or(0))?),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Equal" | "Mod" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor" => {
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
        op => match evaluate::function(node, op) {
            Some(function) => one(needed(0)?.cast(false).mapped(function)),
            None if matches!(op, "Neg" | "Abs" | "Sign" | "Relu") => one(needed(0)?.mapped(match op {
                "Neg" => |v: f64| -v,
                "Abs" => f64::abs,
                "Sign" => |v: f64| if v == 0.0 { 0.0 } else { v.signum() },
                _ => |v: f64| v.max(0.0),
            })),
            None => {
                Err("this operator on constants is not supported; simplify the model first, for example with onnxsim"
                    .into())
            }
        },
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
        "Greater" => compared(a, b, |a, b| a > b),
        "Less" => compared(a, b, |a, b| a < b),
        "GreaterOrEqual" => compared(a, b, |a, b| a >= b),
        "LessOrEqual" => compared(a, b, |a, b| a <= b),
        "And" => compared(a, b, |a, b| a != 0.0 && b != 0.0),
        "Xor" => compared(a, b, |a, b| (a != 0.0) != (b != 0.0)),
        "Or" => compared(a, b, |a, b| a != 0.0 || b != 0.0),
        _ => compared(a, b, |a, b| a == b),
    }
}

fn compared(a: &Constant, b: &Constant, holds: impl Fn(f64, f64) -> bool) -> Result<Constant, String> {
    Ok(a.combined(b, |a, b| f64::from(u8::from(holds(a, b))))?.cast(true))
}

/// (x − zero point) · scale, with one scale for the tensor or one per position of `axis`.
fn dequantized(node: &Node, x: &Constant, scale: &Constant, zero_point: Option<&Constant>) -> Result<Constant, String> {
    if node.int("block_size").unwrap_or(0) != 0 {
        return Err("it has a scale per block, which is not supported; quantise per tensor or per channel".into());
    }
    let rank = x.dims.len();
    let at = if scale.len() == 1 { 0 } else { axis(node.int("axis").unwrap_or(1), rank)? };
    let fits = |_: String| format!("its scale or zero point does not fit its input {:?}", x.dims);
    let scale = scale.along_axis(at, rank).map_err(fits)?;
    let zero = match zero_point {
        Some(zero) => zero.along_axis(at, rank).map_err(fits)?,
        None => Constant::fill(vec![1; rank], 0.0, true)?,
    };
    x.dequantized(&scale, &zero).map_err(fits)
}

/// Batch normalisation of a constant (N, C, …): how weight standardisation is written in PyTorch.
fn normalised(node: &Node, x: &Constant, parameters: [&Constant; 4]) -> Result<Constant, String> {
    let rank = x.dims.len();
    if rank < 2 {
        return Err(format!("its input {:?} has no channels", x.dims));
    }
    let mut shaped = Vec::new();
    for parameter in parameters {
        shaped.push(parameter.cast(false).along_axis(1, rank)?);
    }
    let (mut mean, mut variance) = (shaped[2].clone(), shaped[3].clone());
    if node.int("training_mode") == Some(1) {
        let axes: Vec<usize> = (0..rank).filter(|&at| at != 1).collect();
        mean = reduced("ReduceMean", x, &axes, true)?;
        let centred = x.combined(&mean, |x, mean| x - mean)?;
        variance = reduced("ReduceMean", &centred.mapped(|v| v * v), &axes, true)?;
    }
    let eps = f64::from(node.float("epsilon").unwrap_or(1e-5));
    let centred = x.combined(&mean, |x, mean| x - mean)?;
    let scaled = centred.combined(&variance, |x, variance| x / (variance + eps).sqrt())?;
    scaled.combined(&shaped[0], |x, scale| x * scale)?.combined(&shaped[1], |x, bias| x + bias)
}

fn reduced(op: &str, x: &Constant, axes: &[usize], keep: bool) -> Result<Constant, String> {
    let sum = |sum: f64, v: f64| sum + v;
    match op {
        "ReduceMean" => x.reduced(axes, keep, 0.0, sum, |sum, count| sum / count),
        "ReduceSum" => x.reduced(axes, keep, 0.0, sum, |sum, _| sum),
        "ReduceSumSquare" => x.reduced(axes, keep, 0.0, |sum, v| sum + v * v, |sum, _| sum),
        "ReduceL1" => x.reduced(axes, keep, 0.0, |sum, v| sum + v.abs(), |sum, _| sum),
        "ReduceL2" => x.reduced(axes, keep, 0.0, |sum, v| sum + v * v, |sum, _| sum.sqrt()),
        "ReduceProd" => x.reduced(axes, keep, 1.0, |product, v| product * v, |product, _| product),
        "ReduceMax" => x.reduced(axes, keep, f64::NEG_INFINITY, f64::max, |max, _| max),
        "ReduceMin" => x.reduced(axes, keep, f64::INFINITY, f64::min, |min, _| min),
        _ => {
            Err("this reduction of constants is not supported; simplify the model first, for example with onnxsim"
                .into())
        }
    }
}

fn split(node: &Node, x: &Constant, sizes: Option<Vec<i64>>) -> Result<Vec<Constant>, String> {
    let at = axis(node.int("axis").unwrap_or(0), x.dims.len())?;
    let outputs = node.proto.output.len().max(1);
    let equal = x.dims[at].div_ceil(outputs);
    let mut start = 0;
    let mut parts = Vec::new();
    for index in 0..outputs {
        let size = match &sizes {
            Some(sizes) => {
                sizes.get(index).and_then(|&size| usize::try_from(size).ok()).ok_or("its sizes do not fit")?
            }
            None => equal.min(x.dims[at] - start),
        };
        if size > x.dims[at] - start {
            return Err(format!("its parts exceed its input {:?}", x.dims));
        }
        parts.push(x.sliced(at, start, 1, size));
        start += size;
    }
    Ok(parts)
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
