//! Splits, streams, batches and normalisation on the embedded digits and on small arrays.

use nettriage_data::{
    Augmentation, Dataset, Example, Images, Normalization, Shape, Stream, fill, fill_plain, first, open, split,
};

fn digits() -> Dataset {
    open("digits", None).unwrap()
}

/// One grey 3x4 image, 10 x row + column, and a second one, all 200.
fn ramp() -> (Images, Shape) {
    let mut pixels: Vec<u8> = (0..3u8).flat_map(|y| (0..4u8).map(move |x| 10 * y + x)).collect();
    pixels.extend([200; 12]);
    (Images { pixels: pixels.into(), labels: vec![0, 1] }, Shape { channels: 1, height: 3, width: 4 })
}

/// Leaves byte / 255 as it is.
fn plain() -> Normalization {
    Normalization { mean: vec![0.0], std: vec![1.0] }
}

fn bytes(values: &[f32]) -> Vec<i32> {
    values.iter().map(|value| (value * 255.0).round() as i32).collect()
}

/// Shares in mixtures have the moments of a Beta distribution: mean 1/2, variance 1 / (4 (2 shape + 1)).
#[test]
fn shares_in_mixtures_are_of_a_beta_distribution() {
    let train: Vec<u32> = (0..100).collect();
    let stream = |augmentation: &Augmentation| Stream::new(&train, 4000, augmentation, 5).examples;
    for shape in [0.2f32, 1.0] {
        let augmentation = Augmentation { pad: 2, mixup: shape, ..Augmentation::default() };
        let examples = stream(&augmentation);
        let shares: Vec<f64> = examples.iter().map(|e| f64::from(augmentation.own_share(e).unwrap())).collect();
        let mean = shares.iter().sum::<f64>() / 4000.0;
        let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 4000.0;
        let expected = 1.0 / (4.0 * (2.0 * f64::from(shape) + 1.0));
        // Five standard errors.
        assert!((mean - 0.5).abs() < 5.0 * (expected / 4000.0).sqrt(), "{shape}: {mean}");
        assert!((variance / expected - 1.0).abs() < 0.1, "{shape}: {variance}, not {expected}");
        // Shifts and order are those without it.
        let plain = stream(&augmentation_of(2, false));
        assert!(examples.iter().zip(&plain).all(|(a, b)| (a.image, a.dy, a.dx) == (b.image, b.dy, b.dx)));
    }
}

fn augmentation_of(pad: usize, flip: bool) -> Augmentation {
    Augmentation { pad, flip, ..Augmentation::default() }
}

#[test]
fn digits_equal_those_of_scikit_learn() {
    let digits = digits();
    assert_eq!((digits.train.len(), digits.test.len()), (1437, 360));
    assert_eq!((digits.channels, digits.height, digits.width), (1, 8, 8));
    // numpy: bincount(load_digits().target[-360:]), and of all, less those.
    assert_eq!(digits.test.counts(10), [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]);
    assert_eq!(digits.train.counts(10), [143, 146, 142, 146, 144, 145, 144, 143, 141, 143]);
    // The first row of digits.csv begins 0,0,5,13,9,1,0,0; byte = round(255 v / 16).
    assert_eq!(digits.train.image(0)[..8], [0, 0, 80, 207, 143, 16, 0, 0]);
    assert_eq!(digits.train.labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(digits.train.pixels.iter().max(), Some(&255));
}

#[test]
fn a_split_is_stratified_disjoint_complete_and_determined_by_its_seed() {
    let digits = digits();
    let first = split(&digits.train, 300, 7);
    assert_eq!(first.validation.len(), 300);
    let mut all = [first.train.clone(), first.validation.clone()].concat();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..1437), "every image once");
    assert!(first.train.is_sorted() && first.validation.is_sorted());

    let total = digits.train.counts(10);
    for class in 0..10u16 {
        let of_class = |&&i: &&u32| digits.train.labels[i as usize] == class;
        let share = first.validation.iter().filter(of_class).count() as f64;
        let exact = 300.0 * total[usize::from(class)] as f64 / 1437.0;
        assert!((share - exact).abs() < 1.0, "class {class}: {share} of {exact}");
    }

    assert_eq!(first, split(&digits.train, 300, 7));
    assert_ne!(first, split(&digits.train, 300, 8));
    assert_eq!(split(&digits.train, 0, 7).train.len(), 1437);
    assert_eq!(split(&digits.train, 9999, 7).validation.len(), 1437);
    assert_eq!(split(&Images::default(), 10, 7).validation.len(), 0);
}

#[test]
fn the_first_images_are_balanced_over_classes() {
    let digits = digits().train;
    let some: Vec<u32> = (10..1000).collect();
    assert_eq!(first(&digits, &some, 20), (10..30).collect::<Vec<_>>());
    assert_eq!(first(&digits, &some, 5000), some);
    let folder = Images { pixels: vec![0; 300].into(), labels: (0..300).map(|i| i / 100).collect() };
    let all: Vec<u32> = (0..300).collect();
    for count in [3, 30, 299, 300] {
        let chosen = first(&folder, &all, count);
        assert_eq!(chosen.len(), count);
        assert_eq!(chosen, first(&folder, &first(&folder, &all, 300), count), "a prefix of a prefix");
        let of = |class| chosen.iter().filter(|&&i| i / 100 == class).count();
        assert!((0..3).all(|class| of(class).abs_diff(count / 3) <= 1), "{chosen:?}");
    }
    assert!(first(&folder, &[], 3).is_empty() && first(&folder, &all, 0).is_empty());
}

#[test]
fn a_stream_visits_every_image_once_per_epoch_and_is_truncated() {
    let train: Vec<u32> = (0..100).map(|i| 3 * i).collect();
    let augmentation = augmentation_of(2, true);
    let stream = Stream::new(&train, 250, &augmentation, 1);
    assert_eq!(stream.examples.len(), 250);
    let order: Vec<u32> = stream.examples.iter().map(|example| example.image).collect();
    for epoch in [&order[..100], &order[100..200]] {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, train);
    }
    assert_ne!(order[..100], order[100..200], "each epoch has its own order");
    let mut cut = order[200..].to_vec();
    cut.sort_unstable();
    cut.dedup();
    assert_eq!(cut.len(), 50);
    assert!(Stream::new(&[], 10, &augmentation, 1).examples.is_empty());
}

#[test]
fn a_stream_is_determined_by_its_seed() {
    let train: Vec<u32> = (0..50).collect();
    let augmentation = augmentation_of(4, true);
    let stream = Stream::new(&train, 120, &augmentation, 5);
    assert_eq!(stream, Stream::new(&train, 120, &augmentation, 5));
    assert_ne!(stream, Stream::new(&train, 120, &augmentation, 6));
    assert_eq!(stream.examples[..70], Stream::new(&train, 70, &augmentation, 5).examples[..]);

    let order = |augmentation: Augmentation| -> Vec<u32> {
        let stream = Stream::new(&train, 120, &augmentation, 5);
        stream.examples.iter().map(|example| example.image).collect()
    };
    assert_eq!(order(augmentation), order(Augmentation::default()), "augmentation keeps the order");
    let plain = Stream::new(&train, 120, &Augmentation::default(), 5);
    assert!(plain.examples.iter().all(|example| *example == Example::plain(example.image)));
}

#[test]
fn offsets_and_flips_are_uniform() {
    let train: Vec<u32> = (0..1000).collect();
    let stream = Stream::new(&train, 90_000, &augmentation_of(4, true), 3);
    let mut offsets = [[0u32; 9]; 9];
    for example in &stream.examples {
        offsets[(example.dy + 4) as usize][(example.dx + 4) as usize] += 1;
    }
    // 81 cells of 1,111 expected, standard deviation 33: chi-squared with 80 degrees of freedom has
    // mean 80 and standard deviation 12.6, so 150 is more than five of them away.
    let expected = 90_000.0 / 81.0;
    let chi: f64 = offsets.iter().flatten().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
    assert!(chi < 150.0, "{chi}");
    let flips = stream.examples.iter().filter(|example| example.flip).count() as f64;
    assert!((flips - 45_000.0).abs() < 5.0 * 150.0, "{flips}");
}

#[test]
fn a_crop_is_moved_padded_and_flipped() {
    let (images, shape) = ramp();
    let filled = |dy, dx, flip| {
        let mut out = [f32::NAN; 12];
        let example = Example { dy, dx, flip, ..Example::plain(0) };
        fill(&images, shape, &[example], &Augmentation::default(), &plain(), &mut out);
        bytes(&out)
    };
    assert_eq!(filled(0, 0, false), [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]);
    assert_eq!(filled(0, 0, true), [3, 2, 1, 0, 13, 12, 11, 10, 23, 22, 21, 20]);
    assert_eq!(filled(1, 1, false), [11, 12, 13, 0, 21, 22, 23, 0, 0, 0, 0, 0]);
    assert_eq!(filled(-1, -2, false), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 10, 11]);
    assert_eq!(filled(-1, -2, true), [0, 0, 0, 0, 1, 0, 0, 0, 11, 10, 0, 0]);
    assert_eq!(filled(0, 4, false), [0; 12], "entirely outside");
    assert_eq!(filled(-100, 100, true), [0; 12]);
}

#[test]
fn padding_is_zero_after_normalisation() {
    let (images, shape) = ramp();
    let normalization = Normalization { mean: vec![0.5], std: vec![0.25] };
    let mut out = [f32::NAN; 12];
    fill(
        &images,
        shape,
        &[Example { dy: 2, dx: 0, flip: false, ..Example::plain(1) }],
        &Augmentation::default(),
        &normalization,
        &mut out,
    );
    let inside = (200.0 / 255.0 - 0.5) / 0.25;
    assert!(out[..4].iter().all(|&value| (value - inside).abs() < 1e-6));
    assert_eq!(out[4..], [0.0; 8]);
}

#[test]
fn channels_stay_together() {
    let images = Images { pixels: vec![1, 2, 3, 11, 12, 13].into(), labels: vec![0] };
    let shape = Shape { channels: 3, height: 1, width: 2 };
    let normalization = Normalization { mean: vec![0.0; 3], std: vec![1.0, 0.5, 0.25] };
    let mut out = [0.0; 6];
    fill(
        &images,
        shape,
        &[Example { dy: 0, dx: 0, flip: true, ..Example::plain(0) }],
        &Augmentation::default(),
        &normalization,
        &mut out,
    );
    assert_eq!(bytes(&out), [11, 24, 52, 1, 4, 12]);
    fill_plain(&images, shape, &[0], &normalization, &mut out);
    assert_eq!(bytes(&out), [1, 4, 12, 11, 24, 52]);
}

#[test]
fn any_number_of_channels_is_cropped_and_flipped() {
    for channels in 1..=5 {
        let shape = Shape { channels, height: 2, width: 3 };
        let pixels: Vec<u8> = (1..=6 * channels as u8).collect();
        let images = Images { pixels: pixels.clone().into(), labels: vec![0] };
        let normalization = Normalization { mean: vec![0.0; channels], std: vec![1.0; channels] };
        let mut out = vec![f32::NAN; pixels.len()];
        fill(
            &images,
            shape,
            &[Example { dy: 1, dx: -1, flip: true, ..Example::plain(0) }],
            &Augmentation::default(),
            &normalization,
            &mut out,
        );
        // The second row, moved by one pixel to the right and flipped; zeros below it.
        let second: Vec<i32> = pixels[3 * channels..].iter().map(|&byte| byte.into()).collect();
        let row = [&second[channels..2 * channels], &second[..channels], &vec![0; channels]].concat();
        assert_eq!(bytes(&out), [row, vec![0; 3 * channels]].concat(), "{channels} channels");
    }
}

#[test]
fn normalisation_uses_the_given_images_alone() {
    let images = Images { pixels: vec![0, 10, 255, 20, 7, 7].into(), labels: vec![0, 1, 2] };
    let shape = Shape { channels: 2, height: 1, width: 1 };
    let both = Normalization::of(&images, shape, &[0, 1]);
    let close = |a: &[f32], b: [f64; 2]| a.iter().zip(b).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-7);
    assert!(close(&both.mean, [0.5, 15.0 / 255.0]), "{both:?}");
    assert!(close(&both.std, [0.5, 5.0 / 255.0]), "{both:?}");
    let constant = Normalization::of(&images, shape, &[2]);
    assert_eq!(constant.std, [1.0, 1.0]);

    // scikit-learn and numpy: x = load_digits().data[:1437] / 16; x.mean(), x.std(), rounding to bytes apart.
    let digits = digits();
    let all: Vec<u32> = (0..1437).collect();
    let of = Normalization::of(&digits.train, digits.shape(), &all);
    assert!((of.mean[0] - 0.305_386_1).abs() < 2e-3 && (of.std[0] - 0.375_507_1).abs() < 2e-3, "{of:?}");
    let mut out = vec![0.0; 1437 * 64];
    fill_plain(&digits.train, digits.shape(), &all, &of, &mut out);
    let mean = out.iter().map(|&v| f64::from(v)).sum::<f64>() / out.len() as f64;
    let square = out.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / out.len() as f64;
    assert!(mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-4, "{mean} {square}");
}

#[test]
fn augmentation_refuses_a_padding_as_wide_as_the_image() {
    let shape = Shape { channels: 1, height: 8, width: 8 };
    assert!(augmentation_of(7, false).check(shape).is_ok());
    let error = augmentation_of(8, false).check(shape).unwrap_err().to_string();
    assert_eq!(error, "augmentation pad = 8: at most 7 for images of 1x8x8; lower it");
    let large = Shape { channels: 3, height: 500, width: 500 };
    assert!(augmentation_of(128, false).check(large).is_err());
    assert!(serde_json::from_str::<Augmentation>(r#"{"pad": 4, "flop": true}"#).is_err());
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    let error = open("minst", None).unwrap_err().to_string();
    assert!(error.starts_with("there is no data set 'minst' (did you mean 'mnist'?)"), "{error}");
    let error = open("imagenet", None).unwrap_err().to_string();
    assert!(!error.contains("did you mean") && error.contains("cifar100"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = open(folder.path().to_str().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("folder, with --data-dir"), "{error}");
}

#[test]
fn the_embedded_digits_are_the_originals() {
    assert_eq!(nettriage_data::is_original(&digits()), Some(true));
    let mut other = digits();
    other.checksum.clear();
    assert_eq!(nettriage_data::is_original(&other), Some(false));
    other.name = "my own".into();
    assert_eq!(nettriage_data::is_original(&other), None);
}

#[test]
fn a_normalisation_for_pixels_up_to_255_is_refused_with_the_scaled_values() {
    let check = |mean: &[f32], std: &[f32]| Normalization::new(mean.to_vec(), std.to_vec(), 3);
    let good = check(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]).unwrap();
    assert_eq!(good.mean, [0.485, 0.456, 0.406]);
    check(&[0.0; 3], &[1.0; 3]).unwrap();
    for (mean, std, words) in [
        (
            [127.5; 3],
            [127.5; 3],
            "divided by 255 where above 1 they are mean 0.5000,0.5000,0.5000 and std 0.5000,0.5000,0.5000",
        ),
        ([0.5; 3], [58.4, 57.1, 57.4], "std 0.2290,0.2239,0.2251"),
        ([0.5; 3], [0.0; 3], "std above 0"),
        ([f32::NAN; 3], [1.0; 3], "finite"),
    ] {
        let error = check(&mean, &std).unwrap_err();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    assert!(check(&[0.5], &[0.5; 3]).unwrap_err().contains("give 3 each"));
}
