//! `completions` and `man`: the description of commands and flags in the forms of shells and manuals.

use clap::CommandFactory;

use crate::args::{self, Args};
use crate::fail::Fail;

/// `nettriage completions SHELL`.
pub fn completions(args: &args::Completions) -> Result<(), Fail> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "nettriage", &mut script);
    Ok(std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?)
}

/// `nettriage man DIR`.
pub fn man(args: &args::Man) -> Result<(), Fail> {
    std::fs::create_dir_all(&args.dir).map_err(|error| Fail::file(&args.dir, error))?;
    clap_mangen::generate_to(Args::command(), &args.dir).map_err(|error| Fail::file(&args.dir, error))?;
    println!("manual pages: {}", args.dir.display());
    Ok(())
}
