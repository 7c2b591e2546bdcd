//! The `nettriage` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(nettriage_cli::main(std::env::args_os()))
}
