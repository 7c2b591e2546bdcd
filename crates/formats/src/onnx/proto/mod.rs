//! ONNX's protobuf messages (`generated`), and a check of a file's size before they are decoded.
//!
//! `proto/onnx.proto` declares the part of the schema that is used; `proto/generate` compiles it.

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
#[rustfmt::skip]
mod generated;

pub use generated::*;

/// Whether the bytes hold a plausible number of nodes and tensors for their length. Two bytes can declare an empty message,
/// which takes a hundred times their memory once decoded.
pub fn plausible(bytes: &[u8]) -> bool {
    let graphs = Fields(bytes).filter(|(field, _)| *field == 7);
    graphs.map(|(_, graph)| messages(graph, MOST_NESTED)).sum::<usize>() <= 1024 + bytes.len() / 8
}

/// How deep graphs may be nested in attributes. (`prost` decodes a hundred nested messages.)
const MOST_NESTED: usize = 32;

/// Number of nodes, tensors, inputs, outputs and attributes of a graph and of the graphs in its attributes.
fn messages(graph: &[u8], deeper: usize) -> usize {
    let mut count = 0;
    for (field, content) in Fields(graph) {
        count += usize::from(matches!(field, 1 | 5 | 11 | 12));
        let attributes = Fields(content).filter(|(inner, _)| field == 1 && *inner == 5);
        for (_, attribute) in attributes {
            count += 1;
            let graphs = Fields(attribute).filter(|(inner, _)| *inner == 6);
            count +=
                graphs.map(|(_, graph)| deeper.checked_sub(1).map_or(0, |left| messages(graph, left))).sum::<usize>();
        }
    }
    count
}

/// The length-delimited fields of a message; ends at the first byte that is not a field.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            let size = match key & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                5 => 4,
                2 => usize::try_from(self.varint()?).ok()?,
                _ => return None,
            };
            let (content, rest) = self.0.split_at_checked(size)?;
            self.0 = rest;
            if key & 7 == 2 {
                return Some((key >> 3, content));
            }
        }
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn generated_code_is_current() {
        let hash: String = Sha256::digest(include_bytes!("../../../proto/onnx.proto"))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let first = include_str!("generated.rs").lines().next().unwrap();
        assert!(first.contains(&hash), "proto/onnx.proto has changed: run proto/generate");
    }
}
