//! Files as `torch.save` writes them, assembled here: pickles of protocol 2 in a zip archive.

/// A pickle under construction.
#[derive(Clone, Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn text(text: &str) -> Pickle {
        let mut bytes = vec![b'X'];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        Pickle(bytes)
    }

    pub fn int(value: i32) -> Pickle {
        let mut bytes = vec![b'J'];
        bytes.extend(value.to_le_bytes());
        Pickle(bytes)
    }

    pub fn raw(bytes: &[u8]) -> Pickle {
        Pickle(bytes.to_vec())
    }

    pub fn global(module: &str, name: &str) -> Pickle {
        Pickle(format!("c{module}\n{name}\n").into_bytes())
    }

    pub fn tuple(items: impl IntoIterator<Item = Pickle>) -> Pickle {
        let mut bytes = vec![b'('];
        items.into_iter().for_each(|item| bytes.extend(item.0));
        bytes.push(b't');
        Pickle(bytes)
    }

    pub fn dict(pairs: impl IntoIterator<Item = (Pickle, Pickle)>) -> Pickle {
        let mut bytes = b"}(".to_vec();
        pairs.into_iter().for_each(|(key, value)| bytes.extend([key.0, value.0].concat()));
        bytes.push(b'u');
        Pickle(bytes)
    }

    /// The result of a call.
    pub fn call(module: &str, name: &str, arguments: impl IntoIterator<Item = Pickle>) -> Pickle {
        let mut bytes = Pickle::global(module, name).0;
        bytes.extend(Pickle::tuple(arguments).0);
        bytes.push(b'R');
        Pickle(bytes)
    }

    /// An object with this state, as pickle writes instances of classes.
    pub fn object(module: &str, name: &str, state: Pickle) -> Pickle {
        let mut bytes = Pickle::global(module, name).0;
        bytes.extend(b")\x81");
        bytes.extend(state.0);
        bytes.push(b'b');
        Pickle(bytes)
    }
}

/// A checkpoint with its storages.
#[derive(Default)]
pub struct TorchFile {
    storages: Vec<Vec<u8>>,
}

impl TorchFile {
    /// A contiguous tensor of 32-bit floats with a storage of its own.
    pub fn tensor(&mut self, shape: &[usize], values: &[f32]) -> Pickle {
        let key = self.storages.len().to_string();
        self.storages.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let ints = |values: &[usize]| Pickle::tuple(values.iter().map(|&value| Pickle::int(value as i32)));
        let storage = Pickle::tuple([
            Pickle::text("storage"),
            Pickle::global("torch", "FloatStorage"),
            Pickle::text(&key),
            Pickle::text("cpu"),
            Pickle::int(values.len() as i32),
        ]);
        let storage = Pickle([storage.0, b"Q".to_vec()].concat());
        let hooks = Pickle::call("collections", "OrderedDict", []);
        let arguments = [storage, Pickle::int(0), ints(shape), ints(&strides), Pickle::raw(b"\x89"), hooks];
        Pickle::call("torch._utils", "_rebuild_tensor_v2", arguments)
    }

    /// A dictionary of tensors.
    pub fn state_dict(&mut self, tensors: &[(&str, &[usize], Vec<f32>)]) -> Pickle {
        let pairs: Vec<_> =
            tensors.iter().map(|(key, shape, values)| (Pickle::text(key), self.tensor(shape, values))).collect();
        Pickle::dict(pairs)
    }

    /// The archive with this value at its top level.
    pub fn save(&self, root: Pickle) -> Vec<u8> {
        let pickle = [b"\x80\x02".to_vec(), root.0, b".".to_vec()].concat();
        let mut entries = vec![("archive/data.pkl".to_string(), pickle)];
        for (key, storage) in self.storages.iter().enumerate() {
            entries.push((format!("archive/data/{key}"), storage.clone()));
        }
        zip(&entries)
    }
}

/// A zip archive without compression.
pub fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let short = |value: usize| (value as u16).to_le_bytes();
    let long = |value: usize| (value as u32).to_le_bytes();
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let offset = archive.len();
        let sizes = [long(0), long(content.len()), long(content.len())].concat();
        let lengths = [short(name.len()), short(0)].concat();
        archive.extend([b"PK\x03\x04".as_slice(), &[0; 10], &sizes, &lengths, name.as_bytes(), content].concat());
        let rest = [&[0; 10][..], &long(offset), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02".as_slice(), &[0; 12], &sizes, &lengths, &rest].concat());
    }
    let counts = [short(entries.len()), short(entries.len())].concat();
    let end =
        [b"PK\x05\x06".as_slice(), &[0; 4], &counts, &long(directory.len()), &long(archive.len()), &[0; 2]].concat();
    [archive, directory, end].concat()
}
