//! The memory that readers take: at most four times the file, and bounded where a model computes constants.

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

/// A field of a protocol buffer's message: its number, and bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// A field of a protocol buffer's message: its number, and an integer.
fn number(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An ONNX model of these constants (name, extent, element type of `TensorProto`, bytes) and nodes (operator, inputs, output), whose
/// output is the sum of its input and the last node's.
fn model(constants: &[(&str, usize, u64, Vec<u8>)], nodes: &[(&str, [&str; 2], String)]) -> Vec<u8> {
    let node = |op: &str, inputs: [&str; 2], output: &str| {
        let parts = [field(1, inputs[0].as_bytes()), field(1, inputs[1].as_bytes()), field(2, output.as_bytes())];
        field(1, &[parts.concat(), field(4, op.as_bytes())].concat())
    };
    let mut graph: Vec<u8> = nodes.iter().flat_map(|(op, inputs, output)| node(op, *inputs, output)).collect();
    // A use of every node's output, so that none is dropped before the last.
    graph.extend(nodes.iter().flat_map(|(_, _, output)| node("Add", ["x", output], &format!("sum {output}"))));
    for (name, extent, kind, bytes) in constants {
        let tensor = [number(1, *extent as u64), number(2, *kind), field(8, name.as_bytes()), field(9, bytes)];
        graph.extend(field(5, &tensor.concat()));
    }
    let extents: Vec<u8> = [1, 1, 1, 1].iter().flat_map(|&extent| field(1, &number(1, extent))).collect();
    let float = [number(1, 1), field(2, &extents)].concat();
    graph.extend(field(11, &[field(1, b"x"), field(2, &field(1, &float))].concat()));
    graph.extend(field(12, &field(1, b"sum last")));
    [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
}

/// Reads a model that must be refused for its constants, and returns the peak of memory.
fn refused(bytes: &[u8], message: &str) -> usize {
    let before = HELD.get().0;
    HELD.set((before, before));
    let error = onnx::from_bytes(bytes, &Default::default()).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    HELD.get().1 - before
}

/// Small files whose nodes compute constants that are large, or many.
#[test]
fn folded_constants_take_a_bounded_amount_of_memory() {
    const FLOAT: u64 = 1;
    const INT: u64 = 7;
    let ints = |list: &[i64]| list.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let fixed = 2 << 20;

    // 64 integers become 32,768 in each of 1,000 nodes: 250 MiB. At most 2^22 elements of 8 bytes are kept.
    let list: Vec<i64> = (0..64).collect();
    let mut nodes: Vec<(&str, [&str; 2], String)> =
        (0..1000).map(|index| ("Expand", ["few", "shape"], format!("c{index}"))).collect();
    nodes.push(("Expand", ["few", "shape"], "last".into()));
    let constants = [("few", 64, INT, ints(&list)), ("shape", 2, INT, ints(&[512, 64]))];
    let bytes = model(&constants, &nodes);
    let peak = refused(&bytes, "many times larger than the file");
    assert!(peak <= (8 << 22) + 4 * bytes.len() + fixed, "{peak} bytes for a file of {}", bytes.len());

    // One node that would give 512 times the file is refused before it is computed.
    let data: Vec<u8> = (0..1 << 18).flat_map(|value| (value as f32).to_le_bytes()).collect();
    let constants = [("many", 1 << 18, FLOAT, data), ("repeats", 1, INT, ints(&[512]))];
    let bytes = model(&constants, &[("Tile", ["many", "repeats"], "last".into())]);
    let peak = refused(&bytes, "too large");
    assert!(peak <= 4 * bytes.len() + fixed, "{peak} bytes for a file of {}", bytes.len());

    // A gigantic extent from one number is stored as that number.
    let one = [("one", 1, FLOAT, 2f32.to_le_bytes().to_vec()), ("shape", 1, INT, ints(&[1 << 29]))];
    let bytes = model(&one, &[("Expand", ["one", "shape"], "last".into())]);
    let peak = refused(&bytes, "last");
    assert!(peak <= fixed, "{peak} bytes for a file of {}", bytes.len());
}
