//! A tiny HTTP server for the tests, on this machine's own address, with ways to misbehave.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How one request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// As asked, ranges included.
    Well,
    /// The connection closes after so many bytes of the body.
    Stops(usize),
    /// The byte at this place of the file is another.
    Damaged(usize),
    /// The whole file whatever range is asked for.
    NoRanges,
    /// A range other than the one asked for.
    WrongRange,
    /// One byte more than the file has, and a header that says so.
    TooLong,
    /// The same, without saying how long it is.
    TooLongUnsaid,
    /// Nothing but a status.
    Status(u16),
}

/// Serves `files`; answers the first requests in the manners given, all later ones in the last manner.
pub struct Server {
    pub base: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(files: Vec<(&str, Vec<u8>)>, manners: &[Manner]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/sets/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let files: Vec<_> = files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let manners = manners.to_vec();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let manner = manners[index.min(manners.len() - 1)];
                // A client that goes away early is part of some tests.
                let _ = answer(stream.unwrap(), &files, manner, &log);
            }
        });
        Server { base, requests }
    }

    /// What was asked for: file names, with the first byte of the range where there was one.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &[(String, Vec<u8>)],
    manner: Manner,
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
    match manner {
        Manner::Well => {}
        Manner::Stops(after) => most = after,
        Manner::Damaged(at) => bytes[at] ^= 0x40,
        Manner::NoRanges => from = None,
        Manner::WrongRange => shift = 1,
        Manner::TooLong | Manner::TooLongUnsaid => bytes.push(0),
        Manner::Status(status) => {
            let head = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return stream.write_all(head.as_bytes());
        }
    }
    let start = from.unwrap_or(0) + shift;
    let body = &bytes[start..];
    let mut head = match from {
        Some(_) => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}\r\n", length - 1),
        None => "HTTP/1.1 200 OK\r\n".to_string(),
    };
    if !matches!(manner, Manner::TooLongUnsaid) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"Connection: close\r\n\r\n")?;
    stream.write_all(&body[..body.len().min(most)])
}
