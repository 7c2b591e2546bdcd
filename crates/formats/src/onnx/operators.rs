//! Operators whose input depends on the image: the table of those that are supported, and those with one such input.

use nettriage_net::{Activation, Kind, Shape, layer};

use super::arrange::Arrangement;
use super::attributes::Node;
use super::axes::shape_range;
use super::binary::clip;
use super::builder::Op;
use super::constant::Constant;
use super::symbolic::{Axis, SymbolicTensor};
use super::translate::{Translator, Value, layer_name};
use super::write::region_means;

/// The outputs of a node with at least one input that depends on the image.
pub fn node(translator: &mut Translator, node: &Node) -> Result<Vec<Value>, String> {
    if let Some(kind) = activation(translator, node)? {
        let x = translator.symbolic(node, 0)?;
        return Ok(vec![Value::Symbolic(translator.add_elementwise(node, kind, &x)?)]);
    }
    if node.op() == "IsNaN"
        && let (Some(input), Some(output)) = (node.input(0), node.proto.output.first())
    {
        translator.symbolic(node, 0)?;
        translator.not_a_number.insert(output.clone(), input.to_string());
        return Ok(Vec::new());
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
        "GlobalAveragePool" | "GlobalMaxPool" => translator.global_pool(node),
        "ReduceMean" | "ReduceMax" if translator.pools(node)? => translator.global_pool(node),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" => {
            translator.reduction(node)
        }
        "LayerNormalization" | "RMSNormalization" => translator.layer_norm(node),
        "InstanceNormalization" | "GroupNormalization" => translator.group_norm(node),
        "DepthToSpace" | "SpaceToDepth" => translator.depth_and_space(node),
        "Where" => translator.choice(node),
        "Upsample" | "Resize" => translator.upsample(node),
        "Pad" => translator.pad(node),
        "Gemm" => translator.gemm(node),
        "MatMul" => translator.matmul(node),
        "Einsum" => translator.einsum(node),
        "BatchNormalization" => translator.batch_norm(node),
        "PRelu" => translator.prelu(node),
        "Softmax" | "LogSoftmax" => translator.softmax(node),
        "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Neg" | "Max" | "Min" => translator.arithmetic(node),
        "Concat" => translator.concat(node),
        "Tile" => translator.tile(node),
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
        "Selu" if float("alpha", SELU.0) == SELU.0 && float("gamma", SELU.1) == SELU.1 => Activation::Selu,
        "Celu" => Activation::Celu { alpha: float("alpha", 1.0) },
        "Softplus" => Activation::Softplus,
        "Abs" => Activation::Abs,
        "Atan" => Activation::Atan,
        "Erf" => Activation::Erf,
        "Exp" => Activation::Exp,
        "Log" => Activation::Log,
        "Sqrt" => Activation::Power { exponent: 0.5 },
        "Reciprocal" => Activation::Power { exponent: -1.0 },
        "Pow" => {
            let exponent = translator.required(node, 1)?.scalar().ok_or("its exponent is not a scalar")?;
            Activation::Power { exponent: exponent as f32 }
        }
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

/// The constants of ONNX's Selu, alpha and gamma.
const SELU: (f32, f32) = (1.673_263_2, 1.050_701);

impl Translator {
    /// Whether a reduction is over rows or columns or both, in a view that keeps them apart: pooling.
    fn pools(&self, node: &Node) -> Result<bool, String> {
        let x = self.symbolic(node, 0)?;
        let Some(axes) = self.axes(node, x.dims.len())? else { return Ok(false) };
        let over: Vec<_> = axes.iter().flat_map(|&at| &x.dims[at]).collect();
        let along = |wanted: Axis| over.iter().filter(|a| a.axis == wanted).map(|a| a.size).product::<usize>();
        let whole = |part: usize, extent: usize| part == 1 || part == extent;
        Ok(over.iter().all(|factor| matches!(factor.axis, Axis::Row | Axis::Column))
            && whole(along(Axis::Row), x.shape.height)
            && whole(along(Axis::Column), x.shape.width))
    }

    /// DepthToSpace and SpaceToDepth, as views.
    fn depth_and_space(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.as_feature_map(node, 0)?;
        let &[n, c, h, w] = x.extents().as_slice() else { return Err("its input is not a feature map".into()) };
        let block = node.int("blocksize").and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        let block = block.ok_or("it has no block size")?;
        let divides = |part: usize, whole: usize| whole.is_multiple_of(part);
        if node.op() == "SpaceToDepth" {
            if !divides(block, h) || !divides(block, w) {
                return Err(format!("its block size {block} does not divide {h}x{w}"));
            }
            let split = x.reshaped(&[n, c, h / block, block, w / block, block])?;
            return split.transposed(&[0, 3, 5, 1, 2, 4]).reshaped(&[n, c * block * block, h / block, w / block]);
        }
        if block.checked_mul(block).is_none_or(|square| !divides(square, c)) {
            return Err(format!("its block size {block} does not divide {c} channels"));
        }
        let rest = c / (block * block);
        let view = if node.text("mode").unwrap_or("DCR") == "CRD" {
            x.reshaped(&[n, rest, block, block, h, w])?.transposed(&[0, 1, 4, 2, 5, 3])
        } else {
            x.reshaped(&[n, block, block, rest, h, w])?.transposed(&[0, 3, 4, 1, 5, 2])
        };
        // The parts of an axis come from channels and from rows: moved, so that it is one axis again.
        let place = Arrangement { channels: vec![1], rows: vec![2, 3], columns: vec![4, 5] };
        self.arranged(node, &view, &place)?.reshaped(&[n, rest, h * block, w * block])
    }

    fn shape(&self, node: &Node) -> Result<Constant, String> {
        let x = self.symbolic(node, 0)?;
        let extents: Vec<i64> = x.extents().iter().map(|&extent| extent as i64).collect();
        let chosen = extents[shape_range(node, extents.len())].to_vec();
        Ok(Constant::ints(vec![chosen.len()], chosen))
    }

    fn prelu(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let x = self.symbolic(node, 0)?;
        let slopes = self.per_channel(&x, &self.required(node, 1)?)?;
        let (name, _) =
            self.add(node, &self.name_from_weight(node, 1), Op::Kind(Kind::Activation(Activation::Prelu)), &[&x])?;
        self.builder.set_weight(&name, "weight", slopes)?;
        Ok(x.renamed(name))
    }

    fn batch_norm(&mut self, node: &Node) -> Result<SymbolicTensor, String> {
        let mut x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && x.is_batch(0) {
            x = self.as_vector(node, 0)?;
        }
        if x.channel_axis() != Some(1) && !(x.dims.len() == 2 && x.is_plain_vector()) {
            if x.dims.len() < 2 || x.has_batch(1) {
                return Err(format!("its input of shape {:?} does not have its channels on axis 1", x.extents()));
            }
            x = self.along_channels(node, &x, 1)?;
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
            &self.name_from_weight(node, 1),
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
        let bias = bias.transpose().map_err(|_| "its bias is not one number per feature")?;
        let x = self.symbolic(node, 0)?;
        if x.dims.len() == 2 && !x.is_batch(0) {
            return self.linear_along(node, &x, 1, weight, bias);
        }
        self.linear(node, weight, bias)
    }

    /// A product with the matrix of region means along rows or columns: how adaptive average pooling is written by
    /// [`super::write`].
    pub fn regions(&mut self, node: &Node) -> Result<Option<SymbolicTensor>, String> {
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
    pub fn linear(&mut self, node: &Node, weight: Constant, bias: Option<Constant>) -> Result<SymbolicTensor, String> {
        let x = self.as_vector(node, 0)?;
        let [features, inputs] = [weight.dims[0], weight.dims[1]];
        if inputs != x.own_extent(1) {
            return Err(format!("its weight takes {inputs} features and its input has {}", x.own_extent(1)));
        }
        let weight = if x.in_feature_order() {
            weight
        } else {
            let order = x.feature_order().ok_or("its input is not a batch of vectors")?;
            let mut position = vec![0; inputs];
            order.iter().enumerate().for_each(|(index, &ours)| position[ours] = index as i64);
            weight.gathered(1, &Constant::ints(vec![inputs], position))?
        };
        let kind = Kind::Linear(layer::Linear { features, bias: bias.is_some() });
        let (name, _) = self.add(node, &self.name_from_weight(node, 1), Op::Kind(kind), &[&x])?;
        self.builder.set_weight(&name, "weight", weight)?;
        if let Some(bias) = bias {
            self.builder.set_weight(&name, "bias", bias)?;
        }
        Ok(SymbolicTensor::vector(name, features, x.batch_size()))
    }
}
