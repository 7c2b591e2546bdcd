//! A node's attributes, by name.

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// A node as its operator reads it.
pub struct Node<'a> {
    pub proto: &'a NodeProto,
    pub opset: i64,
}

impl<'a> Node<'a> {
    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i)
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|attribute| attribute.f)
    }

    pub fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|attribute| attribute.floats.as_slice())
    }

    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.attribute(name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
    }

    pub fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    pub fn graph(&self, name: &str) -> Option<&'a GraphProto> {
        self.attribute(name).and_then(|attribute| attribute.g.as_deref())
    }

    /// Name of input `index`, unless it is omitted.
    pub fn input(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub fn op(&self) -> &'a str {
        &self.proto.op_type
    }

    /// The node for messages: its name, else its first output.
    pub fn label(&self) -> String {
        let name = if self.proto.name.is_empty() { self.proto.output.first() } else { Some(&self.proto.name) };
        let domain = if self.proto.domain.is_empty() { String::new() } else { format!("{}.", self.proto.domain) };
        format!("node `{}` ({domain}{})", name.map_or("", String::as_str), self.op())
    }
}
