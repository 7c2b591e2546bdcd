//! Convolutions, pooling, padding and upsampling.

use nettriage_net::{Axis as Side, Conv, Kind, Padding, Window, layer, shape};

use super::arrange::check_positions;
use super::attributes::Node;
use super::axes::axis;
use super::binary::apart;
use super::builder::{Function, Op};
use super::symbolic::{Axis, SymbolicTensor, whole};
use super::translate::{Translator, layer_name};

/// An attribute of two numbers, one per spatial axis.
fn pair(node: &Node, name: &str, default: usize) -> Result<[usize; 2], String> {
    match node.ints(name) {
        None => Ok([default; 2]),
        Some(&[a, b]) => match (usize::try_from(a), usize::try_from(b)) {
            (Ok(a), Ok(b)) => Ok([a, b]),
            _ => Err(format!("its {name} are {a} and {b}")),
        },
        // One spatial axis: a feature map of one row.
        Some(&[one]) => match usize::try_from(one) {
            Ok(one) => Ok([1 - usize::from(name == "output_padding"), one]),
            _ => Err(format!("its {name} is {one}")),
        },
        Some(list) => Err(format!("its {name} are {list:?}; only layers with one or two spatial axes are supported")),
    }
}

/// The padding of a window, by `pads` or `auto_pad`.
fn padding(
    node: &Node,
    extents: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
) -> Result<Padding, String> {
    let same = |upper: bool| {
        let sides = [0, 1].map(|axis| {
            let reach = kernel[axis].saturating_sub(1).saturating_mul(dilation[axis]).saturating_add(1);
            let positions = extents[axis].div_ceil(stride[axis].max(1));
            let total =
                (positions - 1).saturating_mul(stride[axis]).saturating_add(reach).saturating_sub(extents[axis]);
            let (less, more) = (total / 2, total.div_ceil(2));
            if upper { (less, more) } else { (more, less) }
        });
        Padding { top: sides[0].0, bottom: sides[0].1, left: sides[1].0, right: sides[1].1 }
    };
    match node.text("auto_pad").unwrap_or("NOTSET") {
        "SAME_UPPER" => Ok(same(true)),
        "SAME_LOWER" => Ok(same(false)),
        "VALID" => Ok(Padding::default()),
        _ => match node.ints("pads") {
            None => Ok(Padding::default()),
            Some(pads) => {
                let mut sides: Vec<usize> = pads.iter().filter_map(|&pad| usize::try_from(pad).ok()).collect();
                if let [left, right] = sides[..] {
                    sides = vec![0, left, 0, right];
                }
                let &[top, left, bottom, right] = sides.as_slice() else {
                    return Err(format!("its pads are {pads:?}"));
                };
                Ok(Padding { top, bottom, left, right })
            }
        },
    }
}

impl Translator {
    pub fn convolution(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.as_feature_map(node, 0)?;
        let rank = self.symbolic(node, 0)?.dims.len();
        let mut weight = self.required(node, 1)?;
        let bias = self.constant(node, 2)?;
        if let &[filters, per_group, columns] = weight.dims.as_slice() {
            weight = weight.reshaped(vec![filters, per_group, 1, columns])?;
        }
        let &[filters, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!(
                "its weight is {:?}; only convolutions with one or two spatial axes are supported",
                weight.dims
            ));
        };
        let kernel = [rows, columns];
        if pair(node, "kernel_shape", 0)? != kernel && node.ints("kernel_shape").is_some() {
            return Err(format!(
                "its kernel is {:?} and its weight {kernel:?}",
                node.ints("kernel_shape").unwrap_or_default()
            ));
        }
        let (stride, dilation) = (pair(node, "strides", 1)?, pair(node, "dilations", 1)?);
        let groups = usize::try_from(node.int("group").unwrap_or(1)).map_err(|_| "its groups are negative")?;
        let extents = [x.shape.height, x.shape.width];
        let padding = padding(node, extents, kernel, stride, dilation)?;
        let conv = Conv { filters, kernel, stride, padding, dilation, groups, bias: bias.is_some() };
        if per_group.checked_mul(groups) != Some(x.shape.channels) {
            return Err(format!(
                "its weight takes {per_group} channels in each of {groups} groups, and its input has {}",
                x.shape.channels
            ));
        }
        let (name, shape) = self.add(node, &self.name_from_weight(node, 1), Op::Kind(Kind::Conv(conv)), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.builder.set_weight(
                &name,
                "bias",
                bias.reshaped(vec![filters]).map_err(|_| "its bias is not one number per filter")?,
            )?;
        }
        Ok(of_rank(SymbolicTensor::channels_first(name, shape, x.batch_size()), rank))
    }

    pub fn transposed_convolution(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.as_feature_map(node, 0)?;
        let weight = self.required(node, 1)?;
        let bias = self.constant(node, 2)?;
        let &[inputs, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!(
                "its weight is {:?}; only convolutions with two spatial axes are supported",
                weight.dims
            ));
        };
        if node.ints("output_shape").is_some()
            || !matches!(node.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID")
        {
            return Err("its padding is given by its output shape; write it as `pads` and `output_padding`".into());
        }
        let kernel = [rows, columns];
        let (stride, dilation) = (pair(node, "strides", 1)?, pair(node, "dilations", 1)?);
        let groups = usize::try_from(node.int("group").unwrap_or(1)).map_err(|_| "its groups are negative")?;
        let padding = padding(node, [x.shape.height, x.shape.width], kernel, stride, dilation)?;
        let filters = per_group.checked_mul(groups).ok_or("its groups are too many")?;
        if inputs != x.shape.channels {
            return Err(format!("its weight takes {inputs} channels, and its input has {}", x.shape.channels));
        }
        let conv = Conv { filters, kernel, stride, padding, dilation, groups, bias: bias.is_some() };
        let kind = Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding: pair(node, "output_padding", 0)? });
        let (name, shape) = self.add(node, &self.name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.builder.set_weight(
                &name,
                "bias",
                bias.reshaped(vec![filters]).map_err(|_| "its bias is not one number per filter")?,
            )?;
        }
        Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
    }

    pub fn pool(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        if let Some(x) = self.channel_mean(node)? {
            return Ok(x);
        }
        let rank = self.symbolic(node, 0)?.dims.len();
        let mut x = self.as_feature_map(node, 0)?;
        let (kernel, stride) = (pair(node, "kernel_shape", 0)?, pair(node, "strides", 1)?);
        if pair(node, "dilations", 1)? != [1, 1] {
            return Err("it is dilated; only dense pooling is supported".into());
        }
        let extents = [x.shape.height, x.shape.width];
        let mut padding = padding(node, extents, kernel, stride, [1, 1])?;
        // `ceil_mode` adds positions at the end that are never counted, whatever `count_include_pad` says.
        let mut count_padding = node.int("count_include_pad").unwrap_or(0) != 0 && padding != Padding::default();
        if node.int("ceil_mode").unwrap_or(0) != 0 {
            let rows = ceil_mode_padding(extents[0], padding.top, padding.bottom, kernel[0], stride[0])?;
            let columns = ceil_mode_padding(extents[1], padding.left, padding.right, kernel[1], stride[1])?;
            if node.op() == "AveragePool" && count_padding && (rows, columns) != (0, 0) {
                // Only what `ceil_mode` adds does not count: the padding becomes part of the input.
                let pad = layer::Pad { channels: [0, 0], padding, value: 0.0 };
                let (name, shape) =
                    self.add(node, &format!("{}.pad", layer_name(node)), Op::Kind(Kind::Pad(pad)), &[&x])?;
                x = SymbolicTensor::channels_first(name, shape, x.batch_size());
                (padding, count_padding) = (Padding::default(), false);
            }
            padding.bottom += rows;
            padding.right += columns;
        }
        let window = Window { kernel, stride, padding };
        let kind = if node.op() == "MaxPool" {
            Kind::MaxPool(window)
        } else {
            Kind::AvgPool(layer::AvgPool { window, count_padding })
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        Ok(of_rank(SymbolicTensor::channels_first(name, shape, x.batch_size()), rank))
    }

    /// Average pooling over (N, 1, C, H, W) with a window over channels only, as in PyTorch's local response norm.
    fn channel_mean(&mut self, node: &Node) -> Result<Option<SymbolicTensor>, String> {
        let x = self.symbolic(node, 0)?;
        let Some(&[size, 1, 1]) = node.ints("kernel_shape") else { return Ok(None) };
        let all = |name: &str, wanted: i64| node.ints(name).is_none_or(|list| list.iter().all(|&n| n == wanted));
        let plain = all("strides", 1) && all("pads", 0) && all("dilations", 1);
        if node.op() != "AveragePool" || !plain || x.dims != volume(x.clone()).dims {
            return Ok(None);
        }
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("its window is empty")?;
        let (name, shape) = self.add(node, &layer_name(node), Op::Function(Function::ChannelMean(size)), &[&x])?;
        Ok(Some(volume(SymbolicTensor::channels_first(name, shape, x.batch_size()))))
    }

    /// The mean or maximum over all rows and columns; also ReduceMean and ReduceMax over rows, columns or both.
    pub fn global_pool(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let reduces = node.op().starts_with("Reduce");
        let x = if reduces { self.symbolic(node, 0)? } else { self.as_feature_map(node, 0)? };
        let rank = x.dims.len();
        let axes = if reduces {
            self.axes(node, rank)?.ok_or("a reduction over all axes is not supported")?
        } else {
            (2..rank).collect()
        };
        let over: Vec<_> = axes.iter().flat_map(|&at| &x.dims[at]).collect();
        let along = |wanted: Axis| over.iter().filter(|a| a.axis == wanted).map(|a| a.size).product::<usize>();
        let (rows, columns) = (along(Axis::Row), along(Axis::Column));
        let pixels = over.iter().all(|factor| matches!(factor.axis, Axis::Row | Axis::Column));
        let whole = |part: usize, extent: usize| part == 1 || part == extent;
        if !pixels || !whole(rows, x.shape.height) || !whole(columns, x.shape.width) {
            return Err("only a reduction over all rows or columns or both is supported".into());
        }
        let all = rows * columns == x.shape.height * x.shape.width;
        let kernel = [rows, columns];
        let window = Window { kernel, stride: kernel, padding: Padding::default() };
        let kind = if node.op().ends_with("Max") || node.op() == "GlobalMaxPool" {
            Kind::MaxPool(window)
        } else if !all {
            // One of both: an axis of one element is the other.
            let axis = if columns > 1 { Side::Columns } else { Side::Rows };
            Kind::Reduce(layer::Reduce { function: layer::Reduction::Mean, axes: vec![axis] })
        } else {
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        let keep = !reduces || node.int("keepdims").unwrap_or(1) != 0;
        let dims = x.dims.iter().enumerate().filter(|(at, _)| keep || !axes.contains(at));
        let dims = dims.map(|(at, dim)| if axes.contains(&at) { Vec::new() } else { dim.clone() }).collect();
        Ok(SymbolicTensor { name, shape, dims })
    }

    /// Resize and Upsample: nearest neighbours by any factor, and bilinear interpolation.
    pub fn upsample(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.as_feature_map(node, 0)?;
        let extents = x.extents();
        let rank = extents.len();
        let axes: Vec<usize> = match node.ints("axes") {
            Some(axes) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).collect(),
        };
        let mut factors = vec![1.0; rank];
        let mut sizes = extents.clone();
        let index = if node.op() == "Upsample" || node.opset < 11 { 1 } else { 2 };
        let scales: Option<Vec<f64>> = match node.floats("scales") {
            Some(scales) => Some(scales.iter().map(|&scale| f64::from(scale)).collect()),
            None => self
                .constant(node, index)?
                .filter(|scales| scales.len() > 0)
                .map(|scales| scales.to_floats().iter().map(|&scale| f64::from(scale)).collect()),
        };
        if let Some(scales) = scales {
            for (&at, &scale) in axes.iter().zip(&scales) {
                factors[at] = scale;
                sizes[at] = (extents[at] as f64 * scale).floor() as usize;
            }
        } else {
            for (&at, &size) in axes.iter().zip(&self.required(node, 3)?.to_ints()?) {
                sizes[at] = usize::try_from(size).map_err(|_| "one of its sizes is negative")?;
                factors[at] = size as f64 / extents[at] as f64;
            }
        }
        if rank != 4 || factors[..2] != [1.0, 1.0] {
            return Err(format!("it scales (N, C, H, W) by {factors:?}; only rows and columns can be scaled"));
        }
        if !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) || sizes[2..].contains(&0) {
            return Err(format!("it scales by {factors:?}"));
        }
        if node.int("antialias").unwrap_or(0) != 0 {
            return Err("it filters against aliasing, which is not supported".into());
        }
        if node.text("keep_aspect_ratio_policy").unwrap_or("stretch") != "stretch" {
            return Err("it keeps the ratio of the sides, which is not supported; give its sizes".into());
        }
        let transformation = if node.op() == "Upsample" || node.opset < 11 {
            "asymmetric"
        } else {
            node.text("coordinate_transformation_mode").unwrap_or("half_pixel")
        };
        let (height, width) = (sizes[2], sizes[3]);
        let coordinates = match transformation {
            "half_pixel" => layer::Coordinates::HalfPixel,
            "pytorch_half_pixel" => layer::Coordinates::PytorchHalfPixel,
            "align_corners" => layer::Coordinates::AlignCorners,
            "asymmetric" => layer::Coordinates::Asymmetric,
            other => return Err(format!("its coordinates are `{other}`, which is not supported")),
        };
        let exact = (2..4).all(|at| (extents[at] as f64 * factors[at] - sizes[at] as f64).abs() < 1e-6);
        match node.text("mode").unwrap_or("nearest") {
            "nearest" => self.nearest(node, &x, [factors[2], factors[3]], [height, width], transformation),
            "linear" | "bilinear" if exact || coordinates == layer::Coordinates::AlignCorners => {
                if (height, width) == (x.shape.height, x.shape.width) {
                    return Ok(x);
                }
                let kind = Kind::Resize(layer::Resize { height, width, coordinates });
                let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
                Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
            }
            "linear" | "bilinear" => {
                Err(format!("it scales {extents:?} by {factors:?}, which does not give whole extents; give its sizes"))
            }
            other => Err(format!("its mode is `{other}`; nearest and linear are supported")),
        }
    }

    fn nearest(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        factors: [f64; 2],
        sizes: [usize; 2],
        transformation: &str,
    ) -> Result<SymbolicTensor, String> {
        let rounding = match node.op() {
            "Upsample" => "floor",
            _ if node.opset < 11 => "floor",
            _ => node.text("nearest_mode").unwrap_or("round_prefer_floor"),
        };
        let source = |at: usize, factor: f64, from: usize, to: usize| -> Result<usize, String> {
            let position = match transformation {
                "asymmetric" => at as f64 / factor,
                "pytorch_half_pixel" if to == 1 => 0.0,
                "half_pixel" | "pytorch_half_pixel" => (at as f64 + 0.5) / factor - 0.5,
                _ if to == 1 => 0.0,
                _ => at as f64 * (from as f64 - 1.0) / (to as f64 - 1.0),
            };
            let rounded = match rounding {
                "floor" => position.floor(),
                "ceil" => position.ceil(),
                "round_prefer_ceil" => (position + 0.5).floor(),
                "round_prefer_floor" => (position - 0.5).ceil(),
                other => return Err(format!("it rounds by `{other}`, which is not supported")),
            };
            Ok(rounded.clamp(0.0, from as f64 - 1.0) as usize)
        };
        let from = [x.shape.height, x.shape.width];
        sizes.iter().try_for_each(|&size| check_positions(Some(size)))?;
        let mut indices = Vec::new();
        for side in 0..2 {
            let along = (0..sizes[side]).map(|at| source(at, factors[side], from[side], sizes[side]));
            indices.push(along.collect::<Result<Vec<usize>, _>>()?);
        }
        let factor = [0, 1].map(|side| sizes[side] / from[side]);
        let repeats = |side: usize| {
            sizes[side] == factor[side] * from[side]
                && indices[side].iter().enumerate().all(|(at, &index)| index == at / factor[side])
        };
        if repeats(0) && repeats(1) {
            let kind = Kind::Upsample(layer::Upsample { factor });
            let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[x])?;
            return Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()));
        }
        let rows = self.select(node, x, 2, &indices[0])?;
        self.select(node, &rows, 3, &indices[1])
    }

    pub fn pad(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let mode = node.text("mode").unwrap_or("constant");
        let pads = match node.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self.required(node, 1)?.to_ints()?,
        };
        let value = match self.constant(node, 2)? {
            Some(value) => value.scalar().ok_or("its value is not a scalar")? as f32,
            None => node.float("value").unwrap_or(0.0),
        };
        let rank = x.dims.len();
        let axes: Vec<usize> = match self.constant(node, 3)? {
            Some(axes) => axes.to_ints()?.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(format!("it has {} pads for {} axes", pads.len(), axes.len()));
        }
        let mut sides = vec![[0usize; 2]; rank];
        let mut x = x;
        for (index, &at) in axes.iter().enumerate() {
            let amounts = [pads[index], pads[index + axes.len()]];
            let extent = x.extents()[at];
            let extra = |amount: i64| usize::try_from(amount.max(0)).unwrap_or(0);
            let cut = |amount: i64| usize::try_from(amount.min(0).unsigned_abs()).unwrap_or(usize::MAX);
            sides[at] = amounts.map(extra);
            // Negative amounts crop.
            let (first, last) = (cut(amounts[0]), extent.saturating_sub(cut(amounts[1])));
            if first >= last {
                return Err("its negative pads leave nothing".into());
            }
            if (first, last) != (0, extent) {
                check_positions(Some(last - first))?;
                x = self.select(node, &x, at, &(first..last).collect::<Vec<_>>())?;
            }
            if mode != "constant" && sides[at] != [0, 0] {
                let indices = border(mode, x.extents()[at], sides[at])?;
                x = self.select(node, &x, at, &indices)?;
                sides[at] = [0, 0];
            }
        }
        if sides.iter().all(|side| side == &[0, 0]) {
            return Ok(x);
        }
        // (N, 1, C, H, W) padded along its channels: the first step of PyTorch's local response norm.
        let only = |at: usize| sides.iter().enumerate().all(|(other, side)| other == at || side == &[0, 0]);
        if rank == 5 && x.dims == volume(x.clone()).dims && only(2) {
            let kind = Kind::Pad(layer::Pad { channels: sides[2], padding: Padding::default(), value });
            let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
            return Ok(volume(SymbolicTensor::channels_first(name, shape, x.batch_size())));
        }
        if rank != 4 || !x.is_batch(0) {
            return self.pad_axes(node, &x, &sides, value);
        }
        let last = SymbolicTensor::channels_last(String::new(), x.shape, x.batch_size()).dims == x.dims;
        let x = if last { x } else { self.as_feature_map(node, 0)? };
        let [c, h, w] = if last { [3, 1, 2] } else { [1, 2, 3] };
        if sides[0] != [0, 0] {
            return Err("it pads the batch".into());
        }
        let padding = Padding { top: sides[h][0], bottom: sides[h][1], left: sides[w][0], right: sides[w][1] };
        let kind = Kind::Pad(layer::Pad { channels: sides[c], padding, value });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        let batch = x.batch_size();
        Ok(if last {
            SymbolicTensor::channels_last(name, shape, batch)
        } else {
            SymbolicTensor::channels_first(name, shape, batch)
        })
    }

    /// Constant borders along ONNX axes of a tensor that is no feature map.
    fn pad_axes(
        &mut self,
        node: &Node,
        x: &SymbolicTensor,
        sides: &[[usize; 2]],
        value: f32,
    ) -> Result<SymbolicTensor, String> {
        let mut x = x.clone();
        for (at, &[before, after]) in sides.iter().enumerate().filter(|(_, side)| **side != [0, 0]) {
            if x.has_batch(at) {
                return Err("it pads the batch".into());
            }
            x = self.arranged(node, &x, &apart(&x, at))?;
            let mut pad = layer::Pad { channels: [0, 0], padding: Padding::default(), value };
            let last = apart(&x, at).channels == [at];
            if last {
                pad.channels = [before, after];
            } else {
                (pad.padding.left, pad.padding.right) = (before, after);
            }
            let (name, shape) = self.add(node, &layer_name(node), Op::Kind(Kind::Pad(pad)), &[&x])?;
            let side = if last { Axis::Channel } else { Axis::Column };
            let extent = if last { shape.channels } else { shape.width };
            (x.name, x.shape) = (name, shape);
            x.dims[at] = whole(side, extent);
        }
        Ok(x)
    }
}

/// The positions of an axis of `extent` positions with a border that repeats its content.
fn border(mode: &str, extent: usize, [before, after]: [usize; 2]) -> Result<Vec<usize>, String> {
    let count = extent.checked_add(before).and_then(|count| count.checked_add(after));
    check_positions(count)?;
    let (before, extent) = (before as i64, extent as i64);
    let inside = |position: i64| -> Result<usize, String> {
        let position = match mode {
            "edge" => position.clamp(0, extent - 1),
            "wrap" => position.rem_euclid(extent),
            "reflect" => {
                let position = position.abs();
                if position < extent { position } else { 2 * (extent - 1) - position }
            }
            other => return Err(format!("its mode is `{other}`; constant, reflect, edge and wrap are supported")),
        };
        usize::try_from(position).map_err(|_| "its border is wider than what it reflects".to_string())
    };
    let mut positions = Vec::with_capacity(count.unwrap_or_default());
    for position in -before..extent + after as i64 {
        positions.push(inside(position)?);
    }
    Ok(positions)
}

/// (N, C, H, W) as (N, C, L) where the operator works on sequences: feature maps of one row.
fn of_rank(mut x: SymbolicTensor, rank: usize) -> SymbolicTensor {
    if rank == 3 {
        x.dims.remove(2);
    }
    x
}

/// The tensor as (N, 1, C, H, W).
fn volume(x: SymbolicTensor) -> SymbolicTensor {
    let mut view = SymbolicTensor::channels_first(x.name.clone(), x.shape, x.batch_size());
    view.dims.insert(1, Vec::new());
    view
}

/// The padding at the end with which the floor formula gives as many positions as `ceil_mode`: a last window that would
/// start beyond the feature map and its leading padding does not count.
fn ceil_mode_padding(
    extent: usize,
    before: usize,
    after: usize,
    kernel: usize,
    stride: usize,
) -> Result<usize, String> {
    let padded = extent.checked_add(before).and_then(|n| n.checked_add(after)).ok_or("its padding overflows")?;
    let floor = shape::positions(padded, kernel, stride, 1)?;
    let remainder = (padded - kernel) % stride;
    if remainder == 0 || floor * stride >= extent + before {
        return Ok(0);
    }
    Ok(stride - remainder)
}
