//! A reader for pickles, those inside PyTorch checkpoints above all, that can build tensors and plain data and nothing else.
//!
//! A pickle is a program for a small stack machine, and Python's own machine lets it call any function. This one knows a
//! fixed list of names (below), refuses every other by name, and never runs code. All objects live in one flat list and
//! point at each other by index, so neither deep nesting nor cycles can exhaust the stack, and memory is bounded by the
//! length of the pickle.

use std::collections::HashMap;

use anyhow::{bail, ensure, Context, Result};

use crate::stored::Dtype;
use crate::unescape;

/// Longest pickle read. That of a checkpoint with thousands of tensors and optimizer state is a few megabytes.
const MAX_LENGTH: usize = 64 << 20;
/// Most objects, stack entries and memo entries (each) that a pickle may make.
const MAX_OBJECTS: usize = 4 << 20;

/// A value: plain, or the index of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Python's `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// An object, by its index.
    Object(usize),
}

/// What a value can point at.
#[derive(Debug)]
pub enum Object {
    /// Text.
    Str(String),
    /// Something that is read but not kept: bytes, a long integer, a data type, a device.
    Opaque,
    /// A list, tuple or set.
    Sequence(Vec<Value>),
    /// A dictionary of any kind, or an `argparse.Namespace`, in the order of insertion.
    Dict(Vec<(Value, Value)>),
    /// A name that the list below allows.
    Name(Name),
    /// A tensor's memory: an entry of the archive.
    Storage {
        /// Number type of the elements.
        dtype: Dtype,
        /// Name of the entry under `data/`.
        entry: String,
        /// Elements.
        length: u64,
    },
    /// A view of a storage.
    Tensor {
        /// Index of the storage object.
        storage: usize,
        /// First element.
        offset: u64,
        /// Sizes.
        shape: Vec<usize>,
        /// Strides in elements.
        strides: Vec<usize>,
    },
}

/// The names a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Name {
    /// A dictionary class.
    Dict,
    /// A list, tuple or set class.
    List,
    /// The function that makes a tensor of a storage.
    Tensor,
    /// The functions that make a parameter of a tensor.
    Parameter,
    /// `argparse.Namespace`.
    Namespace,
    /// A storage class.
    Storage(Dtype),
    /// What is harmless and not kept: data types, devices, encoded bytes.
    Opaque,
}

/// The list of allowed names.
fn name(module: &str, name: &str) -> Option<Name> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Name::Dict,
        ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") | ("torch", "Size") => Name::List,
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Name::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Name::Parameter,
        ("argparse", "Namespace") => Name::Namespace,
        ("torch", "device" | "float32" | "float16" | "bfloat16" | "float64" | "int64" | "int32" | "bool") => {
            Name::Opaque
        }
        ("_codecs", "encode") => Name::Opaque,
        ("torch" | "torch.cuda", storage) => Name::Storage(match storage.strip_suffix("Storage")? {
            "Float" => Dtype::F32,
            "Half" => Dtype::F16,
            "BFloat16" => Dtype::BF16,
            "Double" => Dtype::F64,
            "Long" => Dtype::Integer(8),
            "Int" => Dtype::Integer(4),
            "Short" => Dtype::Integer(2),
            "Char" | "Byte" | "Bool" => Dtype::Integer(1),
            _ => return None,
        }),
        _ => return None,
    })
}

/// A finished pickle.
pub struct Pickle {
    objects: Vec<Object>,
    /// The value that the pickle stands for.
    pub root: Value,
}

impl Pickle {
    /// Runs the pickle.
    pub fn load(bytes: &[u8]) -> Result<Pickle> {
        ensure!(bytes.len() <= MAX_LENGTH, "its pickle is {} bytes long, more than a checkpoint's can be", bytes.len());
        let mut machine = Machine {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            objects: Vec::new(),
            copied: 0,
        };
        let root = machine.run()?;
        Ok(Pickle { objects: machine.objects, root })
    }

    /// The object behind a value.
    pub fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(i) => self.objects.get(i),
            _ => None,
        }
    }

    /// The text of a value that is text.
    pub fn str(&self, value: Value) -> Option<&str> {
        match self.object(value)? {
            Object::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The entries of a value that is a dictionary.
    pub fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value)? {
            Object::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a text key in a dictionary.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value> {
        // As in Python, the last assignment to a key counts.
        self.dict(dict)?.iter().rev().find(|(k, _)| self.str(*k) == Some(key)).map(|&(_, v)| v)
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    objects: Vec<Object>,
    /// Entries copied by calls so far.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        ensure!(n <= self.bytes.len() - self.at, "its pickle ends too early: the file is truncated or corrupt");
        let slice = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(slice)
    }

    /// A little-endian unsigned number of `n` (at most 8) bytes.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)))
    }

    fn text(&mut self, length_bytes: usize) -> Result<&'a str> {
        let n = self.number(length_bytes)?;
        let raw = self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
        std::str::from_utf8(raw).context("its pickle holds text that is not UTF-8")
    }

    fn line_bytes(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').context("its pickle ends inside a line")?;
        self.at += n + 1;
        Ok(&rest[..n])
    }

    fn line(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.line_bytes()?).context("its pickle holds a name or number that is not UTF-8")
    }

    /// A line that protocol 0 writes a number on.
    fn number_line<T: std::str::FromStr>(&mut self) -> Result<T> {
        let line = self.line()?;
        line.parse().ok().with_context(|| format!("its pickle holds '{line}' where a number must be: corrupt"))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        ensure!(self.stack.len() < MAX_OBJECTS, "its pickle needs too deep a stack: not a checkpoint");
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, object: Object) -> Result<Value> {
        ensure!(self.objects.len() < MAX_OBJECTS, "its pickle makes too many objects: not a checkpoint");
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1))
    }

    fn push_new(&mut self, object: Object) -> Result<()> {
        let value = self.make(object)?;
        self.push(value)
    }

    fn pop(&mut self) -> Result<Value> {
        // What lies below the last mark belongs to an unfinished object.
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "its pickle takes from an empty stack: corrupt");
        self.stack.pop().context("its pickle takes from an empty stack: corrupt")
    }

    fn top(&self) -> Result<Value> {
        self.stack.last().copied().context("its pickle looks at an empty stack: corrupt")
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().context("its pickle lacks a mark: corrupt")?;
        Ok(self.stack.split_off(mark))
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(i) => self.objects.get(i),
            _ => None,
        }
    }

    fn object_mut(&mut self, value: Value) -> Option<&mut Object> {
        match value {
            Value::Object(i) => self.objects.get_mut(i),
            _ => None,
        }
    }

    fn sequence(&self, value: Value) -> Result<&[Value]> {
        match self.object(value) {
            Some(Object::Sequence(items)) => Ok(items),
            _ => bail!("its pickle passes something that is no list: corrupt"),
        }
    }

    fn memoize(&mut self, index: u64) -> Result<()> {
        ensure!(self.memo.len() < MAX_OBJECTS, "its pickle remembers too many objects: not a checkpoint");
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<()> {
        let value = *self.memo.get(&index).context("its pickle recalls an object it never made: corrupt")?;
        self.push(value)
    }

    fn append(&mut self, list: Value, items: Vec<Value>) -> Result<()> {
        match self.object_mut(list) {
            Some(Object::Sequence(list)) => list.extend(items),
            _ => bail!("its pickle appends to something that is no list: corrupt"),
        }
        Ok(())
    }

    fn assign(&mut self, dict: Value, items: Vec<Value>) -> Result<()> {
        ensure!(items.len().is_multiple_of(2), "its pickle assigns a key without a value: corrupt");
        match self.object_mut(dict) {
            Some(Object::Dict(entries)) => entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => bail!("its pickle assigns into something that is no dictionary: corrupt"),
        }
        Ok(())
    }

    fn push_name(&mut self, module: &str, item: &str) -> Result<()> {
        let known = name(module, item).with_context(|| {
            format!(
                "its pickle asks for '{module}.{item}', which is not part of a tensor checkpoint; nothing was run. \
                 Save the file again with only tensors in it"
            )
        })?;
        self.push_new(Object::Name(known))
    }

    /// Calls a name: `REDUCE` and `NEWOBJ`.
    fn call(&mut self) -> Result<()> {
        let args = self.pop()?;
        let callee = self.pop()?;
        let args = self.sequence(args)?;
        ensure!(args.len() <= 16, "its pickle calls something with {} arguments: not a checkpoint", args.len());
        let args = args.to_vec();
        let mut copied = 0;
        let made = match self.object(callee) {
            Some(Object::Name(Name::Tensor)) => self.tensor(&args)?,
            Some(Object::Name(Name::Parameter)) => {
                let value = *args.first().context("its pickle makes a parameter of nothing: corrupt")?;
                return self.push(value);
            }
            Some(Object::Name(Name::Dict)) => {
                // A list of pairs, or nothing; defaultdict's argument is a name.
                let mut entries = Vec::new();
                if let Some(Object::Sequence(pairs)) = args.first().and_then(|&v| self.object(v)) {
                    copied = pairs.len();
                    for &pair in pairs {
                        match self.sequence(pair)? {
                            &[key, value] => entries.push((key, value)),
                            _ => bail!("its pickle makes a dictionary of something else than pairs: corrupt"),
                        }
                    }
                }
                Object::Dict(entries)
            }
            Some(Object::Name(Name::List)) => {
                let items = match args.first() {
                    Some(&items) => self.sequence(items)?.to_vec(),
                    None => Vec::new(),
                };
                copied = items.len();
                Object::Sequence(items)
            }
            Some(Object::Name(Name::Namespace)) => Object::Dict(Vec::new()),
            Some(Object::Name(Name::Opaque)) => Object::Opaque,
            _ => bail!("its pickle calls something that cannot be called: corrupt"),
        };
        // Only here could a short pickle copy a long list again and again.
        self.copied += copied;
        ensure!(self.copied <= MAX_OBJECTS, "its pickle copies too many objects: not a checkpoint");
        self.push_new(made)
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, …)`.
    fn tensor(&self, args: &[Value]) -> Result<Object> {
        let &[storage, offset, shape, strides, ..] = args else {
            bail!("its pickle rebuilds a tensor of too few parts")
        };
        let Value::Object(storage) = storage else { bail!("its pickle rebuilds a tensor without a storage") };
        ensure!(
            matches!(self.objects.get(storage), Some(Object::Storage { .. })),
            "its pickle has a tensor without data"
        );
        let sizes = |value| -> Result<Vec<usize>> {
            self.sequence(value)?
                .iter()
                .map(|v| match *v {
                    Value::Int(n) => usize::try_from(n).context("its pickle has a tensor of negative size or stride"),
                    _ => bail!("its pickle has a tensor whose size is no number"),
                })
                .collect()
        };
        let Value::Int(offset) = offset else { bail!("its pickle has a tensor whose offset is no number") };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        ensure!(
            shape.len() == strides.len() && shape.len() <= 8,
            "its pickle has a tensor of a wrong number of strides"
        );
        Ok(Object::Tensor {
            storage,
            offset: u64::try_from(offset).context("its pickle has a tensor of negative offset")?,
            shape,
            strides,
        })
    }

    /// `('storage', type, entry, device, length)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = match *self.sequence(id)? {
            [_, kind, entry, _, Value::Int(length)] => match (self.object(kind), self.object(entry)) {
                (Some(&Object::Name(Name::Storage(dtype))), Some(Object::Str(entry))) if length >= 0 => {
                    Some(Object::Storage { dtype, entry: entry.clone(), length: length as u64 })
                }
                _ => None,
            },
            _ => None,
        };
        self.push_new(storage.context("its pickle refers to something outside that is no tensor storage")?)
    }

    /// `BUILD`: attributes for the object on top of the stack.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = self.top()?;
        let (Value::Object(state), Value::Object(target)) = (state, target) else { return Ok(()) };
        let filled = matches!(&self.objects[state], Object::Dict(entries) if !entries.is_empty());
        let empty = matches!(&self.objects[target], Object::Dict(entries) if entries.is_empty());
        // A filled dictionary is a state_dict, whose attributes (_metadata) are of no use; an empty one is a Namespace,
        // which has nothing but attributes. Moving them keeps memory bounded; nothing else refers to them.
        if filled && empty {
            self.objects[target] = std::mem::replace(&mut self.objects[state], Object::Opaque);
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            let op = self.take(1)?[0];
            match op {
                0x80 => {
                    let version = self.number(1)?;
                    ensure!((2..=5).contains(&version), "its pickle has protocol {version}; 2 to 5 are read");
                }
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => {
                    ensure!(self.marks.len() < MAX_OBJECTS, "its pickle needs too deep a stack: not a checkpoint");
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let value = self.top()?;
                    self.push(value)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Value::Int(n.into()))?;
                }
                b'K' | b'M' => {
                    let n = self.number(if op == b'K' { 1 } else { 2 })?;
                    self.push(Value::Int(n as i64))?;
                }
                0x8a | 0x8b => self.long(if op == 0x8a { 1 } else { 4 })?,
                b'G' => {
                    let bits = self.take(8)?.iter().fold(0, |v, &b| v << 8 | u64::from(b));
                    self.push(Value::Float(f64::from_bits(bits)))?;
                }
                b'U' | b'T' | b'X' | 0x8c | 0x8d => {
                    let text = self.text(match op {
                        b'U' | 0x8c => 1,
                        0x8d => 8,
                        _ => 4,
                    })?;
                    self.push_new(Object::Str(text.to_owned()))?;
                }
                b'I' => {
                    let value = match self.line()? {
                        "00" => Value::Bool(false),
                        "01" => Value::Bool(true),
                        n => Value::Int(n.parse().with_context(|| format!("its pickle holds the integer '{n}': corrupt"))?),
                    };
                    self.push(value)?;
                }
                b'L' => {
                    let line = self.line()?;
                    match line.trim_end_matches('L').parse() {
                        Ok(n) => self.push(Value::Int(n))?,
                        Err(_) => self.push_new(Object::Opaque)?,
                    }
                }
                b'F' => {
                    let value = Value::Float(self.number_line()?);
                    self.push(value)?;
                }
                b'S' | b'V' => {
                    let line = self.line_bytes()?;
                    let text = if op == b'S' { unescape::literal(line) } else { unescape::raw(line) };
                    let text = text.context("its pickle holds text that cannot be read")?;
                    self.push_new(Object::Str(text))?;
                }
                b'C' | b'B' | 0x8e | 0x96 => {
                    let n = self.number(match op {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
                    self.push_new(Object::Opaque)?;
                }
                b']' | b')' | 0x8f => self.push_new(Object::Sequence(Vec::new()))?,
                b'}' => self.push_new(Object::Dict(Vec::new()))?,
                b't' | b'l' | 0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push_new(Object::Sequence(items))?;
                }
                0x85..=0x87 => {
                    let n = usize::from(op - 0x84);
                    let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                    items.reverse();
                    self.push_new(Object::Sequence(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    let list = self.top()?;
                    self.append(list, vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    let list = self.top()?;
                    self.append(list, items)?;
                }
                b'd' => {
                    let items = self.pop_to_mark()?;
                    let dict = self.make(Object::Dict(Vec::new()))?;
                    self.assign(dict, items)?;
                    self.push(dict)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    let dict = self.top()?;
                    self.assign(dict, vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    let dict = self.top()?;
                    self.assign(dict, items)?;
                }
                b'c' => {
                    let (module, item) = (self.line()?, self.line()?);
                    self.push_name(module, item)?;
                }
                0x93 => {
                    let (item, module) = (self.pop()?, self.pop()?);
                    match (self.object(module), self.object(item)) {
                        (Some(Object::Str(module)), Some(Object::Str(item))) => {
                            let (module, item) = (module.clone(), item.clone());
                            self.push_name(&module, &item)?;
                        }
                        _ => bail!("its pickle asks for a name that is no text: corrupt"),
                    }
                }
                b'R' | 0x81 => self.call()?,
                b'b' => self.build()?,
                b'Q' => self.storage()?,
                b'g' => {
                    let index = self.number_line()?;
                    self.recall(index)?;
                }
                b'p' => {
                    let index = self.number_line()?;
                    self.memoize(index)?;
                }
                b'h' | b'j' => {
                    let index = self.number(if op == b'h' { 1 } else { 4 })?;
                    self.recall(index)?;
                }
                b'q' | b'r' => {
                    let index = self.number(if op == b'q' { 1 } else { 4 })?;
                    self.memoize(index)?;
                }
                0x94 => self.memoize(self.memo.len() as u64)?,
                _ => bail!(
                    "its pickle has the instruction 0x{op:02x} at byte {}, which plain data and tensors do not need; nothing was run",
                    self.at - 1
                ),
            }
        }
    }

    /// A little-endian two's complement integer; what does not fit 64 bits is only passed over.
    fn long(&mut self, length_bytes: usize) -> Result<()> {
        let n = self.number(length_bytes)?;
        let raw = self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
        if raw.len() > 8 {
            return self.push_new(Object::Opaque);
        }
        let fill = if raw.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut bytes = [fill; 8];
        bytes[..raw.len()].copy_from_slice(raw);
        self.push(Value::Int(i64::from_le_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(bytes: &[u8]) -> String {
        match Pickle::load(bytes) {
            Ok(_) => panic!("accepted"),
            Err(e) => format!("{e:#}"),
        }
    }

    /// `{"w": _rebuild_tensor_v2(('storage', FloatStorage, '0', 'cpu', 6), 0, (2, 3), (3, 1), False, OrderedDict())}` as
    /// torch.save writes it.
    const TENSOR: &[u8] = b"\x80\x02}q\0X\x01\0\0\0wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03\
        ctorch\nFloatStorage\nq\x04X\x01\0\0\x000q\x05X\x03\0\0\0cpuq\x06K\x06tq\x07QK\0K\x02K\x03\x86q\x08K\x03K\x01\x86q\t\
        \x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.";

    #[test]
    fn rebuilds_a_tensor() {
        let p = Pickle::load(TENSOR).unwrap();
        let tensor = p.object(p.get(p.root, "w").unwrap()).unwrap();
        let Object::Tensor { storage, offset, shape, strides } = tensor else { panic!("{tensor:?}") };
        assert_eq!((*offset, shape.as_slice(), strides.as_slice()), (0, &[2, 3][..], &[3, 1][..]));
        let Some(Object::Storage { dtype, entry, length }) = p.object(Value::Object(*storage)) else { panic!() };
        assert_eq!((*dtype, entry.as_str(), *length), (Dtype::F32, "0", 6));
    }

    #[test]
    fn code_is_refused_by_name() {
        assert!(fails(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.").contains("'os.system'"));
        assert!(fails(b"\x80\x02cposix\nsystem\n.").contains("'posix.system'"));
        assert!(fails(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").contains("'builtins.eval'"));
        assert!(fails(b"\x80\x02ctorch.storage\n_load_from_bytes\n.").contains("'torch.storage._load_from_bytes'"));
        assert!(fails(b"\x80\x02ctorch\nEvilStorage\n.").contains("'torch.EvilStorage'"));
        assert!(fails(b"\x80\x02(ios\nsystem\n.").contains("instruction 0x69"));
        // Text is not callable, nor is a tensor's storage class.
        assert!(fails(b"\x80\x02X\x02\0\0\0ls)R.").contains("cannot be called"));
        assert!(fails(b"\x80\x02ctorch\nFloatStorage\n)R.").contains("cannot be called"));
    }

    #[test]
    fn nesting_and_cycles_are_harmless() {
        // A list in a list, a million deep.
        let mut deep = b"\x80\x02".to_vec();
        deep.extend([b']'; 1 << 20]);
        deep.extend([b'a'; (1 << 20) - 1]);
        deep.push(b'.');
        assert!(Pickle::load(&deep).is_ok());
        // A list that holds itself.
        assert!(Pickle::load(b"\x80\x02]q\0h\0a.").is_ok());
        // Too many of anything.
        let many = |op: u8| fails(&[b"\x80\x02".as_slice(), &vec![op; MAX_OBJECTS + 2]].concat());
        assert!(many(b']').contains("too"));
        assert!(many(b'N').contains("too deep a stack"));
        assert!(many(b'(').contains("too deep a stack"));
        // A short pickle that copies one long list again and again.
        let mut copies = b"\x80\x02cbuiltins\nlist\nq\0](".to_vec();
        copies.extend([b'N'; 100_000]);
        copies.extend(b"e\x85q\x01");
        copies.extend(b"h\0h\x01R0".repeat(1000));
        assert!(fails(&copies).contains("copies too many"));
    }

    #[test]
    fn lengths_are_checked() {
        assert!(fails(b"\x80\x02X\xff\xff\xff\xffab.").contains("ends too early"));
        assert!(fails(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.").contains("ends too early"));
        assert!(fails(b"\x80\x02\x8b\xff\xff\xff\x7f.").contains("ends too early"));
        assert!(fails(b"\x80\x02h\x07.").contains("never made"));
        assert!(fails(b"\x80\x02.").contains("empty stack"));
        assert!(fails(b"\x80\x00N.").contains("protocol 0"));
        assert!(fails(b"").contains("ends too early"));
    }

    #[test]
    fn damage_never_panics() {
        for n in 0..TENSOR.len() {
            fails(&TENSOR[..n]);
        }
        let mut bytes = TENSOR.to_vec();
        for i in 0..bytes.len() {
            for value in 0..=255 {
                let old = std::mem::replace(&mut bytes[i], value);
                drop(Pickle::load(&bytes));
                bytes[i] = old;
            }
        }
    }

    /// The same list as Python 2 and Python 3 write it in protocol 0.
    #[test]
    fn protocol_0_is_read() {
        let python2 =
            b"(lp0\n(dp1\nS'a'\np2\nI-7\nsS\"it's\"\np3\nF0.5\nsS'c'\np4\n(lp5\nI01\naL12L\nag2\nasVpur\xe9e\np6\nNsa.";
        let python3 =
            b"(lp0\n(dp1\nVa\np2\nI-7\nsVit's\np3\nF0.5\nsVc\np4\n(lp5\nI01\naI12\nag2\nasVpur\xe9e\np6\nNsa.";
        for bytes in [&python2[..], python3] {
            let p = Pickle::load(bytes).unwrap();
            let Some(Object::Sequence(items)) = p.object(p.root) else { panic!("no list") };
            let get = |key| p.get(items[0], key);
            assert_eq!(get("a"), Some(Value::Int(-7)));
            assert_eq!(get("it's"), Some(Value::Float(0.5)));
            assert_eq!(get("pur\u{e9}e"), Some(Value::None));
            let Some(Object::Sequence(c)) = get("c").and_then(|c| p.object(c)) else { panic!("no list") };
            assert_eq!((c[0], c[1], p.str(c[2])), (Value::Bool(true), Value::Int(12), Some("a")));
        }
        assert!(fails(b"I12x\n.").contains("'12x'"));
        assert!(fails(b"(lpx\n.").contains("'x'"));
        assert!(fails(b"S'a\n.").contains("cannot be read"));
    }

    #[test]
    fn settings_are_found() {
        // A Namespace: NEWOBJ, then BUILD with its attributes.
        let p = Pickle::load(b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x10sb.").unwrap();
        assert_eq!(p.get(p.root, "a"), Some(Value::Int(16)));
        // The last assignment counts; integers are signed.
        let p = Pickle::load(b"\x80\x02}(X\x01\0\0\0aK\x01X\x01\0\0\0a\x8a\x01\xffu.").unwrap();
        assert_eq!(p.get(p.root, "a"), Some(Value::Int(-1)));
        assert_eq!(p.get(p.root, "b"), None);
    }
}
