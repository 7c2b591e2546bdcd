//! Fuzz targets: each takes bytes as they might come from a file, and panics only if a reader breaks its promise.

use nettriage_data::fuzzing;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, with inputs to start from.
pub const TARGETS: [(&str, Target, fn() -> Vec<Vec<u8>>); 4] = [
    ("idx", idx, seeds::idx),
    ("cifar", cifar, seeds::cifar),
    ("archive", archive, seeds::archive),
    ("picture", picture, seeds::picture),
];

/// The first two bytes say where the images end and the labels begin.
pub fn idx(bytes: &[u8]) {
    let Some((cut, rest)) = bytes.split_first_chunk::<2>() else { return };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(rest.len());
    let (images, labels) = rest.split_at(cut);
    if let Ok((shape, read)) = fuzzing::idx(images, labels) {
        assert_eq!(read.pixels.len(), read.len() * shape.elements());
        assert!(read.labels.iter().all(|&label| label < 10));
    }
}

/// As many records as the length has room for, of either set.
pub fn cifar(bytes: &[u8]) {
    for (fine, record, classes) in [(false, 3073, 10), (true, 3074, 100)] {
        let records = bytes.len() / record;
        match fuzzing::cifar(bytes, records, fine) {
            Ok(read) => {
                assert_eq!(bytes.len(), records * record);
                assert_eq!((read.len(), read.pixels.len()), (records, records * 3072));
                assert!(read.labels.iter().all(|&label| label < classes));
            }
            Err(error) => one_line(&error.to_string()),
        }
    }
}

/// A tar archive.
pub fn archive(bytes: &[u8]) {
    match fuzzing::archive(bytes) {
        Ok((names, train, test)) => {
            assert!(train > 0 && test > 0 && train + test <= names.len());
            let inside = |name: &String| !name.starts_with('/') && name.split('/').all(|part| part != "..");
            assert!(names.iter().all(inside), "{names:?}");
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// An image file.
pub fn picture(bytes: &[u8]) {
    match fuzzing::picture(bytes) {
        Ok(pixels) => assert_eq!(pixels.len(), 16 * 16 * 3),
        Err(reason) => one_line(&reason),
    }
}

/// What a message must be.
fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
}

/// Small, valid inputs.
pub mod seeds {
    fn array(extents: &[u8], bytes: usize) -> Vec<u8> {
        let mut array = vec![0, 0, 8, extents.len() as u8];
        array.extend(extents.iter().flat_map(|&extent| [0, 0, 0, extent]));
        array.extend((0..bytes).map(|i| i as u8 % 10));
        array
    }

    /// For [`super::idx`].
    pub fn idx() -> Vec<Vec<u8>> {
        let (images, labels) = (array(&[3, 4, 5], 60), array(&[3], 3));
        let cut = (images.len() as u16).to_le_bytes();
        vec![[&cut[..], &images, &labels].concat()]
    }

    /// For [`super::cifar`].
    pub fn cifar() -> Vec<Vec<u8>> {
        vec![vec![1; 3073], vec![2; 2 * 3074]]
    }

    /// For [`super::archive`]: names as they are in a ustar header.
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

    /// For [`super::picture`]: a few pixels in each format.
    pub fn picture() -> Vec<Vec<u8>> {
        vec![
            include_bytes!("../seeds/picture/few.bmp").to_vec(),
            include_bytes!("../seeds/picture/few.jpg").to_vec(),
            include_bytes!("../seeds/picture/few.png").to_vec(),
            include_bytes!("../seeds/picture/few.webp").to_vec(),
        ]
    }
}
