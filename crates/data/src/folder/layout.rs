//! Assignment of image files to classes, training set and test set by their names.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Error;

/// One image: its index in the list of names, and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub source: usize,
    pub label: u16,
}

/// Classes in alphabetical order, images in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub classes: Vec<String>,
    pub train: Vec<Item>,
    pub test: Vec<Item>,
}

/// Without test images, one image of this many becomes a test image.
const TEST_SHARE: u64 = 5;

const TEST: &[&str] = &["test"];
const VALIDATION: &[&str] = &["val", "valid", "validation"];
const REMEDY: &str = "arrange it as train/<class>/<image>, test/<class>/<image>";

/// Whether a file is an image, by its extension. Hidden files, and those that macOS adds to archives, are not.
pub(crate) fn is_image(name: &str) -> bool {
    let hidden = |part: &str| part.starts_with('.') || part == "__MACOSX";
    let Some((_, ending)) = name.rsplit_once('.') else {
        return false;
    };
    let known = ["jpg", "jpeg", "png", "bmp", "webp"];
    known.iter().any(|known| ending.eq_ignore_ascii_case(known)) && !name.split('/').any(hidden)
}

impl Layout {
    /// `names` are relative paths with `/` as separator; `path` is for error messages.
    pub(crate) fn of(path: &Path, names: &[String]) -> Result<Layout, Error> {
        let refuse = |problem: String| Err(Error::content(path, problem, REMEDY));
        let mut images: Vec<(Vec<&str>, usize)> = names
            .iter()
            .enumerate()
            .map(|(source, name)| (name.split('/').collect(), source))
            .filter(|(parts, _): &(Vec<&str>, usize)| parts.len() > 1)
            .collect();
        if images.is_empty() {
            return refuse("holds no images (jpg, png, bmp, webp) in class folders".into());
        }
        images.sort();
        if let Some(pair) = images.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return refuse(format!("holds {} twice", pair[0].0.join("/")));
        }
        let images = without_outer_folders(&images);

        let below = |folders: &[&str]| -> Vec<(&[&str], usize)> {
            let within = |first: &str| folders.contains(&first.to_ascii_lowercase().as_str());
            let inside = images.iter().filter(|(parts, _)| within(parts[0]));
            inside.map(|(parts, source)| (&parts[1..], *source)).collect()
        };
        let (train, test, validation) = (below(&["train"]), below(TEST), below(VALIDATION));
        let (train, test) = if !train.is_empty() {
            if test.is_empty() {
                (train, validation)
            } else {
                let mut joined = [train, validation].concat();
                joined.sort();
                (joined, test)
            }
        } else if test.is_empty() && validation.is_empty() {
            (images, Vec::new())
        } else {
            return refuse("has a test folder but no train folder with images in classes".into());
        };
        if let Some((parts, _)) = train.iter().chain(&test).find(|(parts, _)| parts.len() < 2) {
            return refuse(format!("{} lies in no class folder", parts.join("/")));
        }
        let (test, train) = if test.is_empty() { take_test_images(train) } else { (test, train) };

        let classes: BTreeSet<&str> = train.iter().map(|(parts, _)| parts[0]).collect();
        let classes: Vec<&str> = classes.into_iter().collect();
        if train.is_empty() || test.is_empty() {
            return refuse(format!("{} images are too few to take test images from", names.len()));
        }
        if !(2..=usize::from(u16::MAX)).contains(&classes.len()) {
            return refuse(format!("has {} class folder(s), at least 2 are needed", classes.len()));
        }
        let labelled = |images: Vec<(&[&str], usize)>| -> Result<Vec<Item>, Error> {
            let item = |(parts, source): (&[&str], usize)| match classes.binary_search(&parts[0]) {
                Ok(label) => Ok(Item { source, label: label as u16 }),
                Err(_) => Err(Error::content(
                    path,
                    format!("class {} has test images but no training images", parts[0]),
                    "add some to train, or remove the class",
                )),
            };
            images.into_iter().map(item).collect()
        };
        let (train, test) = (labelled(train)?, labelled(test)?);
        let classes = classes.into_iter().map(str::to_string).collect();
        Ok(Layout { classes, train, test })
    }
}

/// All images, in any folder, as training images without a class.
pub(crate) fn unlabelled(path: &Path, names: &[String]) -> Result<Layout, Error> {
    if names.is_empty() {
        let problem = "holds no images (jpg, png, bmp, webp)".to_owned();
        return Err(Error::content(path, problem, "name the folder or the archive that holds them"));
    }
    let mut sources: Vec<usize> = (0..names.len()).collect();
    sources.sort_by_key(|&source| &names[source]);
    if let Some(pair) = sources.windows(2).find(|pair| names[pair[0]] == names[pair[1]]) {
        return Err(Error::content(path, format!("holds {} twice", names[pair[0]]), "keep one of them"));
    }
    let train = sources.into_iter().map(|source| Item { source, label: 0 }).collect();
    Ok(Layout { classes: Vec::new(), train, test: Vec::new() })
}

/// Removes folders that contain everything, while two components remain and the folder is not `train`.
fn without_outer_folders<'a>(images: &'a [(Vec<&'a str>, usize)]) -> Vec<(&'a [&'a str], usize)> {
    let mut images: Vec<(&[&str], usize)> = images.iter().map(|(parts, source)| (parts.as_slice(), *source)).collect();
    loop {
        let first = images[0].0[0];
        let around = |(parts, _): &(&[&str], usize)| parts[0] == first && parts.len() > 2;
        if first.eq_ignore_ascii_case("train") || !images.iter().all(around) {
            return images;
        }
        for (parts, _) in &mut images {
            *parts = &parts[1..];
        }
    }
}

type Named<'a> = Vec<(&'a [&'a str], usize)>;

/// Test images (one in [`TEST_SHARE`], by the hash of the name) and training images.
fn take_test_images<'a>(images: Named<'a>) -> (Named<'a>, Named<'a>) {
    images.into_iter().partition(|(parts, _)| {
        let hash = Sha256::digest(parts.join("/").as_bytes());
        let number = hash[..8].iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        number.is_multiple_of(TEST_SHARE)
    })
}
