//! The built-in architectures against published figures.

use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Kind, Shape, cost};

fn build(name: &str, size: usize, classes: usize) -> nettriage_net::Graph {
    arch::build(&ArchSpec::named(name), Shape::new(3, size, size), classes).unwrap()
}

/// Parameters from torchvision's documentation of its weights ("Num params", 1000 classes, 224x224) and GFLOPS there,
/// which are multiply-accumulates.
#[test]
fn imagenet_networks_have_torchvisions_size() {
    let published = [
        ("vgg11", 132_863_336, 7.61),
        ("vgg11_bn", 132_868_840, 7.61),
        ("vgg13", 133_047_848, 11.31),
        ("vgg13_bn", 133_053_736, 11.31),
        ("vgg16", 138_357_544, 15.47),
        ("vgg16_bn", 138_365_992, 15.47),
        ("vgg19", 143_667_240, 19.63),
        ("vgg19_bn", 143_678_248, 19.63),
        ("resnet18", 11_689_512, 1.81),
        ("resnet34", 21_797_672, 3.66),
        ("resnet50", 25_557_032, 4.09),
    ];
    for (name, parameters, giga) in published {
        let total = cost::total(&build(name, 224, 1000)).unwrap();
        assert_eq!(total.parameters, parameters, "{name}");
        assert!((total.macs as f64 / 1e9 - giga).abs() < 0.02, "{name}: {}", total.macs);
    }
}

/// Parameters from the table of Y. Idelbayev's README: 0.27M, 0.46M, 0.66M, 0.85M, 1.7M.
#[test]
fn cifar_resnets_have_the_published_size() {
    for (name, thousands) in [(20, 270), (32, 460), (44, 660), (56, 850), (110, 1730)] {
        let total = cost::total(&build(&format!("cifar-resnet{name}"), 32, 10)).unwrap();
        assert!(total.parameters.abs_diff(thousands * 1000) < 10_000, "{name}: {}", total.parameters);
    }
    let graph = build("cifar-resnet20", 32, 10);
    let convolutions = graph.layers.iter().filter(|l| matches!(l.kind, Kind::Conv(_) | Kind::Linear(_))).count();
    assert_eq!(convolutions, 20);
    assert_eq!(graph.shape_of("layer3.2.relu").unwrap(), Shape::new(64, 8, 8));
}

#[test]
fn small_vggs_pool_while_there_are_two_rows() {
    for (size, last) in [(28, 512), (32, 512), (64, 512 * 4)] {
        let graph = arch::build(&ArchSpec::named("vgg16_bn"), Shape::new(1, size, size), 10).unwrap();
        assert_eq!(graph.shape_of("flatten").unwrap(), Shape::new(last, 1, 1), "{size}");
        let without_bias = |kind: &Kind| matches!(kind, Kind::Conv(conv) if !conv.bias);
        assert_eq!(graph.layers.iter().filter(|layer| without_bias(&layer.kind)).count(), 13);
    }
    // torchvision's numbers: vgg16_bn's last convolution is features.40.
    let graph = build("vgg16_bn", 224, 1000);
    assert!(matches!(graph.layer("features.40").unwrap().kind, Kind::Conv(conv) if conv.bias));
    assert_eq!(graph.layers.last().unwrap().name, "classifier.6");
}

#[test]
fn width_and_plan_set_the_channels() {
    let spec = ArchSpec { width: 0.25, ..ArchSpec::named("vgg16_bn") };
    let graph = arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap();
    assert_eq!(graph.shape_of("features.0").unwrap().channels, 16);
    let spec = ArchSpec { width: 0.001, ..ArchSpec::named("resnet50") };
    assert_eq!(arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap().shape_of("conv1").unwrap().channels, 1);
    for name in arch::names().into_iter().filter(|name| *name != "vgg") {
        for width in [0.3, 1.7] {
            let spec = ArchSpec { width, ..ArchSpec::named(name) };
            arch::build(&spec, Shape::new(3, 32, 32), 10).unwrap().check().unwrap();
        }
    }
    let spec = ArchSpec { plan: Some(vec![vec![8, 8], vec![16]]), batch_norm: true, ..ArchSpec::named("vgg") };
    let graph = arch::build(&spec, Shape::new(1, 8, 8), 10).unwrap();
    assert_eq!(graph.output_shape().unwrap(), Shape::new(10, 1, 1));
    assert_eq!(graph.shape_of("flatten").unwrap().channels, 16 * 4);
}

#[test]
fn impossible_architectures_are_refused() {
    let fails = |spec: ArchSpec, input: Shape, classes: usize, part: &str| {
        let message = arch::build(&spec, input, classes).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let image = Shape::new(3, 32, 32);
    fails(ArchSpec::named("vgg12"), image, 10, "vgg16_bn");
    fails(ArchSpec::named("vgg"), image, 10, "plan");
    fails(ArchSpec { plan: Some(vec![vec![], vec![4]]), ..ArchSpec::named("vgg") }, image, 10, "stage");
    fails(ArchSpec { plan: Some(vec![vec![4]]), ..ArchSpec::named("vgg16") }, image, 10, "belong");
    fails(ArchSpec { width: f64::NAN, ..ArchSpec::named("vgg16") }, image, 10, "width");
    fails(ArchSpec { width: -1.0, ..ArchSpec::named("vgg16") }, image, 10, "width");
    fails(ArchSpec::named("resnet18"), image, 0, "class");
    fails(ArchSpec::named("resnet18"), Shape::new(3, 0, 32), 10, "no elements");
    fails(ArchSpec::named("vgg16"), Shape::new(usize::MAX, 64, 64), 10, "too large");
}
