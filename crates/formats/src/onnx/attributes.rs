//! A node's attributes, by name.

use nettriage_net::block::module_path;

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

    /// The path of the module that the node came from, such as `layer1.0.bn1`, as PyTorch's exporters give it: the newer one in
    /// a list of scopes that ends with the operation, the older one in the node's name.
    pub fn module(&self) -> Option<String> {
        if let Some(scopes) = self.scopes() {
            let list: Vec<&str> = scopes.trim_matches(['[', ']']).split(", ").collect();
            let module = list.iter().rev().nth(1)?.trim_matches(['\'', '"']);
            return (!module.is_empty()).then(|| module.to_owned());
        }
        self.proto.name.contains('/').then(|| module_path(&self.proto.name).join("."))
    }

    /// The modules around the node, outermost first, and its operation, as PyTorch's newer exporter lists them.
    pub fn scopes(&self) -> Option<&'a str> {
        let scopes = self.proto.metadata_props.iter().find(|entry| entry.key == "pkg.torch.onnx.name_scopes");
        scopes.map(|entry| entry.value.as_str())
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
