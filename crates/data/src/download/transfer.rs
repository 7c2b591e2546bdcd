//! One file over HTTP: ranges, retries, length and MD5 sum.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use ureq::Agent;

use super::Progress;
use crate::Error;
use crate::dataset::hex;
use crate::sets::RemoteFile;

/// How often a download is taken up again before it is given up.
const TRIES: u32 = 5;
const AGAIN: &str = "run the same command again: it goes on where it stopped";

/// Fetches `base/file` to the folder `target`, unless it is there with the right sum.
pub(super) fn fetch_file(
    base: &str,
    file: &RemoteFile,
    target: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Error> {
    let place = target.join(file.name);
    if place.metadata().is_ok_and(|found| found.len() == file.bytes) && sum(&place)? == file.md5 {
        progress(Progress { file: file.name, done: file.bytes, total: file.bytes });
        return Ok(());
    }
    let address = format!("{}/{}", base.trim_end_matches('/'), file.name);
    let part = target.join(format!("{}.part", file.name));
    let mut options = OpenOptions::new();
    let mut output =
        options.create(true).truncate(false).read(true).write(true).open(&part).map_err(Error::io("create", &part))?;
    let agent = agent(base);

    let mut resumed = false;
    for attempt in 1..=TRIES {
        let mut have = output.seek(SeekFrom::End(0)).map_err(Error::io("read", &part))?;
        if have > file.bytes {
            have = restart(&mut output, &part)?;
        }
        resumed |= have > 0 && attempt == 1;
        let outcome = if have == file.bytes {
            Ok(())
        } else {
            continue_from(&agent, &address, file, have, &mut output, &part, progress)
        };
        match outcome {
            Ok(()) => {
                output.sync_all().map_err(Error::io("write", &part))?;
                let found = sum(&part)?;
                if found == file.md5 {
                    return fs::rename(&part, &place).map_err(Error::io("write", &place));
                }
                restart(&mut output, &part)?;
                // The beginning may be of another download altogether; from scratch there is no such excuse.
                if !std::mem::take(&mut resumed) {
                    return Err(Error::Download {
                        address,
                        problem: format!("its MD5 sum is {found}, expected {}", file.md5),
                        remedy: "the file was damaged on its way or replaced at its source; try again, or another mirror (NETTRIAGE_MIRROR)".into(),
                    });
                }
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) if attempt == TRIES => return Err(error),
            Err(Failure::Passing(_)) => {
                std::thread::sleep(Duration::from_millis(100) * attempt * attempt);
            }
        }
    }
    let problem = format!("did not arrive whole in {TRIES} attempts");
    Err(Error::Download { address, problem, remedy: AGAIN.into() })
}

/// Whether trying again can help.
enum Failure {
    Passing(Error),
    Final(Error),
}

/// Requests what is missing and appends it.
fn continue_from(
    agent: &Agent,
    address: &str,
    file: &RemoteFile,
    mut have: u64,
    output: &mut File,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let refused = |problem: String, remedy: &str| Error::Download {
        address: address.to_string(),
        problem,
        remedy: remedy.to_string(),
    };
    let mut request = agent.get(address);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| {
        let remedy = "check the network connection, or set NETTRIAGE_MIRROR to another address";
        Failure::Passing(refused(error.to_string(), remedy))
    })?;

    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let restarted = |output: &mut File| restart(output, part).map_err(Failure::Final);
    match status {
        206 => {
            // "bytes 100-199/200": the answer must begin where the file ends.
            let wanted = format!("bytes {have}-");
            if !header("content-range").is_some_and(|range| range.starts_with(&wanted)) {
                restarted(output)?;
                let problem = "the server answered with another part than asked for".to_string();
                return Err(Failure::Passing(refused(problem, AGAIN)));
            }
        }
        200 => {
            if have > 0 {
                have = restarted(output)?;
            }
            let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
            if let Some(length) = length.filter(|&length| length != file.bytes) {
                let problem = format!("has {length} bytes there, expected {}", file.bytes);
                let remedy = "this is not the set's own file: try another mirror (NETTRIAGE_MIRROR)";
                return Err(Failure::Final(refused(problem, remedy)));
            }
        }
        416 => {
            restarted(output)?;
            return Err(Failure::Passing(refused("has no such part".into(), AGAIN)));
        }
        408 | 429 | 500.. => {
            let problem = format!("the server is not able to answer now (status {status})");
            return Err(Failure::Passing(refused(problem, "try again later")));
        }
        _ => {
            let problem = format!("the server refuses (status {status})");
            let remedy = "the set may have moved: try another mirror (NETTRIAGE_MIRROR)";
            return Err(Failure::Final(refused(problem, remedy)));
        }
    }

    let full = |cause| Failure::Final(Error::Io { action: "write", path: part.into(), cause });
    output.seek(SeekFrom::Start(have)).map_err(full)?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 << 10];
    let mut told = Instant::now();
    loop {
        progress_now_and_then(&mut told, have, file, progress);
        let got = match body.read(&mut buffer) {
            Ok(got) => got,
            Err(cause) => {
                let problem = format!("broke off after {have} of {} bytes ({cause})", file.bytes);
                return Err(Failure::Passing(refused(problem, AGAIN)));
            }
        };
        if got == 0 {
            break;
        }
        have += got as u64;
        if have > file.bytes {
            restarted(output)?;
            let problem = format!("is longer than the expected {} bytes", file.bytes);
            let remedy = "this is not the set's own file: try another mirror (NETTRIAGE_MIRROR)";
            return Err(Failure::Final(refused(problem, remedy)));
        }
        output.write_all(&buffer[..got]).map_err(full)?;
    }
    progress(Progress { file: file.name, done: have, total: file.bytes });
    if have < file.bytes {
        let problem = format!("broke off after {have} of {} bytes", file.bytes);
        return Err(Failure::Passing(refused(problem, AGAIN)));
    }
    Ok(())
}

fn progress_now_and_then(told: &mut Instant, done: u64, file: &RemoteFile, progress: &mut dyn FnMut(Progress)) {
    if told.elapsed() >= Duration::from_millis(200) {
        *told = Instant::now();
        progress(Progress { file: file.name, done, total: file.bytes });
    }
}

/// Empties the file; nothing is there any more.
fn restart(output: &mut File, part: &Path) -> Result<u64, Error> {
    output.set_len(0).map_err(Error::io("write", part))?;
    Ok(0)
}

/// The MD5 sum of a file, in hexadecimal. It guards against accidents; the sets' authors publish no better one.
fn sum(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hex(&hash.finalize())),
            got => hash.update(&buffer[..got]),
        }
    }
}

/// Patient with slow connections, impatient with dead ones.
fn agent(base: &str) -> Agent {
    let patience = Some(Duration::from_secs(60));
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(patience)
        .timeout_per_read(patience)
        .user_agent(concat!("nettriage/", env!("CARGO_PKG_VERSION")));
    let host = base.split("//").nth(1).unwrap_or_default();
    if host.starts_with("127.0.0.1") || host.starts_with("localhost") {
        config = config.proxy(None);
    }
    config.build().into()
}
