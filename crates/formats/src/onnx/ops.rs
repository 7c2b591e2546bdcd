//! Operators on tensors that depend on the image: each becomes a layer.

use super::attributes::Node;
use super::constant::Constant;
use super::import::{Function, Importer, Op, Value, hint, hint_from_weight};
use super::view::{Axis, Live};
use nettriage_net::{Activation, Kind, Shape, layer};

/// The outputs of a node of which at least one input depends on the image.
pub fn node(importer: &mut Importer, node: &Node) -> Result<Vec<Value>, String> {
    if let Some(kind) = activation(importer, node)? {
        let live = importer.live(node, 0)?;
        return Ok(vec![Value::Live(importer.keep(node, kind, &live)?)]);
    }
    let live = match node.op() {
        "Identity" | "Cast" | "Flatten" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Expand" => {
            importer.reshaping(node)
        }
        "Conv" => importer.convolution(node),
        "ConvTranspose" => importer.transposed_convolution(node),
        "MaxPool" | "AveragePool" => importer.pool(node),
        "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceMax" => importer.global_pool(node),
        "Upsample" | "Resize" => importer.upsample(node),
        "Pad" => importer.pad(node),
        "Gemm" => importer.gemm(node),
        "MatMul" => importer.matmul(node),
        "BatchNormalization" => importer.batch_norm(node),
        "PRelu" => importer.prelu(node),
        "Softmax" | "LogSoftmax" => importer.softmax(node),
        "Erf" | "Exp" | "Sqrt" | "Softplus" | "Pow" => importer.function(node),
        "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Neg" | "Max" | "Min" => importer.arithmetic(node),
        "Concat" => importer.concat(node),
        "Slice" => importer.slice(node),
        "Split" => return importer.split(node),
        "Shape" => return importer.shape(node).map(|constant| vec![Value::Constant(constant)]),
        _ => Err("this operator has no layer here; replace it in the model, or cut the model before it".into()),
    };
    live.map(|live| vec![Value::Live(live)])
}

/// Operators that keep the shape and need nothing but numbers.
fn activation(importer: &Importer, node: &Node) -> Result<Option<Kind>, String> {
    let float = |name: &str, usual: f32| node.float(name).unwrap_or(usual);
    let activation = match node.op() {
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu { slope: float("alpha", 0.01) },
        "Elu" => Activation::Elu { alpha: float("alpha", 1.0) },
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "HardSigmoid" => Activation::HardSigmoid { alpha: float("alpha", 0.2), beta: float("beta", 0.5) },
        "HardSwish" => Activation::HardSwish,
        "Swish" if float("alpha", 1.0) == 1.0 => Activation::Silu,
        "Gelu" => Activation::Gelu { tanh: node.text("approximate") == Some("tanh") },
        "Clip" => {
            let bound = |name: &str, index: usize, usual: f32| -> Result<f32, String> {
                let given = importer.constant(node, index)?;
                let given = given.map(|c| c.scalar().ok_or("its bounds are no single numbers")).transpose()?;
                let value = given.map(|v| v as f32).or(node.float(name)).unwrap_or(usual);
                // Infinities are no bounds; the largest number is as good, and can be written down.
                Ok(value.clamp(f32::MIN, f32::MAX))
            };
            clip(bound("min", 1, f32::MIN)?, bound("max", 2, f32::MAX)?)
        }
        "Dropout" => {
            let p = importer.constant(node, 1)?.and_then(|c| c.scalar()).map(|p| p as f32);
            let p = p.or(node.float("ratio")).unwrap_or(0.5);
            return Ok(Some(Kind::Dropout(layer::Dropout { p })));
        }
        "LRN" => {
            return Ok(Some(Kind::LocalResponseNorm(layer::LocalResponseNorm {
                size: node.int("size").and_then(|size| usize::try_from(size).ok()).ok_or("it has no size")?,
                alpha: float("alpha", 1e-4),
                beta: float("beta", 0.75),
                bias: float("bias", 1.0),
            })));
        }
        _ => return Ok(None),
    };
    Ok(Some(Kind::Activation(activation)))
}

fn clip(min: f32, max: f32) -> Activation {
    if min == 0.0 && max == f32::MAX { Activation::Relu } else { Activation::Clip { min, max } }
}

impl Importer {
    fn shape(&self, node: &Node) -> Result<Constant, String> {
        let live = self.live(node, 0)?;
        let extents: Vec<i64> = live.extents().iter().map(|&extent| extent as i64).collect();
        let rank = extents.len() as i64;
        let position = |name: &str, usual: i64| {
            let at = node.int(name).unwrap_or(usual);
            (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
        };
        let (start, end) = (position("start", 0), position("end", rank));
        let chosen = extents.get(start..end.max(start)).unwrap_or_default().to_vec();
        Ok(Constant::ints(vec![chosen.len()], chosen))
    }

    fn function(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.live(node, 0)?;
        let function = match node.op() {
            "Erf" => Function::Erf,
            "Exp" => Function::Exp,
            "Sqrt" => Function::Sqrt,
            "Softplus" => Function::Softplus,
            _ => Function::Power(self.needed(node, 1)?.scalar().ok_or("its exponent is no single number")? as f32),
        };
        let (name, _) = self.emit(node, &hint(node), Op::Function(function), &[&live])?;
        Ok(live.with(name))
    }

    fn prelu(&mut self, node: &Node) -> Result<Live, String> {
        let live = self.live(node, 0)?;
        let slopes = self.per_channel(&live, &self.needed(node, 1)?)?;
        let (name, _) =
            self.emit(node, &hint_from_weight(node, 1), Op::Kind(Kind::Activation(Activation::Prelu)), &[&live])?;
        self.set(&name, "weight", slopes)?;
        Ok(live.with(name))
    }

    fn batch_norm(&mut self, node: &Node) -> Result<Live, String> {
        let mut live = self.live(node, 0)?;
        if live.dims.len() == 2 {
            live = self.vector(node, 0)?;
        }
        if live.channel_axis() != Some(1) && !(live.dims.len() == 2 && live.is_plain_vector()) {
            return Err(format!("its input of shape {:?} does not have its channels on axis 1", live.extents()));
        }
        if node.int("spatial") == Some(0) {
            return Err("it has statistics for every pixel; only those for every channel have a layer here".into());
        }
        let eps = node.float("epsilon").unwrap_or(1e-5);
        // ONNX gives the share of the old statistics, PyTorch and we that of the new.
        let momentum = (1.0 - node.float("momentum").unwrap_or(0.9)).clamp(0.0, 1.0);
        let parts = [1, 2, 3, 4].map(|index| self.needed(node, index));
        let (name, shape) = self.emit(
            node,
            &hint_from_weight(node, 1),
            Op::Kind(Kind::BatchNorm(layer::BatchNorm { eps, momentum })),
            &[&live],
        )?;
        for (part, constant) in ["weight", "bias", "running_mean", "running_var"].into_iter().zip(parts) {
            let constant = constant?;
            self.set(
                &name,
                part,
                constant
                    .reshaped(vec![shape.channels])
                    .map_err(|_| format!("its {part} is not one number a channel"))?,
            )?;
        }
        Ok(live.with(name))
    }

    fn softmax(&mut self, node: &Node) -> Result<Live, String> {
        let mut live = self.live(node, 0)?;
        if live.dims.len() == 2 {
            live = self.vector(node, 0)?;
        }
        let rank = live.dims.len();
        let at = super::attributes::axis(node.int("axis").unwrap_or(if node.opset < 13 { 1 } else { -1 }), rank)?;
        // Before operator set 13, all axes from this one on were one.
        let last = if node.opset < 13 { rank } else { at + 1 };
        let over: Vec<_> = live.dims[at..last].iter().flatten().collect();
        let channels: usize = over.iter().map(|atom| atom.size).product();
        if over.iter().any(|atom| atom.axis != Axis::Channel) || channels != live.shape.channels {
            return Err("only a softmax over the channels has a layer here".into());
        }
        self.keep(node, Kind::Softmax(layer::Softmax { log: node.op() == "LogSoftmax" }), &live)
    }

    fn gemm(&mut self, node: &Node) -> Result<Live, String> {
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        if flag("transA") {
            return Err("its first input is transposed, and a batch of vectors cannot be".into());
        }
        let mut weight = self.needed(node, 1)?;
        if weight.dims.len() != 2 {
            return Err(format!("its weight is {:?}, not a matrix", weight.dims));
        }
        if !flag("transB") {
            weight = weight.transposed(&[1, 0]);
        }
        let alpha = node.float("alpha").unwrap_or(1.0);
        let bias = self.constant(node, 2)?;
        let beta = node.float("beta").unwrap_or(1.0);
        let features = weight.dims[0];
        let bias = bias.map(|bias| {
            let scaled = bias.mapped(|v| v * f64::from(beta));
            scaled.combined(&Constant::fill(vec![1, features], 0.0, false)?, |a, b| a + b)?.reshaped(vec![features])
        });
        let weight = if alpha == 1.0 { weight } else { weight.mapped(|v| v * f64::from(alpha)) };
        self.linear(node, weight, bias.transpose().map_err(|_| "its bias is not one number a feature")?)
    }

    fn matmul(&mut self, node: &Node) -> Result<Live, String> {
        if let Some(live) = self.regions(node)? {
            return Ok(live);
        }
        let weight = self.needed(node, 1)?;
        if weight.dims.len() != 2 {
            return Err(format!("its weight is {:?}, not a matrix", weight.dims));
        }
        let weight = weight.transposed(&[1, 0]);
        let live = self.live(node, 0)?;
        if live.dims.len() == 2 {
            return self.linear(node, weight, None);
        }
        // On the last axis of a picture whose channels lie there, it is a 1x1 convolution.
        let last = live.dims.len() - 1;
        if live.channel_axis() != Some(last) {
            return Err(format!("its input of shape {:?} does not have its channels on the last axis", live.extents()));
        }
        let features = weight.dims[0];
        let conv = nettriage_net::Conv { bias: false, ..nettriage_net::Conv::same(features, 1) };
        let weight = weight
            .reshaped(vec![features, live.shape.channels, 1, 1])
            .map_err(|_| "its weight does not fit its input")?;
        let (name, shape) = self.emit(node, &hint_from_weight(node, 1), Op::Kind(Kind::Conv(conv)), &[&live])?;
        self.set(&name, "weight", weight)?;
        let mut result = Live { tensor: name, shape, dims: live.dims };
        result.dims[last] = Live::picture(String::new(), shape, 1).dims[1].clone();
        Ok(result)
    }

    /// A product that takes the means of adaptive pooling's regions, along rows or columns: how it is written here.
    fn regions(&mut self, node: &Node) -> Result<Option<Live>, String> {
        let of = |index: usize| node.input(index).and_then(|name| self.values.get(name));
        let (at, live, matrix) = match (of(0), of(1)) {
            (Some(Value::Constant(matrix)), Some(Value::Live(live))) => (2, live.clone(), matrix.clone()),
            (Some(Value::Live(live)), Some(Value::Constant(matrix))) if live.dims.len() == 4 => {
                (3, live.clone(), if matrix.dims.len() == 2 { matrix.transposed(&[1, 0]) } else { return Ok(None) })
            }
            _ => return Ok(None),
        };
        let &[to, from] = matrix.dims.as_slice() else { return Ok(None) };
        let plain = live.dims.len() == 4 && live.is_plain() && live.extents()[at] == from;
        if !plain
            || to == 0
            || to.saturating_mul(from) > 1 << 20
            || matrix.to_floats() != super::write::region_means(from, to)
        {
            return Ok(None);
        }
        let Shape { height, width, .. } = live.shape;
        let (height, width) = if at == 2 { (to, width) } else { (height, to) };
        let kind = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height, width });
        let (name, shape) = self.emit(node, &hint(node), Op::Kind(kind), &[&live])?;
        Ok(Some(self.new_picture(&live, name, shape)))
    }

    /// A linear layer whose weight is `[features, inputs]` in the order in which ONNX counts the inputs.
    fn linear(&mut self, node: &Node, weight: Constant, bias: Option<Constant>) -> Result<Live, String> {
        let live = self.vector(node, 0)?;
        let order = live.feature_order().ok_or("its input is no batch of vectors")?;
        let [features, inputs] = [weight.dims[0], weight.dims[1]];
        if inputs != order.len() {
            return Err(format!("its weight takes {inputs} features and its input has {}", order.len()));
        }
        let weight = if order.iter().enumerate().all(|(index, &ours)| index == ours) {
            weight
        } else {
            let mut place = vec![0; inputs];
            order.iter().enumerate().for_each(|(index, &ours)| place[ours] = index as i64);
            weight.gathered(1, &Constant::ints(vec![inputs], place))?
        };
        let kind = Kind::Linear(layer::Linear { features, bias: bias.is_some() });
        let (name, _) = self.emit(node, &hint_from_weight(node, 1), Op::Kind(kind), &[&live])?;
        self.set(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.set(&name, "bias", bias)?;
        }
        Ok(Live::vector(name, features, live.batch_size()))
    }

    /// Multiplies and adds constants, one number a channel.
    pub fn affine(&mut self, node: &Node, live: &Live, scale: Constant, shift: Constant) -> Result<Live, String> {
        let (name, _) = self.emit(node, &hint(node), Op::Kind(Kind::Affine), &[live])?;
        self.set(&name, "weight", scale)?;
        self.set(&name, "bias", shift)?;
        Ok(live.with(name))
    }

    pub fn clipped(&mut self, node: &Node, live: &Live, min: f32, max: f32) -> Result<Live, String> {
        self.keep(node, Kind::Activation(clip(min, max)), live)
    }

    pub fn new_picture(&self, like: &Live, name: String, shape: Shape) -> Live {
        Live::picture(name, shape, like.batch_size())
    }
}
