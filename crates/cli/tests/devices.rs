//! Devices of PyTorch: whole networks give the same outputs and gradients as on the processor by nettriage's own kernels, studies the
//! same accuracies within noise, and runs of different engines do not mix. Needs a PyTorch, see `crates/torch/tests/common/mod.rs`.

mod common;
#[path = "../../torch/tests/common/mod.rs"]
mod installed;

use std::path::Path;
use std::sync::OnceLock;

use common::outside::{mnist_conv, networks};
use common::{Place, STUDY, nettriage, refused, succeeded};
use nettriage::arch::{self, ArchSpec};
use nettriage::{LoadOptions, Network, Run, Shape, load};
use nettriage_engine::{Optimizer, Options};
use nettriage_net::layer::AvgPool;
use nettriage_net::{Activation, INPUT, Kind, Layer, Window};
use nettriage_train::{Arithmetic, Batch, Device, Target, without_softmax};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// PyTorch's processor, loaded once.
fn torch() -> Option<&'static Device> {
    static TORCH: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        let folder = installed::folder()?;
        Some(Device::open("torch:cpu".parse().unwrap(), Arithmetic::F32, Some(&folder)).unwrap())
    };
    TORCH.get_or_init(open).as_ref()
}

/// The flags that select it.
fn flags(device: &str) -> Option<Vec<String>> {
    let folder = installed::folder()?;
    Some(["--device", device, "--torch", folder.to_str().unwrap()].map(str::to_owned).to_vec())
}

fn borrowed(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-2.0f32..2.0)).collect()
}

/// The largest difference, as a share of the largest element.
fn distance(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let largest = one.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(one.iter().chain(other).all(|v| v.is_finite()));
    if worst == 0.0 { 0.0 } else { worst / largest }
}

/// What a device computes of a network: its output in evaluation mode and, of a training step, what its ReLUs and maxima decide, the
/// loss, and the gradient of every weight.
struct Step {
    output: Vec<f32>,
    /// Of each unit of a ReLU whether it is on, of each window of a maximum which element is the largest.
    decided: Vec<usize>,
    loss: f64,
    gradients: Vec<(String, Vec<f32>)>,
}

/// Whether the slope of an activation jumps.
fn jumps(kind: &Kind) -> bool {
    matches!(kind, Kind::Activation(Activation::Relu | Activation::Clip { .. }))
}

fn step(device: &Device, network: &Network, images: &[f32], count: usize) -> Step {
    const SEED: u64 = 17;
    let deciding: Vec<&Layer> =
        network.graph.layers.iter().filter(|l| jumps(&l.kind) || matches!(l.kind, Kind::MaxPool(_))).collect();
    let read = |layer: &Layer| if jumps(&layer.kind) { layer.name.clone() } else { layer.inputs[0].clone() };
    let keep: Vec<String> = deciding.iter().map(|layer| read(layer)).filter(|name| name != INPUT).collect();
    let training = Options::training(count, Optimizer::sgd());
    let options = Options { exact: true, threads: 2, keep, ..training };
    let mut model = device.model(network, &options).unwrap();
    let output = model.forward(images).unwrap().to_vec();
    let target = numbers(output.len(), 3);
    model.forward_train(images, SEED).unwrap();
    let mut decided = Vec::new();
    for layer in deciding {
        let Some(values) = model.activation(&read(layer)) else { continue };
        match &layer.kind {
            Kind::MaxPool(window) => {
                let graph = &network.graph;
                let shapes = [&layer.inputs[0], &layer.name].map(|name| graph.shape_of(name).unwrap());
                values.chunks(shapes[0].elements()).for_each(|image| decided.extend(maxima(image, shapes, window)));
            }
            _ => decided.extend(values.iter().map(|&value| usize::from(value > 0.0))),
        }
    }
    let loss = model.differentiate(Batch::Host(images), SEED, Target::Values(Batch::Host(&target)), &[], None).unwrap();
    let trained = network.weights.keys().filter(|name| model.trains(name));
    let gradient = |name: &String| (name.clone(), model.gradient(name).unwrap().unwrap().data);
    Step { output, decided, loss, gradients: trained.map(gradient).collect() }
}

/// The place of the largest element in each window of an image H x W x C.
fn maxima(image: &[f32], [from, to]: [Shape; 2], window: &Window) -> Vec<usize> {
    let mut places = Vec::with_capacity(to.elements());
    let inside =
        |at: usize, step: usize, before: usize, size: usize| (at + step).checked_sub(before).filter(|p| *p < size);
    for (y, x, c) in
        (0..to.height).flat_map(|y| (0..to.width).flat_map(move |x| (0..to.channels).map(move |c| (y, x, c))))
    {
        let mut largest: Option<(f32, usize)> = None;
        for (i, j) in (0..window.kernel[0]).flat_map(|i| (0..window.kernel[1]).map(move |j| (i, j))) {
            let row = inside(y * window.stride[0], i, window.padding.top, from.height);
            let column = inside(x * window.stride[1], j, window.padding.left, from.width);
            let Some((row, column)) = row.zip(column) else { continue };
            let place = (row * from.width + column) * from.channels + c;
            if largest.is_none_or(|(value, _)| image[place] > value) {
                largest = Some((image[place], place));
            }
        }
        places.extend(largest.map(|(_, place)| place));
    }
    places
}

/// The network with smooth functions in the place of those whose slope jumps: ReLU and maximum.
fn smooth(network: &Network) -> Network {
    let mut network = network.clone();
    for layer in &mut network.graph.layers {
        match &mut layer.kind {
            kind if jumps(kind) => *kind = Kind::Activation(Activation::Silu),
            Kind::MaxPool(window) => layer.kind = Kind::AvgPool(AvgPool { window: *window, count_padding: true }),
            _ => {}
        }
    }
    network
}

/// The largest difference of a weight's gradients, as a share of the largest gradient of its layer, with its name. The gradient of a
/// bias in front of a norm is zero but for rounding, so it has no scale of its own.
fn worst<'s>(one: &'s Step, other: &Step) -> (f32, &'s str) {
    let layer = |name: &str| name.rsplit_once('.').map_or(String::new(), |(layer, _)| layer.to_owned());
    let mut largest: std::collections::BTreeMap<String, f32> = Default::default();
    for (name, gradient) in &one.gradients {
        let largest = largest.entry(layer(name)).or_default();
        *largest = gradient.iter().fold(*largest, |m, v| m.max(v.abs()));
    }
    let mut found = (0.0, "");
    for ((name, a), (_, b)) in one.gradients.iter().zip(&other.gradients) {
        let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(a.iter().chain(b).all(|v| v.is_finite()), "{name}");
        let share = difference / largest[&layer(name)].max(f32::MIN_POSITIVE);
        if share > found.0 {
            found = (share, name.as_str());
        }
    }
    found
}

/// Both engines on the same images: outputs and loss within 1e-5, gradients within 1e-4 of the largest in their layer.
///
/// At a ReLU's zero, and where two elements of a maximum are the same, the slope jumps. Where rounding decides the side, a unit is on in
/// one engine and off in the other, and gradients differ by what it contributes. A larger difference is therefore allowed if the engines
/// decide differently somewhere, and if the same network with smooth functions, where rounding decides nothing, agrees.
fn parity(what: &str, network: &Network, count: usize) {
    let Some(torch) = torch() else { return };
    let images = numbers(count * network.graph.input.elements(), 5);
    for (form, network) in [("as it is", network), ("smooth", &smooth(network))] {
        let (own, other) = (step(&Device::Cpu, network, &images, count), step(torch, network, &images, count));
        let output = distance(&own.output, &other.output);
        let loss = ((own.loss - other.loss) / own.loss).abs();
        let (gradient, name) = worst(&own, &other);
        let turned = own.decided.iter().zip(&other.decided).filter(|(a, b)| a != b).count();
        let text = format!(
            "{what}, {form}: output {output:.1e}, loss {loss:.1e}, gradient {gradient:.1e} ({name}), {turned} of {} decisions differ",
            own.decided.len()
        );
        println!("{text}");
        assert!(!own.gradients.is_empty() && output <= 1e-5 && loss <= 1e-5, "{text}");
        assert!(gradient <= 1e-4 || turned > 0, "{text}");
        if gradient <= 1e-4 {
            break;
        }
    }
}

#[test]
fn every_built_in_architecture() {
    if torch().is_none() {
        return;
    }
    for name in arch::names() {
        // Images large enough that norms see more than one value an image at the end.
        let size = if name.starts_with("resnet") { 96 } else { 32 };
        let thin = ["20", "32", "44", "56", "110"].iter().any(|depth| *name == format!("cifar-resnet{depth}"));
        let plan = (name == "vgg").then(|| vec![vec![8, 8], vec![12]]);
        let width = if thin { 1.0 } else { 0.25 };
        let spec = ArchSpec { width, plan, batch_norm: name == "vgg", ..ArchSpec::named(name) };
        let graph = arch::build(&spec, Shape::new(3, size, size), 10).unwrap();
        let network = Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(9)).unwrap();
        parity(name, &network, 4);
    }
}

#[test]
fn networks_of_others() {
    let Some(folder) = networks("devices: networks_of_others") else { return };
    if torch().is_none() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let graph = temporary.path().join("graph.json");
    std::fs::write(&graph, serde_json::to_string(&mnist_conv()).unwrap()).unwrap();
    let mut count = 0;
    for part in ["cifar10_small", "mnist_lenet", "structure"] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "onnx") {
                let mut network = without_softmax(load(&path, &LoadOptions::default()).unwrap().network);
                if part == "structure" && !path.ends_with("dronet_bn.onnx") {
                    // Its weights are constants, with which all units of a layer are the same.
                    network = Network::initialised(network.graph, &mut ChaCha8Rng::seed_from_u64(4)).unwrap();
                }
                // Images of 224 x 224 take long.
                parity(&path.file_name().unwrap().to_string_lossy(), &network, if part == "structure" { 1 } else { 2 });
                count += 1;
            }
        }
    }
    for (file, arch) in [("resnet20-12fca82f.th", "cifar-resnet20"), ("resnet44-014dd654.th", "cifar-resnet44")] {
        let options = LoadOptions::default().arch(arch);
        parity(file, &load(folder.join("cifar10_resnet").join(file), &options).unwrap().network, 4);
        count += 1;
    }
    // The other files of weights alone hold the networks of the ONNX files beside them.
    for file in ["mnist.pt", "mnist.safetensors"] {
        let options = LoadOptions { graph: Some(graph.clone()), ..LoadOptions::default() };
        parity(file, &without_softmax(load(folder.join("mnist_conv").join(file), &options).unwrap().network), 4);
        count += 1;
    }
    assert_eq!(count, 16);
}

/// A study that fits the first two blocks of a small network, over several seeds.
const NOISE: &str = r#"
name = "noise"
[data]
name = "digits"
validation = 200
train = 800
[parent]
arch = "vgg"
plan = [[6, 6], [8, 8]]
[parent.training]
epochs = 6
batch = 32
rate = 0.05
[children]
seeds = 6
images = 640
batch = 32
rate = 0.02
curve = 1
readings = []
[triage]
inits = ["random"]
schemes = ["local", "hint", "distill-blocks"]
parent_continued = []
placebo = []
reinit = []
drop = []
"#;

/// Test accuracies by block, scheme and seed.
fn accuracies(run: &Path) -> Vec<(String, f64)> {
    let records = Run::open(run).unwrap().records().unwrap();
    let mut found: Vec<(String, f64)> = records
        .iter()
        .filter(|record| record.spec.block.is_some())
        .map(|record| {
            let spec = &record.spec;
            let key = format!("{:?} {} {}", spec.block, spec.scheme, spec.seed);
            (key, record.readings.as_ref().unwrap().test.top1)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// A paired test over trials: the images, their order, weights at the start and dropout masks are the same, so the mean difference of
/// accuracies between the engines is compared with its own standard error; at four of these it is no noise (p < 0.001 for 36 pairs).
/// And no engine may differ from the other by more, in the typical trial, than seeds do.
#[test]
fn accuracies_of_a_study_agree_within_noise() {
    let Some(flags) = flags("torch:cpu") else { return };
    let place = Place::new(NOISE);
    place.complete("own", &["--workers", "2"]);
    place.complete("torch", &[&borrowed(&flags)[..], &["--workers", "2"]].concat());
    let (own, torch) = (accuracies(&place.path("own")), accuracies(&place.path("torch")));
    assert_eq!(own.len(), 36);
    assert!(own.iter().map(|(key, _)| key).eq(torch.iter().map(|(key, _)| key)));
    let differences: Vec<f64> = own.iter().zip(&torch).map(|((_, a), (_, b))| a - b).collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // Half an image of the test set, should all differences be equal.
    let error = (variance / n).sqrt().max(0.5 / 360.0 / 4.0);
    assert!(mean.abs() <= 4.0 * error, "{mean} with a standard error of {error}: {differences:?}");
    // The spread over the six seeds of a block and scheme, pooled.
    let spread: f64 = own
        .chunks(6)
        .map(|seeds| {
            let mean = seeds.iter().map(|(_, a)| a).sum::<f64>() / 6.0;
            seeds.iter().map(|(_, a)| (a - mean).powi(2)).sum::<f64>()
        })
        .sum::<f64>();
    let (of_seeds, of_engines) = ((spread / 30.0).sqrt(), (differences.iter().map(|d| d * d).sum::<f64>() / n).sqrt());
    println!("mean difference {mean:.4}, standard error {error:.4}; seeds {of_seeds:.4}, engines {of_engines:.4}");
    assert!(of_engines <= 2.0f64.sqrt() * of_seeds, "engines differ by {of_engines}, seeds by {of_seeds}");
}

#[test]
fn runs_of_different_engines_do_not_mix() {
    let Some(flags) = flags("torch:cpu") else { return };
    let (place, flags) = (Place::new(STUDY), borrowed(&flags));
    let first = ["--max-trials", "2", "--workers", "1"];
    place.complete("own", &first);
    place.complete("torch", &[&flags[..], &first].concat());
    // Other ids, and a record says where it was computed.
    let (own, torch) = (Run::open(&place.path("own")).unwrap(), Run::open(&place.path("torch")).unwrap());
    assert_eq!((&own.plan().engine, torch.plan().engine.as_deref()), (&None, Some("torch f32")));
    let ids =
        |run: &Run| run.plan().trials.iter().map(|trial| trial.id.clone()).collect::<std::collections::BTreeSet<_>>();
    assert!(ids(&own).is_disjoint(&ids(&torch)));
    let device = |run: &Run| run.records().unwrap()[0].clock.machine.clone().unwrap().device;
    assert_eq!(device(&own), None);
    assert!(device(&torch).unwrap().starts_with("PyTorch 2."));
    // Resuming, merging and single trials.
    let bf16 = [&flags[..], &["--precision", "bf16"]].concat();
    for (out, with, said) in
        [("torch", &[][..], "torch f32"), ("own", &flags[..], "nettriage's own"), ("torch", &bf16[..], "torch bf16")]
    {
        let error = refused(&place.run(out, with).output().unwrap());
        assert!(error.contains(said) && error.contains("--device"), "{error}");
    }
    let merge = |parts: &[&str]| {
        let mut command = nettriage();
        command.arg("merge").args(parts.iter().map(|part| place.path(part))).arg("--out").arg(place.path("all"));
        command.output().unwrap()
    };
    let error = refused(&merge(&["own", "torch"]));
    assert!(error.contains("engine") && error.contains("torch f32"), "{error}");
    let trial = |more: &[&str]| {
        let mut command = nettriage();
        command.args(["trial", "--index", "2", "--plan"]).arg(place.path("torch")).args(more).output().unwrap()
    };
    let error = refused(&trial(&[]));
    assert!(error.contains("torch f32") && error.contains("--device"), "{error}");
    succeeded(&trial(&flags));
}

#[test]
fn worker_processes_compute_on_the_device() {
    let Some(flags) = flags("torch:cpu,torch:cpu") else { return };
    let place = Place::new(STUDY);
    let more = ["--on", "processes", "--workers", "2", "--max-trials", "12"];
    place.complete("run", &[&borrowed(&flags)[..], &more].concat());
    for record in Run::open(&place.path("run")).unwrap().records().unwrap() {
        assert!(record.clock.machine.unwrap().device.is_some_and(|device| device.contains("PyTorch")));
        assert!(record.readings.is_some(), "{:?}", record.outcome);
    }
}

/// Whether shared values are on the device, in memory, on the disk or computed again changes results by rounding at most.
#[test]
fn sharing_changes_no_result_but_by_rounding() {
    let Some(flags) = flags("torch:cpu") else { return };
    let study = STUDY.replace(
        r#"["random", "first", "last", "mean", "collapse", "least-squares"]"#,
        r#"["random", "least-squares"]"#,
    );
    let place = Place::new(&study);
    let mut all = Vec::new();
    for (out, more) in [
        ("device", &[][..]),
        ("memory", &["--device-memory", "0"]),
        ("disk", &["--device-memory", "0", "--cache", "0", "--disk-cache", "64"]),
        ("nothing", &["--no-reuse", "all"]),
    ] {
        place.complete(out, &[&borrowed(&flags)[..], &["--workers", "1"], more].concat());
        let records = Run::open(&place.path(out)).unwrap().records().unwrap();
        let losses: std::collections::BTreeMap<String, f64> =
            records.iter().map(|r| (r.spec.id.clone(), r.readings.as_ref().unwrap().test.loss)).collect();
        all.push((out, losses));
    }
    let (_, first) = &all[0];
    assert!(first.len() > 40);
    for (out, losses) in &all[1..] {
        assert!(losses.keys().eq(first.keys()));
        for (id, loss) in losses {
            assert!((loss - first[id]).abs() <= 2e-3 * first[id], "{out}: {id}: {loss}, not {}", first[id]);
        }
    }
}

#[test]
fn a_device_that_cannot_be_used_is_one_clear_line() {
    let place = Place::new(STUDY);
    let run = |device: &str, torch: &Path| {
        let mut command = place.run("run", &["--device", device, "--torch", torch.to_str().unwrap()]);
        refused(&command.output().unwrap())
    };
    let error = run("torch:cpu", &place.path("nowhere"));
    assert!(error.contains("not the folder of an installed PyTorch"), "{error}");
    for device in ["gpu", "torch", "torch:gpu", "cuda:0"] {
        let error = run(device, &place.path("nowhere"));
        assert!(error.contains("unknown device") && error.contains("torch:cuda:N"), "{error}");
    }
    let old = place.path("old");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("version.py"), "__version__ = '2.9.1+cu128'\n").unwrap();
    let error = run("torch:cpu", &old);
    assert!(error.contains("2.9.1") && error.contains("2.13"), "{error}");
    std::fs::write(old.join("version.py"), "__version__ = '2.15.0'\n").unwrap();
    let error = run("torch:cpu", &old);
    assert!(error.contains("libtorch_cpu") && error.contains("reinstall"), "{error}");
    // A Python without PyTorch, and none at all.
    let python = place.path("bin");
    std::fs::create_dir(&python).unwrap();
    let bare = |path: &Path| {
        let mut command = place.run("run", &["--device", "torch:cpu"]);
        // An empty variable names no folder.
        refused(&command.env("NETTRIAGE_TORCH", "").env("PATH", path).output().unwrap())
    };
    assert!(bare(&python).contains("no Python found"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = python.join("python3");
        std::fs::write(&file, "#!/bin/sh\necho\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = bare(&python);
        assert!(error.contains("pip install torch"), "{error}");
    }
    let error = refused(&place.run("run", &["--precision", "bf16"]).output().unwrap());
    assert!(error.contains("bf16") && error.contains("--device"), "{error}");
    let error = refused(&place.run("run", &["--precision", "f8"]).output().unwrap());
    assert!(error.contains("f8") && error.contains("tf32"), "{error}");
    for command in ["run", "train"] {
        let error = refused(&place.run(command, &["--device", "cpu,torch:cpu"]).output().unwrap());
        assert!(error.contains("torch:cpu") && error.contains("--on processes"), "{error}");
    }
    if let Some(flags) = flags("torch:cpu") {
        let more = [&borrowed(&flags)[..], &["--precision", "tf32"]].concat();
        let error = refused(&place.run("run", &more).output().unwrap());
        assert!(error.contains("tf32") && error.contains("cpu"), "{error}");
    }
    if let Some(flags) = flags("torch:cuda:77") {
        let error = refused(&place.run("run", &borrowed(&flags)).output().unwrap());
        // A PyTorch without CUDA's libraries, as the tests install one, names the missing library.
        let unusable = error.contains("torch:cuda:77 cannot be used") && error.contains("--device");
        assert!(unusable || error.contains("libtorch_cuda") && error.contains("reinstall"), "{error}");
    }
}
