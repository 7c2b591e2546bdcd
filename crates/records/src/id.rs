//! Content ids: short hashes of everything that determines a result.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Error;

/// The first 16 hexadecimal digits of the SHA-256 of the value's canonical JSON: sorted keys, no white space.
///
/// Equal values have equal ids, independent of the order of fields and map entries.
///
/// # Panics
/// If the value cannot be JSON at all (a map whose keys are not strings or numbers).
pub fn content_id(value: &impl Serialize) -> String {
    Canonical::of(value).id()
}

/// A value's canonical JSON. For ids of many values that share parts, each part is serialised once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical(String);

impl Canonical {
    /// The canonical JSON of a value.
    ///
    /// # Panics
    /// As [`content_id`].
    pub fn of(value: &impl Serialize) -> Canonical {
        let value = serde_json::to_value(value).expect("a value whose map keys are strings");
        let mut text = String::new();
        canonical(&value, &mut text);
        Canonical(text)
    }

    /// The canonical JSON of an object with these members.
    pub fn object(mut members: Vec<(&str, &Canonical)>) -> Canonical {
        members.sort_by_key(|(key, _)| *key);
        let members = members.into_iter().map(|(key, Canonical(value))| format!("{}:{value}", quoted(key)));
        Canonical(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
    }

    /// Its [`content_id`].
    pub fn id(&self) -> String {
        let mut id = hex(self.0.as_bytes());
        id.truncate(16);
        id
    }
}

fn quoted(key: &str) -> String {
    Value::from(key).to_string()
}

/// Writes JSON with sorted keys, independent of the order in `serde_json`'s map.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(key));
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    hex_of(&[bytes])
}

/// SHA-256 of the parts one after the other, in hexadecimal.
pub(crate) fn hex_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text has the form of a [`content_id`]: 16 hexadecimal digits, lower case.
pub(crate) fn is_content_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks that an id is a plain file name, not a path.
pub(crate) fn check(id: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || id.len() > 64 || !id.chars().all(allowed) {
        return Err(Error::Id { id: id.chars().take(80).collect(), problem: "is not a valid file name" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn id_is_the_hash_of_sorted_json() {
        // printf '{"a":[1,2.5,null],"b":"x\\"y"}' | sha256sum
        #[derive(Serialize)]
        struct Fields {
            b: &'static str,
            a: (u8, f64, Option<u8>),
        }
        let id = content_id(&Fields { b: "x\"y", a: (1, 2.5, None) });
        assert_eq!(id, "f414b3f560fa0985");
        let map = BTreeMap::from([("a", serde_json::json!([1, 2.5, null])), ("b", serde_json::json!("x\"y"))]);
        assert_eq!(content_id(&map), id);
        let (a, b) = (Canonical::of(&(1, 2.5, None::<u8>)), Canonical::of(&"x\"y"));
        assert_eq!(Canonical::object(vec![("b", &b), ("a", &a)]).id(), id);
    }

    #[test]
    fn ids_that_are_paths_are_refused() {
        for id in ["", "..", "a/b", "a\\b", "a.json", &"x".repeat(65)] {
            assert!(check(id).is_err(), "{id}");
        }
        check("0123456789abcdef").unwrap();
    }
}
