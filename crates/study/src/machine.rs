//! What trials run on.

use nettriage_records::record::Machine;

/// This machine, as the system describes it.
pub fn machine() -> Machine {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = described.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        processor: processor.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instructions: nettriage_engine::instruction_set().to_owned(),
        system: std::env::consts::OS.to_owned(),
        program: concat!("nettriage ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}
