//! Download of one file over HTTP: ranges, retries, length and MD5 sum.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use ureq::Agent;

use super::DownloadProgress;
use crate::Error;
use crate::dataset::hex;
use crate::sets::RemoteFile;

/// Attempts before a download fails.
const TRIES: u32 = 5;
const AGAIN: &str = "run the same command again: it resumes the download";

/// Downloads `base/file` to the folder `target`, unless it is there with the right sum.
pub(super) fn fetch_file(
    base: &str,
    file: &RemoteFile,
    target: &Path,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<(), Error> {
    let place = target.join(file.name);
    if place.metadata().is_ok_and(|found| found.len() == file.bytes) && sum(&place)? == file.md5 {
        progress(DownloadProgress { file: file.name, done: file.bytes, total: file.bytes });
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
            resume_from(&agent, &address, file, have, &mut output, &part, progress)
        };
        match outcome {
            Ok(()) => {
                output.sync_all().map_err(Error::io("write", &part))?;
                let found = sum(&part)?;
                if found == file.md5 {
                    return fs::rename(&part, &place).map_err(Error::io("write", &place));
                }
                restart(&mut output, &part)?;
                // The resumed part may have been of another file: try again from the beginning.
                if !std::mem::take(&mut resumed) {
                    return Err(Error::Download {
                        address,
                        problem: format!("its MD5 sum is {found}, expected {}", file.md5),
                        remedy: "the file was damaged in transit or replaced at its source; try again, or use another mirror (NETTRIAGE_MIRROR)".into(),
                    });
                }
            }
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Transient(error)) if attempt == TRIES => return Err(error),
            Err(Failure::Transient(_)) => {
                std::thread::sleep(Duration::from_millis(100) * attempt * attempt);
            }
        }
    }
    let problem = format!("is incomplete after {TRIES} attempts");
    Err(Error::Download { address, problem, remedy: AGAIN.into() })
}

/// Whether another attempt may succeed.
enum Failure {
    Transient(Error),
    Permanent(Error),
}

/// Requests the missing bytes and appends them.
fn resume_from(
    agent: &Agent,
    address: &str,
    file: &RemoteFile,
    mut have: u64,
    output: &mut File,
    part: &Path,
    progress: &mut dyn FnMut(DownloadProgress),
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
        Failure::Transient(refused(error.to_string(), remedy))
    })?;

    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let restarted = |output: &mut File| restart(output, part).map_err(Failure::Permanent);
    match status {
        206 => {
            // "bytes 100-199/200": the response must begin where the file ends.
            let wanted = format!("bytes {have}-");
            if !header("content-range").is_some_and(|range| range.starts_with(&wanted)) {
                restarted(output)?;
                let problem = "the server sent another range than requested".to_string();
                return Err(Failure::Transient(refused(problem, AGAIN)));
            }
        }
        200 => {
            if have > 0 {
                have = restarted(output)?;
            }
            let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
            if let Some(length) = length.filter(|&length| length != file.bytes) {
                let problem = format!("has {length} bytes there, expected {}", file.bytes);
                let remedy = "this is not the original file: try another mirror (NETTRIAGE_MIRROR)";
                return Err(Failure::Permanent(refused(problem, remedy)));
            }
        }
        416 => {
            restarted(output)?;
            return Err(Failure::Transient(refused("has no such range".into(), AGAIN)));
        }
        408 | 429 | 500.. => {
            let problem = format!("the server is not available now (status {status})");
            return Err(Failure::Transient(refused(problem, "try again later")));
        }
        _ => {
            let problem = format!("the server refuses (status {status})");
            let remedy = "the set may have moved: try another mirror (NETTRIAGE_MIRROR)";
            return Err(Failure::Permanent(refused(problem, remedy)));
        }
    }

    let full = |cause| Failure::Permanent(Error::Io { action: "write", path: part.into(), cause });
    output.seek(SeekFrom::Start(have)).map_err(full)?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 << 10];
    let mut reported = Instant::now();
    loop {
        report_at_intervals(&mut reported, have, file, progress);
        let got = match body.read(&mut buffer) {
            Ok(got) => got,
            Err(cause) => {
                let problem = format!("ended after {have} of {} bytes ({cause})", file.bytes);
                return Err(Failure::Transient(refused(problem, AGAIN)));
            }
        };
        if got == 0 {
            break;
        }
        have += got as u64;
        if have > file.bytes {
            restarted(output)?;
            let problem = format!("is longer than the expected {} bytes", file.bytes);
            let remedy = "this is not the original file: try another mirror (NETTRIAGE_MIRROR)";
            return Err(Failure::Permanent(refused(problem, remedy)));
        }
        output.write_all(&buffer[..got]).map_err(full)?;
    }
    progress(DownloadProgress { file: file.name, done: have, total: file.bytes });
    if have < file.bytes {
        let problem = format!("ended after {have} of {} bytes", file.bytes);
        return Err(Failure::Transient(refused(problem, AGAIN)));
    }
    Ok(())
}

fn report_at_intervals(
    reported: &mut Instant,
    done: u64,
    file: &RemoteFile,
    progress: &mut dyn FnMut(DownloadProgress),
) {
    if reported.elapsed() >= Duration::from_millis(200) {
        *reported = Instant::now();
        progress(DownloadProgress { file: file.name, done, total: file.bytes });
    }
}

/// Truncates the file to length 0, which is returned.
fn restart(output: &mut File, part: &Path) -> Result<u64, Error> {
    output.set_len(0).map_err(Error::io("write", part))?;
    Ok(0)
}

/// The MD5 sum of a file, in hexadecimal. It detects accidental damage; the authors publish no stronger checksum.
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

/// A client whose timeouts tolerate slow connections but not dead ones.
fn agent(base: &str) -> Agent {
    let timeout = Some(Duration::from_secs(60));
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(timeout)
        .timeout_per_read(timeout)
        .user_agent(concat!("nettriage/", env!("CARGO_PKG_VERSION")));
    let host = base.split("//").nth(1).unwrap_or_default();
    if host.starts_with("127.0.0.1") || host.starts_with("localhost") {
        config = config.proxy(None);
    }
    config.build().into()
}
