//! PyTorch checkpoints: real ones, and malicious ones.

use nettriage_formats::pytorch::{self, Checkpoint};

use crate::shared;

/// Numbers of tensors and elements, and sums of absolute values, as PyTorch 2.15 gives them for the same files:
/// `sum(t.double().abs().sum() for t in state_dict.values())`.
#[test]
fn real_checkpoints_hold_what_pytorch_reads() {
    let expected = [
        ("cifar10_resnet/resnet20-12fca82f.th", 97, 271_098, 21349.562590950623),
        ("cifar10_resnet/resnet44-014dd654.th", 217, 661_754, 35943.741784870486),
        ("cifar10_small/cifar_base_kw.pth", 8, 105_966, 1591.9647798514438),
        ("cifar10_small/resnet_2b.pth", 16, 112_006, 3261.4474294194),
        ("mnist_conv/mnist.pt", 20, 376_940, 15033.46473321879),
        ("mnist_lenet/lenet.pth", 10, 44_426, 11550.866985545319),
    ];
    for (file, count, elements, sum) in expected {
        let Some(path) = shared::network(file) else { return };
        let tensors = pytorch::load(&path).unwrap();
        let all = || tensors.iter().flat_map(|(_, tensor)| &tensor.data);
        assert_eq!((tensors.len(), all().count()), (count, elements), "{file}");
        let found: f64 = all().map(|&value| f64::from(value).abs()).sum();
        assert!((found / sum - 1.0).abs() < 1e-9, "{file}: {found} for {sum}");
    }
}

/// A pickle that would execute a program: `os.system("echo")`.
#[test]
fn a_pickle_that_calls_a_function_is_refused_by_name() {
    let magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
    let protocol = [0x80, 2, b'M', 0xe9, 0x03, b'.'];
    let system = [0x80, 2, b'}', b'.'];
    let mut bytes = [magic.as_slice(), &protocol, &system].concat();
    bytes.extend(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00echo\x85R.].");
    let message = Checkpoint::parse(&bytes).unwrap_err().to_string();
    assert!(message.contains("`posix.system`") && message.contains("torch.onnx.export("), "{message}");
}

/// Deep nesting and self-reference do not overflow the stack, and many values from few bytes are refused.
#[test]
fn unusual_pickles_terminate() {
    let magic = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
    let start = [magic.as_slice(), &[0x80, 2, b'M', 0xe9, 0x03, b'.'], &[0x80, 2, b'}', b'.']].concat();
    let nested = [start.as_slice(), &[b']'; 3000], &[b'a'; 2999], b".", b"]."].concat();
    assert!(Checkpoint::parse(&nested).unwrap_err().to_string().contains("no dictionary of tensors"));
    let own = [start.as_slice(), b"]q\x00h\x00a.", b"]."].concat();
    assert!(Checkpoint::parse(&own).unwrap_err().to_string().contains("no dictionary of tensors"));
    let many = [start.as_slice(), &vec![b']'; 1 << 20], b".", b"]."].concat();
    assert!(Checkpoint::parse(&many).unwrap_err().to_string().contains("many times larger"));
}
