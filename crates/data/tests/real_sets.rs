//! The known sets themselves, if this machine has them (see [`nettriage_data::open`]).
//! Expected values are published: sizes, and pixel statistics as computed by numpy and used with torchvision.

use nettriage_data::{Dataset, Normalization, is_original, open};
use std::io::Write;

/// The set; prints a line and returns `None` if it is not found.
fn real(name: &str) -> Option<Dataset> {
    match open(name, None) {
        Ok(dataset) => Some(dataset),
        Err(nettriage_data::Error::Missing { places, .. }) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no {name} in {places}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn statistics(dataset: &Dataset) -> Normalization {
    let all: Vec<u32> = (0..dataset.train.len() as u32).collect();
    Normalization::of(&dataset.train, dataset.shape(), &all)
}

fn close(found: &[f32], expected: &[f32]) {
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 6e-5);
    assert!(found.len() == expected.len() && near, "{found:?} is not {expected:?}");
}

#[test]
fn mnist() {
    let Some(mnist) = real("mnist") else { return };
    assert_eq!((mnist.train.len(), mnist.test.len()), (60_000, 10_000));
    assert_eq!(mnist.shape().to_string(), "1x28x28");
    assert_eq!(mnist.train.labels[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    assert_eq!(mnist.test.labels[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    assert_eq!(mnist.train.counts(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    let of = statistics(&mnist);
    close(&of.mean, &[0.1307]);
    close(&of.std, &[0.3081]);
    assert_eq!(is_original(&mnist), Some(true), "{}", mnist.checksum);
}

#[test]
fn fashion_mnist() {
    let Some(fashion) = real("fashion-mnist") else {
        return;
    };
    assert_eq!((fashion.train.len(), fashion.test.len()), (60_000, 10_000));
    assert_eq!(fashion.train.counts(10), [6000; 10]);
    assert_eq!(fashion.test.counts(10), [1000; 10]);
    assert_eq!(fashion.classes[usize::from(fashion.train.labels[0])], "Ankle boot");
    let of = statistics(&fashion);
    close(&of.mean, &[0.2860]);
    close(&of.std, &[0.3530]);
    assert_eq!(is_original(&fashion), Some(true), "{}", fashion.checksum);
}

#[test]
fn cifar10() {
    let Some(cifar) = real("cifar10") else { return };
    assert_eq!((cifar.train.len(), cifar.test.len()), (50_000, 10_000));
    assert_eq!(cifar.shape().to_string(), "3x32x32");
    assert_eq!(cifar.train.counts(10), [5000; 10]);
    assert_eq!(cifar.test.counts(10), [1000; 10]);
    assert_eq!(cifar.train.labels[..10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    assert_eq!(cifar.classes[3], "cat");
    let of = statistics(&cifar);
    close(&of.mean, &[0.4914, 0.4822, 0.4465]);
    close(&of.std, &[0.2470, 0.2435, 0.2616]);
    assert_eq!(is_original(&cifar), Some(true), "{}", cifar.checksum);
}
