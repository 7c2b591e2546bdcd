//! Blocks of usual architectures have the names that a person would give them, as both of PyTorch's exporters write them.
//!
//! Needs a Python with PyTorch, torchvision and timm (`NETTRIAGE_PYTHON`); prints `SKIPPED` without it.

mod common;

use std::path::Path;
use std::process::Command;

use common::outside::{ROOT, python};
use common::succeeded;
use nettriage_formats::onnx::{self, ReadOptions};
use nettriage_net::{block, block::Block};

/// Architectures, and the names of their blocks.
const EXPECTED: &[(&str, &[&str])] = &[
    ("vgg16_bn", &["block1", "block2", "block3", "block4", "block5"]),
    ("alexnet", &["block1"]),
    ("resnet50", &["layer1", "layer2", "layer3", "layer4"]),
    ("densenet121", &["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.denseblock4"]),
    (
        "mobilenet_v2",
        &[
            "features.1",
            "features.2_to_features.3",
            "features.4_to_features.6",
            "features.7_to_features.13",
            "features.14_to_features.17",
        ],
    ),
    (
        "mobilenet_v3_small",
        &["features.1", "features.2_to_features.3", "features.4_to_features.8", "features.9_to_features.11"],
    ),
    (
        "efficientnet_b0",
        &["features.1", "features.2", "features.3", "features.4", "features.5", "features.6", "features.7"],
    ),
    ("regnet_y_400mf", &["trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output.block4"]),
    ("convnext_tiny", &["features.1", "features.3", "features.5", "features.7"]),
    (
        "deit_tiny",
        &[
            "blocks.0",
            "blocks.1",
            "blocks.2",
            "blocks.3",
            "blocks.4",
            "blocks.5",
            "blocks.6",
            "blocks.7",
            "blocks.8",
            "blocks.9",
            "blocks.10",
            "blocks.11",
        ],
    ),
    (
        "swin_t",
        &[
            "features.1.0",
            "features.1.1",
            "features.3.0",
            "features.3.1",
            "features.5.0",
            "features.5.1",
            "features.5.2",
            "features.5.3",
            "features.5.4",
            "features.5.5",
            "features.7.0",
            "features.7.1",
        ],
    ),
    ("unet", &["down.0", "down.1", "down.2", "up.0", "up.1"]),
    ("autoencoder", &["encoder", "decoder"]),
];

/// Units, the parts that ranges of `scan` consist of: some of each architecture's.
const UNITS: &[(&str, &[&str])] = &[
    ("resnet50", &["layer1.0", "layer3.5"]),
    ("mobilenet_v2", &["features.1", "features.2", "features.17"]),
    ("efficientnet_b0", &["features.1", "features.2.0", "features.5.2"]),
    ("convnext_tiny", &["features.1.0", "features.5.8"]),
    ("deit_tiny", &["blocks.0.attn", "blocks.0.mlp", "blocks.11.mlp"]),
    ("swin_t", &["features.1.0.attn", "features.1.0.mlp", "features.5.5.mlp"]),
];

#[test]
fn blocks_have_the_names_that_a_person_would_give() {
    let Some(python) = python("blocks_have_the_names_that_a_person_would_give") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut make = Command::new(&python);
    succeeded(&make.arg(Path::new(ROOT).join("checks/blocks.py")).arg(folder.path()).output().unwrap());
    let mut problems = Vec::new();
    for exporter in ["older", "newer"] {
        let graph = |name: &str| {
            let path = folder.path().join(format!("{name}.{exporter}.onnx"));
            onnx::read(&path, &ReadOptions::default()).unwrap().graph
        };
        for (name, expected) in EXPECTED {
            let found: Vec<String> = block::find(&graph(name)).into_iter().map(|block| block.name).collect();
            if found != *expected {
                problems.push(format!("{name}, {exporter}: {found:?}"));
            }
        }
        for (name, expected) in UNITS {
            let units = block::units(&graph(name));
            for unit in expected.iter().filter(|wanted| !units.iter().any(|unit| unit.name == **wanted)) {
                problems.push(format!("{name}, {exporter}: no unit {unit}"));
            }
        }
        let blocks: Vec<Block> = block::find(&graph("hrnet_w18_small"));
        for name in ["layer1", "stage2.0.branches.0", "stage2.0.branches.1", "stage4.0.branches.3"] {
            if !blocks.iter().any(|block| block.name == name) {
                let names: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
                problems.push(format!("hrnet_w18_small, {exporter}: {names:?}"));
                break;
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
