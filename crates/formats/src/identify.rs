//! What a file is, by its first bytes: the formats that are read, and common files that are mistaken for a network.

use crate::pytorch;

/// A kind of file that may hold a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Checkpoint,
    Safetensors,
    /// A graph without weights.
    Json,
    /// ONNX has no signature: everything else is tried as such.
    Onnx,
}

/// The kind of a file.
///
/// # Errors
/// An empty file, and files that are recognised as something else, with the remedy.
pub fn identify(bytes: &[u8]) -> Result<FileKind, String> {
    if bytes.is_empty() {
        return Err("the file is empty (0 bytes); download or write it again".into());
    }
    if pytorch::is_checkpoint(bytes) {
        return Ok(FileKind::Checkpoint);
    }
    if is_safetensors(bytes) {
        return Ok(FileKind::Safetensors);
    }
    if let Some(problem) = mistaken(bytes) {
        return Err(problem.into());
    }
    Ok(if bytes[0] == b'{' { FileKind::Json } else { FileKind::Onnx })
}

fn is_safetensors(bytes: &[u8]) -> bool {
    let Some(size) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else { return false };
    size <= bytes.len() as u64 && bytes.get(8) == Some(&b'{')
}

fn mistaken(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 9] = [
        (
            b"version https://git-lfs",
            "it is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`",
        ),
        (b"\x1f\x8b", "it is compressed with gzip; unpack it with `gunzip`, or with `tar xzf` if it is a tar archive"),
        (b"BZh", "it is compressed with bzip2; unpack it with `bunzip2`"),
        (b"\xfd7zXZ\0", "it is compressed with xz; unpack it with `unxz`"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with Zstandard; unpack it with `unzstd`"),
        (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes it; convert the model to ONNX with tf2onnx"),
        (b"\x93NUMPY", "it is a NumPy array, not a network"),
        (b"%PDF", "it is a PDF document"),
    ];
    if let Some((_, problem)) = SIGNATURES.into_iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return Some(problem);
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("it is a TensorFlow Lite model; convert the original model to ONNX with tf2onnx");
    }
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let start = start[..start.len().min(14)].to_ascii_lowercase();
    if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") || start.starts_with(b"<head") {
        return Some(
            "it is an HTML page, perhaps the error or login page of a download; download the file itself again",
        );
    }
    if start.starts_with(b"<?xml") {
        return Some("it is an XML document, perhaps the error page of a download; download the file itself again");
    }
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Some("it is a pickle that torch.save did not write; load it in Python and save it with torch.save");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_mistaken_for_networks_are_named() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".as_slice();
        for (bytes, parts) in [
            (lfs, ["Git LFS pointer", "git lfs pull"]),
            (b"\n<!DOCTYPE html>\n<html>".as_slice(), ["HTML page", "download"]),
            (b"\xef\xbb\xbf<HTML lang=en>".as_slice(), ["HTML page", "download"]),
            (b"\x1f\x8b\x08\0\0\0".as_slice(), ["gzip", "gunzip"]),
            (b"\x89HDF\r\n\x1a\n".as_slice(), ["HDF5", "ONNX"]),
            (b"\x80\x04\x95".as_slice(), ["pickle", "torch.save"]),
            (b"".as_slice(), ["empty", "again"]),
        ] {
            let problem = identify(bytes).unwrap_err();
            assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
        }
        assert_eq!(identify(b"{}"), Ok(FileKind::Json));
        assert_eq!(identify(b"\x08\x07"), Ok(FileKind::Onnx));
    }
}
