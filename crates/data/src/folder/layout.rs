//! Assignment of image files to classes, training set and test set by their names.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Error;
use crate::error::one_line;

/// One image: its index in the list of names, and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub source: usize,
    pub label: u16,
}

/// Images in the order of their classes and names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// In alphabetical order, or in numeric order if all are integers.
    pub classes: Vec<String>,
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    /// What a user should know of the layout, one line each.
    pub notes: Vec<String>,
}

/// Without test images, one image of this many becomes a test image.
const TEST_SHARE: u64 = 5;

const TEST: &[&str] = &["test"];
const VALIDATION: &[&str] = &["val", "valid", "validation"];
const REMEDY: &str = "arrange it as train/<class>/<image>, test/<class>/<image>";

/// Whether a file is an image, by its extension. Hidden files, and those that macOS adds to archives, are not.
pub(crate) fn is_image(name: &str) -> bool {
    has_extension(name, &["jpg", "jpeg", "jfif", "png", "bmp", "webp", "ppm", "pgm", "pbm", "pnm"])
}

/// Whether a file is an image in a format that is not read, by its extension.
pub(crate) fn is_other_image(name: &str) -> bool {
    has_extension(name, &["tif", "tiff", "gif", "heic", "heif", "avif", "jp2", "jxl", "tga", "dng"])
}

fn has_extension(name: &str, known: &[&str]) -> bool {
    let hidden = |part: &str| part.starts_with('.') || part == "__MACOSX";
    let Some((_, ending)) = name.rsplit_once('.') else {
        return false;
    };
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
            return refuse("holds no images (jpg, png, bmp, webp, pnm) in class folders".into());
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
        let mut classes: Vec<&str> = classes.into_iter().collect();
        let mut notes: Vec<String> = sort_numbers(&mut classes).into_iter().collect();
        if train.is_empty() || test.is_empty() {
            return refuse(format!("{} images are too few to take test images from", names.len()));
        }
        if classes.len() < 2 {
            return refuse(format!("has {} class folder(s), at least 2 are needed", classes.len()));
        }
        if classes.len() > usize::from(u16::MAX) {
            let problem = format!("has {} class folders, more than {}", classes.len(), u16::MAX);
            return Err(Error::content(path, problem, "choose fewer classes"));
        }
        let places: HashMap<&str, u16> =
            classes.iter().enumerate().map(|(label, &class)| (class, label as u16)).collect();
        let labelled = |images: Vec<(&[&str], usize)>| -> Result<Vec<Item>, Error> {
            let item = |(parts, source): (&[&str], usize)| match places.get(parts[0]) {
                Some(&label) => Ok(Item { source, label }),
                None => Err(Error::content(
                    path,
                    format!("class {} has test images but no training images", parts[0]),
                    "add some to train, or remove the class",
                )),
            };
            let mut items = images.into_iter().map(item).collect::<Result<Vec<_>, _>>()?;
            items.sort_by_key(|item| item.label);
            Ok(items)
        };
        let (train, test) = (labelled(train)?, labelled(test)?);
        let tested: BTreeSet<u16> = test.iter().map(|item| item.label).collect();
        let untested: Vec<&str> =
            (0..).zip(&classes).filter(|(label, _)| !tested.contains(label)).map(|(_, &class)| class).collect();
        if !untested.is_empty() {
            let (count, all) = (untested.len(), classes.len());
            notes.push(format!("{count} of {all} classes have no test images: {}", some(&untested)));
        }
        let classes = classes.into_iter().map(str::to_string).collect();
        Ok(Layout { classes, train, test, notes })
    }
}

/// Sorts class names that are all integers by their values; a note if that differs from the alphabetical order.
fn sort_numbers(classes: &mut [&str]) -> Option<String> {
    let number =
        |class: &str| class.bytes().all(|byte| byte.is_ascii_digit()).then(|| class.parse::<u64>().ok()).flatten();
    if !classes.iter().all(|class| number(class).is_some()) {
        return None;
    }
    let alphabetical = classes.to_vec();
    classes.sort_by_key(|class| number(class));
    let differs = classes != alphabetical;
    differs.then(|| {
        format!(
            "class folders are integers and are in numeric order: {}; torchvision's ImageFolder orders them as text ({}): \
             for a network trained with it, name its outputs in that order with `classes` in <network>.toml",
            some(classes),
            some(&alphabetical)
        )
    })
}

/// Names for a message: at most five.
pub(crate) fn some<S: AsRef<str>>(names: &[S]) -> String {
    let first: Vec<&str> = names.iter().take(5).map(AsRef::as_ref).collect();
    one_line(&format!("{}{}", first.join(", "), if names.len() > 5 { ", …" } else { "" }))
}

/// All images, in any folder, as training images without a class.
pub(crate) fn unlabelled(path: &Path, names: &[String]) -> Result<Layout, Error> {
    if names.is_empty() {
        let problem = "holds no images (jpg, png, bmp, webp, pnm)".to_owned();
        return Err(Error::content(path, problem, "name the folder or the archive that holds them"));
    }
    let mut sources: Vec<usize> = (0..names.len()).collect();
    sources.sort_by_key(|&source| &names[source]);
    if let Some(pair) = sources.windows(2).find(|pair| names[pair[0]] == names[pair[1]]) {
        return Err(Error::content(path, format!("holds {} twice", names[pair[0]]), "keep one of them"));
    }
    let train = sources.into_iter().map(|source| Item { source, label: 0 }).collect();
    Ok(Layout { classes: Vec::new(), train, test: Vec::new(), notes: Vec::new() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_classes_are_an_error_of_their_own() {
        let names: Vec<String> =
            (0..70_000).flat_map(|i| ["train", "test"].map(|part| format!("{part}/c{i}/1.png"))).collect();
        let error = Layout::of(Path::new("set"), &names).unwrap_err().to_string();
        assert!(error.contains("has 70000 class folders, more than 65535; choose fewer classes"), "{error}");
        assert_eq!(Layout::of(Path::new("set"), &names[..2 * 65_535]).unwrap().classes.len(), 65_535);
    }
}
