//! Several processes, and a full disk. The tests start this test program again as another process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nettriage_records::plan::*;
use nettriage_records::{Error, Run};

fn plan(study: String) -> Plan {
    let data = DataSummary {
        name: "digits".into(),
        checksum: "0".into(),
        classes: vec![],
        shape: [1, 8, 8],
        mean: vec![0.5],
        std: vec![0.25],
        train: 1,
        validation: 1,
        test: 1,
    };
    let trial = TrialSpec {
        id: "one".into(),
        role: Role::Parent,
        parent: "p".into(),
        block: None,
        substitute: None,
        init: None,
        scheme: "none".into(),
        budget: None,
        seed: 0,
    };
    Plan {
        engine: None,
        version: VERSION,
        name: "tiny".into(),
        study,
        data,
        budgets: vec![BudgetSummary { name: "20 images".into(), images: 20 }],
        layers: vec![],
        blocks: vec![],
        schemes: vec![],
        parents: vec![],
        trials: vec![trial],
        margin: 0.01,
        metric: None,
        range_tests: vec![],
    }
}

/// This test program as another process that runs one test.
fn other(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("RECORDS_TEST_FOLDER", folder);
    command
}

fn folder_of_other() -> Option<std::path::PathBuf> {
    std::env::var_os("RECORDS_TEST_FOLDER").map(Into::into)
}

fn spawn_holder(folder: &Path) -> Child {
    let mut child = other("holds", folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("held")));
    child
}

/// The other process of a test below: takes the lock and a marker, and holds them until its input ends.
#[test]
fn holds() {
    let Some(folder) = folder_of_other() else {
        return;
    };
    let run = Run::open(&folder).unwrap();
    let _lock = run.lock().unwrap();
    let _marker = run.begin("one").unwrap();
    println!("\nheld");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_lock_excludes_other_processes_and_is_released_by_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::create(folder.path(), &plan("a".into())).unwrap();
    let mut holder = spawn_holder(folder.path());
    let error = run.lock().unwrap_err();
    assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == holder.id()), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {}", holder.id())));
    let status = run.status().unwrap();
    assert_eq!((status.running, status.left, status.runner), (1, 0, Some(holder.id())));
    // SIGKILL: no destructor runs.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let status = run.status().unwrap();
    assert_eq!((status.running, status.left, status.runner), (0, 1, None));
    let lock = run.lock().unwrap();
    // The same process cannot take it twice.
    assert!(matches!(run.lock(), Err(Error::Locked { pid: Some(pid), .. }) if pid == std::process::id()));
    drop(lock);
    run.lock().unwrap();
}

/// The other process of a test below: fills a file system of 64 KiB that was mounted for it.
#[test]
fn fills() {
    let Some(folder) = folder_of_other() else {
        return;
    };
    let error = Run::create(&folder, &plan("#".repeat(1 << 20))).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(error.to_string().contains("no space left"));
    assert!(!folder.join("plan.json").exists());
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().filter(|e| e.path().is_file()).collect();
    assert!(left.is_empty(), "{left:?}");
    // With enough space the same call succeeds.
    Run::create(&folder, &plan("#".repeat(1 << 10))).unwrap();
    println!("\nfilled");
}

#[test]
fn a_full_disk_is_one_error_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let inner = other("fills", folder.path());
    let script = "mount -t tmpfs -o size=64k tmpfs \"$RECORDS_TEST_FOLDER\" || exit 77; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env("RECORDS_TEST_FOLDER", folder.path());
    match command.output() {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("filled"));
        }
        Ok(output) if matches!(output.status.code(), Some(77 | 1)) && !output.stdout.starts_with(b"\nrunning") => {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no small file system can be mounted here: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) => drop(writeln!(std::io::stderr(), "SKIPPED: no `unshare` here: {error}")),
    }
}
