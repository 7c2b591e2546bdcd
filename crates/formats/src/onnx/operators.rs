//! Operators whose input depends on the image: the table of those that are supported, and those with one such input.

use nettriage_net::{Activation, Conv, Kind, Shape, layer};

use super::attributes::Node;
use super::axes::{axis, shape_range};
use super::binary::clip;
use super::builder::{Function, Op};
use super::constant::Constant;
use super::symbolic::{Axis, SymbolicTensor};
use super::translate::{Translator, Value, layer_name, layer_name_from_weight};
use super::write::region_means;

/// The outputs of a node with at least one input that depends on the image.
pub fn node(translator: &mut Translator, node: &Node) -> Result<Vec<Value>, String> {
    if let Some(kind) = activation(translator, node)? {
        let x = translator.symbolic(node, 0)?;
        return Ok(vec![Value::Symbolic(translator.add_elementwise(node, kind, &x)?)]);
    }
    if node.op() == "CastLike"
        && let Some(Value::Constant(constant)) = node.input(0).and_then(|name| translator.values.get(name))
    {
        // To the type of a tensor that is computed from the image, which is floating-point.
        return Ok(vec![Value::Constant(constant.cast(false))]);
    }
    let output = match node.op() {
        "Identity" | "Cast" | "CastLike" | "Flatten" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Expand" => {
            translator.reshaping(node)
        }
        "Conv" => translator.convolution(node),
        "ConvTranspose" => translator.transposed_convolution(node),
        "MaxPool" | "AveragePool" => translator.pool(node),
        "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceMax" => translator.global_pool(node),
        "Upsample" | "Resize" => translator.upsample(node),
        "Pad" => translator.pad(node),
        "Gemm" => translator.gemm(node),
        "MatMul" => translator.matmul(node),
        "BatchNormalization" => translator.batch_norm(node),
        "PRelu" => translator.prelu(node),
        "Softmax" | "LogSoftmax" => translator.softmax(node),
        "Erf" | "Exp" | "Sqrt" | "Softplus" | "Pow" => translator.function(node),
        "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Neg" | "Max" | "Min" => translator.arithmetic(node),
        "Concat" => translator.concat(node),
        "Slice" => translator.slice(node),
        "Gather" => translator.gather(node),
        "GatherND" => translator.gather_nd(node),
        "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear" => {
            Err("its activations are quantised; export the model before quantisation, or quantise its weights only"
                .into())
        }
        "Split" => return translator.split(node),
        "Shape" => return translator.shape(node).map(|constant| vec![Value::Constant(constant)]),
        _ => Err("this operator is not supported; replace it in the model, or cut the model before it".into()),
    };
    output.map(|tensor| vec![Value::Symbolic(tensor)])
}

/// Elementwise operators, Dropout and LRN: they keep the shape and have no weights.
fn activation(translator: &Translator, node: &Node) -> Result<Option<Kind>, String> {
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
        "Mish" => Activation::Mish,
        "Clip" => {
            let bound = |name: &str, index: usize, usual: f32| -> Result<f32, String> {
                let given = translator.constant(node, index)?;
                let given = given.map(|c| c.scalar().ok_or("its bounds are not scalars")).transpose()?;
                let value = given.map(|v| v as f32).or(node.float(name)).unwrap_or(usual);
                // Infinity cannot be written as JSON; the largest finite number has the same effect.
                Ok(value.clamp(f32::MIN, f32::MAX))
            };
            clip(bound("min", 1, f32::MIN)?, bound("max", 2, f32::MAX)?)
        }
        "Dropout" => {
            let p = translator.constant(node, 1)?.and_then(|c| c.scalar()).map(|p| p as f32);
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

impl Translator {
    fn shape(&self, node: &Node) -> Result<Constant, String> {
        let x = self.symbolic(node, 0)?;
        let extents: Vec<i64> = x.extents().iter().map(|&extent| extent as i64).collect();
        let chosen = extents[shape_range(node, extents.len())].to_vec();
        Ok(Constant::ints(vec![chosen.len()], chosen))
    }

    fn function(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let function = match node.op() {
            "Erf" => Function::Erf,
            "Exp" => Function::Exp,
            "Sqrt" => Function::Sqrt,
            "Softplus" => Function::Softplus,
            _ => Function::Power(self.required(node, 1)?.scalar().ok_or("its exponent is not a scalar")? as f32),
        };
        let (name, _) = self.add(node, &layer_name(node), Op::Function(function), &[&x])?;
        Ok(x.renamed(name))
    }

    fn prelu(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let slopes = self.per_channel(&x, &self.required(node, 1)?)?;
        let (name, _) =
            self.add(node, &layer_name_from_weight(node, 1), Op::Kind(Kind::Activation(Activation::Prelu)), &[&x])?;
        self.builder.set_weight(&name, "weight", slopes)?;
        Ok(x.renamed(name))
    }

    fn batch_norm(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 {
            x = self.as_vector(node, 0)?;
        }
        if x.channel_axis() != Some(1) && !(x.dims.len() == 2 && x.is_plain_vector()) {
            return Err(format!("its input of shape {:?} does not have its channels on axis 1", x.extents()));
        }
        if node.int("spatial") == Some(0) {
            return Err("it has statistics per pixel; only statistics per channel are supported".into());
        }
        let eps = node.float("epsilon").unwrap_or(1e-5);
        // ONNX weights the old statistics by its momentum, PyTorch and we the new ones.
        let momentum = (1.0 - node.float("momentum").unwrap_or(0.9)).clamp(0.0, 1.0);
        let parts = [1, 2, 3, 4].map(|index| self.required(node, index));
        let (name, shape) = self.add(
            node,
            &layer_name_from_weight(node, 1),
            Op::Kind(Kind::BatchNorm(layer::BatchNorm { eps, momentum })),
            &[&x],
        )?;
        for (part, constant) in ["weight", "bias", "running_mean", "running_var"].into_iter().zip(parts) {
            let constant = constant?;
            self.builder.set_weight(
                &name,
                part,
                constant
                    .reshaped(vec![shape.channels])
                    .map_err(|_| format!("its {part} is not one number per channel"))?,
            )?;
        }
        Ok(x.renamed(name))
    }

    fn softmax(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 {
            x = self.as_vector(node, 0)?;
        }
        let rank = x.dims.len();
        let at = axis(node.int("axis").unwrap_or(if node.opset < 13 { 1 } else { -1 }), rank)?;
        // Before operator set 13, the softmax is over this axis and all later ones together.
        let last = if node.opset < 13 { rank } else { at + 1 };
        let over: Vec<_> = x.dims[at..last].iter().flatten().collect();
        let channels: usize = over.iter().map(|factor| factor.size).product();
        if over.iter().any(|factor| factor.axis != Axis::Channel) || channels != x.shape.channels {
            return Err("only a softmax over the channels is supported".into());
        }
        self.add_elementwise(node, Kind::Softmax(layer::Softmax { log: node.op() == "LogSoftmax" }), &x)
    }

    fn gemm(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        if flag("transA") {
            return Err("it transposes its first input, a batch of vectors; that is not supported".into());
        }
        let mut weight = self.required(node, 1)?;
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
        self.linear(node, weight, bias.transpose().map_err(|_| "its bias is not one number per feature")?)
    }

    fn matmul(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        if let Some(x) = self.regions(node)? {
            return Ok(x);
        }
        let weight = self.required(node, 1)?;
        if weight.dims.len() != 2 {
            return Err(format!("its weight is {:?}, not a matrix", weight.dims));
        }
        let weight = weight.transposed(&[1, 0]);
        let x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 {
            return self.linear(node, weight, None);
        }
        // On a feature map with channels last, a matrix product is a 1x1 convolution.
        let last = x.dims.len() - 1;
        if x.channel_axis() != Some(last) {
            return Err(format!("its input of shape {:?} does not have its channels on the last axis", x.extents()));
        }
        let features = weight.dims[0];
        let conv = Conv { bias: false, ..Conv::same(features, 1) };
        let weight =
            weight.reshaped(vec![features, x.shape.channels, 1, 1]).map_err(|_| "its weight does not fit its input")?;
        let (name, shape) = self.add(node, &layer_name_from_weight(node, 1), Op::Kind(Kind::Conv(conv)), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        let mut result = SymbolicTensor { name, shape, dims: x.dims };
        result.dims[last] = SymbolicTensor::channels_first(String::new(), shape, 1).dims[1].clone();
        Ok(result)
    }

    /// A product with the matrix of region means along rows or columns: how adaptive average pooling is written by
    /// [`super::write`].
    fn regions(&mut self, node: &Node) -> Result<Option<SymbolicTensor>, String> {
        let of = |index: usize| node.input(index).and_then(|name| self.values.get(name));
        let (at, x, matrix) = match (of(0), of(1)) {
            (Some(Value::Constant(matrix)), Some(Value::Symbolic(x))) => (2, x.clone(), matrix.clone()),
            (Some(Value::Symbolic(x)), Some(Value::Constant(matrix))) if x.dims.len() == 4 => {
                (3, x.clone(), if matrix.dims.len() == 2 { matrix.transposed(&[1, 0]) } else { return Ok(None) })
            }
            _ => return Ok(None),
        };
        let &[to, from] = matrix.dims.as_slice() else { return Ok(None) };
        let plain = x.dims.len() == 4 && x.is_plain() && x.extents()[at] == from;
        if !plain || to == 0 || to.saturating_mul(from) > 1 << 20 || matrix.to_floats() != region_means(from, to) {
            return Ok(None);
        }
        let Shape { height, width, .. } = x.shape;
        let (height, width) = if at == 2 { (to, width) } else { (height, to) };
        let kind = Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height, width });
        let (name, shape) = self.add(node, &layer_name(node), Op::Kind(kind), &[&x])?;
        Ok(Some(SymbolicTensor::channels_first(name, shape, x.batch_size())))
    }

    /// A linear layer. `weight` is `[features, inputs]`, its columns in the order of the ONNX axis.
    fn linear(&mut self, node: &Node, weight: Constant, bias: Option<Constant>) -> Result<SymbolicTensor, String> {
        let x = self.as_vector(node, 0)?;
        let order = x.feature_order().ok_or("its input is not a batch of vectors")?;
        let [features, inputs] = [weight.dims[0], weight.dims[1]];
        if inputs != order.len() {
            return Err(format!("its weight takes {inputs} features and its input has {}", order.len()));
        }
        let weight = if order.iter().enumerate().all(|(index, &ours)| index == ours) {
            weight
        } else {
            let mut position = vec![0; inputs];
            order.iter().enumerate().for_each(|(index, &ours)| position[ours] = index as i64);
            weight.gathered(1, &Constant::ints(vec![inputs], position))?
        };
        let kind = Kind::Linear(layer::Linear { features, bias: bias.is_some() });
        let (name, _) = self.add(node, &layer_name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.builder.set_weight(&name, "bias", bias)?;
        }
        Ok(SymbolicTensor::vector(name, features, x.batch_size()))
    }
}
