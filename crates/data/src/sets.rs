//! The known data sets: their files, the folders that are searched, and how they are opened.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::{Dataset, Error, MemoryBudget, cifar, digits, idx};

/// A data set that is known by name.
pub(crate) struct Known {
    pub name: &'static str,
    pub about: &'static str,
    pub format: Format,
    /// Sub-folders in which archives or other programs put the files.
    pub folders: &'static [&'static str],
    /// [`Dataset::checksum`] of the original, computed from files with the published MD5 sums; `None` if we had no such files.
    pub checksum: Option<&'static str>,
    /// The official source.
    pub origin: Option<Origin>,
}

pub(crate) enum Format {
    Embedded,
    Idx { classes: [&'static str; 10] },
    Cifar(cifar::Layout),
}

/// The official web address and files of a set.
pub(crate) struct Origin {
    /// The address of the folder, with a slash at the end.
    pub base: &'static str,
    pub files: &'static [RemoteFile],
}

// Only downloads use the names and sums.
#[cfg_attr(not(feature = "download"), allow(dead_code))]
pub(crate) struct RemoteFile {
    pub name: &'static str,
    /// Length in bytes.
    pub bytes: u64,
    /// MD5 sum as published by the authors of the set, or by torchvision and TensorFlow Datasets.
    pub md5: &'static str,
}

const fn remote(name: &'static str, bytes: u64, md5: &'static str) -> RemoteFile {
    RemoteFile { name, bytes, md5 }
}

pub(crate) static KNOWN: [Known; 5] = [
    Known {
        name: "digits",
        about: "1,797 handwritten digits, 8x8 grey, embedded in the program",
        format: Format::Embedded,
        folders: &[],
        checksum: Some("f3f10d4d84aec39eb28c202e5d95d1259ae0830b78e1bc467869944c3d4677cc"),
        origin: None,
    },
    Known {
        name: "mnist",
        about: "70,000 handwritten digits, 28x28 grey",
        format: Format::Idx { classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] },
        folders: &["", "raw", "MNIST/raw"],
        checksum: Some("a03e427a2cd9777d44e3676ae767219edf9815062a4c61e0798149683855b598"),
        // The authors' page no longer offers the files; this is the mirror that torchvision uses.
        origin: Some(Origin {
            base: "https://ossci-datasets.s3.amazonaws.com/mnist/",
            files: &[
                remote("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                remote("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
                remote("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
                remote("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
            ],
        }),
    },
    Known {
        name: "fashion-mnist",
        about: "70,000 pieces of clothing, 28x28 grey",
        format: Format::Idx {
            classes: [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
        },
        folders: &["", "raw", "FashionMNIST/raw"],
        checksum: Some("be2704e63a43256645400a1cf21a2040ce3cb65f2626b6c7ae0751514e688b3b"),
        origin: Some(Origin {
            base: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            files: &[
                remote("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                remote("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
                remote("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
                remote("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
            ],
        }),
    },
    Known {
        name: "cifar10",
        about: "60,000 photographs in 10 classes, 32x32 colour",
        format: Format::Cifar(cifar::CIFAR10),
        folders: &["", "cifar-10-batches-bin"],
        checksum: Some("57cfb16bc473e5c88ff2e72f04defa552a929210968f24bc59e87d63060bbe03"),
        origin: Some(Origin {
            base: "https://www.cs.toronto.edu/~kriz/",
            files: &[remote("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530")],
        }),
    },
    Known {
        name: "cifar100",
        about: "60,000 photographs in 100 classes, 32x32 colour",
        format: Format::Cifar(cifar::CIFAR100),
        folders: &["", "cifar-100-binary"],
        checksum: None,
        origin: Some(Origin {
            base: "https://www.cs.toronto.edu/~kriz/",
            files: &[remote("cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8")],
        }),
    },
];

/// The classes of CIFAR-10, for a folder without `batches.meta.txt`.
const CIFAR10_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

impl Known {
    /// The set of that name; case and the difference between `_` and `-` are ignored.
    pub(crate) fn named(name: &str) -> Result<&'static Known, Error> {
        let wanted = name.to_lowercase().replace('_', "-");
        let spelt = |known: &&Known| known.name == wanted || known.name.replace('-', "") == wanted.replace('-', "");
        if let Some(known) = KNOWN.iter().find(spelt) {
            return Ok(known);
        }
        let nearest = KNOWN
            .iter()
            .map(|known| (distance(&wanted, known.name), known.name))
            .filter(|&(distance, _)| distance <= 3)
            .min();
        Err(Error::UnknownSet {
            name: name.to_string(),
            nearest: nearest.map(|(_, name)| name.to_string()),
            known: KNOWN.each_ref().map(|known| known.name).join(", "),
        })
    }

    /// The first of `places` and their usual sub-folders that holds files of the set.
    pub(crate) fn locate(&self, places: &[PathBuf]) -> Option<PathBuf> {
        let holds = |folder: &PathBuf| match &self.format {
            Format::Embedded => false,
            Format::Idx { .. } => {
                ["train-images", "t10k-images"].iter().any(|stem| idx::find(folder, stem, 3).is_some())
            }
            Format::Cifar(layout) => layout.files().any(|(file, _)| folder.join(file).is_file()),
        };
        places.iter().flat_map(|place| self.folders.iter().map(|sub| place.join(sub))).find(holds)
    }

    /// Reads the set from the folder that [`Known::locate`] found.
    pub(crate) fn read(&self, folder: &Path) -> Result<Dataset, Error> {
        match &self.format {
            Format::Embedded => digits::open(),
            Format::Idx { classes } => {
                let (shape, train) = idx::read_pair(folder, "train", classes.len())?;
                let (test_shape, test) = idx::read_pair(folder, "t10k", classes.len())?;
                if shape != test_shape {
                    let problem = format!("training images are {shape}, test images {test_shape}");
                    return Err(Error::content(folder, problem, "take all four files from the same set"));
                }
                let classes = classes.iter().map(|class| class.to_string()).collect();
                Ok(Dataset::new(self.name, shape, classes, train, test))
            }
            Format::Cifar(layout) => {
                let (train, test) = cifar::read(folder, layout)?;
                let classes = match cifar::names(folder, layout)? {
                    Some(names) => names,
                    None if layout.classes == 10 => CIFAR10_NAMES.map(str::to_string).to_vec(),
                    None => (0..layout.classes).map(|class| format!("class {class}")).collect(),
                };
                Ok(Dataset::new(self.name, cifar::SHAPE, classes, train, test))
            }
        }
    }
}

/// Opens a known data set: `digits` (embedded), `mnist`, `fashion-mnist`, `cifar10` or `cifar100`.
///
/// If `dir` is given, `<dir>/<name>` and `dir` are searched; else, if `$NETTRIAGE_DATA` is set, `$NETTRIAGE_DATA/<name>`;
/// else `<the user's cache folder>/nettriage/<name>` and `/usr/share/datasets/<name>`. In each of these the files may be in
/// the sub-folder that their archive or torchvision creates.
/// Folders and archives of images are opened by [`crate::open_folder`].
///
/// # Errors
/// An unknown name; a set that was not found; a file that is missing, too short, too long or damaged.
pub fn open(name: &str, dir: Option<&Path>) -> Result<Dataset, Error> {
    open_within(name, dir, &MemoryBudget::default())
}

/// As [`open`]; decoded images that exceed `budget` are moved to a temporary file (while decoding, they are in memory).
///
/// # Errors
/// As [`open`]; and [`Error::Spill`].
pub fn open_within(name: &str, dir: Option<&Path>, budget: &MemoryBudget) -> Result<Dataset, Error> {
    let known = Known::named(name)?;
    if matches!(known.format, Format::Embedded) {
        return digits::open()?.within(budget);
    }
    let places = places(known, dir);
    let folder = known.locate(&places).ok_or_else(|| Error::Missing {
        what: format!("data set '{}'", known.name),
        places: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or "),
        remedy: format!(
            "fetch it with `nettriage data get {}`, or set NETTRIAGE_DATA to the folder above it",
            known.name
        ),
    })?;
    known.read(&folder)?.within(budget)
}

/// The folders that are searched for a set, in order; a download goes to the first.
pub(crate) fn places(known: &Known, dir: Option<&Path>) -> Vec<PathBuf> {
    if let Some(dir) = dir.filter(|dir| !dir.as_os_str().is_empty()) {
        return vec![dir.join(known.name), dir.to_path_buf()];
    }
    if let Some(root) = std::env::var_os("NETTRIAGE_DATA").filter(|root| !root.is_empty()) {
        return vec![Path::new(&root).join(known.name)];
    }
    let cache = etcetera::base_strategy::choose_base_strategy()
        .map(|folders| folders.cache_dir().join("nettriage").join(known.name));
    cache.into_iter().chain([Path::new("/usr/share/datasets").join(known.name)]).collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
