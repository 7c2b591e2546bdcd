//! Operators with a window: convolutions and pooling, padding and enlargement.

use super::attributes::Node;
use super::import::{Function, Importer, Op, hint, hint_from_weight};
use super::view::{Axis, Live};
use nettriage_net::{Conv, Kind, Padding, Window, layer, shape};

/// Two attributes of one number an axis, with a usual value.
fn pair(node: &Node, name: &str, usual: usize) -> Result<[usize; 2], String> {
    match node.ints(name) {
        None => Ok([usual; 2]),
        Some(&[a, b]) => match (usize::try_from(a), usize::try_from(b)) {
            (Ok(a), Ok(b)) => Ok([a, b]),
            _ => Err(format!("its {name} are {a} and {b}")),
        },
        Some(list) => Err(format!("its {name} are {list:?}; layers here have two axes")),
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

impl Importer {
    pub fn convolution(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.picture(node, 0)?;
        let weight = self.needed(node, 1)?;
        let bias = self.constant(node, 2)?;
        let &[filters, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight is {:?}; convolutions here have two axes", weight.dims));
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
        let extents = [live.shape.height, live.shape.width];
        let padding = padding(node, extents, kernel, stride, dilation)?;
        let conv = Conv { filters, kernel, stride, padding, dilation, groups, bias: bias.is_some() };
        if per_group.checked_mul(groups) != Some(live.shape.channels) {
            return Err(format!(
                "its weight takes {per_group} channels in each of {groups} groups, and its input has {}",
                live.shape.channels
            ));
        }
        let (name, shape) = self.emit(node, &hint_from_weight(node, 1), Op::Kind(Kind::Conv(conv)), &[&live])?;
        self.set(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.set(&name, "bias", bias.reshaped(vec![filters]).map_err(|_| "its bias is not one number a filter")?)?;
        }
        Ok(self.new_picture(&live, name, shape))
    }

    pub fn transposed_convolution(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.picture(node, 0)?;
        let weight = self.needed(node, 1)?;
        let bias = self.constant(node, 2)?;
        let &[inputs, per_group, rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight is {:?}; convolutions here have two axes", weight.dims));
        };
        if node.ints("output_shape").is_some()
            || !matches!(node.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "VALID")
        {
            return Err("its padding follows from its output; write it out as `pads` and `output_padding`".into());
        }
        let kernel = [rows, columns];
        let (stride, dilation) = (pair(node, "strides", 1)?, pair(node, "dilations", 1)?);
        let groups = usize::try_from(node.int("group").unwrap_or(1)).map_err(|_| "its groups are negative")?;
        let padding = padding(node, [live.shape.height, live.shape.width], kernel, stride, dilation)?;
        let filters = per_group.checked_mul(groups).ok_or("its groups are too many")?;
        if inputs != live.shape.channels {
            return Err(format!("its weight takes {inputs} channels, and its input has {}", live.shape.channels));
        }
        let conv = Conv { filters, kernel, stride, padding, dilation, groups, bias: bias.is_some() };
        let kind = Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding: pair(node, "output_padding", 0)? });
        let (name, shape) = self.emit(node, &hint_from_weight(node, 1), Op::Kind(kind), &[&live])?;
        self.set(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.set(&name, "bias", bias.reshaped(vec![filters]).map_err(|_| "its bias is not one number a filter")?)?;
        }
        Ok(self.new_picture(&live, name, shape))
    }

    pub fn pool(&mut self, node: &Node) -> Result<Live, String> {
        if let Some(live) = self.channel_mean(node)? {
            return Ok(live);
        }
        let live = self.picture(node, 0)?;
        let (kernel, stride) = (pair(node, "kernel_shape", 0)?, pair(node, "strides", 1)?);
        if pair(node, "dilations", 1)? != [1, 1] {
            return Err("its window is dilated, and pooling here is dense".into());
        }
        let extents = [live.shape.height, live.shape.width];
        let mut padding = padding(node, extents, kernel, stride, [1, 1])?;
        // Without padding there is none to count, and what a ceiling adds is never counted.
        let count_padding = node.int("count_include_pad").unwrap_or(0) != 0 && padding != Padding::default();
        if node.int("ceil_mode").unwrap_or(0) != 0 {
            let rows = ceiling(extents[0], padding.top, padding.bottom, kernel[0], stride[0])?;
            let columns = ceiling(extents[1], padding.left, padding.right, kernel[1], stride[1])?;
            if node.op() == "AveragePool" && count_padding && (rows, columns) != (0, 0) {
                return Err("it counts its padding but not what its ceiling adds; no layer here does".into());
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
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
        Ok(self.new_picture(&live, name, shape))
    }

    /// Average pooling over (N, 1, C, H, W) whose window spans channels alone, as in PyTorch's local response norm.
    fn channel_mean(&mut self, node: &Node) -> Result<Option<Live>, String> {
        let live = self.live(node, 0)?;
        let Some(&[size, 1, 1]) = node.ints("kernel_shape") else { return Ok(None) };
        let usual = |name: &str, usual: i64| node.ints(name).is_none_or(|list| list.iter().all(|&n| n == usual));
        let plain = usual("strides", 1) && usual("pads", 0) && usual("dilations", 1);
        if node.op() != "AveragePool" || !plain || live.dims != volume(live.clone()).dims {
            return Ok(None);
        }
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("its window is empty")?;
        let (name, shape) = self.emit(node, &hint(node), Op::Function(Function::ChannelMean(size)), &[&live])?;
        Ok(Some(volume(Live::picture(name, shape, live.batch_size()))))
    }

    /// The mean (or largest) of the whole picture; also ReduceMean and ReduceMax over rows and columns.
    pub fn global_pool(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.live(node, 0)?;
        let rank = live.dims.len();
        let reduces = node.op().starts_with("Reduce");
        let axes = if reduces {
            self.axes(node, rank)?.ok_or("a reduction over all axes has no layer here")?
        } else {
            (2..rank).collect()
        };
        let over: Vec<_> = axes.iter().flat_map(|&at| &live.dims[at]).collect();
        let along = |wanted: Axis| over.iter().filter(|a| a.axis == wanted).map(|a| a.size).product::<usize>();
        let (rows, columns) = (along(Axis::Row), along(Axis::Column));
        let pixels = over.iter().all(|atom| matches!(atom.axis, Axis::Row | Axis::Column));
        let whole = |part: usize, extent: usize| part == 1 || part == extent;
        if !pixels || !whole(rows, live.shape.height) || !whole(columns, live.shape.width) {
            return Err("only a reduction over all rows or columns or both has a layer here".into());
        }
        let all = rows * columns == live.shape.height * live.shape.width;
        let kernel = [rows, columns];
        let window = Window { kernel, stride: kernel, padding: Padding::default() };
        let kind = if node.op().ends_with("Max") || node.op() == "GlobalMaxPool" {
            Kind::MaxPool(window)
        } else if !all {
            Kind::AvgPool(layer::AvgPool { window, count_padding: false })
        } else {
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 })
        };
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
        let keep = !reduces || node.int("keepdims").unwrap_or(1) != 0;
        let dims = live.dims.iter().enumerate().filter(|(at, _)| keep || !axes.contains(at));
        let dims = dims.map(|(at, dim)| if axes.contains(&at) { Vec::new() } else { dim.clone() }).collect();
        Ok(Live { tensor: name, shape, dims })
    }

    pub fn upsample(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.picture(node, 0)?;
        let extents = live.extents();
        let factors: Vec<f64> = if let Some(scales) = node.floats("scales") {
            scales.iter().map(|&scale| f64::from(scale)).collect()
        } else {
            let place = if node.op() == "Upsample" || node.opset < 11 { 1 } else { 2 };
            match self.constant(node, place)?.filter(|scales| scales.len() > 0) {
                Some(scales) => scales.to_floats().iter().map(|&scale| f64::from(scale)).collect(),
                None => {
                    let sizes = self.needed(node, 3)?.to_ints()?;
                    sizes.iter().zip(&extents).map(|(&size, &extent)| size as f64 / extent as f64).collect()
                }
            }
        };
        let &[1.0, 1.0, rows, columns] = factors.as_slice() else {
            return Err(format!("it enlarges (N, C, H, W) by {factors:?}; only rows and columns can be"));
        };
        let whole = |factor: f64| factor.fract() == 0.0 && (1.0..=64.0).contains(&factor);
        let nearest = node.text("mode").unwrap_or("nearest") == "nearest";
        let transformation = node.text("coordinate_transformation_mode").unwrap_or("half_pixel");
        let rounding = node.text("nearest_mode").unwrap_or("round_prefer_floor");
        // Each pixel repeated: what all of these come to for whole factors.
        let repeats = node.op() == "Upsample"
            || node.opset < 11
            || matches!(
                (transformation, rounding),
                ("asymmetric", "floor") | ("half_pixel", "round_prefer_floor" | "round_prefer_ceil")
            );
        let small = rows <= 2.0 && columns <= 2.0 && (transformation, rounding) == ("asymmetric", "round_prefer_floor");
        if !(nearest && whole(rows) && whole(columns) && (repeats || small)) {
            return Err("only nearest-neighbour enlargement by whole factors has a layer here".into());
        }
        let kind = Kind::Upsample(layer::Upsample { factor: [rows as usize, columns as usize] });
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
        Ok(self.new_picture(&live, name, shape))
    }

    pub fn pad(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.live(node, 0)?;
        if node.text("mode").unwrap_or("constant") != "constant" {
            return Err("only a constant border has a layer here".into());
        }
        let pads = match node.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self.needed(node, 1)?.to_ints()?,
        };
        let value = match self.constant(node, 2)? {
            Some(value) => value.scalar().ok_or("its value is no single number")? as f32,
            None => node.float("value").unwrap_or(0.0),
        };
        let rank = live.dims.len();
        let axes: Vec<usize> = match self.constant(node, 3)? {
            Some(axes) => {
                axes.to_ints()?.iter().map(|&at| super::attributes::axis(at, rank)).collect::<Result<_, _>>()?
            }
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(format!("it has {} pads for {} axes", pads.len(), axes.len()));
        }
        let mut sides = vec![[0usize; 2]; rank];
        for (index, &at) in axes.iter().enumerate() {
            let side = |amount: i64| {
                usize::try_from(amount).map_err(|_| "it cuts rows or columns off, which no layer here does")
            };
            sides[at] = [side(pads[index])?, side(pads[index + axes.len()])?];
        }
        if sides.iter().all(|side| side == &[0, 0]) {
            return Ok(live);
        }
        // (N, 1, C, H, W) with zeros before and after its channels: the first half of PyTorch's local response norm.
        let alone = |at: usize| sides.iter().enumerate().all(|(other, side)| other == at || side == &[0, 0]);
        if rank == 5 && live.dims == volume(live.clone()).dims && alone(2) {
            let kind = Kind::Pad(layer::Pad { channels: sides[2], padding: Padding::default(), value });
            let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
            return Ok(volume(Live::picture(name, shape, live.batch_size())));
        }
        let last = Live::channels_last(String::new(), live.shape, live.batch_size()).dims == live.dims;
        let live = if last { live } else { self.picture(node, 0)? };
        let [c, h, w] = if last { [3, 1, 2] } else { [1, 2, 3] };
        if sides[0] != [0, 0] {
            return Err("it pads the batch".into());
        }
        let padding = Padding { top: sides[h][0], bottom: sides[h][1], left: sides[w][0], right: sides[w][1] };
        let kind = Kind::Pad(layer::Pad { channels: sides[c], padding, value });
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
        let batch = live.batch_size();
        Ok(if last { Live::channels_last(name, shape, batch) } else { Live::picture(name, shape, batch) })
    }
}

/// The tensor as (N, 1, C, H, W).
fn volume(live: Live) -> Live {
    let mut picture = Live::picture(live.tensor.clone(), live.shape, live.batch_size());
    picture.dims.insert(1, Vec::new());
    picture
}

/// What must be added at the end so that the floor formula gives as many positions as the ceiling one; a last
/// window that would begin beyond the picture and the padding before it is no position.
fn ceiling(extent: usize, before: usize, after: usize, kernel: usize, stride: usize) -> Result<usize, String> {
    let padded = extent.checked_add(before).and_then(|n| n.checked_add(after)).ok_or("its padding overflows")?;
    let floor = shape::positions(padded, kernel, stride, 1)?;
    let room = (padded - kernel) % stride;
    if room == 0 || floor * stride >= extent + before {
        return Ok(0);
    }
    Ok(stride - room)
}
