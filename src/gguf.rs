//! GGUF files, memory-mapped or copied: a strict reader. Nothing else in the crate parses GGUF.
//!
//! Everything in the file is checked before anything is used, so that neither this crate nor llama.cpp (whose own checks end
//! the process in places) meets a count, size or offset that does not add up. Format: the GGUF specification of the ggml
//! project, versions 2 and 3.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;
const MAX_KEY_LENGTH: u64 = 65_535;
/// ggml keeps tensor names in 64 bytes, terminator included.
const MAX_TENSOR_NAME_LENGTH: u64 = 63;
const MAX_DIMENSIONS: u32 = 4;

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Blocks of 32 signed bytes behind one half-precision scale.
    Q8_0,
    /// Any other type of ggml, by its number.
    Other(u32),
}

/// (ggml type number, name, values a block, bytes a block) of every type that a file may hold.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
];

impl TensorType {
    fn from_number(number: u32) -> Option<(TensorType, u64, u64)> {
        let &(_, _, block, bytes) = TYPES.iter().find(|t| t.0 == number)?;
        let ty = match number {
            0 => TensorType::F32,
            1 => TensorType::F16,
            8 => TensorType::Q8_0,
            30 => TensorType::BF16,
            other => TensorType::Other(other),
        };
        Some((ty, block, bytes))
    }

    /// ggml's number of the type.
    pub fn number(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q8_0 => 8,
            TensorType::BF16 => 30,
            TensorType::Other(number) => number,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number();
        match TYPES.iter().find(|t| t.0 == number) {
            Some(t) => f.write_str(t.1),
            None => write!(f, "type {number}"),
        }
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer type of the format.
    Unsigned(u64),
    /// Any signed integer type of the format.
    Signed(i64),
    /// Single or double precision.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text; bytes that are no UTF-8 are replaced.
    String(String),
    /// An array of unsigned integers.
    UnsignedArray(Vec<u64>),
    /// An array of signed integers.
    SignedArray(Vec<i64>),
    /// An array of floats.
    FloatArray(Vec<f64>),
    /// An array of booleans.
    BoolArray(Vec<bool>),
    /// An array of texts.
    StringArray(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
            const SHOWN: usize = 8;
            f.write_str("[")?;
            for (i, item) in items.iter().take(SHOWN).enumerate() {
                write!(f, "{}{item:?}", if i == 0 { "" } else { ", " })?;
            }
            match items.len() {
                n if n > SHOWN => write!(f, ", … {n} in all]"),
                _ => f.write_str("]"),
            }
        }
        match self {
            Value::Unsigned(v) => write!(f, "{v}"),
            Value::Signed(v) => write!(f, "{v}"),
            // Stored values are mostly f32: print the digits that such a value has.
            Value::Float(v) => write!(f, "{}", *v as f32),
            Value::Bool(v) => write!(f, "{v}"),
            Value::String(v) => write!(f, "{v:?}"),
            Value::UnsignedArray(v) => list(f, v),
            Value::SignedArray(v) => list(f, v),
            Value::FloatArray(v) => list(f, &v.iter().map(|x| *x as f32).collect::<Vec<_>>()),
            Value::BoolArray(v) => list(f, v),
            Value::StringArray(v) => list(f, v),
        }
    }
}

/// What the file says of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Row-major shape as in PyTorch: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// Storage type.
    pub ty: TensorType,
    /// Bytes of its data.
    pub size_bytes: usize,
    /// Where the data starts, from the start of the file.
    start: usize,
}

/// A tensor's data inside the file's memory, which it keeps alive.
#[derive(Clone)]
pub struct Tensor {
    map: Arc<Mmap>,
    info: TensorInfo,
}

impl Tensor {
    /// Name in the file.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Storage type.
    pub fn ty(&self) -> TensorType {
        self.info.ty
    }

    /// Row-major shape.
    pub fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The stored bytes: rows one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.info.start..self.info.start + self.info.size_bytes]
    }
}

/// How a file's bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// All of them, memory-mapped: whoever truncates the file ends this process, whoever writes into it changes the weights.
    Mapped,
    /// All of them, in memory of our own.
    Copied,
    /// Those in front of the tensors' data, in memory of our own, of a file whose tensors somebody else reads.
    Header,
}

/// A validated GGUF file.
pub struct Gguf {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    map: Arc<Mmap>,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gguf({}, {} keys, {} tensors)", self.path.display(), self.metadata.len(), self.tensors.len())
    }
}

impl Gguf {
    /// Maps the file and checks all of its header: magic, version, counts, keys, values, tensor types, shapes, sizes,
    /// offsets and overlaps. The tensors' numbers are not looked at.
    pub fn open(path: &Path) -> Result<Gguf> {
        Gguf::open_as(path, Hold::Mapped)
    }

    /// [`open`](Self::open), with the bytes held as wanted.
    pub(crate) fn open_as(path: &Path, hold: Hold) -> Result<Gguf> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
        if meta.is_dir() {
            return Err(Error::bad_file(path, "it is a folder; pass the .gguf file inside it"));
        }
        let size = meta.len();
        if size == 0 {
            return Err(Error::bad_file(path, "the file is empty; copy or convert it again"));
        }
        let bad_file = |problem| Error::bad_file(path, problem);
        let (map, parsed) = match hold {
            Hold::Mapped => {
                // SAFETY: the mapping is read-only and private. Another process that truncates the file while it is mapped
                // is outside what a library can guard against here; the header documents that model files must not change,
                // and `Copied` is for those who cannot promise it.
                let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
                let parsed = parse(&map, map.len() as u64).map_err(bad_file)?;
                (map, parsed)
            }
            Hold::Copied => {
                let map = copy_start(&mut file, path, size)?;
                let parsed = parse(&map, size).map_err(bad_file)?;
                (map, parsed)
            }
            Hold::Header => read_header(&mut file, path, size)?,
        };
        let keys = parsed.metadata.iter().enumerate().map(|(i, (k, _))| (k.clone(), i)).collect();
        let names = parsed.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Gguf {
            path: path.to_owned(),
            size,
            modified: meta.modified().ok(),
            map: Arc::new(map),
            metadata: parsed.metadata,
            keys,
            tensors: parsed.tensors,
            names,
        })
    }

    /// Tells whether the path still names what was checked: for after somebody else has opened it, too.
    ///
    /// # Errors
    /// `Io` when the file is gone, has another size or was written to.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let meta = std::fs::metadata(&self.path).map_err(|e| Error::io("read", &self.path, e))?;
        if meta.len() == self.size && meta.modified().ok() == self.modified {
            return Ok(());
        }
        let changed =
            std::io::Error::new(ErrorKind::Interrupted, "it changed while it was being loaded; load it again");
        Err(Error::io("read", &self.path, changed))
    }

    /// The file's path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn file_size(&self) -> u64 {
        self.size
    }

    /// The file's bytes in front of its first tensor's data: everything but the weights.
    pub fn header(&self) -> &[u8] {
        let end = self.tensors.iter().map(|t| t.start).min().unwrap_or(self.map.len());
        &self.map[..end.min(self.map.len())]
    }

    /// All metadata in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of a key, if the file has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    /// Whether the file has the key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    fn require<'a, T>(&'a self, key: &str, what: &str, pick: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        let value = self.get(key).ok_or_else(|| {
            Error::unsupported(&self.path, format!("it has no key '{key}'; convert the model with tinygptv-convert"))
        })?;
        pick(value).ok_or_else(|| Error::unsupported(&self.path, format!("its key '{key}' is {value}, not {what}")))
    }

    /// A required text.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.require(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// A required integer from 0 to 2³²−1, whatever integer type stores it.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.require(key, "an integer from 0 to 4294967295", |v| match *v {
            Value::Unsigned(n) => u32::try_from(n).ok(),
            Value::Signed(n) => u32::try_from(n).ok(),
            _ => None,
        })
    }

    /// A required finite float.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.require(key, "a finite number", |v| match *v {
            Value::Float(x) if (x as f32).is_finite() => Some(x as f32),
            _ => None,
        })
    }

    /// A required boolean.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.require(key, "true or false", |v| match *v {
            Value::Bool(b) => Some(b),
            _ => None,
        })
    }

    /// A required array of finite floats.
    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>> {
        self.require(key, "an array of finite numbers", |v| match v {
            Value::FloatArray(a) if a.iter().all(|x| (*x as f32).is_finite()) => {
                Some(a.iter().map(|&x| x as f32).collect())
            }
            _ => None,
        })
    }

    /// A required array of texts.
    pub fn str_array(&self, key: &str) -> Result<&[String]> {
        self.require(key, "an array of strings", |v| match v {
            Value::StringArray(a) => Some(a.as_slice()),
            _ => None,
        })
    }

    /// A required array of integers that fit `i32`, whatever integer type stores them.
    pub fn i32_array(&self, key: &str) -> Result<Vec<i32>> {
        self.require(key, "an array of 32-bit integers", |v| match v {
            Value::SignedArray(a) => a.iter().map(|&x| i32::try_from(x).ok()).collect(),
            Value::UnsignedArray(a) => a.iter().map(|&x| i32::try_from(x).ok()).collect(),
            _ => None,
        })
    }

    /// What the file holds, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The named tensor, if the file has it.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.names.get(name).map(|&i| &self.tensors[i])
    }

    /// What the file says of the named tensor, whose shape must be `shape` (row-major).
    pub fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let info = self.find_tensor(name).ok_or_else(|| {
            Error::unsupported(
                &self.path,
                format!("it has no tensor '{name}' {shape:?}; convert the model with tinygptv-convert"),
            )
        })?;
        if info.shape != shape {
            return Err(Error::unsupported(
                &self.path,
                format!("its tensor '{name}' is {:?} where its metadata make it {shape:?}", info.shape),
            ));
        }
        Ok(info)
    }

    /// The named tensor, whose shape must be `shape` (row-major).
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let info = self.check_tensor(name, shape)?;
        if info.start + info.size_bytes > self.map.len() {
            return Err(Error::Internal(format!("only the header of '{}' was read", self.path.display())));
        }
        Ok(Tensor { map: self.map.clone(), info: info.clone() })
    }
}

/// The first `size` bytes of a file, in memory that no file backs.
fn copy_start(file: &mut File, path: &Path, size: u64) -> Result<Mmap> {
    let memory = usize::try_from(size).ok().and_then(|size| MmapMut::map_anon(size).ok());
    let mut memory = memory.ok_or_else(|| {
        Error::OutOfMemory(
            format!(
                "{size} bytes for a copy of '{}' cannot be had; free memory, or map the file instead",
                path.display()
            )
            .into(),
        )
    })?;
    let read = file.read_exact(&mut memory).and_then(|()| memory.make_read_only());
    read.map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::bad_file(path, "it became shorter while it was read: load it again"),
        _ => Error::io("read", path, e),
    })
}

/// More than the header of most models.
const HEADER_GUESS: u64 = 4 << 20;

/// The header of a file that may be much larger: as much from its start as turns out to be needed.
fn read_header(file: &mut File, path: &Path, size: u64) -> Result<(Mmap, Parsed)> {
    let mut length = size.min(HEADER_GUESS);
    loop {
        file.rewind().map_err(|e| Error::io("read", path, e))?;
        let map = copy_start(file, path, length)?;
        match parse(&map, size) {
            Ok(parsed) => return Ok((map, parsed)),
            Err(problem) if length == size || !map.starts_with(MAGIC) => return Err(Error::bad_file(path, problem)),
            // Perhaps it only ends too early.
            Err(_) => length = size.min(length.saturating_mul(8)),
        }
    }
}

struct Parsed {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
}

/// Bounds-checked little-endian reading. Errors are sentences for the user.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Problem = String;

impl<'a> Reader<'a> {
    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, n: u64) -> std::result::Result<&'a [u8], Problem> {
        if n > self.remaining() {
            return Err(format!(
                "it ends at byte {} inside its header, which needs {n} bytes from {}: the file is truncated or corrupt, copy \
                 it again",
                self.bytes.len(),
                self.at
            ));
        }
        let slice = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> std::result::Result<[u8; N], Problem> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> std::result::Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> std::result::Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> std::result::Result<&'a [u8], Problem> {
        let n = self.u64()?;
        self.take(n)
    }

    /// A name: UTF-8 of bounded, non-zero length without NUL.
    fn name(&mut self, what: &str, max: u64) -> std::result::Result<String, Problem> {
        let n = self.u64()?;
        if n == 0 || n > max {
            return Err(format!("a {what} at byte {} is {n} bytes long (1 to {max} allowed): corrupt", self.at - 8));
        }
        let raw = self.take(n)?;
        match std::str::from_utf8(raw) {
            Ok(s) if !s.contains('\0') => Ok(s.to_owned()),
            _ => Err(format!("a {what} at byte {} is not text: corrupt", self.at as u64 - n)),
        }
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of one value of a metadata type; for strings the least it can take.
fn minimum_size(ty: u32) -> Option<u64> {
    Some(match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING | 10..=12 => 8,
        _ => return None,
    })
}

fn read_value(r: &mut Reader<'_>, key: &str) -> std::result::Result<Value, Problem> {
    let ty = r.u32()?;
    if ty != ARRAY {
        return read_scalar(r, ty, key);
    }
    let ty = r.u32()?;
    let count = r.u64()?;
    let size =
        minimum_size(ty).ok_or_else(|| format!("key '{key}' is an array of type {ty}, which is no element type"))?;
    if count > r.remaining() / size {
        return Err(format!("key '{key}' claims {count} elements, more than the file holds: truncated or corrupt"));
    }
    let count = count as usize;
    let mut unsigned = Vec::new();
    let mut signed = Vec::new();
    let mut floats = Vec::new();
    let mut bools = Vec::new();
    let mut strings = Vec::new();
    for _ in 0..count {
        match read_scalar(r, ty, key)? {
            Value::Unsigned(v) => unsigned.push(v),
            Value::Signed(v) => signed.push(v),
            Value::Float(v) => floats.push(v),
            Value::Bool(v) => bools.push(v),
            Value::String(v) => strings.push(v),
            _ => unreachable!("a scalar is never an array"),
        }
    }
    Ok(match ty {
        0 | 2 | 4 | 10 => Value::UnsignedArray(unsigned),
        1 | 3 | 5 | 11 => Value::SignedArray(signed),
        6 | 12 => Value::FloatArray(floats),
        7 => Value::BoolArray(bools),
        _ => Value::StringArray(strings),
    })
}

fn read_scalar(r: &mut Reader<'_>, ty: u32, key: &str) -> std::result::Result<Value, Problem> {
    Ok(match ty {
        0 => Value::Unsigned(r.array::<1>()?[0].into()),
        1 => Value::Signed(i8::from_le_bytes(r.array()?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(r.array()?).into()),
        3 => Value::Signed(i16::from_le_bytes(r.array()?).into()),
        4 => Value::Unsigned(r.u32()?.into()),
        5 => Value::Signed(i32::from_le_bytes(r.array()?).into()),
        6 => Value::Float(f32::from_le_bytes(r.array()?).into()),
        7 => match r.array::<1>()?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(format!("key '{key}' is a boolean of value {other}: corrupt")),
        },
        STRING => Value::String(String::from_utf8_lossy(r.text()?).into_owned()),
        10 => Value::Unsigned(r.u64()?),
        11 => Value::Signed(i64::from_le_bytes(r.array()?)),
        12 => Value::Float(f64::from_le_bytes(r.array()?)),
        _ => return Err(format!("key '{key}' has type {ty}, which GGUF does not know: corrupt")),
    })
}

/// What other kinds of file start with, and what to tell somebody who passes one as a model.
fn wrong_kind(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\x89PNG") || starts(b"\xff\xd8\xff") || starts(b"GIF8") || (starts(b"RIFF") && bytes.len() > 11) {
        "it is a picture, not a model; pass the decoder .gguf, then the vision .gguf"
    } else if starts(b"PK\x03\x04") {
        "it is a zip file, probably a PyTorch checkpoint; convert it with tinygptv-convert first"
    } else if starts(b"version https://git-lfs") {
        "it is a Git LFS pointer, not the file itself; fetch the real file with git lfs pull"
    } else if starts(b"<") {
        "it is a web page, not a model; the download went wrong"
    } else if bytes.len() > 9 && bytes[8] == b'{' {
        "it looks like a safetensors file; convert it with tinygptv-convert first"
    } else if starts(b"FUGG") {
        "it is a big-endian GGUF, which is not supported; convert the model on a little-endian machine"
    } else {
        "it does not start with the GGUF magic; pass a .gguf file"
    }
}

/// Parses the header of a file of `file_size` bytes from as many of them as are there.
fn parse(bytes: &[u8], file_size: u64) -> std::result::Result<Parsed, Problem> {
    if !bytes.starts_with(MAGIC) {
        return Err(wrong_kind(bytes).to_owned());
    }
    let mut r = Reader { bytes, at: MAGIC.len() };
    match r.u32()? {
        2 | 3 => {}
        1 => return Err("GGUF version 1 is no longer in use; convert the model again".into()),
        v if v & 0xffff == 0 => return Err("it is a big-endian GGUF, which is not supported".into()),
        v => return Err(format!("GGUF version {v} is unknown (2 and 3 are read); update this library")),
    }
    let n_tensors = r.u64()?;
    let n_keys = r.u64()?;
    // A tensor takes at least 33 bytes of header (name of 1, one dimension), a key 14.
    if n_tensors > r.remaining() / 33 || n_keys > r.remaining() / 14 {
        return Err(format!(
            "it claims {n_keys} keys and {n_tensors} tensors, more than it can hold: truncated or corrupt"
        ));
    }

    let mut metadata = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_keys {
        let key = r.name("key", MAX_KEY_LENGTH)?;
        let value = read_value(&mut r, &key)?;
        if !seen.insert(key.clone()) {
            return Err(format!("key '{key}' occurs twice: corrupt"));
        }
        metadata.push((key, value));
    }
    let alignment = match metadata.iter().find(|(k, _)| k == "general.alignment") {
        None => DEFAULT_ALIGNMENT,
        // llama.cpp insists on u32 here, so a wider value must be refused even if it is small.
        // Less than the default is not enough for ggml, which then ends the process.
        Some((_, Value::Unsigned(a))) if a.is_power_of_two() && (DEFAULT_ALIGNMENT..=MAX_ALIGNMENT).contains(a) => *a,
        Some((_, v)) => {
            return Err(format!(
                "its general.alignment is {v}, not a power of two from {DEFAULT_ALIGNMENT} to {MAX_ALIGNMENT}"
            ));
        }
    };

    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let (tensor, offset) = read_tensor_info(&mut r, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(format!("tensor '{}' occurs twice: corrupt", tensor.name));
        }
        tensors.push((tensor, offset));
    }

    let data_start = (r.at as u64).next_multiple_of(alignment);
    let data_size = file_size.saturating_sub(data_start);
    for (tensor, offset) in &mut tensors {
        let end = offset.checked_add(tensor.size_bytes as u64);
        if end.is_none_or(|e| e > data_size) {
            return Err(format!(
                "tensor '{}' ({} bytes at {offset} of the data) reaches past the end of the file: it is truncated, copy it \
                 again",
                tensor.name, tensor.size_bytes
            ));
        }
        tensor.start = (data_start + *offset) as usize;
    }
    let tensors: Vec<TensorInfo> = tensors.into_iter().map(|(t, _)| t).collect();
    check_overlaps(&tensors)?;
    Ok(Parsed { metadata, tensors })
}

fn read_tensor_info(r: &mut Reader<'_>, alignment: u64) -> std::result::Result<(TensorInfo, u64), Problem> {
    let name = r.name("tensor name", MAX_TENSOR_NAME_LENGTH)?;
    let n_dims = r.u32()?;
    if n_dims == 0 || n_dims > MAX_DIMENSIONS {
        return Err(format!("tensor '{name}' has {n_dims} dimensions (1 to {MAX_DIMENSIONS} allowed): corrupt"));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    let mut elements: u64 = 1;
    for _ in 0..n_dims {
        let d = r.u64()?;
        // i64::MAX is ggml's own limit for a count of elements.
        elements = match elements.checked_mul(d) {
            Some(n) if d > 0 && n <= i64::MAX as u64 => n,
            _ => return Err(format!("tensor '{name}' has a dimension of {d}, or too many elements: corrupt")),
        };
        shape.push(d as usize);
    }
    let number = r.u32()?;
    let (ty, block, block_bytes) = TensorType::from_number(number)
        .ok_or_else(|| format!("tensor '{name}' has type {number}, which is unknown; update this library"))?;
    if !(shape[0] as u64).is_multiple_of(block) {
        return Err(format!("tensor '{name}' has rows of {}, not a multiple of {ty}'s block of {block}", shape[0]));
    }
    let size = (elements / block)
        .checked_mul(block_bytes)
        .filter(|&s| s <= i64::MAX as u64)
        .ok_or_else(|| format!("tensor '{name}' is too large: corrupt"))?;
    let offset = r.u64()?;
    if !offset.is_multiple_of(alignment) {
        return Err(format!("tensor '{name}' starts at {offset}, which is not aligned to {alignment}: corrupt"));
    }
    shape.reverse();
    Ok((TensorInfo { name, shape, ty, size_bytes: size as usize, start: 0 }, offset))
}

fn check_overlaps(tensors: &[TensorInfo]) -> std::result::Result<(), Problem> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].size_bytes > pair[1].start {
            return Err(format!("tensors '{}' and '{}' overlap: corrupt", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal well-formed file that the tests then spoil.
    struct Builder {
        bytes: Vec<u8>,
    }

    impl Builder {
        fn new(version: u32, tensors: u64, keys: u64) -> Self {
            let mut bytes = b"GGUF".to_vec();
            bytes.extend(version.to_le_bytes());
            bytes.extend(tensors.to_le_bytes());
            bytes.extend(keys.to_le_bytes());
            Builder { bytes }
        }

        fn text(mut self, s: &str) -> Self {
            self.bytes.extend((s.len() as u64).to_le_bytes());
            self.bytes.extend(s.as_bytes());
            self
        }

        fn raw(mut self, raw: &[u8]) -> Self {
            self.bytes.extend(raw);
            self
        }

        fn u32_key(self, key: &str, value: u32) -> Self {
            self.text(key).raw(&4u32.to_le_bytes()).raw(&value.to_le_bytes())
        }

        fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
            let mut b = self.text(name).raw(&(dims.len() as u32).to_le_bytes());
            for d in dims {
                b = b.raw(&d.to_le_bytes());
            }
            b.raw(&ty.to_le_bytes()).raw(&offset.to_le_bytes())
        }

        fn data(mut self, n: usize) -> Vec<u8> {
            self.bytes.resize(self.bytes.len().next_multiple_of(32) + n, 0);
            self.bytes
        }
    }

    fn problem(bytes: &[u8]) -> String {
        match parse(bytes, bytes.len() as u64) {
            Ok(_) => panic!("accepted"),
            Err(p) => p,
        }
    }

    #[test]
    fn reads_keys_and_tensors() {
        let b = Builder::new(3, 2, 1).u32_key("a.b", 7).tensor("x", &[32, 2], 8, 0).tensor("y", &[3], 0, 96).data(108);
        let p = parse(&b, b.len() as u64).unwrap();
        assert_eq!(p.metadata, [("a.b".to_owned(), Value::Unsigned(7))]);
        assert_eq!(p.tensors[0].shape, [2, 32]);
        assert_eq!(p.tensors[0].size_bytes, 68);
        assert_eq!(p.tensors[1].ty, TensorType::F32);
        // Every shorter file is refused, none panics.
        for n in 0..b.len() {
            problem(&b[..n]);
        }
    }

    #[test]
    fn refuses_what_does_not_add_up() {
        let with_tensor = |dims: &[u64], ty: u32, offset: u64| {
            problem(&Builder::new(3, 1, 0).tensor("t", dims, ty, offset).data(4096))
        };
        assert!(with_tensor(&[], 0, 0).contains("0 dimensions"));
        assert!(with_tensor(&[1, 1, 1, 1, 1], 0, 0).contains("5 dimensions"));
        assert!(with_tensor(&[0], 0, 0).contains("dimension of 0"));
        assert!(with_tensor(&[1 << 40, 1 << 40], 0, 0).contains("too many"));
        assert!(with_tensor(&[i64::MAX as u64], 0, 0).contains("too large"));
        assert!(with_tensor(&[u64::MAX], 0, 0).contains("too many"));
        assert!(with_tensor(&[31], 8, 0).contains("block of 32"));
        assert!(with_tensor(&[4], 4, 0).contains("unknown"));
        assert!(with_tensor(&[4], 0, 1).contains("not aligned"));
        assert!(with_tensor(&[4], 0, 8192).contains("past the end"));
        assert!(with_tensor(&[4], 0, u64::MAX - 31).contains("past the end"));

        assert!(problem(&Builder::new(1, 0, 0).data(0)).contains("version 1"));
        assert!(problem(&Builder::new(3 << 24, 0, 0).data(0)).contains("big-endian"));
        assert!(problem(&Builder::new(3, u64::MAX, 0).data(0)).contains("claims"));
        assert!(problem(&Builder::new(3, 0, u64::MAX).data(0)).contains("claims"));
        assert!(problem(&Builder::new(3, 0, 1).u32_key("", 1).data(0)).contains("0 bytes long"));
        assert!(problem(&Builder::new(3, 0, 2).u32_key("k", 1).u32_key("k", 1).data(0)).contains("twice"));
        assert!(problem(&Builder::new(3, 0, 1).u32_key("general.alignment", 0).data(0)).contains("alignment"));
        assert!(problem(&Builder::new(3, 0, 1).u32_key("general.alignment", 24).data(0)).contains("alignment"));
        let twice = Builder::new(3, 2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(4096);
        assert!(problem(&twice).contains("twice"));
        let overlap = Builder::new(3, 2, 0).tensor("t", &[16], 0, 0).tensor("u", &[8], 0, 32).data(4096);
        assert!(problem(&overlap).contains("overlap"));
    }

    #[test]
    fn refuses_hostile_values() {
        let key = |raw: &[u8]| problem(&Builder::new(3, 0, 1).text("k").raw(raw).data(64));
        assert!(key(&99u32.to_le_bytes()).contains("type 99"));
        assert!(key(&[7, 0, 0, 0, 2]).contains("boolean"));
        let huge_string = [8u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat();
        assert!(key(&huge_string).contains("truncated"));
        let huge_array = [9u32.to_le_bytes().as_slice(), &0u32.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
        assert!(key(&huge_array).contains("claims"));
        let nested = [9u32.to_le_bytes().as_slice(), &9u32.to_le_bytes(), &1u64.to_le_bytes()].concat();
        assert!(key(&nested).contains("no element type"));
    }

    /// A file with a header longer than the first guess of `read_header`.
    fn long_header() -> Vec<u8> {
        let words = |b: Builder, n: u64| (0..n).fold(b, |b, i| b.text(&format!("{i:>63}")));
        let count = HEADER_GUESS / 71 + 1;
        let array = [9u32.to_le_bytes().as_slice(), &8u32.to_le_bytes(), &count.to_le_bytes()].concat();
        words(Builder::new(3, 1, 1).text("words").raw(&array), count).tensor("t", &[16], 0, 0).data(64)
    }

    #[test]
    fn held_in_every_way() {
        let path = std::env::temp_dir().join(format!("tinygptv-held-{}.gguf", std::process::id()));
        let bytes = long_header();
        std::fs::write(&path, &bytes).unwrap();
        let held = [Hold::Mapped, Hold::Copied, Hold::Header].map(|hold| Gguf::open_as(&path, hold).unwrap());
        for file in &held {
            assert_eq!(file.file_size(), bytes.len() as u64);
            assert_eq!(file.str_array("words").unwrap().len() as u64, HEADER_GUESS / 71 + 1);
            assert_eq!(file.tensors(), held[0].tensors());
            file.check_unchanged().unwrap();
        }
        // A header of another length than the guess, and no tensors behind it.
        std::fs::write(&path, &long_header()[..200]).unwrap();
        assert!(held[0].check_unchanged().is_err());
        for hold in [Hold::Copied, Hold::Header] {
            assert!(matches!(Gguf::open_as(&path, hold), Err(Error::BadModelFile { .. })));
        }
        assert_eq!(held[1].tensor("t", &[16]).unwrap().bytes().len(), 64, "a copy stays as it was");
        std::fs::write(&path, Builder::new(3, 1, 0).tensor("t", &[4 << 20], 0, 0).data(16 << 20)).unwrap();
        let header = Gguf::open_as(&path, Hold::Header).unwrap();
        assert!(matches!(header.tensor("t", &[4 << 20]), Err(Error::Internal(_))));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn names_other_kinds_of_file() {
        assert!(problem(b"\x89PNG\r\n\x1a\n").contains("picture"));
        assert!(problem(b"PK\x03\x04xxxx").contains("PyTorch"));
        assert!(problem(b"<html>").contains("web page"));
        assert!(problem(b"\x10\0\0\0\0\0\0\0{\"a\"").contains("safetensors"));
        assert!(problem(b"hello").contains("magic"));
    }
}
