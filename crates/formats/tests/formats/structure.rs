//! Every ONNX network in `../shared/networks`: layers, costs and blocks, pinned.
//!
//! Parameters and shapes agree with what the networks' papers and torchvision give (ResNet-50 25,557,032; VGG19
//! 143,667,240; AlexNet 60,965,224; DenseNet-121 7,978,856; SqueezeNet 1.1 1,235,496). Blocks were checked against the
//! modules' names in the files.

use nettriage_formats::onnx::{self, Layout, ReadOptions};
use nettriage_net::{INPUT, Kind, block, cost, layer};

use crate::shared;

struct Expected {
    file: &'static str,
    layout: Layout,
    layers: usize,
    parameters: u64,
    /// First and last layer of every block.
    blocks: &'static [(&'static str, &'static str)],
}

const EXPECTED: [Expected; 12] = [
    Expected {
        file: "cifar10_small/cifar_base_kw",
        layout: Layout::ChannelsFirst,
        layers: 8,
        parameters: 105_966,
        blocks: &[],
    },
    Expected {
        file: "cifar10_small/nhwc_small",
        layout: Layout::ChannelsLast,
        layers: 10,
        parameters: 85_218,
        blocks: &[],
    },
    Expected {
        file: "cifar10_small/resnet_2b",
        layout: Layout::ChannelsFirst,
        layers: 17,
        parameters: 112_006,
        blocks: &[("layer1.0.conv1", "Relu_12")],
    },
    Expected { file: "mnist_lenet/lenet", layout: Layout::ChannelsFirst, layers: 13, parameters: 44_426, blocks: &[] },
    Expected {
        file: "structure/dronet_bn",
        layout: Layout::ChannelsLast,
        layers: 32,
        parameters: 320_930,
        blocks: &[
            ("batch_norm_output_buffer5", "add_1/add:0"),
            ("batch_norm_output_buffer4", "add_2/add:0"),
            ("batch_norm_output_buffer2", "activation_7/Relu:0"),
        ],
    },
    Expected {
        file: "structure/light_bvlc_alexnet",
        layout: Layout::ChannelsFirst,
        layers: 24,
        parameters: 60_965_224,
        blocks: &[("conv3", "n13")],
    },
    Expected {
        file: "structure/light_densenet121",
        layout: Layout::ChannelsFirst,
        layers: 426,
        parameters: 7_978_856,
        blocks: &[("n8", "conv2_blk"), ("n106", "conv3_blk"), ("n294", "conv4_blk"), ("n662", "n907")],
    },
    Expected {
        file: "structure/light_inception_v1",
        layout: Layout::ChannelsFirst,
        layers: 142,
        parameters: 6_998_552,
        blocks: &[
            ("conv2/3x3_reduce", "n7"),
            ("inception_3a/1x1", "n37"),
            ("inception_4a/1x1", "n108"),
            ("inception_5a/1x1", "n137"),
        ],
    },
    Expected {
        file: "structure/light_resnet50",
        layout: Layout::ChannelsFirst,
        layers: 175,
        parameters: 25_557_032,
        blocks: &[
            ("gpu_0/res2_0_branch2a", "n35"),
            ("gpu_0/res3_0_branch2a", "n77"),
            ("gpu_0/res4_0_branch2a", "n139"),
            ("gpu_0/res5_0_branch2a", "n171"),
        ],
    },
    Expected {
        file: "structure/light_shufflenet",
        layout: Layout::ChannelsFirst,
        layers: 170,
        parameters: 1_393_320,
        blocks: &[("gpu_0/gconv1_0", "n52"), ("gpu_0/gconv1_8", "n149"), ("gpu_0/gconv1_24", "n198")],
    },
    Expected {
        file: "structure/light_squeezenet",
        layout: Layout::ChannelsFirst,
        layers: 66,
        parameters: 1_235_496,
        blocks: &[("fire2/squeeze1x1", "n16"), ("fire4/squeeze1x1", "n31"), ("fire6/squeeze1x1", "n60")],
    },
    Expected {
        file: "structure/light_vgg19",
        layout: Layout::ChannelsFirst,
        layers: 46,
        parameters: 143_667_240,
        blocks: &[("conv1_1", "n3"), ("conv2_1", "n8"), ("conv3_1", "n17"), ("conv4_1", "n26"), ("conv5_1", "n35")],
    },
];

#[test]
fn every_network_is_read_and_its_blocks_found() {
    for expected in EXPECTED {
        let Some(path) = shared::network(&format!("{}.onnx", expected.file)) else { return };
        let model = onnx::read(&path, &ReadOptions::default()).unwrap();
        let file = expected.file;
        assert_eq!(model.layout, expected.layout, "{file}");
        assert_eq!(model.graph.layers.len(), expected.layers, "{file}");
        assert_eq!(cost::total(&model.graph).unwrap().parameters, expected.parameters, "{file}");
        let blocks = block::find(&model.graph);
        let ends: Vec<(&str, &str)> = blocks.iter().map(|b| (b.layers[0].as_str(), b.output.as_str())).collect();
        assert_eq!(ends, expected.blocks, "{file}");
        for block in &blocks {
            let again = block::range(&model.graph, &block.name, &block.layers[0], &block.output).unwrap();
            assert_eq!(again, *block, "{file}");
        }
    }
}

#[test]
fn outputs_have_the_models_shapes() {
    for (file, classes) in
        [("cifar10_small/nhwc_small", 10), ("structure/dronet_bn", 2), ("structure/light_squeezenet", 1000)]
    {
        let Some(path) = shared::network(&format!("{file}.onnx")) else { return };
        let model = onnx::read(&path, &ReadOptions::default()).unwrap();
        let shape = model.graph.output_shape().unwrap();
        assert_eq!((shape.channels, shape.height, shape.width), (classes, 1, 1), "{file}");
    }
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_nearest_range() {
    let Some(path) = shared::network("structure/light_inception_v1.onnx") else { return };
    let graph = onnx::read(&path, &ReadOptions::default()).unwrap().graph;
    let message = block::range(&graph, "x", "inception_3a/1x1", "n13").unwrap_err().to_string();
    assert!(message.contains("not separable here") && message.contains("`inception_3a/1x1` to `n23`"), "{message}");
    let Some(path) = shared::network("structure/light_densenet121.onnx") else { return };
    let graph = onnx::read(&path, &ReadOptions::default()).unwrap().graph;
    let message = block::range(&graph, "x", "conv2_1/x1", "conv2_2/x2").unwrap_err().to_string();
    assert!(message.contains("2 tensors enter"), "{message}");
}

/// The same networks written by us and read again are the same graph with the same weights.
#[test]
fn models_survive_a_round_trip() {
    let small = EXPECTED.iter().filter(|expected| expected.parameters < 2_000_000);
    for expected in small {
        let Some(path) = shared::network(&format!("{}.onnx", expected.file)) else { return };
        let first = onnx::read(&path, &ReadOptions::default()).unwrap().into_network().unwrap();
        let bytes = onnx::to_bytes(&first).unwrap();
        let second = onnx::from_bytes(&bytes, &ReadOptions::default()).unwrap().into_network().unwrap();
        assert_eq!(second.weights, first.weights, "{}", expected.file);
        let plain = |graph: &nettriage_net::Graph| -> Vec<(String, Vec<String>, Kind)> {
            let name = |name: &String| if name == INPUT { name.clone() } else { name.replace(".flatten", "") };
            graph.layers.iter().map(|l| (name(&l.name), l.inputs.clone(), l.kind.clone())).collect()
        };
        assert_eq!(plain(&second.graph).len(), plain(&first.graph).len());
        for (a, b) in plain(&first.graph).iter().zip(&plain(&second.graph)) {
            match (&a.2, &b.2) {
                // ONNX keeps the other share of the momentum: a rounding apart.
                (
                    Kind::BatchNorm(layer::BatchNorm { eps, momentum }),
                    Kind::BatchNorm(layer::BatchNorm { eps: e, momentum: m }),
                ) => {
                    assert!(eps == e && (momentum - m).abs() < 1e-6);
                }
                (a, b) => assert_eq!(a, b, "{}", expected.file),
            }
        }
        assert_eq!(block::find(&second.graph).len(), expected.blocks.len());
    }
}
