//! The `nettriage` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    nettriage_cli::main(std::env::args_os())
}
