//! Values of operators on constants that are more than a few lines: elementwise functions, matrix products, 1x1 convolutions, softmax, scatter and gather.
//!
//! Models compute masks, relative positions and position embeddings so.

use nettriage_net::Activation;

use super::attributes::Node;
use super::axes::axis;
use super::constant::{Constant, broadcast, limited};
use super::fuse;

/// The most multiplications of a matrix product: the larger of this multiple of its inputs' elements in memory, and this number.
const MOST_PRODUCTS_TIMES: usize = 1 << 12;
const FEW_PRODUCTS: usize = 1 << 24;
/// How many multiplications count as one element that is computed.
const PRODUCTS_PER_ELEMENT: usize = 16;

/// The elementwise function of an operator of one floating-point input.
pub fn function(node: &Node, op: &str) -> Option<Box<dyn Fn(f64) -> f64>> {
    let float = |name: &str, usual: f32| node.float(name).unwrap_or(usual);
    let activation = match op {
        "Log" => return Some(Box::new(f64::ln)),
        "Sqrt" => return Some(Box::new(f64::sqrt)),
        "Floor" => return Some(Box::new(f64::floor)),
        "Ceil" => return Some(Box::new(f64::ceil)),
        "Round" => return Some(Box::new(f64::round_ties_even)),
        "Reciprocal" => return Some(Box::new(f64::recip)),
        "Sin" => return Some(Box::new(f64::sin)),
        "Cos" => return Some(Box::new(f64::cos)),
        "Tan" => return Some(Box::new(f64::tan)),
        "Exp" => Activation::Exp,
        "Atan" => Activation::Atan,
        "Erf" => Activation::Erf,
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "Softplus" => Activation::Softplus,
        "Selu" => Activation::Selu,
        "Mish" => Activation::Mish,
        "HardSwish" => Activation::HardSwish,
        "HardSigmoid" => Activation::HardSigmoid { alpha: float("alpha", 0.2), beta: float("beta", 0.5) },
        "Elu" => Activation::Elu { alpha: float("alpha", 1.0) },
        "Celu" => Activation::Celu { alpha: float("alpha", 1.0) },
        "LeakyRelu" => Activation::LeakyRelu { slope: float("alpha", 0.01) },
        "Gelu" => Activation::Gelu { tanh: node.text("approximate") == Some("tanh") },
        _ => return None,
    };
    Some(Box::new(move |x| fuse::apply(&activation, x).unwrap_or(f64::NAN)))
}

/// A tensor of these extents from a function of an element's position, of integers if `like` is.
fn build(like: &Constant, dims: Vec<usize>, value: impl Fn(usize) -> f64) -> Result<Constant, String> {
    build_beside(&[like], dims, value)
}

/// As [`build`], like the first of several inputs.
fn build_beside(inputs: &[&Constant], dims: Vec<usize>, value: impl Fn(usize) -> f64) -> Result<Constant, String> {
    let count = limited(&dims, inputs)?;
    Ok(if inputs[0].is_int() {
        Constant::ints(dims, (0..count).map(|at| value(at) as i64).collect())
    } else {
        Constant::floats(dims, (0..count).map(|at| value(at) as f32).collect())
    })
}

/// The batched matrix product.
pub fn product(a: &Constant, b: &Constant) -> Result<Constant, String> {
    let fail = || format!("matrices of {:?} and {:?} cannot be multiplied", a.dims, b.dims);
    let [.., m, k] = a.dims[..] else { return Err(fail()) };
    let [.., inner, n] = b.dims[..] else { return Err(fail()) };
    let mut dims = broadcast(&a.dims[..a.dims.len() - 2], &b.dims[..b.dims.len() - 2]).ok_or_else(fail)?;
    if inner != k {
        return Err(fail());
    }
    limited(&[dims.as_slice(), &[m, n]].concat(), &[a, b])?;
    let matrices = limited(&dims, &[a, b])?;
    let products = [matrices, m, n, k].iter().try_fold(1usize, |all, &extent| all.checked_mul(extent));
    let most = FEW_PRODUCTS.max(MOST_PRODUCTS_TIMES.saturating_mul(a.stored().saturating_add(b.stored())));
    if products.is_none_or(|products| products > most) {
        return Err("its constants take too much computation".into());
    }
    let place = |constant: &Constant, matrix: usize| -> usize {
        let own = &constant.dims[..constant.dims.len() - 2];
        let (mut at, mut rest, mut step) = (0, matrix, 1);
        for (index, &extent) in dims.iter().enumerate().rev() {
            let position = rest % extent;
            rest /= extent;
            if let Some(axis) = (index + own.len()).checked_sub(dims.len()) {
                at += if own[axis] == 1 { 0 } else { position * step };
                step *= own[axis];
            }
        }
        at
    };
    let mut values = Vec::with_capacity(matrices * m * n);
    for matrix in 0..matrices {
        let (first, second) = (place(a, matrix) * m * k, place(b, matrix) * k * n);
        for row in 0..m {
            let mut sums = vec![0f64; n];
            for at in 0..k {
                let factor = a.get(first + row * k + at);
                sums.iter_mut().enumerate().for_each(|(column, sum)| *sum += factor * b.get(second + at * n + column));
            }
            values.extend(sums.into_iter().map(|sum| sum as f32));
        }
    }
    dims.extend([m, n]);
    Ok(Constant::floats(dims, values))
}

/// The computation behind the elements of a folded node, beside reading its inputs and storing its outputs, in elements.
pub fn work(node: &Node, inputs: &[Option<&Constant>], outputs: &[Constant]) -> usize {
    let Some(first) = inputs.first().copied().flatten() else { return 0 };
    let inner = match node.op() {
        "MatMul" => first.dims.last(),
        "Gemm" if node.int("transA").unwrap_or(0) != 0 => first.dims.first(),
        "Gemm" => first.dims.last(),
        "Conv" => first.dims.get(1),
        _ => None,
    };
    let elements: usize = outputs.iter().map(Constant::len).sum();
    inner.map_or(0, |&inner| inner.saturating_mul(elements) / PRODUCTS_PER_ELEMENT)
}

/// alpha A B + beta C, with A and B transposed as the attributes say.
pub fn gemm(node: &Node, a: &Constant, b: &Constant, c: Option<&Constant>) -> Result<Constant, String> {
    let turned = |x: &Constant, name: &str| match (node.int(name).unwrap_or(0), x.dims.len()) {
        (0, 2) => Ok(x.clone()),
        (_, 2) => Ok(x.transposed(&[1, 0])),
        _ => Err(format!("{:?} is not a matrix", x.dims)),
    };
    let alpha = f64::from(node.float("alpha").unwrap_or(1.0));
    let beta = f64::from(node.float("beta").unwrap_or(1.0));
    let result = product(&turned(a, "transA")?, &turned(b, "transB")?)?.mapped(|v| alpha * v);
    match c {
        Some(c) => result.combined(c, |v, c| v + beta * c),
        None => Ok(result),
    }
}

/// Softmax along an axis from operator set 13 on, over this axis and the later ones before.
pub fn softmax(node: &Node, x: &Constant) -> Result<Constant, String> {
    let rank = x.dims.len();
    let at = axis(node.int("axis").unwrap_or(if node.opset < 13 { 1 } else { -1 }), rank)?;
    let axes: Vec<usize> = (at..if node.opset < 13 { rank } else { at + 1 }).collect();
    let largest = x.reduced(&axes, true, f64::NEG_INFINITY, f64::max, |max, _| max)?;
    let shifted = x.combined(&largest, |x, max| x - max)?;
    let sum = shifted.reduced(&axes, true, 0.0, |sum, x| sum + x.exp(), |sum, _| sum)?;
    if node.op() == "LogSoftmax" {
        return shifted.combined(&sum, |x, sum| x - sum.ln());
    }
    shifted.combined(&sum, |x, sum| x.exp() / sum)
}

/// Where each row of an index tensor points in a tensor, and how many elements are there.
fn places(dims: &[usize], indices: &Constant) -> Result<(Vec<usize>, usize), String> {
    let depth = *indices.dims.last().ok_or("its indices are a scalar")?;
    if depth == 0 || depth > dims.len() {
        return Err(format!("its indices of {:?} do not fit {dims:?}", indices.dims));
    }
    let each: usize = dims[depth..].iter().product();
    let mut places = Vec::new();
    for row in indices.to_ints()?.chunks_exact(depth) {
        let mut at = 0;
        for (&index, &extent) in row.iter().zip(dims) {
            let index = if index < 0 { index.checked_add(extent as i64) } else { Some(index) };
            let index = index.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < extent);
            at = at * extent + index.ok_or("an index lies outside")?;
        }
        places.push(at * each);
    }
    Ok((places, each))
}

/// ScatterND: slices of a tensor replaced by updates.
pub fn scattered(node: &Node, x: &Constant, indices: &Constant, updates: &Constant) -> Result<Constant, String> {
    if node.text("reduction").unwrap_or("none") != "none" {
        return Err("it combines old and new values, which is not supported".into());
    }
    limited(&x.dims, &[x, indices, updates])?;
    let (places, each) = places(&x.dims, indices)?;
    if places.len().checked_mul(each) != Some(updates.len()) {
        return Err("its updates do not fit its indices".into());
    }
    let mut source: Vec<Option<usize>> = vec![None; x.len()];
    for (number, at) in places.into_iter().enumerate() {
        (0..each).for_each(|index| source[at + index] = Some(number * each + index));
    }
    let value = |at: usize| source[at].map_or_else(|| x.get(at), |from| updates.get(from));
    build_beside(&[x, indices, updates], x.dims.clone(), value)
}

/// ScatterElements: elements of a tensor replaced along an axis.
pub fn scattered_elements(
    node: &Node,
    x: &Constant,
    indices: &Constant,
    updates: &Constant,
) -> Result<Constant, String> {
    if node.text("reduction").unwrap_or("none") != "none" {
        return Err("it combines old and new values, which is not supported".into());
    }
    limited(&x.dims, &[x, indices, updates])?;
    let places = places_along(axis(node.int("axis").unwrap_or(0), x.dims.len())?, &x.dims, indices)?;
    if updates.dims != indices.dims {
        return Err("its updates do not fit its indices".into());
    }
    let mut source: Vec<Option<usize>> = vec![None; x.len()];
    places.into_iter().enumerate().for_each(|(from, at)| source[at] = Some(from));
    let value = |at: usize| source[at].map_or_else(|| x.get(at), |from| updates.get(from));
    build_beside(&[x, indices, updates], x.dims.clone(), value)
}

/// For each element of an index tensor, the element of a tensor of these extents that it points to: the one at its own position, but
/// for axis `at`, where its value is the position.
fn places_along(at: usize, dims: &[usize], indices: &Constant) -> Result<Vec<usize>, String> {
    if indices.dims.len() != dims.len() || (0..dims.len()).any(|i| i != at && indices.dims[i] > dims[i]) {
        return Err(format!("its indices of {:?} do not fit {dims:?}", indices.dims));
    }
    let extent = dims[at] as i64;
    let place = |(element, index): (usize, i64)| {
        if index < -extent || index >= extent {
            return Err("an index lies outside".to_string());
        }
        let (mut rest, mut place, mut step) = (element, 0, 1);
        for (axis, (&own, &whole)) in indices.dims.iter().zip(dims).enumerate().rev() {
            let position = if axis == at { index.rem_euclid(extent) as usize } else { rest % own };
            rest /= own;
            place += position * step;
            step *= whole;
        }
        Ok(place)
    };
    indices.to_ints()?.into_iter().enumerate().map(place).collect()
}

/// A convolution with a 1x1 kernel: a matrix product at every position. Position embeddings are projected so.
pub fn convolved(node: &Node, x: &Constant, weight: &Constant, bias: Option<&Constant>) -> Result<Constant, String> {
    let all = |name: &str, wanted: i64| node.ints(name).is_none_or(|list| list.iter().all(|&value| value == wanted));
    let plain = all("strides", 1) && all("pads", 0) && node.int("group").unwrap_or(1) == 1;
    let ([images, channels, rest @ ..], [filters, inputs, kernel @ ..]) = (x.dims.as_slice(), weight.dims.as_slice())
    else {
        return Err(format!("{:?} and {:?} are not a feature map and a kernel", x.dims, weight.dims));
    };
    if !plain || kernel.iter().any(|&extent| extent != 1) || rest.len() != kernel.len() || channels != inputs {
        return Err("only a convolution of constants with a 1x1 kernel is supported".into());
    }
    let positions = rest.iter().product();
    let given = product(&weight.reshaped(vec![*filters, *inputs])?, &x.reshaped(vec![*images, *channels, positions])?)?;
    let given = match bias {
        Some(bias) => given.combined(&bias.reshaped(vec![1, *filters, 1])?, |value, bias| value + bias)?,
        None => given,
    };
    let mut dims = vec![*images, *filters];
    dims.extend(rest);
    given.reshaped(dims)
}

/// GatherND without batch dimensions.
pub fn gathered(node: &Node, x: &Constant, indices: &Constant) -> Result<Constant, String> {
    if node.int("batch_dims").unwrap_or(0) != 0 {
        return Err("it has batch dimensions, which is not supported".into());
    }
    let (places, each) = places(&x.dims, indices)?;
    let mut dims = indices.dims[..indices.dims.len() - 1].to_vec();
    dims.extend(&x.dims[indices.dims[indices.dims.len() - 1]..]);
    build(x, dims, |at| x.get(places[at / each] + at % each))
}

/// GatherElements along an axis.
pub fn gathered_elements(node: &Node, x: &Constant, indices: &Constant) -> Result<Constant, String> {
    let places = places_along(axis(node.int("axis").unwrap_or(0), x.dims.len())?, &x.dims, indices)?;
    build(x, indices.dims.clone(), |element| x.get(places[element]))
}

/// OneHot: along a new axis of `depth` positions the second of two values where an index points, and the first elsewhere. An index outside
/// points nowhere.
pub fn one_hot(node: &Node, indices: &Constant, depth: &Constant, values: &Constant) -> Result<Constant, String> {
    let depth = depth.scalar().filter(|&depth| depth >= 1.0).ok_or("its depth is not a positive number")? as usize;
    if values.len() != 2 {
        return Err("it has other than two values".into());
    }
    let at = axis(node.int("axis").unwrap_or(-1), indices.dims.len() + 1)?;
    let mut dims = indices.dims.clone();
    dims.insert(at, depth);
    let inner: usize = dims[at + 1..].iter().product();
    // Before the indices are read one after another: a list of them may stand for many.
    limited(&dims, &[values, indices])?;
    let pointed: Vec<i64> = indices.to_ints()?;
    let value = |element: usize| {
        let position = (element / inner % depth) as i64;
        let index = pointed[element / (inner * depth) * inner + element % inner];
        values.get(usize::from(index == position || index + depth as i64 == position))
    };
    build_beside(&[values, indices], dims, value)
}

/// The tensor repeated along each axis.
pub fn tiled(x: &Constant, repeats: &[i64]) -> Result<Constant, String> {
    if repeats.len() != x.dims.len() {
        return Err("it has another number of repeats than of axes".into());
    }
    let mut dims = Vec::new();
    for (&extent, &repeat) in x.dims.iter().zip(repeats) {
        let repeat = usize::try_from(repeat).map_err(|_| "a number of repeats is negative")?;
        dims.push(extent.checked_mul(repeat).ok_or("its repeats are too many")?);
    }
    let to = dims.clone();
    build(x, dims, |element| {
        let (mut rest, mut place, mut step) = (element, 0, 1);
        for (&whole, &own) in to.iter().zip(&x.dims).rev() {
            place += rest % whole % own * step;
            rest /= whole;
            step *= own;
        }
        x.get(place)
    })
}

/// The upper or lower triangle of matrices, zero elsewhere.
pub fn triangle(x: &Constant, upper: bool, offset: f64) -> Result<Constant, String> {
    let [.., rows, columns] = x.dims[..] else { return Err(format!("{:?} is not a matrix", x.dims)) };
    build(x, x.dims.clone(), |at| {
        let (row, column) = (at / columns % rows, at % columns);
        let inside = if upper { column as f64 >= row as f64 + offset } else { column as f64 <= row as f64 + offset };
        if inside { x.get(at) } else { 0.0 }
    })
}

/// Sums of all elements up to each along an axis.
pub fn cumulated(x: &Constant, at: usize, exclusive: bool, reverse: bool) -> Result<Constant, String> {
    let (extent, inner) = (x.dims[at], x.dims[at + 1..].iter().product::<usize>());
    limited(&x.dims, &[x])?;
    let mut sums = vec![0f64; x.len()];
    for first in (0..x.len()).filter(|element| element / inner % extent == 0) {
        let mut sum = 0.0;
        for index in 0..extent {
            let place = first + inner * if reverse { extent - 1 - index } else { index };
            let value = x.get(place);
            sums[place] = if exclusive { sum } else { sum + value };
            sum += value;
        }
    }
    build(x, x.dims.clone(), |at| sums[at])
}

/// Ones on the diagonal that is `offset` above the main one.
pub fn eye(dims: &[usize], offset: i64) -> Result<Constant, String> {
    let &[_, columns] = dims else { return Err(format!("{dims:?} is not a matrix")) };
    let one = |at: usize| (at % columns) as i64 - (at / columns) as i64 == offset;
    let zero = Constant::floats(vec![1], vec![0.0]);
    build(&zero, dims.to_vec(), |at| f64::from(u8::from(one(at))))
}
