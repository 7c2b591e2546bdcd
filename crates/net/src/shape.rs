//! Shape inference: what every layer gives for what it gets, with every check that geometry allows.

use std::collections::HashMap;

use crate::{Activation, Conv, Error, Graph, INPUT, Kind, Layer, Padding, Shape, Window};

/// The largest tensor per image that is accepted, in elements: 2^31 of them are 8 GiB of `f32`.
const MAX_ELEMENTS: usize = 1 << 31;

impl Graph {
    /// The layer of that name.
    pub fn layer(&self, name: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.name == name)
    }

    /// The place of the layer of that name in [`Graph::layers`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.name == name)
    }

    /// Output shape (C, H, W) of every layer, in order.
    ///
    /// # Errors
    /// A layer without a name, with a name taken or with whitespace in it; an input that does not stand
    /// before its layer; a wrong number of inputs; geometry that gives no output or overflows.
    pub fn shapes(&self) -> Result<Vec<Shape>, Error> {
        check_extent(self.input).map_err(|problem| Error::layer(INPUT, problem))?;
        let mut known: HashMap<&str, Shape> = HashMap::with_capacity(self.layers.len() + 1);
        known.insert(INPUT, self.input);
        let mut shapes = Vec::with_capacity(self.layers.len());
        let mut inputs = Vec::new();
        for layer in &self.layers {
            let fail = |problem: String| Error::layer(&layer.name, problem);
            if layer.name.is_empty() || layer.name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(fail(
                    "a layer's name must have at least one letter, no whitespace and nothing unprintable".into(),
                ));
            }
            inputs.clear();
            for input in &layer.inputs {
                let shape = known.get(input.as_str());
                inputs.push(*shape.ok_or_else(|| fail(format!("its input `{input}` is not an earlier layer")))?);
            }
            let shape = output(&layer.kind, &inputs).map_err(fail)?;
            check_extent(shape).map_err(fail)?;
            check_parameters(layer, inputs[0]).map_err(fail)?;
            if known.insert(&layer.name, shape).is_some() {
                return Err(fail("the name is taken by an earlier layer or the input".into()));
            }
            shapes.push(shape);
        }
        if !known.contains_key(self.output.as_str()) {
            let problem = format!("its output `{}` is none of its layers", self.output);
            return Err(Error::Graph { network: self.name.clone(), problem });
        }
        Ok(shapes)
    }

    /// Shape (C, H, W) of the output of a layer, or of [`INPUT`].
    ///
    /// # Errors
    /// Those of [`Graph::shapes`], and a name that is none of the graph's.
    pub fn shape_of(&self, tensor: &str) -> Result<Shape, Error> {
        let shapes = self.shapes()?;
        if tensor == INPUT {
            return Ok(self.input);
        }
        let position = self.position(tensor).ok_or_else(|| self.no_tensor(tensor))?;
        Ok(shapes[position])
    }

    /// Shape (C, H, W) of the network's output.
    ///
    /// # Errors
    /// Those of [`Graph::shapes`].
    pub fn output_shape(&self) -> Result<Shape, Error> {
        self.shape_of(&self.output)
    }

    /// [`Graph::shapes`]' checks, and that every layer's output is used.
    ///
    /// # Errors
    /// Those of [`Graph::shapes`], and the name of a layer whose output leads nowhere.
    pub fn check(&self) -> Result<(), Error> {
        self.shapes()?;
        let mut used: std::collections::HashSet<&str> = [self.output.as_str()].into();
        for layer in self.layers.iter().rev() {
            if !used.contains(layer.name.as_str()) {
                return Err(Error::layer(&layer.name, "nothing uses its output; leave it out"));
            }
            used.extend(layer.inputs.iter().map(String::as_str));
        }
        Ok(())
    }

    /// Shapes of a layer's inputs, given those of all layers.
    pub fn input_shapes(&self, layer: &Layer, shapes: &[Shape]) -> Vec<Shape> {
        let shape = |name: &String| match self.position(name) {
            Some(position) => shapes[position],
            None => self.input,
        };
        layer.inputs.iter().map(shape).collect()
    }

    /// Shape of every layer's first input, given those of all layers.
    pub(crate) fn first_inputs(&self, shapes: &[Shape]) -> Vec<Shape> {
        let mut known: HashMap<&str, Shape> = HashMap::from([(INPUT, self.input)]);
        known.extend(self.layers.iter().map(|layer| layer.name.as_str()).zip(shapes.iter().copied()));
        let first = |layer: &Layer| layer.inputs.first().and_then(|input| known.get(input.as_str()));
        self.layers.iter().map(|layer| first(layer).copied().unwrap_or(self.input)).collect()
    }

    pub(crate) fn no_tensor(&self, tensor: &str) -> Error {
        let problem = format!("it has no layer `{tensor}`; `nettriage inspect` lists its layers");
        Error::Graph { network: self.name.clone(), problem }
    }
}

impl Layer {
    /// Names and shapes of the layer's weights, for an input of shape (C, H, W): its first, where it has several.
    ///
    /// Running statistics of batch norm are among them. Meaningful for layers of a graph that
    /// [`Graph::shapes`] accepts.
    pub fn parameters(&self, input: Shape) -> Vec<(&'static str, Vec<usize>)> {
        let channels = vec![input.channels];
        match &self.kind {
            Kind::Conv(conv) => {
                let per_group = input.channels / conv.groups.max(1);
                let weight = vec![conv.filters, per_group, conv.kernel[0], conv.kernel[1]];
                with_bias(weight, conv.filters, conv.bias)
            }
            Kind::ConvTranspose { conv, .. } => {
                let per_group = conv.filters / conv.groups.max(1);
                let weight = vec![input.channels, per_group, conv.kernel[0], conv.kernel[1]];
                with_bias(weight, conv.filters, conv.bias)
            }
            Kind::Linear { features, bias } => with_bias(vec![*features, input.channels], *features, *bias),
            Kind::BatchNorm { .. } => vec![
                ("weight", channels.clone()),
                ("bias", channels.clone()),
                ("running_mean", channels.clone()),
                ("running_var", channels),
            ],
            Kind::Affine => vec![("weight", channels.clone()), ("bias", channels)],
            Kind::Activation(Activation::Prelu) => vec![("weight", channels)],
            _ => Vec::new(),
        }
    }
}

fn with_bias(weight: Vec<usize>, outputs: usize, bias: bool) -> Vec<(&'static str, Vec<usize>)> {
    let mut list = vec![("weight", weight)];
    if bias {
        list.push(("bias", vec![outputs]));
    }
    list
}

/// No empty axis, and no tensor so large that products of its extents could overflow later.
///
/// # Errors
/// What is wrong with the shape.
pub fn check_extent(shape: Shape) -> Result<(), String> {
    let elements = shape.channels.checked_mul(shape.height).and_then(|n| n.checked_mul(shape.width));
    match elements {
        Some(0) => Err(format!("a tensor of {shape} has no elements")),
        Some(count) if count <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("a tensor of {shape} is too large")),
    }
}

fn check_parameters(layer: &Layer, input: Shape) -> Result<(), String> {
    for (name, shape) in layer.parameters(input) {
        let count = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if count.is_none_or(|count| count > MAX_ELEMENTS) {
            return Err(format!("its {name} of shape {shape:?} is too large"));
        }
    }
    Ok(())
}

/// The output shape of a layer of this kind, or what is wrong with its settings or its inputs.
///
/// # Errors
/// What is wrong.
pub fn output(kind: &Kind, inputs: &[Shape]) -> Result<Shape, String> {
    let joins = matches!(kind, Kind::Add | Kind::Mul | Kind::Concat);
    match inputs.len() {
        0 => return Err("it has no input".into()),
        1 if joins => return Err("a join needs two inputs or more".into()),
        n if n > 1 && !joins => return Err(format!("it has {n} inputs and takes one")),
        _ => {}
    }
    let x = inputs[0];
    match kind {
        Kind::Conv(conv) => convolution(conv, x),
        Kind::ConvTranspose { conv, output_padding } => transposed(conv, *output_padding, x),
        Kind::Linear { features, .. } => {
            if x.height != 1 || x.width != 1 {
                return Err(format!("a linear layer takes a vector, not {x}; put a flatten before it"));
            }
            Ok(Shape::new(*features, 1, 1))
        }
        Kind::BatchNorm { eps, momentum } => {
            if !(*eps >= 0.0 && eps.is_finite() && (0.0..=1.0).contains(momentum)) {
                return Err(format!("batch norm with eps {eps} and momentum {momentum}"));
            }
            Ok(x)
        }
        Kind::Activation(activation) => finite(&constants(activation)).map(|()| x),
        Kind::Affine | Kind::Softmax { .. } | Kind::Identity => Ok(x),
        Kind::MaxPool(window) | Kind::AvgPool { window, .. } => pooled(window, x),
        Kind::AdaptiveAvgPool { height, width } => Ok(Shape::new(x.channels, *height, *width)),
        Kind::Add | Kind::Mul => elementwise(inputs),
        Kind::Concat => {
            if inputs.iter().any(|s| (s.height, s.width) != (x.height, x.width)) {
                return Err(format!("its inputs have different pictures: {}", list(inputs)));
            }
            let channels = inputs.iter().try_fold(0usize, |sum, s| sum.checked_add(s.channels));
            Ok(Shape::new(channels.ok_or("too many channels")?, x.height, x.width))
        }
        Kind::Flatten => Ok(Shape::new(x.elements(), 1, 1)),
        Kind::Reshape { shape } => {
            check_extent(*shape)?;
            if shape.elements() != x.elements() {
                return Err(format!("{x} cannot be reshaped to {shape}: other number of elements"));
            }
            Ok(*shape)
        }
        Kind::ChannelShuffle { groups } => divides(*groups, x.channels, "groups", "channels").map(|()| x),
        Kind::Slice { start, end } => {
            if start >= end || *end > x.channels {
                return Err(format!("channels {start}..{end} of {}", x.channels));
            }
            Ok(Shape::new(end - start, x.height, x.width))
        }
        Kind::Pad { channels, padding, value } => {
            finite(&[*value])?;
            let deep = x.channels.checked_add(channels[0]).and_then(|n| n.checked_add(channels[1]));
            let rows = padded(x.height, padding.top, padding.bottom)?;
            let columns = padded(x.width, padding.left, padding.right)?;
            Ok(Shape::new(deep.ok_or("too many channels")?, rows, columns))
        }
        Kind::Upsample { factor } => {
            let rows = x.height.checked_mul(factor[0]).ok_or("too many rows")?;
            let columns = x.width.checked_mul(factor[1]).ok_or("too many columns")?;
            Ok(Shape::new(x.channels, rows, columns))
        }
        Kind::LocalResponseNorm { size, alpha, beta, bias } => {
            finite(&[*alpha, *beta, *bias])?;
            if *size == 0 { Err("a window of no channels".into()) } else { Ok(x) }
        }
        Kind::Dropout { p } => {
            if (0.0..1.0).contains(p) {
                Ok(x)
            } else {
                Err(format!("dropout probability {p} is not in [0, 1)"))
            }
        }
    }
}

fn constants(activation: &Activation) -> Vec<f32> {
    match *activation {
        Activation::LeakyRelu { slope } => vec![slope],
        Activation::Clip { min, max } => vec![min, max],
        Activation::HardSigmoid { alpha, beta } => vec![alpha, beta],
        Activation::Elu { alpha } => vec![alpha],
        _ => Vec::new(),
    }
}

fn finite(values: &[f32]) -> Result<(), String> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("a constant of it is {value}")),
        None => Ok(()),
    }
}

fn list(shapes: &[Shape]) -> String {
    shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ")
}

fn divides(part: usize, whole: usize, parts: &str, wholes: &str) -> Result<(), String> {
    if part == 0 || !whole.is_multiple_of(part) {
        return Err(format!("{part} {parts} do not divide {whole} {wholes}"));
    }
    Ok(())
}

fn elementwise(inputs: &[Shape]) -> Result<Shape, String> {
    let whole = *inputs.iter().max_by_key(|s| s.height * s.width).expect("joins have inputs");
    let spread = |s: &Shape| *s == whole || *s == Shape::new(whole.channels, 1, 1);
    if inputs.iter().all(spread) { Ok(whole) } else { Err(format!("its inputs differ in shape: {}", list(inputs))) }
}

fn padded(extent: usize, before: usize, after: usize) -> Result<usize, String> {
    extent.checked_add(before).and_then(|n| n.checked_add(after)).ok_or_else(|| "padding overflows".to_string())
}

/// Positions of a window of `kernel` taps, `dilation` apart, that moves by `stride` over `extent`: the floor
/// formula of Dumoulin and Visin, arXiv:1603.07285, relationship 14.
///
/// # Errors
/// A window larger than the extent, or a step of 0.
pub fn positions(extent: usize, kernel: usize, stride: usize, dilation: usize) -> Result<usize, String> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return Err("kernel, stride and dilation are at least 1".into());
    }
    let reach = (kernel - 1).checked_mul(dilation).and_then(|n| n.checked_add(1)).ok_or("kernel overflows")?;
    match extent.checked_sub(reach) {
        Some(room) => Ok(room / stride + 1),
        None => Err(format!("a window of {reach} does not fit into {extent}; pad more or enlarge the input")),
    }
}

fn window(
    x: Shape,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: &Padding,
) -> Result<(usize, usize), String> {
    let rows = padded(x.height, padding.top, padding.bottom)?;
    let columns = padded(x.width, padding.left, padding.right)?;
    Ok((positions(rows, kernel[0], stride[0], dilation[0])?, positions(columns, kernel[1], stride[1], dilation[1])?))
}

fn convolution(conv: &Conv, x: Shape) -> Result<Shape, String> {
    divides(conv.groups, x.channels, "groups", "input channels")?;
    divides(conv.groups, conv.filters, "groups", "filters")?;
    let (rows, columns) = window(x, conv.kernel, conv.stride, conv.dilation, &conv.padding)?;
    Ok(Shape::new(conv.filters, rows, columns))
}

/// Dumoulin and Visin, arXiv:1603.07285, relationship 13: the extent that a convolution of the same settings
/// would take to the input's.
fn transposed(conv: &Conv, output_padding: [usize; 2], x: Shape) -> Result<Shape, String> {
    divides(conv.groups, x.channels, "groups", "input channels")?;
    divides(conv.groups, conv.filters, "groups", "filters")?;
    let along = |extent: usize, axis: usize, padding: usize| -> Option<usize> {
        let (kernel, dilation, stride) = (conv.kernel[axis], conv.dilation[axis], conv.stride[axis]);
        let reach = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let whole = (extent - 1).checked_mul(stride)?.checked_add(reach)?.checked_add(output_padding[axis])?;
        whole.checked_sub(padding)
    };
    let vertical = conv.padding.top.checked_add(conv.padding.bottom).ok_or("padding overflows")?;
    let horizontal = conv.padding.left.checked_add(conv.padding.right).ok_or("padding overflows")?;
    let rows = along(x.height, 0, vertical).ok_or("its padding leaves no rows")?;
    let columns = along(x.width, 1, horizontal).ok_or("its padding leaves no columns")?;
    Ok(Shape::new(conv.filters, rows, columns))
}

fn pooled(pool: &Window, x: Shape) -> Result<Shape, String> {
    let p = &pool.padding;
    // A window wholly in the padding would have no largest element and no mean.
    if p.top.max(p.bottom) >= pool.kernel[0].max(1) || p.left.max(p.right) >= pool.kernel[1].max(1) {
        return Err("its padding is as large as its window".into());
    }
    let (rows, columns) = window(x, pool.kernel, pool.stride, [1, 1], p)?;
    Ok(Shape::new(x.channels, rows, columns))
}
