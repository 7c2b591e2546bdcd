//! A data set: images as bytes, with labels.

use std::path::PathBuf;

use nettriage::data;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::raise;

/// Training and test images with their labels.
#[pyclass(frozen, module = "nettriage._nettriage")]
pub struct Dataset {
    pub data: nettriage::Dataset,
    pub labelled: bool,
}

/// Name, shape of an image, classes, pixels and labels of both parts, and whether labels may be used.
type Packed<'py> =
    (String, [usize; 3], Vec<String>, Bound<'py, PyBytes>, Vec<u16>, Bound<'py, PyBytes>, Vec<u16>, bool);

#[pymethods]
impl Dataset {
    /// A known set, such as `cifar10`, from the folder that holds its files.
    #[staticmethod]
    #[pyo3(signature = (name, directory=None))]
    fn open(py: Python<'_>, name: &str, directory: Option<PathBuf>) -> PyResult<Dataset> {
        let data = py.detach(|| data::open(name, directory.as_deref())).map_err(raise)?;
        Ok(Dataset { data, labelled: true })
    }

    /// A folder or archive of images: `train/<class>/…` and `val/<class>/…`.
    #[staticmethod]
    #[pyo3(signature = (path, height, width, resize=None, skip_bad=false))]
    fn folder(
        py: Python<'_>,
        path: PathBuf,
        height: usize,
        width: usize,
        resize: Option<usize>,
        skip_bad: bool,
    ) -> PyResult<Dataset> {
        let size = data::ImageSize { height, width };
        let options = data::FolderOptions { resize, skip_bad, ..data::FolderOptions::new(size) };
        let data = py.detach(|| data::open_folder_with(&path, &options)).map_err(raise)?;
        Ok(Dataset { data, labelled: true })
    }

    /// Arrays: images as bytes N x H x W x C, and N labels.
    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "arrays of two sets, and what they mean")]
    fn from_arrays(
        py: Python<'_>,
        name: &str,
        shape: [usize; 3],
        classes: Vec<String>,
        train: &[u8],
        train_labels: Vec<u16>,
        test: &[u8],
        test_labels: Vec<u16>,
        labelled: bool,
    ) -> PyResult<Dataset> {
        let [channels, height, width] = shape;
        let shape = data::Shape { channels, height, width };
        let data = py.detach(|| {
            let (train, test) = ((train.to_vec(), train_labels), (test.to_vec(), test_labels));
            data::Dataset::from_arrays(name, shape, classes, train, test)
        });
        Ok(Dataset { data: data.map_err(raise)?, labelled })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.data.name
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.data.classes.clone()
    }

    /// (C, H, W) of an image.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        (self.data.channels, self.data.height, self.data.width)
    }

    /// Numbers of training and of test images.
    #[getter]
    fn counts(&self) -> (usize, usize) {
        (self.data.train.len(), self.data.test.len())
    }

    #[getter]
    fn checksum(&self) -> &str {
        &self.data.checksum
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.data.notes.clone()
    }

    /// The arguments of [`Dataset::from_arrays`], for another process.
    fn packed<'py>(&self, py: Python<'py>) -> PyResult<Packed<'py>> {
        let (train, test) = self.counts();
        let shape = [self.data.channels, self.data.height, self.data.width];
        let (train, train_labels) = self.images(py, false, 0, train)?;
        let (test, test_labels) = self.images(py, true, 0, test)?;
        let (name, classes) = (self.data.name.clone(), self.data.classes.clone());
        Ok((name, shape, classes, train, train_labels, test, test_labels, self.labelled))
    }

    /// Images `start..end` as bytes n x H x W x C, and their labels.
    fn images<'py>(
        &self,
        py: Python<'py>,
        test: bool,
        start: usize,
        end: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, Vec<u16>)> {
        let images = if test { &self.data.test } else { &self.data.train };
        let labels = images
            .labels
            .get(start..end)
            .ok_or_else(|| raise(format!("images {start}..{end}: the set has {}", images.len())))?;
        let mut bytes = Vec::new();
        let mut buffer = Vec::new();
        (start..end).for_each(|index| bytes.extend_from_slice(images.read(index, &mut buffer)));
        Ok((PyBytes::new(py, &bytes), labels.to_vec()))
    }
}
