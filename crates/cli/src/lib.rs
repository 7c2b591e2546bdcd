//! The command line of nettriage, as a function that programs can call: [`main`].

mod args;
mod data;
mod evaluate;
mod export;
mod fail;
mod inspect;
mod interrupt;
mod memory;
mod model;
mod prescribe;
mod progress;
mod report;
mod run;
mod scan;
mod serve;
mod status;
mod subject;
mod trial;
mod upkeep;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use fail::Fail;

/// Runs the command that `arguments` name, the program's name first, as the `nettriage` program does.
///
/// A problem is printed to standard error in one line, with exit code 2.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match dispatch(Args::parse_from(arguments).command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) if fail.is_closed_pipe() => ExitCode::SUCCESS,
        Err(fail) => {
            eprintln!("error: {fail}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<(), Fail> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Train(args) => run::train(&args),
        Command::Trial(args) => trial::trial(&args),
        Command::Status(args) => status::status(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Retry(args) => upkeep::retry(&args),
        Command::Gc(args) => upkeep::gc(&args),
        Command::Merge(args) => upkeep::merge(&args),
        Command::Report(args) => report::report(&args),
        Command::Scan(args) => scan::scan(&args),
        Command::Prescribe(args) => prescribe::prescribe(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Evaluate(args) => evaluate::evaluate(&args),
        Command::Export(args) => export::export(&args),
        Command::Data(args) => data::data(&args),
    }
}
