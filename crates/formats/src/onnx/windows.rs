//! Convolutions, pooling, padding and upsampling.

use nettriage_net::{Conv, Kind, Padding, Window, layer, shape};

use super::attributes::Node;
use super::axes::axis;
use super::builder::{Function, Op};
use super::symbolic::{Axis, SymbolicTensor};
use super::translate::{Translator, layer_name, layer_name_from_weight};

/// An attribute of two numbers, one per spatial axis.
fn pair(node: &Node, name: &str, default: usize) -> Result<[usize; 2], String> {
    match node.ints(name) {
        None => Ok([default; 2]),
        Some(&[a, b]) => match (usize::try_from(a), usize::try_from(b)) {
            (Ok(a), Ok(b)) => Ok([a, b]),
            _ => Err(format!("its {name} are {a} and {b}")),
        },
        Some(list) => Err(format!("its {name} are {list:?}; only layers with two spatial axes are supported")),
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
                let sides: Vec<usize> = pads.iter().filter_map(|&pad| usize::try_from(pad).ok()).collect();
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
        let weight = self.required(node, 1)?;
        let bias = self.constant(node, 2)?;
        let &[filters, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!(
                "its weight is {:?}; only convolutions with two spatial axes are supported",
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
        let (name, shape) = self.add(node, &layer_name_from_weight(node, 1), Op::Kind(Kind::Conv(conv)), &[&x])?;
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
        let (name, shape) = self.add(node, &layer_name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
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
        let x = self.as_feature_map(node, 0)?;
        let (kernel, stride) = (pair(node, "kernel_shape", 0)?, pair(node, "strides", 1)?);
        if pair(node, "dilations", 1)? != [1, 1] {
            return Err("it is dilated; only dense pooling is supported".into());
        }
        let extents = [x.shape.height, x.shape.width];
        let mut padding = padding(node, extents, kernel, stride, [1, 1])?;
        // `ceil_mode` adds positions at the end that are never counted, whatever `count_include_pad` says.
        let count_padding = node.int("count_include_pad").unwrap_or(0) != 0 && padding != Padding::default();
        if node.int("ceil_mode").unwrap_or(0) != 0 {
            let rows = ceil_mode_padding(extents[0], padding.top, padding.bottom, kernel[0], stride[0])?;
            let columns = ceil_mode_padding(extents[1], padding.left, padding.right, kernel[1], stride[1])?;
            if node.op() == "AveragePool" && count_padding && (rows, columns) != (0, 0) {
                return Err("it has ceil_mode and count_include_pad together, which is not supported".into());
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
        Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
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
        let x = self.symbolic(node, 0)?;
        let rank = x.dims.len();
        let reduces = node.op().starts_with("Reduce");
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
            Kind::AvgPool(layer::AvgPool { window, count_padding: false })
        } else {
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })
        };
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        let keep = !reduces || node.int("keepdims").unwrap_or(1) != 0;
        let dims = x.dims.iter().enumerate().filter(|(at, _)| keep || !axes.contains(at));
        let dims = dims.map(|(at, dim)| if axes.contains(&at) { Vec::new() } else { dim.clone() }).collect();
        Ok(SymbolicTensor { name, shape, dims })
    }

    pub fn upsample(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.as_feature_map(node, 0)?;
        let extents = x.extents();
        let factors: Vec<f64> = if let Some(scales) = node.floats("scales") {
            scales.iter().map(|&scale| f64::from(scale)).collect()
        } else {
            let index = if node.op() == "Upsample" || node.opset < 11 { 1 } else { 2 };
            match self.constant(node, index)?.filter(|scales| scales.len() > 0) {
                Some(scales) => scales.to_floats().iter().map(|&scale| f64::from(scale)).collect(),
                None => {
                    let sizes = self.required(node, 3)?.to_ints()?;
                    sizes.iter().zip(&extents).map(|(&size, &extent)| size as f64 / extent as f64).collect()
                }
            }
        };
        let &[1.0, 1.0, rows, columns] = factors.as_slice() else {
            return Err(format!("it scales (N, C, H, W) by {factors:?}; only rows and columns can be scaled"));
        };
        let whole = |factor: f64| factor.fract() == 0.0 && (1.0..=64.0).contains(&factor);
        let nearest = node.text("mode").unwrap_or("nearest") == "nearest";
        let transformation = node.text("coordinate_transformation_mode").unwrap_or("half_pixel");
        let rounding = node.text("nearest_mode").unwrap_or("round_prefer_floor");
        // For whole factors all of these repeat each pixel.
        let repeats = node.op() == "Upsample"
            || node.opset < 11
            || matches!(
                (transformation, rounding),
                ("asymmetric", "floor") | ("half_pixel", "round_prefer_floor" | "round_prefer_ceil")
            );
        let small = rows <= 2.0 && columns <= 2.0 && (transformation, rounding) == ("asymmetric", "round_prefer_floor");
        if !(nearest && whole(rows) && whole(columns) && (repeats || small)) {
            return Err("only nearest-neighbour upsampling by whole factors is supported".into());
        }
        let kind = Kind::Upsample(layer::Upsample { factor: [rows as usize, columns as usize] });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        Ok(SymbolicTensor::channels_first(name, shape, x.batch_size()))
    }

    pub fn pad(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        if node.text("mode").unwrap_or("constant") != "constant" {
            return Err("only constant padding is supported".into());
        }
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
        for (index, &at) in axes.iter().enumerate() {
            let side =
                |amount: i64| usize::try_from(amount).map_err(|_| "it has negative pads, which are not supported");
            sides[at] = [side(pads[index])?, side(pads[index + axes.len()])?];
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
