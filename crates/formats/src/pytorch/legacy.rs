//! The legacy format of `torch.save`: four pickles (magic number, protocol, system, object), a fifth with the keys of the
//! storages, then for each storage its number of elements and its bytes.

use std::collections::HashMap;

use super::pickle::{Machine, Value};
use super::tensors::{Storages, storages};
use super::{number, text, unpickle};

/// The pickle of PyTorch's magic number 0x1950a86a20f9469cfc6c: PROTO 2, LONG1 of 10 bytes, STOP.
const MAGIC: [u8; 15] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

pub fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

pub fn read(bytes: &[u8]) -> Result<(Machine, u32, Storages<'_>), String> {
    let mut at = MAGIC.len();
    let mut next = || {
        let (unpickled, used) = unpickle(&bytes[at..], bytes.len())?;
        at += used;
        Ok::<_, String>((unpickled, at))
    };
    let ((machine, protocol), _) = next()?;
    if number(&machine, protocol) != Some(1001) {
        return Err("its protocol is not the one that PyTorch writes (1001)".into());
    }
    next()?;
    let ((machine, root), _) = next()?;
    let ((keys, list), mut at) = next()?;
    let Value::List(list) = keys.get(list) else { return Err("its list of storages is not a list".into()) };
    let sizes = storages(&machine);
    let mut found = HashMap::new();
    for &key in list.iter() {
        let key = text(&keys, key).ok_or("its list of storages has a key that is not a string")?;
        let ends = || format!("it ends within storage `{key}`: the file is truncated");
        let count = bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or_else(ends)?;
        at += 8;
        let size =
            *sizes.get(key).ok_or_else(|| format!("its storage `{key}` has an element type that is not read"))?;
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(size)).ok_or_else(ends)?;
        let content = at.checked_add(length).and_then(|end| bytes.get(at..end)).ok_or_else(ends)?;
        found.insert(key.to_string(), content);
        at += length;
    }
    Ok((machine, root, Storages(found)))
}
