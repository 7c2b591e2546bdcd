//! The device that models run on: its name, its precision, and PyTorch loaded for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::abi::{Element, Format, Library, Place, PlaceKind, Tensor, Type, set_environment};
use crate::{Error, Installation, Result};

/// A device of PyTorch, as PyTorch names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU of this number, by CUDA or ROCm.
    Cuda(u16),
    /// The GPU of an Apple computer.
    Mps,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Device> {
        let unknown = || Error::UnknownDevice { name: name.to_owned() };
        match name.split_once(':') {
            None if name == "cpu" => Ok(Device::Cpu),
            None if name == "cuda" => Ok(Device::Cuda(0)),
            None if name == "mps" => Ok(Device::Mps),
            Some(("cuda", number)) => Ok(Device::Cuda(number.parse().map_err(|_| unknown())?)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            Device::Mps => f.write_str("mps"),
        }
    }
}

/// The precision of convolutions and matrix products. Weights, their gradients and the optimiser's state are f32 in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 single precision throughout.
    #[default]
    F32,
    /// Factors rounded to 10 bits of mantissa, on GPUs that have it.
    Tf32,
    /// Inputs and results in bfloat16.
    Bf16,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Precision> {
        let all = [Precision::F32, Precision::Tf32, Precision::Bf16];
        let known = all.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| Error::UnknownPrecision { name: name.to_owned() })
    }
}

impl Precision {
    /// Its name in flags and study files.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// PyTorch, loaded for one device and precision. A clone refers to the same.
#[derive(Clone)]
pub struct Torch {
    library: Arc<Library>,
    installation: Arc<Installation>,
    device: Device,
    place: Place,
    host: Place,
    precision: Precision,
}

/// The largest feature map, in positions, on which the processor's convolutions are faster with channels first (measured with
/// 512 filters on one thread: 41 ms instead of 102 at 4 positions, 111 instead of 170 at 16, but 106 instead of 100 at 64).
const FEW_POSITIONS: usize = 16;

impl Torch {
    /// Loads PyTorch's libraries, and checks that the device can be used.
    ///
    /// Loads libraries into the process and sets variables of its environment: call it before threads are started.
    ///
    /// # Errors
    /// A library that cannot be loaded; a device that is absent; a precision that it does not have.
    pub fn load(installation: &Installation, device: Device, precision: Precision) -> Result<Torch> {
        let cuda = matches!(device, Device::Cuda(_));
        if cuda {
            // By default, PyTorch lets cuDNN use TF32, but not cuBLAS.
            match precision {
                Precision::F32 => set_environment("NVIDIA_TF32_OVERRIDE", "0"),
                Precision::Tf32 | Precision::Bf16 => set_environment("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
            }
        } else if precision == Precision::Tf32 {
            return Err(Error::Precision { device: device.to_string(), precision: precision.name() });
        }
        let library = Arc::new(Library::load(&installation.folder.join("lib"), cuda)?);
        let host = library.place(PlaceKind::Cpu, 0);
        let place = match device {
            Device::Cpu => host,
            Device::Cuda(number) => library.place(PlaceKind::Cuda, i32::from(number)),
            Device::Mps => library.place(PlaceKind::Mps, 0),
        };
        let torch = Torch { library, installation: Arc::new(installation.clone()), device, place, host, precision };
        let check = || torch.full(&[1], 1.0)?.item();
        match check() {
            Ok(1.0) => Ok(torch),
            Ok(other) => Err(torch.unusable(format!("it computes {other} instead of 1"))),
            Err(Error::Failed { problem, .. } | Error::Memory { problem, .. }) => Err(torch.unusable(problem)),
            Err(error) => Err(error),
        }
    }

    fn unusable(&self, problem: String) -> Error {
        // Of a missing backend PyTorch says that in its first sentence, and lists all others in the next.
        let first = problem.split_once(". ").map_or(problem.as_str(), |(first, _)| first);
        Error::Device { device: self.device.to_string(), problem: first.trim_end_matches('.').to_owned() }
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The installation that was loaded.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// PyTorch's version, the device, the precision and, where it is known, the device's driver, for records.
    pub fn describe(&self) -> String {
        let mut text = format!("PyTorch {}, {}, {}", self.installation.version, self.device, self.precision.name());
        if let (Device::Cuda(_), Some(driver)) = (self.device, nvidia_driver()) {
            text += &format!(", NVIDIA driver {driver}");
        }
        text
    }

    /// Prepares the calling thread for operators on `threads` threads.
    pub(crate) fn enter(&self, threads: usize) {
        self.library.enter(threads);
    }

    /// The number of threads that operators called by this thread use.
    pub fn threads(&self) -> usize {
        self.library.threads()
    }

    /// Whether convolutions compute in bfloat16.
    pub(crate) fn mixed(&self) -> bool {
        self.precision == Precision::Bf16
    }

    /// The faster order of elements for a convolution whose larger side has `positions` positions.
    pub(crate) fn format(&self, positions: usize) -> Format {
        let channels_last = match (self.device, self.precision) {
            (Device::Cpu, _) => positions > FEW_POSITIONS,
            // PyTorch's advice: channels last for tensor cores, channels first for others.
            (Device::Cuda(_), precision) => precision != Precision::F32,
            (Device::Mps, _) => false,
        };
        if channels_last { Format::ChannelsLast } else { Format::Contiguous }
    }

    /// A tensor of f32 on the device, filled with `value`.
    pub(crate) fn full(&self, sizes: &[i64], value: f64) -> Result<Tensor> {
        self.library.full(sizes, value, Type::Float32, self.place)
    }

    /// A number as a tensor without dimensions. It lies in the host's memory, from where kernels take it as an argument.
    pub(crate) fn scalar(&self, value: f64) -> Result<Tensor> {
        self.library.full(&[], value, Type::Float32, self.host)
    }

    /// The same for integers.
    pub(crate) fn integer(&self, value: i64) -> Result<Tensor> {
        self.library.upload(&[value], &[], &[], self.host)
    }

    /// `count` integers on the device, each `value`.
    pub(crate) fn whole_numbers(&self, count: usize, value: i64) -> Result<Tensor> {
        let all = self.library.full(&[count as i64], 0.0, Type::Int64, self.place)?;
        all.copy_from(&self.integer(value)?)?;
        Ok(all)
    }

    /// A tensor on the device with the elements of `data`, in row-major order.
    pub(crate) fn upload<E: Element>(&self, data: &[E], sizes: &[usize]) -> Result<Tensor> {
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        self.library.upload(data, &sizes, &row_major(&sizes), self.place)
    }

    /// A batch of images (N, H, W, C) as a tensor N x C x H x W on the device.
    pub(crate) fn upload_batch(&self, data: &[f32], [n, c, h, w]: [usize; 4]) -> Result<Tensor> {
        let sizes = [n, c, h, w].map(|size| size as i64);
        self.library.upload(data, &sizes, &channels_last(sizes), self.place)
    }

    /// Copies a tensor N x C x H x W to `out`, (N, H, W, C).
    pub(crate) fn download_batch(tensor: &Tensor, [n, c, h, w]: [usize; 4], out: &mut Vec<f32>) -> Result<()> {
        let sizes = [n, c, h, w].map(|size| size as i64);
        out.resize(n * c * h * w, 0.0);
        tensor.download(out, &sizes, &channels_last(sizes))
    }

    /// Images (N, H, W, C) of `shape` = [C, H, W] as a tensor N x C x H x W on the device.
    ///
    /// # Errors
    /// Too little memory.
    ///
    /// # Panics
    /// If `data` is not a whole number of images.
    pub fn upload_images(&self, data: &[f32], shape: [usize; 3]) -> Result<Tensor> {
        let n = data.len() / shape.iter().product::<usize>();
        self.upload_batch(data, [n, shape[0], shape[1], shape[2]])
    }

    /// Copies a tensor N x C x H x W of images of `shape` = [C, H, W] to `out`, (N, H, W, C).
    ///
    /// # Errors
    /// The device fails.
    pub fn download_images(tensor: &Tensor, shape: [usize; 3], out: &mut Vec<f32>) -> Result<()> {
        let n = tensor.elements() / shape.iter().product::<usize>();
        Torch::download_batch(tensor, [n, shape[0], shape[1], shape[2]], out)
    }

    /// Labels as a tensor on the device.
    ///
    /// # Errors
    /// Too little memory.
    pub fn labels(&self, labels: &[u16]) -> Result<Tensor> {
        let labels: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
        self.upload(&labels, &[labels.len()])
    }
}

/// The sizes N x C x H x W of `n` images of `shape` = [C, H, W].
pub(crate) fn batch_sizes(n: usize, shape: [usize; 3]) -> [i64; 4] {
    [n, shape[0], shape[1], shape[2]].map(|size| size as i64)
}

/// The strides of a row-major tensor.
pub(crate) fn row_major(sizes: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; sizes.len()];
    for axis in (0..sizes.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * sizes[axis + 1];
    }
    strides
}

/// The strides of N x C x H x W whose elements lie in the order N x H x W x C.
pub(crate) fn channels_last([_, c, h, w]: [i64; 4]) -> [i64; 4] {
    [h * w * c, 1, w * c, c]
}

/// The version of NVIDIA's driver, where the system tells it.
fn nvidia_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.split_whitespace().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for (name, device) in
            [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3)), ("mps", Device::Mps)]
        {
            assert_eq!(name.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            let error = name.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn strides() {
        assert_eq!(row_major(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(row_major(&[]), [] as [i64; 0]);
        assert_eq!(channels_last([2, 3, 4, 5]), [60, 1, 15, 3]);
    }
}
