//! The stack machine of pickles (Python's `pickletools` describes every opcode). It builds values and executes nothing.
//!
//! Values are in one list and refer to each other by index, so that deep nesting does not use the call stack.

use std::collections::{BTreeMap, HashMap};

/// Bytes that the values of any pickle may take.
const MIN_BUDGET: usize = 128 << 10;

/// A value. Containers hold the indices of others.
#[derive(Debug)]
pub enum Value {
    None,
    Int(i64),
    /// A number whose value is not used: a float, a boolean, a long integer.
    Number,
    Text(Box<str>),
    List(Vec<u32>),
    Tuple(Box<[u32]>),
    Dict(Vec<(u32, u32)>),
    /// A function or class, by its full name.
    Global(Box<str>),
    /// `torch._utils._rebuild_tensor` and its like, with their arguments.
    Tensor(u32),
    /// A persistent id: a storage of PyTorch.
    Persistent(u32),
    /// A plain value whose content is not used.
    Plain,
    /// An object of an unknown class, by the index of its [`Value::Global`].
    Object(u32),
    /// The start of the arguments of a later opcode.
    Mark,
}

/// What calling a known global gives.
enum Known {
    /// A tensor.
    Tensor,
    /// The first argument: a parameter gives its tensor.
    First,
    /// The result of calling the first argument with the third: how tensors of a subclass are written.
    Typed,
    /// A dictionary, filled later.
    Dict,
    /// A plain value whose content is not used.
    Plain,
}

/// Functions and classes with a meaning here. All others give an [`Value::Object`], and nothing is ever executed.
fn known(name: &str) -> Option<Known> {
    Some(match name {
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => Known::Tensor,
        "torch._utils._rebuild_parameter"
        | "torch._utils._rebuild_parameter_with_state"
        | "torch.nn.parameter.Parameter" => Known::First,
        "torch._tensor._rebuild_from_type_v2" => Known::Typed,
        "collections.OrderedDict"
        | "collections.defaultdict"
        | "collections.Counter"
        | "builtins.dict"
        | "__builtin__.dict" => Known::Dict,
        "torch.Size" | "torch.device" | "torch.storage.UntypedStorage" | "torch.UntypedStorage" => Known::Plain,
        "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" | "numpy.dtype" | "_codecs.encode" => {
            Known::Plain
        }
        "builtins.int" | "builtins.float" | "builtins.bool" | "builtins.list" | "builtins.set" | "__builtin__.set" => {
            Known::Plain
        }
        "builtins.complex" | "__builtin__.complex" | "__builtin__.int" | "__builtin__.float" | "__builtin__.list" => {
            Known::Plain
        }
        _ => {
            let element = name.strip_prefix("torch.")?;
            let types =
                ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"];
            return (element.ends_with("Storage") && !element.contains('.') || types.contains(&element))
                .then_some(Known::Plain);
        }
    })
}

/// The interpreter and all values that it built.
#[derive(Debug)]
pub struct Machine {
    values: Vec<Value>,
    stack: Vec<u32>,
    memo: HashMap<u64, u32>,
    /// Bytes that values may still take.
    budget: usize,
}

/// The rest of the bytes.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("its pickle is truncated")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self, size: usize) -> Result<u64, String> {
        Ok(self.take(size)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn sized(&mut self, size: usize) -> Result<&'a [u8], String> {
        let length = usize::try_from(self.number(size)?).map_err(|_| "its pickle is truncated")?;
        self.take(length)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is truncated")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "its pickle has a name that is not a string".into())
    }
}

impl Machine {
    /// For a file of this size in bytes. The values may take twice as much, so that a small file cannot fill the memory:
    /// a pickle can copy a list any number of times.
    pub fn new(file: usize) -> Machine {
        let budget = MIN_BUDGET + 2 * file;
        Machine { values: Vec::new(), stack: Vec::new(), memo: HashMap::new(), budget }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(bytes);
        self.budget = left.ok_or("its pickle builds values that are many times larger than the file")?;
        Ok(())
    }

    pub fn get(&self, id: u32) -> &Value {
        &self.values[id as usize]
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        let content = match &value {
            Value::Text(text) | Value::Global(text) => text.len(),
            Value::List(items) => size_of_val(items.as_slice()),
            Value::Tuple(items) => size_of_val(items.as_ref()),
            Value::Dict(pairs) => size_of_val(pairs.as_slice()),
            _ => 0,
        };
        self.charge(size_of::<Value>() + content)?;
        self.values.push(value);
        self.push_index(self.values.len() as u32 - 1)
    }

    fn push_index(&mut self, index: u32) -> Result<(), String> {
        self.charge(size_of::<u32>())?;
        self.stack.push(index);
        Ok(())
    }

    fn pop(&mut self) -> Result<u32, String> {
        let id = self.stack.pop().ok_or("its pickle pops from an empty stack")?;
        if matches!(self.get(id), Value::Mark) { Err("its pickle uses a mark as a value".into()) } else { Ok(id) }
    }

    fn top(&self) -> Result<u32, String> {
        self.stack.last().copied().ok_or_else(|| "its pickle pops from an empty stack".into())
    }

    /// The values pushed since the last mark.
    fn since_mark(&mut self) -> Result<Vec<u32>, String> {
        let mark =
            self.stack.iter().rposition(|&id| matches!(self.get(id), Value::Mark)).ok_or("its pickle lacks a mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn popped(&mut self, count: usize) -> Result<Vec<u32>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    /// Interprets one pickle at the start of the bytes; returns its result and its length.
    pub fn run(&mut self, bytes: &[u8]) -> Result<(u32, usize), String> {
        let mut input = Input { bytes, at: 0 };
        loop {
            let opcode = input.take(1)?[0];
            if opcode == b'.' {
                return Ok((self.pop()?, input.at));
            }
            self.step(opcode, &mut input)?;
        }
    }

    fn step(&mut self, opcode: u8, input: &mut Input) -> Result<(), String> {
        match opcode {
            // PROTO and FRAME build nothing.
            0x80 => input.take(1).map(drop),
            0x95 => input.take(8).map(drop),
            b'(' => self.push(Value::Mark),
            b'0' => self.stack.pop().map(drop).ok_or_else(|| "its pickle pops from an empty stack".into()),
            b'1' => self.since_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push_index(top)
            }
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Number),
            b'J' => {
                let value = input.number(4)? as u32 as i32;
                self.push(Value::Int(i64::from(value)))
            }
            b'K' => {
                let value = input.number(1)?;
                self.push(Value::Int(value as i64))
            }
            b'M' => {
                let value = input.number(2)?;
                self.push(Value::Int(value as i64))
            }
            0x8a => {
                let digits = input.sized(1)?;
                self.long(digits)
            }
            0x8b => {
                let digits = input.sized(4)?;
                self.long(digits)
            }
            b'I' | b'L' => {
                let value = input.line()?.trim_end_matches('L').parse().map_or(Value::Number, Value::Int);
                self.push(value)
            }
            b'F' => {
                input.line()?;
                self.push(Value::Number)
            }
            b'G' => {
                input.take(8)?;
                self.push(Value::Number)
            }
            b'X' | b'T' => {
                let content = input.sized(4)?;
                self.text(content)
            }
            0x8c | b'U' => {
                let content = input.sized(1)?;
                self.text(content)
            }
            0x8d => {
                let content = input.sized(8)?;
                self.text(content)
            }
            b'S' | b'V' => {
                let content = input.line()?.trim_matches(['\'', '"']).to_string();
                self.text(content.as_bytes())
            }
            b'B' => {
                input.sized(4)?;
                self.push(Value::Plain)
            }
            b'C' => {
                input.sized(1)?;
                self.push(Value::Plain)
            }
            0x8e | 0x96 => {
                input.sized(8)?;
                self.push(Value::Plain)
            }
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Box::default())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Plain),
            0x90 => self.since_mark().map(drop),
            0x91 => {
                self.since_mark()?;
                self.push(Value::Plain)
            }
            b'l' => {
                let items = self.since_mark()?;
                self.push(Value::List(items))
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items.into()))
            }
            0x85..=0x87 => {
                let items = self.popped(usize::from(opcode - 0x84))?;
                self.push(Value::Tuple(items.into()))
            }
            b'd' => {
                let items = self.since_mark()?;
                let pairs = items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)).collect();
                self.push(Value::Dict(pairs))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend(items)
            }
            b's' => {
                let items = self.popped(2)?;
                self.insert(items)
            }
            b'u' => {
                let items = self.since_mark()?;
                self.insert(items)
            }
            b'q' => {
                let key = input.number(1)?;
                self.remember(key)
            }
            b'r' => {
                let key = input.number(4)?;
                self.remember(key)
            }
            b'p' => {
                let key = input.line()?.parse().map_err(|_| "its pickle has a memo key that is not a number")?;
                self.remember(key)
            }
            0x94 => self.remember(self.memo.len() as u64),
            b'h' => {
                let key = input.number(1)?;
                self.recall(key)
            }
            b'j' => {
                let key = input.number(4)?;
                self.recall(key)
            }
            b'g' => {
                let key = input.line()?.parse().map_err(|_| "its pickle has a memo key that is not a number")?;
                self.recall(key)
            }
            b'c' => {
                let module = input.line()?;
                let name = input.line()?;
                self.global(format!("{module}.{name}"))
            }
            0x93 => {
                let parts = self.popped(2)?;
                let name = |id: u32| match self.get(id) {
                    Value::Text(text) => Ok(text.to_string()),
                    _ => Err("its pickle has a name that is not a string".to_string()),
                };
                let full = format!("{}.{}", name(parts[0])?, name(parts[1])?);
                self.global(full)
            }
            // INST and OBJ: an instance of a class of Python 2, its arguments above the mark.
            b'i' => {
                let module = input.line()?;
                let name = input.line()?;
                let arguments = self.since_mark()?;
                self.global(format!("{module}.{name}"))?;
                let class = self.pop()?;
                self.push(Value::Tuple(arguments.into()))?;
                let arguments = self.pop()?;
                self.call(class, arguments)
            }
            b'o' => {
                let mut arguments = self.since_mark()?;
                if arguments.is_empty() {
                    return Err("its pickle creates an object without a class".into());
                }
                let class = arguments.remove(0);
                self.push(Value::Tuple(arguments.into()))?;
                let arguments = self.pop()?;
                self.call(class, arguments)
            }
            b'R' | 0x81 => {
                let parts = self.popped(2)?;
                self.call(parts[0], parts[1])
            }
            0x92 => {
                let parts = self.popped(3)?;
                self.call(parts[0], parts[1])
            }
            // BUILD: sets the state of the object below. Tensors and containers are complete without it.
            b'b' => self.pop().map(drop),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))
            }
            other => Err(format!("its pickle has the opcode {other:#04x}, which is not supported")),
        }
    }

    fn text(&mut self, content: &[u8]) -> Result<(), String> {
        self.push(Value::Text(String::from_utf8_lossy(content).into()))
    }

    fn long(&mut self, digits: &[u8]) -> Result<(), String> {
        let negative = digits.last().is_some_and(|&last| last >= 0x80);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        match bytes.get_mut(..digits.len()) {
            Some(place) => place.copy_from_slice(digits),
            None => return self.push(Value::Number),
        }
        self.push(Value::Int(i64::from_le_bytes(bytes)))
    }

    fn extend(&mut self, items: Vec<u32>) -> Result<(), String> {
        let list = self.top()?;
        self.charge(size_of_val(items.as_slice()))?;
        match &mut self.values[list as usize] {
            Value::List(list) => list.extend(items),
            Value::Plain | Value::Object(_) => {}
            _ => return Err("its pickle appends to a value that is not a list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<u32>) -> Result<(), String> {
        let dict = self.top()?;
        self.charge(size_of_val(items.as_slice()))?;
        match &mut self.values[dict as usize] {
            Value::Dict(dict) => dict.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value))),
            Value::Plain | Value::Object(_) => {}
            _ => return Err("its pickle sets an item of a value that is not a dictionary".into()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        if self.memo.insert(key, top).is_none() {
            self.charge(2 * size_of::<(u64, u32)>())?;
        }
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("its pickle reads an unset memo entry")?;
        self.push_index(id)
    }

    fn global(&mut self, name: String) -> Result<(), String> {
        self.push(Value::Global(name.into()))
    }

    fn call(&mut self, function: u32, arguments: u32) -> Result<(), String> {
        let Value::Global(name) = self.get(function) else {
            // A method or an instance: whatever it gives is not used.
            return self.push(Value::Plain);
        };
        let known = known(name);
        let argument = |index: usize| match self.get(arguments) {
            Value::Tuple(items) => items.get(index).copied(),
            _ => None,
        };
        match known {
            Some(Known::Tensor) => self.push(Value::Tensor(arguments)),
            Some(Known::First) => {
                let first = argument(0).ok_or("its pickle has a parameter without a tensor")?;
                self.push_index(first)
            }
            Some(Known::Typed) => match (argument(0), argument(2)) {
                // Without recursion: the function of a typed tensor is a plain one.
                (Some(inner), Some(inner_arguments)) if !self.is_typed(inner) => self.call(inner, inner_arguments),
                _ => Err("its pickle has a tensor of a subclass without its arguments".into()),
            },
            Some(Known::Dict) => {
                // An OrderedDict may have its pairs as a list of tuples.
                let pairs = match argument(0).map(|id| self.get(id)) {
                    Some(Value::List(items)) => {
                        let size = items.len() * size_of::<(u32, u32)>();
                        if size > self.budget {
                            return self.charge(size);
                        }
                        items.iter().filter_map(|&item| self.pair(item)).collect()
                    }
                    _ => Vec::new(),
                };
                self.push(Value::Dict(pairs))
            }
            Some(Known::Plain) => self.push(Value::Plain),
            None => self.push(Value::Object(function)),
        }
    }

    fn is_typed(&self, function: u32) -> bool {
        matches!(self.get(function), Value::Global(name) if matches!(known(name), Some(Known::Typed)))
    }

    /// The classes of the objects that were skipped, with their number.
    pub fn skipped(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for value in &self.values {
            if let Value::Object(class) = value
                && let Value::Global(name) = self.get(*class)
            {
                *counts.entry(name.to_string()).or_default() += 1;
            }
        }
        counts
    }

    fn pair(&self, id: u32) -> Option<(u32, u32)> {
        match self.get(id) {
            Value::Tuple(items) => items_pair(items),
            Value::List(items) => items_pair(items),
            _ => None,
        }
    }
}

fn items_pair(items: &[u32]) -> Option<(u32, u32)> {
    match items {
        [key, value] => Some((*key, *value)),
        _ => None,
    }
}
