//! What trials run on.

use nettriage_records::record::Machine;
use nettriage_train::Device;

/// This machine, as the system describes it, and the device that models run on.
pub fn machine(device: &Device) -> Machine {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = described.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        processor: processor.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instructions: nettriage_engine::instruction_set().to_owned(),
        system: std::env::consts::OS.to_owned(),
        device: device.describe(),
        program: concat!("nettriage ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}
