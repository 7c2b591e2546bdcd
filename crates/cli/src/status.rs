//! `status`: how far a run is.

use nettriage_records::Run;

use crate::args;
use crate::fail::Fail;

/// `nettriage status RUN`.
pub fn status(args: &args::Status) -> Result<(), Fail> {
    let run = Run::open(&args.run)?;
    let status = run.status()?;
    if args.json {
        let json = serde_json::to_string_pretty(&status).map_err(|e| Fail::Message(e.to_string()))?;
        println!("{json}");
        return Ok(());
    }
    println!("{}: {} trials and controls", run.plan().name, status.trials);
    println!("parents  {} of {}", status.parents_done, status.parents);
    println!("done     {}", status.done);
    println!("diverged {}", status.diverged);
    println!("failed   {}", status.failed);
    println!("running  {}", status.running);
    println!("left     {}", status.left);
    println!("seconds  {:.1} on trials so far", status.trials_seconds);
    Ok(())
}
