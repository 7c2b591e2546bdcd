//! Folders and archives of images: synthetic ones, and the shared ones if they are present.

use std::io::Write;
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use nettriage_data::{
    Dataset, Error, FolderOptions, ImageSize, Interpolation, MemoryBudget, class_counts, contact_sheet, open,
    open_folder, open_folder_with, open_unlabelled,
};
use tempfile::TempDir;

/// A file in `shared/` beside the repository, or in the folder `NETTRIAGE_SHARED`; prints a line and returns `None` if it is absent.
fn shared(file: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("NETTRIAGE_SHARED").map_or(beside, PathBuf::from);
    let path = root.join("data").join(file);
    if !path.is_file() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn imagewoof() {
    let Some(path) = shared("imagewoof64.tar.gz") else { return };
    let woof = open_folder(&path, 64).unwrap();
    assert_eq!((woof.train.len(), woof.test.len()), (9025, 3929));
    assert_eq!((woof.shape().to_string().as_str(), woof.classes.len()), ("3x64x64", 10));
    assert_eq!((woof.name.as_str(), woof.classes[0].as_str()), ("imagewoof64", "n02086240"));
}

#[test]
fn tiny_imagenet() {
    let Some(path) = shared("tinyimagenet100_32.tar.gz") else { return };
    let tiny = open_folder(&path, 32).unwrap();
    assert_eq!(tiny.train.counts(100), [500; 100]);
    assert_eq!(tiny.test.counts(100), [50; 100]);
    assert_eq!(tiny.shape().to_string(), "3x32x32");
}

fn options(side: usize) -> FolderOptions {
    FolderOptions::new(ImageSize::square(side))
}

/// Names and contents.
type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// A file of one colour.
fn plain(width: u32, height: u32, colour: [u8; 3], format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(colour)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(shade: u8) -> Vec<u8> {
    plain(8, 8, [shade, 0, 0], ImageFormat::Png)
}

/// Writes the files to a folder, to `set.tar` and to `set.tar.gz`, so that every test can check all three.
fn made(files: Files) -> (TempDir, [PathBuf; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("set");
    std::fs::create_dir(&folder).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("./{name}"), &bytes[..]).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    let paths = [folder, dir.path().join("set.tar"), dir.path().join("set.tar.gz")];
    std::fs::write(&paths[1], &tar).unwrap();
    std::fs::write(&paths[2], gzip(&tar)).unwrap();
    (dir, paths)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// The data set, after a check that all three sources give the same.
fn opened(files: Files, size: usize) -> Dataset {
    let (_dir, [folder, tar, gz]) = made(files);
    let set = open_folder(&folder, size).unwrap();
    assert_eq!(set, open_folder(&tar, size).unwrap());
    assert_eq!(set, open_folder(&gz, size).unwrap());
    assert_eq!(set.name, "set");
    set
}

/// The three errors.
fn refused(files: Files, size: usize) -> [String; 3] {
    let (_dir, paths) = made(files);
    paths.map(|path| {
        let error = open_folder(&path, size).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(!error.contains('\n'), "{error}");
        error
    })
}

#[test]
fn train_and_test_folders() {
    let files = [
        ("train/b/2.png", png(2)),
        ("train/a/9.png", png(9)),
        ("train/a/1.png", png(1)),
        ("train/a/notes.txt", b"not an image".to_vec()),
        ("train/a/.hidden.png", b"not an image".to_vec()),
        ("test/b/3.PNG", png(3)),
        ("readme.png", b"not in a class".to_vec()),
    ];
    let set = opened(&files, 8);
    assert_eq!(set.classes, ["a", "b"]);
    assert_eq!((set.train.labels.as_slice(), set.test.labels.as_slice()), (&[0, 0, 1][..], &[1][..]));
    let shades: Vec<u8> = (0..3).map(|i| set.train.image(i)[0]).collect();
    assert_eq!((shades, set.test.image(0)[0]), (vec![1, 9, 2], 3));
    let counts: Vec<_> = class_counts(&set).iter().map(|class| (class.train, class.test)).collect();
    assert_eq!(counts, [(2, 0), (1, 1)]);
}

#[test]
fn unlabelled_images_are_all_read_in_order_of_their_names() {
    let files = [("b/2.png", png(2)), ("1.png", png(1)), ("b/deep/3.png", png(3)), ("b/.hidden.png", vec![0])];
    let (_dir, paths) = made(&files);
    for path in &paths {
        let set = open_unlabelled(path, &options(8)).unwrap();
        assert!(set.classes.is_empty() && set.test.is_empty());
        let shades: Vec<u8> = (0..set.train.len()).map(|i| set.train.image(i)[0]).collect();
        assert_eq!(shades, [1, 2, 3]);
    }
    let (_dir, paths) = made(&[("readme.txt", vec![0])]);
    for path in &paths {
        let error = open_unlabelled(path, &options(8)).unwrap_err().to_string();
        assert!(error.contains("holds no images"), "{error}");
    }
}

#[test]
fn validation_replaces_a_missing_test_set_and_otherwise_joins_the_training_images() {
    let files = [("train/a/1.png", png(1)), ("train/b/2.png", png(2)), ("val/a/3.png", png(3))];
    let set = opened(&files, 8);
    assert_eq!((set.train.len(), set.test.len()), (2, 1));
    let more = [&files[..], &[("test/b/4.png", png(4))]].concat();
    let set = opened(&more, 8);
    assert_eq!((set.train.labels.as_slice(), set.test.labels.as_slice()), (&[0, 0, 1][..], &[1][..]));
}

#[test]
fn test_images_are_taken_by_name_and_never_move() {
    let names: Vec<String> = (0..200).map(|i| format!("wrapped/{}/{i}.png", ["a", "b"][i % 2])).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().enumerate().map(|(i, name)| (name.as_str(), png(i as u8))).collect();
    let tests = |set: &Dataset| -> Vec<u8> { (0..set.test.len()).map(|i| set.test.image(i)[0]).collect() };
    let all = opened(&files, 8);
    assert_eq!(all.classes, ["a", "b"]);
    // 200 images at one in five: 40, standard deviation 5.7.
    assert!((18..=62).contains(&all.test.len()), "{}", all.test.len());
    // Python: int.from_bytes(hashlib.sha256(b"a/0.png").digest()[:8], "big") % 5 == 0, for all 200 names.
    assert_eq!(
        tests(&all),
        [
            108, 112, 116, 174, 176, 6, 60, 66, 70, 76, 8, 84, 98, 127, 143, 175, 183, 197, 25, 27, 45, 47, 53, 69, 79,
            87, 9
        ]
    );
    let half = opened(&files[..100], 8);
    let expected: Vec<u8> = tests(&all).into_iter().filter(|&shade| shade < 100).collect();
    assert_eq!(tests(&half), expected);
}

#[test]
fn all_formats_are_decoded_cropped_and_resized() {
    let files = [
        ("train/a/wide.jpg", plain(90, 30, [200, 100, 50], ImageFormat::Jpeg)),
        ("train/a/small.bmp", plain(3, 5, [200, 100, 50], ImageFormat::Bmp)),
        ("train/b/high.webp", plain(20, 2000, [200, 100, 50], ImageFormat::WebP)),
        // A PNG with another extension: the content decides.
        ("test/b/lying.jpeg", plain(64, 64, [200, 100, 50], ImageFormat::Png)),
    ];
    let set = opened(&files, 16);
    assert_eq!(set.shape().to_string(), "3x16x16");
    for images in [&set.train, &set.test] {
        for pixel in images.pixels.chunks(3) {
            let off = pixel.iter().zip([200u8, 100, 50]).map(|(&a, b)| a.abs_diff(b)).max();
            assert!(off <= Some(2), "{pixel:?}");
        }
    }
}

#[test]
fn images_are_resized_by_averaging_and_then_cropped() {
    // 12 x 4: a checkerboard of 0 and 100 in the centre square, columns 4 to 7. At half size it is averaged, with a part of the
    // columns beside it.
    let image = GrayImage::from_fn(12, 4, |x, y| match x {
        4..8 => Luma([if (x + y) % 2 == 0 { 0 } else { 100 }]),
        _ => Luma([255]),
    });
    let mut encoded = std::io::Cursor::new(Vec::new());
    image.write_to(&mut encoded, ImageFormat::Png).unwrap();
    let encoded = encoded.into_inner();
    let files =
        [("train/a/1.png", encoded.clone()), ("train/b/1.png", encoded.clone()), ("test/a/1.png", encoded.clone())];
    let whole = opened(&files, 4);
    assert_eq!(whole.shape().to_string(), "1x4x4", "grey stays grey");
    assert_eq!(whole.train.image(0)[..8], [0, 100, 0, 100, 100, 0, 100, 0]);
    let half = opened(&files, 2);
    // torchvision 0.29: Compose([Resize(2), CenterCrop(2)]).
    assert_eq!(half.train.image(0), [75, 76, 76, 75]);

    let mixed = [&files[..], &[("test/b/2.png", png(7))]].concat();
    assert_eq!(opened(&mixed, 4).shape().to_string(), "3x4x4", "one colour image makes all colour");
}

#[test]
fn a_set_beyond_its_memory_budget_is_on_the_disk_and_equal() {
    let files: Vec<(String, Vec<u8>)> = (0..60u8)
        .map(|i| {
            (
                format!("{}/{}/{i}.png", if i % 4 == 0 { "test" } else { "train" }, if i % 2 == 0 { "a" } else { "b" }),
                png(i),
            )
        })
        .collect();
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let (dir, places) = made(&files);
    for place in &places {
        let in_memory = open_folder(place, 8).unwrap();
        for memory in [0, 60 * 8 * 8 * 3 - 1] {
            let budget = nettriage_data::MemoryBudget { memory, folder: dir.path().into() };
            let on_disk = open_folder_with(place, &FolderOptions { budget: budget.clone(), ..options(8) }).unwrap();
            assert!(on_disk.train.pixels.is_on_disk() && on_disk.test.pixels.is_on_disk());
            assert_eq!(on_disk, in_memory);
        }
        let budget = nettriage_data::MemoryBudget { memory: 60 * 8 * 8 * 3, folder: dir.path().into() };
        assert!(
            !open_folder_with(place, &FolderOptions { budget: budget.clone(), ..options(8) })
                .unwrap()
                .train
                .pixels
                .is_on_disk()
        );
    }
    // Grey images are converted in place.
    let grey = image::GrayImage::from_fn(4, 4, |x, y| image::Luma([(x * 40 + y) as u8]));
    let mut encoded = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut encoded, ImageFormat::Png).unwrap();
    let encoded = encoded.into_inner();
    let (dir, places) =
        made(&[("train/a/1.png", encoded.clone()), ("train/b/2.png", encoded.clone()), ("test/a/3.png", encoded)]);
    let budget = nettriage_data::MemoryBudget { memory: 0, folder: dir.path().into() };
    let on_disk = open_folder_with(&places[0], &FolderOptions { budget, ..options(4) }).unwrap();
    assert_eq!(on_disk.shape().to_string(), "1x4x4");
    assert_eq!(on_disk, open_folder(&places[0], 4).unwrap());
}

#[test]
fn bad_images_are_named() {
    let files = [
        ("train/a/good.png", png(1)),
        ("train/a/cut.png", png(2)[..40].to_vec()),
        ("train/b/empty.jpg", Vec::new()),
        ("test/b/text.jpg", b"<html>404</html>".to_vec()),
    ];
    for error in refused(&files, 8) {
        assert!(error.contains("3 of 4 images cannot be decoded"), "{error}");
        for name in ["train/a/cut.png (", "train/b/empty.jpg (", "test/b/text.jpg ("] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("good.png") && error.ends_with("replace or remove them"), "{error}");
    }
}

#[test]
fn other_layouts_are_refused() {
    let cases: [(Files, &str); 6] = [
        (&[("train/a/1.txt", png(1))], "holds no images (jpg, png, bmp, webp, pnm) in class folders"),
        (&[("test/a/1.png", png(1)), ("val/b/1.png", png(1))], "has a test folder but no train folder"),
        (&[("train/a/1.png", png(1)), ("test/a/1.png", png(1))], "has 1 class folder(s)"),
        (&[("a/2.png", png(1)), ("b/3.png", png(1))], "too few to take test images from"),
        (&[("train/1.png", png(1)), ("train/a/1.png", png(1))], "1.png lies in no class folder"),
        (
            &[("train/a/1.png", png(1)), ("train/b/1.png", png(1)), ("test/c/1.png", png(1))],
            "class c has test images but no training images",
        ),
    ];
    for (files, words) in cases {
        for error in refused(files, 8) {
            assert!(error.contains(words), "{error} has no '{words}'");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let gone = open_folder(&dir.path().join("gone"), 8).unwrap_err();
    assert!(matches!(gone, Error::Io { .. }), "{gone}");
    for size in [0, 1025, usize::MAX] {
        assert!(matches!(open_folder(dir.path(), size), Err(Error::Setting(_))));
    }
}

#[test]
fn a_contact_sheet_has_a_row_per_class() {
    let digits = nettriage_data::open("digits", None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sheet.png");
    contact_sheet(&digits, &path).unwrap();
    let sheet = image::open(&path).unwrap().into_rgb8();
    // 16 columns and 10 rows of 8x8 images, enlarged four times, 2 pixels apart.
    assert_eq!(sheet.dimensions(), (2 + 16 * 34, 2 + 10 * 34));
    let first = |class: u16| digits.train.labels.iter().position(|&label| label == class).unwrap();
    for class in 0..10 {
        let image = digits.train.image(first(class));
        for (y, x) in [(0, 2), (3, 3), (7, 4)] {
            let pixel = sheet.get_pixel(2 + 4 * x + 1, 2 + 34 * u32::from(class) + 4 * y + 1);
            assert_eq!(pixel.0, [image[(8 * y + x) as usize]; 3]);
        }
    }
    assert!(matches!(contact_sheet(&digits, &dir.path().join("no/such/folder.png")), Err(Error::Io { .. })));
}

/// A JPEG of noise, so that its data are spread evenly over the file.
fn jpeg(side: u32) -> Vec<u8> {
    let mut state = 1u32;
    let image = RgbImage::from_fn(side, side, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Rgb([(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::load_from_memory(&jpeg(64)).unwrap().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn truncated_images_of_every_format_are_refused_by_name_or_skipped_and_counted() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let whole = encoded(format);
        for percent in [99, 90, 50, 20] {
            let cut = whole[..whole.len() * percent / 100].to_vec();
            let files = [
                ("train/a/1.png", png(1)),
                ("train/a/cut.png", cut),
                ("train/b/2.png", png(2)),
                ("train/b/3.png", png(3)),
                ("test/a/4.png", png(4)),
            ];
            for error in refused(&files, 8) {
                assert!(
                    error.contains("1 of 5 images cannot be decoded: train/a/cut.png ("),
                    "{format:?} {percent}%: {error}"
                );
            }
            let (dir, places) = made(&files);
            for (place, memory) in places.iter().zip([1 << 30, 0, 1 << 30]) {
                let budget = MemoryBudget { memory, folder: dir.path().into() };
                let set = open_folder_with(place, &FolderOptions { skip_bad: true, budget, ..options(8) }).unwrap();
                assert_eq!((set.train.labels.as_slice(), set.test.len()), (&[0, 1, 1][..], 1));
                let shades: Vec<u8> = (0..3).map(|i| set.train.image(i)[0]).collect();
                assert_eq!(shades, [1, 2, 3]);
                assert!(
                    set.notes.iter().any(|note| note.starts_with("1 of 5 images cannot be decoded and are skipped: "))
                );
            }
        }
    }
    // A whole JPEG with bytes after its end, as cameras add them, and with a thumbnail's end mark in its metadata.
    let mut trailing = jpeg(64);
    trailing.extend([7; 100]);
    let thumbnail = [&jpeg(64)[..2], &[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9], &jpeg(64)[2..]].concat();
    let cut = thumbnail[..thumbnail.len() * 9 / 10].to_vec();
    opened(&[("train/a/1.jpg", trailing.clone()), ("train/b/2.jpg", thumbnail), ("test/a/3.jpg", jpeg(8))], 8);
    let files = [("train/a/1.jpg", trailing), ("train/b/cut.jpg", cut), ("test/a/3.jpg", jpeg(8))];
    assert!(refused(&files, 8)[0].contains("train/b/cut.jpg (truncated"));
}

#[test]
fn skipping_leaves_no_set_without_images() {
    let (_dir, places) = made(&[("train/a/1.png", png(1)), ("train/b/2.png", png(2)), ("test/a/3.png", vec![0])]);
    let skip = FolderOptions { skip_bad: true, ..options(8) };
    let error = open_folder_with(&places[0], &skip).unwrap_err().to_string();
    assert!(error.contains("no training or no test images are left") && error.contains("test/a/3.png"), "{error}");
}

#[test]
fn whole_numbers_are_in_numeric_order() {
    let names: Vec<String> = (0..12).flat_map(|i| ["train", "test"].map(|part| format!("{part}/{i}/x.png"))).collect();
    let files: Vec<(&str, Vec<u8>)> =
        names.iter().enumerate().map(|(i, name)| (name.as_str(), png(i as u8 / 2))).collect();
    let set = opened(&files, 8);
    assert_eq!(set.classes, (0..12).map(|i| i.to_string()).collect::<Vec<_>>());
    for images in [&set.train, &set.test] {
        assert!(images.labels.iter().enumerate().all(|(i, &label)| label == i as u16 && images.image(i)[0] == i as u8));
        assert!(images.is_sorted_by_class());
    }
    assert!(set.notes.iter().any(|note| note.contains("numeric order: 0, 1, 2, 3, 4")), "{:?}", set.notes);
    // Where the order is the same there is nothing to say, and other names are in alphabetical order.
    let files =
        [("train/0/1.png", png(0)), ("train/1/1.png", png(1)), ("test/0/1.png", png(2)), ("test/1/1.png", png(3))];
    assert!(opened(&files, 8).notes.is_empty());
    let files = [
        ("train/a10/1.png", png(0)),
        ("train/a9/1.png", png(1)),
        ("test/a10/1.png", png(2)),
        ("test/a9/1.png", png(3)),
    ];
    assert_eq!(opened(&files, 8).classes, ["a10", "a9"]);
}

#[test]
fn classes_without_test_images_are_reported() {
    let files =
        [("train/a/1.png", png(1)), ("train/b/2.png", png(2)), ("train/c/3.png", png(3)), ("test/b/4.png", png(4))];
    assert_eq!(opened(&files, 8).notes, ["2 of 3 classes have no test images: a, c"]);
}

#[test]
fn other_formats_are_refused_or_skipped_and_empty_folders_told() {
    let files = [
        ("train/a/1.png", png(1)),
        ("train/a/2.tiff", vec![0]),
        ("train/a/3.GIF", vec![0]),
        ("train/b/1.png", png(1)),
        ("test/a/1.png", png(2)),
        ("test/b/1.png", png(2)),
    ];
    for error in refused(&files, 8) {
        assert!(error.contains("2 images are in a format that is not read: train/a/2.tiff, train/a/3.GIF"), "{error}");
    }
    let (dir, places) = made(&files);
    let skip = FolderOptions { skip_bad: true, ..options(8) };
    for place in &places {
        let set = open_folder_with(place, &skip).unwrap();
        assert_eq!(set.notes, ["2 images in a format that is not read are skipped: train/a/2.tiff, train/a/3.GIF"]);
    }
    std::fs::create_dir_all(dir.path().join("set/train/c/deep")).unwrap();
    std::fs::create_dir_all(dir.path().join("set/.git/objects")).unwrap();
    let set = open_folder_with(&places[0], &skip).unwrap();
    assert!(set.notes.contains(&"folders without images are ignored: train/c".to_owned()), "{:?}", set.notes);
}

#[test]
fn sizes_need_not_be_square_and_a_resize_precedes_the_crop() {
    // 375 x 500, a horizontal ramp: column x has the shade x / 2.
    let ramp = RgbImage::from_fn(500, 375, |x, _| Rgb([(x / 2) as u8; 3]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    ramp.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let ramp = bytes.into_inner();
    let files = [("train/a/1.png", ramp.clone()), ("train/b/1.png", ramp.clone()), ("test/a/1.png", ramp)];
    let (_dir, places) = made(&files);
    let read = |size: &str, resize: Option<usize>, interpolation: Interpolation| {
        let size = size.parse().unwrap();
        let read = FolderOptions { resize, interpolation, ..FolderOptions::new(size) };
        open_folder_with(&places[0], &read).unwrap()
    };
    let set = read("224x224", Some(256), Interpolation::Bilinear);
    assert_eq!(set.shape().to_string(), "3x224x224");
    // torchvision 0.29: Compose([Resize(256), CenterCrop(224)]) of the same image: first, middle and last pixel of a row.
    let row = |set: &Dataset, x: usize| set.train.image(0)[3 * x];
    assert_eq!([0, 112, 223].map(|x| row(&set, x)), [42, 125, 206]);
    let set = read("224x224", None, Interpolation::Bicubic);
    // Resize(224, BICUBIC), CenterCrop(224).
    assert_eq!([0, 112, 223].map(|x| row(&set, x)), [31, 125, 218]);
    let set = read("48x64", None, Interpolation::Bilinear);
    assert_eq!(set.shape().to_string(), "3x48x64");
    // The whole width fits: Resize((48, 64)).
    assert_eq!([0, 32, 63].map(|x| row(&set, x)), [2, 126, 247]);
    for text in ["0", "48x", "x48", "48x0", "1025", "48x64x3", ""] {
        assert!(text.parse::<ImageSize>().is_err(), "{text}");
    }
    for resize in [0, 223, 5000] {
        let read = FolderOptions { resize: Some(resize), ..options(224) };
        assert!(matches!(open_folder_with(&places[0], &read), Err(Error::Setting(_))), "{resize}");
    }
}

#[test]
fn an_orientation_is_not_applied_and_told() {
    // A JPEG with an EXIF segment whose one entry, 0x0112, is 6: rotate by 90 degrees.
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let plain = jpeg(16);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let oriented = [&plain[..2], &[0xff, 0xe1], &length, exif, &plain[2..]].concat();
    let files =
        [("train/a/1.jpg", plain), ("train/b/1.jpg", oriented), ("test/a/1.png", png(1)), ("test/b/1.png", png(1))];
    let set = opened(&files, 16);
    assert_eq!(set.train.image(0), set.train.image(1));
    assert!(
        set.notes[0].starts_with("1 of 4 images have an EXIF orientation, which is not applied"),
        "{:?}",
        set.notes
    );
}

#[test]
fn grey_images_become_rgb_by_repetition() {
    let digits = open("digits", None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for memory in [1 << 30, 0] {
        let budget = MemoryBudget { memory, folder: dir.path().into() };
        let rgb = digits.clone().into_rgb(&budget).unwrap();
        assert_eq!((rgb.shape().to_string().as_str(), rgb.train.pixels.is_on_disk()), ("3x8x8", memory == 0));
        assert_eq!(rgb.test.labels, digits.test.labels);
        for (grey, rgb) in [(&digits.train, &rgb.train), (&digits.test, &rgb.test)] {
            assert!(grey.pixels.iter().zip(rgb.pixels.chunks(3)).all(|(&grey, rgb)| rgb == [grey; 3]));
        }
        assert_ne!(rgb.checksum, digits.checksum);
        assert_eq!(rgb.clone().into_rgb(&budget).unwrap(), rgb, "RGB stays as it is");
    }
}

#[test]
fn an_empty_name_of_a_folder_is_named() {
    let error = open_folder(Path::new(""), 8).unwrap_err().to_string();
    assert!(error.contains("the folder's name is empty"), "{error}");
}
