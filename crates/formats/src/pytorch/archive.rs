//! The zip format of `torch.save`: `<name>/data.pkl` and one file a storage, `<name>/data/<key>`, stored without
//! compression.
//!
//! Entries are slices of the file; nothing is decompressed.

use std::collections::HashMap;

use super::pickle::Machine;
use super::tensors::Storages;
use super::{EXPORT, unpickle};

/// TorchScript files hold code beside their weights; code is never executed here.
fn torchscript() -> String {
    format!(
        "it is a TorchScript program; save the `state_dict()` of its model, or export the model: in Python, {EXPORT}"
    )
}

pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

pub fn read(bytes: &[u8]) -> Result<(Machine, u32, Storages<'_>), String> {
    let entries = entries(bytes)?;
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    let root = names
        .iter()
        .find_map(|name| name.strip_suffix("data.pkl"))
        .filter(|root| root.is_empty() || root.ends_with('/'));
    let root = root.ok_or(
        "a zip archive without data.pkl, which torch.save always writes; if it contains the network, unpack it",
    )?;
    if names
        .iter()
        .any(|name| name.strip_prefix(root).is_some_and(|rest| rest == "constants.pkl" || rest.starts_with("code/")))
    {
        return Err(torchscript());
    }
    if let Some((_, order)) = entries.iter().find(|(name, _)| name.strip_prefix(root) == Some("byteorder"))
        && *order != b"little"
    {
        return Err("its numbers are not in little-endian order".into());
    }
    let pickle =
        entries.iter().find(|(name, _)| name.strip_prefix(root) == Some("data.pkl")).map(|(_, content)| *content);
    let ((machine, value), _) = unpickle(pickle.ok_or("it holds no data.pkl")?, bytes.len())?;
    let prefix = format!("{root}data/");
    let storages: HashMap<String, &[u8]> = entries
        .iter()
        .filter_map(|(name, content)| Some((name.strip_prefix(&prefix)?.to_string(), *content)))
        .collect();
    Ok((machine, value, Storages(storages)))
}

/// Names and contents of an archive's entries (APPNOTE.TXT of PKWARE, sections 4.3.7 to 4.3.16, with the zip64
/// extension).
fn entries(bytes: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let broken = || "not a valid zip archive: the file is truncated or damaged".to_string();
    let short = |at: usize| {
        at.checked_add(2).and_then(|end| bytes.get(at..end)).map(|b| u64::from(u16::from_le_bytes([b[0], b[1]])))
    };
    let field = |at: usize| Some(u64::from(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?)));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));

    // The end record is followed by a comment of at most 65,535 bytes.
    let from = bytes.len().saturating_sub(22 + 65_535);
    let tail = &bytes[from..];
    let end = from + tail.windows(4).rposition(|window| window == b"PK\x05\x06").ok_or_else(broken)?;
    let (mut count, mut at) = (short(end + 10).ok_or_else(broken)?, field(end + 16).ok_or_else(broken)?);
    if (count == 0xffff || at == 0xffff_ffff) && end >= 20 && bytes[end - 20..].starts_with(b"PK\x06\x07") {
        let end = usize::try_from(long(end - 12).ok_or_else(broken)?).map_err(|_| broken())?;
        if !bytes.get(end..).is_some_and(|rest| rest.starts_with(b"PK\x06\x06")) {
            return Err(broken());
        }
        (count, at) = (long(end + 32).ok_or_else(broken)?, long(end + 48).ok_or_else(broken)?);
    }
    // Every entry takes at least 46 bytes of the directory.
    if count > bytes.len() as u64 / 46 {
        return Err(broken());
    }
    let mut at = usize::try_from(at).map_err(|_| broken())?;
    let mut entries = Vec::new();
    for _ in 0..count {
        if !bytes.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
            return Err(broken());
        }
        let part = |offset: usize| short(at + offset).ok_or_else(broken);
        let (method, name_length, extra_length, comment) =
            (part(10)?, part(28)? as usize, part(30)? as usize, part(32)? as usize);
        let name = bytes.get(at + 46..at + 46 + name_length).ok_or_else(broken)?;
        let name = String::from_utf8_lossy(name).into_owned();
        if method != 0 && (name.contains("/code/") || name.ends_with("/constants.pkl")) {
            return Err(torchscript());
        }
        if method != 0 {
            return Err(format!("its entry `{name}` is compressed, which PyTorch's never are"));
        }
        let extra = bytes.get(at + 46 + name_length..at + 46 + name_length + extra_length).ok_or_else(broken)?;
        let mut sizes = [field(at + 24), field(at + 20), field(at + 42)].map(|size| size.unwrap_or(u64::MAX));
        read_zip64(&mut sizes, extra);
        let [size, packed, header] = sizes;
        if size != packed {
            return Err(broken());
        }
        let header = usize::try_from(header).map_err(|_| broken())?;
        if !bytes.get(header..).is_some_and(|rest| rest.starts_with(b"PK\x03\x04")) {
            return Err(broken());
        }
        let lengths = short(header + 26).zip(short(header + 28)).ok_or_else(broken)?;
        let start = header + 30 + lengths.0 as usize + lengths.1 as usize;
        let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size)).ok_or_else(broken)?;
        entries.push((name, bytes.get(start..end).ok_or_else(broken)?));
        at += 46 + name_length + extra_length + comment;
    }
    Ok(entries)
}

/// Fields of all ones are in the zip64 extra field (tag 1), in order.
fn read_zip64(sizes: &mut [u64; 3], mut extra: &[u8]) {
    while let [a, b, c, d, rest @ ..] = extra {
        let (tag, length) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let Some((content, after)) = rest.split_at_checked(length) else { return };
        if tag == 1 {
            let mut words = content.as_chunks::<8>().0.iter();
            for size in sizes.iter_mut().filter(|size| **size == 0xffff_ffff) {
                if let Some(word) = words.next() {
                    *size = u64::from_le_bytes(*word);
                }
            }
            return;
        }
        extra = after;
    }
}
