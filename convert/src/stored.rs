//! Tensors as they lie in checkpoint files, or are drawn: where, in which number type, and how to read a range of them as `f32`.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use half::{bf16, f16};

use crate::synth::draw::Drawing;

/// Number types of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// IEEE double precision.
    F64,
    /// Integers and booleans of so many bytes: buffers, never weights.
    Integer(usize),
}

impl Dtype {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::F64 => 8,
            Dtype::Integer(n) => n,
        }
    }

    /// Whether weights may have this type.
    pub fn is_float(self) -> bool {
        !matches!(self, Dtype::Integer(_))
    }

    fn to_f32(self, raw: &[u8], out: &mut Vec<f32>) {
        match self {
            Dtype::F32 => out.extend(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Dtype::F16 => out.extend(raw.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            Dtype::BF16 => out.extend(raw.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())),
            Dtype::F64 => out.extend(raw.chunks_exact(8).map(|b| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(b);
                f64::from_le_bytes(bytes) as f32
            })),
            Dtype::Integer(_) => unreachable!("integer buffers are never read"),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dtype::F32 => f.write_str("F32"),
            Dtype::F16 => f.write_str("F16"),
            Dtype::BF16 => f.write_str("BF16"),
            Dtype::F64 => f.write_str("F64"),
            Dtype::Integer(n) => write!(f, "INT{}", n * 8),
        }
    }
}

/// An open checkpoint file, read by ranges so that memory stays small and a truncated file is an error, not a signal.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl DataFile {
    /// Opens a file for reading.
    pub fn open(path: &Path) -> Result<DataFile> {
        let file = File::open(path).with_context(|| format!("cannot open '{}'", path.display()))?;
        let meta = file.metadata().with_context(|| format!("cannot read '{}'", path.display()))?;
        ensure!(meta.is_file(), "'{}' is not a file", path.display());
        ensure!(meta.len() > 0, "'{}' is empty; download it again", path.display());
        Ok(DataFile { path: path.to_owned(), file, length: meta.len() })
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The open file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads `length` bytes from `offset`.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let ends = offset.checked_add(length as u64);
        ensure!(ends.is_some_and(|e| e <= self.length), "'{}' is truncated; download it again", self.path.display());
        let mut bytes = vec![0; length];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .with_context(|| format!("cannot read '{}'", self.path.display()))?;
        Ok(bytes)
    }
}

/// Where a tensor's numbers are.
#[derive(Clone, Debug)]
enum Origin {
    /// In a checkpoint file.
    File {
        file: Arc<DataFile>,
        /// In elements.
        strides: Vec<usize>,
        /// Where the first element lies in the file.
        offset: u64,
    },
    /// Nowhere: they are drawn when they are read.
    Drawn(Arc<Drawing>),
}

/// One tensor that a model is made from.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    origin: Origin,
    /// Its key in its file, or its name in the model.
    pub key: String,
    /// Number type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
    elements: usize,
}

/// Strides of a tensor without gaps.
pub fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

impl StoredTensor {
    /// A tensor at byte `offset`, inside a region of the file that is `available` bytes long from there on.
    pub fn new(
        file: Arc<DataFile>,
        key: String,
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: u64,
        available: u64,
    ) -> Result<StoredTensor> {
        let place = || format!("{}: '{key}' {shape:?}", file.path().display());
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).with_context(place)?;
        // A stride of zero would let a few bytes stand for any number of elements.
        let spread = shape.iter().zip(&strides).all(|(&d, &s)| d <= 1 || s > 0);
        ensure!(spread, "{} repeats elements; save the file with contiguous tensors", place());
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(0usize, |n, (&d, &s)| n.checked_add(d.saturating_sub(1).checked_mul(s)?))
            .with_context(place)?;
        let span = if elements == 0 { 0 } else { last as u64 + 1 };
        let fits = span.checked_mul(dtype.size() as u64).is_some_and(|bytes| bytes <= available);
        ensure!(fits, "{} needs more bytes than the file holds for it: truncated or corrupt", place());
        Ok(StoredTensor { origin: Origin::File { file, strides, offset }, key, dtype, shape, elements })
    }

    /// A tensor of random numbers.
    pub fn drawn(key: String, shape: Vec<usize>, drawing: Drawing) -> StoredTensor {
        let elements = shape.iter().product();
        StoredTensor { origin: Origin::Drawn(Arc::new(drawing)), key, dtype: Dtype::F32, shape, elements }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// File and key, for messages.
    pub fn place(&self) -> String {
        match &self.origin {
            Origin::File { file, .. } => format!("'{}' in '{}'", self.key, file.path().display()),
            Origin::Drawn(_) => format!("'{}'", self.key),
        }
    }

    /// Appends elements `start .. start + count` in row-major order to `out`.
    pub fn read(&self, start: usize, count: usize, out: &mut Vec<f32>) -> Result<()> {
        assert!(start + count <= self.elements, "a plan reads only inside its tensors");
        match &self.origin {
            Origin::File { file, strides, offset } => self.read_file(file, strides, *offset, start, count, out),
            Origin::Drawn(drawing) => {
                drawing.draw(start, count, out);
                Ok(())
            }
        }
    }

    fn read_file(
        &self,
        file: &DataFile,
        strides: &[usize],
        offset: u64,
        start: usize,
        count: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let size = self.dtype.size();
        if count == 0 {
            return Ok(());
        }
        let gapless = self.shape.iter().zip(strides).zip(contiguous(&self.shape)).all(|((&d, &s), c)| d == 1 || s == c);
        if gapless {
            let raw = file.read(offset + (start * size) as u64, count * size)?;
            self.dtype.to_f32(&raw, out);
            return Ok(());
        }
        let span = self.shape.iter().zip(strides).map(|(&d, &s)| (d - 1) * s).sum::<usize>() + 1;
        let raw = file.read(offset, span * size)?;
        let mut index = vec![0; self.shape.len()];
        let mut rest = start;
        for (i, stride) in contiguous(&self.shape).into_iter().enumerate() {
            index[i] = rest / stride;
            rest %= stride;
        }
        for _ in 0..count {
            let at = index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>() * size;
            self.dtype.to_f32(&raw[at..at + size], out);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(())
    }

    /// The whole tensor.
    pub fn read_all(&self) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(self.elements);
        self.read(0, self.elements, &mut out)?;
        Ok(out)
    }
}

/// What a checkpoint file holds.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file.
    pub file: Arc<DataFile>,
    /// Its tensors in file order.
    pub tensors: Vec<StoredTensor>,
    /// `config.model.lora_alpha`, if the file has a configuration beside its tensors.
    pub lora_alpha: Option<f64>,
    /// `config.model.lora_r`.
    pub lora_r: Option<i64>,
    /// What else the file holds: names of entries that are no tensors.
    pub other: Vec<String>,
}
