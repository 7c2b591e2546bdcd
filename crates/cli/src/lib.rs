//! The command line of nettriage, as a function that programs can call: [`main`].

mod args;
mod data;
mod documentation;
mod evaluate;
mod export;
mod fail;
mod init;
mod inspect;
mod interrupt;
mod memory;
mod model;
mod output;
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

use args::{Args, Command};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use fail::Fail;

/// Runs the command that `arguments` name, the program's name first, as the `nettriage` program does.
///
/// A problem is printed to standard error in one line. Exit code 2 means that the command could not do what was requested,
/// 1 that trials of a study failed, 130 that a signal stopped it.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    output::ignore_size_signal();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => return refused(&error, &arguments),
    };
    match dispatch(args.command) {
        Ok(()) | Err(Fail::ClosedPipe) => 0,
        Err(fail) => {
            match &fail {
                Fail::Stopped(message) => eprintln!("stopped: {message}"),
                fail => eprintln!("error: {fail}"),
            }
            fail.exit_code()
        }
    }
}

/// Help and version as they are; a wrong command line in one line that names the help.
fn refused(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if !error.use_stderr() {
        // If this fails, standard output is closed.
        let _ = error.print();
        return 0;
    }
    let commands = Args::command();
    let command = arguments.iter().skip(1).find_map(|word| commands.find_subcommand(word.to_str()?));
    let help = command.map_or("nettriage --help".to_owned(), |c| format!("nettriage {} --help", c.get_name()));
    let problem = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "error: name a command".to_owned(),
        _ => one_line(&error.to_string()),
    };
    eprintln!("{problem}; see `{help}`");
    2
}

/// clap's message without its usage.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let lines: Vec<&str> = lines.map(|line| line.trim_end_matches('.')).collect();
    lines.join(" ").replace(" tip: ", "; ").replace(" [possible values: ", " [known: ")
}

fn dispatch(command: Command) -> Result<(), Fail> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Train(args) => run::train(&args),
        Command::Init(args) => init::init(&args),
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
        Command::Completions(args) => documentation::completions(&args),
        Command::Man(args) => documentation::man(&args),
    }
}
