//! Networks as ONNX models: operator set 17, a dynamic batch axis, weights as initializers named `<layer>.<parameter>`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost::Message;

use nettriage_net::{
    Activation, Axis, Conv, Error, INPUT, Kind, Layer, Network, Padding, Shape, Tensor, Window, layer,
};

use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use crate::safetensors;

const OPSET: i64 = 17;
/// The oldest version of the format that has that operator set.
const IR_VERSION: i64 = 8;

/// Writes the network as an ONNX file; a regular file is replaced atomically.
///
/// # Errors
/// As [`to_bytes`]; a file that cannot be written.
pub fn write(network: &Network, path: impl AsRef<Path>) -> Result<(), Error> {
    safetensors::write_file(path.as_ref(), &to_bytes(network)?)
}

/// The network as an ONNX model: input `input` (N, C, H, W), each tensor named after the layer that gives it, each
/// weight `<layer>.<parameter>`. Dropout nodes are kept; they do nothing in inference.
///
/// # Errors
/// Those of [`Network::check`]; more than 2 GiB of weights, which the format cannot hold.
pub fn to_bytes(network: &Network) -> Result<Vec<u8>, Error> {
    network.check()?;
    let graph = &network.graph;
    let bytes: usize = network.weights.values().map(|tensor| tensor.data.len() * 4).sum();
    if bytes > 2_000_000_000 {
        let problem = "its weights are beyond the 2 GiB of an ONNX file; write safetensors instead";
        return Err(Error::Graph { network: graph.name.clone(), problem: problem.into() });
    }
    let shapes = graph.shapes()?;
    let mut writer = Writer::new(network);
    for (layer, &shape) in graph.layers.iter().zip(&shapes) {
        let inputs = graph.input_shapes(layer, &shapes);
        writer.layer(layer, &inputs, shape).map_err(|problem| Error::layer(&layer.name, problem))?;
    }
    let mut output = graph.output.clone();
    if output == INPUT {
        output = "output".into();
        writer.node("Identity", &[INPUT], &output, Vec::new());
    }
    let shape = graph.output_shape()?;
    let rank = writer.ranks.get(&output).copied().unwrap_or(4);
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "nettriage".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphProto {
            node: writer.nodes,
            name: graph.name.clone(),
            initializer: writer.initializers,
            input: vec![value(INPUT, graph.input, 4)],
            output: vec![value(&output, shape, rank)],
        }),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: Vec::new(),
    };
    Ok(model.encode_to_vec())
}

fn value(name: &str, shape: Shape, rank: usize) -> ValueInfoProto {
    let fixed = |extent: usize| Dimension { value: Some(dimension::Value::DimValue(extent as i64)) };
    let mut dim = vec![Dimension { value: Some(dimension::Value::DimParam("N".into())) }];
    dim.extend([shape.channels, shape.height, shape.width].map(fixed).into_iter().take(rank - 1));
    let tensor = type_proto::Tensor { elem_type: DataType::Float.into(), shape: Some(TensorShapeProto { dim }) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.into(), r#type: Some(r#type) }
}

struct Writer<'a> {
    network: &'a Network,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    names: HashSet<String>,
    /// 2 for (N, F), 4 for (N, C, H, W).
    ranks: HashMap<String, usize>,
}

impl Writer<'_> {
    fn new(network: &Network) -> Writer<'_> {
        let names = network.graph.layers.iter().map(|layer| layer.name.clone()).chain([INPUT.to_string()]).collect();
        Writer {
            network,
            nodes: Vec::new(),
            initializers: Vec::new(),
            names,
            ranks: HashMap::from([(INPUT.to_string(), 4)]),
        }
    }

    /// A unique name: the given one, with a number if it is taken.
    fn unique_name(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        let mut number = 1;
        while !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{wanted}_{number}");
        }
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op.into(),
            attribute,
            domain: String::new(),
            metadata_props: Vec::new(),
        });
    }

    /// A node that gives an intermediate tensor of a layer.
    fn intermediate(&mut self, layer: &Layer, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let name = self.unique_name(format!("{}/{op}", layer.name));
        self.node(op, inputs, &name, attribute);
        name
    }

    fn floats(&mut self, wanted: String, dims: &[usize], data: &[f32]) -> String {
        let name = self.unique_name(wanted);
        self.initializers.push(TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: DataType::Float.into(),
            name: name.clone(),
            raw_data: data.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        });
        name
    }

    fn ints(&mut self, wanted: String, data: &[i64]) -> String {
        let name = self.unique_name(wanted);
        self.initializers.push(TensorProto {
            dims: vec![data.len() as i64],
            data_type: DataType::Int64.into(),
            name: name.clone(),
            raw_data: data.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        });
        name
    }

    fn number(&mut self, layer: &Layer, value: f32) -> String {
        self.floats(format!("{}.number", layer.name), &[], &[value])
    }

    fn weight(&mut self, layer: &Layer, part: &str) -> String {
        let key = format!("{}.{part}", layer.name);
        let Tensor { shape, data } = &self.network.weights[&key];
        self.floats(key, shape, data)
    }

    /// A weight of one number per channel, of a shape that broadcasts to a tensor of this rank.
    fn per_channel(&mut self, layer: &Layer, part: &str, rank: usize) -> String {
        let key = format!("{}.{part}", layer.name);
        let data = &self.network.weights[&key].data;
        let dims = if rank == 4 { vec![data.len(), 1, 1] } else { vec![data.len()] };
        self.floats(key, &dims, data)
    }

    fn rank(&self, tensor: &str) -> usize {
        self.ranks.get(tensor).copied().unwrap_or(4)
    }

    /// The tensor as (N, C, H, W) or as (N, F).
    fn as_rank(&mut self, layer: &Layer, tensor: &str, rank: usize) -> String {
        if self.rank(tensor) == rank {
            return tensor.to_string();
        }
        let name = if rank == 2 {
            self.intermediate(layer, "Flatten", &[tensor], vec![int("axis", 1)])
        } else {
            let axes = self.ints(format!("{}.axes", layer.name), &[2, 3]);
            self.intermediate(layer, "Unsqueeze", &[tensor, &axes], Vec::new())
        };
        self.ranks.insert(name.clone(), rank);
        name
    }

    fn layer(&mut self, layer: &Layer, shapes: &[Shape], shape: Shape) -> Result<(), String> {
        let out = layer.name.as_str();
        let spatial = matches!(
            layer.kind,
            Kind::Conv(_)
                | Kind::ConvTranspose(_)
                | Kind::MaxPool(_)
                | Kind::AvgPool(_)
                | Kind::AdaptiveAvgPool(_)
                | Kind::Pad(_)
                | Kind::Upsample(_)
                | Kind::LocalResponseNorm(_)
                | Kind::ChannelShuffle(_)
                | Kind::Permute(_)
                | Kind::Gather(_)
                | Kind::Constant(_)
                | Kind::MatMul(_)
                | Kind::Reduce(_)
                | Kind::Resize(_)
                | Kind::LayerNorm(_)
                | Kind::GroupNorm(_)
        ) || matches!(layer.kind, Kind::Concat(layer::Concat { axis }) if axis != Axis::Channels);
        let mixed = layer.inputs.iter().any(|input| self.rank(input) == 4);
        let wanted = match layer.kind {
            Kind::Linear(_) => 2,
            _ if spatial || mixed => 4,
            _ => 2,
        };
        let inputs: Vec<String> = layer.inputs.iter().map(|input| self.as_rank(layer, input, wanted)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let x = inputs[0];
        let mut rank = wanted;
        match &layer.kind {
            Kind::Conv(conv) => {
                let inputs = self.weighted(layer, x, conv.bias);
                self.node("Conv", &refs(&inputs), out, convolution(conv));
            }
            Kind::ConvTranspose(layer::ConvTranspose { conv, output_padding }) => {
                let inputs = self.weighted(layer, x, conv.bias);
                let mut attributes = convolution(conv);
                attributes.push(ints("output_padding", &pair(*output_padding)));
                self.node("ConvTranspose", &refs(&inputs), out, attributes);
            }
            Kind::Linear(layer::Linear { bias, .. }) => {
                let inputs = self.weighted(layer, x, *bias);
                self.node("Gemm", &refs(&inputs), out, vec![int("transB", 1)]);
            }
            Kind::BatchNorm(layer::BatchNorm { eps, momentum }) => {
                let mut inputs = vec![x.to_string()];
                inputs.extend(["weight", "bias", "running_mean", "running_var"].map(|part| self.weight(layer, part)));
                self.node(
                    "BatchNormalization",
                    &refs(&inputs),
                    out,
                    vec![float("epsilon", *eps), float("momentum", 1.0 - momentum)],
                );
            }
            Kind::Affine => {
                let scale = self.per_channel(layer, "weight", wanted);
                let scaled = self.intermediate(layer, "Mul", &[x, &scale], Vec::new());
                let shift = self.per_channel(layer, "bias", wanted);
                self.node("Add", &[&scaled, &shift], out, Vec::new());
            }
            Kind::Activation(activation) => self.activation(layer, x, activation, wanted),
            Kind::MaxPool(window) => self.node("MaxPool", &[x], out, pool(window)),
            Kind::AvgPool(layer::AvgPool { window, count_padding }) => {
                let mut attributes = pool(window);
                attributes.push(int("count_include_pad", i64::from(*count_padding)));
                self.node("AveragePool", &[x], out, attributes);
            }
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height: 1, width: 1 }) => {
                self.node("GlobalAveragePool", &[x], out, Vec::new())
            }
            Kind::AdaptiveAvgPool(layer::AdaptiveAvgPool { height, width }) => {
                self.adaptive(layer, x, shapes[0], [*height, *width])
            }
            Kind::Add => self.chain(layer, "Add", &inputs),
            Kind::Mul => self.chain(layer, "Mul", &inputs),
            Kind::Concat(layer::Concat { axis }) => {
                self.node("Concat", &inputs, out, vec![int("axis", onnx_axis(*axis))])
            }
            Kind::MatMul(layer::MatMul { transposed }) => {
                // (N, C, H, W) as H matrices of W x C.
                let matrix = |writer: &mut Self, x: &str, order: [i64; 4]| {
                    writer.intermediate(layer, "Transpose", &[x], vec![ints("perm", &order)])
                };
                let a = matrix(self, x, [0, 2, 3, 1]);
                let b = matrix(self, inputs[1], if *transposed { [0, 2, 1, 3] } else { [0, 2, 3, 1] });
                let product = self.intermediate(layer, "MatMul", &[&a, &b], Vec::new());
                self.node("Transpose", &[&product], out, vec![ints("perm", &[0, 3, 1, 2])]);
            }
            Kind::Permute(layer::Permute { extents, order, shape }) => {
                let split: Vec<i64> = [0].into_iter().chain(extents.iter().map(|&extent| extent as i64)).collect();
                let split = self.ints(format!("{out}.split"), &split);
                let apart = self.intermediate(layer, "Reshape", &[x, &split], Vec::new());
                let order: Vec<i64> = [0].into_iter().chain(order.iter().map(|&axis| axis as i64 + 1)).collect();
                let moved = self.intermediate(layer, "Transpose", &[&apart], vec![ints("perm", &order)]);
                let [c, h, w] = [shape.channels, shape.height, shape.width].map(|extent| extent as i64);
                let joined = self.ints(format!("{out}.shape"), &[0, c, h, w]);
                self.node("Reshape", &[&moved, &joined], out, Vec::new());
            }
            Kind::Gather(layer::Gather { axis, indices }) => {
                let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
                let indices = self.ints(format!("{out}.indices"), &indices);
                self.node("Gather", &[x, &indices], out, vec![int("axis", onnx_axis(*axis))]);
            }
            Kind::Constant(layer::Constant { shape, .. }) => {
                // One copy for every image of the batch.
                let key = format!("{out}.weight");
                let dims = [1, shape.channels, shape.height, shape.width];
                let weight = self.floats(key.clone(), &dims, &self.network.weights[&key].data);
                let whole = self.intermediate(layer, "Shape", &[x], Vec::new());
                let [start, end] = [0, 1].map(|at| self.ints(format!("{out}.axis"), &[at]));
                let batch = self.intermediate(layer, "Slice", &[&whole, &start, &end], Vec::new());
                let ones = self.ints(format!("{out}.ones"), &[1, 1, 1]);
                let target = self.intermediate(layer, "Concat", &[&batch, &ones], vec![int("axis", 0)]);
                self.node("Expand", &[&weight, &target], out, Vec::new());
            }
            Kind::Reduce(layer::Reduce { function, axes }) => {
                let op = match function {
                    layer::Reduction::Mean => "ReduceMean",
                    layer::Reduction::Max => "ReduceMax",
                };
                let axes: Vec<i64> = axes.iter().map(|&axis| onnx_axis(axis)).collect();
                self.node(op, &[x], out, vec![ints("axes", &axes), int("keepdims", 1)]);
            }
            Kind::Resize(layer::Resize { height, width, coordinates }) => {
                let coordinates = match coordinates {
                    layer::Coordinates::HalfPixel => "half_pixel",
                    layer::Coordinates::PytorchHalfPixel => "pytorch_half_pixel",
                    layer::Coordinates::AlignCorners => "align_corners",
                    layer::Coordinates::Asymmetric => "asymmetric",
                };
                // Sizes hold the batch, which is open; so the extents are given as factors.
                let scales =
                    [1.0, 1.0, *height as f32 / shapes[0].height as f32, *width as f32 / shapes[0].width as f32];
                let scales = self.floats(format!("{out}.scales"), &[4], &scales);
                let attributes = vec![text("mode", "linear"), text("coordinate_transformation_mode", coordinates)];
                self.node("Resize", &[x, "", &scales], out, attributes);
            }
            Kind::LayerNorm(layer::LayerNorm { eps, centred: true }) => {
                let rows = self.intermediate(layer, "Transpose", &[x], vec![ints("perm", &[0, 2, 3, 1])]);
                let inputs = self.weighted(layer, &rows, true);
                let attributes = vec![int("axis", -1), float("epsilon", *eps)];
                let name = self.unique_name(format!("{out}/LayerNormalization"));
                self.node("LayerNormalization", &refs(&inputs), &name, attributes);
                self.node("Transpose", &[&name], out, vec![ints("perm", &[0, 3, 1, 2])]);
            }
            Kind::LayerNorm(layer::LayerNorm { eps, centred: false }) => {
                // RMSNormalization is an operator from operator set 23 on.
                let square = self.intermediate(layer, "Mul", &[x, x], Vec::new());
                let attributes = vec![ints("axes", &[1]), int("keepdims", 1)];
                let mean = self.intermediate(layer, "ReduceMean", &[&square], attributes);
                let eps = self.number(layer, *eps);
                let sum = self.intermediate(layer, "Add", &[&mean, &eps], Vec::new());
                let root = self.intermediate(layer, "Sqrt", &[&sum], Vec::new());
                let normalised = self.intermediate(layer, "Div", &[x, &root], Vec::new());
                let weight = self.per_channel(layer, "weight", 4);
                self.node("Mul", &[&normalised, &weight], out, Vec::new());
            }
            Kind::GroupNorm(layer::GroupNorm { groups, eps }) => {
                // GroupNormalization is an operator from operator set 18 on.
                let split = self.ints(format!("{out}.split"), &[0, *groups as i64, -1]);
                let apart = self.intermediate(layer, "Reshape", &[x, &split], Vec::new());
                let ones = self.floats(format!("{out}.ones"), &[*groups], &vec![1.0; *groups]);
                let zeros = self.floats(format!("{out}.zeros"), &[*groups], &vec![0.0; *groups]);
                let inputs = [apart.as_str(), &ones, &zeros];
                let attributes = vec![float("epsilon", *eps)];
                let normalised = self.intermediate(layer, "InstanceNormalization", &inputs, attributes);
                let extents = [0, shape.channels as i64, shape.height as i64, shape.width as i64];
                let joined = self.ints(format!("{out}.shape"), &extents);
                let whole = self.intermediate(layer, "Reshape", &[&normalised, &joined], Vec::new());
                let scale = self.per_channel(layer, "weight", 4);
                let scaled = self.intermediate(layer, "Mul", &[&whole, &scale], Vec::new());
                let shift = self.per_channel(layer, "bias", 4);
                self.node("Add", &[&scaled, &shift], out, Vec::new());
            }
            Kind::Flatten => {
                self.node("Flatten", &[x], out, vec![int("axis", 1)]);
                rank = 2;
            }
            Kind::Reshape(layer::Reshape { shape }) => {
                let target = [0, shape.channels as i64, shape.height as i64, shape.width as i64];
                let target = self.ints(format!("{out}.shape"), &target);
                self.node("Reshape", &[x, &target], out, Vec::new());
                rank = 4;
            }
            Kind::ChannelShuffle(layer::ChannelShuffle { groups }) => {
                let [h, w] = [shape.height as i64, shape.width as i64];
                let split = [0, *groups as i64, (shape.channels / groups) as i64, h, w];
                let split = self.ints(format!("{out}.split"), &split);
                let apart = self.intermediate(layer, "Reshape", &[x, &split], Vec::new());
                let swapped = self.intermediate(layer, "Transpose", &[&apart], vec![ints("perm", &[0, 2, 1, 3, 4])]);
                let joined = self.ints(format!("{out}.shape"), &[0, shape.channels as i64, h, w]);
                self.node("Reshape", &[&swapped, &joined], out, Vec::new());
            }
            Kind::Slice(layer::Slice { start, end }) => {
                let lists = [("starts", *start as i64), ("ends", *end as i64), ("axes", 1)];
                let lists = lists.map(|(word, value)| self.ints(format!("{out}.{word}"), &[value]));
                self.node("Slice", &[x, &lists[0], &lists[1], &lists[2]], out, Vec::new());
            }
            Kind::Pad(layer::Pad { channels, padding, value }) => {
                let Padding { top, bottom, left, right } = *padding;
                let pads = [0, channels[0], top, left, 0, channels[1], bottom, right].map(|amount| amount as i64);
                let pads = self.ints(format!("{out}.pads"), &pads);
                let value = self.number(layer, *value);
                self.node("Pad", &[x, &pads, &value], out, Vec::new());
            }
            Kind::Upsample(layer::Upsample { factor }) => self.upsample(layer, x, *factor, out),
            Kind::LocalResponseNorm(layer::LocalResponseNorm { size, alpha, beta, bias }) => {
                let attributes =
                    vec![int("size", *size as i64), float("alpha", *alpha), float("beta", *beta), float("bias", *bias)];
                self.node("LRN", &[x], out, attributes);
            }
            Kind::Dropout(layer::Dropout { p }) => {
                let ratio = self.number(layer, *p);
                self.node("Dropout", &[x, &ratio], out, Vec::new());
            }
            Kind::Softmax(layer::Softmax { log }) => {
                self.node(if *log { "LogSoftmax" } else { "Softmax" }, &[x], out, vec![int("axis", 1)])
            }
            Kind::Identity => self.node("Identity", &[x], out, Vec::new()),
        }
        self.ranks.insert(layer.name.clone(), rank);
        Ok(())
    }

    fn weighted(&mut self, layer: &Layer, x: &str, bias: bool) -> Vec<String> {
        let mut inputs = vec![x.to_string(), self.weight(layer, "weight")];
        if bias {
            inputs.push(self.weight(layer, "bias"));
        }
        inputs
    }

    fn chain(&mut self, layer: &Layer, op: &str, inputs: &[&str]) {
        let mut sum = inputs[0].to_string();
        for (index, input) in inputs.iter().enumerate().skip(1) {
            if index + 1 == inputs.len() {
                self.node(op, &[&sum, input], &layer.name, Vec::new());
            } else {
                sum = self.intermediate(layer, op, &[&sum, input], Vec::new());
            }
        }
    }

    fn upsample(&mut self, layer: &Layer, x: &str, factor: [usize; 2], out: &str) {
        let scales =
            self.floats(format!("{}.scales", layer.name), &[4], &[1.0, 1.0, factor[0] as f32, factor[1] as f32]);
        let attributes = vec![
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ];
        self.node("Resize", &[x, "", &scales], out, attributes);
    }

    /// Adaptive average pooling: average pooling if the output size divides the input size, upsampling if the input size
    /// divides the output size, otherwise products with the two matrices of region means.
    fn adaptive(&mut self, layer: &Layer, x: &str, from: Shape, to: [usize; 2]) {
        let extents = [from.height, from.width];
        if extents == to {
            self.node("Identity", &[x], &layer.name, Vec::new());
        } else if (0..2).all(|axis| extents[axis].is_multiple_of(to[axis])) {
            let kernel = [extents[0] / to[0], extents[1] / to[1]];
            let window = Window { kernel, stride: kernel, padding: Padding::default() };
            self.node("AveragePool", &[x], &layer.name, pool(&window));
        } else if (0..2).all(|axis| to[axis].is_multiple_of(extents[axis])) {
            self.upsample(layer, x, [to[0] / extents[0], to[1] / extents[1]], &layer.name);
        } else {
            let rows = region_means(extents[0], to[0]);
            let rows = self.floats(format!("{}.rows", layer.name), &[to[0], extents[0]], &rows);
            let (columns, [wide, narrow]) = (region_means(extents[1], to[1]), [extents[1], to[1]]);
            let columns: Vec<f32> = (0..wide * narrow).map(|at| columns[at % narrow * wide + at / narrow]).collect();
            let columns = self.floats(format!("{}.columns", layer.name), &[wide, narrow], &columns);
            let by_rows = self.intermediate(layer, "MatMul", &[&rows, x], Vec::new());
            self.node("MatMul", &[&by_rows, &columns], &layer.name, Vec::new());
        }
    }

    fn activation(&mut self, layer: &Layer, x: &str, activation: &Activation, rank: usize) {
        let out = layer.name.as_str();
        match *activation {
            Activation::Relu => self.node("Relu", &[x], out, Vec::new()),
            Activation::LeakyRelu { slope } => self.node("LeakyRelu", &[x], out, vec![float("alpha", slope)]),
            Activation::Prelu => {
                let slope = self.per_channel(layer, "weight", rank);
                self.node("PRelu", &[x, &slope], out, Vec::new());
            }
            Activation::Clip { min, max } => {
                let [min, max] = [min, max].map(|bound| self.number(layer, bound));
                self.node("Clip", &[x, &min, &max], out, Vec::new());
            }
            Activation::Sigmoid => self.node("Sigmoid", &[x], out, Vec::new()),
            Activation::HardSigmoid { alpha, beta } => {
                self.node("HardSigmoid", &[x], out, vec![float("alpha", alpha), float("beta", beta)]);
            }
            Activation::HardSwish => self.node("HardSwish", &[x], out, Vec::new()),
            Activation::Silu => {
                let gate = self.intermediate(layer, "Sigmoid", &[x], Vec::new());
                self.node("Mul", &[x, &gate], out, Vec::new());
            }
            Activation::Gelu { tanh } => {
                let inner = if tanh {
                    self.tanh_argument(layer, x)
                } else {
                    self.times(layer, x, std::f32::consts::FRAC_1_SQRT_2)
                };
                let curve = self.intermediate(layer, if tanh { "Tanh" } else { "Erf" }, &[&inner], Vec::new());
                let one = self.number(layer, 1.0);
                let share = self.intermediate(layer, "Add", &[&curve, &one], Vec::new());
                let product = self.intermediate(layer, "Mul", &[x, &share], Vec::new());
                let half = self.number(layer, 0.5);
                self.node("Mul", &[&product, &half], out, Vec::new());
            }
            Activation::Mish => {
                // The operator Mish exists from operator set 18 on.
                let softplus = self.intermediate(layer, "Softplus", &[x], Vec::new());
                let gate = self.intermediate(layer, "Tanh", &[&softplus], Vec::new());
                self.node("Mul", &[x, &gate], out, Vec::new());
            }
            Activation::Tanh => self.node("Tanh", &[x], out, Vec::new()),
            Activation::Elu { alpha } => self.node("Elu", &[x], out, vec![float("alpha", alpha)]),
            Activation::Selu => self.node("Selu", &[x], out, Vec::new()),
            Activation::Celu { alpha } => self.node("Celu", &[x], out, vec![float("alpha", alpha)]),
            Activation::Softplus => self.node("Softplus", &[x], out, Vec::new()),
            Activation::Abs => self.node("Abs", &[x], out, Vec::new()),
            Activation::Atan => self.node("Atan", &[x], out, Vec::new()),
            Activation::Erf => self.node("Erf", &[x], out, Vec::new()),
            Activation::Exp => self.node("Exp", &[x], out, Vec::new()),
            Activation::Log => self.node("Log", &[x], out, Vec::new()),
            Activation::Power { exponent: 0.5 } => self.node("Sqrt", &[x], out, Vec::new()),
            Activation::Power { exponent: -1.0 } => self.node("Reciprocal", &[x], out, Vec::new()),
            Activation::Power { exponent } => {
                let exponent = self.number(layer, exponent);
                self.node("Pow", &[x, &exponent], out, Vec::new());
            }
        }
    }

    fn times(&mut self, layer: &Layer, x: &str, factor: f32) -> String {
        let factor = self.number(layer, factor);
        self.intermediate(layer, "Mul", &[x, &factor], Vec::new())
    }

    /// sqrt(2 / pi) (x + 0.044715 x³), the argument of GELU's approximation.
    fn tanh_argument(&mut self, layer: &Layer, x: &str) -> String {
        let square = self.intermediate(layer, "Mul", &[x, x], Vec::new());
        let cube = self.intermediate(layer, "Mul", &[&square, x], Vec::new());
        let bent = self.times(layer, &cube, 0.044715);
        let sum = self.intermediate(layer, "Add", &[x, &bent], Vec::new());
        self.times(layer, &sum, (2.0 / std::f32::consts::PI).sqrt())
    }
}

/// The matrix `[to, from]` of adaptive average pooling along one axis: row i averages positions floor(i from / to) to
/// ceil((i + 1) from / to).
pub(super) fn region_means(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; from * to];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let region = &mut row[i * from / to..((i + 1) * from).div_ceil(to)];
        region.fill(1.0 / region.len() as f32);
    }
    matrix
}

/// The axis of (N, C, H, W).
fn onnx_axis(axis: Axis) -> i64 {
    match axis {
        Axis::Channels => 1,
        Axis::Rows => 2,
        Axis::Columns => 3,
    }
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn pair(values: [usize; 2]) -> [i64; 2] {
    values.map(|value| value as i64)
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, r#type: AttributeType::Int.into(), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: values.to_vec(),
        r#type: AttributeType::Ints.into(),
        ..Default::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: value, r#type: AttributeType::Float.into(), ..Default::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: value.into(), r#type: AttributeType::String.into(), ..Default::default() }
}

fn pads(padding: &Padding) -> AttributeProto {
    ints("pads", &[padding.top, padding.left, padding.bottom, padding.right].map(|amount| amount as i64))
}

fn convolution(conv: &Conv) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &pair(conv.kernel)),
        ints("strides", &pair(conv.stride)),
        ints("dilations", &pair(conv.dilation)),
        pads(&conv.padding),
        int("group", conv.groups as i64),
    ]
}

fn pool(window: &Window) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &pair(window.kernel)), ints("strides", &pair(window.stride)), pads(&window.padding)]
}
