//! GGUF version 3, just enough to make small model files, sound and spoilt ones.

use std::path::Path;

/// A metadata value.
#[derive(Clone)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl From<u32> for Value {
    fn from(v: u32) -> Value {
        Value::U32(v)
    }
}

impl From<f32> for Value {
    fn from(v: f32) -> Value {
        Value::F32(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Value {
        Value::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::Text(v.into())
    }
}

/// ggml's numbers of the types used here.
pub const F32: u32 = 0;
pub const F16: u32 = 1;

#[derive(Clone)]
struct Tensor {
    name: String,
    /// Row-major, as in PyTorch.
    shape: Vec<usize>,
    ty: u32,
    data: Vec<u8>,
}

#[derive(Clone, Default)]
pub struct File {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

impl File {
    /// Adds a key or gives it another value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value.into()));
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.iter().map(|(k, _)| k.as_str())
    }

    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// Adds a single-precision tensor or gives it other values.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        self.typed_tensor(name, shape, F32, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    pub fn typed_tensor(&mut self, name: &str, shape: &[usize], ty: u32, data: Vec<u8>) {
        self.remove_tensor(name);
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), ty, data });
    }

    /// Takes a linear layer apart into several of equally many rows.
    pub fn split_rows(&mut self, name: &str, parts: &[String]) {
        for kind in ["weight", "bias"] {
            let name = format!("{name}.{kind}");
            let at = self.tensors.iter().position(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
            let whole = self.tensors.remove(at);
            let (rows, bytes) = (whole.shape[0] / parts.len(), whole.data.len() / parts.len());
            for (part, data) in parts.iter().zip(whole.data.chunks(bytes)) {
                let shape: Vec<usize> = [rows].into_iter().chain(whole.shape[1..].iter().copied()).collect();
                self.typed_tensor(&format!("{part}.{kind}"), &shape, whole.ty, data.to_vec());
            }
        }
    }

    pub fn remove_tensor(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
    }

    pub fn write(&self, path: &Path) {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            put_text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            for &n in t.shape.iter().rev() {
                out.extend((n as u64).to_le_bytes());
            }
            out.extend(t.ty.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (t.data.len() as u64).next_multiple_of(32);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.data);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        std::fs::write(path, out).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let array = |out: &mut Vec<u8>, ty: u32, n: usize| {
        out.extend([9, ty].iter().flat_map(|t| t.to_le_bytes()));
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Value::U32(v) => {
            out.extend(4u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Value::F32(v) => {
            out.extend(6u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Value::Bool(v) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*v));
        }
        Value::Text(v) => {
            out.extend(8u32.to_le_bytes());
            put_text(out, v);
        }
        Value::Texts(v) => {
            array(out, 8, v.len());
            v.iter().for_each(|s| put_text(out, s));
        }
        Value::I32s(v) => {
            array(out, 5, v.len());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
        Value::F32s(v) => {
            array(out, 6, v.len());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
}
