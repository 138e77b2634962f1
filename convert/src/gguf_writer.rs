//! A strict, streaming writer of GGUF version 3: header first, then each tensor's bytes in order, sizes checked.

use std::collections::HashSet;
use std::io::Write;

use anyhow::{bail, ensure, Context, Result};

use crate::quantize::Type;

const ALIGNMENT: u64 = 32;
const MAX_NAME: usize = 63;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    F32Array(Vec<f32>),
    I32Array(Vec<i32>),
    StringArray(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        fn text(out: &mut Vec<u8>, s: &str) {
            out.extend((s.len() as u64).to_le_bytes());
            out.extend(s.as_bytes());
        }
        fn array(out: &mut Vec<u8>, element: u32, count: usize) {
            out.extend(9u32.to_le_bytes());
            out.extend(element.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        }
        match self {
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
            Value::String(v) => {
                out.extend(8u32.to_le_bytes());
                text(out, v);
            }
            Value::F32Array(v) => {
                array(out, 6, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Value::I32Array(v) => {
                array(out, 5, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Value::StringArray(v) => {
                array(out, 8, v.len());
                v.iter().for_each(|s| text(out, s));
            }
        }
    }
}

/// Metadata in file order.
pub type Metadata = Vec<(String, Value)>;

/// What the header says of a tensor.
#[derive(Clone, Debug)]
pub struct TensorHeader {
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    pub ty: Type,
}

/// A file in the making.
pub struct Writer<W: Write> {
    out: W,
    tensors: Vec<TensorHeader>,
    /// The tensor that the next bytes belong to, and how many of its bytes are written.
    current: usize,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    pub fn new(mut out: W, metadata: &[(String, Value)], tensors: Vec<TensorHeader>) -> Result<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        let mut seen = HashSet::new();
        for (key, value) in metadata {
            ensure!(!key.is_empty() && seen.insert(key.as_str()), "metadata key '{key}' is empty or occurs twice");
            header.extend((key.len() as u64).to_le_bytes());
            header.extend(key.as_bytes());
            value.write(&mut header);
        }
        let mut offset = 0u64;
        seen.clear();
        for t in &tensors {
            ensure!(
                !t.name.is_empty() && t.name.len() <= MAX_NAME,
                "tensor name '{}' is not 1 to 63 bytes long",
                t.name
            );
            ensure!(seen.insert(&t.name), "tensor '{}' occurs twice", t.name);
            ensure!((1..=4).contains(&t.shape.len()), "tensor '{}' has {} dimensions", t.name, t.shape.len());
            ensure!(t.shape.iter().all(|&d| d > 0), "tensor '{}' {:?} is empty", t.name, t.shape);
            let row = t.shape[t.shape.len() - 1];
            ensure!(row % t.ty.block() == 0, "tensor '{}' has rows of {row}, no whole blocks", t.name);
            header.extend((t.name.len() as u64).to_le_bytes());
            header.extend(t.name.as_bytes());
            header.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|&d| header.extend((d as u64).to_le_bytes()));
            header.extend(t.ty.number().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += t.ty.bytes(&t.shape).next_multiple_of(ALIGNMENT);
        }
        header.resize((header.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        out.write_all(&header).context("cannot write")?;
        Ok(Writer { out, tensors, current: 0, written: 0 })
    }

    /// Writes the next bytes of the current tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(tensor) = self.tensors.get(self.current) else { bail!("there is no tensor left to write") };
        let size = tensor.ty.bytes(&tensor.shape);
        self.written += bytes.len() as u64;
        ensure!(self.written <= size, "tensor '{}' takes {size} bytes, not {}", tensor.name, self.written);
        self.out.write_all(bytes).context("cannot write")?;
        if self.written == size {
            let padding = size.next_multiple_of(ALIGNMENT) - size;
            self.out.write_all(&[0; ALIGNMENT as usize][..padding as usize]).context("cannot write")?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that every tensor is complete.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.tensors.get(self.current) {
            bail!("tensor '{}' is not complete", tensor.name);
        }
        self.out.flush().context("cannot write")?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, shape: &[usize], ty: Type) -> TensorHeader {
        TensorHeader { name: name.into(), shape: shape.into(), ty }
    }

    #[test]
    fn writes_what_the_format_says() {
        let metadata = vec![("k".to_owned(), Value::U32(7)), ("s".to_owned(), "ab".into())];
        let mut w = Writer::new(Vec::new(), &metadata, vec![header("t", &[2, 3], Type::F16)]).unwrap();
        w.write(&[1; 6]).unwrap();
        w.write(&[2; 6]).unwrap();
        let bytes = w.finish().unwrap();
        let mut expected = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x01\0\0\0\0\0\0\0k\x04\0\0\0\x07\0\0\0\x01\0\0\0\0\0\0\0s\x08\0\0\0\x02\0\0\0\0\0\0\0ab");
        expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0");
        expected.resize(expected.len().next_multiple_of(32), 0);
        expected.extend([1; 6]);
        expected.extend([2; 6]);
        expected.extend([0; 20]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn refuses_what_does_not_add_up() {
        let refuse = |t: Vec<TensorHeader>| Writer::new(Vec::new(), &[], t).err().unwrap().to_string();
        assert!(refuse(vec![header(&"n".repeat(64), &[1], Type::F32)]).contains("63 bytes"));
        assert!(refuse(vec![header("t", &[1], Type::F32), header("t", &[1], Type::F32)]).contains("twice"));
        assert!(refuse(vec![header("t", &[2, 33], Type::Q8_0)]).contains("whole blocks"));
        assert!(refuse(vec![header("t", &[1, 1, 1, 1, 1], Type::F32)]).contains("dimensions"));
        let mut w = Writer::new(Vec::new(), &[], vec![header("t", &[2], Type::F32)]).unwrap();
        assert!(w.write(&[0; 9]).unwrap_err().to_string().contains("takes 8 bytes"));
        let w = Writer::new(Vec::new(), &[], vec![header("t", &[2], Type::F32)]).unwrap();
        assert!(w.finish().err().unwrap().to_string().contains("not complete"));
    }
}
