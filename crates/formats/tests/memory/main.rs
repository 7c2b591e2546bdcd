//! The memory that readers take: at most four times the file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use nettriage_formats::load::{LoadOptions, load};
use nettriage_formats::{onnx, safetensors};
use nettriage_net::{Graph, INPUT, Kind, Layer, Network, Shape, Tensor, Weights, layer};

thread_local! {
    /// Bytes that this thread holds, and its peak.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(more: usize, less: usize) {
    let _ = HELD.try_with(|held| {
        let now = (held.get().0 + more).saturating_sub(less);
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while the content is copied.
        count(size, 0);
        count(0, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Linear layers of 1,000,000 weights each.
fn network() -> Network {
    let mut layers = Vec::new();
    let mut weights = Weights::new();
    let mut last = INPUT.to_string();
    for index in 0..4 {
        let name = format!("fc{index}");
        let kind = Kind::Linear(layer::Linear { features: 1000, bias: false });
        layers.push(Layer { name: name.clone(), inputs: vec![last], kind });
        let data = (0..1_000_000).map(|i| (i % 977) as f32).collect();
        weights.insert(format!("{name}.weight"), Tensor::new(&[1000, 1000], data));
        last = name;
    }
    let graph = Graph { name: "wide".into(), input: Shape::new(1000, 1, 1), layers, output: last };
    Network { graph, weights }
}

/// Loads a file and checks the peak of memory.
fn check(path: &Path, options: &LoadOptions, expected: &Network) {
    let file = std::fs::metadata(path).unwrap().len() as usize;
    let before = HELD.get().0;
    HELD.set((before, before));
    let loaded = load(path, options).unwrap();
    let peak = HELD.get().1 - before;
    assert!(peak <= 4 * file + (2 << 20), "{}: {peak} bytes for a file of {file}", path.display());
    assert_eq!(loaded.network.weights, expected.weights);
}

#[test]
fn readers_take_at_most_four_times_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let network = network();
    let path = |name: &str| folder.path().join(name);
    safetensors::save(&network, path("ours.safetensors")).unwrap();
    check(&path("ours.safetensors"), &LoadOptions::default(), &network);
    onnx::write(&network, path("net.onnx")).unwrap();
    check(&path("net.onnx"), &LoadOptions::default(), &network);

    // Half precision: the weights alone are twice the file.
    let halves = network.weights.iter().map(|(key, tensor)| {
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|&value| half(value).to_le_bytes()).collect();
        (key.clone(), tensor.shape.clone(), bytes)
    });
    let halves: Vec<_> = halves.collect();
    let views = halves.iter().map(|(key, shape, bytes)| {
        (key, ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F16, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path("half.safetensors"), ::safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(path("graph.json"), serde_json::to_string(&network.graph).unwrap()).unwrap();
    let options = LoadOptions { graph: Some(path("graph.json")), ..LoadOptions::default() };
    check(&path("half.safetensors"), &options, &network);
}

/// Binary16 of a natural number below 2048, which it holds exactly.
fn half(value: f32) -> u16 {
    if value == 0.0 {
        return 0;
    }
    let exponent = value.log2().floor() as i32;
    let fraction = (value / (exponent as f32).exp2() - 1.0) * 1024.0;
    ((exponent + 15) as u16) << 10 | fraction as u16
}
