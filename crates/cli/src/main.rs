//! The command line of nettriage: which blocks of a convolutional network matter?

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

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use fail::Fail;

fn main() -> ExitCode {
    match dispatch(Args::parse().command) {
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
