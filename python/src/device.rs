//! Devices.

use std::path::PathBuf;

use nettriage::Device;
use pyo3::prelude::*;

use crate::error::raise;

/// A device as Python names it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct DeviceOptions {
    device: String,
    precision: String,
    torch: Option<PathBuf>,
}

impl DeviceOptions {
    /// The device, ready for use.
    pub fn open(&self) -> PyResult<Device> {
        let name = self.device.parse().map_err(raise)?;
        let precision = self.precision.parse().map_err(raise)?;
        Device::open(name, precision, self.torch.as_deref()).map_err(raise)
    }
}
