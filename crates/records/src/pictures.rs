//! The images that a report may show, as they are in the data set.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// The first validation and test images, so that a report needs no data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pictures {
    /// Version of the file format.
    pub version: u32,
    /// Rows, columns and channels of an image.
    pub shape: [usize; 3],
    /// The first validation images: bytes, row by row, channels last, base64.
    pub validation: String,
    /// The first test images, likewise.
    pub test: String,
    /// The labels of those test images.
    pub labels: Vec<u16>,
}

impl Pictures {
    /// Bytes of images as they stand in the file.
    pub fn encode(bytes: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    /// The validation images' bytes; empty if they are damaged.
    pub fn validation(&self) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(&self.validation).unwrap_or_default()
    }

    /// The test images' bytes; empty if they are damaged.
    pub fn test(&self) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(&self.test).unwrap_or_default()
    }

    /// Bytes of one image.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}
