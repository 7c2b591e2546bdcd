//! Small, valid inputs.

use nettriage_formats::{onnx as onnx_file, safetensors as safetensors_file};
use nettriage_net::arch::{self, ArchSpec};
use nettriage_net::{Network, Shape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn array(extents: &[u8], bytes: usize) -> Vec<u8> {
    let mut array = vec![0, 0, 8, extents.len() as u8];
    array.extend(extents.iter().flat_map(|&extent| [0, 0, 0, extent]));
    array.extend((0..bytes).map(|i| i as u8 % 10));
    array
}

/// For [`crate::idx`].
pub fn idx() -> Vec<Vec<u8>> {
    let (images, labels) = (array(&[3, 4, 5], 60), array(&[3], 3));
    let cut = (images.len() as u16).to_le_bytes();
    vec![[&cut[..], &images, &labels].concat()]
}

/// For [`crate::cifar`].
pub fn cifar() -> Vec<Vec<u8>> {
    vec![vec![1; 3073], vec![2; 2 * 3074]]
}

/// For [`crate::archive`]: names as they are in a ustar header.
pub fn archive() -> Vec<Vec<u8>> {
    let entry = |name: &str, kind: u8, content: &[u8]| -> Vec<u8> {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].fill(b' ');
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = [&header[..], content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let end = vec![0; 1024];
    let a = entry("train/a/1.png", b'0', b"one");
    let b = entry("train/b/1.png", b'0', b"two");
    let test = entry("./test/a/2.png", b'0', b"three");
    let long = entry("././@LongLink", b'L', b"train/b/a-long-name.png\0");
    let pax = entry("PaxHeaders/x", b'x', b"27 path=test/b/another.png\n");
    vec![
        [a.clone(), b.clone(), test.clone(), end.clone()].concat(),
        [a.clone(), long, b.clone(), test.clone(), end.clone()].concat(),
        [a, b, pax, test, end].concat(),
    ]
}

/// For [`crate::image`]: a few pixels in each format.
pub fn image() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../seeds/image/few.bmp").to_vec(),
        include_bytes!("../seeds/image/few.jpg").to_vec(),
        include_bytes!("../seeds/image/few.png").to_vec(),
        include_bytes!("../seeds/image/few.webp").to_vec(),
    ]
}

/// For [`crate::onnx`]: ours, PyTorch's of three operator sets (squeeze-excite, shuffle, SiLU, GELU), and those that
/// `seeds/onnx/write.py` writes: attention, norms, changes of size and selections, weights and shapes computed from constants.
pub fn onnx() -> Vec<Vec<u8>> {
    vec![
        onnx_file::to_bytes(&small()).unwrap(),
        include_bytes!("../seeds/onnx/excite9.onnx").to_vec(),
        include_bytes!("../seeds/onnx/excite13.onnx").to_vec(),
        include_bytes!("../seeds/onnx/excite18.onnx").to_vec(),
        include_bytes!("../seeds/onnx/attention.onnx").to_vec(),
        include_bytes!("../seeds/onnx/pixels.onnx").to_vec(),
        include_bytes!("../seeds/onnx/norms.onnx").to_vec(),
        include_bytes!("../seeds/onnx/constants.onnx").to_vec(),
    ]
}

/// For [`crate::zip`]: a state dict alone, and with what a trainer keeps beside it.
pub fn zip() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../seeds/checkpoint/plain.zip").to_vec(),
        include_bytes!("../seeds/checkpoint/trainer.zip").to_vec(),
    ]
}

/// For [`crate::legacy`].
pub fn legacy() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../seeds/checkpoint/legacy.pt").to_vec(),
        include_bytes!("../seeds/checkpoint/list.pt").to_vec(),
    ]
}

/// For [`crate::pickle`]: those in the archives.
pub fn pickle() -> Vec<Vec<u8>> {
    let end = b"u.";
    let pickle_in = |archive: Vec<u8>| {
        let start = archive.windows(2).position(|bytes| bytes == [0x80, 2]).expect("a pickle's first bytes");
        let stop =
            archive[start..].windows(2).position(|bytes| bytes == end).map_or(archive.len(), |at| start + at + 2);
        archive[start..stop].to_vec()
    };
    zip().into_iter().map(pickle_in).collect()
}

/// For [`crate::safetensors`]: with our graph, and without.
pub fn safetensors() -> Vec<Vec<u8>> {
    let bare = br#"{"fc.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"n":{"dtype":"F16","shape":[],"data_offsets":[8,10]}}"#;
    let length = (bare.len() as u64).to_le_bytes();
    vec![safetensors_file::to_bytes(&small()).unwrap(), [&length[..], bare, &[0; 10]].concat()]
}

/// For [`crate::study`].
pub fn study() -> Vec<Vec<u8>> {
    let studies = concat!(env!("CARGO_MANIFEST_DIR"), "/../studies");
    let read = |name: &str| std::fs::read(format!("{studies}/{name}")).expect("studies/ of the repository");
    let scheme = b"[[scheme]]\nname = \"own\"\nstages = [{ loss = \"hint\", train = \"substitute\" }]\n";
    vec![read("mnist.toml"), [&read("digits.toml")[..], scheme].concat()]
}

/// For [`crate::info`].
pub fn info() -> Vec<Vec<u8>> {
    vec![b"mean = [0.5, 0.4]\nstd = [0.2, 0.25]\nclasses = [\"a\", \"b\\u00e9\"]\ninput = [2, 32, 32]\n".to_vec()]
}

fn small() -> Network {
    let spec = ArchSpec { width: 0.02, ..ArchSpec::named("cifar-resnet20") };
    let graph = arch::build(&spec, Shape::new(1, 8, 8), 2).unwrap();
    Network::initialised(graph, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}

/// A zip archive of these entries, stored.
pub fn stored(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let short = |value: usize| (value as u16).to_le_bytes();
    let long = |value: usize| (value as u32).to_le_bytes();
    for (name, content) in entries {
        let at = bytes.len();
        // Version, flags, method, time, date; checksum, sizes, length of the name and of what follows it.
        let sizes = [&long(0)[..], &long(content.len()), &long(content.len()), &short(name.len()), &short(0)].concat();
        bytes.extend([b"PK\x03\x04", &[0; 10][..], &sizes, name.as_bytes(), content].concat());
        // Comment, disk, attributes, where it begins.
        directory.extend([b"PK\x01\x02", &[0; 12][..], &sizes, &[0; 10], &long(at), name.as_bytes()].concat());
    }
    let at = bytes.len();
    bytes.extend(&directory);
    let count = short(entries.len());
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &long(directory.len()), &long(at), &[0; 2]].concat());
    bytes
}
