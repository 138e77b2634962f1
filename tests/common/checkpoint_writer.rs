//! Checkpoint files as PyTorch and safetensors write them.

#![allow(dead_code)] // each test binary uses another part

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use half::f16;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    pub fn new(shape: &[usize], values: Vec<f32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Tensor { shape: shape.to_vec(), values }
    }

    /// Small values that differ everywhere and that F16 holds exactly.
    pub fn pattern(shape: &[usize], seed: usize) -> Tensor {
        let n = shape.iter().product();
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 251) as f32 / 512.0 - 0.25;
        Tensor::new(shape, (0..n).map(value).collect())
    }
}

pub type State = BTreeMap<String, Tensor>;

/// Number types that the writers below know.
#[derive(Clone, Copy, Debug)]
pub enum Stored {
    F32,
    F16,
    BF16,
    F64,
}

fn bytes(tensor: &Tensor, stored: Stored) -> Vec<u8> {
    let values = tensor.values.iter();
    match stored {
        Stored::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        Stored::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Stored::BF16 => values.flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        Stored::F64 => values.flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
    }
}

pub fn write_safetensors(path: &Path, state: &State, stored: Stored) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let name = match stored {
        Stored::F32 => "F32",
        Stored::F16 => "F16",
        Stored::BF16 => "BF16",
        Stored::F64 => "F64",
    };
    for (key, tensor) in state {
        let start = data.len();
        data.extend(bytes(tensor, stored));
        let entry = serde_json::json!({"dtype": name, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(key.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(path, file).unwrap();
}

/// Writes what `torch.save({"model": state, **extra})` writes; `extra` is pickle code for further items.
pub fn write_torch(path: &Path, state: &State, stored: Stored, extra: &[u8]) {
    let mut file = TorchFile::create(path);
    file.pickle.extend(b"}(");
    file.pickle.extend(extra);
    file.text("model");
    file.state(state, stored);
    file.pickle.extend(b"u");
    file.finish();
}

/// Writes what `torch.save(state)` writes.
pub fn write_torch_state(path: &Path, state: &State, stored: Stored) {
    let mut file = TorchFile::create(path);
    file.state(state, stored);
    file.finish();
}

/// A zip archive in the making, and the pickle that tells what is in it.
struct TorchFile {
    zip: ZipWriter<fs::File>,
    pickle: Vec<u8>,
}

impl TorchFile {
    fn create(path: &Path) -> TorchFile {
        TorchFile { zip: ZipWriter::new(fs::File::create(path).unwrap()), pickle: b"\x80\x02".to_vec() }
    }

    fn text(&mut self, s: &str) {
        self.pickle.push(b'X');
        self.pickle.extend((s.len() as u32).to_le_bytes());
        self.pickle.extend(s.as_bytes());
    }

    fn number(&mut self, n: usize) {
        self.pickle.push(b'J');
        self.pickle.extend((n as u32).to_le_bytes());
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        self.zip.start_file(format!("archive/{name}"), options).unwrap();
        self.zip.write_all(bytes).unwrap();
    }

    fn state(&mut self, state: &State, stored: Stored) {
        let class = match stored {
            Stored::F32 => "FloatStorage",
            Stored::F16 => "HalfStorage",
            Stored::BF16 => "BFloat16Storage",
            Stored::F64 => "DoubleStorage",
        };
        self.pickle.extend(b"ccollections\nOrderedDict\n)R(");
        for (i, (key, tensor)) in state.iter().enumerate() {
            self.text(key);
            self.pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            self.text("storage");
            self.pickle.extend(format!("ctorch\n{class}\n").bytes());
            self.text(&i.to_string());
            self.text("cpu");
            self.number(tensor.values.len());
            self.pickle.extend(b"tQK\0(");
            tensor.shape.iter().for_each(|&d| self.number(d));
            self.pickle.extend(b"t(");
            let mut stride = tensor.values.len();
            for &d in &tensor.shape {
                stride /= d;
                self.number(stride);
            }
            self.pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
            self.entry(&format!("data/{i}"), &bytes(tensor, stored));
        }
        self.pickle.extend(b"u");
    }

    fn finish(mut self) {
        self.pickle.extend(b".");
        let pickle = std::mem::take(&mut self.pickle);
        self.entry("data.pkl", &pickle);
        self.zip.finish().unwrap();
    }
}
