//! What models run on: the processor by this workspace's kernels, or a device of an installed PyTorch. The choice is made once,
//! as a value; nothing that computes with it knows which it is.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use nettriage_engine::Options;
use nettriage_net::Network;
use nettriage_torch::{Installation, Torch};

pub use nettriage_torch::Precision as Arithmetic;

use crate::evaluate::EVALUATION_BATCH;
use crate::{Error, Model};

/// A device as flags name it: `cpu`, `torch:cpu`, `torch:cuda`, `torch:cuda:1`, `torch:mps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor, by this workspace's kernels.
    #[default]
    Cpu,
    /// A device of PyTorch.
    Torch(nettriage_torch::Device),
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<DeviceName, Error> {
        let unknown = || Error::UnknownDevice { name: name.to_owned() };
        match name.split_once(':') {
            None if name == "cpu" => Ok(DeviceName::Cpu),
            Some(("torch", device)) => Ok(DeviceName::Torch(device.parse().map_err(|_| unknown())?)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Torch(device) => write!(f, "torch:{device}"),
        }
    }
}

/// Images in a forward pass of an evaluation on a device of PyTorch, where every operator has a fixed cost.
const DEVICE_EVALUATION_BATCH: usize = 128;

/// A device that models run on. A clone is the same device.
#[derive(Clone, Default)]
pub enum Device {
    /// The processor, by this workspace's kernels.
    #[default]
    Cpu,
    /// A device of PyTorch.
    Torch(Torch),
}

impl Device {
    /// The device of that name, ready for use. PyTorch is looked for in `folder`, else as [`Installation::find`] does.
    ///
    /// Loading PyTorch sets variables of the environment: call this before threads are started.
    ///
    /// # Errors
    /// No PyTorch, one that is too old or incomplete, an absent device, or a precision that the device does not have.
    pub fn open(name: DeviceName, precision: Arithmetic, folder: Option<&Path>) -> Result<Device, Error> {
        match (name, precision) {
            (DeviceName::Cpu, Arithmetic::F32) => Ok(Device::Cpu),
            (DeviceName::Cpu, Arithmetic::Tf32 | Arithmetic::Bf16) => {
                Err(Error::Arithmetic { precision: precision.name() })
            }
            (DeviceName::Torch(device), _) => {
                Ok(Device::Torch(Torch::load(&Installation::find(folder)?, device, precision)?))
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> DeviceName {
        match self {
            Device::Cpu => DeviceName::Cpu,
            Device::Torch(torch) => DeviceName::Torch(torch.device()),
        }
    }

    /// The engine with its precision, such as `torch f32`: part of the ids of all that it computes. None for the processor by this
    /// workspace's kernels.
    pub fn engine(&self) -> Option<String> {
        match self {
            Device::Cpu => None,
            Device::Torch(torch) => Some(format!("torch {}", torch.precision().name())),
        }
    }

    /// PyTorch's version, device, precision and driver, for records. None for the processor by this workspace's kernels.
    pub fn describe(&self) -> Option<String> {
        match self {
            Device::Cpu => None,
            Device::Torch(torch) => Some(torch.describe()),
        }
    }

    /// What decides the last bits of a result, beside the program: the instruction set, or what [`Device::describe`] returns. A
    /// checkpoint is continued where it is the same.
    pub fn arithmetic(&self) -> String {
        self.describe().unwrap_or_else(|| nettriage_engine::instruction_set().to_owned())
    }

    /// Images in a forward pass of an evaluation.
    pub fn evaluation_batch(&self) -> usize {
        match self {
            Device::Cpu => EVALUATION_BATCH,
            Device::Torch(_) => DEVICE_EVALUATION_BATCH,
        }
    }

    /// Builds the model of a network.
    ///
    /// # Errors
    /// The network is invalid, an option is outside its range or names a layer that does not exist, or the model does not fit into
    /// memory.
    pub fn model(&self, network: &Network, options: &Options) -> Result<Model, Error> {
        match self {
            Device::Cpu => Ok(Model::on_processor(nettriage_engine::Model::new(network, options)?)),
            Device::Torch(torch) => Ok(Model::on_torch(nettriage_torch::Model::new(torch, network, options)?)),
        }
    }

    /// Bytes that a model with these options needs; on a device of PyTorch an estimate, see
    /// [`nettriage_torch::Model::memory_needed`].
    ///
    /// # Errors
    /// As [`Device::model`].
    pub fn memory_needed(&self, network: &Network, options: &Options) -> Result<u64, Error> {
        match self {
            Device::Cpu => Ok(nettriage_engine::Model::memory_needed(network, options)?),
            Device::Torch(_) => Ok(nettriage_torch::Model::memory_needed(network, options)?),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            None => write!(f, "{}", self.name()),
            Some(text) => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for name in ["cpu", "torch:cpu", "torch:cuda:0", "torch:cuda:3", "torch:mps"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("torch:cuda".parse::<DeviceName>().unwrap().to_string(), "torch:cuda:0");
        for name in ["", "gpu", "cuda:0", "torch", "torch:", "torch:gpu", "cpu:0"] {
            let error = name.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains("torch:cuda:N") && error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn the_default_is_in_no_id_and_has_one_precision() {
        assert_eq!(Device::default().engine(), None);
        assert_eq!(Device::default().describe(), None);
        assert!(Device::open(DeviceName::Cpu, Arithmetic::F32, None).is_ok());
        let error = Device::open(DeviceName::Cpu, Arithmetic::Bf16, None).unwrap_err().to_string();
        assert!(error.contains("bf16") && error.contains("--device"), "{error}");
    }
}
