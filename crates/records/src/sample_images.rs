//! Sample images for reports, as decoded from the data set.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The first validation and test images, so that a report can show them without the data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleImages {
    /// Version of the file format.
    pub version: u32,
    /// Shape of one image, [H, W, C].
    pub shape: [usize; 3],
    /// The first validation images: N x H x W x C bytes, base64.
    pub validation: String,
    /// The first test images, likewise.
    pub test: String,
    /// The labels of all test images that trials are evaluated on, in order; the images may be fewer.
    pub labels: Vec<u16>,
}

impl SampleImages {
    /// Encodes the bytes of images for the file.
    pub fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    /// The bytes of the validation images, N x H x W x C; empty if the base64 is damaged.
    pub fn validation(&self) -> Vec<u8> {
        STANDARD.decode(&self.validation).unwrap_or_default()
    }

    /// The bytes of the test images, N x H x W x C; empty if the base64 is damaged.
    pub fn test(&self) -> Vec<u8> {
        STANDARD.decode(&self.test).unwrap_or_default()
    }

    /// Bytes of one image, H x W x C.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}
