//! safetensors files: a JSON directory, then the tensors' bytes.

use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use safetensors::tensor::Metadata;

use crate::stored::{contiguous, Checkpoint, DataFile, Dtype, StoredTensor};

/// The same limit as the format's own library.
const MAX_HEADER: u64 = 100_000_000;

/// Reads the directory of a safetensors file. The tensors' numbers are not looked at.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let file = Arc::new(DataFile::open(path)?);
    read(&file).with_context(|| format!("cannot use '{}'", path.display()))
}

fn read(file: &Arc<DataFile>) -> Result<Checkpoint> {
    ensure!(file.length() >= 8, "it is too short for a safetensors file: truncated, download it again");
    let head = file.read(0, 8)?;
    ensure!(!head.starts_with(b"version "), "it is a Git LFS pointer; fetch the real file with git lfs pull");
    let header = head.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
    ensure!(header <= MAX_HEADER, "it does not start as a safetensors file does");
    let json = file.read(8, header as usize)?;
    let metadata: Metadata = serde_json::from_slice(&json).context("its safetensors header is corrupt")?;
    let start = 8 + header;
    let data = metadata.data_len() as u64;
    ensure!(
        start.checked_add(data) == Some(file.length()),
        "it is {} bytes long, but its header says {}: truncated or corrupt, download it again",
        file.length(),
        start.saturating_add(data)
    );
    let mut tensors = Vec::new();
    for key in metadata.offset_keys() {
        let Some(info) = metadata.info(&key) else { bail!("its header lacks '{key}': corrupt") };
        use safetensors::Dtype as Stored;
        let dtype = match info.dtype {
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::BF16,
            Stored::F64 => Dtype::F64,
            Stored::BOOL | Stored::U8 | Stored::I8 => Dtype::Integer(1),
            Stored::I16 | Stored::U16 => Dtype::Integer(2),
            Stored::I32 | Stored::U32 => Dtype::Integer(4),
            Stored::I64 | Stored::U64 => Dtype::Integer(8),
            other => {
                bail!("'{key}' has the number type {other:?}, which is not read; use an F32, F16 or BF16 checkpoint")
            }
        };
        let (from, to) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let strides = contiguous(&info.shape);
        tensors.push(StoredTensor::new(
            file.clone(),
            key,
            dtype,
            info.shape.clone(),
            strides,
            start + from,
            to - from,
        )?);
    }
    ensure!(!tensors.is_empty(), "it holds no tensors");
    Ok(Checkpoint { file: file.clone(), tensors, lora_alpha: None, lora_r: None, other: Vec::new() })
}
