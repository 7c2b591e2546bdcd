//! A small HTTP server on the local machine for the tests, with faults to choose from.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Correctly, ranges included.
    Correct,
    /// The connection closes after this many bytes of the body.
    Stops(usize),
    /// The byte at this offset of the file is changed.
    Damaged(usize),
    /// The whole file, whatever range is requested.
    NoRanges,
    /// Another range than requested.
    WrongRange,
    /// One byte more than the file has, with the right Content-Length.
    TooLong,
    /// The same, without Content-Length.
    TooLongWithoutLength,
    /// A status and no body.
    Status(u16),
}

/// Serves `files`; the first requests are answered by the given behaviours in turn, all later ones by the last.
pub struct Server {
    pub base: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(files: Vec<(&str, Vec<u8>)>, behaviours: &[Behaviour]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/sets/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let files: Vec<_> = files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let behaviours = behaviours.to_vec();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let behaviour = behaviours[index.min(behaviours.len() - 1)];
                // Some tests close the connection early.
                let _ = answer(stream.unwrap(), &files, behaviour, &log);
            }
        });
        Server { base, requests }
    }

    /// The requests so far: file names, with the first byte of the range if there was one.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &[(String, Vec<u8>)],
    behaviour: Behaviour,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut from = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.strip_suffix('-').and_then(|from| from.parse::<usize>().ok());
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let name = path.strip_prefix("/sets/").unwrap_or_default();
    log.lock().unwrap().push(match from {
        Some(from) => format!("{name} from {from}"),
        None => name.to_string(),
    });
    let Some((_, bytes)) = files.iter().find(|(file, _)| file == name) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };

    let mut bytes = bytes.clone();
    let length = bytes.len();
    let mut most = usize::MAX;
    let mut shift = 0;
    match behaviour {
        Behaviour::Correct => {}
        Behaviour::Stops(after) => most = after,
        Behaviour::Damaged(at) => bytes[at] ^= 0x40,
        Behaviour::NoRanges => from = None,
        Behaviour::WrongRange => shift = 1,
        Behaviour::TooLong | Behaviour::TooLongWithoutLength => bytes.push(0),
        Behaviour::Status(status) => {
            let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return stream.write_all(head.as_bytes());
        }
    }
    let start = from.unwrap_or(0) + shift;
    let body = &bytes[start..];
    let mut head = match from {
        Some(_) => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}\r\n", length - 1),
        None => "HTTP/1.1 200 OK\r\n".to_string(),
    };
    if !matches!(behaviour, Behaviour::TooLongWithoutLength) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"Connection: close\r\n\r\n")?;
    stream.write_all(&body[..body.len().min(most)])
}
